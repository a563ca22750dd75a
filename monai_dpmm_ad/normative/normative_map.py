# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The fitted normative map: reference, atlases, and the finished map of a scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from monai_dpmm_ad.errors import NotFittedError, unknown_option
from monai_dpmm_ad.normative.asymmetry import Asymmetry
from monai_dpmm_ad.normative.atlas import Atlas
from monai_dpmm_ad.normative.combination import SIDES, combine, take_side, weigh_channels, weigh_scan
from monai_dpmm_ad.normative.covariates import Traits
from monai_dpmm_ad.normative.deformation import deform
from monai_dpmm_ad.normative.frame import FRAMES, Frame
from monai_dpmm_ad.normative.intensity import divide_by_median, foreground_median, remove_own_part, smooth
from monai_dpmm_ad.normative.lattice import Lattice, Volume, average_points, index_voxels, resample, sample_places
from monai_dpmm_ad.normative.matching import Match, match_intensity
from monai_dpmm_ad.normative.placed import JudgedScan, PlacedScan, pull_channels
from monai_dpmm_ad.normative.reference import build_reference, pull
from monai_dpmm_ad.normative.registration import find_start, fit_box, refine
from monai_dpmm_ad.normative.site import SITE_SHAPE, Shift, SiteField
from monai_dpmm_ad.normative.thumbnail import shrink

__all__ = ["NormativeMap"]

Array = NDArray[np.float32]
Matrix = NDArray[np.float64]
Shape = tuple[int, int, int]

_REFERENCE, _FINE, _COARSE = (48, 56, 48), (80, 96, 80), (40, 48, 40)
#: Gaussians of the intensity, standard deviation in fine places (about 2 mm of a brain).
_SCALES = (0.7, 2.0)


