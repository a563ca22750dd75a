# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Archives with several kinds of DICOM series of each patient: one kind is chosen, never all taken as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.dicom_series import write_series

from monai_dpmm_ad.data import find_scans, resolve_datalist
from monai_dpmm_ad.errors import ScanError
from monai_dpmm_ad.pretraining.data import load_slices

pytest.importorskip("pydicom")


def write_archive(root: Path, place: Callable[[int, str], tuple[str, str | None]], ids: bool = True) -> Path:
    """Write T1 and T2 of three patients; ``place`` gives the folder and the description of a patient's series."""
    for patient in range(3):
        for number, word in enumerate(("T1", "T2")):
            folder, description = place(patient, word)
            tags = {} if description is None else {"SeriesDescription": description}
            tags |= {} if ids else {"PatientID": "", "StudyInstanceUID": ""}
            volume = np.full((4, 4, 2), 100.0 + number)
            write_series(root / folder, volume, np.eye(4), seed=patient, prefix=f"{word}_", **tags)
    return root


PLACES: dict[str, Callable[[int, str], tuple[str, str | None]]] = {
    "folders": lambda patient, word: (f"p{patient}/{word}", None),
    "descriptions": lambda patient, word: (f"p{patient}", f" {word}  MPRAGE" if patient else f"{word.lower()} mprage "),
    "both": lambda patient, word: (f"p{patient}/S{word[1]}", f"sag_{word}"),
}


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize(("layout", "suffix"), [("folders", "t2"), ("descriptions", "T2 Mprage"), ("both", "T2")])
def test_several_kinds_are_refused_and_one_is_chosen(layout: str, suffix: str, ids: bool, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", PLACES[layout], ids)
    with pytest.raises(ScanError, match=r"holds 2 kinds of series of each patient: .*t1.* \(3\), .*t2.* \(3\); choose"):
        resolve_datalist(archive)
    with pytest.raises(ScanError, match=f"^{archive}: holds 2 kinds"):
        resolve_datalist(sorted(archive.iterdir()))  # as a shell's * gives them
    found = find_scans(archive, suffix=suffix)
    assert len(found.items) == len(found.left_out) == 3
    assert {Path(str(item["image"])).name for item in found.items} <= {"T2", "S2"} or layout == "descriptions"
    assert all("series" in thing.reason and f"not {suffix}" in thing.reason for thing in found.left_out)
    assert len(resolve_datalist(archive, pattern="*")) == 6
    if layout == "folders":
        assert len(resolve_datalist(archive, pattern="*/T1/*")) == 3
    assert all(set(item) <= {"image", "subject", "name"} for item in found.items)


@pytest.mark.parametrize(
    "place",
    [
        lambda patient, word: (f"p{patient}/{word}", f"{word} of patient {patient}"),  # free text
        lambda patient, word: (f"p{patient}/{word}", f"brain {patient % 2}"),  # two scanners, one kind of each patient
        lambda patient, word: (f"p{patient}/{word[1]}", None),  # the series' numbers
        lambda patient, word: (f"p{patient}/s20{word[1]}0", None),
        lambda patient, word: (f"p{patient}/visit{word[1]}", None),
        lambda patient, word: (f"p{patient}/{word}", "T1" if patient else word),  # of one patient alone
    ],
)
def test_descriptions_that_do_not_recur_beside_others_refuse_nobody(
    place: Callable[[int, str], tuple[str, str | None]], tmp_path: Path
) -> None:
    assert len(resolve_datalist(write_archive(tmp_path, place))) == 6


def test_one_patient_s_series_are_all_mapped(tmp_path: Path) -> None:
    write_archive(tmp_path, PLACES["folders"])
    assert len(resolve_datalist(tmp_path / "p0")) == 2


def test_a_backbone_may_learn_from_every_kind(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", PLACES["folders"])
    with pytest.raises(ValueError, match="must hold at least one usable scan, got 6"):  # they are flat
        load_slices([str(archive)], 32, True, "median")
