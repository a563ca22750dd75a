# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""An object's patches by the first principal component of an image's own embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.ops.patches import normalize_embeddings

__all__ = ["PATCH_MASKS", "PrincipalMask", "close_grid"]

PATCH_MASKS = ("none", "pca")
_LEAST_PATCHES = 8


class PrincipalMask:
    """Keep the patches on the object's side of the first principal component of each image, holes closed.

    The component of the unit embeddings of an image's foreground patches is scaled to variance 1 and signed so that
    patches near the middle of the foreground lie higher than those near its rim. An image with fewer than 8 foreground
    patches, or in which nothing would be left, keeps all.

    Args:
        threshold: least value of the scaled component.
        closing: radius of the morphological closing in patches; 0 for none.

    Reference:
        Damm et al., WACV 2025, section 3.3. The sign by position and the scaling are ours.
    """

    def __init__(self, threshold: float = 0.0, closing: int = 1) -> None:
        if closing < 0:
            raise ValueError(f"`mask_closing` must be at least 0 patches, got {closing}.")
        self.threshold = threshold
        self.closing = closing

    def __call__(self, patches: Tensor, inside: Tensor) -> Tensor:
        """Choose patches.

        Args:
            patches: ``(B, h, w, D)``, raw embeddings.
            inside: ``(B, h, w)`` Boolean, the foreground patches.

        Returns:
            ``(B, h, w)`` Boolean, a subset of ``inside``.
        """
        kept = torch.stack([self._choose(grid, area) for grid, area in zip(patches, inside, strict=True)])
        return close_grid(kept, self.closing) & inside

    def _choose(self, grid: Tensor, area: Tensor) -> Tensor:
        if int(area.sum()) < _LEAST_PATCHES:
            return area
        rows = normalize_embeddings(grid[area].float())
        rows = rows - rows.mean(0)
        values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
        component = rows @ vectors[:, -1] / values[-1].clamp_min(1e-12).sqrt()
        places = area.nonzero().float()
        from_middle = (places - places.mean(0)).norm(dim=1)
        near = from_middle <= from_middle.median()
        if component[near].mean() < component.mean():
            component = -component
        chosen = torch.zeros_like(area)
        chosen[area] = component >= self.threshold
        return chosen if bool(chosen.any()) else area

    @classmethod
    def make(cls, name: str, threshold: float, closing: int) -> PrincipalMask | None:
        """Make the mask of a setting: None for "none".

        Raises:
            ValueError: an unknown name, or a negative radius.
        """
        if name not in PATCH_MASKS:
            raise unknown_option("patch_mask", name, PATCH_MASKS)
        return cls(threshold, closing) if name == "pca" else None


def close_grid(mask: Tensor, radius: int) -> Tensor:
    """Close a mask: dilate by a square, then erode; what lies beyond the grid counts as neither.

    Args:
        mask: ``(B, h, w)`` Boolean.
        radius: of the square, in patches.

    Returns:
        ``(B, h, w)`` Boolean, a superset.
    """
    if not radius:
        return mask
    size = 2 * radius + 1
    dilated = F.max_pool2d(mask.float()[:, None], size, stride=1, padding=radius)
    return (-F.max_pool2d(-dilated, size, stride=1, padding=radius))[:, 0] > 0