class NormativeMap(nn.Module):
    """Judges a detector's map and the intensities of a scan against healthy scans at the same place.

    A fit goes through the healthy scans several times, each time in any order and by any number of processes:

        set_reference(build_reference(…))
        observe_intensity(…) per scan, finish_intensity()      mean and spread of the intensity by place
        observe_deviation(…) per scan, finish_deviation()      mean and spread of its deviation's size by place
        observe_scores(…)    per scan, finish_scores()         mean and spread of the detector's score by place

    Afterwards :meth:`forward` finishes the maps of new scans. All state is buffers of fixed shape, 8 MB together, which
    stay on the CPU wherever the network goes: maps are finished while it works on the next scan.

    Args:
        frame: how places of scans are brought together, one of `FRAMES`.
        side: which deviations of intensity count, one of `SIDES`.
        least_quality: registrations below it fall back to ``box``.
        asymmetry: ``on`` compares intensities at the finer scale with those across the middle as well, ``auto`` where
            the reference is like its mirror image.
    """

    reference_values: Tensor
    reference_weight: Tensor
    reference_origin: Tensor
    reference_spacing: Tensor
    weights: Tensor
    scales: Tensor
    matching: Tensor  # whether scans are matched before they are mapped, and deviations judged by the scan itself

    def __init__(
        self,
        frame: str = "deformed",
        side: str = "both",
        least_quality: float = 0.8,
        asymmetry: str = "off",
    ) -> None:
        super().__init__()
        for name, value, known in (("frame", frame, FRAMES), ("side", side, SIDES)):
            if value not in known:
                raise unknown_option(name, value, known)
        self.frame, self.side, self.least_quality = frame, side, least_quality
        self.intensity = Atlas(_FINE, num_channels=len(_SCALES))
        self.deviation = Atlas(_COARSE, num_channels=len(_SCALES))
        self.scores = Atlas(_COARSE)
        self.site: SiteField | None = None
        self.asymmetry = None if asymmetry == "off" else Asymmetry(_COARSE, _REFERENCE)
        self._asked = asymmetry == "on"
        self.register_buffer("reference_values", torch.zeros(_REFERENCE, dtype=torch.float16))
        self.register_buffer("reference_weight", torch.zeros(_REFERENCE, dtype=torch.float16))
        self.register_buffer("reference_origin", torch.zeros(3, dtype=torch.float64))
        self.register_buffer("reference_spacing", torch.zeros((), dtype=torch.float64))
        self.register_buffer("weights", torch.tensor(weigh_channels(1), dtype=torch.float64))
        self.register_buffer("scales", torch.tensor(_SCALES, dtype=torch.float64))
        self.register_buffer("matching", torch.zeros((), dtype=torch.bool))

    @property
    def fitted(self) -> bool:
        """Whether maps can be finished."""
        return self.scores.fitted

    @property
    def channel_weights(self) -> list[float]:
        """Of all channels: the detector, the intensity at both scales, its asymmetry where that counts."""
        return self.weights.tolist() + ([] if self.asymmetry is None else self.asymmetry.weights.tolist())

    def set_reference(self, volumes: Sequence[Volume]) -> None:
        """Build the reference from healthy scans on lattices of about the reference's spacing."""
        reference = build_reference(volumes, _REFERENCE, rounds=2 if self.frame in FRAMES[:2] else 0)
        self.reference_values.copy_(torch.from_numpy(divide_by_median(reference)))
        self.reference_weight.copy_(torch.from_numpy(reference.weight))
        self.reference_origin.copy_(torch.tensor(reference.lattice.origin, dtype=torch.float64))
        self.reference_spacing.fill_(reference.lattice.spacing)
        if self.asymmetry and not (self.asymmetry.set_mirror(self.reference, self.find_frame) or self._asked):
            self.asymmetry = None

    @property
    def reference(self) -> Volume:
        """The cohort's mean scan; its foreground's median is 1."""
        if not float(self.reference_spacing):
            raise NotFittedError("The normative map has no reference. Call `set_reference` first.")
        x, y, z = self.reference_origin.tolist()
        lattice = Lattice(_REFERENCE, float(self.reference_spacing), (x, y, z))
        return Volume(self.reference_values.float().numpy(), self.reference_weight.float().numpy(), lattice)

    def match(self, image: Array, affine: Matrix) -> tuple[Match | None, Matrix]:
        """What takes a scan's field and contrast away, if they can be told, and where its registration should start."""
        small, where = shrink(image, affine)
        start = find_start(small, where, self.reference)
        scan = self._read(small, where, Frame("affine", np.asarray(np.linalg.inv(start), dtype=np.float64)))
        mean, spread = (part[0].numpy() for part in self._moments_at(self.intensity, scan.places, _FINE))
        smoothed = Volume(scan.channels[0], scan.volume.weight, scan.volume.lattice)
        return match_intensity(smoothed, foreground_median(scan.volume), mean, spread), start

    def find_frame(self, image: Array, affine: Matrix, start: Matrix | None = None) -> Frame:
        """Find where a scan lies.

        Args:
            image: ``(X, Y, Z)``, scaled, background exactly 0.
            affine: ``(4, 4)``, from its indices to scanner coordinates (RAS, mm).
            start: of the registration, as `match` gives it; None looks for one.
        """
        reference = self.reference
        if self.frame == "none":
            return Frame("none", np.eye(4))
        image, affine = shrink(image, affine)
        if self.frame == "box":
            return fit_box(image, affine, reference)
        start = find_start(image, affine, reference) if start is None else start
        frame = refine(image, affine, reference, start, self.least_quality)
        if frame.kind == "box" or self.frame == "affine":
            return frame
        pulled = pull(resample(image, affine, reference.lattice.spacing), frame.inverse, reference.lattice)
        return deform(Volume(divide_by_median(pulled), pulled.weight, pulled.lattice), reference, frame)

    def observe_intensity(
        self, name: str, image: Array, affine: Matrix, frame: Frame, traits: Traits | None = None
    ) -> None:
        """Add a healthy scan's intensities; arguments as for :meth:`forward`."""
        scan = self._read(image, affine, frame, traits)
        self.intensity.update(name, *self._pull(scan.channels, scan, frame, _FINE))

    def finish_intensity(self) -> None:
        """End the pass over intensities."""
        self.intensity.finish()

    def observe_deviation(
        self, name: str, image: Array, affine: Matrix, frame: Frame, traits: Traits | None = None
    ) -> float:
        """Add the size of a healthy scan's deviations; needs :meth:`finish_intensity`.

        Returns:
            Root mean square of those at the coarsest scale, in spreads.
        """
        scan = self._read(image, affine, frame, traits)
        deviations = self._deviate(scan)
        sizes = np.abs(deviations) - self._expect("deviation", scan.places, traits).numpy()
        self.deviation.update(name, *self._pull(sizes, scan, frame, _COARSE))
        if self.asymmetry is not None:
            compared = self.asymmetry.compare(deviations, scan, frame, self.reference.lattice)
            self.asymmetry.sizes.update(name, *self._pull(np.abs(compared.channels), compared, frame, _COARSE))
        return float(np.sqrt(np.mean(deviations[-1][scan.volume.weight > 0.5] ** 2, dtype=np.float64)))

    def finish_deviation(self) -> None:
        """End the pass over deviations."""
        self.deviation.finish()
        if self.asymmetry is not None:
            self.asymmetry.sizes.finish()

    def observe_scores(
        self, name: str, points: Matrix, scores: Array, frame: Frame, traits: Traits | None = None
    ) -> None:
        """Add the detector's scores of a healthy scan's patches.

        Args:
            points: ``(n, 3)``, the patches' centres in scanner coordinates (mm).
            scores: ``(n,)``.
            frame: of the scan.
            traits: of its person, see :meth:`forward`.
        """
        lattice = self.lattice_of(_COARSE)
        mean, seen = average_points(frame.locate(points), scores, lattice)
        self.scores.update(name, mean[None] - self._expect("scores", lattice.points(), traits).numpy(), seen)

    def finish_scores(self) -> None:
        """End the pass over scores."""
        self.scores.finish()

    def forward(
        self, anomaly_map: Array, image: Array, affine: Matrix, frame: Frame, traits: Traits | None = None
    ) -> Array:
        """Finish a map.

        Args:
            anomaly_map: ``(X, Y, Z)``, the detector's, 0 in the background.
            image: same shape; it and ``affine`` as for `find_frame`.
            frame: of the scan.
            traits: of the person, see :class:`~monai_dpmm_ad.normative.trend_map.TrendMap`.

        Returns:
            ``(X, Y, Z)``, surprise summed over the channels by weight, 0 in the background.
        """
        weights = weigh_scan(self.channel_weights, image.shape, affine)
        return self._judge(image, affine, frame, traits).finish(anomaly_map, image, affine, weights)

    def judge_anywhere(self, anomaly_map: Array) -> Array:
        """Finish the map of what has no place, by its scores against those of all places; intensities are as expected.

        Args:
            anomaly_map: any shape, 0 in the background.
        """
        mean, square = (float(row) for row in self.scores.overall[:, 0])
        scores = anomaly_map / np.float32(float(self.scores.unit))
        z = torch.from_numpy(scores - np.float32(mean)) / max(square - mean**2, 1e-12) ** 0.5
        channels = [z, *(torch.zeros_like(z) for _ in self.scales if self.side != "off")]
        return np.where(anomaly_map > 0, combine(channels, self.channel_weights[: len(channels)]), 0).astype(np.float32)

    def draw_healthy(self, image: Array, affine: Matrix, frame: Frame, traits: Traits | None = None) -> Array:
        """What healthy scans look like at the places of a scan: the mean of their intensities there.

        It is an average of people, not this person without a lesion: smooth, since places are met by different sulci.
        Arguments as for :meth:`forward`; ``(X, Y, Z)``, in the image's units by its foreground's median, 0 elsewhere.
        """
        volume = resample(*shrink(image, affine), self.lattice_of(_FINE).spacing)
        places = frame.locate(volume.lattice.points())
        mean = self._at(self.intensity.moments()[0][:1], places, _FINE) + self._expect("intensity", places, traits)[:1]
        mean *= foreground_median(volume)
        healthy = sample_places(mean, index_voxels(image.shape, affine, volume.lattice))[0].numpy()
        healthy[image <= 0] = 0
        return healthy

    def standardize(
        self, anomaly_map: Array, image: Array, affine: Matrix, frame: Frame, traits: Traits | None = None
    ) -> list[Tensor]:
        """The detector's map and, unless ``side`` is off, the intensities as standard deviates; as for `forward`."""
        judged = self._judge(image, affine, frame, traits)
        return judged.standardize(anomaly_map, index_voxels(image.shape, affine, judged.lattice))

    def _judge(self, image: Array, affine: Matrix, frame: Frame, traits: Traits | None = None) -> JudgedScan:
        """What the atlases say of a scan, on the scan's own lattice."""
        scan = self._read(image, affine, frame, traits)
        parts = list(self._moments_at(self.scores, scan.places, _COARSE))
        parts[0] = parts[0] + self._expect("scores", scan.places, traits)
        if self.side != "off":
            deviations = self._deviate(scan)
            sided = take_side(torch.from_numpy(deviations), self.side)
            mean, spread = self._moments_at(self.deviation, scan.places, _COARSE)
            parts.append((sided - mean - self._expect("deviation", scan.places, traits)) / spread)
        if (shift := self._shift_of(traits)) is not None:
            parts = shift.adjust(parts, lambda field: self._at(field, scan.places, SITE_SHAPE))
        if self.asymmetry is not None and self.side != "off":
            place = (scan, frame, self.reference.lattice)
            parts.append(self.asymmetry.judge(deviations, parts[2], *place, self.side, self._at))
        return JudgedScan(torch.cat(parts), scan.volume.lattice)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> NormativeMap:
        return self

    def _read(self, image: Array, affine: Matrix, frame: Frame, traits: Traits | None = None) -> PlacedScan:
        volume = resample(*shrink(image, affine), self.lattice_of(_FINE).spacing)
        values = divide_by_median(volume)
        channels = np.stack([smooth(values, volume.weight, sigma) for sigma in self.scales.tolist()])
        places = frame.locate(volume.lattice.points())
        return PlacedScan(volume, channels - self._expect("intensity", places, traits).numpy(), places)

    def _deviate(self, scan: PlacedScan) -> Array:
        """Signed deviations of the intensity at each scale on the scan's own lattice, ``(C, X, Y, Z)``."""
        inside = scan.volume.weight > 0.5
        mean, spread = (part.numpy() for part in self._moments_at(self.intensity, scan.places, _FINE))
        residual = np.where(inside, (scan.channels - mean) / spread, 0).astype(np.float32)
        return remove_own_part(residual, inside, mean[0] if bool(self.matching) else None)

    def _at(self, volume: Tensor, places: Matrix, shape: Shape) -> Tensor:
        """What an atlas holds at places ``(X, Y, Z, 3)`` in the reference (mm), ``(C, X, Y, Z)``."""
        return sample_places(volume, torch.from_numpy(self.lattice_of(shape).index_of(places)))

    def _moments_at(self, atlas: Atlas, places: Matrix, shape: Shape) -> tuple[Tensor, ...]:
        """Mean and spread of an atlas at places, each ``(C, X, Y, Z)``; the places are looked up once."""
        return self._at(torch.cat(atlas.moments()), places, shape).chunk(2)

    def _expect(self, part: str, places: Matrix, traits: Traits | None) -> Tensor:
        """What a person's channels differ by from those of the cohort's mean: nothing where no trend is known."""
        return torch.zeros(1, *(1,) * (places.ndim - 1))

    def _shift_of(self, traits: Traits | None) -> Shift | None:
        """What scans of a person's site differ by."""
        return None if self.site is None else self.site.shift

    def _pull(self, channels: Array, scan: PlacedScan, frame: Frame, shape: Shape) -> tuple[Array, Array]:
        """Bring a scan's channels to the lattice of an atlas; with them the share of foreground at each place."""
        return pull_channels(channels, scan.volume, frame.trace(self.lattice_of(shape).points()))

    def lattice_of(self, shape: Shape) -> Lattice:
        """The lattice of ``shape`` over the reference's field."""
        coarse = self.reference.lattice
        spacing = coarse.spacing * _REFERENCE[0] / shape[0]
        low = np.array(coarse.origin) - coarse.spacing / 2
        x, y, z = (low + spacing / 2).tolist()
        return Lattice(shape, spacing, (x, y, z))
