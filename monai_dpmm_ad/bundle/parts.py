# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""From a bundle's settings to its parts, as the configs ask for them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from monai_dpmm_ad.bundle.formats import OWN_EMBEDDER
from monai_dpmm_ad.bundle.settings import complete_settings, names_of, pick_settings
from monai_dpmm_ad.data.sequences import check_names
from monai_dpmm_ad.detectors import Detector, create_detector
from monai_dpmm_ad.embedding import Embedder, create_embedder
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.handlers.tables import SAVED
from monai_dpmm_ad.network import AnomalyNet, SequenceNet
from monai_dpmm_ad.ops.slices import check_axes
from monai_dpmm_ad.transforms import count_regions

__all__ = ["fit_settings", "make_detector", "make_embedder", "make_network", "run_settings"]

Settings = Mapping[str, Any]

#: Distance of slices where maps are judged by place, as a share of their longer side: 2.8 mm of a brain. On scans of
#: 1 mm 2 and 3 mm were as good as every slice; what is smaller than a gap would be seen by no slice.
_SLICE_SPACING = 1 / 64


def fit_settings(given: Settings) -> dict[str, Any]:
    """Complete the settings of a fit, those that depend on others as well: the number of regions, the stages.

    Args:
        given: what a config's ``settings`` say, see :func:`~monai_dpmm_ad.bundle.settings.complete_settings`.

    Example:
        >>> fit_settings({"detector_name": "himatch"})["stages"]
        'quarters'
    """
    values = complete_settings(given, "fit")
    if values["stages"] is None and values["detector_name"] == "himatch":
        values["stages"] = "quarters"
    if values["normative"] == "on" and not any(angle % 360 == 0 for angle in values["rotations"]):
        raise ValueError(
            f"`rotations` must have 0 where maps are judged by place, got {values['rotations']}. Add it, or choose "
            "`normative` off."
        )
    judged = values["normative"] == "on" and values["frame"] != "none"
    check_axes(values["axes"])
    if given.get("axes") is None and (not judged or values["location_weight"]):
        values["axes"] = ["axial"]  # as published; and a location means something else in each plane
    if values["slice_spacing"] is None:  # the published map takes every slice, and an intensity's tail is of its own
        values["slice_spacing"] = _SLICE_SPACING if judged else 0.0
    unplaced = not judged or values["intensity_side"] == "off"
    if values["asymmetry"] == "on" and unplaced:
        raise ValueError(
            "`asymmetry` must be off where intensities are not judged by place, got on. Choose `normative` on and an "
            "`intensity_side`."
        )
    if values["max_components"] is not None and values["detector_name"] != "dpmm":
        raise ValueError(
            f"`max_components` must be left out for {values['detector_name']}, which has no components, got "
            f"{values['max_components']}. Leave it out."
        )
    if values["augment"] and values["intensity"].startswith("ct_"):
        raise ValueError(
            f"`augment` must be 0 for CT, whose Hounsfield units mean the same on every scanner, got "
            f"{values['augment']} with `intensity` {values['intensity']}. Leave it out."
        )
    if values["covariates"] is not None or values["participants"]:
        values["trend"] = "on"
        if not judged:
            raise ValueError("`covariates` must be left out where maps are not judged by place. Choose `normative` on.")
    elif values["trend"] == "on" or values["group_by"] != "none":
        asked = "trend" if values["trend"] == "on" else "group_by"
        raise ValueError(
            f"`covariates` must be given with `{asked}` {values[asked]}, got none. Give a table of people."
        )
    if unplaced or (values["asymmetry"] == "auto" and values["trend"] == "on"):  # trends leave 10 MB no room for it
        values["asymmetry"] = "off"
    if not values["num_regions"]:
        values["num_regions"] = count_regions(values["regions"])
    return values


