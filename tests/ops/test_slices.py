# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Slices of a volume and back."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_dpmm_ad.ops.slices import (
    AXES,
    assemble_slices,
    blend_slices,
    check_axes,
    extract_slices,
    slice_step,
    thin_slices,
)

sizes = st.integers(1, 6)


@given(channels=sizes, p=sizes, l=sizes, i=sizes, axis=st.sampled_from(sorted(AXES)))
def test_assembling_undoes_extracting(channels, p, l, i, axis):  # noqa: E741
    volume = torch.arange(channels * p * l * i).reshape(channels, p, l, i)
    slices = extract_slices(volume, axis)
    assert slices.shape[0] == {"axial": i, "coronal": p, "sagittal": l}[axis]
    assert slices.shape[1] == channels
    assert torch.equal(assemble_slices(slices, axis), volume)


@given(n=sizes, channels=sizes, rows=sizes, columns=sizes, axis=st.sampled_from(sorted(AXES)))
def test_extracting_undoes_assembling(n, channels, rows, columns, axis):
    slices = torch.arange(n * channels * rows * columns).reshape(n, channels, rows, columns)
    assert torch.equal(extract_slices(assemble_slices(slices, axis), axis), slices)


def test_slices_are_upright():
    # Marks at the front (P = 0), the patient's right (L = 0) and the top (I = 0) land at the top or the left.
    volume = torch.zeros(3, 4, 5, 6)
    volume[0, 0], volume[1, :, 0], volume[2, :, :, 0] = 1, 1, 1
    axial, coronal, sagittal = (extract_slices(volume, axis) for axis in ("axial", "coronal", "sagittal"))
    assert axial.shape == (6, 3, 4, 5)
    assert axial[3, 0, 0].all()  # front on top
    assert axial[3, 1, :, 0].all()  # right on the left
    assert coronal.shape == (4, 3, 6, 5)
    assert coronal[2, 2, 0].all()  # top on top
    assert coronal[2, 1, :, 0].all()  # right on the left
    assert sagittal.shape == (5, 3, 6, 4)
    assert sagittal[2, 2, 0].all()  # top on top
    assert sagittal[2, 0, :, 0].all()  # front on the left


def test_unknown_axis_names_the_nearest():
    with pytest.raises(ValueError, match=r"`axis` must be one of .*Did you mean 'axial'"):
        extract_slices(torch.zeros(1, 2, 2, 2), "axiall")
    with pytest.raises(ValueError, match="`axis` must be one of"):
        assemble_slices(torch.zeros(1, 2, 2, 2), "x")


def test_an_axis_is_named_once():
    with pytest.raises(ValueError, match="`axes` must name each axis once, got axial, axial"):
        check_axes(["axial", "axial"])


def test_wrong_number_of_dimensions():
    with pytest.raises(ValueError, match=r"`volume` must have shape \(C, P, L, I\), got \(2, 2, 2\)"):
        extract_slices(torch.zeros(2, 2, 2), "axial")
    with pytest.raises(ValueError, match="`slices` must have shape"):
        assemble_slices(torch.zeros(2, 2, 2), "axial")


@pytest.mark.parametrize(("spacing", "axial", "sagittal"), [(None, 1, 1), (0, 1, 1), (0.05, 5, 1), (1.0, 100, 20)])
def test_the_step_keeps_the_distance_in_mm(spacing, axial, sagittal):
    shape, sizes = (50, 10, 80), torch.tensor([2.0, 5.0, 1.0])  # slices of 100 × 50 and 100 × 80 mm
    assert slice_step(shape, sizes, "axial", spacing) == axial
    assert slice_step(shape, sizes, "sagittal", spacing) == sagittal


@pytest.mark.parametrize("depth", [0.0, float("nan"), float("inf")])
def test_every_slice_is_taken_where_sizes_are_senseless(depth):
    assert slice_step((5, 5, 5), torch.tensor([1.0, 1.0, depth]), "axial", 0.5) == 1


@given(number=st.integers(0, 40), step=st.integers(1, 50))
def test_thinned_slices_leave_less_than_a_step_at_either_end(number, step):
    kept = thin_slices(range(number), step)
    assert bool(kept) == bool(number)
    if kept:
        ends = kept[0], number - 1 - kept[-1]
        assert max(ends) < step
        assert abs(ends[0] - ends[1]) <= 1
        assert all(b - a == step for a, b in itertools.pairwise(kept))


@given(seed=st.integers(0, 99), distance=st.integers(1, 5))
def test_a_blend_stays_between_its_neighbours(seed, distance):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, 1, 7, 9, generator=generator) + 1
    inside = torch.rand(2, 1, 7, 9, generator=generator) < 0.4
    inside[0, 0, 3, 3] = True
    foreground = torch.rand(1, 7, 9, generator=generator) < 0.8
    blended = blend_slices(maps * inside, inside, [distance, 1], foreground)
    known = maps[inside]
    assert not blended[~foreground].any()
    assert (blended[foreground] >= known.min() - 1e-5).all()
    assert (blended[foreground] <= known.max() + 1e-5).all()
    both = inside.all(0) & foreground
    expected = (maps[0] + distance * maps[1]) / (1 + distance)
    torch.testing.assert_close(blended[both], expected[both])
