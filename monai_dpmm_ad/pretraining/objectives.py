# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""One step's loss: views of a batch of slices through student and teacher, and the objectives, weighed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from monai_dpmm_ad.pretraining.batch import Batch
from monai_dpmm_ad.pretraining.implants import implant_lesions, measure_change
from monai_dpmm_ad.pretraining.losses import (
    compute_contrast,
    compute_distillation,
    compute_entropy,
    compute_koleo,
    compute_lesion_loss,
)
from monai_dpmm_ad.pretraining.model import PretrainModel, encode_views
from monai_dpmm_ad.pretraining.recipe import Recipe
from monai_dpmm_ad.pretraining.views import Views, augment_intensity, match_patches, sample_view_pair

__all__ = ["StepViews", "compute_loss", "make_step_views"]

_CHANGED, _UNCHANGED = 0.015, 0.002  # mean absolute change of a patch's intensity, where tissue is near 1/3
_LESION_SHARE = 0.8  # of the clean slices
_WHOLE_ZOOM = (0.9, 1.15)  # slice pixels per view pixel of whole slices
_MASKED_SHARE = 0.3  # of the patches of every second view
_NEIGHBOUR = 14.0  # pixels of the slice within which two patches are no negatives of each other
# Patches that a step compares: a share of all patches of the first views, up to a number. More pairs in a large batch
# would mostly add negatives that are the same anatomy of another person.
_PAIRS, _LESION_QUERIES, _CLEAN_QUERIES, _SUPPORT = (0.22, 2048), (0.11, 2048), (0.22, 4096), (1.0, 16384)
_TEMPERATURES = (0.1, 0.05)  # of student and teacher


@dataclass(frozen=True)
class StepViews:
    """Two views of each slice of a batch, ready for the network.

    Args:
        views: ``2B`` views, all first ones before all second ones.
        tissue: ``(2B, n)`` boolean, patches that are mostly foreground.
        changed: ``(B, n)`` boolean, patches of the first views that a lesion changed.
        unchanged: ``(B, n)`` boolean, patches of the first views that none touches.
        partner: ``(B, n)`` index of the patch of the second view at the same place.
        paired: ``(B, n)`` boolean, whether there is one, unchanged and tissue on both sides.
        clean: ``(B,)`` boolean, whether the slice is taken to show no lesion of its own.
        groups: ``(B,)`` see `Batch`.
        crossed: ``(B,)`` boolean, whether the second view has another contrast.
    """

    views: Views
    tissue: Tensor
    changed: Tensor
    unchanged: Tensor
    partner: Tensor
    paired: Tensor
    clean: Tensor
    groups: Tensor
    crossed: Tensor


def make_step_views(batch: Batch, recipe: Recipe, generator: Generator, whole: bool = False) -> StepViews:
    """Cut, implant and augment.

    Args:
        batch: the slices.
        recipe: the settings.
        generator: source of randomness.
        whole: whether views are whole slices.
    """
    size, patch = recipe.image_size if whole else recipe.view_size, recipe.patch_size
    zoom = _WHOLE_ZOOM if whole else (recipe.min_zoom, recipe.max_zoom)
    one, two = sample_view_pair(
        batch.images, batch.others, batch.frames, size, patch, zoom, recipe.position_shift, generator
    )
    share = _LESION_SHARE if recipe.lesions else 0.0
    chosen = batch.clean & (torch.rand(len(batch.clean), generator=generator, device=generator.device) < share)
    marked, around = implant_lesions(one.images, torch.linalg.det(one.rotation).abs().sqrt(), chosen, generator)
    tissue = torch.cat([F.avg_pool2d((v.images > 0).float(), patch).flatten(1) > 0.5 for v in (one, two)])
    partner, found = match_patches(one, two, patch)
    unchanged = measure_change(one.images, marked, patch) < _UNCHANGED
    # What a lesion only pushes aside is neither lesion nor untouched.
    changed = measure_change(around, marked, patch) > _CHANGED
    first, second = tissue.chunk(2)
    paired = found & first & unchanged & second.gather(1, partner)
    both = _stack(
        replace(one, images=augment_intensity(marked, generator)),
        replace(two, images=augment_intensity(two.images, generator)),
    )
    return StepViews(both, tissue, changed, unchanged, partner, paired, batch.clean, batch.groups, batch.crossed)


def compute_loss(
    student: PretrainModel,
    teacher: PretrainModel,
    centre: Tensor,
    step: StepViews,
    recipe: Recipe,
    generator: Generator,
) -> tuple[Tensor, dict[str, float]]:
    """Compute the weighted sum of the recipe's objectives.

    Args:
        student: the network to train.
        teacher: its mean, without gradients; only the distillation asks it.
        centre: ``(C,)`` running mean of the teacher's prototype scores, updated in place.
        step: the views.
        recipe: the settings.
        generator: source of randomness.

    Returns:
        The loss, and its parts with what tells of collapse, as numbers.
    """
    masked = _draw_masked(step, generator) if recipe.distillation else None
    tokens, cls = _encode(student, step.views, recipe, masked)
    visible = step.paired
    if masked is not None:
        first, second = masked.chunk(2)
        visible = visible & ~first & ~second.gather(1, step.partner)
    rows, columns = _draw_pairs(visible, step.partner, generator)
    loss, report = tokens.new_zeros(()), {}
    if recipe.contrast:
        value, accuracy = _contrast(student, tokens, rows, columns, step, recipe.temperature)
        loss, report = loss + recipe.contrast * value, {"contrast": value, "pairs_found": accuracy}
    if recipe.lesions:
        value, accuracy = _lesions(student, tokens, step, masked, generator)
        loss = loss + recipe.lesions * value
        report |= {"lesions": value, "lesions_found": accuracy}
    if recipe.distillation and masked is not None:
        value, parts = _distill(student, teacher, centre, step.views, (tokens, cls), masked, (rows, columns), recipe)
        spread = compute_koleo(F.normalize(cls.chunk(2)[0].float(), dim=-1))
        loss = loss + recipe.distillation * (value + recipe.koleo * spread)
        report |= {"distillation": value, "koleo": spread, **parts}
    return loss, {name: float(value.detach()) for name, value in {"loss": loss, **report}.items()}


