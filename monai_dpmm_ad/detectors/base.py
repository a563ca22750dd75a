# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What every detector does: the one interface between embeddings and anomaly maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.ops.patches import normalize_embeddings
from monai_dpmm_ad.types import EncodedSlices

__all__ = ["Detector", "take_stored_shapes"]

LOCATION_DIM = 3


class Detector(nn.Module, ABC):
    """Fitted on the embeddings of normal scans, scores those of new ones.

    Rows are mappings with the keys of an embedding store: ``patches (..., S, D)``, ``location (..., 3)`` and, where a
    detector takes whole scans, ``slice_index (n,)`` and ``cls (s, S, D)``. A fit is

        initialize(sample rows, num_data)           once, and not for a detector that is fitted already
        per epoch:  fit_batch(rows, num_data) …     in batches of ``batch_unit``; rows may be empty (several processes)
                    finish_epoch(draw_sample)       afterwards the detector is complete: it scores and can be saved
                    criterion(rows) …               on held-out rows; the epoch with the highest mean is kept

    All state is buffers or parameters. Subclasses implement :attr:`fitted`, :meth:`fit_batch` and :meth:`score`; one
    that needs whole slices overrides :meth:`score_slices` too.

    Args:
        embed_dim: D, size of one stage's patch embedding.
        num_stages: S, number of stages.
        location_weight: weight of the patch's relative location (row, column, slice; each in [0, 1]) appended to the
            unit embedding; 0 leaves it out.
    """

    #: passes over the store that a fit takes at most; None leaves it to the trainer
    max_epochs: ClassVar[int | None] = None
    #: what ``fit_batch`` and ``criterion`` get: "patches", shuffled over all scans, or "scans", one whole scan
    batch_unit: ClassVar[str] = "patches"
    #: buffers whose first dimension only a fit decides; loading a state dict takes over the stored one
    sized_by_fit: ClassVar[tuple[str, ...]] = ()
    #: why the scores cannot be written as a graph (ONNX, TorchScript); None where they can
    graph_obstacle: ClassVar[str | None] = None

    def __init__(self, embed_dim: int, num_stages: int = 1, location_weight: float = 0.0) -> None:
        super().__init__()
        if not location_weight >= 0:
            raise ValueError(f"`location_weight` must be at least 0, got {location_weight}.")
        self.embed_dim = embed_dim
        self.num_stages = num_stages
        self.location_weight = float(location_weight)
        self.feature_dim = embed_dim * num_stages + (LOCATION_DIM if location_weight else 0)

    @property
    @abstractmethod
    def fitted(self) -> bool:
        """Whether the detector has been fitted, or at least initialised."""

    def features(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Turn rows into the vectors that the detector models.

        Args:
            rows: ``patches (..., S, D)``, raw embeddings, and ``location (..., 3)`` where its weight is not 0.

        Returns:
            ``(..., S·D)`` or ``(..., S·D + 3)``, float32, each stage of unit length up to a factor 1/√S.

        Raises:
            ValueError: when the detector needs locations and gets none.
        """
        patches = rows["patches"]
        unit = (normalize_embeddings(patches.float()) / patches.shape[-2] ** 0.5).flatten(-2)
        if not self.location_weight:
            return unit
        if rows.get("location") is None:
            raise ValueError(
                "`location` must be given to a detector with location_weight > 0, got None. "
                "Run the network through `VolumeInferer`, which passes the slices' positions."
            )
        return torch.cat([unit, self.location_weight * (rows["location"].to(unit) - 0.5)], dim=-1)

    def initialize(self, sample: Mapping[str, Tensor], num_data: int) -> None:
        """Start a fit.

        Args:
            sample: rows drawn over the whole store, the same on all processes.
            num_data: number of rows in the stores of all processes.
        """

    @abstractmethod
    def fit_batch(self, rows: Mapping[str, Tensor], num_data: int) -> Tensor:
        """Take one step on a batch of rows.

        Returns:
            0-dim: what the fit raises (an ELBO per patch, a negative loss), 0 where nothing is optimised.
        """

    def finish_epoch(self, draw_sample: Callable[[], Mapping[str, Tensor]]) -> None:
        """Complete the detector after a pass over the store.

        Args:
            draw_sample: gives the rows that ``initialize`` got; reads the store when it is called.
        """

    @abstractmethod
    def score(self, features: Tensor) -> Tensor:
        """Score features ``(n, F)``: ``(n,)``, non-negative, higher = more anomalous."""

    def criterion(self, rows: Mapping[str, Tensor]) -> Tensor:
        """How well held-out normal rows are explained, ``(n,)``, higher = better."""
        return -self.score(self.features(rows))

    def describe(self) -> dict[str, float]:
        """Describe the fitted model in a few numbers by name, for the bundle's metadata and the report."""
        return {}

    def note(self) -> str | None:
        """What a user should know of the fitted model; None if nothing."""
        return None

    def score_slices(self, encoded: EncodedSlices, valid: Tensor) -> Tensor:
        """Score all patches of a batch of slices.

        Args:
            encoded: what the embedder saw.
            valid: ``(B, h, w)`` Boolean, the patches that count as foreground.

        Returns:
            ``(B, h, w)``; what is not ``valid`` may hold anything.
        """
        features = self.features(encoded.rows())
        return self.score(features.flatten(0, 2)).view(valid.shape)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        take_stored_shapes(self, self.sized_by_fit, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def take_stored_shapes(module: nn.Module, names: Iterable[str], state_dict: Mapping[str, Tensor], prefix: str) -> None:
    """Give buffers of a module the lengths that they have in a state dict, before it is loaded.

    Raises:
        CheckpointError: where they differ in more than the first dimension.
    """
    for name in names:
        stored = state_dict.get(prefix + name)
        if stored is not None:
            expected = tuple(getattr(module, name).shape)
            if stored.ndim != len(expected) or tuple(stored.shape[1:]) != expected[1:]:
                raise CheckpointError(
                    f"`{prefix}{name}` must have shape (any, *{expected[1:]}) for this embedder and these options, "
                    f"got {tuple(stored.shape)}. Use the bundle's own settings, or fit again."
                )
            setattr(module, name, getattr(module, name).new_empty(stored.shape))
