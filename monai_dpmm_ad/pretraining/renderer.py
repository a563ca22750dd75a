# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Slices of healthy heads and brains of any contrast, rendered from label maps on the device of the generator.

Only the coordinates of a slice are deformed, in 3D, so that a slice costs milliseconds and no volume is resampled. A
group of slices shares plane, contrast, skull, thickness and sharpness, as the scans of one study do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Generator, Tensor
from torch.nn import functional as F

from monai_dpmm_ad.pretraining.anatomy import CSF, STRUCTURES
from monai_dpmm_ad.pretraining.batch import Batch
from monai_dpmm_ad.pretraining.contrasts import draw_contrasts, scale_to_median
from monai_dpmm_ad.pretraining.views import blur_images

__all__ = ["Planes", "Renderer"]

_FLOOR = 1e-3
_HALF_FIELD = 130.0  # mm, half of the side of the field in which a slice's frame is looked for
_COARSE = 65  # points along it
_KNOT = 8  # pixels between the places that the deformation is computed at
_LEAST_AREA = 0.3  # of the brain's largest slice along the same axis, as for slices that are read
_PLANE_SHARES = (0.5, 0.25, 0.25)  # axial, coronal, sagittal
# Axes of the maps (P, L, I) that rows, columns and normal of each plane run along.
_PLANES = ((0, 1, 2), (2, 1, 0), (2, 0, 1))
_THICK_SHARE, _THICKNESS = 0.4, (2.0, 6.0)  # of the groups; mm
_STRIPPED_SHARE, _RIM = 0.5, 2  # of the groups; voxels of fluid kept about a stripped brain
_SUBJECT_SPREAD = 0.03  # of a structure's log intensity, between the subjects of a group


@dataclass(frozen=True)
class Planes:
    """Slices of deformed anatomy, without contrast.

    Args:
        labels: ``(B, K, S, S)`` int64 indices of structures on K parallel planes within the thickness, 0 is background;
            each slice lies at the upper left.
        frames: ``(B, 2)`` float32, height and width of each slice.
        counts: ``(B, C)`` voxels of each structure in the whole scan.
        groups: ``(B,)`` int64.
    """

    labels: Tensor
    frames: Tensor
    counts: Tensor
    groups: Tensor


