# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What is grouped into kinds of anomaly: whole scans, or flagged regions, as bags of patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import Tensor

from monai_dpmm_ad.data.dataset import FAILURE, ScanDataset, describe_failure
from monai_dpmm_ad.errors import SCAN_ERRORS, unknown_option
from monai_dpmm_ad.handlers.regions import Region, compute_regions
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.network.inferer import VolumeInferer, iterate_slices
from monai_dpmm_ad.ops.patches import join_stages, pool_foreground
from monai_dpmm_ad.ops.slices import choose_planes, extract_slices, pixel_aspect, voxel_sizes
from monai_dpmm_ad.transforms.place import JudgeByPlaced
from monai_dpmm_ad.transforms.score import ScoreScand
from monai_dpmm_ad.utils.progress import track

__all__ = ["KINDS", "Instance", "InstanceCollector", "Thumbnail"]

KINDS = ("images", "regions")


@dataclass(frozen=True)
class Thumbnail:
    """The slice that shows an instance best.

    Args:
        scan: (H, W), preprocessed intensities.
        anomaly_map: (H, W), in the unit of the detector's scores.
        mask: (H, W) Boolean, the region; None for a whole scan.
    """

    scan: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Instance:
    """One scan or flagged region.

    Args:
        name: of the scan, with the region's number behind it.
        scan: the scan's name.
        image: the scan's path.
        patches: (n, S·D), unit embeddings.
        scores: (n,), the detector's.
        thumbnail: shows it.
        coverage: (n,), share of each patch that the region covers; None for a scan.
        region: number within the scan; None for a scan.
        size: mm³, or pixels of a picture; None for a scan.
    """

    name: str
    scan: str
    image: str
    patches: Tensor
    scores: Tensor
    thumbnail: Thumbnail
    coverage: Tensor | None = None
    region: int | None = None
    size: float | None = None


@dataclass
class _Patches:
    """Rows gathered over slices."""

    patches: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    coverage: list[Tensor] = field(default_factory=list)

    def take(self, limit: int, seed: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """All rows, or a random share of ``limit`` rows in their order."""
        patches, scores = torch.cat(self.patches), torch.cat(self.scores)
        coverage = torch.cat(self.coverage) if self.coverage else None
        if len(patches) > limit:
            order = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))
            kept = order[:limit].sort().values
            patches, scores = patches[kept], scores[kept]
            coverage = None if coverage is None else coverage[kept]
        return patches, scores, coverage


