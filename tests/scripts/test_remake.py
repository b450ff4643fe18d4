"""A submission is remade from its description by one command, and the descriptions name what there is."""

from pathlib import Path

import pytest
import yaml

import remake
from conftest import TINY, write_competition
from distracted.config import load_config
from distracted.errors import ConfigError


@pytest.mark.parametrize("path", sorted(remake._DESCRIPTIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_description_names_models_and_settings_that_there_are(path: Path) -> None:
    for settings in yaml.safe_load(path.read_text()).values():
        assert set(settings) <= remake._KEYS
        load_config(model=settings["model"], data="sample", overrides=settings.get("set", "").split())


@pytest.mark.slow
def test_a_submission_is_remade_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remake, "_DESCRIPTIONS", tmp_path)
    member = {"model": "resnet50", "set": " ".join(TINY)}
    description = {"one": member, "two": {**member, "views": "scales", "calibrated": True}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(description))
    data, root = str(write_competition(tmp_path / "tiny")), tmp_path / "work"
    remake.main(name="tiny", data=data, root=root)
    written = (root / "submissions/tiny/blend.csv").read_bytes()
    assert {path.name for path in (root / "oof/tiny").iterdir() if path.is_dir()} == {
        *("one", "two", "two_tta", "two_tta_calibrated", "blend")
    }
    capsys.readouterr()
    remake.main(name="tiny", data=data, root=root)
    output = capsys.readouterr().out
    assert "finetune" not in output and "minutes for all of its runs" in output
    assert (root / "submissions/tiny/blend.csv").read_bytes() == written


def test_an_unknown_description_or_key_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remake, "_DESCRIPTIONS", tmp_path)
    (tmp_path / "tiny.yaml").write_text("one: {model: resnet50, calibrate: true}")
    with pytest.raises(ConfigError, match="one has calibrate; known are model, set, views, calibrated"):
        remake.main(name="tiny", data="sample", root=tmp_path)
    with pytest.raises(ConfigError, match=r"other\.yaml: no such file; there are tiny"):
        remake.main(name="other", data="sample", root=tmp_path)
