# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Fit the normative map to the scans of an embedding store: nothing is embedded again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from statistics import median_low

import numpy as np
import torch
from numpy.typing import NDArray

from monai_dpmm_ad.data.acquisitions import find_original
from monai_dpmm_ad.data.covariates import read_person
from monai_dpmm_ad.data.dataset import ScanDataset
from monai_dpmm_ad.embedding import EmbeddingStore
from monai_dpmm_ad.engines.thumbnails import FittedScan, FittedScans, thumbnail_folder
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.normative import FRAMES, Frame, NormativeMap, resample
from monai_dpmm_ad.normative.combination import weigh_channels
from monai_dpmm_ad.normative.covariates import Traits
from monai_dpmm_ad.normative.extraction import LARGER, measure_foreground, measure_volume
from monai_dpmm_ad.normative.reference import find_spacing
from monai_dpmm_ad.normative.trend_map import TrendMap
from monai_dpmm_ad.utils.distributed import gather_lists, is_first, share
from monai_dpmm_ad.utils.log import LOG
from monai_dpmm_ad.utils.memory import release_heap
from monai_dpmm_ad.utils.progress import track

__all__ = ["fit_normative"]

#: Scans that a normative map needs: from one, real patients' maps were worse than without place (docs/normative.md).
_LEAST_FITTED = 2
#: Scans that the reference is the mean of, at most, evenly spaced among those that are fitted.
_NUM_REFERENCE = 16
#: Scans from which on one can be told from most, and how many times as much as they it deviates: of 50 real brains the
#: one with ventricles of a multiple of the usual size had 2.5, the next ones 1.4 times the median.
_LEAST_COMPARED, _UNLIKE = 5, 2.0
#: Largest share of the fitted scans whose registration may fail before all are placed by their boxes.
_MOST_FAILED = 0.25


def fit_normative(
    network: AnomalyNet, dataset: ScanDataset, store: EmbeddingStore, frame: str = "auto", match: str = "off"
) -> None:
    """Show a network's normative map the scans that its detector was fitted on.

    A map that has been fitted before, as in an update, keeps its reference and takes the scans in beside those that it
    has seen: the old ones' scores are those of the detector before. Copies that were acquired otherwise lie where their
    scans lie. Their scores count like those of scans, and so do their intensities, unless what is mapped is matched
    first: then no scan will have such intensities.

    Args:
        network: its detector is fitted. It forgets place where the scans are not all volumes, and where it is a single
            one, which tells nothing of how people differ.
        dataset: the fitted scans; the transform takes thumbnails, see `embed_dataset`.
        store: their embeddings. Under torch.distributed each process takes its share of them.
        frame: one of :data:`~monai_dpmm_ad.normative.FRAMES`; ``auto`` registers, or takes boxes where that fails.
        match: ``on`` has the intensities of scans matched to those that are fitted here, before they are mapped: new
            ones, and those of the calibration. Where places are not registered nothing can be matched.
    """
    normative = network.normative
    if normative is None:
        return
    release_heap()  # of what the detector was fitted with
    originals = {item["name"]: find_original(item) for item in dataset.data}
    names = [name for name in store.sources if store.count_rows(name)]
    own = [name for name in names if originals[name] == name]
    scans = FittedScans(thumbnail_folder(store.path), dataset)
    if not _are_volumes(scans, names):
        if isinstance(normative, TrendMap):
            raise ValueError("`covariates` must be left out of a fit of pictures, whose maps are not judged by place.")
        network.forget_place()
        return
    if not normative.fitted and len(own) < _LEAST_FITTED:
        network.forget_place()
        return
    _name_heads(normative, scans, own)
    key = _place_scans(normative, scans, own, frame)
    if not normative.fitted:
        normative.matching.fill_(match == "on" and normative.frame in FRAMES[:2])
        _set_weights(normative, scans, own)
        normative.scores.set_unit(_score_rows(network, store, own[0], scans.read(own[0]))[1])  # on all processes alike
    release_heap()  # of registering
    traits: dict[str, Traits | None] = dict.fromkeys(names)
    if isinstance(normative, TrendMap):
        traits = _fit_trends(normative, network, dataset, store, scans, own, key)
    placed = set(own)
    seen = share([name for name in names if originals[name] in placed])
    toned = {name for name in seen if originals[name] == name or not bool(normative.matching)}
    for name in track(seen, total=len(seen), description="Atlas"):
        scan, place = scans.read(name), _read_frame(scans, originals[name], key)
        if name in toned:
            normative.observe_intensity(originals[name], scan.image, scan.affine, place, traits[name])
        normative.observe_scores(originals[name], *_score_rows(network, store, name, scan), place, traits[name])
    normative.finish_intensity()
    if isinstance(normative, TrendMap):
        _observe_trend(normative, "deviation", scans, share(own), key, traits)
        if any(traits.values()):
            normative.finish_trends("deviation")
    sizes = {}
    for name in seen:
        if name in toned:
            scan, place = scans.read(name), _read_frame(scans, originals[name], key)
            sizes[name] = normative.observe_deviation(originals[name], scan.image, scan.affine, place, traits[name])
    normative.finish_deviation()
    _name_unlike({name: size for name, size in sizes.items() if name in placed})
    normative.finish_scores()


