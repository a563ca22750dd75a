# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From the paths that a user gives to a list of scans, each with an output name of its own.

An item is a dictionary: ``image`` (a path, or the list of files of a DICOM series that shares its folder with others),
``label`` (a path, where there is a mask), ``regions`` (a path, where there is an atlas), ``abnormal`` (0 or 1, where it
is known), ``name`` (unique, safe in a file name), and whatever else a datalist file gives. Nothing here opens an image,
so that a damaged one fails on its own.
"""

from __future__ import annotations

from monai_dpmm_ad.datalist.resolve import KINDS, add_regions, resolve_datalist
from monai_dpmm_ad.datalist.subjects import split_by_subject

__all__ = ["KINDS", "add_regions", "resolve_datalist", "split_by_subject"]
