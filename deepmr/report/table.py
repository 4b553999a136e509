"""What a table of the report is made of: cells of text, rows, and headings between rows."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Cell:
    """A value with a second line, marked or not.

    Attributes
    ----------
    text : str
        The value.
    band : str
        Small, below it: an interval or a null band; may be empty.
    marked : bool
        Printed bold and with an asterisk, which the text beside the table explains.
    """

    text: str
    band: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Heading:
    """A row across the whole table, above the rows that belong to it."""

    title: str
    note: str = ""


Row = tuple[str | Cell, ...] | Heading


@dataclass(frozen=True)
class Table:
    """A table of text; the first `n_text` columns are words, the others numbers.

    With `prose` the last column is words too, long enough to need several lines.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    n_text: int = 1
    prose: bool = False


def as_float(value: object) -> float:
    """Return a number of a data frame as a float; NaN for anything that is none."""
    return float(value) if isinstance(value, (int, float, np.number)) else np.nan


def as_count(value: object) -> int:
    """Return a number of a data frame as an integer; 0 for anything that is none."""
    number = as_float(value)
    return int(number) if np.isfinite(number) else 0


def records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Return the rows of a data frame as dictionaries."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def name_of(row: Mapping[str, object], several: bool) -> str:
    """Return the target of a row, with its model where the report has several models."""
    return f"{row['target']} ({row['model']})" if several else str(row["target"])
