# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What defines a pre-training: every number that the result depends on, beside the images."""

from __future__ import annotations

from dataclasses import dataclass, fields

from monai_dpmm_ad.errors import unknown_option

__all__ = ["Recipe"]

PRECISIONS = ("bf16", "fp32")


@dataclass(frozen=True)
class Recipe:
    """A pre-training's settings. The weights that ship as ``compact`` are of an earlier recipe, see their model card.

    Args:
        image_size: longer side of the slices in pixels, a multiple of ``patch_size``; position embeddings are made for
            it.
        view_size: side of the square views that the network is trained on, a multiple of ``patch_size``.
        patch_size: side of a patch in pixels.
        embed_dim: embedding dimension, a multiple of ``num_heads``.
        num_layers: transformer blocks.
        num_heads: attention heads.
        mlp_ratio: width of the MLPs over ``embed_dim``.
        steps: optimiser steps. The one setting that may change when a training is continued.
        batch_size: slices per step and process; two views of each.
        learning_rate: AdamW's, at its highest; see ``compute_schedule``.
        weight_decay: AdamW's, on matrices only.
        contrast: weight of the dense contrast between two views.
        lesions: weight of the objective that a patch under a synthetic lesion be unlike clean patches.
        distillation: weight of DINO (CLS), iBOT (hidden patches) and their patch-to-patch counterpart.
        koleo: weight of the KoLeo term within the distillation.
        projection_dim: dimension in which tokens are contrasted; 0 contrasts the tokens themselves.
        num_prototypes: prototypes of the distillation.
        temperature: of the contrast.
        momentum: how slowly the teacher, whose weights are kept, follows: over about the last 1 / (1 - momentum) steps.
        min_zoom: least number of slice pixels per view pixel.
        max_zoom: greatest number of slice pixels per view pixel.
        position_shift: greatest random shift of a view's positions, relative to the slice.
        synthetic_share: share of steps whose slices are rendered from label maps; 0 for none.
        cross_share: share of rendered groups whose two views have different contrasts.
        whole_share: share of steps whose views are whole slices, as at inference; they have fewer slices, so that a
            step costs about the same.
        mixed_share: share of the other steps' draws that falls to images that may show lesions, where there are any.
        intensity: see ``ScaleIntensityForeground``.
        precision: ``"bf16"`` (autocast) or ``"fp32"``.
        seed: of everything random.

    Raises:
        ValueError: when a value is out of range or two do not fit together.
    """

    image_size: int = 224
    view_size: int = 112
    patch_size: int = 8
    embed_dim: int = 192
    num_layers: int = 4
    num_heads: int = 3
    mlp_ratio: int = 4
    steps: int = 1400
    batch_size: int = 24
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    contrast: float = 1.0
    lesions: float = 5.0
    distillation: float = 0.0
    koleo: float = 0.1
    projection_dim: int = 128
    num_prototypes: int = 1024
    temperature: float = 0.1
    momentum: float = 0.996
    min_zoom: float = 0.5
    max_zoom: float = 1.5
    position_shift: float = 0.2
    synthetic_share: float = 0.4
    cross_share: float = 0.4
    whole_share: float = 0.3
    mixed_share: float = 0.25
    intensity: str = "median"
    precision: str = "bf16"
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_ranges()
        for name in ("image_size", "view_size"):
            if getattr(self, name) % self.patch_size:
                raise ValueError(
                    f"`{name}` must be a multiple of `patch_size`, got {getattr(self, name)} and {self.patch_size}."
                )
        if self.view_size < 4 * self.patch_size:
            raise ValueError(f"`view_size` must be at least four patches, got {self.view_size} of {self.patch_size}.")
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"`embed_dim` must be a multiple of `num_heads`, got {self.embed_dim} and {self.num_heads}."
            )
        if not 0 < self.min_zoom <= self.max_zoom:
            raise ValueError(f"`min_zoom` must be positive and at most `max_zoom`, got {self.min_zoom}.")
        if not self.contrast + self.distillation > 0:
            raise ValueError("`contrast` or `distillation` must be positive, got 0 for both: nothing would be learned.")
        if self.precision not in PRECISIONS:
            raise unknown_option("precision", self.precision, PRECISIONS)

    def _check_ranges(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if kind is str:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else int):
                raise TypeError(f"`{field.name}` must be of type {kind.__name__}, got {value!r}.")
            least = 0 if field.name in _MAY_BE_ZERO else 1 if kind is int else 1e-12
            if not value >= least:
                raise ValueError(f"`{field.name}` must be {'not negative' if least == 0 else 'positive'}, got {value}.")
        for name in ("momentum", "synthetic_share", "cross_share", "whole_share", "mixed_share"):
            if not getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be at most 1, got {getattr(self, name)}.")


_MAY_BE_ZERO = {
    "momentum",
    "weight_decay",
    "contrast",
    "lesions",
    "distillation",
    "koleo",
    "position_shift",
    "projection_dim",
    "synthetic_share",
    "cross_share",
    "whole_share",
    "mixed_share",
    "seed",
}
