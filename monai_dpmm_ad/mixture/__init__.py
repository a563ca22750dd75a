# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Truncated Dirichlet process mixtures for embeddings, and their variational inference."""

from monai_dpmm_ad.mixture.mixture import DirichletProcessMixture
from monai_dpmm_ad.mixture.posterior import Posterior

__all__ = ["DirichletProcessMixture", "Posterior"]
