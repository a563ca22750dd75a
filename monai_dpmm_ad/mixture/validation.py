# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a mixture accepts as embeddings, checked at its public edge."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["check_embeddings", "check_num_data", "limit_length", "refuse_bad_rows"]

LARGEST = 1e12  # a score of larger values is that of this size: their squares would be infinite, and differences NaN
UNIT_TOLERANCE = 0.02  # of the squared length: what half precision may leave


def check_embeddings(x: Tensor, embed_dim: int, device: torch.device, allow_empty: bool = False) -> Tensor:
    """Check shape and type of embeddings and bring them to a device.

    Args:
        x: (n, D), floating.
        embed_dim: D.
        device: where the mixture lives.
        allow_empty: whether n may be 0.

    Returns:
        the embeddings on ``device``; half precision becomes float32, as statistics of squares need it.

    Raises:
        TypeError: if ``x`` is no floating tensor.
        ValueError: if its shape is wrong.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"Embeddings must be a floating tensor, got {got}. Convert with torch.as_tensor(x).float().")
    if x.ndim != 2 or x.shape[1] != embed_dim:
        raise ValueError(
            f"Embeddings must have shape (n, {embed_dim}), got {tuple(x.shape)}. "
            "Flatten the patch grid, and check that the backbone is the one of the fit."
        )
    if x.shape[0] == 0 and not allow_empty:
        raise ValueError(f"Embeddings must have at least one row, got shape {tuple(x.shape)}.")
    x = x.to(device, non_blocking=True)
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def check_num_data(num_data: float | None) -> None:
    """Check the size of a data set, where one is given.

    Raises:
        ValueError: if it is not a positive number.
    """
    if num_data is not None and not 0 < num_data < math.inf:
        raise ValueError(
            f"`num_data` must be a positive number, got {num_data}. It is how many rows the whole data set has."
        )


def limit_length(x: Tensor) -> Tensor:
    """Shorten rows (n, D) with values beyond any embedding's, so that their scores stay finite.

    Rows that hold NaN or infinite values become NaN.
    """
    return x * (LARGEST / x.abs().amax(1, keepdim=True)).clamp(max=1.0)


def refuse_bad_rows(x: Tensor, unit: bool = False) -> None:
    """Refuse embeddings that are not finite, whose squares are not, or that have not unit length.

    Args:
        x: (n, D).
        unit: whether they must be unit vectors.

    Raises:
        ValueError: naming the first bad row and its value.
    """
    length = x.square().sum(1)
    if not torch.isfinite(length).all():
        row = int((~torch.isfinite(length)).nonzero()[0, 0])
        value = float(x[row, int(x[row].abs().nan_to_num(nan=torch.inf).argmax())])
        raise ValueError(
            f"Embeddings must be finite, got {value} in row {row}. Look at the image that it comes from; "
            "a backbone in half precision can overflow."
        )
    off = (length - 1.0).abs() > UNIT_TOLERANCE
    if unit and off.any():
        row = int(off.nonzero()[0, 0])
        raise ValueError(
            f"Embeddings must be unit vectors for von Mises–Fisher components, got length {float(length[row].sqrt())} "
            f"in row {row}. Normalise them, and leave out zero vectors."
        )