class Renderer:
    """Draw slices from label maps.

    Args:
        maps: indices of structures ``(P, L, I)`` of about 1 mm, see `load_label_maps`.
        image_size: longer side of the slices in pixels.
        device: where to render.
    """

    def __init__(self, maps: Sequence[NDArray[np.uint8]], image_size: int, device: torch.device | str = "cpu") -> None:
        self.image_size = image_size
        inner = np.array([False, *(structure.brain for structure in STRUCTURES)])
        # Heads at even indices, the same without skull at odd ones, each in a rim of air: what lies outside of a map is
        # looked up on its border.
        both = [version for labels in maps for version in (np.pad(labels, 1), _strip(np.pad(labels, 1), inner))]
        # All maps in one row, so that a batch looks its voxels up at once on a GPU.
        self._voxels = torch.from_numpy(np.concatenate([labels.ravel() for labels in both])).to(device)
        self._shapes = torch.tensor([labels.shape for labels in both], device=device)
        self._starts = self._shapes.prod(1).cumsum(0) - self._shapes.prod(1)
        counts = np.stack([np.bincount(labels.ravel(), minlength=len(inner)) for labels in both])
        counts[:, 0] = 0
        self._counts = torch.from_numpy(counts).to(device).float()
        # Where a map's head (0) and brain (1) begin and end along each axis, and where slices show enough of the brain.
        self._boxes = torch.from_numpy(np.stack([_measure(labels, inner) for labels in maps])).to(device).float()

    def draw(
        self,
        count: int,
        generator: Generator,
        num_groups: int = 1,
        cross_share: float = 0.5,
        sequence: str | None = None,
    ) -> Batch:
        """Draw healthy slices.

        Args:
            count: how many.
            generator: source of randomness, on the renderer's device.
            num_groups: groups of slices with one contrast each.
            cross_share: share of groups whose second images have another contrast.
            sequence: the contrast of all images, one of `SEQUENCES`; None draws contrasts.

        Returns:
            The slices, all clean.
        """
        planes = self.draw_planes(count, generator, num_groups)
        images = self.render(planes, draw_contrasts(num_groups, generator, sequence), generator)
        crossed = torch.rand(num_groups, generator=generator, device=generator.device) < cross_share
        crossed = crossed[planes.groups]
        others = images
        if bool(crossed.any()):
            part = Planes(*(getattr(planes, name)[crossed] for name in Planes.__dataclass_fields__))
            others = images.clone()
            others[crossed] = self.render(part, draw_contrasts(num_groups, generator), generator)
        clean = torch.ones(count, dtype=torch.bool, device=generator.device)
        return Batch(images, others, planes.frames, clean, planes.groups, crossed)

    def draw_planes(
        self,
        count: int,
        generator: Generator,
        num_groups: int = 1,
        plane: int | None = None,
        stripped: bool | None = None,
    ) -> Planes:
        """Draw slices of anatomy: random map, plane, height, affine and smooth deformation.

        Args:
            count: how many.
            generator: source of randomness, on the renderer's device.
            num_groups: groups of slices that share plane, skull and thickness.
            plane: 0 axial, 1 coronal, 2 sagittal for all; None draws it by group.
            stripped: whether the skull is left out; None draws it by group.
        """
        device = generator.device
        groups = torch.arange(count, device=device) * num_groups // count
        shares = torch.tensor(_PLANE_SHARES, device=device).expand(num_groups, -1)
        planes = torch.multinomial(shares, 1, generator=generator)[groups, 0]
        is_stripped = (torch.rand(num_groups, generator=generator, device=device) < _STRIPPED_SHARE)[groups]
        if plane is not None:
            planes = torch.full_like(planes, plane)
        if stripped is not None:
            is_stripped = torch.full_like(is_stripped, stripped)
        # A template without a skull is a stripped brain, whatever was drawn.
        chosen = torch.randint(len(self._boxes), (count,), generator=generator, device=device)
        where = _Deformation(self._boxes[chosen, is_stripped.long()], planes, generator)
        chosen = 2 * chosen + is_stripped
        frames, grid = self._frame(where, chosen)
        depths = torch.zeros(1, device=device)
        if float(torch.rand((), generator=generator, device=device)) < _THICK_SHARE:
            low, high = _THICKNESS
            thickness = low + (high - low) * torch.rand((), generator=generator, device=device)
            depths = torch.linspace(-1 / 3, 1 / 3, 3, device=device) * thickness
        labels = torch.stack([self._look_up(where(grid, depth), chosen, self.image_size) for depth in depths], 1)
        side = torch.arange(self.image_size, device=device)
        inside = (side[None, :, None] < frames[:, :1, None]) & (side[None, None] < frames[:, 1:, None])
        return Planes(labels * inside[:, None], frames, self._counts[chosen], groups)

    def render(self, planes: Planes, contrasts: Tensor, generator: Generator) -> Tensor:
        """Give anatomy an appearance: intensities and texture by structure, partial volume, blur.

        Bias field and noise are left to `augment_intensity`, which every view passes.

        Args:
            planes: the anatomy.
            contrasts: ``(groups, C)`` mean intensities.
            generator: source of randomness.

        Returns:
            ``(B, 1, S, S)`` in [0, 1], the median voxel of each whole scan at 1/3, background exactly 0.
        """
        count, _, side, _ = planes.labels.shape
        device = generator.device
        means = contrasts[planes.groups]
        means = means * torch.exp(_SUBJECT_SPREAD * torch.randn(means.shape, generator=generator, device=device))
        means = scale_to_median(means, planes.counts)
        texture = torch.rand((len(contrasts), means.shape[1]), generator=generator, device=device)[planes.groups]
        grain = torch.randn((count, 1, side, side), generator=generator, device=device)
        patches = torch.randn((count, 1, side // 8, side // 8), generator=generator, device=device)
        grain = 0.5 * grain + F.interpolate(patches, size=(side, side), mode="bilinear", align_corners=False)
        flat = planes.labels.flatten(1)
        image = means.gather(1, flat).view_as(planes.labels).mean(1, keepdim=True)
        middle = planes.labels[:, planes.labels.shape[1] // 2]
        spread = (0.06 * texture).gather(1, middle.flatten(1)).view(count, 1, side, side)
        inside = middle[:, None] > 0
        sigma = 0.4 + 0.9 * torch.rand(len(contrasts), generator=generator, device=device)[planes.groups]
        image = blur_images(image * (1 + spread * grain), inside, sigma.view(-1, 1, 1, 1))
        return torch.where(inside, image.clamp(_FLOOR, 1), 0.0)

    def _frame(self, where: _Deformation, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Find the head or brain on each plane: frames ``(B, 2)`` and a coarse grid's places ``(B, n, n, 2)`` in mm."""
        axis = torch.linspace(-_HALF_FIELD, _HALF_FIELD, _COARSE, device=chosen.device)
        coarse = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).expand(len(chosen), -1, -1, -1)
        shown = self._look_up(where(coarse, chosen.new_zeros(())), chosen, _COARSE) > 0
        step = float(axis[1] - axis[0])
        lows, sizes = [], []
        for other in (2, 1):
            line = shown.any(other).int()
            first, last = line.argmax(1), line.shape[1] - 1 - line.flip(1).argmax(1)
            lows.append(axis[first] - 0.5 * step)
            sizes.append(axis[last] - axis[first] + step)
        low, size = torch.stack(lows, 1), torch.stack(sizes, 1)
        pixel = size.amax(1, keepdim=True) / self.image_size
        frames = (size / pixel).round().clamp(min=1)
        # From the centre of the first pixel to that of the last; the deformation is smooth, so a few knots will do.
        side = torch.linspace(0.5, self.image_size - 0.5, 1 + self.image_size // _KNOT, device=chosen.device)
        grid = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
        return frames, low[:, None, None] + grid * pixel[:, None, None]

    def _look_up(self, knots: Tensor, chosen: Tensor, side: int) -> Tensor:
        """Read structures between voxels ``(B, n, n, 3)`` of the chosen maps: (B, side, side) int64.

        On a CPU one slice after the other: its coordinates stay in the cache.
        """
        rows = torch.arange(len(knots), device=knots.device)
        parts = []
        for row in rows.split(1 if knots.device.type == "cpu" else max(1, len(knots))):
            which = chosen[row]
            points = knots[row].permute(0, 3, 1, 2)
            fine = F.interpolate(points, size=(side, side), mode="bilinear", align_corners=True)
            shape = self._shapes[which][..., None, None]
            voxels = torch.minimum(fine.add_(1.5).clamp_(min=0).int(), shape.int() - 1)
            one, two, three = voxels.unbind(1)
            inner = (one * shape[:, 1] + two) * shape[:, 2] + three
            parts.append(self._voxels[self._starts[which][:, None, None] + inner].long())
        return torch.cat(parts)


class _Deformation:
    """Map places on planes to voxels of the maps: a random plane, affine and smooth displacement.

    Args:
        boxes: ``(B, 3, 4)`` low, high, least and greatest height along the axes of the maps.
        planes: ``(B,)`` 0 axial, 1 coronal, 2 sagittal.
        generator: source of randomness.
    """

    def __init__(self, boxes: Tensor, planes: Tensor, generator: Generator) -> None:
        count, device = len(planes), planes.device

        def normal(*shape: int) -> Tensor:
            return torch.randn((count, *shape), generator=generator, device=device)

        axes = torch.tensor(_PLANES, device=device)[planes]
        # Columns of the basis: directions of rows, columns and normal in voxels.
        basis = F.one_hot(axes, 3).transpose(1, 2).float()
        angles = 0.07 * normal(3)
        turn = torch.matrix_exp(_skew(angles))
        scale = torch.exp(0.06 * normal(3))
        self._matrix = turn @ basis * scale[:, None]
        self._centre = boxes[..., :2].mean(-1)
        height = torch.rand(count, generator=generator, device=device)
        normals = axes[:, 2:]
        bounds = boxes.gather(1, normals[..., None].expand(-1, -1, 4))[:, 0]
        at = bounds[:, 2] + height * (bounds[:, 3] - bounds[:, 2])
        self._centre = self._centre.scatter(1, normals, at[:, None])
        amount = torch.rand((2, count, 1, 1, 1), generator=generator, device=device)
        self._knots = [4.0 * amount[0] * normal(3, 6, 6), 1.5 * amount[1] * normal(3, 14, 14)]

    def __call__(self, grid: Tensor, depth: Tensor) -> Tensor:
        """Voxels ``(B, H, W, 3)`` of places ``(B, H, W, 2)``, row and column in mm, ``depth`` mm off the plane."""
        points = torch.cat([grid, depth.expand(*grid.shape[:3], 1)], -1)
        voxels = torch.einsum("bij,bhwj->bhwi", self._matrix, points) + self._centre[:, None, None]
        where = (grid / _HALF_FIELD).flip(-1)
        for knots in self._knots:
            bend = F.grid_sample(knots, where, mode="bicubic", padding_mode="border", align_corners=True)
            voxels = voxels + bend.permute(0, 2, 3, 1)
        return voxels


def _skew(angles: Tensor) -> Tensor:
    """Skew-symmetric matrices ``(B, 3, 3)`` of rotation vectors ``(B, 3)``."""
    one, two, three = angles.unbind(1)
    zero = torch.zeros_like(one)
    return torch.stack([zero, -three, two, three, zero, -one, -two, one, zero], 1).view(-1, 3, 3)


def _strip(labels: NDArray[np.uint8], inner: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Leave out the skull, and fluid away from the brain."""
    brain = inner[labels]
    near = ndimage.binary_dilation(brain & (labels != CSF), iterations=_RIM)
    return np.where(brain & near, labels, 0).astype(np.uint8)


def _measure(labels: NDArray[np.uint8], inner: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Low, high, and least and greatest usable height of head and brain along three axes: (2, 3, 4)."""
    result = np.zeros((2, 3, 4), dtype=np.int64)
    brain = inner[labels]
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        area = brain.sum(others)
        large = np.flatnonzero(area >= _LEAST_AREA * area.max())
        for row, shown in enumerate((labels > 0, brain)):
            extent = np.flatnonzero(shown.any(others))
            result[row, axis] = extent[0], extent[-1], large[0], large[-1]
    return result
