"""Receipts of files sent to Kaggle, in submissions/<data>/sent/<sha256>.json.

A receipt is written before each step that must not be repeated blindly, so that a killed command can go on.
"""

import logging
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from distracted.files import write_json

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Receipt:
    """How far a file has come.

    Attributes:
        file: Name of the file that was sent.
        begun: When sending began, UTC, ISO 8601; with the hash it names this attempt.
        token: Kaggle's name of the uploaded content; "" before the upload and once `ref` is known.
        requested: When Kaggle was last asked to take the submission, if its answer is unknown; else "".
        ref: Kaggle's number of the submission; 0 if unknown.
    """

    competition: str
    sha256: str
    file: str
    begun: str
    token: str = ""
    requested: str = ""
    ref: int = 0

    @property
    def mark(self) -> str:
        """The end of the submission's description on Kaggle, by which its list can be searched."""
        return f"{self.mark_of_content}{self.begun}]"

    @property
    def mark_of_content(self) -> str:
        """The beginning of the marks of all attempts to send this content."""
        return f"[{self.sha256[:12]}, sent "


_RECEIPT = TypeAdapter(Receipt)


class ReceiptFile:
    """The receipt of a file's content for one competition, on disk.

    Attributes:
        is_lost: The receipt on disk is damaged or another competition's, so only Kaggle knows whether the
            content was sent.

    Args:
        new: Begin a new receipt although there is one.
    """

    def __init__(self, csv: Path, sha256: str, competition: str, *, new: bool = False) -> None:
        self.path = csv.parent / "sent" / f"{sha256}.json"
        self.receipt, self.is_lost = Receipt(competition, sha256, csv.name, now()), False
        if not new:
            self._read()

    def note(self, **changes: Any) -> None:
        """Change the receipt, on disk first."""
        receipt = replace(self.receipt, **changes)
        write_json(self.path, asdict(receipt))
        self.receipt = receipt

    def _read(self) -> None:
        try:
            receipt = _RECEIPT.validate_json(self.path.read_bytes(), strict=True)
        except FileNotFoundError:
            return
        except ValueError:
            _log.warning("%s is damaged", self.path)
            self.is_lost = True
            return
        new = self.receipt
        self.is_lost = (receipt.competition, receipt.sha256) != (new.competition, new.sha256)
        self.receipt = new if self.is_lost else receipt


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
