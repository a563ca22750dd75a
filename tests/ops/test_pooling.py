# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Image scores against NumPy, one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_dpmm_ad.ops.pooling import POOLING_METHODS, pool_image_score


def _slow(values: np.ndarray, method: str) -> float:
    if values.size == 0:
        return 0.0
    count = {"max": 1, "mean": values.size, "top1pct": -(-values.size // 100), "top01pct": -(-values.size // 1000)}[
        method
    ]
    return float(np.sort(values)[-count:].mean())


@pytest.mark.parametrize("method", POOLING_METHODS)
@pytest.mark.parametrize("shape", [(5, 32, 32), (5, 4, 6), (5, 9, 8, 7)])
def test_every_method_equals_numpy_with_uneven_foregrounds(method, shape):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(shape, generator=generator)
    valid = torch.rand(shape, generator=generator) < torch.tensor([0.0, 0.02, 0.3, 0.9, 1.0]).view(
        -1, *[1] * (len(shape) - 1)
    )
    expected = [_slow(m[v].numpy(), method) for m, v in zip(maps, valid, strict=True)]
    np.testing.assert_allclose(pool_image_score(maps, valid, method), expected, rtol=1e-5)


@pytest.mark.parametrize("method", POOLING_METHODS)
def test_scores_outside_the_foreground_and_order_do_not_matter(method):
    maps = torch.rand(2, 8, 8)
    valid = maps > 0.5
    changed = torch.where(valid, maps, 1e9)
    assert torch.equal(pool_image_score(maps, valid, method), pool_image_score(changed, valid, method))
    turned = pool_image_score(maps.flip(1), valid.flip(1), method)
    torch.testing.assert_close(pool_image_score(maps, valid, method), turned)
    everything = pool_image_score(maps, torch.ones_like(valid), method)
    torch.testing.assert_close(pool_image_score(maps, method=method), everything)


def test_methods_are_ordered():
    maps = torch.rand(4, 20, 20)
    mean, top, highest = (pool_image_score(maps, method=m) for m in ("mean", "top1pct", "max"))
    assert (mean < top).all()
    assert (top <= highest).all()


def test_empty_batch_gives_no_scores():
    assert pool_image_score(torch.zeros(0, 4, 4)).shape == (0,)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="Did you mean 'top1pct'"):
        pool_image_score(torch.ones(1, 2, 2), method="top1")
    with pytest.raises(ValueError, match=r"must have shape \(B, \*spatial\)"):
        pool_image_score(torch.ones(3))
    with pytest.raises(ValueError, match="must have the map's shape"):
        pool_image_score(torch.ones(1, 2, 2), torch.ones(1, 2, 3))
