# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The networks of pre-training: a DINOv2 backbone run on views, projection and prototype heads."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model

from monai_dpmm_ad.pretraining.views import Views

__all__ = ["PretrainModel", "build_backbone", "encode_views", "update_teacher"]

#: Intensities to network input: tissue median 1/3 near 0.
IMAGE_MEAN, IMAGE_STD = 0.3, 0.2


def build_backbone(
    embed_dim: int, num_layers: int, num_heads: int, patch_size: int, mlp_ratio: int, image_size: int
) -> Dinov2Model:
    """Make an untrained backbone in the Hugging Face format.

    Args:
        embed_dim: embedding dimension, a multiple of ``num_heads``.
        num_layers: transformer blocks.
        num_heads: attention heads.
        patch_size: side of a patch in pixels.
        mlp_ratio: width of the MLPs over ``embed_dim``.
        image_size: side of the images that the position embeddings are made for, a multiple of ``patch_size``.

    Returns:
        The backbone, in training mode.
    """
    config = Dinov2Config(
        hidden_size=embed_dim,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        patch_size=patch_size,
        mlp_ratio=mlp_ratio,
        image_size=image_size,
        layerscale_value=0.2,
        num_channels=3,
    )
    backbone = Dinov2Model(config)
    backbone.set_attn_implementation("eager")  # on a CPU faster to train than the fused kernel, at a few hundred tokens
    nn.init.trunc_normal_(backbone.embeddings.position_embeddings, std=0.02)
    nn.init.trunc_normal_(backbone.embeddings.cls_token, std=0.02)
    return backbone.train()


def encode_views(backbone: Dinov2Model, views: Views, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Embed views whose patches keep the position embeddings of their places in the slice.

    So a small view costs little, and the position embeddings mean at inference on whole slices what they meant here.

    Args:
        backbone: the network.
        views: the views.
        masked: ``(B, h·w)`` boolean, patches to hide from the network.

    Returns:
        Patch tokens ``(B, h·w, D)`` and CLS tokens ``(B, D)`` after the final LayerNorm.
    """
    parts, count = backbone.embeddings, len(views.images)
    # One grey channel three times over: the sum of the filters over channels does the same at a third of the work.
    projection = parts.patch_embeddings.projection
    pixels = (views.images - IMAGE_MEAN) / IMAGE_STD
    tokens = F.conv2d(pixels, projection.weight.sum(1, keepdim=True), projection.bias, stride=projection.stride)
    tokens = tokens.flatten(2).transpose(1, 2)
    if masked is not None:
        hidden_token: Tensor = parts.mask_token  # type: ignore[assignment]
        tokens = torch.where(masked[..., None], hidden_token.to(tokens.dtype), tokens)
    tokens = tokens + _look_up_positions(parts.position_embeddings, views.positions).to(tokens.dtype)
    cls = (parts.cls_token + parts.position_embeddings[:, :1]).expand(count, -1, -1).to(tokens.dtype)
    hidden = backbone.encoder(torch.cat([cls, tokens], 1)).last_hidden_state
    hidden = backbone.layernorm(hidden.float())
    return hidden[:, 1:], hidden[:, 0]


def _look_up_positions(embeddings: Tensor, positions: Tensor) -> Tensor:
    """Interpolate the grid of position embeddings ``(1, 1 + g², D)`` at relative places: (B, h·w, D)."""
    side, dim = round((embeddings.shape[1] - 1) ** 0.5), embeddings.shape[2]
    grid = embeddings[:, 1:].reshape(1, side, side, dim).permute(0, 3, 1, 2)
    where = (2 * positions.flatten(0, 1) - 1).flip(-1)[None]
    found = F.grid_sample(grid, where, mode="bilinear", padding_mode="border", align_corners=False)
    return found[0].permute(1, 2, 0).reshape(len(positions), -1, dim)


class PretrainModel(nn.Module):
    """A student backbone and its heads; the teacher is a copy of this module that follows its mean.

    Args:
        backbone: the network to train.
        projection_dim: output of the contrastive projection; 0 contrasts the tokens themselves.
        num_prototypes: outputs of the distillation head, shared by CLS and patches.
    """

    def __init__(self, backbone: Dinov2Model, projection_dim: int, num_prototypes: int) -> None:
        super().__init__()
        dim = backbone.config.hidden_size
        self.backbone = backbone
        self.projection = (
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, projection_dim))
            if projection_dim
            else nn.Identity()
        )
        self.prototypes = (
            nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, 64), _Prototypes(64, num_prototypes))
            if num_prototypes
            else nn.Identity()
        )
        # How similarity to clean patches becomes the probability of a lesion: see `compute_lesion_loss`.
        self.log_scale = nn.Parameter(torch.tensor(2.3))
        self.offset = nn.Parameter(torch.tensor(0.7))

    def make_teacher(self) -> PretrainModel:
        """Copy this module as a teacher without gradients."""
        return copy.deepcopy(self).requires_grad_(False)


class _Prototypes(nn.Module):
    """Cosine of inputs to learned prototypes."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim))

    def forward(self, inputs: Tensor) -> Tensor:
        return F.normalize(inputs.float(), dim=-1) @ F.normalize(self.weight, dim=-1).T


@torch.no_grad()
def update_teacher(teacher: PretrainModel, student: PretrainModel, momentum: float) -> None:
    """Move the teacher's weights towards the student's: ``t ← momentum t + (1 − momentum) s``."""
    for mean, value in zip(teacher.parameters(), student.parameters(), strict=True):
        mean.lerp_(value, 1 - momentum)
