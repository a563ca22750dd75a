# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The bundle's network: images in, anomaly map out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.calibration import Calibration
from monai_dpmm_ad.calibration.drift import DriftReference, PatchSummary, choose_patches_to_summarise
from monai_dpmm_ad.calibration.fitted_range import FittedRange
from monai_dpmm_ad.calibration.kind import FittedKind
from monai_dpmm_ad.detectors import Detector
from monai_dpmm_ad.embedding import Embedder
from monai_dpmm_ad.embedding.types import EncodedSlices
from monai_dpmm_ad.errors import CheckpointError, unknown_option
from monai_dpmm_ad.network.groups import MAX_SCANS, Judge, Judging
from monai_dpmm_ad.network.intensity_tail import IntensityTail
from monai_dpmm_ad.network.patch_mask import PrincipalMask
from monai_dpmm_ad.network.upsampling import REFINEMENTS, refine_scores, upsample_scores
from monai_dpmm_ad.normative import NormativeMap, RegionCalibration
from monai_dpmm_ad.normative.covariates import Design
from monai_dpmm_ad.normative.site import SiteField
from monai_dpmm_ad.normative.trend_map import TrendMap
from monai_dpmm_ad.ops.graphs import is_exporting
from monai_dpmm_ad.ops.patches import locate_patches, pool_foreground

__all__ = ["AnomalyNet"]


