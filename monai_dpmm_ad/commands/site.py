# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Bring a fitted bundle to another scanner with a few healthy scans of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from monai_dpmm_ad.bundle import create_bundle, describe_fit, is_fitted, read_settings, save_model
from monai_dpmm_ad.bundle.promises import judge_network, judge_people
from monai_dpmm_ad.bundle.provenance import describe_scans, list_seen, write_provenance
from monai_dpmm_ad.bundle.request import covers_scans, is_same_request, record_request
from monai_dpmm_ad.bundle.settings import SETTINGS
from monai_dpmm_ad.bundle.update import drop_known, read_recipe, read_update_settings
from monai_dpmm_ad.commands.checks import PathLike, absolute_paths, check_writable, hold_bundle
from monai_dpmm_ad.commands.model import AnomalyModel
from monai_dpmm_ad.commands.outcome import Outcome
from monai_dpmm_ad.commands.run import FITTED_ALREADY
from monai_dpmm_ad.data.covariates import add_covariates
from monai_dpmm_ad.data.datalist import find_scans, require_scans
from monai_dpmm_ad.data.dataset import ScanFailure, describe_failure, read_failures, write_failures
from monai_dpmm_ad.data.sites import check_site
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.handlers.sites import watch_cells
from monai_dpmm_ad.normative import REGION_THRESHOLD, NormativeMap, measure_regions
from monai_dpmm_ad.normative.regions import regions_scans_needed
from monai_dpmm_ad.normative.site import SiteCells, SiteField
from monai_dpmm_ad.transforms.skull import is_head, warn_of_heads
from monai_dpmm_ad.utils.defaults import usual_defaults
from monai_dpmm_ad.utils.distributed import launched
from monai_dpmm_ad.utils.progress import track

__all__ = ["learn_site"]

#: Settings that say which files are scans.
_CHOICE = ("suffix", "pattern", "participant_label", "session")
#: Scans of a site from which on the site is calibrated on them alone.
_LEAST = regions_scans_needed(1.0)
_HANDED_ON = "the bundle was handed on and does not know its fitted scans, so none could be left out"


@usual_defaults()
def learn_site(
    bundle: PathLike,
    images: PathLike | Sequence[PathLike],
    out: PathLike,
    site: str,
    covariates: PathLike | None = None,
    participants: bool = False,
    **overrides: Any,
) -> Outcome:
    """Learn what a scanner adds to every score, and calibrate on its scans; mixture and atlas stay as they are.

    Each scan is calibrated with the fields that the others give: it is new to them. With fewer than three scans the
    calibration stays the old one.

    Args:
        bundle: a fitted bundle that judges by place.
        images: healthy scans of the site.
        out: folder of the new bundle, for scans of that site.
        site: its name.
        covariates: table of the people, of a bundle that follows age and sex.
        participants: see :func:`~monai_dpmm_ad.data.covariates.add_covariates`.
        overrides: ``device`` and which files are read; settings of the model must be the bundle's own.

    Raises:
        ValueError: a bundle that does not judge by place, or that is a site's already; an option without effect; a name
            that is no site's; scans that were all fitted.
        ScanError: no scan of the site can be mapped.
    """
    started = time.monotonic()
    check_site(site)
    read_update_settings(bundle, overrides, site=True)  # other settings than the bundle's, a bundle of a site
    _refuse_useless(overrides)
    known = {name: overrides[name] for name in ("device",) if name in overrides}
    choice = {name: overrides[name] for name in _CHOICE if name in overrides}
    root, (scans, unnamed) = Path(out), list_seen(bundle)
    found = require_scans(find_scans(absolute_paths(images), section="training", **choice))
    items = drop_known(found.items, {scan["sha256"] for scan in scans if scan["role"] == "fitted"})
    if not items:
        raise ValueError(
            "`images` must hold scans of the site that were not fitted, got none. Give healthy scans of it."
        )
    request = {"update": str(Path(bundle).absolute()), "images": absolute_paths(images), "site": site, **overrides}
    request |= {"covariates": covariates and str(Path(covariates).absolute()), "participants": participants}
    if is_fitted(root) and is_same_request(root, request) and covers_scans(root, items):
        return Outcome(failures=read_failures(root), metrics=describe_fit(root), note=FITTED_ALREADY)
    model = AnomalyModel.load(bundle, **known)
    normative = model.network.normative
    if normative is None:
        raise ValueError("`update` must name a bundle that judges by place, got one that does not. Fit anew.")
    model.network.know_sites(())  # what the fitted ones differ by is not this one's
    items = add_covariates(items, covariates, participants, model.network.covariates)
    normative.site = SiteField()
    with hold_bundle(root):
        check_writable(create_bundle(root))
        record_request(root, request)
        cells, told, failures = _observe(model, normative, items)
        if calibrates := len(cells) >= _LEAST:
            _calibrate(model, normative.site, items, cells)
        normative.site.learn(list(cells.values()))
        recipe = read_recipe(bundle)
        settings = {**recipe, **model.settings, "site": site}
        if model.network.groups is None:
            settings["group_by"] = "none"  # a site's few scans are not parted further
        kept = [item for item in items if item["name"] in cells]
        if unnamed and not calibrates:
            unnamed["num_calibrating"] = int(model.network.calibration.num_scans)
        write_provenance(root, _join_scans(scans, kept, calibrates, unnamed), recipe, unnamed)
        write_failures(root, [*found.list_failures(), *failures])
        save_model(root, model.network, settings, overrides.get("device", "cpu"), time.monotonic() - started, bundle)
    promise = judge_network(model.network, read_settings(root)) if calibrates else _say_uncalibrated(len(cells), site)
    note = "; ".join(filter(None, [promise, _HANDED_ON if unnamed else None, judge_people(told)])) or None
    return Outcome(failures=[*found.list_failures(), *failures], metrics=describe_fit(root), note=note)


