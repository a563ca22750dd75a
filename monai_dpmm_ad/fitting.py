# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From normal scans to an embedding store, and from the store to the trainer."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import ThreadDataLoader
from torch import Tensor

from monai_dpmm_ad.datalist import resolve_datalist, split_by_subject
from monai_dpmm_ad.embedding import EmbeddingStore, StoreWriter, adopt_parts, part_path
from monai_dpmm_ad.embedding.store_batches import StoreBatches
from monai_dpmm_ad.errors import EmbeddingStoreError, ScanError, unknown_option
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.ops.patches import pool_foreground
from monai_dpmm_ad.processes import gather_lists, get_rank, get_world_size, share, wait_for_all
from monai_dpmm_ad.progress import track
from monai_dpmm_ad.scans import ScanDataset, ScanFailure
from monai_dpmm_ad.transforms.rotate import check_rotations, rotate_slices

__all__ = ["Split", "StoreLoader", "embed_dataset", "split_scans"]

UNITS = ("patches", "scans")


@dataclass(frozen=True)
class Split:
    """Normal scans to fit, and normal scans to validate and calibrate on.

    Args:
        train: datalist items.
        held_out: datalist items; the fitted ones again where there was nothing to hold out.
        is_held_out: whether the two are disjoint.
    """

    train: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    is_held_out: bool


def split_scans(
    paths: str | Sequence[str],
    validation_paths: str | Sequence[str] | None,
    fraction: float,
    seed: int,
    keep: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = list,
) -> Split:
    """Find the scans to fit and those to hold out: as the data say, else split by subject, never by slice.

    Args:
        paths: where the normal scans are.
        validation_paths: where held-out normal scans are; None takes the data's own validation section, or splits.
        fraction: share of the subjects that is held out where the data have no validation section.
        seed: of that split.
        keep: chooses among the items that were found.

    Returns:
        The split. A single subject cannot be split: it is validated on itself, with a warning.
    """
    train = keep(_normal(resolve_datalist(paths, section="training")))
    fitted = {str(item["image"]) for item in train}
    # The data need not have a validation section, but where the user names held-out scans they must be there.
    failures: list[ScanError] | None = None if validation_paths else []
    candidates = keep(_normal(resolve_datalist(validation_paths or paths, section="validation", failures=failures)))
    held_out = [item for item in candidates if str(item["image"]) not in fitted]
    if held_out:
        return Split(train, held_out, True)
    train, held_out = split_by_subject(train, fraction, seed)
    if held_out:
        return Split(train, held_out, True)
    warnings.warn(
        "there is one subject only, so thresholds are calibrated on the scans that were fitted and are too low; "
        "give held-out healthy scans with --held-out",
        stacklevel=2,
    )
    return Split(train, train, False)


def _normal(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in items if not item.get("abnormal")]


class StoreLoader:
    """Batches of a store: shuffled patches, a new order in every epoch, or one scan after the other.

    The store is opened, and embedded where it is not yet, when it is first needed: not when a config is parsed. Its
    length is known to Ignite only then.

    Args:
        open_store: gives the store.
        batch_size: patches in a batch, of all processes together: each takes its share of every batch.
        seed: of the order.
        shuffle: whether to shuffle.
        sample_size: patches on which components are placed.
        unit: ``"patches"``, or ``"scans"`` for all rows of one scan with their ``slice_index`` and the slices' ``cls``.

    Raises:
        ValueError: an unknown unit.
    """

    def __init__(
        self,
        open_store: Callable[[], EmbeddingStore],
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        sample_size: int = 50_000,
        unit: str = "patches",
    ) -> None:
        if unit not in UNITS:
            raise unknown_option("unit", unit, UNITS)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.sample_size = sample_size
        self.unit = unit
        self._open_store = open_store
        self._store: EmbeddingStore | None = None
        self._epoch = 0

    def open(self) -> EmbeddingStore:
        """Open the store; embed the scans that are not in it yet."""
        if self._store is None:
            self._store = self._open_store()
        return self._store

    @property
    def num_data(self) -> int:
        """Number of patches in the store."""
        return self.open().num_rows

    def sample(self) -> dict[str, Tensor]:
        """Draw patches spread over all scans: ``{"patches": (n, S, D), "location": (n, 3)}``, the same everywhere."""
        return self.open().sample(self.sample_size, seed=self.seed)

    def __len__(self) -> int:
        if self._store is None:
            raise TypeError("The length is known once the store is open.")  # what MONAI expects of such a loader
        return len(self._batches())

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        batches = self._batches()
        self._epoch += 1
        yield from batches

    def _batches(self) -> StoreBatches | ScanBatches:
        store, rank, world_size = self.open(), get_rank(), get_world_size()
        if self.unit == "scans":
            return ScanBatches(store, rank, world_size)
        return store.batches(
            self.batch_size,
            seed=self.seed,
            epoch=self._epoch,
            rank=rank,
            world_size=world_size,
            shuffle=self.shuffle,
        )


