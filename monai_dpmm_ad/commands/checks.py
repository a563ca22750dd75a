# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What is checked before a long run: the device, the folder that is written to, paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from monai_dpmm_ad.bundle import INFERENCE
from monai_dpmm_ad.bundle.folder import check_unfinished
from monai_dpmm_ad.bundle.provenance import count_seen
from monai_dpmm_ad.utils.distributed import get_rank, is_first, wait_for_all
from monai_dpmm_ad.utils.files import PARTIAL, PathLike
from monai_dpmm_ad.utils.leftovers import remove_leftovers
from monai_dpmm_ad.utils.outputs import OutputFolder, lock_output

__all__ = [
    "PathLike",
    "absolute_paths",
    "check_device",
    "check_run",
    "check_truth",
    "check_writable",
    "hold_bundle",
    "hold_output",
    "make_absolute",
]


def absolute_paths(paths: PathLike | Sequence[PathLike]) -> list[str]:
    """Make one path or several absolute, so that no name can be read as an expression of the config.

    Raises:
        ValueError: one is empty, as of a variable that is not set: it would be the current folder.
    """
    several = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    if "" in several:
        raise ValueError("`images` must name files or folders, got an empty path. Write . for the current folder.")
    return [str(Path(path).absolute()) for path in several]


def make_absolute(overrides: dict[str, Any], *names: str) -> None:
    for name in names:
        if overrides.get(name) is not None:
            overrides[name] = str(Path(overrides[name]).absolute())


def check_device(overrides: Mapping[str, Any]) -> None:
    """Check that this machine has the device that the overrides name.

    Raises:
        ValueError: when it has not.
    """
    try:
        torch.empty(0, device=overrides.get("device", "cpu"))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"`device` must be one that this machine has, got '{overrides['device']}'. Try cpu."
        ) from error


def check_run(overrides: Mapping[str, Any]) -> None:
    """Check the device, and that a mask is asked for in one way.

    Raises:
        ValueError: this machine has no such device, or a number of regions beside a rate of voxels.
    """
    check_device(overrides)
    if overrides.get("false_positive_rate") is not None and overrides.get("false_regions") is not None:
        raise ValueError("`false_regions` must be left out with `rate`, which flags voxels in their place, got both.")


def check_truth(items: Sequence[dict[str, Any]], bundle: PathLike) -> str | None:
    """Refuse to evaluate where there is nothing to compare with.

    Args:
        items: the scans.
        bundle: that is evaluated.

    Returns:
        How many of them have no part in which figures, and how many the bundle has seen; None where all is well.

    Raises:
        ValueError: none has a mask or a class.

    Example:
        >>> scans = [{"image": "a", "label": "b"}, {"image": "c", "abnormal": 0}, {"image": "d", "abnormal": 1}]
        >>> check_truth(scans, "no/such/bundle")
        '1 of 3 scans has no mask of what is abnormal: figures of pixels and lesions are of the others'
    """
    unmarked = [item for item in items if item.get("label") is None and item.get("abnormal") != 0]
    unknown = [item for item in unmarked if item.get("abnormal") is None]
    if len(unknown) == len(items):
        raise ValueError(
            f"`data` must hold masks or classes to compare with, got {len(items)} scans without either. Looked for: "
            "`label` or `abnormal` in a datalist, folders good and Ungood with label or anomaly_mask beside the "
            "images, labelsTs beside imagesTs. Use infer for maps alone."
        )
    notes = []
    if unmarked and any(item.get("label") is not None for item in items):
        lacks = _count(unmarked, items)
        notes.append(f"{lacks} no mask of what is abnormal: figures of pixels and lesions are of the others")
    if unknown:
        notes.append(f"{_count(unknown, items)} neither mask nor class, and no part in any figure")
    if seen := count_seen(bundle, items):
        notes.append(f"{seen} of {len(items)} scans were fitted or calibrate this bundle: figures with them flatter it")
    return "; ".join(notes) or None


def _count(some: Sequence[Any], items: Sequence[Any]) -> str:
    return f"{len(some)} of {len(items)} scans {'has' if len(some) == 1 else 'have'}"


@contextmanager
def hold_output(folder: Path, overwrite: bool = False, names: Sequence[str] = ()) -> Iterator[OutputFolder]:
    """Be the one writer of a folder of results, and find out before the long work what may be written.

    Args:
        folder: see :class:`~monai_dpmm_ad.utils.outputs.OutputFolder`; what a killed run left behind is removed.
        overwrite: replace whatever is there.
        names: files that will be written.

    Raises:
        ValueError: the folder is a bundle, whose files would lie among the results'.
    """
    if (folder / INFERENCE).is_file():
        raise ValueError(f"`out` must be a folder of results, got the bundle {folder}. Name another folder.")
    output = OutputFolder(folder, overwrite, get_rank())
    with ExitStack() as stack:
        if is_first():
            stack.enter_context(output)
            output.clean()
            check_writable(folder)
            output.check_all(names)
        wait_for_all()
        if not is_first():
            stack.enter_context(output)
        yield output


@contextmanager
def hold_bundle(bundle: Path) -> Iterator[None]:
    """Be the one process, or the one group of processes, that fits into a bundle's folder.

    Raises:
        CheckpointError: when the folder holds a fitted bundle, or files that are no bundle.
        BlockingIOError: when another process fits into it.
    """
    lock = None
    if is_first():
        check_unfinished(bundle)  # before a lock is left in a folder that has nothing to do with this
        bundle.mkdir(parents=True, exist_ok=True)
        lock = lock_output(bundle)
    try:
        yield
    except KeyboardInterrupt:
        if lock is not None:  # a signal comes at any moment
            remove_leftovers(bundle, *(folder for folder in bundle.rglob("*") if folder.is_dir()))
        raise
    finally:
        if lock is not None:
            lock.release()


def check_writable(folder: Path) -> None:
    """Find out before the long work whether results can be written at all.

    Raises:
        OSError: naming the folder, when they cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f"{PARTIAL}probe"
    try:
        probe.write_bytes(bytes(4096))
    except OSError as error:  # of a full disk it names no file
        raise OSError(error.errno, error.strerror, str(folder)) from error
    finally:
        probe.unlink(missing_ok=True)
