# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Brain Imaging Data Structure: what a name says, whom to take of a data set, and results as its derivatives.

Reference:
    The BIDS specification, version 1.9.0, https://bids-specification.readthedocs.io.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from monai_dpmm_ad import __version__
from monai_dpmm_ad.data.gate import LeftOut
from monai_dpmm_ad.data.paths import scan_stem
from monai_dpmm_ad.data.subjects import first_file
from monai_dpmm_ad.data.types import Item
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.utils.files import read_json, replace_file, write_json

__all__ = [
    "Derivative",
    "choose_people",
    "find_root",
    "has_derivatives",
    "is_raw",
    "read_entities",
    "write_derivatives",
]

BIDS_VERSION = "1.9.0"
_PAIR = re.compile(r"([a-z]+)-([a-zA-Z0-9+]+)")
_DESCRIPTION = "dataset_description.json"
_GENERATOR = "monai-dpmm-ad"
#: Folders at the top of a data set that hold no raw scans.
NO_RAW = ("derivatives", "sourcedata", "code", "stimuli", "phenotype")


@dataclass(frozen=True)
class Derivative:
    """One file of results.

    Args:
        scan: the raw scan that it was made of.
        file: as it was written.
        description: of the entity ``desc``.
        suffix: what it is; None is the raw scan's own.
        facts: for its sidecar; ``SkullStripped`` is asked for where the suffix is the raw scan's own.
        others: further raw scans that it was made of.
    """

    scan: Path
    file: Path
    description: str
    suffix: str | None
    facts: Mapping[str, Any]
    others: tuple[Path, ...] = ()


def read_entities(path: str | os.PathLike[str]) -> dict[str, str] | None:
    """Read the entities of a name and, as ``suffix``, its last word; None for a name that is not BIDS's.

    Example:
        >>> read_entities("sub-01_ses-2_run-1_T1w.nii.gz")
        {'sub': '01', 'ses': '2', 'run': '1', 'suffix': 'T1w'}
    """
    *parts, suffix = scan_stem(path).split("_")
    matches = [_PAIR.fullmatch(part) for part in parts]
    pairs = [(str(match[1]), str(match[2])) for match in matches if match is not None]
    if len(pairs) != len(parts) or not pairs or pairs[0][0] != "sub" or not suffix.isalnum():
        return None
    return {**dict(pairs), "suffix": suffix}


def find_root(path: str | os.PathLike[str]) -> Path | None:
    """The data set that a file lies in: the nearest folder above it with a description; None where there is none."""
    return next((parent for parent in Path(path).absolute().parents if (parent / _DESCRIPTION).is_file()), None)


def is_raw(folder: Path, file: Path) -> bool:
    """Whether a file below a folder may be a raw scan: of a BIDS data set, what lies in ``derivatives`` is none."""
    return file.relative_to(folder).parts[0] not in NO_RAW or not (folder / _DESCRIPTION).is_file()


def choose_people(
    items: Sequence[Item], participants: Sequence[str] | None, session: str | None
) -> tuple[list[Item], list[LeftOut]]:
    """Take the scans of some people and of one session, by the names of their files.

    Args:
        items: a datalist.
        participants: labels with or without ``sub-``; None takes all.
        session: label with or without ``ses-``; None takes all.

    Returns:
        The chosen items and the others.

    Raises:
        ScanError: a participant of whom there is no scan.
    """
    wanted = None if participants is None else {label.removeprefix("sub-") for label in participants}
    visit = None if session is None else session.removeprefix("ses-")
    chosen, left_out, seen = [], [], set()
    for item in items:
        path = first_file(item)
        entities = read_entities(path) or {}
        seen.add(entities.get("sub"))
        if wanted is not None and entities.get("sub") not in wanted:
            left_out.append(LeftOut(str(path), "other participants", "is of a participant who was not asked for", True))
        elif visit is not None and entities.get("ses") != visit:
            left_out.append(LeftOut(str(path), "other sessions", f"is not of session {visit}", True))
        else:
            chosen.append(item)
    missing = sorted((wanted or set()) - seen)
    if missing:
        raise ScanError("--participant-label", f"names {', '.join(missing)}, of whom there is no scan")
    return chosen, left_out


