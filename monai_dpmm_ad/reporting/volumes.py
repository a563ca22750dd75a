# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Read a scan with its map, mask and truth in the orientation of a radiologist's screen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray
from PIL import Image, ImageOps

from monai_dpmm_ad.data.nifti import open_volume
from monai_dpmm_ad.data.paths import NIFTI_SUFFIXES, PICTURE_SUFFIXES, has_suffix
from monai_dpmm_ad.data.readers import PICTURE_AFFINE
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.reporting.results import ScanResult
from monai_dpmm_ad.transforms.save import UINT16_MAX
from monai_dpmm_ad.utils.files import PathLike

__all__ = ["ScanVolumes", "read_volumes"]


@dataclass(frozen=True)
class ScanVolumes:
    """A scan's arrays, rows to the patient's posterior, columns to the left, slices to the inferior ("PLI").

    So ``scan[:, :, k]`` is an axial slice upright in radiological display. A picture is one such slice.

    Args:
        scan: ``(P, L, I)``, float32, finite.
        anomaly_map: ``(P, L, I)``, float32, finite, in the unit of the threshold.
        mask: ``(P, L, I)``, boolean, or None.
        label: ``(P, L, I)``, boolean, or None.
        affine: ``(4, 4)``, from indices of these arrays to mm (RAS).
        is_picture: whether left and right are unknown.
        healthy: ``(P, L, I)``, the mean of healthy scans at the scan's places, or None.
        turn: ``(4, 4)``, from indices of the scan's file to indices of these arrays.
    """

    scan: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None
    label: NDArray[np.bool_] | None
    affine: NDArray[np.float64]
    is_picture: bool
    healthy: NDArray[np.float32] | None = None
    turn: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Voxel size along the three axes in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def is_flat(self) -> bool:
        """Whether there is a single axial slice only."""
        return self.scan.shape[2] == 1

    def place(self, voxel: Sequence[int]) -> tuple[int, int, int]:
        """Turn a voxel's indices in the scan's file (two for a picture) into those of these arrays."""
        row, column, depth = (self.turn @ [*voxel, *[0] * (3 - len(voxel)), 1])[:3].round().astype(int).tolist()
        return row, column, depth


def read_volumes(result: ScanResult) -> ScanVolumes:
    """Read one scan's files.

    Args:
        result: names the files.

    Returns:
        The arrays on one grid.

    Raises:
        ScanError: when a file cannot be read or lies on another grid than the scan.
    """
    scan, affine = _read(result.image, channel=result.channel)
    shape = scan.shape
    try:
        turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt("PLI"))
        back = orientations.inv_ornt_aff(turn, shape)
        affine = affine @ back
    except (ValueError, np.linalg.LinAlgError) as error:
        raise ScanError(result.image, "has an affine that gives no orientation") from error

    def orient(array: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(orientations.apply_orientation(array, turn))

    scan = orient(scan)  # one file after the other, so that each is in memory twice for a moment only
    anomaly_map = orient(_read(result.anomaly_map, shape)[0])
    if has_suffix(result.anomaly_map, PICTURE_SUFFIXES) and result.threshold is not None:
        anomaly_map *= np.float32(2 * result.threshold / UINT16_MAX)
    masks = []
    for path in (result.mask, result.label):
        limit = 127 if path is not None and has_suffix(path, (".jpg", ".jpeg")) else 0  # edges ring in a JPEG
        masks.append(None if path is None else orient(_read(path, shape)[0] > limit))
    return ScanVolumes(
        scan=scan,
        anomaly_map=anomaly_map,
        mask=masks[0],
        label=masks[1],
        affine=affine,
        is_picture=isinstance(result.image, (str, os.PathLike)) and has_suffix(result.image, PICTURE_SUFFIXES),
        healthy=None if result.healthy is None else orient(_read(result.healthy, shape)[0]),
        turn=np.linalg.inv(back),
    )


def _read(
    path: PathLike | Sequence[str], shape: tuple[int, ...] | None = None, channel: int | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Read a file, or one volume of a 4D file, as a 3D array with its affine; check it against the scan's shape."""
    try:
        if not isinstance(path, (str, os.PathLike)):
            data, affine = _read_other(path)
        elif has_suffix(path, NIFTI_SUFFIXES):
            image: Any = open_volume(os.fspath(path))
            image = image if channel is None else image.slicer[..., channel]
            data, affine = np.asarray(image.dataobj, dtype=np.float32), np.asarray(image.affine, dtype=np.float64)
        elif has_suffix(path, PICTURE_SUFFIXES):
            data, affine = _read_picture(path), PICTURE_AFFINE
        else:
            data, affine = _read_other(path)
    except ScanError:
        raise
    except Exception as error:  # the readers raise anything at all on damaged files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ScanError(path, f"cannot be read ({reason})") from error
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim == 2:
        data = data[..., None]
    if data.ndim != 3 or data.size == 0:
        raise ScanError(path, f"has shape {data.shape}; the report shows 2D and 3D images")
    if shape is not None and data.shape != shape:
        raise ScanError(path, f"has shape {data.shape} but the scan has {shape}")
    return np.nan_to_num(data, copy=not data.flags.writeable, nan=0.0, posinf=0.0, neginf=0.0), affine


def _read_picture(path: PathLike) -> NDArray[np.float32]:
    """Read a picture as grey values ``(columns, rows)``; 16 bits are kept."""
    with Image.open(path) as picture:
        image = ImageOps.exif_transpose(picture)
        grey = image if image.mode.startswith(("I", "F")) else image.convert("L")
        return np.asarray(grey, dtype=np.float32).T


def _read_other(path: PathLike | Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    from monai_dpmm_ad.transforms.load import LoadScan  # slow to import, and only DICOM needs it

    image = LoadScan()(path)
    return np.asarray(image[0], dtype=np.float32), np.asarray(image.affine, dtype=np.float64)
