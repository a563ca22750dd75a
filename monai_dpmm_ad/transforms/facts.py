# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What kind of scan an image is, told before its intensities are scaled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_dpmm_ad.ops.slices import voxel_sizes

__all__ = ["describe_scan", "sample_inside"]

_AIR = -900.0  # HU and below


def sample_inside(image: Tensor, mask: Tensor) -> Tensor:
    """Every k-th of the voxels that a mask holds, in their order: 100 000 to 200 000 of many, all of few."""
    array, inside = image.cpu().numpy(), mask.cpu().numpy()
    step, seen, found = max(1, int(np.count_nonzero(inside)) // 100_000), 0, []
    for values, marks in zip(array.reshape(-1, *array.shape[2:]), inside.reshape(-1, *array.shape[2:]), strict=True):
        chosen = values[marks]  # slab by slab: all of them may be as large as the image
        found.append(chosen[-seen % step :: step])
        seen += len(chosen)
    return torch.from_numpy(np.concatenate(found))


def describe_scan(img: MetaTensor, inside: Tensor) -> dict[str, Any]:
    """Say what kind of scan an image is, before its intensities are scaled.

    Args:
        img: ``(1, P, L, I)`` or ``(1, H, W)``.
        inside: its foreground, boolean, of the same shape.

    Returns:
        ``spatial_dims``; ``modality``, "" where neither the file nor Hounsfield units of air say it; ``sizes`` of the
        voxels along P, L and I in mm; ``range``, the 1st, 50th and 99th percentile of the foreground's intensities;
        ``volume`` of the foreground in mL. A volume of one slice, and a single slice of a DICOM series, is 3D without
        a volume. Of a picture ``rim``, the share of its outermost pixels that is foreground, and ``colour``.
    """
    values = sample_inside(img.as_tensor(), inside)
    sizes = voxel_sizes(img, batched=False)
    is_picture = img.ndim == 3 and not img.meta.get("modality")
    thick = img.ndim == 4 and min(img.shape[1:]) > 1
    picture = {"rim": _measure_rim(inside[0]), "colour": float(img.meta.get("colour", 0))} if is_picture else {}
    return {
        **picture,
        "spatial_dims": 2 if is_picture else 3,
        "modality": str(img.meta.get("modality") or ("CT" if float(img.numpy().min()) <= _AIR else "")),
        "sizes": [round(float(size), 4) for size in sizes],
        "range": [float(value) for value in np.quantile(values.numpy(), [0.01, 0.5, 0.99])],
        "volume": int(torch.count_nonzero(inside)) * float(sizes.prod()) / 1000 if thick else 0.0,
    }


def _measure_rim(inside: Tensor) -> float:
    """Share of the outermost pixels of ``(H, W)`` that is foreground: a head lies in air, a photo fills its frame."""
    return float(torch.cat([inside[0], inside[-1], inside[:, 0], inside[:, -1]]).double().mean())