def _encode(model: PretrainModel, views: Views, recipe: Recipe, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run the backbone in the recipe's precision; all losses are in float32, since cosines are divided by 0.05."""
    with torch.autocast(views.images.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        return encode_views(model.backbone, views, masked)


def _stack(one: Views, two: Views) -> Views:
    return Views(*(torch.cat([getattr(one, name), getattr(two, name)]) for name in Views.__dataclass_fields__))


def _pick(mask: Tensor, wanted: tuple[float, int], patches: int, generator: Generator) -> Tensor:
    """Draw flat indices of true elements: up to a share of ``patches``, up to a number."""
    count = min(round(wanted[0] * patches), wanted[1])
    index = mask.flatten().nonzero()[:, 0]
    return index[torch.randperm(len(index), generator=generator, device=generator.device)[:count]]


def _draw_masked(step: StepViews, generator: Generator) -> Tensor:
    """Choose tissue patches to hide in about half of the views."""
    shape = step.tissue.shape
    patches = torch.rand(shape, generator=generator, device=generator.device) < _MASKED_SHARE
    views = torch.rand((shape[0], 1), generator=generator, device=generator.device) < 0.5
    return patches & views & step.tissue


def _draw_pairs(visible: Tensor, partner: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Flat indices of patches of the first views and of their partners in the second ones."""
    rows = _pick(visible, _PAIRS, visible.numel(), generator)
    patches = visible.shape[1]
    return rows, rows // patches * patches + partner.flatten()[rows]


def _contrast(
    student: PretrainModel, tokens: Tensor, rows: Tensor, columns: Tensor, step: StepViews, temperature: float
) -> tuple[Tensor, Tensor]:
    first, second = tokens.chunk(2)
    if not len(rows):
        return 0.0 * tokens.sum(), tokens.new_zeros(())
    one, two = (
        F.normalize(student.projection(half.flatten(0, 1)[index]).float(), dim=-1)
        for half, index in ((first, rows), (second, columns))
    )
    owners = rows // first.shape[1]
    places = step.views.places[: len(first)].flatten(0, 2)[rows]
    near = (owners[:, None] == owners[None]) & (torch.cdist(places, places) < _NEIGHBOUR)
    return compute_contrast(one, two, near.fill_diagonal_(False), temperature)


def _lesions(
    student: PretrainModel, tokens: Tensor, step: StepViews, masked: Tensor | None, generator: Generator
) -> tuple[Tensor, Tensor]:
    usable = step.tissue & torch.cat([step.clean, step.clean])[:, None]
    if masked is not None:
        usable = usable & ~masked
    first, second = usable.chunk(2)
    total = first.numel()
    changed = _pick(first & step.changed, _LESION_QUERIES, total, generator)
    same = _pick(first & step.unchanged, _CLEAN_QUERIES, total, generator)
    # Healthy tissue of the same contrast: in the second views, or in the first ones where the second's is another.
    crossed = step.crossed[:, None]
    healthy = torch.cat([first & step.unchanged & crossed, second & ~crossed])
    support = _pick(healthy, _SUPPORT, total, generator)
    queries = torch.cat([changed, same])
    patches, count = first.shape[1], len(first)
    flat = F.normalize(tokens.float(), dim=-1).flatten(0, 1)
    owners, support_owners = queries // patches, support // patches % count
    groups, support_groups = step.groups[owners], step.groups[support_owners]
    allowed = (owners[:, None] != support_owners[None]) & (groups[:, None] == support_groups[None])
    is_changed = torch.arange(len(queries), device=queries.device) < len(changed)
    return compute_lesion_loss(
        flat[queries], is_changed, flat[support], allowed, student.log_scale.exp(), student.offset
    )


def _distill(
    student: PretrainModel,
    teacher: PretrainModel,
    centre: Tensor,
    views: Views,
    embedded: tuple[Tensor, Tensor],
    masked: Tensor,
    pairs: tuple[Tensor, Tensor],
    recipe: Recipe,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean of three distillations: CLS across views, hidden patches within a view, visible patches across views."""
    (tokens, cls), (rows, columns) = embedded, pairs
    with torch.no_grad():
        whole_tokens, whole_cls = _encode(teacher, views, recipe)
        other = teacher.prototypes(torch.cat(whole_cls.chunk(2)[::-1]))
        hidden = teacher.prototypes(whole_tokens[masked])
        same_place = teacher.prototypes(whole_tokens.chunk(2)[1].flatten(0, 1)[columns])
    losses = [
        compute_distillation(student.prototypes(ours), theirs, centre, _TEMPERATURES)
        for ours, theirs in (
            (cls, other),
            (tokens[masked], hidden),
            (tokens.chunk(2)[0].flatten(0, 1)[rows], same_place),
        )
        if len(theirs)
    ]
    targets = torch.cat([other, hidden, same_place])
    spread, sharpness = compute_entropy(targets, centre, _TEMPERATURES[1])
    centre.lerp_(targets.mean(0), 0.1)
    return torch.stack(losses).mean(), {"teacher_entropy": spread, "target_entropy": sharpness}
