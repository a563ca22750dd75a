# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A data set of scans in which a bad file becomes a message instead of an exception."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.data import Dataset, list_data_collate
from monai.utils import CommonKeys

from monai_dpmm_ad.errors import find_scan_error
from monai_dpmm_ad.utils.files import remove_file, write_csv

__all__ = [
    "FAILURE",
    "ScanDataset",
    "ScanFailure",
    "collate_scans",
    "describe_failure",
    "read_failures",
    "write_failures",
]

FAILURE = "failure"


@dataclass(frozen=True)
class ScanFailure:
    """Why one scan was not processed: its name, its path and one line of reason."""

    name: str
    path: str
    reason: str


def describe_failure(item: Mapping[Hashable, Any], error: BaseException) -> ScanFailure:
    """Say in one line why a scan failed.

    Args:
        item: holds the scan's ``name`` and ``image``.
        error: what was caught; the scan's own error is found below what transforms wrapped around it.
    """
    cause = find_scan_error(error)
    if cause is not None:
        return ScanFailure(str(item["name"]), cause.path, cause.reason)
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for link in chain:
        if isinstance(link, OSError) and link.filename is not None:
            return ScanFailure(str(item["name"]), os.fsdecode(link.filename), str(link.strerror))
    root = chain[-1]
    lines = str(root).strip().splitlines() or [type(root).__name__]
    return ScanFailure(str(item["name"]), str(item["image"]), lines[0])


class ScanDataset(Dataset):
    """MONAI's data set, but a scan that cannot be read comes as ``{"failure": ScanFailure}``.

    Args:
        data: items as :func:`~monai_dpmm_ad.data.resolve_datalist` makes them.
        transform: applied to each item.

    Attributes:
        failures: what could not be read so far, in this process.

    Example:
        >>> def fail(item):
        ...     raise ValueError("is no scan")
        >>> ScanDataset([{"name": "a", "image": "a.nii.gz"}], fail)[0]
        {'failure': ScanFailure(name='a', path='a.nii.gz', reason='is no scan')}
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Callable[[dict[str, Any]], Any]) -> None:
        super().__init__(data=data, transform=transform)
        self.failures: list[ScanFailure] = []

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        item = self.data[index]
        try:
            return super().__getitem__(index)
        except (ValueError, RuntimeError, OSError, MemoryError, TypeError, KeyError, IndexError) as error:
            failure = describe_failure(item, error)
            self.failures.append(failure)
            return {FAILURE: failure}


def collate_scans(batch: Sequence[Any]) -> Any:
    """Collate one scan, or hand on its failure.

    Collating copies the volume, for which the memory may not be there; MONAI's loader would lose what its thread raises
    and end as if there were no more scans.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> collate_scans([{"image": MetaTensor(torch.rand(1, 4, 5, 6))}])["image"].shape
        torch.Size([1, 1, 4, 5, 6])
    """
    if len(batch) != 1:
        raise ValueError(f"`batch_size` must be 1, since scans differ in shape, got {len(batch)}.")
    (scan,) = batch
    if FAILURE in scan:
        return scan
    try:
        return list_data_collate([scan])
    except (ValueError, RuntimeError, MemoryError, TypeError) as error:
        meta = scan[CommonKeys.IMAGE].meta
        return {FAILURE: describe_failure({"name": meta["name"], "image": meta["filename_or_obj"]}, error)}


def write_failures(folder: str | os.PathLike[str], failures: Sequence[ScanFailure]) -> None:
    """Write ``failures.csv``, or remove that of an earlier run when nothing failed."""
    path = Path(folder) / "failures.csv"
    if failures:
        write_csv(path, ("name", "path", "reason"), [(f.name, f.path, f.reason) for f in failures])
    else:
        remove_file(path)


def read_failures(folder: str | os.PathLike[str]) -> list[ScanFailure]:
    """Read ``failures.csv``; none where there is no such file.

    Raises:
        ValueError: when it is no table of failures.
    """
    path = Path(folder) / "failures.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        try:
            return [ScanFailure(**row) for row in csv.DictReader(file)]
        except TypeError as error:
            raise ValueError(f"{path}: is no table of failures. Delete it.") from error
