# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Write DICOM files with pydicom 3, and with pydicom 2, which MONAI Label needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["save_dicom"]


def save_dicom(data: Any, path: str | Path) -> None:
    """Write a data set with its preamble and file meta information, explicit little endian."""
    import pydicom

    if int(pydicom.__version__.split(".")[0]) >= 3:
        data.save_as(path, enforce_file_format=True)
    else:
        data.is_little_endian, data.is_implicit_VR = True, False
        data.save_as(path, write_like_original=False)
