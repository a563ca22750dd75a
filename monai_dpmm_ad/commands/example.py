# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the examples in docstrings begin with: a few small phantoms and a bundle, made once in a process."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from monai_dpmm_ad.commands.run import fit
from monai_dpmm_ad.data.phantoms import write_cohort
from monai_dpmm_ad.embedding.store import StoreWriter

__all__ = ["make_example", "make_example_sequences", "make_example_store"]

_SMALL: dict[str, Any] = {"spacing": 8, "size": "small"}
_FEW: dict[str, Any] = {"image_size": 56, "num_components": 8, "max_epochs": 1, "normative": "off"}


def make_example() -> Path:
    """Make a folder with ``scans``, a cohort of seven phantoms, and ``bundle``, fitted on it within seconds.

    Its maps say nothing: 56 pixels, eight components, one pass.

    Example:
        >>> sorted(path.name for path in make_example().iterdir())
        ['bundle', 'scans']
    """
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(_fit_once().name, folder, dirs_exist_ok=True)
    return folder


def make_example_sequences() -> Path:
    """Make a folder with ``scans.json``, five phantoms of two sequences, and ``bundle``, fitted on them within seconds.

    Example:
        >>> sorted(path.name for path in make_example_sequences().iterdir())
        ['bundle', 'scans', 'scans.json']
    """
    from monai_dpmm_ad.data.nifti import open_volume

    folder = Path(tempfile.mkdtemp())
    write_cohort(folder / "scans", num_train=4, num_valid=1, num_test_healthy=0, num_test_abnormal=0, **_SMALL)
    entries = []
    for path in sorted((folder / "scans").glob("images*/*.nii.gz")):
        image, other = open_volume(str(path)), path.with_name(f"second_{path.name}")
        values = image.get_fdata(dtype="float32")
        type(image)((values.max() - values) * (values > 0), image.affine).to_filename(other)
        entries.append({"image": [str(path), str(other)], "channels": ["T1", "FLAIR"], "name": path.name[:9]})
    (folder / "scans.json").write_text(json.dumps({"training": entries[:-1], "validation": entries[-1:]}))
    fit([folder / "scans.json"], folder / "bundle", **_FEW)
    return folder


@functools.cache
def _fit_once() -> tempfile.TemporaryDirectory[str]:
    kept = tempfile.TemporaryDirectory(prefix="dpmm-ad-example-")  # gone with the process
    folder = Path(kept.name)
    datalist = write_cohort(
        folder / "scans", num_train=3, num_valid=2, num_test_healthy=1, num_test_abnormal=1, **_SMALL
    )
    fit([datalist], folder / "bundle", **_FEW)
    return kept


def make_example_store() -> Path:
    """Make an embedding store of one scan, 64 random patches of dimension 64.

    Example:
        >>> from monai_dpmm_ad.embedding.store import EmbeddingStore
        >>> EmbeddingStore(make_example_store()).num_rows
        64
    """
    import torch

    folder = Path(tempfile.mkdtemp())
    with StoreWriter(folder, {"backbone": "none"}) as writer:
        writer.write("scan", torch.randn(64, 1, 64), torch.rand(64, 3), torch.zeros(64, dtype=torch.long))
        writer.done("scan")
    return folder
