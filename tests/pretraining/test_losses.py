# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from monai_dpmm_ad.pretraining.losses import (
    compute_contrast,
    compute_distillation,
    compute_entropy,
    compute_koleo,
    compute_lesion_loss,
)


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_contrast_of_equal_tokens_is_guessing_and_of_matching_ones_is_small():
    same = unit(1, 8).expand(16, 8)
    nothing = torch.zeros(16, 16, dtype=torch.bool)
    assert compute_contrast(same, same, nothing, 0.1)[0].item() == pytest.approx(math.log(16), rel=1e-4)
    eye = torch.eye(16)
    loss, accuracy = compute_contrast(eye, eye, nothing, 0.1)
    assert loss < 0.01
    assert accuracy == 1


def test_contrast_ignores_excluded_pairs():
    tokens = unit(6, 4)
    duplicated = torch.cat([tokens, tokens])
    excluded = torch.eye(6, dtype=torch.bool).repeat(2, 2) & ~torch.eye(12, dtype=torch.bool)
    plain, _ = compute_contrast(tokens, tokens, torch.zeros(6, 6, dtype=torch.bool), 0.1)
    with_twins, _ = compute_contrast(duplicated, duplicated, excluded, 0.1)
    # Each row still has its other negatives, twice over.
    logits = tokens @ tokens.T / 0.1
    expected = torch.logsumexp(
        torch.cat([logits, logits.masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)], 1), 1
    )
    torch.testing.assert_close(with_twins, (expected - logits.diagonal()).mean())
    assert with_twins > plain


def lesion_loss(queries, changed, support, allowed=None):
    allowed = torch.ones(len(queries), len(support), dtype=torch.bool) if allowed is None else allowed
    return compute_lesion_loss(queries, changed, support, allowed, torch.tensor(10.0), torch.tensor(0.5))


def test_lesion_loss_falls_as_changed_patches_leave_the_support():
    support = torch.eye(8)[:4]
    changed = torch.tensor([True, True, False, False])
    far = torch.eye(8)[[6, 7, 0, 1]]
    near = torch.eye(8)[[2, 3, 0, 1]]
    (low, right), (high, _) = lesion_loss(far, changed, support), lesion_loss(near, changed, support)
    assert low < high
    assert right == 1


def test_lesion_loss_looks_only_where_it_is_allowed_to():
    support = torch.eye(8)[:4]
    changed = torch.tensor([False, True])
    queries = torch.eye(8)[[0, 6]]
    allowed = torch.tensor([[False, True, True, True], [True] * 4])
    own, _ = lesion_loss(queries, changed, support, allowed)
    other, _ = lesion_loss(queries, changed, support)
    assert own > other


@pytest.mark.parametrize("value", [True, False])
def test_lesion_loss_of_one_class_is_zero_and_still_has_a_gradient(value):
    queries = unit(4, 8).requires_grad_()
    loss, _ = lesion_loss(queries, torch.full((4,), value), unit(3, 8, seed=1))
    loss.backward()
    assert loss == 0
    assert (queries.grad == 0).all()


def test_distillation_is_least_where_student_follows_teacher():
    teacher = unit(32, 8)
    centre = torch.zeros(8)
    follows = compute_distillation(teacher, teacher, centre, (0.1, 0.1))
    assert follows < compute_distillation(unit(32, 8, seed=1), teacher, centre, (0.1, 0.1))
    target = torch.softmax(teacher / 0.1, 1)
    torch.testing.assert_close(follows, -(target * target.log()).sum(1).mean())


def test_entropy_tells_both_kinds_of_collapse():
    centre = torch.zeros(8)
    one_prototype = torch.zeros(64, 8)
    one_prototype[:, 0] = 1
    spread, _ = compute_entropy(one_prototype, centre, 0.05)
    assert spread < 0.01
    _, sharpness = compute_entropy(torch.zeros(64, 8), centre, 0.05)
    assert sharpness.item() == pytest.approx(math.log(8), rel=1e-4)


def test_koleo_prefers_spread_tokens():
    assert compute_koleo(torch.eye(8)) < compute_koleo(F.normalize(torch.eye(8) * 0.1 + 1, dim=-1))
