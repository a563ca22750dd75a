# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The network of a bundle of several sequences: one network for each, one calibration for what they say together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_dpmm_ad.calibration.drift import DriftReference, PatchSummary
from monai_dpmm_ad.calibration.fitted_range import FittedRange
from monai_dpmm_ad.calibration.kind import FittedKind
from monai_dpmm_ad.calibration.subsets import SubsetCalibration
from monai_dpmm_ad.data.people import COVARIATES
from monai_dpmm_ad.detectors import Detector
from monai_dpmm_ad.embedding import Embedder
from monai_dpmm_ad.network.anomaly_net import AnomalyNet
from monai_dpmm_ad.network.groups import MAX_SCANS, Judge, Judging
from monai_dpmm_ad.network.intensity_tail import IntensityTail
from monai_dpmm_ad.normative import NormativeMap
from monai_dpmm_ad.normative.covariates import Design
from monai_dpmm_ad.normative.region_subsets import SubsetRegions

__all__ = ["SequenceNet"]

#: Share of the healthy voxels that score above what is 1 on the scale of a map that is not judged by place.
_RATE = 0.01


class SequenceNet(Judging):
    """One :class:`AnomalyNet` for each sequence, whose finished maps are summed over the sequences that are there.

    Maps that were judged by place are sums of surprise and are summed as they are; others are divided by what 1 % of
    the sequence's healthy voxels exceed. The networks share the embedder. ``calibration`` and ``regions`` are of scans
    that have all sequences; ``calibration.of("101")`` is of those that have the first and the third alone.

    Args:
        names: of the sequences, in the order of a scan's channels.
        networks: one for each.
        num_regions: regions of an atlas with thresholds of their own.
        group_by: as for :class:`AnomalyNet`.
        sites: as there.

    Example:
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder = create_embedder("pixels-8")
        >>> networks = [AnomalyNet(embedder, create_detector("dpmm", 64), image_size=64) for _ in range(2)]
        >>> network = SequenceNet(["T1", "FLAIR"], networks)
        >>> network.names, len(network.calibration.parts)
        (('T1', 'FLAIR'), 2)
    """

    scales: Tensor

    def __init__(
        self,
        names: Sequence[str],
        networks: Sequence[AnomalyNet],
        num_regions: int = 0,
        group_by: str = "none",
        sites: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if len(names) != len(networks):
            raise ValueError(f"`networks` must be one for each of the {len(names)} names, got {len(networks)}.")
        self.names = tuple(names)
        self.networks = nn.ModuleList(networks)
        self.calibration = SubsetCalibration(len(self.names), num_regions)
        self.regions = SubsetRegions(len(self.names))
        #: of sums of maps nothing is known
        self.range = FittedRange()
        self.register_buffer("scales", torch.ones(len(self.names)))
        self.group_people(group_by)
        self.know_sites(sites or ())

    def __getitem__(self, number: int) -> AnomalyNet:
        network = self.networks[number]
        assert isinstance(network, AnomalyNet)
        return network

    def forward(
        self,
        images: Tensor,
        positions: Tensor | None = None,
        aspect: float = 1.0,
        summarise: bool = False,
        sequence: int = 0,
    ) -> Tensor | tuple[Tensor, PatchSummary]:
        """Compute anomaly maps of one sequence's slices; arguments and result as for :meth:`AnomalyNet.forward`.

        Args:
            images: ``(B, C, H, W)``.
            positions: as there.
            aspect: as there.
            summarise: as there.
            sequence: which one.
        """
        result: Tensor | tuple[Tensor, PatchSummary] = self[sequence](images, positions, aspect, summarise)
        return result

    def set_scales(self) -> None:
        """Give each sequence its scale; needs the calibrations of the networks."""
        for number in range(len(self.names)):
            network = self[number]
            level = 1.0 if network.normative is not None else network.calibration.quantile(_RATE)
            self.scales[number] = 1 / max(level, 1e-12)

    def check_graph(self) -> None:
        """Refuse to be written as a graph.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "`network` must be one that a graph can hold, but it is of several sequences. Run the bundle instead, or "
            "export the bundles of single sequences in its folder fit."
        )

    @property
    def embedder(self) -> Embedder:
        """Of all sequences."""
        return self[0].embedder

    @property
    def detector(self) -> Detector:
        """Of the first sequence; :meth:`describe` tells of all."""
        return self[0].detector

    @property
    def intensity_tail(self) -> IntensityTail | None:
        """Of the first sequence; all have one or none has."""
        return self[0].intensity_tail

    @property
    def normative(self) -> NormativeMap | None:
        """Of the first sequence, which decides for all whether and how scans are judged by place."""
        return self[0].normative

    @property
    def kind(self) -> FittedKind:
        """What kind of scan was fitted: of the first sequence, on whose grid the others lie."""
        return self[0].kind

    @property
    def drift(self) -> DriftReference:
        """Of the first sequence."""
        return self[0].drift

    @property
    def backbone_digest(self) -> Tensor:
        """Of the embedder's fingerprint."""
        return self[0].backbone_digest

    def make_judge(self) -> Judge:
        """As there."""
        number = len(self.names)
        return Judge(SubsetCalibration(number, self.calibration.num_regions), SubsetRegions(number, MAX_SCANS))

    def know_sites(self, names: Sequence[str]) -> None:
        """As :meth:`AnomalyNet.know_sites`, for all sequences."""
        for number in range(len(self.names)):
            self[number].know_sites(names)
        if self.group_by == "site":
            self.group_people("site", names)

    @property
    def design(self) -> Design | None:
        """Of the first sequence, which decides on groups; each sequence's map follows that of its own."""
        return self[0].design

    @property
    def covariates(self) -> tuple[str, ...]:
        """The columns that a table of people must have, for any of the sequences."""
        asked = {name for number in range(len(self.names)) for name in self[number].covariates}
        return tuple(name for name in COVARIATES if name in asked)

    def describe(self) -> dict[str, Any]:
        """What the detectors say of themselves, by sequence."""
        return {
            f"{name} {fact}": value
            for number, name in enumerate(self.names)
            for fact, value in self[number].detector.describe().items()
        }

    def note(self) -> str | None:
        """What a user should know of the fitted detectors; None if nothing."""
        notes = {name: self[number].detector.note() for number, name in enumerate(self.names)}
        return "; ".join(f"{name}: {note}" for name, note in notes.items() if note) or None
