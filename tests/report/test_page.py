"""The report's page: its sections, when it is rewritten, and that names are escaped."""

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from conftest import write_competition
from distracted.config import load_config, load_data_config
from distracted.ensemble.blend import blend_runs
from distracted.errors import StoreError
from distracted.jobs.fold import train_and_store
from distracted.paths import Workspace
from distracted.predictions.store import Store, open_store
from distracted.report.inputs import stale_pages
from distracted.report.ladder import write_ladder
from distracted.report.write import write_report
from distracted.schema import RunConfig
from distracted.submission.submit import write_submission
from distracted.training.resolve import resolve

WriteRun = Callable[..., None]
POLICIES = {"none": (), "light": ({"RandomBrightnessContrast": {"p": 1.0}},)}


class Parsed(HTMLParser):
    """A page's text by section, and its tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.section = {"": ""}, ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "h2":
            self.section = str(dict(attrs)["id"])
            self.text[self.section] = ""

    def handle_data(self, data: str) -> None:
        self.text[self.section] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def write(store: Store, **settings: object) -> Parsed:
    path = write_report(store, **{"policies": POLICIES, "runtime": None, **settings})
    return Parsed(path.read_text(encoding="utf-8"))


def test_without_runs_the_page_shows_the_data(store: Store) -> None:
    page = write(store)
    assert list(page.text) == ["", "board", "data", "audit"]
    assert "No complete run yet" in page.text["board"] and "make cv" in page.text["board"]
    assert "p003" in page.text["data"]
    assert store.workspace.report("tiny").is_file()


def test_a_page_is_not_rewritten_while_its_inputs_are_unchanged(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    path, known = store.workspace.report("tiny"), []

    def is_made(**settings: object) -> bool:
        write(store, **settings)
        known.append(path.stat().st_mtime_ns)
        return known[-1] not in known[:-1]

    assert stale_pages(store) == []
    assert is_made() and not is_made()
    assert is_made(force=True)
    assert is_made(policies={"none": ()}) and not is_made(policies={"none": ()})
    assert stale_pages(store) == []  # the policies do not matter
    write_run("b", seed=1)
    assert stale_pages(store) == ["make report: what it shows has changed since"]
    assert is_made() and stale_pages(store) == []


def test_a_full_page_has_every_section(store: Store, write_run: WriteRun) -> None:
    write_run("a", seed=0)
    write_run("b", seed=1, skill=3.0)
    write_run("half", folds=(2,))
    ensemble = blend_runs(store, runs=["a", "b"])
    write_submission(store, name="ensemble")
    write_ladder(store, "a", [("base", "a"), ("another", "b")])
    write_ladder(store, "gone", [("base", "gone")])
    page = write(store)
    sections = ["board", "weights", "errors", "gallery", "data", "audit", "ladder", "submissions"]
    assert list(page.text) == ["", *sections]
    assert page.text["errors"].startswith("Errors of ensemble")
    assert "lost without it" in page.text["weights"]
    for contribution in ensemble.contributions.values():
        assert f"{contribution.loss:+.4f}" in page.text["weights"]
    assert all(name in page.text["board"] for name in ("a", "b", "ensemble", "half", "What to do next"))
    assert "there is no run 'gone'" in page.text["ladder"] and "another" in page.text["ladder"]
    assert "SHA-256" in page.text["submissions"]
    cells = [tag for tag in page.all("td") if "right" in str(tag.get("class"))]
    run = store.read_run("ensemble")
    right = run.oof.argmax(1) == store.folds.labels
    assert len(cells) == len(np.unique(store.folds.labels[right]))


def test_another_run_can_be_shown(store: Store, write_run: WriteRun) -> None:
    write_run("a", seed=0)
    write_run("b", seed=1, skill=3.0)
    assert write(store).text["errors"].startswith("Errors of b")
    assert write(store, run="a").text["errors"].startswith("Errors of a")
    with pytest.raises(StoreError, match="there is no run 'c'"):
        write(store, run="c")


def test_the_page_loads_nothing_and_runs_its_own_script_only(store: Store, write_run: WriteRun) -> None:
    write_run("a")
    page = write(store)
    sources = [a.get("src") or a.get("href") for _, a in page.tags if a.get("src") or a.get("href")]
    assert sources and all(str(source).startswith(("data:image/jpeg;base64,", "#")) for source in sources)
    assert len(page.all("script")) == 1 and not page.all("link")
    [policy] = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in str(policy) and "script-src 'sha256-" in str(policy)


def test_html_in_a_name_is_escaped(tmp_path: Path) -> None:
    folder = write_competition(tmp_path / "tiny")
    classname, subject, img = '<img src=x onerror="alert(1)">', "<script>alert(2)", "<b>'\"&.jpg"
    (folder / "imgs/train/c1").rename(folder / "imgs/train" / classname)
    path = folder / "driver_imgs_list.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    victim = next(row for row in rows if row[1] == "c1")
    (folder / "imgs/train" / classname / victim[2]).rename(folder / "imgs/train" / classname / img)
    victim[2] = img
    quote = lambda cell: '"' + cell.replace('"', '""') + '"'  # noqa: E731
    swap = {"c1": classname, "p002": subject}
    path.write_text("\n".join(",".join(quote(swap.get(cell, cell)) for cell in row) for row in rows))
    sample = folder / "sample_submission.csv"
    sample.write_text(sample.read_text().replace("c1", quote(classname), 1))
    store = open_store(Workspace(tmp_path / "work"), load_data_config(str(folder)), num_folds=3)
    uniform = np.log(np.full(3, 1 / 3))
    for fold in range(3):
        shapes = len(store.folds.valid(fold)), len(store.competition.test)
        valid, test = (np.tile(uniform, (num, 1)) for num in shapes)
        details = {"scores": {"valid/log_loss": 1.1}, "weights": {"origin": "<i>here</i>"}}
        store.write_fold("a", fold, kind="model", config={}, valid=valid, test=test, **details)
    page = write(store)
    assert len(page.all("script")) == 1 and not page.all("i")
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert classname in page.text["errors"] and subject in page.text["data"] and img in page.text["gallery"]
    filters = [tag for tag in page.all("div") if tag.get("data-label")]
    assert classname in {tag["data-label"] for tag in filters}


@pytest.mark.slow
def test_a_blends_mistakes_have_grad_cam_of_its_networks(
    store: Store, configure: Callable[..., RunConfig], write_run: WriteRun
) -> None:
    config = configure("phases.scratch.epochs=2")
    for fold in range(3):
        train_and_store(store, resolve(config, num_folds=3), run="trained", fold=fold)
    write_run("made_up", skill=0.0)
    blend_runs(store)
    page = write(store, runtime=config.runtime)
    heats = [tag for tag in page.all("img") if str(tag.get("class")).startswith("heat-")]
    plain = [tag for tag in page.all("img") if tag.get("class") == "plain"]
    assert len(heats) == 2 * len(plain) > 0
    assert "the network of trained" in page.text["gallery"]
    assert "curves" in page.text and "trained" in page.text["curves"]
    store.workspace.network("tiny", "trained", 0).write_bytes(b"damaged")
    fewer = write(store, runtime=config.runtime)
    assert 0 < len([t for t in fewer.all("img") if str(t.get("class")).startswith("heat-")]) < len(heats)


def test_the_projects_augmentation_policies_are_shown(store: Store) -> None:
    config = load_config(model="resnet50", data=str(store.competition.config.folder))
    page = write(store, policies=config.augment.policies)
    assert "heavy" in page.text["data"]
