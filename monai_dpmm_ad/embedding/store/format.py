# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The embedding store on disk: its manifest, its shards, and what is checked before either is believed.

A store is a folder with ``manifest.json`` and safetensors shards. A shard holds, for one or more whole sources,

    patches (rows, S, D), location (rows, 3) float32, slice_index (rows,) int32, and cls (slices, S, D) if wanted.

Shards are named after their content and are never changed, the manifest is replaced in one step: whatever happens, the
manifest names complete shards only, and a shard that it does not name is left over from an interrupted writing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from monai_dpmm_ad.embedding.base import canonical_fingerprint, fingerprint_differences
from monai_dpmm_ad.errors import EmbeddingStoreError
from monai_dpmm_ad.utils.files import read_json, replace_file

__all__ = ["DTYPES", "FORMAT", "MANIFEST", "Manifest", "Shard", "Source", "check_origins", "check_same"]

FORMAT = "monai_dpmm_ad.embedding_store"
VERSION = 1
MANIFEST = "manifest.json"
SHARD_NAME = re.compile(r"shard-\d{5,}-[0-9a-f]{16}\.safetensors")
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_MAX_MANIFEST_BYTES = 1 << 29


@dataclass(frozen=True)
class Shard:
    """One file: its name, number of patch and CLS rows, size in bytes and SHA-256."""

    file: str
    rows: int
    cls_rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """Rows ``[start, start + rows)`` of one shard, and CLS rows likewise, that came from one source.

    ``origin`` is a digest of what the source was; empty where the writer was not told.
    """

    name: str
    shard: int
    start: int
    rows: int
    cls_start: int
    cls_rows: int
    origin: str = ""


@dataclass(frozen=True)
class Manifest:
    """All that is known about a store.

    Args:
        fingerprint: backbone and preprocessing, plain JSON.
        settings: ``patch_fraction``, ``seed``, ``rows_per_shard`` and ``dtype`` of the writing.
        num_stages: S; 0 before the first source.
        embed_dim: D; 0 before the first source.
        has_cls: whether CLS embeddings are stored.
        complete: whether the writing was closed.
        shards: the files, in order.
        sources: in the order of writing.
    """

    fingerprint: dict[str, Any]
    settings: dict[str, Any]
    num_stages: int = 0
    embed_dim: int = 0
    has_cls: bool = False
    complete: bool = False
    shards: tuple[Shard, ...] = ()
    sources: tuple[Source, ...] = ()

    def save(self, folder: Path) -> None:
        """Write the manifest in one step."""
        content = {"format": FORMAT, "version": VERSION, **vars(self)}
        content["shards"] = [vars(shard) for shard in self.shards]
        content["sources"] = [vars(source) for source in self.sources]
        text = json.dumps({**content, "checksum": _checksum(content)}, allow_nan=False) + "\n"
        replace_file(folder / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read and check the manifest, and that each shard is there with its size.

        Raises:
            EmbeddingStoreError: no store, another version, a manifest that was edited, or shards that are damaged.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise EmbeddingStoreError(f"{folder}: no embedding store, {MANIFEST} is missing. Embed the scans first.")
        try:
            content = read_json(path, _MAX_MANIFEST_BYTES)
        except ValueError as error:
            raise EmbeddingStoreError(f"{error}. Delete the folder and embed again.") from error
        try:
            if content.pop("format") != FORMAT:
                raise ValueError("not an embedding store")
            if content.pop("version") != VERSION:
                raise EmbeddingStoreError(f"{path}: written by another version of the format. Embed the scans again.")
            checksum = content.pop("checksum")
            if checksum != _checksum({"format": FORMAT, "version": VERSION, **content}):
                raise ValueError("its checksum does not fit: it was edited or is damaged")
            manifest = cls(
                **{
                    **content,
                    "shards": tuple(Shard(**shard) for shard in content["shards"]),
                    "sources": tuple(Source(**source) for source in content["sources"]),
                }
            )
            manifest._check_values()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EmbeddingStoreError(f"{path}: unreadable ({error}). Delete the folder and embed again.") from error
        manifest._check_shards(folder)
        return manifest

    @property
    def dtype(self) -> torch.dtype:
        """Type of the stored embeddings."""
        return DTYPES[self.settings["dtype"]]

    def shard_shapes(self, shard: Shard) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor that a shard must hold."""
        stages = (self.num_stages, self.embed_dim)
        shapes: dict[str, tuple[int, ...]] = {
            "patches": (shard.rows, *stages),
            "location": (shard.rows, 3),
            "slice_index": (shard.rows,),
        }
        return {**shapes, "cls": (shard.cls_rows, *stages)} if self.has_cls else shapes

    def _check_values(self) -> None:
        if not isinstance(self.fingerprint, dict) or self.settings.get("dtype") not in DTYPES:
            raise ValueError("its settings are not those of a store")
        numbers: list[Any] = [self.num_stages, self.embed_dim]
        for shard in self.shards:
            numbers += [shard.rows, shard.cls_rows, shard.bytes]
            if not SHARD_NAME.fullmatch(shard.file):  # so that no name leads out of the folder
                raise ValueError(f"'{shard.file}' is no name of a shard")
        for source in self.sources:
            numbers += [source.shard, source.start, source.rows, source.cls_start, source.cls_rows]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a count is not a natural number")
        if len({source.name for source in self.sources}) != len(self.sources):
            raise ValueError("a source is listed twice")
        for source in self.sources:
            inside = source.shard < len(self.shards)
            if inside:
                shard = self.shards[source.shard]
                inside = (
                    source.start + source.rows <= shard.rows and source.cls_start + source.cls_rows <= shard.cls_rows
                )
            if not inside:
                raise ValueError(f"the rows of source '{source.name}' are not in its shard")

    def _check_shards(self, folder: Path) -> None:
        for shard in self.shards:
            path = folder / shard.file
            if not path.is_file():
                raise EmbeddingStoreError(f"{path}: the shard is missing. Delete the folder and embed again.")
            if path.stat().st_size != shard.bytes:
                raise EmbeddingStoreError(
                    f"{path}: the shard has {path.stat().st_size} bytes in place of {shard.bytes}. "
                    "Delete the folder and embed again."
                )


def check_same(path: Path, stored: dict[str, Any], given: dict[str, Any], what: str) -> None:
    """Refuse to mix embeddings of two backbones, preprocessings or settings.

    Raises:
        EmbeddingStoreError: with both, and the keys that differ.
    """
    differing = fingerprint_differences(stored, given)
    if differing:
        raise EmbeddingStoreError(
            f"{path}: the store was written with another {what}; {', '.join(differing)} differ. "
            f"Stored: {json.dumps(stored, sort_keys=True)}. "
            f"Now: {json.dumps(canonical_fingerprint(given), sort_keys=True)}. Give the former, or another folder."
        )


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_origins(path: Path, sources: Iterable[Source], origins: Mapping[str, str]) -> None:
    """Check that the sources of a store are what those of these names are now, where both are known.

    Raises:
        EmbeddingStoreError: one is another.
    """
    for source in sources:
        if (now := origins.get(source.name)) and source.origin and source.origin != now:
            raise EmbeddingStoreError(
                f"{path}: holds the embeddings of another '{source.name}', or of one with another label or other steps "
                "of preprocessing. Delete the folder to embed again, or name another one."
            )
