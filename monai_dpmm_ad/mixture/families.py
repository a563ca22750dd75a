# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The component families by name."""

from __future__ import annotations

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.mixture.family import Family
from monai_dpmm_ad.mixture.gaussian import FactorisedGaussian
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters

__all__ = ["COVARIANCES", "make_family"]

COVARIANCES = ("spherical", "diagonal")


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
    raise unknown_option("covariance", covariance, COVARIANCES)
