# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The normative map as transforms: what a fit keeps of a scan, and how a scan's map is finished."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import CommonKeys, convert_to_dst_type
from numpy.typing import NDArray
from torch import Tensor

from monai_dpmm_ad.data.covariates import read_person
from monai_dpmm_ad.normative import Frame, NormativeMap
from monai_dpmm_ad.normative.covariates import Traits
from monai_dpmm_ad.normative.extraction import check_extent
from monai_dpmm_ad.normative.thumbnail import shrink
from monai_dpmm_ad.normative.trend_map import TrendMap
from monai_dpmm_ad.transforms.intensity import FOREGROUND_FLOOR
from monai_dpmm_ad.transforms.sequences import find_present

__all__ = ["HasNormative", "JudgeByPlaced", "MatchIntensityd", "TakeThumbnaild", "Thumbnail", "is_volume"]

_START = "registration_start"  # key of a scan's meta data, as text, which collating leaves


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """A preprocessed scan in small, and where its voxels were.

    Args:
        image: ``(x, y, z)``, see :func:`~monai_dpmm_ad.normative.thumbnail.shrink`.
        affine: ``(4, 4)``, from its indices to scanner coordinates (mm).
        scan_shape: of the preprocessed scan.
        scan_affine: of the preprocessed scan.
    """

    image: NDArray[np.float32]
    affine: NDArray[np.float64]
    scan_shape: tuple[int, ...]
    scan_affine: NDArray[np.float64]


def is_volume(image: Tensor) -> bool:
    """Whether a preprocessed scan ``(1, *spatial)`` has a place in space: a picture or a single slice has none."""
    return image.ndim == 4 and min(image.shape[1:]) > 1


class TakeThumbnaild(MapTransform):
    """Add ``thumbnail`` to a preprocessed item: a :class:`Thumbnail`, None where the scan is no volume."""

    def __init__(self) -> None:
        super().__init__(keys=CommonKeys.IMAGE)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        image = item[CommonKeys.IMAGE]
        item["thumbnail"] = None
        if is_volume(image):
            values, affine = _read(image)
            item["thumbnail"] = Thumbnail(*shrink(values, affine), values.shape, affine)
        return item


class HasNormative(Protocol):
    """What owns a normative map, or None."""

    @property
    def normative(self) -> NormativeMap | None: ...


