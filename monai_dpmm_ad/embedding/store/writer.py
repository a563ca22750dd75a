# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Write an embedding store so that an interruption at any moment costs seconds of work."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from filelock import BaseFileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from monai_dpmm_ad.embedding.base import canonical_fingerprint
from monai_dpmm_ad.embedding.store.format import (
    DTYPES,
    MANIFEST,
    SHARD_NAME,
    Manifest,
    Shard,
    Source,
    check_origins,
    check_same,
)
from monai_dpmm_ad.embedding.store.rows import as_stored, check_rows, choose_patches
from monai_dpmm_ad.errors import EmbeddingStoreError, unknown_option
from monai_dpmm_ad.utils.files import LOCK, PARTIAL, file_sha256, lock_folder, replace_file

__all__ = ["StoreWriter"]


class StoreWriter:
    """Write embeddings source by source; a context manager.

    A source (a scan) is written in one call and is afterwards either wholly in the store or not at all. Rows are
    buffered until a shard is full; what is buffered is on the disk as well, but for what came within twenty times the
    seconds that its last writing took. Written again over an interrupted store, with the same sources in the same
    order, the result is byte for byte that of an uninterrupted writing: sources that are ``done`` are skipped, a last
    shard that is not full is taken up again.

    Args:
        path: folder of the store, made if needed. An existing store is continued.
        fingerprint: what the embeddings depend on, plain JSON: the embedder's fingerprint and the preprocessing.
        patch_fraction: random share of each slice's patches that is kept, in (0, 1]; at least one of each slice.
        seed: of that share, together with the source's name, so neither order nor interruptions matter. Shares are
            nested: what 0.1 keeps, 0.2 keeps too.
        rows_per_shard: a shard is closed by the first source that brings it to this many patches.
        dtype: ``torch.float16``, ``torch.bfloat16`` or ``torch.float32`` of the stored embeddings.
        origins: digests of what sources are, by name: one that is stored is refused where it was another.

    Raises:
        ValueError: settings out of range.
        EmbeddingStoreError: an existing store with another fingerprint, other settings or origins, a damaged one, a
            folder that another process is writing to, or a disk that cannot be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> with StoreWriter(folder, {"backbone": "none"}) as writer:
        ...     writer.write("scan", torch.ones(4, 1, 8), torch.full((4, 3), 0.5), torch.zeros(4, dtype=torch.long))
        ...     writer.done("scan")
        True
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fingerprint: Mapping[str, Any],
        *,
        patch_fraction: float = 1.0,
        seed: int = 0,
        rows_per_shard: int = 65_536,
        dtype: torch.dtype = torch.float16,
        origins: Mapping[str, str] | None = None,
    ) -> None:
        if not 0 < patch_fraction <= 1:
            raise ValueError(f"`patch_fraction` must lie in (0, 1], got {patch_fraction}.")
        if rows_per_shard < 1:
            raise ValueError(f"`rows_per_shard` must be at least 1, got {rows_per_shard}.")
        if dtype not in DTYPES.values():
            raise unknown_option("dtype", dtype, (str(value) for value in DTYPES.values()))
        settings = {
            "patch_fraction": float(patch_fraction),
            "seed": int(seed),
            "rows_per_shard": int(rows_per_shard),
            "dtype": str(dtype).removeprefix("torch."),
        }
        self.path = Path(path)
        self._origins = dict(origins or {})
        self._buffer: list[dict[str, Tensor]] = []
        self._buffered: list[tuple[str, int, int]] = []
        self._save_at = 0.0
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock: BaseFileLock | None = lock_folder(self.path)
            try:
                self._open(canonical_fingerprint(fingerprint), settings)
            except BaseException:
                self._unlock()
                raise
        except BlockingIOError as error:
            raise EmbeddingStoreError(f"{self.path}: another process is writing this store. Wait for it.") from error
        except OSError as error:
            raise EmbeddingStoreError(f"{self.path}: cannot be written ({error}).") from error

    def _open(self, fingerprint: dict[str, Any], settings: dict[str, Any]) -> None:
        if (self.path / MANIFEST).exists():
            self._manifest = Manifest.load(self.path)
            check_same(self.path, self._manifest.fingerprint, fingerprint, "backbone or preprocessing")
            check_same(self.path, self._manifest.settings, settings, "setting")
        else:
            if any(SHARD_NAME.fullmatch(item.name) is None and not _is_ours(item.name) for item in self.path.iterdir()):
                raise EmbeddingStoreError(f"{self.path}: the folder holds other files. Give a new or an empty folder.")
            self._manifest = Manifest(fingerprint, settings)
            self._manifest.save(self.path)
        check_origins(self.path, self._manifest.sources, self._origins)
        self._origins = {source.name: source.origin for source in self._manifest.sources} | self._origins
        self._names = {source.name for source in self._manifest.sources}
        self._remove_leftovers(self._manifest)
        self._take_up_last_shard()

    def done(self, source_name: str) -> bool:
        """Whether a source is in the store, or waits in the buffer."""
        return source_name in self._names

    def write(
        self, source_name: str, patches: Tensor, location: Tensor, slice_index: Tensor, cls: Tensor | None = None
    ) -> None:
        """Add all patches of one source; one that is done is skipped.

        Args:
            source_name: unique within the store.
            patches: ``(n, S, D)``; n may be 0.
            location: ``(n, 3)``, relative row, column and slice position, each in [0, 1].
            slice_index: ``(n,)``, the slice of each patch; with ``cls`` an index into it.
            cls: ``(s, S, D)``, CLS embeddings of the source's slices; all sources of a store have them, or none.

        Raises:
            ValueError: shapes that do not belong together or to the store, or values that are not finite as stored.
            EmbeddingStoreError: the disk cannot be written.
        """
        if self._lock is None:
            raise ValueError("`write` must come before `close`. Open the store again.")
        if self.done(source_name):
            return
        check_rows(source_name, patches, location, slice_index, cls)
        self._check_store(source_name, patches, cls)
        keep = choose_patches(
            slice_index, self._manifest.settings["patch_fraction"], self._manifest.settings["seed"], source_name
        )
        rows = {
            "patches": as_stored(source_name, patches[keep], self._manifest.dtype),
            "location": location[keep].detach().to("cpu", torch.float32),
            "slice_index": slice_index[keep].to("cpu", torch.int32),
        }
        if cls is not None:
            rows["cls"] = as_stored(source_name, cls, self._manifest.dtype)
        self._buffer.append(rows)
        self._buffered.append((source_name, len(rows["patches"]), 0 if cls is None else len(cls)))
        self._names.add(source_name)
        if sum(count for _, count, _ in self._buffered) >= self._manifest.settings["rows_per_shard"]:
            self._write_shard(complete=False)
        elif time.monotonic() >= self._save_at:
            self._save_buffer()

    def adopt(self, part: str | os.PathLike[str]) -> None:
        """Take over the sources of another store in one step; its shards are linked, or copied between file systems.

        Args:
            part: folder of a store with the same fingerprint and settings; it is not changed.

        Raises:
            EmbeddingStoreError: another backbone, other settings, a damaged store, or a disk that cannot be written.
        """
        other = Manifest.load(Path(part))
        check_same(Path(part), other.fingerprint, self._manifest.fingerprint, "backbone or preprocessing")
        check_same(Path(part), other.settings, self._manifest.settings, "setting")
        check_origins(Path(part), other.sources, self._origins)
        new = [source for source in other.sources if not self.done(source.name)]
        if not new:
            return
        self._write_shard(complete=False)
        if not self._names:
            self._manifest = dataclasses.replace(
                self._manifest, num_stages=other.num_stages, embed_dim=other.embed_dim, has_cls=other.has_cls
            )
        first = len(self._manifest.shards)
        try:
            shards = [self._link(Path(part), shard, first + i) for i, shard in enumerate(other.shards)]
            sources = [dataclasses.replace(source, shard=first + source.shard) for source in new]
            manifest = dataclasses.replace(
                self._manifest, shards=(*self._manifest.shards, *shards), sources=(*self._manifest.sources, *sources)
            )
            manifest.save(self.path)
        except OSError as error:
            raise EmbeddingStoreError(f"{self.path}: cannot be written ({error}). Nothing stored is lost.") from error
        self._manifest = manifest
        self._names |= {source.name for source in new}

    def _link(self, part: Path, shard: Shard, number: int) -> Shard:
        file = self.path / f"shard-{number:05d}-{shard.sha256[:16]}.safetensors"
        try:
            os.link(part / shard.file, file)
        except OSError:  # another file system, or one without links
            replace_file(file, lambda temporary: shutil.copyfile(part / shard.file, temporary))
        return dataclasses.replace(shard, file=file.name)

    def close(self) -> None:
        """Write what is buffered and mark the store complete."""
        self._finish(complete=True)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish(complete=kind is None)

    def _finish(self, complete: bool) -> None:
        if self._lock is None:
            return
        try:
            self._write_shard(complete)
        finally:
            self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _check_store(self, name: str, patches: Tensor, cls: Tensor | None) -> None:
        stored = (self._manifest.num_stages, self._manifest.embed_dim, self._manifest.has_cls)
        given = (*patches.shape[1:], cls is not None)
        if not self._names:
            self._manifest = dataclasses.replace(
                self._manifest, num_stages=given[0], embed_dim=given[1], has_cls=given[2]
            )
        elif given != stored:
            raise ValueError(
                f"`patches` must have (S, D) = {stored[:2]} {'with' if stored[2] else 'without'} `cls` as the store's "
                f"other sources, got {given[:2]} {'with' if given[2] else 'without'} for '{name}'."
            )

    def _save_buffer(self) -> None:
        """Bring the buffer to the disk as a shard that is not full, and go on filling it."""
        start = time.monotonic()
        self._save(complete=False)
        end = time.monotonic()
        self._save_at = end + 20 * (end - start)

    def _write_shard(self, complete: bool) -> None:
        """Write the buffer as the next shard and begin another."""
        self._manifest, self._buffer, self._buffered = self._save(complete), [], []

    def _save(self, complete: bool) -> Manifest:
        """Write the buffer as a shard, then the manifest that names it, then remove what that one replaced."""
        manifest = dataclasses.replace(self._manifest, complete=complete)
        try:
            if self._buffer:
                manifest = self._add_shard(manifest)
            manifest.save(self.path)
        except (OSError, SafetensorError) as error:
            raise EmbeddingStoreError(f"{self.path}: cannot be written ({error}). Nothing stored is lost.") from error
        self._remove_leftovers(manifest)
        return manifest

    def _add_shard(self, manifest: Manifest) -> Manifest:
        number = len(manifest.shards)
        tensors = {key: torch.cat([rows[key] for rows in self._buffer]).contiguous() for key in self._buffer[0]}
        temporary = self.path / f"{PARTIAL}shard-{number:05d}"
        try:
            save_file(tensors, temporary)
            digest = file_sha256(temporary)
            file = self.path / f"shard-{number:05d}-{digest[:16]}.safetensors"
            replace_file(file, lambda path: os.replace(temporary, path))
        finally:
            temporary.unlink(missing_ok=True)
        cls_rows = len(tensors["cls"]) if "cls" in tensors else 0
        shard = Shard(file.name, len(tensors["patches"]), cls_rows, file.stat().st_size, digest)
        sources, start, cls_start = [], 0, 0
        for name, rows, slices in self._buffered:
            sources.append(Source(name, number, start, rows, cls_start, slices, self._origins.get(name, "")))
            start, cls_start = start + rows, cls_start + slices
        return dataclasses.replace(manifest, shards=(*manifest.shards, shard), sources=(*manifest.sources, *sources))

    def _take_up_last_shard(self) -> None:
        """Put a last shard that is not full back into the buffer; its file stays until its successor is named."""
        if not self._manifest.shards or self._manifest.shards[-1].rows >= self._manifest.settings["rows_per_shard"]:
            return
        shard, number = self._manifest.shards[-1], len(self._manifest.shards) - 1
        path = self.path / shard.file
        if file_sha256(path) != shard.sha256:
            raise EmbeddingStoreError(f"{path}: the shard is damaged. Delete the folder and embed again.")
        self._buffer = [load_file(path)]
        last = [source for source in self._manifest.sources if source.shard == number]
        self._buffered = [(source.name, source.rows, source.cls_rows) for source in last]
        self._manifest = dataclasses.replace(
            self._manifest,
            shards=self._manifest.shards[:-1],
            sources=self._manifest.sources[: len(self._manifest.sources) - len(last)],
        )

    def _remove_leftovers(self, manifest: Manifest) -> None:
        named = {shard.file for shard in manifest.shards}
        for item in self.path.iterdir():
            if item.name.startswith(PARTIAL) or (SHARD_NAME.fullmatch(item.name) and item.name not in named):
                item.unlink(missing_ok=True)


def _is_ours(name: str) -> bool:
    return name.startswith(PARTIAL) or name == LOCK
