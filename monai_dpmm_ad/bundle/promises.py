# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a bundle's calibration promises of its masks, and where it promises less."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from monai_dpmm_ad.bundle.formats import INFERENCE, read_settings
from monai_dpmm_ad.bundle.settings import names_of
from monai_dpmm_ad.calibration import Calibration, scans_needed
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.network.groups import Judge
from monai_dpmm_ad.normative.covariates import COHORT_MEAN, FITTED_AGES
from monai_dpmm_ad.normative.regions import regions_scans_needed
from monai_dpmm_ad.transforms.score import DEFAULT_RATE
from monai_dpmm_ad.utils.distributed import is_first
from monai_dpmm_ad.utils.log import LOG

__all__ = ["judge_network", "judge_people", "judge_place", "judge_settings", "warn_of_settings"]


def judge_network(network: AnomalyNet, settings: Mapping[str, Any]) -> str | None:
    """Say what the calibration of a mask does not promise; None where it promises all.

    Args:
        network: fitted and calibrated.
        settings: of a run.
    """
    notes = [_judge(network.judge_of(None), settings, "this bundle")]
    if network.groups is not None and network.design is not None:
        judges = network.groups.judges(network.design)
        notes += [_judge(judge, settings, f"the group {name}") for name, judge in judges.items()]
    return "; ".join(filter(None, notes)) or None


def judge_people(told: Iterable[str | None]) -> str | None:
    """Say of how many people too little is known, or the age was not fitted; None where all is well, or none is asked.

    Args:
        told: what of each person was taken into account, as ``scores.csv`` has it.

    Example:
        >>> judge_people(["age 40", "age not known: the cohort's mean"]).partition(",")[0]
        '1 of 2 scans are of people whose age'
        >>> judge_people(["age 99 (fitted 21 to 53)"]).partition(",")[0]
        '1 of 1 scans are of people outside of the fitted ages'
        >>> judge_people([None, None]) is judge_people(["age 40"]) is None
        True
    """
    known = [text for text in told if text]
    unknown, beyond = (sum(words in text for text in known) for words in (COHORT_MEAN, FITTED_AGES))
    notes = []
    if unknown:
        notes.append(
            f"{unknown} of {len(known)} scans are of people whose age, sex or site is not known or was not fitted, so "
            f"they are judged as {COHORT_MEAN}: give a table with --covariates"
        )
    if beyond:
        notes.append(
            f"{beyond} of {len(known)} scans are of people outside of the fitted ages, so they are judged as the "
            "nearest of them: fit healthy people of their age, too"
        )
    return "; ".join(notes) or None


def judge_place(network: AnomalyNet, updated: bool = False) -> str | None:
    """Say why the maps of volumes are not judged by place, and what counts in its stead; None where they are.

    Args:
        network: fitted.
        updated: whether it goes on from another one, of whose scans nothing is left to learn place from.
    """
    if network.normative is not None or network.kind.spatial_dims != 3:
        return None
    few = "that takes two fitted volumes or more, and no picture or single slice among them"
    old = "those of the bundle that was updated are not, so fit its scans and the new ones anew for that"
    reason = f"maps are not judged by place: {old if updated else few}"
    tail = network.intensity_tail
    return reason if tail is None else f"{reason}; what is {tail.tail} counts wherever it is"


def judge_settings(bundle: str | os.PathLike[str], settings: Mapping[str, Any]) -> str | None:
    """Say which settings of the model are not those that the bundle was calibrated with; None where all are.

    Args:
        bundle: its folder.
        settings: of a run. Where the embedder lies does not matter: its weights are checked.
    """
    names, kept = set(names_of("model")) - {"embedder_name", "embedder_revision"}, read_settings(bundle)
    changed = [f"`{name}` {kept[name]}, not {settings[name]}" for name in sorted(names) if settings[name] != kept[name]]
    if not changed:
        return None
    return f"the bundle was calibrated with {', '.join(changed)}: its thresholds and p-values do not hold"


def warn_of_settings(bundle: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Log what :func:`judge_settings` says, for a model in memory and MONAI's own runs; the first process does.

    Args:
        bundle: its folder; one without configs says nothing.
        settings: of a run.

    Example:
        >>> import logging, sys
        >>> from monai_dpmm_ad.bundle.folder import template
        >>> LOG.addHandler(handler := logging.StreamHandler(sys.stdout))
        >>> warn_of_settings(template(), {**read_settings(template()), "image_size": 112})
        warning: the bundle was calibrated with `image_size` 224, not 112: its thresholds and p-values do not hold
        >>> LOG.removeHandler(handler)
    """
    if is_first() and (Path(bundle) / INFERENCE).is_file() and (changed := judge_settings(bundle, settings)):
        LOG.warning("warning: %s", changed)


def _judge(judge: Judge, settings: Mapping[str, Any], whose: str) -> str | None:
    regions, rate = judge.regions, settings["false_positive_rate"]
    if rate is not None or not regions.fitted:
        return _judge_calibration(judge.calibration, rate or DEFAULT_RATE, whose)
    allowed = settings["false_regions"]
    if regions.guaranteed(allowed):
        return None
    # The scans of a site judge one another, so they are not held out from everything.
    own = f" of {settings['site']}, which it was learnt from" if settings.get("site") else ", which were also fitted"
    fitted = "" if regions.held_out else own
    return (
        f"at most {allowed:g} flagged regions in a healthy scan, in the mean, are guaranteed with "
        f"{regions_scans_needed(allowed)} held-out healthy scans or more; {whose} was calibrated on "
        f"{int(regions.num_scans)}{fitted}"
    )


def _judge_calibration(calibration: Calibration, rate: float, whose: str) -> str | None:
    short = [number for number in range(1, calibration.num_regions + 1) if not calibration.guaranteed(rate, number)]
    if calibration.guaranteed(rate):
        return f"too few held-out healthy scans show region {', '.join(map(str, short))}" if short else None
    fitted = "" if calibration.held_out else ", which were also fitted"
    return (
        f"a false-positive rate of {rate:g} is guaranteed with {scans_needed(rate)} held-out healthy scans or more; "
        f"{whose} was calibrated on {int(calibration.num_scans)}{fitted}"
    )
