"""The report in a browser: no errors, no requests, tables sort, the gallery filters, images load."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from distracted.audit.findings import Check, image_findings, pair_findings, write_audit
from distracted.ensemble.blend import blend_runs
from distracted.jobs.fold import train_folds
from distracted.predictions.store import Store
from distracted.report.write import write_report
from distracted.schema import RunConfig
from distracted.submission.submit import write_submission
from distracted.training.resolve import resolve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    from playwright.sync_api import sync_playwright  # slow to import

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def report(store: Store, configure: Callable[..., RunConfig], write_run: Callable[..., None]) -> Path:
    """A report with every section."""
    config = configure("phases.scratch.epochs=2")
    train_folds(store, resolve(config, num_folds=3), run="net", folds=range(3))
    write_run("other", skill=1.0)
    blend_runs(store)
    write_submission(store)
    findings = image_findings(store.competition, [3], value=[0.5], note=["black"])
    checks = [Check("empty", "Images that show nothing", "about", "error", findings)]
    pair = pair_findings(store.competition, [(2, 5)], value=[0.99], note=["mirrored"])
    checks.append(Check("turned_copies", "Mirrored or rotated copies", "about", "warning", pair))
    write_audit(store, checks, "", "")
    policies = {"none": (), "light": ({"RandomBrightnessContrast": {"p": 1.0}},)}
    return write_report(store, policies=policies, runtime=config.runtime)


@pytest.fixture
def opened(browser: "Browser", report: Path) -> Iterator["Page"]:
    """The report in a tab; fails on any console message and any request."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(report.as_uri())
    yield page
    page.close()
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()]


def test_images_load_and_nothing_is_wider_than_the_window(opened: "Page") -> None:
    broken = "[...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).length"
    assert opened.evaluate(broken) == 0 and opened.evaluate("document.images.length") > 10
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    opened.set_viewport_size({"width": 420, "height": 900})
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_images_of_a_finding_lie_within_its_box(opened: "Page") -> None:
    rights = (
        "[...document.querySelectorAll('.finding')].map(box => [box, ...box.querySelectorAll('img')]"
        ".map(part => part.getBoundingClientRect().right))"
    )
    boxes = opened.evaluate(rights)
    assert [len(parts) - 1 for parts in boxes] == [1, 2]
    assert all(box >= max(images) for box, *images in boxes)


def test_tables_sort_by_number_and_by_name_in_both_orders(opened: "Page") -> None:
    def column(number: int) -> list[str]:
        return opened.locator(f"#by-subject tbody tr td:nth-child({number})").all_inner_texts()

    losses = opened.get_by_role("button", name="log loss").last
    head = opened.locator("#by-subject th").nth(3)
    head.get_by_role("button").click()
    assert [float(text) for text in column(4)] == sorted(float(text) for text in column(4))
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").click()
    assert [float(text) for text in column(4)] == sorted((float(t) for t in column(4)), reverse=True)
    opened.locator("#by-subject th").nth(0).get_by_role("button").click()
    assert column(1) == [f"p{number:03}" for number in range(6)]
    assert head.get_attribute("aria-sort") is None and losses.count() == 1


def test_the_gallery_filters_by_class_and_subject(opened: "Page") -> None:
    cards = opened.locator(".mistake")
    total = cards.count()
    visible = opened.locator(".mistake:visible")
    assert visible.count() == total > 0
    label = str(cards.first.get_attribute("data-label"))
    opened.select_option("select[data-filter=label]", label)
    shown = [card.get_attribute("data-label") for card in visible.all()]
    assert shown and set(shown) == {label}
    subject = str(visible.first.get_attribute("data-subject"))
    opened.select_option("select[data-filter=subject]", subject)
    assert {card.get_attribute("data-subject") for card in visible.all()} == {subject}
    assert opened.locator("#shown").inner_text() == f"{visible.count()} of {total} shown"
    opened.select_option("select[data-filter=label]", "")
    opened.select_option("select[data-filter=subject]", "")
    assert visible.count() == total


def test_grad_cam_can_be_shown_over_the_images(opened: "Page") -> None:
    assert opened.locator(".mistake .plain:visible").count() > 0
    opened.check("input[name=show][value=true]")
    assert opened.locator(".heat-true:visible").count() == opened.locator(".has-heat").count() > 0
    assert opened.locator(".has-heat .plain:visible").count() == 0
    opened.check("input[name=show][value='']")
    assert opened.locator(".heat-true:visible").count() == 0


def test_light_dark_and_print_styles(opened: "Page") -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    light = opened.evaluate(colour)
    opened.get_by_role("button", name="light / dark").click()
    assert opened.evaluate(colour) != light
    opened.emulate_media(media="print")
    assert opened.evaluate(colour) == "rgb(255, 255, 255)"
    assert not opened.locator("nav").is_visible()