class ScanBatches:
    """The rows of one scan after the other, those that have any.

    Args:
        store: holds the scans.
        rank: of this process.
        world_size: number of processes, each of which takes another scan in every step; in the last step there may be
            none left for it, and its rows are empty.
    """

    def __init__(self, store: EmbeddingStore, rank: int = 0, world_size: int = 1) -> None:
        self._store = store
        self._names = [name for name in store.sources if store.count_rows(name)]
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return -(-len(self._names) // self._world_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for first in range(0, len(self._names), self._world_size):
            mine = first + self._rank
            rows = self._store.source_rows(self._names[min(mine, len(self._names) - 1)])
            yield rows if mine < len(self._names) else {name: values[:0] for name, values in rows.items()}


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

    Returns:
        The complete store, opened for reading.

    Raises:
        EmbeddingStoreError: when no scan gave a single patch, or the folder holds another backbone's embeddings.
    """
    angles = check_rotations(rotations)
    settings = {**preprocessing, "rotations": angles}
    fingerprint = {"embedder": network.embedder.fingerprint(), "preprocessing": settings}

    def open_writer(folder: str | os.PathLike[str]) -> StoreWriter:
        return StoreWriter(folder, fingerprint, patch_fraction=patch_fraction, seed=seed)

    def embed_scan(slices: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        turned = [copy for angle in angles for copy in rotate_slices(slices, angle)]
        return _embed_scan(turned, network, device, batch_size)

    network.to(device).eval()
    dataset.failures.extend(_embed_missing(dataset, path, open_writer, embed_scan))
    store = EmbeddingStore(path, order=[item["name"] for item in dataset.data])
    if store.num_rows == 0:
        reasons = (
            "; ".join(f"{failure.path}: {failure.reason}" for failure in dataset.failures)
            or "no normal patch was found"
        )
        raise EmbeddingStoreError(f"None of the {len(dataset.data)} scans could be embedded. {reasons}")
    return store


def _embed_missing(
    dataset: ScanDataset,
    path: str | os.PathLike[str],
    open_writer: Callable[[str | os.PathLike[str]], StoreWriter],
    embed_scan: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]],
) -> list[ScanFailure]:
    """Embed what a store lacks, each process its share; returns the failures of all processes."""
    if get_world_size() == 1:
        with open_writer(path) as writer:
            adopt_parts(writer)  # what an interrupted run of several processes left
            return _embed_scans(dataset.data, dataset.transform, writer, embed_scan)
    _adopt(path, open_writer)
    done = set(EmbeddingStore(path).sources)
    todo = share([item for item in dataset.data if item["name"] not in done])
    with open_writer(part_path(path, get_rank(), get_world_size())) as writer:
        failures = _embed_scans(todo, dataset.transform, writer, embed_scan)
    _adopt(path, open_writer)
    return gather_lists(failures)


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
) -> list[ScanFailure]:
    todo = [item for item in items if not writer.done(item["name"])]
    pending = ScanDataset(todo, transform)
    loader = ThreadDataLoader(pending, batch_size=1, num_workers=0, collate_fn=_first, buffer_size=1)
    for item, slices in track(zip(todo, loader, strict=True), total=len(todo), description="Embedding"):
        if not isinstance(slices, dict):
            writer.write(item["name"], **embed_scan(slices))
    return pending.failures


def _first(batch: Sequence[Any]) -> Any:
    return batch[0]


@torch.no_grad()
def _embed_scan(
    slices: Sequence[dict[str, Any]], network: AnomalyNet, device: torch.device | str, batch_size: int
) -> dict[str, Tensor]:
    parts: list[dict[str, Tensor]] = []
    cls = []
    for start, batch in _batches(slices, batch_size):
        images = torch.stack([item["image"].as_subclass(Tensor) for item in batch]).to(device)
        encoded = network.encode(images, torch.tensor([item["position"] for item in batch], device=device))
        normal = network.choose_patches(encoded).clone()
        if "label" in batch[0]:
            labels = torch.stack([item["label"].as_subclass(Tensor) for item in batch]).to(device)
            normal &= ~_touched(labels, images, network)
        numbers = torch.arange(start, start + len(batch), device=normal.device).view(-1, 1, 1).expand(normal.shape)
        rows = {**encoded.rows(), "slice_index": numbers}
        parts.append({name: values[normal].cpu() for name, values in rows.items()})
        cls.append(encoded.embeddings.cls.cpu())
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} | {"cls": torch.cat(cls)}


def _touched(labels: Tensor, images: Tensor, network: AnomalyNet) -> Tensor:
    """Patches ``(B, h, w)`` that an abnormal pixel of ``labels (B, 1, H, W)`` touches."""
    resized = F.adaptive_max_pool2d((labels > 0).float(), network.resized_shape(*images.shape[-2:]))
    return pool_foreground(resized, network.embedder.patch_size) > 0


def _batches(slices: Sequence[dict[str, Any]], size: int) -> Iterator[tuple[int, Sequence[dict[str, Any]]]]:
    """Consecutive slices of one shape, at most ``size`` of them, with the number of the first."""
    start = 0
    while start < len(slices):
        stop = start + 1
        shape = slices[start]["image"].shape
        while stop < min(start + size, len(slices)) and slices[stop]["image"].shape == shape:
            stop += 1
        yield start, slices[start:stop]
        start = stop
