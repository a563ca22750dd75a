# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Add new healthy scans to a fitted bundle without the scans that it was fitted on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from monai_dpmm_ad.bundle.copies import warn_of_copies
from monai_dpmm_ad.bundle.folder import MODEL, TRAIN, is_fitted, read_state
from monai_dpmm_ad.bundle.formats import read_settings
from monai_dpmm_ad.bundle.provenance import (
    FILE,
    describe_scans,
    load_provenance,
    refuse_headers,
    write_provenance,
)
from monai_dpmm_ad.bundle.settings import SETTINGS, complete_settings, names_of, pick_settings
from monai_dpmm_ad.data.content import hash_scans, hash_with_labels
from monai_dpmm_ad.data.dataset import ScanFailure, write_failures
from monai_dpmm_ad.data.gate import write_left_out
from monai_dpmm_ad.data.split import Split, split_scans, warn_of_people
from monai_dpmm_ad.data.subjects import first_file, name_new_subjects
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.utils.distributed import get_rank
from monai_dpmm_ad.utils.files import read_json

__all__ = ["drop_known", "read_recipe", "read_update_settings", "record_scans", "split_update", "start_update"]


def split_update(
    bundle: str | os.PathLike[str],
    paths: str | Sequence[str],
    validation_paths: str | Sequence[str] | None,
    fraction: float,
    seed: int,
    **choice: Any,
) -> Split:
    """Find the new scans to fit, and those to validate and calibrate on.

    A calibration is honest where each of its scans was scored by the posterior that it calibrates and never fitted. The
    scores in the old bundle came from the old posterior, so they are not kept: held-out scans of the old bundle whose
    files are still there, unchanged, are scored anew beside the new ones; the others are left out.

    Args:
        bundle: the fitted bundle.
        paths: where the new scans are.
        validation_paths: where new held-out scans are, see :func:`~monai_dpmm_ad.data.split.split_scans`.
        fraction: as for :func:`~monai_dpmm_ad.data.split.split_scans`.
        seed: as for :func:`~monai_dpmm_ad.data.split.split_scans`.
        choice: as for :func:`~monai_dpmm_ad.data.split.split_scans`.

    Returns:
        The split; a scan that the bundle has seen already is in neither part, whatever its name, and new scans of a
        person are on the side where earlier ones are.

    Raises:
        ValueError: when no scan is new, or all are of people who calibrate.
        CheckpointError: when the bundle knows scans by their headers alone.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example
        >>> folder = make_example()  # `scans`, and `bundle`, fitted on them
        >>> split = split_update(folder / "bundle", str(folder / "scans" / "imagesTs"), None, fraction=0.2, seed=0)
        >>> len(split.train), len(split.held_out)  # the bundle's own two still calibrate
        (1, 3)
    """
    scans = load_provenance(bundle)["scans"]
    refuse_headers(scans, bundle)
    kept = _still_there([scan for scan in scans if scan["role"] == "held_out"])
    with warnings.catch_warnings():
        if kept:  # one new subject can be fitted whole where old scans calibrate
            warnings.filterwarnings("ignore", "there is one subject only")
        known = {scan["sha256"] for scan in scans}
        new = split_scans(paths, validation_paths, fraction, seed, lambda items: drop_known(items, known), **choice)
    return _keep_sides(new, kept, scans, chosen=bool(validation_paths))


def read_update_settings(
    bundle: str | os.PathLike[str], given: Mapping[str, Any], site: bool = False
) -> dict[str, Any]:
    """Combine the settings of a bundle with those that a user gives for its update.

    Args:
        bundle: the fitted bundle.
        given: settings and other ids of ``configs/train.json``; what describes the model and how patches are chosen
            must be the bundle's own.
        site: whether the bundle is only brought to another scanner.

    Raises:
        CheckpointError: when the bundle is not fitted or damaged, or its provenance has a wrong setting, or is missing
            or damaged where more than a site is learnt.
        ValueError: when a setting differs from the bundle's, it tells sites apart, or the update has a table or an
            atlas that the fit had not, or lacks the table that it had.
    """
    if not is_fitted(bundle):
        raise CheckpointError(f"{bundle}: has no fitted model to update. Make one with fit.")
    read_state(Path(bundle) / MODEL)  # a damaged file is named before anything else is done
    stored = pick_settings(read_settings(bundle), "model")
    if not site:
        load_provenance(bundle)
    try:
        recipe = read_recipe(bundle)
    except ValueError as error:
        raise CheckpointError(f"{bundle}/{FILE}: {error}") from error
    if stored["site"] is not None:
        raise ValueError(
            f"`update` must name a bundle of no site, got that of {stored['site']}. Update the one that it came from."
        )
    if not site:
        _refuse_sites(stored["sites"])
        _refuse_tables(stored, given)
    fixed = {**stored, **pick_settings(recipe, "fixed")}
    for name, value in given.items():
        if name in fixed and SETTINGS[name].check(value) != fixed[name]:
            raise ValueError(
                f"`{name}` must be the bundle's own, {fixed[name]}, got {value}. Leave it out, or fit anew."
            )
    return {**recipe, **stored, **given}


