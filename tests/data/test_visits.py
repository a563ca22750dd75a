# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Which scans are two visits of one person, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_dpmm_ad.data.visits import Visits, check_same_person, name_pairs, pair_visits, read_visit_table
from monai_dpmm_ad.errors import ScanError


def item(path: str, **more: str) -> dict[str, str]:
    return {"name": Path(path).stem, "image": path, **more}


def test_scans_are_paired_by_subject_whatever_their_order() -> None:
    before = [item("/a/sub-1/x.nii"), item("/a/sub-2/x.nii"), item("/a/sub-4/x.nii")]
    after = [item("/b/sub-3/y.nii"), item("/b/sub-2/y.nii"), item("/b/sub-1/y.nii")]
    pairs, alone = pair_visits(before, after)
    assert [(pair.name, pair.after["image"]) for pair in pairs] == [
        ("sub-1", "/b/sub-1/y.nii"),
        ("sub-2", "/b/sub-2/y.nii"),
    ]
    assert [str(error) for error in alone] == [
        "/a/sub-4/x.nii: has no second visit of the same subject, sub-4",
        "/b/sub-3/y.nii: has no first visit of the same subject, sub-3",
    ]


def test_one_scan_on_either_side_is_a_pair() -> None:
    ((pair,), alone) = pair_visits([item("/a/old.nii")], [item("/b/new.nii")])
    assert (pair.name, alone) == ("old", [])
    ((pair,), _) = pair_visits([item("/a/old", subject="patient P 7")], [item("/b/new", subject="patient P 7")])
    assert pair.name == "P_7"


def test_a_folder_in_which_all_scans_lie_is_nobody() -> None:
    sides = [[item(f"/case_7/v{visit}/p{who}.nii") for who in (1, 2)] for visit in (1, 2)]
    with pytest.raises(ScanError, match=r"^/case_7/v1/p1.nii: does not say whose it is"):
        pair_visits(*sides)
    pairs = name_pairs([Visits("", *rows) for rows in zip(*sides, strict=True)])
    assert [pair.name for pair in pairs] == ["p1", "p2"]


def test_what_cannot_be_paired_is_one_line() -> None:
    two = [item("/a/sub-1_x.nii"), item("/a/sub-1_y.nii")]
    with pytest.raises(ScanError, match=r"^/a/sub-1_y.nii: is of the same subject and visit as /a/sub-1_x.nii: choose"):
        pair_visits(two, two)
    with pytest.raises(
        ScanError, match=r"^/a/x.nii: does not say whose it is: name subjects as in sub-01, or give a t"
    ):
        pair_visits([item("/a/x.nii"), item("/a/y.nii")], two)


def test_visits_of_different_people_are_refused() -> None:
    def visits(one: str | None, two: str | None) -> Visits:
        return Visits("a", *(item(f"/{i}", **({"subject": name} if name else {})) for i, name in enumerate((one, two))))

    with pytest.raises(ScanError, match=r"^/1: is of another person, patient B, than the first visit /0, patient A$"):
        check_same_person(visits("patient A", "patient B"))
    for pair in [("patient A", "patient A"), ("study 1", "study 2"), ("patient A", "study 2"), (None, "patient A")]:
        check_same_person(visits(*pair))  # an anonymised series is known by its study alone
    one, two = (item(f"/a/sub-0{who}_ses-{who}_T1w.nii.gz") for who in (1, 2))
    with pytest.raises(ScanError, match=r"is of another person, sub-02, than the first visit /a/sub-01_.*, sub-01$"):
        check_same_person(Visits("", one, two))
    check_same_person(Visits("", one, item("/b/sub-01.nii.gz")))
    check_same_person(Visits("", one, item("/sub-02/T1.nii.gz")))
    check_same_person(Visits("", {**one, "subject": "a"}, {**two, "subject": "a"}))


def test_a_table_of_visits(tmp_path: Path) -> None:
    table = tmp_path / "pairs.tsv"
    table.write_text("name\tbefore\tafter\np1\ta.nii\tb.nii\n\tc.nii\td.nii\n")
    one, two = read_visit_table(table)
    assert one == ("p1", str(tmp_path / "a.nii"), str(tmp_path / "b.nii"))
    assert two[0] is None
    (tmp_path / "spreadsheet.csv").write_text("name;before;after\na/../../b; a.nii;b.nii \n")
    assert read_visit_table(tmp_path / "spreadsheet.csv") == [("a_.._.._b", *one[1:])], "a name is made fit for files"
    for name, content, message in [
        ("a.csv", "before,later\na,b\n", "lacks the column after; it has before, later"),
        ("b.csv", "", "lacks the column before and after; it has none"),
        ("c.csv", "before,after\n", "lists no visits"),
        ("d.csv", "before,after\na.nii,\n", "has no after in line 2"),
        ("e.csv", "before,after\na.nii,b.nii,c.nii\n", "has more cells than columns in line 2"),
        ("f.csv", "before,after,after\na.nii,b.nii,c.nii\n", "has the column after twice"),
    ]:
        (tmp_path / name).write_text(content)
        with pytest.raises(ScanError, match=message):
            read_visit_table(tmp_path / name)
    with pytest.raises(ScanError, match=r"none\.csv: cannot be read as a table of visits \(No such file"):
        read_visit_table(tmp_path / "none.csv")
