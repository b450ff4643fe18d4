"""What all sections of the config share."""

import re
import unicodedata
from hashlib import sha256
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from distracted.errors import ConfigError

#: Names of runs and data sets: each is a folder.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")

Probability = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
    )


def added_later(default: Any, **settings: Any) -> Any:
    """A key that older configs lack; at its default it is left out of the dump, and so of the hash."""
    return Field(default=default, exclude_if=lambda value: value == default, **settings)


def check_name(name: str, what: str) -> str:
    """Return a name that is safe as a folder's name, or raise ConfigError."""
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{what} {name!r}: expected letters, digits and . _ + - only, not starting with a dot or a dash"
        )
    return name


def safe_name(text: str) -> str:
    """A name made from any text: accents are removed, other characters become "_".

    A name that is allowed stays as it is. A text without an allowed letter is named after its hash.
    """
    if NAME.fullmatch(text):
        return text
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", plain).strip("_").lstrip(".+-")
    if NAME.fullmatch(name):
        return name
    return f"data_{sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
