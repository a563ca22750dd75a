# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What every detector does: the one interface between embeddings and anomaly maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from monai_dpmm_ad.calibration.drift import PatchSummary
from monai_dpmm_ad.embedding.types import EncodedSlices
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.ops.patches import join_stages

__all__ = ["Detector", "resize_buffers"]

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
    that needs whole slices overrides :meth:`score_slices` too. Nothing outside this room asks which detector it has:
    whatever only some can do is a method here, whose default is that of a detector without it. A new detector is
    therefore one file and one line in :data:`~monai_dpmm_ad.detectors.registry.DETECTORS`.

    Args:
        embed_dim: D, size of one stage's patch embedding.
        num_stages: S, number of stages.
        location_weight: weight of the patch's relative location (row, column, slice; each in [0, 1]) appended to the
            unit embedding; 0 leaves it out.

    Example:
        >>> import torch
        >>> from monai_dpmm_ad import create_detector
        >>> detector = create_detector("dpmm", embed_dim=8, options={"num_components": 4})
        >>> rows = {"patches": torch.randn(200, 1, 8), "location": torch.rand(200, 3)}
        >>> detector.initialize(rows, num_data=200)
        >>> _ = detector.fit_batch(rows, num_data=200)
        >>> detector.finish_epoch(lambda: rows)
        >>> isinstance(detector, Detector), detector.fitted
        (True, True)
    """

    #: passes over the store that a fit takes at most; None leaves it to the trainer
    max_epochs: ClassVar[int | None] = None
    #: what ``fit_batch`` and ``criterion`` get: "patches", shuffled over all scans, or "scans", one whole scan
    batch_unit: ClassVar[str] = "patches"
    #: buffers whose first dimension only a fit decides; loading a state dict takes over the stored one
    variable_buffers: ClassVar[tuple[str, ...]] = ()
    #: why the scores cannot be written as a graph (ONNX, TorchScript); None where they can
    export_blocker: ClassVar[str | None] = None

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
        unit = join_stages(rows["patches"])
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

    def start_update(self) -> None:
        """Go on from what has been learnt: all batches from here on are of new scans.

        Raises:
            ValueError: for a detector that has to be fitted to old and new scans together.
        """
        raise ValueError(f"`update` needs a detector that can go on, got {type(self).__name__}. Fit again.")

    @abstractmethod
    def score(self, features: Tensor) -> Tensor:
        """Score features ``(n, F)``: ``(n,)``, non-negative, higher = more anomalous."""

    def score_rows(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Score the rows of one scan as an embedding store has them: ``(n,)``, as :meth:`score_slices` would."""
        return self.score(self.features(rows))

    def criterion(self, rows: Mapping[str, Tensor]) -> Tensor:
        """How well held-out normal rows are explained, ``(n,)``, higher = better."""
        return -self.score(self.features(rows))

    def describe(self) -> dict[str, float]:
        """Describe the fitted model in a few numbers by name, for the bundle's metadata and the report."""
        return {}

    @property
    def num_components(self) -> int:
        """K, the components that patches are assigned to; 0 where there are none."""
        return 0

    def component_weights(self) -> list[float] | None:
        """The share of the fitted patches that each of the K components took, for the report; None for K = 0."""
        return None

    def summarise(self, rows: Mapping[str, Tensor], scores: Tensor) -> PatchSummary:
        """Say how usual patches are, by which :mod:`~monai_dpmm_ad.calibration.drift` compares scans.

        A detector without a density takes minus the score, which is high where patches are usual, too.

        Args:
            rows: of n patches.
            scores: ``(n,)``, what :meth:`score_slices` gave them.
        """
        return PatchSummary(-scores, scores.new_zeros(self.num_components))

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
        resize_buffers(self, self.variable_buffers, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def resize_buffers(module: nn.Module, names: Iterable[str], state_dict: Mapping[str, Tensor], prefix: str) -> None:
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
