# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pretraining.heads import draw_head

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.pretraining.data import join_pools, load_slices, make_pool


@pytest.fixture
def head():
    return draw_head(np.random.default_rng(0))


def test_sizes_colours_and_depths_are_mixed_freely(head, tmp_path):
    Image.fromarray(head).save(tmp_path / "grey.png")
    Image.fromarray(np.repeat(head[..., None], 3, 2)).save(tmp_path / "rgb.png")
    Image.fromarray(head.astype(np.uint16) * 200).save(tmp_path / "deep.png")
    Image.fromarray(head).resize((517, 900)).save(tmp_path / "large.jpg")
    Image.fromarray(head).resize((20, 20)).save(tmp_path / "tiny.png")
    pool, failures = load_slices(tmp_path, 64, True, "median")
    assert not failures
    assert pool.pixels.shape == (5, 64, 64)
    assert (pool.frames.max(1) == 64).all()
    medians = [np.median(plane[plane > 0]) / 255 for plane in pool.pixels]
    np.testing.assert_allclose(medians, 1 / 3, atol=0.04)
    deep, grey, rgb = (plane.astype(int) for plane in pool.pixels[[0, 1, 3]])
    assert np.abs(grey - rgb).max() <= 1
    assert np.abs(grey - deep).max() <= 2


def test_one_grey_value_is_left_out_and_named(head, tmp_path):
    Image.fromarray(head).save(tmp_path / "good.png")
    Image.fromarray(np.full((64, 64), 80, np.uint8)).save(tmp_path / "flat.png")
    pool, failures = load_slices(tmp_path, 64, True, "median")
    assert len(pool) == 1
    assert [failure.path.rsplit("/", 1)[1] for failure in failures] == ["flat.png"]


def test_nothing_usable_is_an_error(tmp_path):
    Image.fromarray(np.full((64, 64), 80, np.uint8)).save(tmp_path / "flat.png")
    with pytest.raises(ValueError, match=r"at least one usable scan, got 1, all refused: .*flat\.png"):
        load_slices(tmp_path, 64, True, "median")


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(ScanError, match="nowhere: no such file or folder"):
        load_slices(tmp_path / "nowhere", 64, True, "median")


def test_volume_gives_slices_of_three_planes_without_marked_ones(head, tmp_path):
    volume = np.repeat(head[..., None].astype(np.float32), 40, 2)
    volume[..., :6] = 0
    volume[..., -6:] = 0
    nib.save(nib.Nifti1Image(volume, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "scan.nii.gz")
    pool, _ = load_slices(tmp_path / "scan.nii.gz", 64, False, "median")
    axial = (pool.frames.min(1) > 50).sum()
    assert axial == 28
    assert len(pool) > 2 * axial
    assert not pool.clean.any()


def test_fewer_slices_than_a_batch_is_an_error(head, make_recipe, tmp_path):
    Image.fromarray(head).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match="at least a batch of 4 slices, got 1"):
        make_pool(tmp_path, make_recipe())


@pytest.mark.filterwarnings("ignore:axcodes")  # MONAI, of every picture
def test_left_out_scans_are_warned_of(head, make_recipe, tmp_path):
    for index in range(4):
        Image.fromarray(np.roll(head, index)).save(tmp_path / f"{index}.png")
    Image.fromarray(np.full((64, 64), 80, np.uint8)).save(tmp_path / "flat.png")
    with pytest.warns(UserWarning, match=r"left out: .*flat\.png"):
        assert len(make_pool(tmp_path, make_recipe())) == 4


def test_shares_decide_how_often_a_pool_is_drawn(pool, generator):
    joined = join_pools([(pool, 0.9), (pool, 0.1)])
    first = joined.shares[: len(pool)].sum() / joined.shares.sum()
    assert first == pytest.approx(0.9)
    drawn = joined.draw(300, generator)
    assert drawn.images.shape == (300, 1, 64, 64)
    assert drawn.frames.shape == (300, 2)
    assert not drawn.crossed.any()
    assert float(drawn.clean.float().mean()) == pytest.approx(2 / 3, abs=0.12)
