# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From normal scans to an embedding store."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_dpmm_ad.data.acquisitions import find_original
from monai_dpmm_ad.data.content import hash_with_labels
from monai_dpmm_ad.data.dataset import ScanDataset, ScanFailure
from monai_dpmm_ad.embedding import EmbeddingStore, StoreWriter, adopt_parts, part_path
from monai_dpmm_ad.engines.prefetch import ALONE, Prefetcher
from monai_dpmm_ad.engines.steps import describe_steps
from monai_dpmm_ad.engines.thumbnails import save_thumbnail, thumbnail_folder
from monai_dpmm_ad.errors import EmbeddingStoreError
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.ops.patches import pool_foreground
from monai_dpmm_ad.transforms.rotate import check_rotations, rotate_slices
from monai_dpmm_ad.utils.distributed import gather_lists, get_rank, get_world_size, share, wait_for_all
from monai_dpmm_ad.utils.memory import release_heap
from monai_dpmm_ad.utils.progress import track

__all__ = ["embed_dataset"]


def embed_dataset(
    dataset: ScanDataset,
    network: AnomalyNet,
    path: str | os.PathLike[str],
    preprocessing: dict[str, Any],
    device: torch.device | str = "cpu",
    patch_fraction: float = 1.0,
    batch_size: int = 8,
    seed: int = 0,
    rotations: Sequence[float] = (0,),
    thumbnails: bool = False,
    steps: Any = None,
) -> EmbeddingStore:
    """Embed the normal patches of every scan into a store on disk, or continue an interrupted store.

    Left out are patches with too little foreground and those that a ``label`` touches.

    Args:
        dataset: each scan's transform ends in :class:`~monai_dpmm_ad.transforms.SampleSlicesd`; what cannot be read is
            in its ``failures`` afterwards.
        network: its embedder is used, its detector is not.
        path: folder of the store. Under torch.distributed, where all processes must see it, each embeds its share of
            the scans; what is read afterwards does not depend on the number of processes.
        preprocessing: all settings that change what the embedder sees; part of the store's fingerprint.
        device: where to embed.
        patch_fraction: random share of each slice's patches that is kept, in (0, 1].
        batch_size: slices in one forward pass.
        seed: of that random share.
        rotations: degrees; each slice is embedded once at each angle.
        thumbnails: keep those of volumes beside the store; the transform takes them.
        steps: the transform that the store's scans went through, where it is not the dataset's.

    Returns:
        The complete store, opened for reading.

    Raises:
        EmbeddingStoreError: when no scan gave a single patch, or the folder holds another backbone's embeddings, or
            those of other scans of the same names, or of scans that went through other steps.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from monai_dpmm_ad import ScanDataset, preprocess_slices, resolve_datalist, write_cohort
        >>> folder = Path(tempfile.mkdtemp())
        >>> sizes = {"num_train": 3, "num_valid": 2, "num_test_healthy": 1, "num_test_abnormal": 1}
        >>> datalist = write_cohort(folder / "scans", spacing=8, size="small", **sizes)
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="off")
        >>> items = resolve_datalist(datalist, section="training")
        >>> dataset = ScanDataset(items, preprocess_slices())
        >>> store = embed_dataset(dataset, network, folder / "store", preprocessing={}, patch_fraction=0.5)
        >>> len(store.sources), store.complete, store.embed_dim
        (3, True, 64)
    """
    angles = sorted(check_rotations(rotations), key=lambda angle: angle % 360 != 0)  # the slices themselves first
    settings = {**preprocessing, "rotations": angles}
    fingerprint = {"embedder": network.embedder.fingerprint(), "preprocessing": settings}
    origins = _find_origins(dataset.data, dataset.transform if steps is None else steps)

    def open_writer(folder: str | os.PathLike[str]) -> StoreWriter:
        return StoreWriter(folder, fingerprint, patch_fraction=patch_fraction, seed=seed, origins=origins)

    def embed_scan(slices: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        turned = (copy for angle in angles for one in slices for copy in rotate_slices([one], angle))
        return _embed_scan(turned, network, device, batch_size)

    network.to(device).eval()
    keep = thumbnail_folder(path) if thumbnails else None
    dataset.failures.extend(_name_once(_embed_missing(dataset, path, open_writer, embed_scan, keep), dataset))
    store = EmbeddingStore(path, order=[item["name"] for item in dataset.data])
    if store.num_rows == 0:
        raise EmbeddingStoreError(_say_nothing(dataset))
    return store


def _find_origins(items: Sequence[dict[str, Any]], steps: Any) -> dict[str, str]:
    """What scans are and went through, by name, but for copies, whose originals tell.

    Another cohort may have the same names, and a config may change a step beside the settings.
    """
    told = hashlib.sha256(json.dumps(describe_steps(steps), sort_keys=True).encode()).hexdigest()[:16]
    own = [item for item in items if find_original(item) == item["name"]]
    return {
        item["name"]: f"{image} {label or '-'} {told}"
        for item, (image, label) in zip(own, hash_with_labels(own), strict=True)
        if image is not None
    }


def _say_nothing(dataset: ScanDataset) -> str:
    """Why a fit, or its validation, has nothing; which of the two it is the user can tell by the scans."""
    told = [f"{failure.path}: {failure.reason}" for failure in dataset.failures[:3]] or ["no normal patch was found"]
    more = ["…"] if len(dataset.failures) > len(told) else []
    return (
        f"None of the {len(dataset.data)} scans could be embedded. {'; '.join(told + more)}. Take them out; "
        "if these were to be held out, name others with --held-out."
    )


def _embed_missing(
    dataset: ScanDataset,
    path: str | os.PathLike[str],
    open_writer: Callable[[str | os.PathLike[str]], StoreWriter],
    embed_scan: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
    thumbnails: Path | None,
) -> list[ScanFailure]:
    """Embed what a store lacks, each process its share; returns the failures of all processes."""
    if get_world_size() == 1:
        with open_writer(path) as writer:
            adopt_parts(writer)  # what an interrupted run of several processes left
            return _embed_scans(dataset.data, dataset.transform, writer, embed_scan, thumbnails)
    _adopt(path, open_writer)
    done = set(EmbeddingStore(path).sources)
    todo = share([item for item in dataset.data if item["name"] not in done])
    with open_writer(part_path(path, get_rank(), get_world_size())) as writer:
        failures = _embed_scans(todo, dataset.transform, writer, embed_scan, thumbnails)
    _adopt(path, open_writer)
    return gather_lists(failures)


def _name_once(failures: Sequence[ScanFailure], dataset: ScanDataset) -> list[ScanFailure]:
    """Leave out copies whose scan failed as well."""
    failed = {failure.name for failure in failures}
    originals = {item["name"]: find_original(item) for item in dataset.data}
    return [one for one in failures if originals[one.name] == one.name or originals[one.name] not in failed]


def _adopt(path: str | os.PathLike[str], open_writer: Callable[[str | os.PathLike[str]], StoreWriter]) -> None:
    """Let one process bring all parts into the store, when all have written theirs."""
    wait_for_all()
    if get_rank() == 0:
        with open_writer(path) as writer:
            adopt_parts(writer)
    wait_for_all()


def _embed_scans(
    items: Sequence[dict[str, Any]],
    transform: Callable[[dict[str, Any]], Any],
    writer: StoreWriter,
    embed_scan: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
    thumbnails: Path | None,
) -> list[ScanFailure]:
    todo = [item for item in items if not writer.done(item["name"])]
    pending = ScanDataset(todo, transform)
    ahead: Prefetcher[Any, Any] = Prefetcher(pending, alone=_is_large)
    try:
        slices = iter(ahead)
        for item in track(todo, total=len(todo), description="Embedding"):
            scan = next(slices)
            if not isinstance(scan, dict):
                if thumbnails is not None:  # first: what the store has, has its thumbnail
                    save_thumbnail(thumbnails, item["name"], scan)
                writer.write(item["name"], **embed_scan(scan))
            del scan  # before the next one is read
    finally:
        ahead.close()
    release_heap()  # of scans and activations
    return pending.failures


def _is_large(scan: Sequence[dict[str, Any]] | dict[str, Any]) -> bool:
    """Whether the slices of a scan, or its failure, take much memory."""
    return not isinstance(scan, dict) and sum(item["image"].nbytes for item in scan) >= ALONE


@torch.no_grad()
def _embed_scan(
    slices: Iterable[dict[str, Any]], network: AnomalyNet, device: torch.device | str, batch_size: int
) -> dict[str, Tensor]:
    parts: list[dict[str, Tensor]] = []
    cls = []
    for start, batch in _batches(slices, batch_size):
        images = torch.stack([item["image"].as_subclass(Tensor) for item in batch]).to(device)
        positions, aspect = torch.tensor([item["position"] for item in batch], device=device), batch[0]["aspect"]
        encoded = network.encode(images, positions, aspect=aspect)
        normal = network.choose_patches(encoded).clone()
        if "label" in batch[0]:
            labels = torch.stack([item["label"].as_subclass(Tensor) for item in batch]).to(device)
            normal &= ~_touched(labels, images, network, aspect)
        numbers = torch.arange(start, start + len(batch), device=normal.device).view(-1, 1, 1).expand(normal.shape)
        rows = {**encoded.rows(), "slice_index": numbers}
        parts.append({name: values[normal].cpu() for name, values in rows.items()})
        cls.append(encoded.embeddings.cls.cpu())
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} | {"cls": torch.cat(cls)}


def _touched(labels: Tensor, images: Tensor, network: AnomalyNet, aspect: float) -> Tensor:
    """Patches ``(B, h, w)`` that an abnormal pixel of ``labels (B, 1, H, W)`` touches."""
    resized = F.adaptive_max_pool2d(
        (labels > 0).float(), network.resized_shape(images.shape[-2], images.shape[-1], aspect)
    )
    return pool_foreground(resized, network.embedder.patch_size) > 0


def _batches(slices: Iterable[dict[str, Any]], size: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Consecutive slices of one shape and axis, at most ``size`` of them, with the number of the first."""
    start, batch = 0, list[dict[str, Any]]()
    for item in slices:
        if batch and (len(batch) == size or _kind(item) != _kind(batch[0])):
            yield start, batch
            start, batch = start + len(batch), []
        batch.append(item)
    if batch:
        yield start, batch


def _kind(item: dict[str, Any]) -> tuple[Any, ...]:
    return item["image"].shape, item["aspect"]
