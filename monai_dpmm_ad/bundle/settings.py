# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""All settings of a bundle, each declared once; importing this does not import torch.

To add one, declare it here and use it: a parameter of :class:`~monai_dpmm_ad.network.AnomalyNet` with the same name
gets it by itself, anything else reads ``@values['name']`` in a config. Where bundles that were fitted before must not
take its default, :data:`~monai_dpmm_ad.bundle.formats.BROUGHT` says what they take.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from monai_dpmm_ad.bundle.setting import Setting, unknown_setting

__all__ = ["SETTINGS", "complete_settings", "names_of", "pick_settings"]

_FIT = ("fit",)
_BOTH = ("fit", "benchmark")
_RUN = ("infer",)
_ALL_RUNS = ("infer", "cluster")
_MASKS = ("infer", "cluster", "compare")

_MODEL = (
    Setting(
        "embedder_name", "compact", "compact, a Hugging Face id or a local folder", "model",
        commands=_BOTH, option="embedder",
    ),
    Setting("embedder_revision", None, "branch, tag or commit of a Hugging Face id", "model"),
    Setting(
        "stages", None, "blocks of the embedder whose outputs are used, from 0",
        "model", kind=int, many=True, words=("quarters",), commands=_FIT, metavar="BLOCK",
        unset="the last; of himatch one a quarter",
    ),
    Setting(
        "image_size", 224, "longer side of what the embedder sees, in pixels; the paper's is 448", "model",
        kind=int, interval="[1, inf)", commands=_BOTH, embeds=True,
    ),
    Setting(
        "min_foreground", 0.25, "least share of foreground pixels of a patch that is fitted and scored", "model",
        kind=float, interval="(0, 1]", embeds=True,
    ),
    Setting(
        "num_shifts", 1, "n: average n×n sub-patch shifts of the grid, at n² times the cost", "model",
        kind=int, interval="[1, inf)", commands=_FIT,
    ),
    Setting(
        "patch_mask", "none", "which patches count; pca: those on the object's side of the first component", "model",
        choices=("none", "pca"), commands=_FIT, embeds=True,
    ),
    Setting("mask_threshold", 0.0, "of the patch mask, in standard deviations", "model", kind=float, embeds=True),
    Setting("mask_closing", 1, "of the patch mask, in patches", "model", kind=int, interval="[0, inf)", embeds=True),
    Setting(
        "normative", "on", "judge volumes against healthy scans at the same place; off: as published", "model",
        choices=("on", "off"), commands=_BOTH,
    ),
    Setting(
        "frame", "auto", "how places are brought together; auto: registered where that works, else box; none: not "
        "judged by place", "model", choices=("auto", "deformed", "affine", "box", "none"), commands=_FIT,
    ),
    Setting(
        "intensity_side", "both", "which intensities count beside the embedding, unless normative is off", "model",
        choices=("both", "bright", "dark", "off"), commands=_FIT,
    ),
    Setting(
        "asymmetry", "auto", "compare each place with the one across the middle; auto: where both sides are alike",
        "model", choices=("auto", "on", "off"), commands=_FIT,
    ),
    Setting(
        "trend", "off", "whether means follow people; a fit with a table turns it on", "model", choices=("on", "off"),
    ),
    Setting(
        "group_by", "none", "calibrate groups of people apart, so that promises hold inside each; needs covariates",
        "model", choices=("none", "sex", "age", "site"), commands=_FIT,
    ),
    Setting(
        "site", None, "with --update: name of another scanner, of which the images are a few healthy scans; the new "
        "bundle is for scans of it", "model", commands=_FIT, metavar="NAME", unset="none",
    ),
    Setting("sites", None, "names of the fitted scans' sites; a fit with covariates finds them", "model", many=True),
    Setting(
        "intensity_tail", "none", "without place: how unusual a pixel's own intensity is counts too", "model",
        choices=("none", "bright", "dark", "both"),
    ),
    Setting("intensity_weight", 1.0, "weight of that term", "model", kind=float, interval="[0, inf)"),
    Setting(
        "detector_name", "dpmm", "dpmm, himatch, memory_bank or ogae: see docs/detectors.md", "model",
        commands=_FIT, option="detector", metavar="NAME",
    ),
    Setting(
        "detector_options", {}, "argument of the detector, the value as in JSON; may be given several times", "model",
        kind=dict, commands=_FIT, option="detector-option", metavar="NAME=VALUE", unset="the detector's own",
    ),
    Setting(
        "upsampling", "guided", "how patch scores become pixels; the paper's is bilinear", "model",
        choices=("guided", "bilinear", "nearest"), commands=_BOTH,
    ),
    Setting(
        "num_regions", 0, "highest label, where each scan of a datalist has `regions` of its own", "model",
        kind=int, interval="[0, inf)", commands=_FIT,
    ),
    Setting(
        "sequences", None, "names of the sequences of a scan: T1 FLAIR; results lie on the grid of the first", "model",
        many=True, commands=_FIT, metavar="NAME", unset="all that a datalist or several suffixes name",
    ),
    Setting(
        "num_components", 256, "number of mixture components, of which some stay empty; the paper's is 500", "model",
        kind=int, interval="[1, inf)", commands=_BOTH,
    ),
    Setting(
        "max_components", None, "largest number that they may grow to where none is empty, one for every 200 patches "
        "at most", "model", kind=int, interval="[1, inf)", commands=_BOTH, unset="num_components",
    ),
    Setting(
        "covariance", "diagonal", "shape of the mixture's components", "model",
        choices=("diagonal", "rotated", "spherical", "full", "vmf"), commands=_FIT,
    ),
    Setting(
        "score", "log_density", "how the mixture scores a patch; the paper's is cosine", "model",
        choices=("log_density", "cosine", "euclidean", "mahalanobis"), commands=_BOTH,
    ),
    Setting(
        "location_weight", 0.0, "weight of the patch's location beside its embedding", "model", kind=float,
        interval="[0, inf)", commands=_FIT,
    ),
    Setting(
        "axes", ["auto"], "planes in which slices are cut; auto: where pixels are nearly square", "model", many=True,
        choices=("auto", "axial", "coronal", "sagittal"), commands=_FIT, embeds=True,
    ),
    Setting(
        "slice_spacing", None, "least distance of slices that are mapped, as a share of their longer side; 0: all",
        "model", kind=float, interval="[0, 1]", commands=_FIT, metavar="SHARE", unset="1/64 by place",
    ),
    Setting("channels", 1, "3: each slice with its two neighbours", "model", kind=int, choices=(1, 3), embeds=True),
    Setting(
        "intensity", "median", "how intensities are scaled", "model",
        choices=(
            "median", "white_matter", "percentile", "ct_window",
            "ct_brain", "ct_subdural", "ct_soft_tissue", "ct_lung", "ct_bone",
        ),
        commands=_FIT, embeds=True,
    ),
    Setting(
        "pooling", "auto", "how a map becomes a scan's score; auto: top01pct if judged by place, else top1pct", "model",
        choices=("auto", "mean", "top1pct", "top01pct", "max"), commands=_BOTH,
    ),
)  # fmt: skip

