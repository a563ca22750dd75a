# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Rendered slices: healthy, repeatable, of the contrast asked for, with lesions that are exact."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Generator

from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.pretraining.anatomy import CSF, STRUCTURES, load_label_maps, load_template_labels
from monai_dpmm_ad.pretraining.contrasts import SEQUENCES, draw_contrasts, scale_to_median
from monai_dpmm_ad.pretraining.objectives import make_step_views
from monai_dpmm_ad.pretraining.renderer import Renderer

INDEX = {structure.name: index for index, structure in enumerate(STRUCTURES, 1)}


def draw_map(side: int = 160) -> np.ndarray:
    """A head of nested balls in FreeSurfer's numbers, axes R, A, S: from scalp and bone to ventricle."""
    points = np.stack(np.meshgrid(*[np.arange(side) - side / 2] * 3, indexing="ij"))
    radius = np.sqrt((points**2).sum(0))
    labels = np.zeros((side,) * 3, dtype=np.int16)
    for number, outer in ((511, 76), (515, 70), (24, 66), (3, 60), (2, 50), (4, 15)):
        labels[radius < outer] = number
    labels[side // 2 - 30 : side // 2 - 25, side // 2, side // 2] = 77  # a white-matter lesion of the map
    return labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps")
    nib.save(nib.Nifti1Image(draw_map(), np.eye(4)), path / "ball.nii.gz")
    return path


@pytest.fixture(scope="module")
def renderer(folder):
    return Renderer(load_label_maps(folder), 64)


def test_maps_are_turned_cropped_and_free_of_lesions(tmp_path):
    labels = draw_map()
    labels[:, :60] = 0  # no posterior part: axis A
    nib.save(nib.Nifti1Image(labels, np.diag([1, 1, 1, 1])), tmp_path / "half.nii.gz")
    (found,) = load_label_maps(tmp_path)
    assert found.shape[0] < found.shape[1] == found.shape[2] == 151
    assert found.any((1, 2)).all()
    assert set(np.unique(found)) == {0, *(INDEX[name] for name in (
        "cerebral white matter", "cerebral cortex", "ventricles", "cerebrospinal fluid", "scalp", "bone"))}  # fmt: skip
    front, back = (found[part] > 0 for part in (slice(0, 10), slice(-10, None)))
    assert front.sum() < back.sum()  # rows run to posterior, where the ball was cut


def test_what_is_no_label_map_is_named(tmp_path):
    with pytest.raises(ScanError, match="no label map"):
        load_label_maps(tmp_path)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "empty.nii.gz")
    with pytest.raises(ScanError, match=r"empty\.nii\.gz.*is no label map"):
        load_label_maps(tmp_path)
    (tmp_path / "empty.nii.gz").write_bytes(b"broken")
    with pytest.raises(ScanError, match=r"empty\.nii\.gz"):
        load_label_maps(tmp_path)


def test_template_is_a_brain_without_skull():
    pytest.importorskip("nilearn")
    (labels,) = load_template_labels(2)
    assert set(np.unique(labels)) == {0, 1, 2, CSF}
    batch = Renderer([labels], 64).draw(4, Generator().manual_seed(0))
    assert (batch.images > 0).float().mean() > 0.2


def test_same_seed_same_slices(renderer):
    one, again, other = (renderer.draw(4, Generator().manual_seed(seed), 2) for seed in (3, 3, 4))
    assert torch.equal(one.images, again.images)
    assert torch.equal(one.others, again.others)
    assert not torch.equal(one.images, other.images)


def test_slices_fill_their_frames_and_nothing_else(renderer):
    batch = renderer.draw(16, Generator().manual_seed(0), 4)
    assert (batch.frames.amax(1) == 64).all()
    assert batch.clean.all()
    for image, (height, width) in zip(batch.images[:, 0], batch.frames.int().tolist(), strict=True):
        assert image.min() == 0
        assert image.max() <= 1
        assert not image[height:].any()
        assert not image[:, width:].any()
        rows, columns = (image > 0).any(1).nonzero()[:, 0], (image > 0).any(0).nonzero()[:, 0]
        # The frame is found on a grid of 4 mm.
        assert rows[-1] - rows[0] >= height - 8
        assert columns[-1] - columns[0] >= width - 8


def test_a_stripped_brain_has_neither_skull_nor_scalp(renderer):
    bare = renderer.draw_planes(6, Generator().manual_seed(0), stripped=True).labels
    whole = renderer.draw_planes(6, Generator().manual_seed(0), stripped=False).labels
    outer = [INDEX["scalp"], INDEX["bone"]]
    assert not np.isin(bare.numpy(), outer).any()
    assert all(np.isin(part.numpy(), outer).any() for part in whole)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_sequence_orders_the_tissues(renderer, sequence):
    generator = Generator().manual_seed(1)
    planes = renderer.draw_planes(8, generator, plane=0, stripped=True)
    image = renderer.render(planes, draw_contrasts(1, generator, sequence), generator)[:, 0]
    middle = planes.labels[:, planes.labels.shape[1] // 2]
    white, cortex, fluid = (
        image[middle == INDEX[name]].median() for name in ("cerebral white matter", "cerebral cortex", "ventricles")
    )
    expected = {"T1": fluid < cortex < white, "T2": white < cortex < fluid, "FLAIR": fluid < white < cortex}
    assert expected[sequence]
    assert float(image[image > 0].median()) == pytest.approx(1 / 3, abs=0.08)


def test_second_images_show_the_same_anatomy_in_another_contrast(renderer):
    batch = renderer.draw(8, Generator().manual_seed(0), 2, cross_share=1.0)
    assert batch.crossed.all()
    assert torch.equal(batch.images > 0, batch.others > 0)
    assert (batch.images - batch.others).abs().mean() > 0.01
    same = renderer.draw(8, Generator().manual_seed(0), 2, cross_share=0.0)
    assert not same.crossed.any()
    assert torch.equal(same.images, same.others)


def test_lesion_masks_are_exact_and_the_healthy_side_has_none(renderer, make_recipe):
    generator = Generator().manual_seed(0)
    recipe = make_recipe(whole_share=1.0)
    batch = renderer.draw(8, generator, 2)
    step = make_step_views(batch, recipe, generator, whole=True)
    assert step.views.images.shape[-1] == recipe.image_size
    assert step.changed.any()
    assert not (step.changed & step.unchanged).any()
    healthy = make_step_views(batch, make_recipe(lesions=0.0), generator, whole=True)
    assert not healthy.changed.any()
    assert healthy.unchanged.all()


def test_median_voxel_is_scaled_to_its_target():
    means = torch.tensor([[0.0, 4.0, 2.0, 9.0]])
    counts = torch.tensor([[0.0, 5.0, 4.0, 2.0]])
    torch.testing.assert_close(scale_to_median(means, counts, 0.5), means / 8)


def test_unknown_sequence_is_refused():
    with pytest.raises(ValueError, match=r"`sequence` must be one of .*, got 'T3'"):
        draw_contrasts(1, Generator(), "T3")
