# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Affine registration of a scan to the cohort's reference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from monai_dpmm_ad.normative.alignment import Aligner, see
from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.lattice import Lattice, Volume, resample

__all__ = ["find_start", "fit_box", "measure_quality", "refine", "register"]

Matrix = NDArray[np.float64]
Cut = tuple[tuple[bool, bool], tuple[bool, bool], tuple[bool, bool]]

#: Turns that are tried from the header's orientation, degrees about x, y and z.
TILTS = (-30.0, 0.0, 30.0)
#: The same for a part of a scan, which is tried at many places.
_SLID_TILTS = ((0.0, 0.0, 0.0), (-30.0, 0.0, 0.0), (30.0, 0.0, 0.0), (0.0, 0.0, -30.0), (0.0, 0.0, 30.0))
#: Starts that are nowhere further apart than this, in places of the lattice, end in the same.
_NEAR = 2.0
#: How many of the starts are followed.
_NUM_FOLLOWED = 3
#: Lattice cells that a scan is given as empty space where its field of view ends beyond it.
_MARGIN = 3
#: Share of its largest cross-section that a scan shows at the end of its field of view when it was cut off there.
_CUT = 0.35
_MIN_OVERLAP = 0.3
_FEWEST_CELLS = 6  # along an axis with fewer nothing is taken away


def register(
    image: NDArray[np.float32], affine: Matrix, reference: Volume, limit: float = 0.0, rigid: bool = False
) -> Frame:
    """Register a scan to a reference.

    The starts are the header's orientation, turned by up to 30° about each axis, and the principal axes of the
    foreground; of a scan that was cut off also what is seen of it, slid along the reference. The few that agree best
    with the reference are followed, and the best end is kept. The same input gives the same bits: no sample is random,
    one thread sums.

    Args:
        image: ``(X, Y, Z)``, scaled so that lesions cannot move it, background exactly 0.
        affine: ``(4, 4)``, from its indices to scanner coordinates (RAS, mm).
        reference: the cohort's mean.
        limit: least quality l of a whole scan. A part agrees with wrong places too: where the scan sees a share s of
            the reference, its quality has to be l + (1 − l) (1 − s).
        rigid: turn and move the scan only, as for two scans of one person.

    Returns:
        A frame of kind ``affine``; or of kind ``box``, with the quality that was too low.
    """
    return refine(image, affine, reference, find_start(image, affine, reference, rigid), limit, rigid)


def find_start(image: NDArray[np.float32], affine: Matrix, reference: Volume, rigid: bool = False) -> Matrix:
    """The first half of `register`: reference → scan (mm), ``(4, 4)``.

    Starts are followed at half the resolution; which end is kept is judged at the whole, where shapes that are alike
    from afar differ.
    """
    spacing = reference.lattice.spacing
    whole = resample(image, affine, spacing)
    cut = find_cut(whole)
    coarse_reference, coarse = halve(reference), pad_where_it_ends(resample(image, affine, 2 * spacing), cut)
    aligner, moving = Aligner(coarse_reference, rigid), pad_where_it_ends(whole, cut)
    followed = [aligner.align(coarse, start) for start in rank_starts(coarse_reference, coarse, cut)]
    return max(followed, key=lambda matrix: measure_quality(reference, moving, matrix))


def refine(
    image: NDArray[np.float32],
    affine: Matrix,
    reference: Volume,
    start: Matrix,
    limit: float = 0.0,
    rigid: bool = False,
) -> Frame:
    """The second half of `register`, from what `find_start` found."""
    whole = resample(image, affine, reference.lattice.spacing)
    moving = pad_where_it_ends(whole, find_cut(whole))
    ends = (Aligner(reference, rigid).align(moving, start), start)
    quality, end = max(((measure_quality(reference, moving, end), end) for end in ends), key=lambda pair: pair[0])
    if quality < limit + (1 - limit) * (1 - _measure_seen(reference, see(moving, end, reference.lattice))):
        return Frame("box", fit_box(image, affine, reference).matrix, quality)
    return Frame("affine", np.asarray(np.linalg.inv(end), dtype=np.float64), quality)


