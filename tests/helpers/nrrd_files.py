# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Write NRRD files by hand, wrong ones too."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path

import numpy as np

_PACK = {"raw": bytes, "gzip": gzip.compress, "bzip2": bz2.compress}


def write_nrrd(
    path: Path,
    values: np.ndarray,
    affine: np.ndarray,
    encoding: str = "gzip",
    space: str = "left-posterior-superior",
    *,
    type: str | None = None,
    sizes: str | None = None,
    extra: str = "",
    data: bytes | None = None,
) -> None:
    """Write a volume; ``affine`` leads to RAS. What is named explicitly replaces what belongs to ``values``."""
    matrix = affine if space.startswith("right") else np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    vectors = [f"({','.join(repr(float(x)) for x in vector)})" for vector in [*matrix[:3, :3].T, matrix[:3, 3]]]
    kind = {"f": "float", "i": "short", "u": "uchar"}[values.dtype.kind]
    header = (
        f"NRRD0004\ntype: {type or kind}\ndimension: 3\nspace: {space}\n"
        f"sizes: {sizes or ' '.join(map(str, values.shape))}\nspace directions: {' '.join(vectors[:3])}\n"
        f"endian: {'big' if values.dtype.byteorder == '>' else 'little'}\nencoding: {encoding}\n"
        f"space origin: {vectors[3]}\n{extra}\n"
    )
    packed = _PACK.get(encoding, bytes)(values.tobytes(order="F")) if data is None else data
    path.write_bytes(header.encode() + packed)