def _place_scans(normative: NormativeMap, scans: FittedScans, names: Sequence[str], frame: str) -> str:
    """Set the reference, unless the map has one, and find where scans lie; returns what their frames are kept by."""
    if not normative.fitted:
        normative.frame = "deformed" if frame == "auto" else frame
        _set_reference(normative, scans, names)
    failed = _find_frames(normative, scans, share(names))
    if frame == "auto" and not normative.fitted and failed > _MOST_FAILED * len(names):
        normative.frame = "box"
        _set_reference(normative, scans, names)
        _find_frames(normative, scans, share(names))
    return _key_of(normative)


def _fit_trends(
    normative: TrendMap,
    network: AnomalyNet,
    dataset: ScanDataset,
    store: EmbeddingStore,
    scans: FittedScans,
    names: Sequence[str],
    key: str,
) -> dict[str, Traits | None]:
    """Learn how intensities and scores follow age and sex; returns what each person is, None where neither is known."""
    people = {item["name"]: read_person(item) for item in dataset.data}
    if not normative.fitted:
        normative.design.observe([people[name] for name in names])
        network.know_sites(normative.design.sites)
    mine = share(names)
    traits = {name: normative.design.traits_if_known(person) for name, person in people.items()}
    _observe_trend(normative, "intensity", scans, mine, key, traits)
    for name in mine:
        of_person, scan = traits[name], scans.read(name)
        if of_person is not None:
            points, scores = _score_rows(network, store, name, scan)
            normative.observe_score_trend(points, scores, _read_frame(scans, name, key), of_person)
    if any(traits.values()):
        normative.finish_trends("intensity", "scores")
    return traits


def _observe_trend(
    normative: TrendMap,
    part: str,
    scans: FittedScans,
    names: Sequence[str],
    key: str,
    traits: Mapping[str, Traits | None],
) -> None:
    for name in track(names, total=len(names), description="Covariates"):
        of_person, scan = traits[name], scans.read(name)
        if of_person is not None:
            normative.observe_trend(part, scan.image, scan.affine, _read_frame(scans, name, key), of_person)


def _are_volumes(scans: FittedScans, names: Sequence[str]) -> bool:
    """Whether all scans are volumes; of pictures the first is looked at alone."""
    if not scans.has(names[0]):
        return False
    return all(gather_lists([scans.has(name) for name in share(names)]))


