# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Kinds of anomaly: weighted mean embeddings of images or flagged regions, grouped agglomeratively."""

from monai_dpmm_ad.clustering.agreement import compute_agreement
from monai_dpmm_ad.clustering.descriptors import (
    compute_descriptor,
    compute_weights,
    score_against_normal,
    score_against_others,
)
from monai_dpmm_ad.clustering.grouping import LINKAGES, Grouping, group_descriptors
from monai_dpmm_ad.clustering.known_types import find_types, find_types_file, read_types

__all__ = [
    "LINKAGES",
    "Grouping",
    "compute_agreement",
    "compute_descriptor",
    "compute_weights",
    "find_types",
    "find_types_file",
    "group_descriptors",
    "read_types",
    "score_against_normal",
    "score_against_others",
]
