# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Images in, anomaly maps out: embedder and detector as one network, slices and volumes."""

from __future__ import annotations

from monai_dpmm_ad.network.anomaly_net import AnomalyNet
from monai_dpmm_ad.network.inferer import VolumeInferer, iterate_slices
from monai_dpmm_ad.network.intensity_tail import IntensityTail
from monai_dpmm_ad.network.sequence_net import SequenceNet

__all__ = ["AnomalyNet", "IntensityTail", "SequenceNet", "VolumeInferer", "iterate_slices"]
