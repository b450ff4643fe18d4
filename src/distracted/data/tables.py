"""Reading the competition's CSV files: every cell as it is written."""

from pathlib import Path

import pandas as pd
from pandas.errors import EmptyDataError, ParserError

from distracted.errors import DataError


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file with a header; every cell is text, an empty one is "".

    Raises:
        DataError: missing or unreadable, or its rows have more fields than its header.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; is this a competition's folder?") from None
    except (EmptyDataError, ParserError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: not a readable CSV file: {str(error).strip()}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas then takes the first column for an index
        raise DataError(f"{path}: its rows have more fields than its header; a comma too many in a row?")
    return table
