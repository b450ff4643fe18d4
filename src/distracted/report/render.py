"""The report as HTML: a template with its style sheet, its script and its filters."""

import base64
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from distracted.predictions.store import Store
from distracted.report.sheets import as_uri

_TEMPLATES = Path(__file__).parent / "templates"


def render(page: object, store: Store, *, made_from: str) -> str:
    """The page as HTML: all text is escaped, style and script are included, nothing is loaded."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "largest": _largest,
        "digits": _digits,
        "svg": Markup,
        "share": "{:.1%}".format,
        "short": _short,
        "minute": _minute,
        "uri": partial(as_uri, quality=80),
    }
    style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        page=page,
        made_from=made_from,
        competition=store.competition,
        folds=store.folds,
        style=Markup(style),
        script=Markup(script),
        script_digest=digest,
    )


def _largest(values: Iterable[float]) -> float:
    """The largest finite value; 1 if there is none, or it is 0."""
    return max((value for value in values if np.isfinite(value)), default=1.0) or 1.0


def _digits(value: float | None) -> str:
    """A loss with four decimals, or a dash."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.4f}"


def _minute(moment: str) -> str:
    """An ISO 8601 time to the minute, in UTC; other text is left as it is."""
    try:
        return datetime.fromisoformat(moment).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    except ValueError:
        return moment


def _short(text: str) -> str:
    """A number in three digits; other text is left as it is."""
    try:
        return f"{float(text):.3g}"
    except ValueError:
        return text
