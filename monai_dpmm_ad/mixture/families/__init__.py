# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Component likelihoods with their conjugate priors: what the optimisers fit without knowing which one it is."""

from monai_dpmm_ad.mixture.families.base import Coefficients, DataScale, Family
from monai_dpmm_ad.mixture.families.factory import COVARIANCES, make_family

__all__ = ["COVARIANCES", "Coefficients", "DataScale", "Family", "make_family"]
