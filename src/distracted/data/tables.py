"""Read the competition's CSV files as text."""

from pathlib import Path

import pandas as pd
from pandas.errors import EmptyDataError, ParserError

from distracted.errors import DataError

_LONGEST_HEADER = 1_000_000  # bytes


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file with a header; every cell is text, empty cells are "".

    Commas separate the cells, or tabs or semicolons, whatever the header has most of.

    Raises:
        DataError: the file is missing or unreadable, or its rows have more fields than its header.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=_separator(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; is this a competition's folder?") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a readable CSV file: {error}; save it in UTF-8") from error
    except (EmptyDataError, ParserError, OSError) as error:
        raise DataError(f"{path}: not a readable CSV file: {str(error).strip()}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas then uses the first column as index
        raise DataError(f"{path}: its rows have more fields than its header; is there a comma too many?")
    return table


def _separator(path: Path) -> str:
    """What separates the names in the header."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):  # compressed
        return ","
    with path.open("rb") as file:
        header = file.readline(_LONGEST_HEADER)
    return max(",\t;", key=lambda mark: header.count(mark.encode()))