class MatchIntensityd(MapTransform):
    """Take a scan's bias field and contrast away, as far as they differ from the fitted scans' at the same places.

    It belongs at the end of the preprocessing. Nothing is done without a normative map that was fitted to match, to
    pictures, or where a scan does not agree with the fitted ones.

    Args:
        network: its ``normative`` is read at call time, when a fit has decided.

    Example:
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="off")
        >>> MatchIntensityd(network)({"image": "scan"})  # it has no normative map
        {'image': 'scan'}
    """

    def __init__(self, network: HasNormative) -> None:
        super().__init__(keys=CommonKeys.IMAGE)
        self.network = network

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Match the image of a copy of ``data``."""
        out, normative = dict(data), self.network.normative
        if normative is not None and len(out[CommonKeys.IMAGE]) > 1:
            out[CommonKeys.IMAGE] = self._match_each(out[CommonKeys.IMAGE])
            return out
        if normative is None or not bool(normative.matching) or not is_volume(out[CommonKeys.IMAGE]):
            return out
        image = out[CommonKeys.IMAGE]
        values, affine = _read(image)
        match, start = normative.match(values, affine)
        matched = values if match is None else match.apply(values, affine, FOREGROUND_FLOOR)
        meta = {**image.meta, _START: json.dumps(start.tolist())}
        operations = list(image.applied_operations)
        out[CommonKeys.IMAGE] = MetaTensor(torch.from_numpy(matched)[None], meta=meta, applied_operations=operations)
        return out

    def _match_each(self, image: MetaTensor) -> MetaTensor:
        """Match each sequence of ``(Q, *spatial)`` that is there by itself."""
        matched, starts = image.as_subclass(Tensor).clone(), {}
        for number in find_present(image):
            one = MatchIntensityd(cast(Any, self.network)[number])
            found = one({CommonKeys.IMAGE: image[number : number + 1]})[CommonKeys.IMAGE]
            matched[number] = found.as_subclass(Tensor)[0]
            starts[number] = found.meta.get(_START)
        meta = {**image.meta, _START: json.dumps(starts)}
        return MetaTensor(matched, meta=meta, applied_operations=list(image.applied_operations))


class JudgeByPlaced(MapTransform):
    """Finish a scan's ``pred`` against healthy scans at the same place, and add ``frame``, where the scan lies.

    It belongs after the network and before the map goes back to the scan's own grid. Nothing is done without a
    normative map. Of several sequences each map is finished by itself, and the frame is that of the first. A picture or
    a single slice has no place: its scores are judged against those of all places, and its frame is of kind ``none``.

    Args:
        network: its ``normative`` is read at call time, when a fit has decided.
        healthy_twin: add ``healthy`` as well: the mean of healthy scans at the scan's places, in the units of its file,
            0 in the background. What has no place has none.

    Raises:
        ValueError: a healthy twin without a normative map.

    Example:
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="off")
        >>> JudgeByPlaced(network)({"image": "scan", "pred": "map"})  # it has no normative map
        {'image': 'scan', 'pred': 'map'}
    """

    def __init__(self, network: HasNormative, healthy_twin: bool = False) -> None:
        super().__init__(keys=CommonKeys.PRED)
        if healthy_twin and network.normative is None:
            raise ValueError(
                "`healthy_twin` must be off for a bundle that does not judge by place, got True. Fit volumes with "
                "`normative` on."
            )
        self.network = network
        self.healthy_twin = healthy_twin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Finish a map of a copy of ``data``."""
        out, normative = dict(data), self.network.normative
        if normative is None:
            return out
        image, pred = out[CommonKeys.IMAGE], out[CommonKeys.PRED]
        if len(image) > 1:
            out.update(self._judge_each(image, pred))
            return out
        if is_volume(image):
            values, affine = _read(image)
            check_extent(values, affine, normative.reference)
            start = image.meta.get(_START)
            frame = normative.find_frame(values, affine, None if start is None else np.array(json.loads(start)))
            traits = normative.design.traits(read_person(image.meta)) if isinstance(normative, TrendMap) else None
            finished = normative(_to_array(pred), values, affine, frame, traits=traits)
            if self.healthy_twin:
                out["healthy"] = _draw_healthy(normative, image, frame, traits)
        else:
            frame = Frame("none", np.eye(4))
            finished = normative.judge_anywhere(_to_array(pred))
        out[CommonKeys.PRED] = convert_to_dst_type(torch.from_numpy(finished)[None], pred)[0]
        out["frame"] = frame
        return out

    def _judge_each(self, image: MetaTensor, pred: MetaTensor) -> dict[Hashable, Any]:
        """Finish the maps ``(Q, *spatial)`` of those sequences that are there."""
        finished = torch.zeros_like(pred.as_subclass(Tensor))
        judged: list[dict[Hashable, Any]] = []
        starts = json.loads(image.meta.get(_START) or "{}")
        for number in find_present(image):
            one = JudgeByPlaced(cast(Any, self.network)[number], self.healthy_twin and not judged)
            part, start = slice(number, number + 1), starts.get(str(number))
            meta = {key: value for key, value in image.meta.items() if key != _START}
            own = MetaTensor(image[part].as_subclass(Tensor), meta=meta | ({} if start is None else {_START: start}))
            judged.append(one({CommonKeys.IMAGE: own, CommonKeys.PRED: pred[part]}))
            finished[part] = judged[-1][CommonKeys.PRED].as_subclass(Tensor)
        told: dict[Hashable, Any] = {key: value for key, value in judged[0].items() if key in ("frame", "healthy")}
        told[CommonKeys.PRED] = convert_to_dst_type(finished, pred)[0]
        return told


def _draw_healthy(normative: NormativeMap, image: MetaTensor, frame: Frame, traits: Traits | None) -> MetaTensor:
    """The healthy twin ``(1, *spatial)`` of a preprocessed scan in the units that its file has."""
    healthy = normative.draw_healthy(*_read(image), frame, traits)
    zero, one = json.loads(image.meta["levels"])
    healthy = np.where(healthy > 0, zero + (one - zero) * healthy, 0).astype(np.float32)
    return MetaTensor(torch.from_numpy(healthy)[None], meta=image.meta)


def _read(image: Any) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    return _to_array(image), np.asarray(image.affine, dtype=np.float64)


def _to_array(image: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(image.as_subclass(Tensor)[0].cpu().numpy(), dtype=np.float32)
