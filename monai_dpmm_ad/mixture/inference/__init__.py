# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Three ways to move one state: natural gradients, memoized, and Pyro's gradients."""

from __future__ import annotations

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.mixture.hyperparameters import Hyperparameters
from monai_dpmm_ad.mixture.inference.base import Batch, Inference
from monai_dpmm_ad.mixture.inference.memoized import MemoizedInference
from monai_dpmm_ad.mixture.inference.natural import NaturalInference

__all__ = ["INFERENCES", "Batch", "Inference", "make_inference"]

INFERENCES = ("natural", "pyro", "memoized")
PYRO_COVARIANCES = ("diagonal", "rotated", "spherical")


def make_inference(name: str, covariance: str, hyper: Hyperparameters) -> Inference:
    """Make a way of inference; Pyro is imported only for its own.

    Args:
        name: one of ``INFERENCES``.
        covariance: the component family that it is for.
        hyper: priors and step sizes.

    Raises:
        ValueError: if there is no such inference, or it does not know the family.
    """
    if name not in INFERENCES:
        raise unknown_option("inference", name, INFERENCES)
    if name == "natural":
        return NaturalInference(hyper)
    if name == "memoized":
        return MemoizedInference(hyper)
    if covariance not in PYRO_COVARIANCES:
        raise ValueError(
            f"`inference` must be natural or memoized for {covariance} covariance, got 'pyro'. "
            f"The Pyro model knows {' and '.join(PYRO_COVARIANCES)} covariance."
        )
    from monai_dpmm_ad.mixture.inference.pyro_model import PyroInference

    return PyroInference(hyper)
