# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From the paths that a user gives to a list of scans, each with an output name of its own.

An item is a dictionary: ``image`` (a path, or the list of files of a DICOM series that shares its folder with others),
``label`` (a path, where there is a mask), ``regions`` (a path, where there is an atlas), ``abnormal`` (0 or 1, where it
is known), ``name`` (unique, safe in a file name), and whatever else a datalist file gives. An image is opened
only to ask whether it is one; a damaged one fails on its own when it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_dpmm_ad.data.datalist import KINDS, Found, add_regions, find_scans, require_scans, resolve_datalist
from monai_dpmm_ad.data.dataset import ScanDataset, ScanFailure, collate_scans
from monai_dpmm_ad.data.gate import LeftOut
from monai_dpmm_ad.data.split import Split, split_scans
from monai_dpmm_ad.data.subjects import split_by_subject
from monai_dpmm_ad.utils.lazy import hand_on

if TYPE_CHECKING:
    from monai_dpmm_ad.data.phantoms import write_cohort

__all__ = [
    "KINDS",
    "Found",
    "LeftOut",
    "ScanDataset",
    "ScanFailure",
    "Split",
    "add_regions",
    "collate_scans",
    "find_scans",
    "require_scans",
    "resolve_datalist",
    "split_by_subject",
    "split_scans",
    "write_cohort",
]

# Phantoms need nilearn, which is heavy and which nothing else of this room needs.
__getattr__, _ = hand_on(__name__, {"write_cohort": "monai_dpmm_ad.data.phantoms"})