_OF_THE_FIT = (
    Setting(
        "slice_selection", "all", "which slices are fitted", "fit",
        choices=("all", "uniform", "random", "foreground"), embeds=True, fixed=True,
    ),
    Setting(
        "num_slices", None, "how many slices of a scan are fitted", "fit",
        kind=int, interval="[1, inf)", embeds=True, fixed=True,
    ),
    Setting(
        "min_slice_foreground", 0.0, "least share of foreground of a slice that is fitted", "fit",
        kind=float, interval="[0, 1]", embeds=True, fixed=True,
    ),
    Setting(
        "exclude_label", "patches", "what a label mask leaves out", "fit",
        choices=("none", "patches", "slices"), commands=_FIT, embeds=True, fixed=True,
    ),
    Setting(
        "patch_fraction", 0.25, "random share of each slice's patches that is fitted", "fit",
        kind=float, interval="(0, 1]", commands=_FIT, fixed=True,
    ),
    Setting(
        "rotations", [0], "angles at which each slice is fitted", "fit",
        kind=float, many=True, commands=_FIT, metavar="DEGREES", fixed=True,
    ),
    Setting(
        "augment", 0, "copies of each fitted scan, acquired otherwise (contrast, bias field, blur, thickness, noise), "
        "that are fitted as well: as much embedding again for each; see docs/shift.md", "fit",
        kind=int, interval="[0, inf)", commands=_FIT, metavar="COPIES", fixed=True,
    ),
    Setting("patches_per_batch", 4096, "patches in a step of the fit", "fit", kind=int, interval="[1, inf)"),
    Setting(
        "max_epochs", 10, "largest number of passes over the embeddings", "fit",
        kind=int, interval="[1, inf)", commands=_BOTH,
    ),
    Setting("val_interval", 1, "passes between two validations", "fit", kind=int, interval="[1, inf)"),
    Setting("patience", 2, "validations without improvement before the fit ends", "fit", kind=int, interval="[1, inf)"),
    Setting("min_improvement", 0.01, "of the held-out criterion, in nats", "fit", kind=float, interval="[0, inf)"),
    Setting(
        "validation_fraction", 0.2, "share of subjects held out if none is named", "fit", kind=float, interval="[0, 1)",
    ),
    Setting(
        "match", "on", "take each scan's bias field and contrast away, where they differ from the fitted scans', "
        "before it is mapped", "fit", choices=("on", "off"), commands=_FIT, fixed=True,
    ),
    Setting("seed", 0, "of everything random", "fit", kind=int, interval="[0, inf)", commands=_FIT),
)  # fmt: skip