def run_settings(given: Settings) -> dict[str, Any]:
    """Complete the settings of a run of a fitted bundle, see :func:`fit_settings`.

    Args:
        given: what a config says. Those of a fit alone are handed on, since ``train.json`` has them and
            ``evaluate.json`` may lie over it; a type of numbers may be numpy's, as in the configs of MONAI's model zoo.

    Example:
        >>> run_settings({"false_regions": 0.5, "seed": 3})["false_regions"]
        0.5
    """
    of_the_fit = {name: value for name, value in given.items() if name in names_of("fit")}
    given = {name: value for name, value in given.items() if name not in of_the_fit}
    if isinstance(given.get("output_dtype"), type):
        given["output_dtype"] = np.dtype(given["output_dtype"]).name
    values = complete_settings(given, "run")
    if values["output_postfix"] in SAVED:
        raise ValueError(
            f"`output_postfix` must not be that of another output, {' or '.join(SAVED)}, got "
            f"'{values['output_postfix']}'. Choose another."
        )
    return {**(pick_settings(complete_settings(of_the_fit, "fit"), "recipe") if of_the_fit else {}), **values}


def make_embedder(
    settings: Settings, autocast: bool | None = None, bundle_root: str | os.PathLike[str] = "."
) -> Embedder:
    """Make the embedder of a bundle, see :func:`~monai_dpmm_ad.embedding.create_embedder`.

    Args:
        settings: of a fit or a run.
        autocast: bfloat16 on or off; None lets the processor decide.
        bundle_root: where a bundle that was handed on has the embedder itself, :data:`OWN_EMBEDDER`.

    Example:
        >>> make_embedder(run_settings({"embedder_name": "pixels-8"})).embed_dim
        64
    """
    name, revision = settings["embedder_name"], settings["embedder_revision"]
    if name == OWN_EMBEDDER:
        name = os.path.join(bundle_root, OWN_EMBEDDER)
    return create_embedder(name, revision, settings["stages"], autocast)


def make_detector(settings: Settings, embedder: Embedder) -> Detector:
    """Make the detector of a bundle, not yet fitted, see :func:`~monai_dpmm_ad.detectors.create_detector`.

    Example:
        >>> settings = run_settings({"embedder_name": "pixels-8", "num_components": 4})
        >>> make_detector(settings, make_embedder(settings)).feature_dim
        64
    """
    return create_detector(
        settings["detector_name"],
        embedder.embed_dim,
        embedder.num_stages,
        location_weight=settings["location_weight"],
        mixture={name: settings[name] for name in ("num_components", "max_components", "covariance", "score")},
        options=settings["detector_options"],
        seed=settings.get("seed", 0),
    )


def make_network(
    settings: Settings, embedder: Embedder, detector: Detector, state: Mapping[str, Tensor] | None = None
) -> AnomalyNet | SequenceNet:
    """Make the network of a bundle; each parameter of :class:`AnomalyNet` that is a setting's name gets that setting.

    With ``sequences`` there is one for each, in a :class:`SequenceNet`.

    Args:
        settings: of a fit or a run.
        embedder: turns slices into patch embeddings.
        detector: scores patches.
        state: of a fitted network, which is then in evaluation mode: it is complete once its config is parsed, as
            MONAI's own checks take it.

    Raises:
        CheckpointError: a state of another backbone or of other settings.

    Example:
        >>> settings = run_settings({"embedder_name": "pixels-8", "image_size": 32})
        >>> embedder = make_embedder(settings)
        >>> make_network(settings, embedder, make_detector(settings, embedder)).image_size
        32
    """
    names = inspect.signature(AnomalyNet).parameters
    options = {name: settings[name] for name in names if name in settings}
    network: AnomalyNet | SequenceNet = AnomalyNet(embedder, detector, **options)
    sequences = settings["sequences"]
    if sequences is not None:
        detectors = [detector, *(make_detector(settings, embedder) for _ in check_names(sequences)[1:])]
        networks = [AnomalyNet(embedder, one, **options) for one in detectors]
        judging = {name: settings[name] for name in ("num_regions", "group_by", "sites")}
        network = SequenceNet(sequences, networks, **judging)
    if state is not None:
        try:
            network.load_state_dict(state)
        except CheckpointError:
            raise
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"The model does not fit the bundle's settings: {reason}. Fit again.") from error
        network.eval()
    return network
