# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From an embedding store to the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from monai_dpmm_ad.embedding.store.batches import StoreBatches
from monai_dpmm_ad.embedding.store.reader import EmbeddingStore
from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.utils.distributed import get_rank, get_world_size

__all__ = ["StoreLoader"]

UNITS = ("patches", "scans")


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

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example_store
        >>> from monai_dpmm_ad.embedding.store import EmbeddingStore
        >>> folder = make_example_store()
        >>> loader = StoreLoader(lambda: EmbeddingStore(folder), batch_size=32)
        >>> [len(batch["patches"]) for batch in loader]
        [32, 32]
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
        """Sample patches spread over all scans: ``{"patches": (n, S, D), "location": (n, 3)}``, the same everywhere."""
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
