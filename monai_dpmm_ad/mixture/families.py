# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The component families by name."""

from __future__ import annotations

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.mixture.family import Family
from monai_dpmm_ad.mixture.gaussian import FactorisedGaussian
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.vmf import VonMisesFisher
from monai_dpmm_ad.mixture.wishart import FullGaussian

__all__ = ["COVARIANCES", "make_family"]

COVARIANCES = ("spherical", "diagonal", "full", "vmf")


def make_family(covariance: str, embed_dim: int, hyper: Hyperparameters) -> Family:
    """Make a component family.

    Args:
        covariance: one of ``COVARIANCES``.
        embed_dim: D.
        hyper: the priors.

    Raises:
        ValueError: if there is no such family.
    """
    if covariance in ("spherical", "diagonal"):
        return FactorisedGaussian(
            embed_dim,
            tied=covariance == "spherical",
            mean_strength=hyper.mean_strength,
            precision_shape=hyper.precision_shape,
            variance_fraction=hyper.variance_fraction,
            variance_floor=hyper.variance_floor,
        )
    if covariance == "full":
        return FullGaussian(
            embed_dim,
            mean_strength=hyper.mean_strength,
            prior_size=2.0 * hyper.precision_shape,
            variance_fraction=hyper.variance_fraction,
            variance_floor=hyper.variance_floor,
            top_components=hyper.top_components,
        )
    if covariance == "vmf":
        return VonMisesFisher(
            embed_dim,
            prior_size=2.0 * hyper.precision_shape,
            variance_fraction=hyper.variance_fraction,
            variance_floor=hyper.variance_floor,
        )
    raise unknown_option("covariance", covariance, COVARIANCES)
