"""Opens a report in Chromium as a reader would, and takes pictures of it for the docs.

    PYTHONPATH=scripts python bench/screenshots.py      # after make demo; writes docs/images

It ends with an error where the console says anything, a network is asked, a picture does not load, a table
does not sort or the gallery does not filter.
"""

import shutil
from pathlib import Path
from typing import Annotated

import typer
from playwright.sync_api import Page, sync_playwright

import console
from distracted.errors import DataError


def main(
    report: Annotated[Path, typer.Option(help="As make report wrote it.")] = Path("runs/sample/report.html"),
    folder: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("docs/images"),
) -> None:
    """Read the page, and take its top and the first of the worst mistakes with Grad-CAM."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or not report.is_file():
        raise DataError(f"{report}, and Chromium: both are needed; `make demo` writes the one")
    folder.mkdir(parents=True, exist_ok=True)
    trouble: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 1500}, color_scheme="light")
        page.on("console", lambda message: trouble.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
        page.on("request", lambda request: _note_request(request.url, report, trouble))
        page.goto(report.absolute().as_uri())
        page.screenshot(path=folder / "sample_report.png")
        trouble += _read(page)
        page.set_viewport_size({"width": 1180, "height": 640})
        if page.locator("input[name=show]").count():
            page.check("input[name=show][value=predicted]")
        page.evaluate("document.getElementById('gallery').scrollIntoView()")
        page.screenshot(path=folder / "sample_mistakes.png")
        browser.close()
    if trouble:
        raise DataError(f"{report}: {'; '.join(trouble)}")
    for name in ("sample_report.png", "sample_mistakes.png"):
        console.say(f"{folder / name}: {(folder / name).stat().st_size / 1e3:.0f} kB")


def _note_request(url: str, report: Path, trouble: list[str]) -> None:
    if not url.startswith("data:") and url != report.absolute().as_uri():
        trouble.append(f"asks for {url}")


def _read(page: Page) -> list[str]:
    """Sort the leaderboard, filter the gallery, look whether all pictures are there."""
    trouble = []
    broken = page.evaluate("[...document.images].filter(i => !i.naturalWidth).length")
    if broken:
        trouble.append(f"{broken} pictures do not load")
    head = page.locator("#board-table th").nth(1)
    values = "[...document.querySelectorAll('#board-table tbody tr')].map(r => +r.cells[1].dataset.v)"
    for down in (False, True):
        head.get_by_role("button").click()
        losses = page.evaluate(values)
        if losses != sorted(losses, reverse=down):
            trouble.append("the leaderboard does not sort")
    cards = page.locator(".mistake")
    if cards.count():
        label = str(cards.first.get_attribute("data-label"))
        page.select_option("select[data-filter=label]", label)
        shown = {card.get_attribute("data-label") for card in page.locator(".mistake:visible").all()}
        if shown != {label}:
            trouble.append("the gallery does not filter")
        page.select_option("select[data-filter=label]", "")
    return trouble


if __name__ == "__main__":
    console.run(main)
