# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Read an embedding store: memory-mapped, in shuffled batches, in bounded memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from monai_dpmm_ad.embedding.store.batches import StoreBatches
from monai_dpmm_ad.embedding.store.format import Manifest, Source, check_same
from monai_dpmm_ad.embedding.store.rows import equal_quotas, make_generator
from monai_dpmm_ad.errors import EmbeddingStoreError, unknown_option
from monai_dpmm_ad.utils.files import file_sha256

__all__ = ["EmbeddingStore"]

_OPEN_SHARDS = 64


class EmbeddingStore:
    """The embeddings of a data set on disk, for reading.

    Shards are memory-mapped, so a store may be far larger than the memory. Opening checks the manifest and that all
    shards are there with their sizes; a shard's hash is compared when it is first read, and by :meth:`verify`.

    Args:
        path: folder that :class:`StoreWriter` wrote.
        fingerprint: what the reader expects of it; None takes any.
        order: names of the sources to read, in this order; those that the store lacks are passed over. None reads all
            in the order of writing. What is read then depends on the order alone, not on who wrote which shard.

    Raises:
        EmbeddingStoreError: no store, a damaged one, or one with another fingerprint.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fingerprint: Mapping[str, Any] | None = None,
        order: Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self._manifest = Manifest.load(self.path)
        if fingerprint is not None:
            check_same(self.path, self._manifest.fingerprint, dict(fingerprint), "backbone or preprocessing")
        stored = {source.name: source for source in self._manifest.sources}
        names = stored if order is None else [name for name in order if name in stored]
        self._sources = {name: stored[name] for name in names}
        self._shards: OrderedDict[int, dict[str, Tensor]] = OrderedDict()
        self._checked: set[int] = set()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Backbone and preprocessing that made the embeddings."""
        return self._manifest.fingerprint

    @property
    def complete(self) -> bool:
        """Whether the writing was closed; False after an interruption."""
        return self._manifest.complete

    @property
    def num_rows(self) -> int:
        """Number of patches."""
        return sum(source.rows for source in self._sources.values())

    @property
    def num_stages(self) -> int:
        """S: stages of each embedding."""
        return self._manifest.num_stages

    @property
    def embed_dim(self) -> int:
        """D: dimension of one embedding."""
        return self._manifest.embed_dim

    @property
    def sources(self) -> list[str]:
        """Names of the sources, in the order of reading."""
        return list(self._sources)

    def __len__(self) -> int:
        return self.num_rows

    def count_rows(self, name: str) -> int:
        """Number of patches of one source."""
        return self._source(name).rows

    def source_rows(self, name: str) -> dict[str, Tensor]:
        """Read all rows of one source.

        Args:
            name: one of :attr:`sources`.

        Returns:
            ``patches (n, S, D)`` float32, ``location (n, 3)`` float32, ``slice_index (n,)`` int64, and
            ``cls (s, S, D)`` float32 where the store has them.
        """
        source = self._source(name)
        shard, rows = self._shard(source.shard), slice(source.start, source.start + source.rows)
        found = {
            "patches": shard["patches"][rows].float(),
            "location": shard["location"][rows].clone(),
            "slice_index": shard["slice_index"][rows].long(),
        }
        if self._manifest.has_cls:
            found["cls"] = shard["cls"][source.cls_start : source.cls_start + source.cls_rows].float()
        return found

    def sample(self, n: int, seed: int = 0, sources: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Sample patches without replacement, as equally many from each source as there are.

        Args:
            n: number of patches; fewer are returned only where the store has fewer.
            seed: of the draw.
            sources: names to draw from; None draws from all.

        Returns:
            ``{"patches": (n, S, D), "location": (n, 3)}``, float32, in random order.
        """
        if n < 1:
            raise ValueError(f"`n` must be at least 1, got {n}.")
        generator = make_generator("sample", seed)
        chosen = [source for source in self._chosen(sources) if source.rows]
        chosen = [chosen[i] for i in generator.permutation(len(chosen))]
        quotas = equal_quotas(np.array([source.rows for source in chosen], dtype=np.int64), n)
        parts = [
            self._rows(source.shard, source.start + np.sort(generator.choice(source.rows, quota, replace=False)))
            for source, quota in zip(chosen, quotas, strict=True)
            if quota
        ]
        drawn = self._join(parts)
        order = torch.from_numpy(generator.permutation(len(drawn["patches"])))
        return {key: value[order] for key, value in drawn.items()}

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        sources: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> StoreBatches:
        """Make batches of all rows, each row once.

        Args:
            batch_size: rows of one batch, over all ranks together.
            seed: of the order.
            epoch: another order in each.
            sources: names to read; None reads all.
            rank: of this process.
            world_size: number of processes. All see the same batches and each takes its share of every one, so that
                all-reduced statistics are those of one process; a share of a last batch may be empty.
            shuffle: else in the order of reading.

        Returns:
            An iterable, and again iterable, of ``{"patches": (n, S, D), "location": (n, 3)}``, float32.
        """
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        if world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"`rank` must lie between 0 and `world_size` - 1, got {rank} of {world_size}.")
        return StoreBatches(self._rows, self._chosen(sources), batch_size, (seed, epoch), (rank, world_size), shuffle)

    def verify(self) -> None:
        """Compare every shard with its hash, which reads the whole store.

        Raises:
            EmbeddingStoreError: the first shard that is damaged.
        """
        for number in range(len(self._manifest.shards)):
            self._check_hash(number)

    def _check_hash(self, number: int) -> None:
        path = self.path / self._manifest.shards[number].file
        if file_sha256(path) != self._manifest.shards[number].sha256:
            raise EmbeddingStoreError(f"{path}: the shard is damaged. Delete the folder and embed again.")
        self._checked.add(number)

    def _source(self, name: str) -> Source:
        if name not in self._sources:
            raise unknown_option("source", name, self._sources)
        return self._sources[name]

    def _chosen(self, names: Sequence[str] | None) -> list[Source]:
        if names is None:
            return list(self._sources.values())
        if len(set(names)) != len(names):
            raise ValueError("`sources` must name each source once.")
        return [self._source(name) for name in names]

    def _shard(self, number: int) -> dict[str, Tensor]:
        """Map one shard into memory; only what is read of it is loaded."""
        if number in self._shards:
            self._shards.move_to_end(number)
            return self._shards[number]
        shard = self._manifest.shards[number]
        path = self.path / shard.file
        expected = self._manifest.shard_shapes(shard)
        dtypes = {"location": torch.float32, "slice_index": torch.int32}
        try:
            if number not in self._checked:
                self._check_hash(number)
            with safe_open(path, "pt") as file:
                tensors = {key: file.get_tensor(key) for key in expected}
        except (OSError, SafetensorError) as error:
            raise EmbeddingStoreError(
                f"{path}: the shard is damaged ({error}). Delete the folder and embed again."
            ) from error
        for key, value in tensors.items():
            if tuple(value.shape) != expected[key] or value.dtype != dtypes.get(key, self._manifest.dtype):
                raise EmbeddingStoreError(
                    f"{path}: `{key}` is {value.dtype} {tuple(value.shape)} in place of {expected[key]}. "
                    "Delete the folder and embed again."
                )
        self._shards[number] = tensors
        if len(self._shards) > _OPEN_SHARDS:
            self._shards.popitem(last=False)
        return tensors

    def _rows(self, shard: int, rows: np.ndarray | slice) -> dict[str, Tensor]:
        tensors = self._shard(shard)
        index = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        return {key: tensors[key][index] for key in ("patches", "location")}

    def _join(self, parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Join pieces of shards into float32 tensors."""
        if not parts:
            return {"patches": torch.zeros(0, self.num_stages, self.embed_dim), "location": torch.zeros(0, 3)}
        return {key: torch.cat([part[key] for part in parts]).float() for key in parts[0]}
