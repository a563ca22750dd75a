# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The slices of DICOM data sets, single-frame or enhanced, and the regular grid that they must fill."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monai_dpmm_ad.data.dicom_values import real_values
from monai_dpmm_ad.errors import ScanError

__all__ = ["Frame", "list_frames", "sort_frames", "volume_affine"]

_NEEDED = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")
_NOT_MAGNITUDE = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"}


@dataclass(frozen=True)
class Frame:
    """One slice: where it lies and how to get its values ``(rows, columns)``."""

    file: str
    dataset: Any
    tags: dict[str, Any]
    read: Callable[[], NDArray[np.float32]]

    def vector(self, tag: str) -> NDArray[np.float64]:
        """A tag with several numbers."""
        return np.asarray([float(x) for x in self.tags[tag]], dtype=np.float64)


def list_frames(source: str, file: str, dataset: Any) -> tuple[list[Frame], list[str]]:
    """List the slices of one data set.

    Args:
        source: named in errors.
        file: of the data set.
        dataset: with pixels.

    Returns:
        The slices, and what a user should know.

    Raises:
        ScanError: several frames whose positions are not given.
    """
    number = int(dataset.get("NumberOfFrames", 1) or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if number == 1 and not groups:
        tags = {tag: dataset.get(tag) for tag in (*_NEEDED, "Rows", "Columns")}
        return [Frame(file, dataset, tags, lambda: real_values(dataset, dataset.pixel_array))], []
    if not groups or len(groups) != number:
        raise ScanError(
            source,
            f"is a multi-frame DICOM ({number} frames) without the position of each; "
            "convert it to NIfTI first (dcm2niix does)",
        )
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or ())
    frames = [_enhanced_frame(file, dataset, index, [group, *shared]) for index, group in enumerate(groups)]
    return _choose_type(source, frames)


def _enhanced_frame(file: str, dataset: Any, index: int, groups: list[Any]) -> Frame:
    tags = {"Rows": dataset.get("Rows"), "Columns": dataset.get("Columns")}
    for sequence, tag in (
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
        ("PlanePositionSequence", "ImagePositionPatient"),
        ("PixelMeasuresSequence", "PixelSpacing"),
    ):
        tags[tag] = _find(groups, sequence, tag)
    kinds = [f"{name}FrameTypeSequence" for name in ("MRImage", "CTImage", "PET", "CTPETImage")]
    words = next((found for kind in kinds if (found := _find(groups, kind, "FrameType"))), ())
    tags["FrameType"] = tuple(str(word).upper() for word in words)

    def read() -> NDArray[np.float32]:
        pixels = dataset.pixel_array
        return real_values(dataset, pixels[index] if pixels.ndim == 3 else pixels, groups)

    return Frame(file, dataset, tags, read)


def _find(groups: Sequence[Any], sequence: str, tag: str) -> Any:
    for group in groups:
        for item in group.get(sequence) or ():
            if item.get(tag):
                return item.get(tag)
    return None


def _choose_type(source: str, frames: list[Frame]) -> tuple[list[Frame], list[str]]:
    """Take the frames of one type: magnitude before phase, original before derived, many before few."""
    counts = Counter(frame.tags["FrameType"] for frame in frames)
    if len(counts) == 1:
        return frames, []

    def rank(kind: tuple[str, ...]) -> tuple[Any, ...]:
        return bool(_NOT_MAGNITUDE & set(kind)), "ORIGINAL" not in kind, -counts[kind], kind

    chosen, *others = sorted(counts, key=rank)
    named = ", ".join("\\".join(kind) or "no type" for kind in others)
    note = f"the file holds {len(counts)} types of frame; {chr(92).join(chosen)} was taken, not {named}"
    return [frame for frame in frames if frame.tags["FrameType"] == chosen], [note]


def sort_frames(source: str, frames: Sequence[Frame]) -> list[Frame]:
    """Order slices along their normal and make sure that they fill a regular grid.

    Raises:
        ScanError: naming what is irregular.
    """
    for tag in _NEEDED:
        if without := [frame for frame in frames if not frame.tags.get(tag)]:
            reason = f"has slices without {tag}, so the volume's geometry is unknown{_name_files(without)}"
            raise ScanError(source, reason)
    first = frames[0]
    for tag in ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
        values = [np.asarray(frame.tags[tag], dtype=float) for frame in frames]
        like = [value.shape == values[0].shape and np.allclose(value, values[0], atol=1e-3) for value in values]
        if not all(like):
            rare = 2 * sum(like) < len(like)  # what most slices have is taken for right
            odd = [frame for frame, is_like in zip(frames, like, strict=True) if is_like == rare]
            raise ScanError(source, f"has slices that differ in {tag}; one series must share it{_name_files(odd)}")
    orientation = first.vector("ImageOrientationPatient")
    places = np.array([frame.vector("ImagePositionPatient") for frame in frames])
    if not (np.isfinite(places).all() and np.isfinite(orientation).all()):
        raise ScanError(source, "has slices whose position is not a number, so the volume's geometry is unknown")
    heights = places @ np.cross(orientation[:3], orientation[3:])
    order = np.argsort(heights, kind="stable")
    ordered = [frames[index] for index in order]
    _check_regular(source, ordered, heights[order], places[order], float(first.vector("PixelSpacing").min()))
    return ordered


def _name_files(frames: Sequence[Frame]) -> str:
    """The first of the files that something is wrong with, and how many more there are."""
    names = list(dict.fromkeys(os.path.basename(frame.file) for frame in frames))
    return f" ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"


def _check_regular(
    source: str, frames: Sequence[Frame], heights: NDArray[Any], places: NDArray[Any], pixel: float
) -> None:
    steps = np.diff(heights)
    if steps.min() <= 1e-3:
        first = int(np.argmin(steps))
        reason = "has several slices at one position (4D); split it into single volumes first"
        raise ScanError(source, reason + _name_files(frames[first : first + 2]))
    if steps.max() - steps.min() > 0.1 * np.median(steps):
        widest = int(np.argmax(steps))
        before, after = (os.path.basename(frame.file) for frame in frames[widest : widest + 2])
        between = "" if before == after else f" between {before} and {after}"
        reason = f"has slices {steps.min():.2f} to {steps.max():.2f} mm apart; a slice may be missing{between}"
        raise ScanError(source, reason)
    share = (heights - heights[0]) / (heights[-1] - heights[0])
    off = np.linalg.norm(places - places[0] - share[:, None] * (places[-1] - places[0]), axis=1).max()
    if off > max(0.5 * pixel, 0.1):
        raise ScanError(source, f"has slices that do not lie on a line: one lies {off:.2f} mm beside it")


def volume_affine(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Return the RAS affine of ``(columns, rows, slices)``; of a single slice that of a picture, in mm."""
    spacing = frames[0].tags.get("PixelSpacing")
    height, width = (float(x) for x in spacing) if spacing else (1.0, 1.0)
    if len(frames) == 1:
        return np.diag([-width, -height, 1.0, 1.0])
    orientation = frames[0].vector("ImageOrientationPatient")
    first, last = (frames[index].vector("ImagePositionPatient") for index in (0, -1))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = orientation[:3] * width, orientation[3:] * height
    affine[:3, 2] = (last - first) / (len(frames) - 1)
    affine[:3, 3] = first
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
