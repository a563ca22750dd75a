# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Shuffled batches of an embedding store in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from monai_dpmm_ad.embedding.store.format import Source
from monai_dpmm_ad.embedding.store.rows import make_generator

__all__ = ["StoreBatches"]

_BLOCK_ROWS = 4096
_WINDOW_BLOCKS = 16


class StoreBatches:
    """Batches of a store, re-iterable; made by :meth:`EmbeddingStore.batches`.

    Shuffled, the rows are cut into blocks of neighbouring rows, the blocks are shuffled, and rows are shuffled within a
    window of 16 blocks (65 536 rows): the memory in use is that of one window and one batch, whatever the store's size.

    Args:
        read: reads rows of a shard, as stored.
        sources: whose rows are read.
        batch_size: rows of one batch, over all ranks.
        seed: seed and epoch.
        rank: of this process, and number of processes.
        shuffle: else in the order of writing.
    """

    def __init__(
        self,
        read: Callable[[int, slice], dict[str, Tensor]],
        sources: Sequence[Source],
        batch_size: int,
        seed: tuple[int, int],
        rank: tuple[int, int],
        shuffle: bool,
    ) -> None:
        self._read = read
        self._blocks = _blocks(sources)
        self._batch_size = batch_size
        self._seed = seed
        self._rank, self._world_size = rank
        self._shuffle = shuffle
        self.num_rows = sum(source.rows for source in sources)

    def __len__(self) -> int:
        return -(-self.num_rows // self._batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        pending: list[dict[str, Tensor]] = []
        waiting = 0
        for window in self._windows():
            start, rows = 0, len(window["patches"])
            while waiting + rows - start >= self._batch_size:
                stop = start + self._batch_size - waiting
                yield self._share([*pending, _part(window, start, stop)])
                pending, waiting, start = [], 0, stop
            if start < rows:
                # A copy, so that the remainder does not keep its whole window in memory.
                pending.append({key: value.clone() for key, value in _part(window, start, rows).items()})
                waiting += rows - start
        if waiting:
            yield self._share(pending)

    def _windows(self) -> Iterator[dict[str, Tensor]]:
        """Rows in their final order, one window after the other, as stored."""
        generator = make_generator("batches", *self._seed)
        blocks = [self._blocks[i] for i in generator.permutation(len(self._blocks))] if self._shuffle else self._blocks
        for start in range(0, len(blocks), _WINDOW_BLOCKS):
            pieces = [piece for block in blocks[start : start + _WINDOW_BLOCKS] for piece in block]
            parts = [self._read(shard, rows) for shard, rows in pieces]
            window = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
            if self._shuffle:
                order = torch.from_numpy(generator.permutation(len(window["patches"])))
                window = {key: value[order] for key, value in window.items()}
            yield window

    def _share(self, parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        return {key: value[self._rank :: self._world_size].float() for key, value in batch.items()}


def _part(rows: dict[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    return {key: value[start:stop] for key, value in rows.items()}


def _blocks(sources: Sequence[Source]) -> list[list[tuple[int, slice]]]:
    """Cut the rows of sources, one after the other, into blocks; a block is a list of consecutive rows of shards.

    Where a block ends depends on the sources and their sizes alone, not on the shards that hold them: the same scans
    give the same batches, however many processes wrote them.
    """
    blocks: list[list[tuple[int, slice]]] = []
    room = 0
    for source in sources:
        start, stop = source.start, source.start + source.rows
        while start < stop:
            if not room:
                blocks.append([])
                room = _BLOCK_ROWS
            end = min(stop, start + room)
            blocks[-1].append((source.shard, slice(start, end)))
            room -= end - start
            start = end
    return blocks
