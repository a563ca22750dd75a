# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The component families by name."""

from __future__ import annotations

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.mixture.families.base import Family
from monai_dpmm_ad.mixture.families.full_gaussian import FullGaussian
from monai_dpmm_ad.mixture.families.gaussian import FactorisedGaussian
from monai_dpmm_ad.mixture.families.vmf import VonMisesFisher
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters

__all__ = ["COVARIANCES", "make_family"]

COVARIANCES = ("spherical", "diagonal", "rotated", "full", "vmf")


def make_family(covariance: str, embed_dim: int, hyper: Hyperparameters) -> Family:
    """Make a component family.

    Args:
        covariance: one of ``COVARIANCES``.
        embed_dim: D.
        hyper: the priors.

    Raises:
        ValueError: if there is no such family.
    """
    if covariance in ("spherical", "diagonal", "rotated"):
        return FactorisedGaussian(embed_dim, hyper, covariance == "spherical", covariance == "rotated")
    if covariance == "full":
        return FullGaussian(embed_dim, hyper)
    if covariance == "vmf":
        return VonMisesFisher(embed_dim, hyper)
    raise unknown_option("covariance", covariance, COVARIANCES)