def fit_box(image: NDArray[np.float32], affine: Matrix, reference: Volume) -> Frame:
    """Bring the box around a scan's foreground onto that of the reference, along the scanner's axes.

    Args:
        image: as for `register`, not empty.
        affine: as for `register`.
        reference: the cohort's mean.
    """
    volume = resample(image, affine, reference.lattice.spacing)
    (low, high), (target_low, target_high) = find_box(volume), find_box(reference)
    scale = (target_high - target_low) / (high - low)
    matrix = np.diag([*scale, 1.0])
    matrix[:3, 3] = target_low - scale * low
    return Frame("box", matrix)


def find_box(volume: Volume) -> tuple[Matrix, Matrix]:
    """Lower and upper corner (mm) of the box around what is foreground."""
    inside = np.argwhere(volume.weight >= 0.5 * float(volume.weight.max()))
    corners = np.stack([inside.min(0) - 0.5, inside.max(0) + 0.5])
    low, high = corners * volume.lattice.spacing + np.array(volume.lattice.origin)
    return low, high


def measure_quality(reference: Volume, moving: Volume, matrix: Matrix) -> float:
    """Correlate a scan with the reference where either has foreground and the scan has data.

    Args:
        reference: the cohort's mean.
        moving: the scan.
        matrix: ``(4, 4)``, from the reference's coordinates to the scan's (mm).

    Returns:
        In [-1, 1]; -1 where too little of the reference is seen.
    """
    values = see(moving, matrix, reference.lattice)
    fixed = reference.values * reference.weight
    counted = (values >= 0) & ((fixed > 0.05) | (values > 0.05))
    if _measure_seen(reference, values) < _MIN_OVERLAP:
        return -1.0
    a, b = fixed[counted], values[counted]
    if a.size < 8 or a.std() == 0 or b.std() == 0:
        return -1.0
    return float(np.corrcoef(a, b)[0, 1])


def _measure_seen(reference: Volume, values: NDArray[np.float32]) -> float:
    """Share of the reference's foreground where a scan has data; padding is data."""
    inside = reference.weight > 0.5
    return int((inside & (values >= 0)).sum()) / max(int(inside.sum()), 1)


def rank_starts(reference: Volume, moving: Volume, cut: Cut) -> list[Matrix]:
    """Order the starts by how well they agree with the reference; of those close to each other the best alone."""
    starts = [*tilted_starts(reference, moving), *principal_starts(reference, moving)]
    for axis in range(3):
        if any(cut[axis]):
            starts += slid_starts(reference, moving, axis)
    ranked = sorted(starts, key=lambda start: -measure_quality(reference, moving, start))
    kept: list[Matrix] = []
    low, high = find_box(reference)
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), -1).reshape(-1, 3)
    for start in ranked:
        moves = [np.abs(corners @ (start - other)[:3, :3].T + (start - other)[:3, 3]).max() for other in kept]
        if not kept or min(moves) > _NEAR * reference.lattice.spacing:
            kept.append(start)
        if len(kept) == _NUM_FOLLOWED:
            break
    return kept


def tilted_starts(reference: Volume, moving: Volume) -> list[Matrix]:
    """The header's orientation and turns of it, centre on centre."""
    fixed, centre = centroid(reference), centroid(moving)
    return [join(turn(angles), fixed, centre) for angles in itertools.product(TILTS, repeat=3)]


def slid_starts(reference: Volume, moving: Volume, axis: int) -> list[Matrix]:
    """The header's orientation and turns of it, what is seen slid along an axis of the reference from end to end.

    Along that axis the centre of a part says nothing of where it belongs.
    """
    (low, high), (target_low, target_high) = find_box(moving), find_box(reference)
    fixed, centre = centroid(reference), centroid(moving)
    matrices = []
    room = (target_high - target_low)[axis] - (high - low)[axis]
    steps = np.arange(min(room, 0.0), max(room, 0.0) + 1, 2 * reference.lattice.spacing)
    for step, angles in itertools.product(steps, _SLID_TILTS):
        at = centre.copy()
        at[axis] = low[axis] + (fixed - target_low)[axis] - step
        matrices.append(join(turn(angles), fixed, at))
    return matrices