def _join_scans(
    scans: Sequence[Mapping[str, Any]], kept: Sequence[Item], calibrates: bool, unnamed: Mapping[str, int]
) -> list[Mapping[str, Any]]:
    """What the provenance says of the scans that were fitted and held out before, and of those of the site."""
    number = 1 + max((scan["fit"] for scan in scans), default=unnamed.get("num_updates", -1))
    old = [{**scan, "calibrates": scan["calibrates"] and not calibrates} for scan in scans]
    return [*old, *describe_scans(kept, "held_out", number, calibrates)]


def _say_uncalibrated(number: int, site: str) -> str:
    return (
        f"{number} scan{'s' * (number != 1)} of {site} moved what is expected there, but thresholds and p-values are "
        f"still those of the old site; {_LEAST} or more give the site its own"
    )


def _refuse_useless(overrides: Mapping[str, Any]) -> None:
    """Refuse what would change nothing; settings of the model are the bundle's own already."""
    for name, value in overrides.items():
        setting = SETTINGS.get(name)
        repeated = setting is not None and (setting.role == "model" or setting.fixed)
        if value is not None and not repeated and name not in ("device", *_CHOICE):
            raise ValueError(
                f"`{name}` must be left out with `site`, got {value}: mixture and atlases stay as they are, so it "
                "would change nothing. Leave it out."
            )
    if launched():
        raise ValueError("`site` must be learnt by one process, got several. Start it without torchrun.")


def _observe(
    model: AnomalyModel, normative: NormativeMap, items: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, SiteCells], list[str | None], list[ScanFailure]]:
    """The deviates of each scan by place, and what was known of its person."""
    cells: dict[str, SiteCells] = {}
    told, failures, heads = [], [], []
    for item in track(items, total=len(items), description="Site"):
        try:
            with watch_cells(normative) as seen:
                result = model.predict_item(item)
            if not seen:
                raise ScanError(str(item["image"]), "is no volume, so it has no place")
            cells[str(item["name"])] = seen[0]
            told.append(result.row.covariates)
            heads += [str(item["name"])] * is_head(result.scan["pred"])
        except ScanError as error:
            failures.append(describe_failure({"name": item["name"], "image": item["image"]}, error))
    if not cells:
        raise ScanError(failures[0].path, f"{failures[0].reason} (no scan of the site could be mapped)")
    warn_of_heads(heads)
    return cells, told, failures


def _calibrate(
    model: AnomalyModel, site: SiteField, items: Sequence[Mapping[str, Any]], cells: Mapping[str, SiteCells]
) -> None:
    """Calibrate on the site's scans, each judged by what the others say of the site."""
    network = model.network
    scored = []
    for item in track(items, total=len(items), description="Calibrating"):
        if item["name"] not in cells:
            continue
        site.learn([one for name, one in cells.items() if name != item["name"]])
        result = model.predict_item(item)
        scored.append((str(item["name"]), torch.from_numpy(result.map), result.score))
    network.groups = None
    network.calibration.reset()
    for name, anomaly_map, score in scored:
        network.calibration.update(anomaly_map, anomaly_map > 0, score, name)
        network.regions.update(name, _peaks(anomaly_map.numpy()))
    # Their neighbours are learnt from them: the promise of scans that were held out from everything is not theirs.
    network.calibration.finish(held_out=False)
    network.regions.finish(held_out=False)


def _peaks(anomaly_map: NDArray[np.float32]) -> NDArray[np.float64]:
    return measure_regions(anomaly_map, REGION_THRESHOLD)[1]