_OF_A_RUN = (
    Setting(
        "section", "test", "section of a datalist, BMAD tree", "run", optional=True, commands=_ALL_RUNS, outputs=False,
    ),
    Setting(
        "suffix", None, "of folders only images or series whose names end in it; several: a scan's sequences", "both",
        many=True, commands=("fit", *_MASKS), outputs=False, unset="all, or the bundle's sequences",
    ),
    Setting(
        "pattern", None, "of the files in folders only those whose names match: '*_run-1_*'", "both",
        commands=("fit", *_MASKS), outputs=False, unset="all",
    ),
    Setting(
        "participant_label", None, "of BIDS files only those of these participants, as 01 or sub-01", "both",
        many=True, commands=("fit", *_ALL_RUNS, "compare"), outputs=False, metavar="LABEL", unset="all",
    ),
    Setting(
        "session", None, "of BIDS files only those of this session, as 1 or ses-1", "both",
        commands=("fit", *_ALL_RUNS), outputs=False, metavar="LABEL", unset="all",
    ),
    Setting(
        "covariates", None, "table of the people, CSV or TSV, columns name and age, sex, site: each scan is judged "
        "against people of that age, sex and site; bundles that were fitted with one know what to do without", "both",
        commands=("fit", "infer", "compare"), metavar="TABLE", unset="none",
    ),
    Setting(
        "participants", False, "take participants.tsv of the BIDS data set as that table", "both",
        kind=bool, commands=("fit", "infer", "compare"),
    ),
    Setting(
        "false_regions", 1.0, "expected number of flagged regions in a healthy scan, where maps are judged by place",
        "run", kind=float, interval="(0, 8)", commands=_MASKS,
    ),
    Setting(
        "false_positive_rate", None, "mask by voxels in place of regions: share of healthy voxels that are flagged",
        "run", kind=float, interval="(0, 1)", commands=_ALL_RUNS, option="rate",
        unset="the bundle's own, else by regions, or 0.01 where maps are not judged by place",
    ),
    Setting(
        "regions", None, "integer volume in the scans' space, its labels' names in a table beside it: names "
        "flagged regions, and gives each label a threshold of its own where the bundle was fitted with it", "both",
        commands=("fit", "infer"), metavar="ATLAS", unset="none",
    ),
    Setting("save_maps", True, "maps, masks and percentile maps", "run", kind=bool),
    Setting("save_percentile", True, "percentile maps", "run", kind=bool, commands=_RUN, option="percentile"),
    # As the configs of MONAI's model zoo have them.
    Setting("output_ext", ".nii.gz", "of volumes", "run", choices=(".nii.gz", ".nii", ".nrrd", ".mha", ".mgz")),
    Setting("output_dtype", "float32", "of maps", "run", choices=("float32", "float64")),
    Setting("output_postfix", "anomaly", "of the names of maps", "run"),
    Setting("separate_folder", False, "a folder for the files of each scan", "run", kind=bool),
    Setting(
        "healthy_twin", False, "write the mean of healthy scans at each scan's places, for the eye: an average, no "
        "prediction of a person", "run", kind=bool, commands=_RUN,
    ),
    Setting(
        "own_format", False, "write maps and masks in the scan's own format as well (NRRD, MetaImage, FreeSurfer's, "
        "Analyze, TIFF)", "run", kind=bool, commands=_RUN,
    ),
    Setting(
        "min_region_volume", 0.0, "smallest flagged region in mm³", "run",
        kind=float, interval="[0, inf)", commands=_ALL_RUNS, option="min-region",
    ),
    Setting(
        "dicom", False, "of DICOM series, write the mask as DICOM SEG as well, and the map of a scan as parametric map",
        "run", kind=bool, commands=("infer", "compare"),
    ),
    Setting(
        "batch_size", 8, "slices in one forward pass", "both",
        kind=int, interval="[1, inf)", commands=_MASKS, outputs=False,
    ),
)  # fmt: skip

