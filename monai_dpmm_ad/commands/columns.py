# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the command line's tables show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai_dpmm_ad.handlers import ScanRow

__all__ = ["COLUMNS", "metrics_table", "pairs_table"]


def _describe_frame(row: ScanRow) -> str:
    return " ".join([row.frame or "", "" if row.frame_quality is None else f"{row.frame_quality:.2f}"]).strip()


def _write_p_value(value: float | None, in_range: bool | None) -> str:
    """With a question mark where it is not promised, since the scan lies outside of what was fitted."""
    return "" if value is None else f"{value:.3f}{' ?' if in_range is False else ''}"


#: A column whose cells are all empty is left out.
COLUMNS: tuple[tuple[str, Callable[[ScanRow], str]], ...] = (
    ("scan", lambda row: row.name),
    ("score", lambda row: f"{row.score:.4g}"),
    ("p-value", lambda row: _write_p_value(row.p_value, row.in_range)),
    ("flagged", lambda row: "" if row.flagged is None else f"{row.flagged:.1f} {row.flagged_unit}"),
    ("regions", lambda row: "" if row.num_regions is None else str(row.num_regions)),
    ("smallest region p", lambda row: _write_p_value(row.region_p_value, row.in_range)),
    ("frame", _describe_frame),
)


def pairs_table(pairs: Sequence[Mapping[str, Any]]) -> Any:
    """The rows of ``pairs.csv`` in short."""
    from rich.table import Column, Table
    from rich.text import Text

    from monai_dpmm_ad.handlers.changes import KINDS

    table = Table(Column("pair", overflow="fold"), *KINDS, "smallest region p")
    for pair in pairs:
        least = _write_p_value(pair["region_p_value"], pair["in_range"])
        table.add_row(Text(pair["name"]), *(str(pair[kind]) for kind in KINDS), least)
    return table


def metrics_table(metrics: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("metric", "value", "95 % interval")
    for name, value in metrics.items():
        if isinstance(value, float):
            low_high = metrics.get(f"{name}_ci")
            table.add_row(name, f"{value:.3f}", f"{low_high[0]:.3f}–{low_high[1]:.3f}" if low_high else "")
    return table
