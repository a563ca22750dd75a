# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The reference space of a cohort, made from the cohort itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.normative.lattice import Lattice, Volume, resample
from monai_dpmm_ad.normative.registration import find_box, register

__all__ = ["build_reference", "find_spacing", "pull"]

#: Room around the first scan's foreground for those that are larger.
_ROOM = 1.15


def build_reference(volumes: Sequence[Volume], shape: tuple[int, int, int], rounds: int = 2) -> Volume:
    """Build a reference: the mean of all scans registered to one of them, then to that mean, and so on.

    Each round ends in the space in which the scans' mean shape is the identity, so that nobody's own tilt or size
    remains. The first scan is
    the one of median size, so the order of the scans is of no consequence but for the last bits of sums.

    Args:
        volumes: the scans on lattices along the scanner's axes, about as fine as the reference.
        shape: of the reference's lattice.
        rounds: how often all are registered.

    Returns:
        The mean scan; its weight is the share of the scans that have foreground there.

    Raises:
        ValueError: no scan.
    """
    if not volumes:
        raise ValueError("`volumes` must hold at least one scan, got none.")
    order = np.argsort([float(volume.weight.sum()) * volume.lattice.spacing**3 for volume in volumes], kind="stable")
    first = volumes[order[len(order) // 2]]
    low, high = find_box(first)
    spacing = _spacing_around(low, high, shape)
    middle = (low + high) / 2
    half = np.array(shape) * spacing / 2
    lattice = Lattice.around(middle - half, middle + half, spacing)
    reference = pull(first, np.eye(4), lattice)
    for _ in range(rounds):
        frames = [register(volume.values * volume.weight, volume.lattice.affine, reference) for volume in volumes]
        inverses = [frame.inverse for frame in frames]
        change = unbias(inverses, middle)
        reference = average(
            [pull(volume, inverse @ change, lattice) for volume, inverse in zip(volumes, inverses, strict=True)]
        )
    return reference


def find_spacing(image: NDArray[np.float32], affine: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """The spacing (mm) that a reference of ``shape`` around a scan would have."""
    voxel = float(np.sqrt((affine[:3, :3] ** 2).sum(0)).max())
    return _spacing_around(*find_box(resample(image, affine, voxel)), shape)


def _spacing_around(low: NDArray[np.float64], high: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """The spacing of a lattice of ``shape`` that has room around a box from ``low`` to ``high`` (mm)."""
    return float(((high - low) * _ROOM / np.array(shape)).max())


def unbias(inverses: Sequence[NDArray[np.float64]], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """The change of the reference space, new → old, after which the mean of the linear parts is the identity.

    Args:
        inverses: ``(4, 4)`` each, from the old reference space to the scans (mm).
        middle: the point that stays where it is, mm.
    """
    mean = np.mean([inverse[:3, :3] for inverse in inverses], axis=0)
    change = np.eye(4)
    if np.linalg.det(mean) > 0.25:  # poses so different that they cancel leave the reference as it was
        change[:3, :3] = np.linalg.inv(mean)
        change[:3, 3] = middle - change[:3, :3] @ middle
    return change


def pull(volume: Volume, matrix: NDArray[np.float64], lattice: Lattice) -> Volume:
    """Bring a volume to the reference's lattice.

    Args:
        volume: the scan.
        matrix: ``(4, 4)``, from the reference's coordinates to the scan's (mm).
        lattice: of the reference.

    Returns:
        Its weight is 0 where the scan has no data.
    """
    index = np.linalg.inv(volume.lattice.affine) @ matrix @ lattice.affine
    weight, total = (
        ndimage.affine_transform(values, index[:3, :3], index[:3, 3], output_shape=lattice.shape, order=1)
        for values in (volume.weight, volume.values * volume.weight)
    )
    return Volume(np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-3), weight, lattice)


def average(volumes: Sequence[Volume]) -> Volume:
    """Average volumes on one lattice, each by its weight; in the order that they have."""
    weight = np.sum([volume.weight.astype(np.float64) for volume in volumes], axis=0)
    total = np.sum([volume.values.astype(np.float64) * volume.weight for volume in volumes], axis=0)
    values = np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-3 * len(volumes))
    return Volume(values.astype(np.float32), (weight / len(volumes)).astype(np.float32), volumes[0].lattice)