def _name_heads(normative: NormativeMap, scans: FittedScans, names: Sequence[str]) -> None:
    """Say which of the scans are much larger than those that are fitted, or than most of them where none is yet.

    They are skulls among brains, which nobody takes away here.
    """
    read = ((name, scans.read(name)) for name in share(names))
    volumes = dict(gather_lists([(name, measure_foreground(scan.image, scan.affine)) for name, scan in read]))
    usual = measure_volume(normative.reference) if normative.fitted else float(np.median(list(volumes.values())))
    if (heads := sorted(name for name, volume in volumes.items() if volume > LARGER * usual)) and is_first():
        LOG.warning(
            "%s: larger than %.1f times the other fitted scans, %.0f mL; leave them out or cut the brain out of them",
            ", ".join(heads),
            LARGER,
            usual,
        )


def _name_unlike(sizes: Mapping[str, float]) -> None:
    """Say which of the fitted scans deviate much more than most: what is not healthy there widens what counts as usual.

    Args:
        sizes: of this process's scans, how far they deviate, see `NormativeMap.observe_deviation`.
    """
    of_all = dict(gather_lists(list(sizes.items())))
    usual = float(np.median(list(of_all.values())))
    unlike = sorted(name for name, size in of_all.items() if size > _UNLIKE * usual)
    if len(of_all) >= _LEAST_COMPARED and unlike and is_first():
        LOG.warning(
            "%s: deviates more than %g times as much from the fitted scans' mean as most of them; look whether it is "
            "of a healthy person, since it widens what counts as usual",
            ", ".join(unlike),
            _UNLIKE,
        )


def _set_weights(normative: NormativeMap, scans: FittedScans, names: Sequence[str]) -> None:
    """Weigh the channels by the number of planes in which the network has seen most scans."""
    planes = gather_lists([scans.read(name).num_planes for name in share(names)])
    normative.weights.copy_(torch.tensor(weigh_channels(median_low(planes)), dtype=torch.float64))


def _set_reference(normative: NormativeMap, scans: FittedScans, names: Sequence[str]) -> None:
    chosen = [names[number] for number in np.unique(np.linspace(0, len(names) - 1, _NUM_REFERENCE).round().astype(int))]
    small = [scans.read(name) for name in chosen]
    shape = tuple(normative.reference_values.shape)
    spacing = float(np.median([find_spacing(scan.image, scan.affine, shape) for scan in small]))
    normative.set_reference([resample(scan.image, scan.affine, spacing) for scan in small])


def _find_frames(normative: NormativeMap, scans: FittedScans, names: Sequence[str]) -> int:
    """Find where scans lie, each once for a reference; returns how many, of all processes', could not be registered."""
    key, failed = _key_of(normative), []
    for name in track(names, total=len(names), description="Registering"):
        frame = scans.read_frame(name, key)
        if frame is None:
            scan = scans.read(name)
            frame = normative.find_frame(scan.image, scan.affine)
            scans.save_frame(name, key, frame)
        failed.append(frame.kind == "box")
    return sum(gather_lists(failed))


def _read_frame(scans: FittedScans, name: str, key: str) -> Frame:
    frame = scans.read_frame(name, key)
    assert frame is not None, f"{name} has no frame"
    return frame


def _key_of(normative: NormativeMap) -> str:
    """What a frame depends on beside its scan."""
    reference = normative.reference
    content = (reference.values.tobytes(), reference.weight.tobytes(), str(reference.lattice).encode())
    return hashlib.sha256(b"".join(content) + normative.frame.encode()).hexdigest()


@torch.no_grad()
def _score_rows(
    network: AnomalyNet, store: EmbeddingStore, name: str, scan: FittedScan
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Places (mm) and scores of the patches that a store has of a scan, without its rotated copies."""
    rows = store.source_rows(name)
    upright = rows["slice_index"] < len(scan.axes)
    cls = {key: value for key, value in rows.items() if key == "cls"}
    rows = {key: value[upright] for key, value in rows.items() if key != "cls"}
    device = network.backbone_digest.device
    scores = network.detector.score_rows({key: value.to(device) for key, value in {**rows, **cls}.items()})
    points = scan.locate_rows(rows["location"].numpy(), rows["slice_index"].numpy())
    return points, scores.float().cpu().numpy()
