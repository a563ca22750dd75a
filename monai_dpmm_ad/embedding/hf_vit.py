# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Vision transformers of Hugging Face ``transformers`` as frozen embedders."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_dpmm_ad.embedding.base import Embedder
from monai_dpmm_ad.embedding.hf_files import locate_backbone, read_normalization
from monai_dpmm_ad.embedding.hf_model import final_norm, load_model, square_patch
from monai_dpmm_ad.embedding.types import PatchEmbeddings
from monai_dpmm_ad.errors import CheckpointError, unknown_option
from monai_dpmm_ad.ops.patches import pad_to_multiple
from monai_dpmm_ad.ops.precision import supports_bfloat16

__all__ = ["HFViTEmbedder"]

QUARTERS = "quarters"


class HFViTEmbedder(Embedder):
    """Embed slices with a vision transformer in the Hugging Face format.

    Taken are ``Dinov2Model``, ``Dinov2WithRegistersModel``, ``DINOv3ViTModel``, and any other encoder of transformers
    that behaves alike (``ViTModel``, ``DeiTModel``, …): one forward pass at construction checks it. Patch size, prefix
    tokens (CLS and registers) and input normalisation come from the backbone's own files; images of any size are
    padded at the bottom and the right to whole patches, and position embeddings interpolate.

    The backbone is frozen, always in evaluation mode, runs without gradients, and its weights are left out of
    ``state_dict``; it moves with ``.to(device)``. Blocks behind the last stage asked for are removed.

    Speed, in slices a second against a plain float32 call of transformers, one thread of an AMD EPYC 9004, bfloat16,
    before layers were packed: ViT-Ti/14 1.9 times at 224×224 and 1.6 at 448×448, ViT-S/14 at 448×448 1.9 times; mean
    cosine distance of the embeddings 2e-6. With torch's fused attention it was 1.7, 1.2 and 1.5, with transformers'
    eager attention 1.9, 1.25 and 1.25, hence :mod:`~monai_dpmm_ad.embedding.attention`. Weights laid out once and GELU
    within the product made ViT-S/14 faster by another 1.16 and ``compact`` by 1.05, hence
    :mod:`~monai_dpmm_ad.embedding.packed`; weights merely kept in bfloat16 gained nothing over autocast for batches of
    8. A residual stream in bfloat16 gained nothing either and cost ten times the error; ``torch.compile`` and
    channels-last images gained nothing. Batches of 8 slices are as fast as larger ones, single slices a third slower.

    Args:
        name_or_path: a local folder with ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``, or a
            Hugging Face id.
        revision: branch, tag or commit of the id; the commit is recorded.
        stages: indices of the blocks whose output is returned, from 0, negative from the end, each through the final
            LayerNorm; "quarters" is the last block of each quarter. None is the last block: the model's
            ``last_hidden_state``.
        autocast: run matrix products in bfloat16. None: where the processor has it.
        name: recorded in the fingerprint in place of ``name_or_path``.

    Raises:
        ValueError: stages that the backbone does not have.
        CheckpointError: files that are missing, damaged or of no such architecture, or an id that cannot be reached.

    Example:
        >>> from monai_dpmm_ad.embedding import compact_path
        >>> embedder = HFViTEmbedder(compact_path(), stages=[1, 3])
        >>> embedder.embed(torch.rand(1, 1, 60, 56)).patches.shape
        torch.Size([1, 2, 8, 7, 192])
    """

    backbone: Any
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        name_or_path: str | os.PathLike[str],
        revision: str | None = None,
        stages: Sequence[int] | str | None = None,
        autocast: bool | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        source = os.fspath(name_or_path)
        files = locate_backbone(source, revision)
        self.backbone = load_model(files)
        config = self.backbone.config
        self._patch_size = square_patch(config.patch_size, files.folder)
        self._channels = int(config.num_channels)
        self._num_blocks = int(config.num_hidden_layers)
        self._blocks = _resolve_stages(stages, self._num_blocks)
        self._autocast = autocast
        self._interpolates = "interpolate_pos_encoding" in inspect.signature(self.backbone.forward).parameters
        normalization = read_normalization(files.folder, self._channels)
        self.register_buffer("_mean", torch.tensor(normalization.mean).view(-1, 1, 1))
        self.register_buffer("_std", torch.tensor(normalization.std).view(-1, 1, 1))
        self._prefix_tokens = self._check_architecture(files.folder)
        self._identity = {
            "name": name or source,
            "revision": files.revision,
            "weights_sha256": files.hash_weights(),
            "config_sha256": files.hash_config(),
            "architecture": type(self.backbone).__name__,
            "stages": list(self._blocks),
            "image_mean": list(normalization.mean),
            "image_std": list(normalization.std),
        }
        self.train(False)

    @torch.no_grad()
    def _check_architecture(self, folder: Path) -> int:
        """Run the backbone once: number of prefix tokens of one that behaves like a plain ViT, else an error.

        Blocks behind the last stage are removed, where that leaves the result as it was.
        """
        h, w = 2, 3
        shape = (1, self._channels, h * self._patch_size, w * self._patch_size)
        probe = torch.linspace(-1, 1, math.prod(shape)).view(shape)
        options = {"interpolate_pos_encoding": True} if self._interpolates else {}
        try:
            output = self.backbone(pixel_values=probe, output_hidden_states=True, **options)
            before, after = output.hidden_states[self._num_blocks], output.last_hidden_state
            plain = len(output.hidden_states) == self._num_blocks + 1 and (
                torch.allclose(final_norm(self.backbone)(before), after, atol=1e-4) or torch.equal(before, after)
            )
            prefix = after.shape[1] - h * w
        except Exception as error:
            raise CheckpointError(
                f"{folder}: {type(self.backbone).__name__} does not run as a ViT ({error})."
            ) from error
        if not bool(after.isfinite().all()):
            raise CheckpointError(
                f"{folder}: the embeddings are not finite, so weights are damaged. Copy the files again."
            )
        if not plain or prefix < 1 + getattr(self.backbone.config, "num_register_tokens", 0):
            raise CheckpointError(
                f"{folder}: {type(self.backbone).__name__} is not supported: its tokens are not CLS, registers and one "
                "for each patch, or its output is not the last block's after a LayerNorm. Use a DINOv2, DINOv3 or ViT."
            )
        self._remove_unused_blocks(probe)
        return int(prefix)

    def _remove_unused_blocks(self, probe: Tensor) -> None:
        used = max(self._blocks) + 1
        lists = [m for m in self.backbone.modules() if isinstance(m, nn.ModuleList) and len(m) == self._num_blocks]
        if used == self._num_blocks or len(lists) != 1:
            return
        expected, removed = self._tokens(probe), lists[0][used:]
        del lists[0][used:]
        num_blocks, self._num_blocks = self._num_blocks, used
        if not torch.allclose(self._tokens(probe), expected, atol=1e-4):
            lists[0].extend(removed)
            self._num_blocks = num_blocks

    @property
    def patch_size(self) -> int:
        """P: side of a patch in pixels of the embedded image."""
        return self._patch_size

    @property
    def embed_dim(self) -> int:
        """D: dimension of one embedding."""
        return int(self.backbone.config.hidden_size)

    @property
    def num_stages(self) -> int:
        """S: number of transformer stages that are returned."""
        return len(self._blocks)

    @property
    def precision(self) -> str:
        """``"bfloat16"`` or ``"float32"``: type of the matrix products on the device where the backbone is now."""
        wanted = supports_bfloat16(self._mean.device) if self._autocast is None else self._autocast
        return "bfloat16" if wanted else "float32"

    def fingerprint(self) -> dict[str, Any]:
        """Describe all that changes the embeddings: backbone, revision, weight hash, stages, input, precision."""
        return {**self._identity, "precision": self.precision}

    @torch.no_grad()
    def embed(self, images: Tensor) -> PatchEmbeddings:
        """Embed slices.

        Args:
            images: ``(B, 1, H, W)``, repeated to the backbone's channels, or ``(B, 3, H, W)``; floating point in
                [0, 1], any size.

        Returns:
            Patch embeddings ``(B, S, h, w, D)`` and CLS embeddings ``(B, S, D)``; float32, not normalised.

        Raises:
            TypeError: images that are not floating point.
            ValueError: images of another shape.
        """
        if not images.is_floating_point():
            raise TypeError(f"`images` must be floating point in [0, 1], got {images.dtype}. Divide integers by 255.")
        if images.ndim != 4 or images.shape[1] not in (1, self._channels):
            raise ValueError(
                f"`images` must have shape (B, 1 or {self._channels}, H, W), got {tuple(images.shape)}. "
                "Pass one slice, or its neighbours as channels."
            )
        padded, (h, w) = pad_to_multiple(images.to(self._mean.dtype), self._patch_size)
        tokens = self._tokens((padded - self._mean) / self._std).float()
        patches = tokens[:, :, self._prefix_tokens :].unflatten(2, (h, w))
        return PatchEmbeddings(patches, tokens[:, :, 0])

    def _tokens(self, pixels: Tensor) -> Tensor:
        """Run the backbone: normalised pixels to all tokens ``(B, S, T, D)`` after the final LayerNorm."""
        last, norm = self._num_blocks - 1, final_norm(self.backbone)
        options: dict[str, Any] = {"interpolate_pos_encoding": True} if self._interpolates else {}
        if any(block != last for block in self._blocks):
            options["output_hidden_states"] = True
        # Set either way, so that an outer autocast (Ignite's `amp`) does not decide what the fingerprint records.
        with torch.autocast(pixels.device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            output = self.backbone(pixel_values=pixels, **options)
            stages = [
                output.last_hidden_state if block == last else norm(output.hidden_states[block + 1])
                for block in self._blocks
            ]
        return torch.stack(stages, dim=1)

    def train(self, mode: bool = True) -> HFViTEmbedder:
        """Stay in evaluation mode, whatever ``mode`` is: the backbone is frozen."""
        return super().train(False)

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Give nothing: a checkpoint names its backbone and does not carry it."""
        return {} if destination is None else destination

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        unexpected_keys.extend(key for key in state_dict if key.startswith(prefix))
        # The children are visited next and would call their weights missing: hand them their own.
        state_dict.update({prefix + key: value for key, value in super().state_dict().items()})


def _resolve_stages(stages: Sequence[int] | str | None, num_blocks: int) -> tuple[int, ...]:
    """Turn block indices into ones from 0."""
    if stages is None:
        return (num_blocks - 1,)
    if stages == QUARTERS:
        return tuple(sorted({-(-num_blocks * quarter // 4) - 1 for quarter in range(1, 5)}))
    if isinstance(stages, str):
        raise unknown_option("stages", stages, (QUARTERS, "block indices"))
    invalid = [stage for stage in stages if isinstance(stage, bool) or not isinstance(stage, int)]
    if invalid or not stages or any(not -num_blocks <= stage < num_blocks for stage in stages):
        raise ValueError(
            f"`stages` must be block indices from 0 to {num_blocks - 1} (or negative, from the end) or '{QUARTERS}', "
            f"got {stages}."
        )
    blocks = tuple(stage % num_blocks for stage in stages)
    if len(set(blocks)) != len(blocks):
        raise ValueError(f"`stages` must name each block once, got {stages}.")
    return blocks