def principal_starts(reference: Volume, moving: Volume) -> list[Matrix]:
    """Principal axes on principal axes, in the four ways without a reflection."""
    fixed, axes = centroid(reference), principal_axes(moving)
    target = principal_axes(reference)
    signs = [np.diag([x, y, x * y]) for x, y in itertools.product((1.0, -1.0), repeat=2)]
    return [join(axes @ sign @ target.T, fixed, centroid(moving)) for sign in signs]


def centroid(volume: Volume) -> Matrix:
    """Centre of the foreground, mm."""
    return np.array(ndimage.center_of_mass(volume.weight)) * volume.lattice.spacing + np.array(volume.lattice.origin)


def principal_axes(volume: Volume) -> Matrix:
    """A rotation whose columns are the foreground's principal axes, the longest first; none of what fills no cell."""
    points = np.argwhere(volume.weight > 0.5).astype(np.float64)
    if len(points) < 2:
        return np.eye(3)
    _, vectors = np.linalg.eigh(np.cov(points.T))
    vectors = vectors[:, ::-1]
    vectors *= np.where(vectors[np.abs(vectors).argmax(0), range(3)] < 0, -1.0, 1.0)
    return vectors * (1.0 if np.linalg.det(vectors) > 0 else np.array([1.0, 1.0, -1.0]))


def turn(angles: Sequence[float]) -> Matrix:
    """Rotation about x, then y, then z, by degrees."""
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[i, i], step[j, j], step[i, j], step[j, i] = c, c, -s, s
        result = step @ result
    return result


def join(linear: Matrix, fixed: Matrix, moving: Matrix) -> Matrix:
    """The affine transform with this linear part that brings ``fixed`` onto ``moving``, ``(4, 4)``."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, moving - linear @ fixed
    return matrix


def find_cut(volume: Volume) -> Cut:
    """Along each axis, whether a scan was cut off at the lower and at the upper end of its field of view."""
    cut = []
    for axis in range(3):
        area = (volume.weight > 0.5).sum(tuple(other for other in range(3) if other != axis))
        cut.append((bool(area[:2].max() > _CUT * area.max()), bool(area[-2:].max() > _CUT * area.max())))
    return (cut[0], cut[1], cut[2])


def pad_where_it_ends(volume: Volume, cut: Cut) -> Volume:
    """Give a scan empty space on all sides but those where it was cut off: what lies beyond those is not known.

    At those the cells that the field of view fills in part are taken away: they look like the head's own surface.
    """
    part, pads = [], []
    for axis, (lower, upper) in enumerate(cut):
        area = volume.weight.sum(tuple(other for other in range(3) if other != axis))
        size = len(area)
        part.append(slice(_count_partial(area) if lower else 0, size - (_count_partial(area[::-1]) if upper else 0)))
        pads.append((0 if lower else _MARGIN, 0 if upper else _MARGIN))
    lattice = volume.lattice
    shifts = [(piece.start - before) * lattice.spacing for piece, (before, _) in zip(part, pads, strict=True)]
    first = [start + shift for start, shift in zip(lattice.origin, shifts, strict=True)]
    values, weight = (np.pad(array[tuple(part)], pads) for array in (volume.values, volume.weight))
    x, y, z = values.shape
    return Volume(values, weight, Lattice((x, y, z), lattice.spacing, (first[0], first[1], first[2])))


def _count_partial(area: Matrix) -> int:
    """How many of the first two cells along an axis hold clearly less than the next; none of a few slices."""
    if len(area) < _FEWEST_CELLS:
        return 0
    return 2 if area[1] < 0.9 * area[2] else int(area[0] < 0.9 * area[1])


def halve(volume: Volume) -> Volume:
    """Half the resolution."""
    return resample(volume.values * volume.weight, volume.lattice.affine, 2 * volume.lattice.spacing)
