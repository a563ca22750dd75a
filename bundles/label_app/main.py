# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""MONAI Label's entry: it looks for a subclass of ``MONAILabelApp`` in this file."""

from monai_dpmm_ad.label.app import AnomalyApp

__all__ = ["AnomalyApp"]