class AnomalyNet(Judging):
    """Frozen embedder, detector and calibration as one network: ``(B, C, H, W)`` → ``(B, 1, H, W)``.

    Background pixels of the images are exactly 0 and stay 0 in the map: what was never fitted never scores. Images are
    resized so that their pixels are square and their longer side is ``image_size``; the map comes back at the size of
    the input. The state dict holds the detector, the normative map, the calibrations and a digest of the embedder's
    fingerprint, but not the embedder's weights.

    Args:
        embedder: turns slices into patch embeddings.
        detector: scores patches.
        image_size: longer side of what the embedder sees, in pixels.
        min_foreground: least share of foreground pixels of a patch that is fitted and scored.
        num_shifts: n; the map is averaged over n×n sub-patch shifts of the grid, at n² times the cost.
        intensity_tail: ``"bright"``, ``"dark"`` or ``"both"`` adds how unusual a pixel's own intensity is, see
            :class:`~monai_dpmm_ad.network.intensity_tail.IntensityTail`; ``"none"`` leaves it out.
        intensity_weight: weight of that term.
        upsampling: how patch scores become pixels, see :func:`~monai_dpmm_ad.network.upsampling.refine_scores`.
        num_regions: regions of an atlas with thresholds of their own.
        patch_mask: ``"pca"`` fits and scores only the patches that
            :class:`~monai_dpmm_ad.network.patch_mask.PrincipalMask` keeps; the pixels of the others score 0. ``"none"``
            takes all of the foreground.
        mask_threshold: of that mask.
        mask_closing: of that mask, in patches.
        normative: ``"on"`` owns a :class:`~monai_dpmm_ad.normative.NormativeMap`, which finishes the maps of volumes
            outside of this network, see :class:`~monai_dpmm_ad.transforms.place.JudgeByPlaced`; ``"off"`` none.
        frame: how places of scans are brought together, one of :data:`~monai_dpmm_ad.normative.FRAMES`; with ``"none"``
            there is no normative map, ``"auto"`` is for a fit to decide.
        intensity_side: which deviations of intensity count there.
        asymmetry: ``"on"`` compares them with those of the other side as well, ``"auto"`` where both are alike.
        trend: ``"on"`` lets what is expected there follow a person's age and sex, see
            :class:`~monai_dpmm_ad.normative.trend_map.TrendMap`.
        site: name of another scanner, which the normative map is brought to.
        group_by: ``"sex"``, ``"age"`` or ``"site"`` calibrates groups of people apart, see
            :class:`~monai_dpmm_ad.network.groups.Groups`; needs ``trend``.
        sites: names of the sites of the fitted scans, see :meth:`know_sites`; needs ``trend``.

    Example:
        >>> from monai_dpmm_ad.detectors import create_detector
        >>> from monai_dpmm_ad.embedding import create_embedder
        >>> embedder = create_embedder("pixels-8")
        >>> network = AnomalyNet(embedder, create_detector("dpmm", embedder.embed_dim), image_size=64)
        >>> network.resized_shape(256, 192)
        (64, 48)
    """

    backbone_digest: Tensor

    def __init__(
        self,
        embedder: Embedder,
        detector: Detector,
        image_size: int = 224,
        min_foreground: float = 0.25,
        num_shifts: int = 1,
        intensity_tail: str = "none",
        intensity_weight: float = 1.0,
        upsampling: str = "guided",
        num_regions: int = 0,
        patch_mask: str = "none",
        mask_threshold: float = 0.0,
        mask_closing: int = 1,
        normative: str = "off",
        frame: str = "auto",
        intensity_side: str = "both",
        asymmetry: str = "off",
        trend: str = "off",
        group_by: str = "none",
        site: str | None = None,
        sites: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        patch_size = embedder.patch_size
        if image_size < patch_size:
            raise ValueError(f"`image_size` must be at least the embedder's patch size {patch_size}, got {image_size}.")
        if not 0 < min_foreground <= 1:
            raise ValueError(f"`min_foreground` must lie in (0, 1], got {min_foreground}.")
        if not 1 <= num_shifts <= patch_size:
            raise ValueError(f"`num_shifts` must lie between 1 and the patch size {patch_size}, got {num_shifts}.")
        if upsampling not in REFINEMENTS:
            raise unknown_option("upsampling", upsampling, REFINEMENTS)
        self.embedder = embedder
        self.detector = detector
        self.calibration = Calibration(num_regions)
        self.image_size = image_size
        self.min_foreground = min_foreground
        self.num_shifts = num_shifts
        self.intensity_weight = intensity_weight
        self.intensity_tail = None if intensity_tail == "none" else IntensityTail(intensity_tail, intensity_weight)
        self.upsampling = upsampling
        self.patch_mask = PrincipalMask.make(patch_mask, mask_threshold, mask_closing)
        self.drift = DriftReference(detector.num_components)
        self.kind = FittedKind()
        self.range = FittedRange()
        placed = normative == "on" and frame != "none"
        self.normative = self._make_normative(frame, intensity_side, asymmetry, trend, site) if placed else None
        self.regions = RegionCalibration()
        self.register_buffer(
            "backbone_digest", torch.frombuffer(bytearray.fromhex(embedder.digest()), dtype=torch.uint8).clone()
        )
        self.group_people(group_by)
        self.know_sites(sites or ())

    def _make_normative(self, frame: str, side: str, asymmetry: str, trend: str, site: str | None) -> NormativeMap:
        if self.intensity_tail is not None:
            got = f"got {self.intensity_tail.tail}. Choose `intensity_side`, or `normative` off."
            raise ValueError(f"`intensity_tail` must be none with a normative map, which judges them, {got}")
        kind = NormativeMap if trend == "off" else TrendMap
        normative = kind("deformed" if frame == "auto" else frame, side, asymmetry=asymmetry)
        normative.site = None if site is None else SiteField()
        return normative

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        stored = state_dict.get(prefix + "backbone_digest")
        if stored is not None and stored.tolist() != self.backbone_digest.tolist():
            raise CheckpointError(
                "The checkpoint was fitted with another backbone than the one that is loaded, "
                f"{self.embedder.fingerprint()}. Use the embedder that the bundle was fitted with, or fit again."
            )
        for name, buffer in self.regions.named_buffers():  # a model that was fitted before there were regions has none
            state_dict.setdefault(f"{prefix}regions.{name}", torch.zeros_like(buffer))
        if self.normative is not None:  # nor were scans matched, and intensities weighed more
            state_dict.setdefault(f"{prefix}normative.matching", torch.zeros_like(self.normative.matching))
            state_dict.setdefault(f"{prefix}normative.weights", torch.tensor([1.0, 1.0, 0.5], dtype=torch.float64))
            state_dict.setdefault(f"{prefix}normative.scales", torch.tensor([1.0, 2.0], dtype=torch.float64))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def know_sites(self, names: Sequence[str]) -> None:
        """Tell sites apart: an offset for each and, where people are grouped by site, a calibration for each."""
        if isinstance(self.normative, TrendMap):
            self.normative.know_sites(names)
            if self.group_by == "site":
                self.group_people("site", names)

    def forget_place(self) -> None:
        """Have no normative map; a side of the intensities that it was to look at counts by its tail at all places."""
        side, self.normative = "both" if self.normative is None else self.normative.side, None
        if side in ("bright", "dark"):
            self.intensity_tail = IntensityTail(side, self.intensity_weight)

    def make_judge(self) -> Judge:
        """As there."""
        return Judge(Calibration(self.calibration.num_regions), RegionCalibration(MAX_SCANS))

    @property
    def design(self) -> Design | None:
        """As there."""
        return self.normative.design if isinstance(self.normative, TrendMap) else None

    def resized_shape(self, height: int, width: int, aspect: float = 1.0) -> tuple[int, int]:
        """Shape at which the embedder sees ``height`` × ``width`` pixels that are ``aspect`` times as high as wide."""
        rows, columns = int(height) * aspect, int(width)  # tensors while tracing
        scale = self.image_size / max(rows, columns)
        return max(1, round(rows * scale)), max(1, round(columns * scale))

    def encode(
        self,
        images: Tensor,
        positions: Tensor | None = None,
        shift: tuple[int, int] = (0, 0),
        aspect: float = 1.0,
    ) -> EncodedSlices:
        """Embed slices.

        Args:
            images: ``(B, C, H, W)`` in [0, 1], background exactly 0; C is 1 or 3.
            positions: ``(B,)``, relative position of each slice along its axis, in [0, 1]; 0.5 when None.
            shift: rows and columns, in resized pixels, by which the patch grid starts above and left of the image.
            aspect: height of a pixel divided by its width.
        """
        size = self.resized_shape(images.shape[-2], images.shape[-1], aspect)
        resized = F.interpolate(images, size, mode="bilinear", antialias=True)
        foreground = F.adaptive_avg_pool2d(_foreground(images), size)
        embeddings = self.embedder.embed(_pad(resized * (foreground > 0), shift))
        share = pool_foreground(_pad(foreground, shift), self.embedder.patch_size)
        location = locate_patches(resized, embeddings.grid, self.embedder.patch_size, positions, shift)
        return EncodedSlices(embeddings, location, share)

    def choose_patches(self, encoded: EncodedSlices) -> Tensor:
        """The patches ``(B, h, w)`` that are fitted and scored."""
        valid = encoded.foreground >= self.min_foreground
        return valid if self.patch_mask is None else self.patch_mask(encoded.embeddings.patches[:, -1], valid)

    def describe(self) -> dict[str, float]:
        """What the detector says of itself."""
        return self.detector.describe()

    def note(self) -> str | None:
        """What a user should know of the fitted detector; None if nothing."""
        return self.detector.note()

    def check_graph(self) -> None:
        """Check that the network can be written as a graph.

        Raises:
            ValueError: where what it does depends on the values of an image in a way that no graph can follow.
        """
        obstacle = self.detector.export_blocker
        if self.patch_mask is not None:
            obstacle = "patch_mask 'pca' decomposes the patches of each slice, in numbers that differ"
        if obstacle is not None:
            raise ValueError(f"`network` must be one that a graph can hold, but {obstacle}. Run the bundle instead.")

    def forward(
        self, images: Tensor, positions: Tensor | None = None, aspect: float = 1.0, summarise: bool = False
    ) -> Tensor | tuple[Tensor, PatchSummary]:
        """Compute anomaly maps.

        Args:
            images: ``(B, C, H, W)`` in [0, 1], background exactly 0; C is 1 or 3.
            positions: ``(B,)``, relative position of each slice along its axis; needed with ``location_weight`` only.
            aspect: height of a pixel divided by its width; the embedder sees square pixels.
            summarise: whether to say how usual the patches are, too.

        Returns:
            ``(B, 1, H, W)``, non-negative, higher = more anomalous, 0 in the background; with ``summarise`` the maps
            and a summary, on the CPU, of 64 to 127 of each slice's patches of the unshifted grid.
        """
        if is_exporting():
            self.check_graph()
        maps, summary = self._compute_maps(images, positions, aspect, summarise)
        if self.intensity_tail is not None:
            maps = self.intensity_tail(maps, _middle(images)) * _foreground(images)
        return maps if summary is None else (maps, summary)

    def compute_embedding_maps(self, images: Tensor, positions: Tensor | None = None, aspect: float = 1.0) -> Tensor:
        """Compute anomaly maps from the patch embeddings alone; arguments and result as for :meth:`forward`."""
        return self._compute_maps(images, positions, aspect)[0]

    def _compute_maps(
        self, images: Tensor, positions: Tensor | None, aspect: float, summarise: bool = False
    ) -> tuple[Tensor, PatchSummary | None]:
        step = self.embedder.patch_size / self.num_shifts
        offsets = [round(number * step) for number in range(self.num_shifts)]
        maps, summary = [], None
        for shift in ((down, right) for down in offsets for right in offsets):
            encoded = self.encode(images, positions, shift, aspect)
            valid = self.choose_patches(encoded)
            grid = self.detector.score_slices(encoded, valid)
            if summarise and not any(shift):
                summary = self._summarise(encoded, valid, grid)
            maps.append(self._place_scores(images, encoded, valid, grid, shift, aspect))
        return torch.stack(maps).mean(0) * _foreground(images), summary

    @torch.no_grad()
    def _summarise(self, encoded: EncodedSlices, valid: Tensor, grid: Tensor) -> PatchSummary:
        chosen = choose_patches_to_summarise(valid)
        rows = {name: values[chosen] for name, values in encoded.rows().items()}
        log_density, usage = self.detector.summarise(rows, grid[chosen])
        return PatchSummary(log_density.cpu(), usage.cpu())

    def _place_scores(
        self,
        images: Tensor,
        encoded: EncodedSlices,
        valid: Tensor,
        grid: Tensor,
        shift: tuple[int, int],
        aspect: float,
    ) -> Tensor:
        """Maps ``(B, 1, H, W)`` of scores ``(B, h, w)`` on a grid that starts above and left of the images."""
        size = int(images.shape[-2]), int(images.shape[-1])
        scale = [length / resized for length, resized in zip(size, self.resized_shape(*size, aspect), strict=True)]
        patch_size = self.embedder.patch_size * scale[0], self.embedder.patch_size * scale[1]
        start = shift[0] * scale[0], shift[1] * scale[1]
        maps = refine_scores(grid, valid, _middle(images), self.upsampling, patch_size=patch_size, start=start)
        if self.patch_mask is None:
            return maps
        left_out = ((encoded.foreground >= self.min_foreground) & ~valid).to(maps)
        return maps * (1 - upsample_scores(left_out, torch.ones_like(valid), size, "nearest", patch_size, start))


def _middle(images: Tensor) -> Tensor:
    """The image ``(B, 1, H, W)``, or the middle slice of 2.5D channels."""
    middle = images.shape[1] // 2
    return images[:, middle : middle + 1]


def _foreground(images: Tensor) -> Tensor:
    """Foreground ``(B, 1, H, W)`` of the image, or of the middle slice of 2.5D channels, as 0 and 1."""
    return (_middle(images) > 0).to(images.dtype)


def _pad(images: Tensor, shift: tuple[int, int]) -> Tensor:
    return F.pad(images, (shift[1], 0, shift[0], 0)) if any(shift) else images