def read_recipe(bundle: str | os.PathLike[str]) -> dict[str, Any]:
    """What else than the model's own settings the fit was done with, as far as it is known.

    Raises:
        ValueError: a setting is wrong.
    """
    try:
        known = load_provenance(bundle)["recipe"]
    except CheckpointError:  # it was handed on
        given = read_json(Path(bundle) / TRAIN).get("settings", {})
        known = {name: value for name, value in given.items() if name in names_of("fit")}
    return pick_settings(complete_settings(known, "fit"), "recipe")


def _refuse_tables(stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse what a bundle was fitted without, and ask for what it was fitted with."""
    told = given.get("covariates") is not None or bool(given.get("participants"))
    if told and stored["trend"] != "on":
        raise ValueError(
            "`covariates` must be left out of an update of a bundle that was fitted without. Leave it out, or fit anew."
        )
    if stored["trend"] == "on" and not told:
        raise ValueError(
            "`covariates` must be given for an update of a bundle that was fitted with, got none. Give a table of the "
            "new people."
        )
    if given.get("regions") is not None and not stored["num_regions"]:
        raise ValueError(
            f"`regions` must be left out of an update of a bundle that was fitted without, got {given['regions']}. "
            "Leave it out, or fit anew."
        )


def _refuse_sites(sites: Sequence[str] | None) -> None:
    if sites:
        raise ValueError(
            f"`update` must name a bundle that does not tell sites apart, got one of {', '.join(sites)}. Fit anew, or "
            "bring it to another scanner with `site`."
        )


def start_update(network: AnomalyNet, bundle: str | os.PathLike[str]) -> None:
    """Give a network what a bundle has learnt, to go on from there.

    Raises:
        CheckpointError: when the bundle is of another backbone, or damaged.
        ValueError: when its detector cannot take in new scans, or its normative map tells sites apart.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example
        >>> folder = make_example()  # `scans`, and `bundle`, fitted on them
        >>> from monai_dpmm_ad import AnomalyModel
        >>> network = AnomalyModel.load(folder / "bundle").network
        >>> start_update(network, folder / "bundle")
        >>> network.detector.fitted
        True
    """
    _refuse_sites(None if network.design is None else network.design.sites)
    network.load_state_dict(read_state(Path(bundle) / MODEL))
    network.detector.start_update()


def record_scans(
    bundle_root: str | os.PathLike[str],
    split: Split,
    failures: Sequence[ScanFailure],
    settings: Mapping[str, Any],
    update: str | os.PathLike[str] | None = None,
) -> None:
    """Write which scans a bundle has seen, those of the bundle that it goes on from among them, and which failed.

    Args:
        bundle_root: folder of the new bundle.
        split: what was fitted and held out.
        failures: scans that could not be read, and so were not seen.
        settings: of the fit; an update repeats those that the bundle does not keep.
        update: folder of the bundle that was updated, None for a first fit.

    Example:
        >>> from monai_dpmm_ad.commands.example import make_example
        >>> folder = make_example()  # `scans`, and `bundle`, fitted on them
        >>> from monai_dpmm_ad import fit_settings, split_scans
        >>> split = split_scans(str(folder / "scans"), None, fraction=0.2, seed=0)
        >>> record_scans(folder / "bundle", split, [], fit_settings({"image_size": 56}))
        >>> [(scan["name"], scan["role"]) for scan in load_provenance(folder / "bundle")["scans"]][2:4]
        [('train_002', 'fitted'), ('valid_000', 'held_out')]
    """
    old: list[Item] = load_provenance(update)["scans"] if update else []
    number = 1 + max((scan["fit"] for scan in old), default=-1)
    failed = {failure.name for failure in failures}
    train, held_out = ([i for i in items if i["name"] not in failed] for items in (split.train, split.held_out))
    scans = describe_scans(train, "fitted", number, calibrates=not split.is_held_out)
    if split.is_held_out:
        scans += describe_scans(held_out, "held_out", number, calibrates=True)
    warn_of_copies(scans, train, held_out)
    seen = {scan["sha256"]: scan for scan in scans if scan["sha256"]}
    for scan in old:
        again = seen.get(scan["sha256"]) if scan["role"] == "held_out" else None
        if again is not None:
            again["fit"] = scan["fit"]
        scan["calibrates"] = False
    gone = [scan for scan in old if scan["role"] == "fitted" or scan["sha256"] not in seen]
    write_provenance(bundle_root, [*gone, *scans], pick_settings(settings, "recipe"))
    if get_rank() == 0:
        write_failures(bundle_root, [*split.found.list_failures(), *failures])
        write_left_out(bundle_root, split.found.left_out)


def _keep_sides(new: Split, kept: Sequence[Item], scans: Sequence[Item], chosen: bool) -> Split:
    """Keep a person's scans on the side where earlier ones are: who is fitted does not calibrate.

    Args:
        new: scans.
        kept: held-out scans of the old bundle.
        scans: all that it has seen.
        chosen: whether the user said which new scans are held out: then those stay, and an old scan of a person who is
            fitted now calibrates no longer.

    Raises:
        ValueError: all new scans are of people who calibrate.
    """
    train, held_out = new.train, new.held_out if new.is_held_out else []
    whose = name_new_subjects([*train, *held_out], new.found.items, scans)

    def people(items: Sequence[Item]) -> set[str]:
        return {who for item in items if (who := whose[first_file(item)]) is not None}

    fitted = people([scan for scan in scans if scan["role"] == "fitted"])
    if not chosen:
        calibrating = people(kept) - fitted
        moved = [item for item in train if whose[first_file(item)] in calibrating]
        train = [item for item in train if whose[first_file(item)] not in calibrating]
        listed = [item["image"] for item in new.found.items]  # to fit, so not held out by the data themselves
        back = [item for item in held_out if whose[first_file(item)] in fitted and item["image"] in listed]
        train += back
        held_out = [*(item for item in held_out if item not in back), *moved]
        if not train:
            raise ValueError(
                "`images` must hold scans of other people than those whose scans calibrate the bundle, got "
                f"{', '.join(sorted(calibrating)[:3])}. Give more, or name held-out scans with `held_out`."
            )
    fitted |= people(train)
    warn_of_people([item for item in held_out if whose[first_file(item)] in fitted])
    held_out = [*(item for item in kept if whose[first_file(item)] not in fitted), *held_out]
    if not held_out:
        return Split(train, train, False, new.found, new.note)
    return Split(train, _distinct(held_out, train), True, new.found, new.note)


def _still_there(scans: Sequence[Item]) -> list[Item]:
    """Items of those scans whose files are unchanged."""
    items: list[Item] = [
        {key: scan[key] for key in ("name", "image", "label", "subject") if key in scan} for scan in scans
    ]
    return [
        item
        for item, scan, (image, label) in zip(items, scans, hash_with_labels(items), strict=True)
        if image is not None and image == scan["sha256"] and label == scan.get("label_sha256")
    ]


def drop_known(items: Sequence[Item], known: Set[str]) -> list[Item]:
    """Leave out scans whose content is known, with a warning.

    Args:
        items: of a datalist.
        known: SHA-256 of scans, as :func:`~monai_dpmm_ad.data.content.hash_scans` gives them.
    """
    if not known:
        return list(items)
    digests = hash_scans(items)
    seen = [item["name"] for item, digest in zip(items, digests, strict=True) if digest in known]
    if seen:
        shown = ", ".join(seen[:3]) + (", …" if len(seen) > 3 else "")
        warnings.warn(f"{len(seen)} scans are in the bundle already and left out: {shown}", stacklevel=2)
    return [item for item, digest in zip(items, digests, strict=True) if digest not in known]


def _distinct(items: Sequence[Item], others: Sequence[Item]) -> list[Item]:
    """The items with names that neither they nor others have twice."""
    taken = {item["name"] for item in others}
    renamed = []
    for item in items:
        name, number = item["name"], 1
        while name in taken:
            number += 1
            name = f"{item['name']}_{number}"
        taken.add(name)
        renamed.append({**item, "name": name})
    return renamed
