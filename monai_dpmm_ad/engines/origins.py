# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which scans an embedding store was made of: it knows them by name, and another cohort may have the same names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_dpmm_ad.data.content import hash_scans
from monai_dpmm_ad.embedding import EmbeddingStore
from monai_dpmm_ad.errors import EmbeddingStoreError
from monai_dpmm_ad.utils.distributed import is_first, wait_for_all
from monai_dpmm_ad.utils.files import read_json, write_json

__all__ = ["record_origins"]


def record_origins(path: str | os.PathLike[str], items: Sequence[Mapping[str, Any]]) -> None:
    """Write down what the scans of a store are, beside it, before they are embedded.

    Args:
        path: folder of the store.
        items: of a datalist; all processes give the same.

    Raises:
        EmbeddingStoreError: the store has a scan of such a name that was another, or had another label.
    """
    file = Path(f"{os.fspath(path)}-origins.json")
    digests = zip(hash_scans(items), hash_scans(items, "label"), strict=True)
    now = {item["name"]: list(pair) for item, pair in zip(items, digests, strict=True)}
    then = read_json(file) if file.is_file() else {}
    changed = [item for item in items if then.get(item["name"], now[item["name"]]) != now[item["name"]]]
    # One that could not be embedded then, and was mended since, is none of the store's.
    stored = set(EmbeddingStore(path).sources) if changed else set()
    for item in changed:
        if item["name"] in stored:
            raise EmbeddingStoreError(
                f"{path}: holds the embeddings of another {item['name']} than {item['image']} is now. "
                "Delete the folder to embed again, or fit into another one."
            )
    wait_for_all()  # until all have read it
    if is_first():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {**then, **now})