class InstanceCollector:
    """Run the network over scans and gather instances.

    Args:
        network: fitted, on its device.
        axes: the slices' axes, as in the bundle.
        channels: of the slices, as in the bundle.
        batch_size: slices in one forward pass.
        kind: ``images`` or ``regions``.
        rate: false-positive rate of the mask whose connected components are the regions, see
            :class:`~monai_dpmm_ad.transforms.score.ScoreScand`.
        min_volume: smallest region, mm³, or pixels of a picture.
        max_patches: largest number of patches of an instance; more are drawn from at random.
        seed: of that draw.
        false_regions: of the mask, see there.
        slice_spacing: of the slices that the mask comes from, see :class:`~monai_dpmm_ad.network.VolumeInferer`;
            regions take all of theirs.

    Attributes:
        bags: for ``regions``, all foreground patches of each scan (at most ``max_patches``), by its name.
    """

    def __init__(
        self,
        network: AnomalyNet,
        axes: Sequence[str] = ("axial",),
        channels: int = 1,
        batch_size: int = 8,
        kind: str = "images",
        rate: float | None = None,
        min_volume: float = 0.0,
        max_patches: int = 2000,
        seed: int = 0,
        false_regions: float = 1.0,
        slice_spacing: float | None = None,
    ) -> None:
        if kind not in KINDS:
            raise unknown_option("items", kind, KINDS)
        if max_patches < 1:
            raise ValueError(f"`max_patches` must be at least 1, got {max_patches}.")
        self.network = network
        self.axes, self.channels, self.batch_size = tuple(axes), channels, batch_size
        self.inferer = VolumeInferer(self.axes, batch_size, channels, slice_spacing)
        self.kind, self.min_volume, self.max_patches, self.seed = kind, min_volume, max_patches, seed
        flag = ScoreScand(network.calibration, rate, regions=network.regions, false_regions=false_regions)
        self._flag = Compose([JudgeByPlaced(network), flag])
        self.bags: dict[str, Tensor] = {}

    @torch.no_grad()
    def collect(self, dataset: ScanDataset, description: str = "Embedding") -> list[Instance]:
        """Gather the instances of all scans; what fails is appended to ``dataset.failures``."""
        instances: list[Instance] = []
        for index in track(range(len(dataset)), total=len(dataset), description=description):
            scan = dataset[index]
            if FAILURE in scan:
                continue
            entry = dataset.data[index]
            try:
                instances += self._collect_scan(scan["image"], str(entry["name"]), str(entry["image"]))
            except SCAN_ERRORS as error:
                dataset.failures.append(describe_failure(entry, error))
        return instances

    def _collect_scan(self, image: MetaTensor, name: str, path: str) -> list[Instance]:
        plain = image.as_subclass(Tensor)
        if self.kind == "images":
            return [self._whole_scan(image, name, path)]
        regions, labels, maps = self._find_regions(image)
        everything, bags = _Patches(), [_Patches() for _ in regions]
        for axis, index, images, positions, aspect in self._batches(image):
            encoded, valid, scores = self._encode(images, positions, aspect)
            _append(everything, encoded, valid, scores)
            shares = self._cover(labels, axis, index, aspect, len(regions))  # (regions, b, h, w)
            for found, share in zip(bags, shares, strict=True):
                touched = valid & (share > 0)
                if touched.any():
                    _append(found, encoded, touched, scores)
                    found.coverage.append(share[touched].cpu())
        self.bags[name] = everything.take(self.max_patches, self.seed)[0]
        return [
            self._make_instance(found, region, name, path, plain, labels, maps)
            for found, region in zip(bags, regions, strict=True)
            if found.patches  # a region whose patches are all background has nothing that describes it
        ]

    def _whole_scan(self, image: MetaTensor, name: str, path: str) -> Instance:
        gathered, thumbnail, highest = _Patches(), None, -np.inf
        for _, _, images, positions, aspect in self._batches(image):
            encoded, valid, scores = self._encode(images, positions, aspect)
            _append(gathered, encoded, valid, scores)
            shown = torch.where(valid, scores, 0)
            means = shown.sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)
            best = int(means.argmax())
            if float(means[best]) > highest:
                highest, slice_ = float(means[best]), images[best, images.shape[1] // 2]
                enlarged = F.interpolate(shown[best][None, None], slice_.shape, mode="bilinear")[0, 0]
                thumbnail = Thumbnail(_to_array(slice_), _to_array(enlarged * (slice_ > 0)))
        if thumbnail is None or not sum(map(len, gathered.patches)):
            raise ValueError("no patch holds enough foreground")
        patches, scores, _ = gathered.take(self.max_patches, self.seed)
        return Instance(name, name, path, patches, scores, thumbnail)

    def _batches(self, image: MetaTensor) -> Iterator[tuple[str | None, Tensor | None, Tensor, Tensor | None, float]]:
        """Batches of slices: axis, their index (b,), images (b, C, H, W), positions (b,), their pixels' aspect.

        A picture is one slice.
        """
        device = self.network.backbone_digest.device
        plain, sizes = image.as_subclass(Tensor), voxel_sizes(image, batched=False)
        if plain.ndim == 3:
            images = plain[None].expand(-1, self.channels, -1, -1).to(device)
            yield None, None, images, None, pixel_aspect(sizes, self.axes[0])
            return
        axes, fewer = choose_planes(self.axes, plain.shape[1:], sizes)
        step = 1 if self.kind == "regions" else fewer  # a small region may lie between slices
        for axis in axes:
            slices, aspect = extract_slices(plain, axis), pixel_aspect(sizes, axis)
            for index, images, positions in iterate_slices(slices, self.batch_size, self.channels, step):
                yield axis, index, images.to(device), positions.to(device), aspect

    def _encode(self, images: Tensor, positions: Tensor | None, aspect: float) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings (b, h, w, S·D), whether each is foreground and its score, (b, h, w)."""
        encoded = self.network.encode(images, positions, aspect=aspect)
        valid = self.network.choose_patches(encoded)
        scores = self.network.detector.score_slices(encoded, valid)
        return join_stages(encoded.embeddings.patches.movedim(1, 3)), valid, scores

    def _find_regions(self, image: MetaTensor) -> tuple[list[Region], Tensor, Tensor]:
        """Find the flagged regions on the preprocessed grid, with their label map and the anomaly map."""
        device = self.network.backbone_digest.device
        maps = self.inferer(image[None].to(device), self.network)[0].cpu().as_subclass(Tensor)
        scan: Any = self._flag({"image": image, "pred": MetaTensor(maps, meta=image.meta)})
        maps, mask = (scan[key].as_subclass(Tensor)[0] for key in ("pred", "mask"))
        affine = np.asarray(image.affine, dtype=np.float64)
        regions = compute_regions(mask.numpy(), maps.numpy(), affine, self.min_volume)
        labels = torch.zeros(maps.shape, dtype=torch.int32)
        labels[regions.box] = torch.from_numpy(regions.labels)
        return regions.listed, labels, maps

    def _cover(
        self, labels: Tensor, axis: str | None, index: Tensor | None, aspect: float, number: int
    ) -> Iterator[Tensor]:
        """Share (b, h, w) of each patch that a region covers, for one region after the other."""
        slices = labels[None, None] if axis is None else extract_slices(labels[None], axis)[index]
        size = self.network.resized_shape(slices.shape[-2], slices.shape[-1], aspect)
        device = self.network.backbone_digest.device
        present = set(slices.unique().tolist())
        for region in range(1, number + 1):
            if region not in present:
                yield torch.zeros((), device=device)
                continue
            own = F.adaptive_avg_pool2d((slices == region).float().to(device), size)
            yield pool_foreground(own, self.network.embedder.patch_size)

    def _make_instance(
        self, found: _Patches, region: Region, scan: str, path: str, image: Tensor, labels: Tensor, maps: Tensor
    ) -> Instance:
        mask = labels == region.index
        parts = [image[0].cpu(), maps, mask]
        if mask.ndim == 3:  # the axial slice that shows most of it
            best = int(mask.sum((0, 1)).argmax())
            parts = [part[..., best] for part in parts]
        thumbnail = Thumbnail(_to_array(parts[0]), _to_array(parts[1]), parts[2].numpy())
        patches, scores, coverage = found.take(self.max_patches, self.seed)
        name = f"{scan}_region{region.index}"
        return Instance(name, scan, path, patches, scores, thumbnail, coverage, region.index, region.size)


def _append(gathered: _Patches, patches: Tensor, chosen: Tensor, scores: Tensor) -> None:
    gathered.patches.append(patches[chosen].cpu())
    gathered.scores.append(scores[chosen].float().cpu())


def _to_array(values: Tensor) -> NDArray[Any]:
    return values.detach().cpu().float().numpy().copy()