def write_derivatives(folder: Path, derivatives: Sequence[Derivative]) -> list[Path]:
    """Write results as a BIDS derivative data set, beside the files that they are.

    Args:
        folder: of the data set; files in it are links to the results where the disk allows it, else copies.
        derivatives: what there is; of scans whose names are not BIDS's nothing is written.

    Returns:
        The maps that are there now.
    """
    written, sources = [], set()
    for derivative in derivatives:
        entities = read_entities(derivative.scan)
        if entities is None:
            continue
        target = folder / _name_derivative(derivative, entities)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, partial(_link, derivative.file))
        root = find_root(derivative.scan)
        uri, *others = (_write_uri(path, root) for path in (derivative.scan, *derivative.others))
        name = target.name.removesuffix(".gz").rpartition(".")[0]
        facts = {"Sources": [uri, *others], "SpatialReference": uri, **derivative.facts}
        write_json(target.with_name(f"{name}.json"), facts)
        written.append(target)
        sources |= {root} if root is not None else set()
    if written:
        _describe(folder, sorted(sources))
    return written


def _write_uri(path: Path, root: Path | None) -> str:
    """How a sidecar names a file of the raw data set; what lies elsewhere by its name."""
    known = root is not None and path.absolute().is_relative_to(root)
    return f"bids:raw:{path.absolute().relative_to(root).as_posix()}" if known and root is not None else path.name


def _name_derivative(derivative: Derivative, entities: Mapping[str, str]) -> Path:
    kept = {key: value for key, value in entities.items() if key not in ("suffix", "space", "desc")}
    parts = [f"{key}-{value}" for key, value in kept.items()]
    parts += ["space-orig", f"desc-{derivative.description}", derivative.suffix or entities["suffix"]]
    ending = ".nii.gz" if derivative.file.name.endswith(".nii.gz") else derivative.file.suffix
    folders = [f"sub-{entities['sub']}", *([f"ses-{entities['ses']}"] if "ses" in entities else []), "anat"]
    return Path(*folders, f"{'_'.join(parts)}{ending}")


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def has_derivatives(folder: Path) -> bool:
    """Whether a folder holds derivatives that this package wrote."""
    try:
        return bool(read_json(folder / _DESCRIPTION)["GeneratedBy"][0]["Name"] == _GENERATOR)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _describe(folder: Path, sources: Sequence[Path]) -> None:
    content: dict[str, Any] = {
        "Name": "Anomaly maps",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "License": "of the source data",
        "GeneratedBy": [
            {
                "Name": _GENERATOR,
                "Version": __version__,
                "Description": "How unusual each voxel is against healthy scans. Research software",
            }
        ],
        "HowToAcknowledge": "Please cite the sources of the data and of the method.",
    }
    if sources:
        relative = os.path.relpath(sources[0], folder)
        content |= {
            "SourceDatasets": [{"URL": sources[0].as_uri()}],
            "DatasetLinks": {"raw": Path(relative).as_posix()},
        }
    replace_file(folder / _DESCRIPTION, lambda temporary: temporary.write_text(json.dumps(content, indent=2) + "\n"))
    readme = "Anomaly maps of monai-dpmm-ad on the grid of each raw scan (space-orig).\n\n" + (
        "desc-anomaly: the map, higher is more unusual. desc-regions: flagged regions, which are not diagnoses.\n"
        "desc-change: positive where a second visit is more unusual than the first. desc-changed: regions of it.\n"
        "Scores and p-values stand in the sidecar of each map. Research software, not a medical device.\n"
    )
    replace_file(folder / "README", lambda temporary: temporary.write_text(readme))
