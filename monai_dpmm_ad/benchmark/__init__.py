# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Detectors against each other on the data sets of BMAD."""

from __future__ import annotations

from monai_dpmm_ad.benchmark.datasets import DATASETS, find_dataset
from monai_dpmm_ad.benchmark.runner import Cell, benchmark
from monai_dpmm_ad.benchmark.table import FIGURES, draw_table

__all__ = ["DATASETS", "FIGURES", "Cell", "benchmark", "draw_table", "find_dataset"]
