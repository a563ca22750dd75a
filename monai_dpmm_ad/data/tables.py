# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Read a table that a user wrote, in a spreadsheet or by hand."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from monai_dpmm_ad.errors import ScanError

__all__ = ["read_table"]

_DELIMITERS = ",;\t"


def read_table(
    path: str | os.PathLike[str], what: str, columns: Sequence[str], keys: Sequence[str] = ()
) -> tuple[list[dict[str, str | None]], list[str]]:
    """Read a table with a header.

    Cells are divided by tabs in a ``.tsv``, elsewhere by what divides the header: commas, semicolons (spreadsheets in
    many countries) or tabs.

    Args:
        path: of the table.
        what: of what it is one, in words.
        columns: that mean something, in another case where they are not there as they are, and must not be there twice.
        keys: those of them of which one is enough.

    Returns:
        Its lines, column → cell, None where a line is too short, and the columns that it has.

    Raises:
        ScanError: naming the table, when it is none, has a column twice, or a line with more cells than columns.

    Example:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp()) / "visits.csv"
        >>> _ = table.write_text("before;after\\na.nii;b.nii\\n")
        >>> read_table(table, "visits", ("before", "after"))
        ([{'before': 'a.nii', 'after': 'b.nii'}], ['before', 'after'])
    """
    table = Path(path)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            delimiter = "\t" if table.suffix.lower() == ".tsv" else max(_DELIMITERS, key=file.readline().count)
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter)
            there = reader.fieldnames or []
            exact = {name for name in columns if name in there or (name in keys and set(keys) & set(there))}
            meant = {name.lower(): name for name in columns if name not in exact}
            reader.fieldnames = has = [meant.get(name.strip().lower(), name) for name in there]
            lines = list(reader)
    except UnicodeDecodeError as error:
        raise ScanError(table, "is no text in UTF-8; save it as CSV in UTF-8") from error
    except OSError as error:
        raise ScanError(table, f"cannot be read as a table of {what} ({error.strerror or error})") from error
    except csv.Error as error:
        raise ScanError(table, f"cannot be read as a table of {what} ({error})") from error
    if twice := [name for name in columns if has.count(name) > 1]:
        raise ScanError(table, f"has the column {twice[0]} twice")
    for number, line in enumerate(lines, 2):
        if None in line:
            raise ScanError(table, f"has more cells than columns in line {number}")
    return lines, has