SETTINGS: dict[str, Setting] = {setting.name: setting for setting in (*_MODEL, *_OF_THE_FIT, *_OF_A_RUN)}


def names_of(*roles: str) -> tuple[str, ...]:
    """Names of the settings with one of these roles, see :data:`~monai_dpmm_ad.bundle.setting.ROLES`."""
    return tuple(name for name, setting in SETTINGS.items() if setting.role in roles)


def complete_settings(given: Mapping[str, Any], way: str) -> dict[str, Any]:
    """Check settings and add the defaults of the others.

    Args:
        given: setting → value.
        way: ``fit`` or ``run``: what they are for.

    Returns:
        Every setting of that way, in the order of their declarations.

    Raises:
        ValueError: an unknown setting, or a value that it cannot have.

    Example:
        >>> complete_settings({"axes": ["coronal"]}, "run")["axes"]
        ['coronal']
    """
    known = names_of("model", way, "both")
    for name in given:
        if name not in known:
            raise unknown_setting(name, [SETTINGS[one] for one in known], way)
    return {
        name: SETTINGS[name].check(given[name]) if name in given else copy.deepcopy(SETTINGS[name].default)
        for name in known
    }


def pick_settings(values: Mapping[str, Any], purpose: str) -> dict[str, Any]:
    """Pick the settings that serve a purpose.

    Args:
        values: all of a fit's or a run's.
        purpose: ``model``, what a bundle keeps; ``recipe``, what else an update repeats; ``embeds``, ``fixed`` or
            ``outputs``, as :class:`~monai_dpmm_ad.bundle.setting.Setting` has them.

    Example:
        >>> pick_settings(complete_settings({"seed": 3}, "fit"), "recipe")["seed"]
        3
    """
    roles = {"model": ("model",), "recipe": ("fit",)}.get(purpose)
    if roles is not None:
        return {name: value for name, value in values.items() if SETTINGS[name].role in roles}
    return {name: value for name, value in values.items() if getattr(SETTINGS[name], purpose)}
