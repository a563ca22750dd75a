# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Tables of people, and which scan a row belongs to."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.scans import write_slice

from monai_dpmm_ad.data import resolve_datalist
from monai_dpmm_ad.data.covariates import (
    add_covariates,
    add_split_covariates,
    choose_of_sites,
    read_covariates,
    read_person,
)
from monai_dpmm_ad.data.people import find_columns, find_group, find_thirds, name_groups
from monai_dpmm_ad.data.sites import MOST_SITES, find_site, list_sites
from monai_dpmm_ad.data.split import Split
from monai_dpmm_ad.errors import ScanError


def _write(folder: Path, text: str, name: str = "people.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_values_and_what_is_not_known(tmp_path: Path) -> None:
    table = _write(
        tmp_path, "participant_id\tage\tsex\tgroup\nsub-01\t71.5\tfemale\tx\n02\tn/a\tM\ty\n03\t40\t\t\n", "p.tsv"
    )
    assert read_covariates(table) == {
        "sub-01": {"age": 71.5, "sex": "F"},
        "02": {"age": None, "sex": "M"},
        "03": {"age": 40.0, "sex": None},
    }
    assert read_covariates(_write(tmp_path, "name,age\na,30\n")) == {"a": {"age": 30.0}}


@pytest.mark.parametrize("text", ["name;age;sex\na;71,5;F\n", "name;age;sex\na;71.5;F\n"])
def test_a_spreadsheets_semicolons(tmp_path: Path, text: str) -> None:
    assert read_covariates(_write(tmp_path, text)) == {"a": {"age": 71.5, "sex": "F"}}


def test_a_header_may_be_in_upper_case(tmp_path: Path) -> None:
    assert read_covariates(_write(tmp_path, "Name, AGE,Sex\na,71,F\n")) == {"a": {"age": 71.0, "sex": "F"}}
    with pytest.raises(ScanError, match="has the column age twice"):
        read_covariates(_write(tmp_path, "name,Age,AGE\na,71,72\n"))


def test_a_table_in_another_encoding_is_told(tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text("name,age\na,30\n", encoding="utf-16")
    with pytest.raises(ScanError, match="save it as CSV in UTF-8"):
        read_covariates(table)


def test_a_row_may_have_the_file_s_name(tmp_path: Path) -> None:
    table = _write(tmp_path, "name,age\nscan 1.nii.gz,30\n")
    items = add_covariates([{"image": str(tmp_path / "scan 1.nii.gz"), "name": "scan_1"}], table)
    assert read_person(items[0])["age"] == 30


@pytest.mark.parametrize(
    ("text", "needed", "reason"),
    [
        ("who,age\na,30\n", None, "lacks the column name or participant_id; it has who, age"),
        ("name,weight\na,30\n", None, "lacks the column age or sex or site; it has name, weight"),
        ("name,age\na,30\n", ("age", "sex"), "lacks the column sex; it has name, age"),
        ("name,age\na,old\n", None, "has the age 'old' in line 2, where years or n/a is expected"),
        ("name,age\na,-3\n", None, "has the age '-3' in line 2, where years or n/a is expected"),
        ("name,age\na,nan\nb,inf\n", None, "has the age 'inf' in line 3, where years or n/a is expected"),
        ("name,sex\na,3\n", None, "has the sex '3' in line 2, where M or F or n/a is expected"),
        (
            "name,site\na,$x\n",
            None,
            "has the site '$x' in line 2, where a name of letters and digits or n/a is expected",
        ),
        ("name,age\na,30\na,31\n", None, "has a again in line 3"),
        ("name,age\n,30\n", None, "has nobody in line 2"),
        ("name,age,age\na,30,60\n", None, "has the column age twice"),
        ("name,age\na,30,60\n", None, "has more cells than columns in line 2"),
        ("name,age\na,3_0\n", None, "has the age '3_0' in line 2, where years or n/a is expected"),
        ("", None, "lacks the column name or participant_id; it has none"),
    ],
)
def test_a_table_that_says_too_little_is_refused_in_one_line(
    tmp_path: Path, text: str, needed: tuple[str, ...] | None, reason: str
) -> None:
    with pytest.raises(ScanError) as caught:
        read_covariates(_write(tmp_path, text), needed)
    assert caught.value.reason == reason
    assert "\n" not in str(caught.value)


def test_no_table_at_all(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="cannot be read as a table of people"):
        read_covariates(tmp_path / "none.csv")
    _write(tmp_path, "", "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ScanError, match="is no text in UTF-8"):
        read_covariates(tmp_path / "binary.csv")


def test_rows_belong_to_scans_by_name_file_participant_or_subject(tmp_path: Path) -> None:
    table = _write(tmp_path, "name,age\na,1\nb,2\n07,3\ndoe,4\n")
    items = [
        {"image": "x/other.nii.gz", "name": "a"},
        {"image": "x/b.nii.gz", "name": "x_b"},
        {"image": "sub-07_ses-1_T1w.nii.gz", "name": "sub-07_ses-1_T1w"},
        {"image": ["1.dcm", "2.dcm"], "name": "series", "subject": "doe"},
        {"image": ["1.dcm", "2.dcm"], "name": "T1_3", "subject": "patient doe"},  # a series, by its PatientID
    ]
    told = add_covariates(items, table)
    assert [json.loads(item["covariates"])["age"] for item in told] == [1, 2, 3, 4, 4]
    assert "covariates" not in items[0]
    assert read_person(told[0]) == read_person({"covariates": {"age": 1.0}}) == {"age": 1.0}
    assert read_person({}) == {}
    assert add_covariates(items, None) == items
    with pytest.raises(ScanError, match=r"people.csv: has no row for the scan c$"):
        add_covariates([{"image": "c.nii.gz", "name": "c"}], table)
    with pytest.raises(ValueError, match="must be left out of a bundle that was fitted without"):
        add_covariates(items, table, needed=())


def test_what_a_datalist_says_is_read_like_a_table(tmp_path: Path) -> None:
    def told(person: object) -> list[dict[str, object]]:
        entry = {"image": "a.nii.gz", "covariates": person}
        found = resolve_datalist(_write(tmp_path, json.dumps({"test": [entry]}), "list.json"))
        return [read_person(item) for item in found]

    assert told({"age": "50", "sex": "male"}) == told('{"age": 50, "sex": "m"}') == [{"age": 50.0, "sex": "M"}]
    assert told({"age": None, "site": "n/a"}) == [{"age": None, "site": None}]
    assert told({"Age": 50, "weight": 80}) == [{"age": 50.0}]  # other keys are the user's, as other columns are
    for person, message in [
        ({"sex": "X"}, "`covariates` must have as sex M or F or n/a, got 'X'"),
        ({"age": [50]}, "`covariates` must have as age years or n/a, got '[50]'"),
        ("old", "`covariates` must be an object of age, sex, site, got 'old'"),
        ([50], "`covariates` must be an object of age, sex, site, got '[50]'"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):  # when the scan's turn comes: the others are done
            told(person)


def test_an_exact_heading_comes_before_one_in_another_case(tmp_path: Path) -> None:
    table = "participant_id,Name,age,AGE,sex\nsub-01,Smith,30,x,f\n"
    assert read_covariates(_write(tmp_path, table)) == {"sub-01": {"age": 30.0, "sex": "F"}}


def test_a_file_is_not_taken_for_a_person_of_that_number(tmp_path: Path) -> None:
    """``sub-02/01.nii.gz`` is of sub-02, though its file is called like sub-01 without what stands before it."""
    item = {"image": "study/sub-02/01.nii.gz", "name": "01"}
    (told,) = add_covariates([item], _write(tmp_path, "participant_id,age\nsub-01,20\nsub-02,80\n"))
    assert read_person(told)["age"] == 80
    with pytest.raises(ScanError, match=r"has two rows for the scan study/sub-02/01.nii.gz, 01 and 02, that differ$"):
        add_covariates([item], _write(tmp_path, "participant_id,age\n01,20\n02,80\n"))
    (told,) = add_covariates([item], _write(tmp_path, "participant_id,age\n01,20\n02,20\n"))
    assert read_person(told)["age"] == 20


def test_participants_of_a_bids_data_set(tmp_path: Path) -> None:
    (tmp_path / "sub-1" / "anat").mkdir(parents=True)
    _write(tmp_path, "{}", "dataset_description.json")
    _write(tmp_path, "participant_id\tage\tsex\nsub-1\t50\tF\n", "participants.tsv")
    item = {"image": str(tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz"), "name": "sub-1_T1w"}
    (told,) = add_covariates([item], None, participants=True)
    assert json.loads(told["covariates"]) == {"age": 50, "sex": "F"}
    with pytest.raises(ValueError, match="Choose one of the tables"):
        add_covariates([item], tmp_path / "participants.tsv", participants=True)
    with pytest.raises(ScanError, match="lies in no BIDS data set"):
        add_covariates([{"image": "/elsewhere/a.nii.gz", "name": "a"}], None, participants=True)


def test_groups(tmp_path: Path) -> None:
    people = [{"age": float(age)} for age in (20, 30, 40, 50, 60, 70, 80)]
    edges = find_thirds(people)
    assert edges == (40, 60)
    names = [find_group("age", person, edges) for person in people]
    assert names == ["age to 40"] * 3 + ["age 40 to 60"] * 2 + ["age from 60"] * 2
    assert find_group("age", {"age": None, "sex": "M"}, edges) is None
    assert find_group("sex", {"age": None, "sex": "M"}, edges) == "M"


def test_sites_are_groups_and_some_of_each_are_mapped_once_more(tmp_path: Path) -> None:
    table = _write(tmp_path, "name,site\na,north\nb, south \nc,south\nd,east\n")
    assert [person["site"] for person in read_covariates(table).values()] == ["north", "south", "south", "east"]
    people = [{"site": "b"}, {"site": "a"}, {"site": None}, {}]
    assert list_sites(people) == ("a", "b")
    assert list_sites(people[1:]) == (), "one site is none"
    assert name_groups("site", (0, 0), ("a", "b")) == ("site a", "site b")
    found = [find_group("site", person, (0, 0), ("a", "b")) for person in [*people, {"site": "c"}]]
    assert found == ["site b", "site a", None, None, None]
    items = [{"name": f"{n:02}", "covariates": {"site": "rare" if n == 7 else "often"}} for n in range(40)]
    chosen = [item["name"] for item in choose_of_sites(items[::-1])]
    assert len(chosen) == 11
    assert {"07", "00", "39"} <= set(chosen)
    assert chosen == [item["name"] for item in choose_of_sites(items)]
    assert choose_of_sites(items[:5]) == []


def test_sites_that_differ_in_case_or_blanks_are_one(tmp_path: Path) -> None:
    written = ["Hammersmith", "hammersmith", "Hammersmith ", "HAMMERSMITH", "Guys  Hospital", "guys hospital"]
    people = [{"site": name} for name in written]
    sites = list_sites(people)
    assert sites == ("Guys Hospital", "Hammersmith"), "as most have it, else the first of the alphabet"
    assert [find_site(person["site"], sites) for person in people] == [1, 1, 1, 1, 0, 0]
    assert list_sites(people[:4]) == (), "one site is none"
    assert find_group("site", {"site": "hammerSmith"}, (0, 0), sites) == "site Hammersmith"
    assert find_site("Hammersmith 2", sites) is find_site(None, sites) is find_site(3, sites) is None
    assert find_site("a", ("A", "a")) == 1, "a bundle that was fitted before told them apart"
    items = [{"name": str(number), "covariates": person} for number, person in enumerate(people)]
    assert sorted(item["name"] for item in choose_of_sites(items)) == list("012345")
    table = _write(tmp_path, "name,site\n" + "".join(f"{n},{'sS'[n % 2]}{n // 2}\n" for n in range(2 * MOST_SITES)))
    scans = [{"image": f"{n}.nii.gz", "name": str(n)} for n in range(2 * MOST_SITES)]
    assert add_split_covariates(Split(scans, scans[:1], True), table).note is None


def test_a_table_that_tells_nobody_apart_is_refused_before_the_fit(tmp_path: Path) -> None:
    items = [{"image": f"{name}.nii.gz", "name": name} for name in "abc"]
    split = Split(items[:2], items[2:], True, note="of two")
    alike = _write(tmp_path, "name,site\na,north\nb,North\nc,south\n")
    with pytest.raises(ValueError, match="`covariates` must tell the fitted people apart, got 2 of whom no two differ"):
        add_split_covariates(split, alike)
    assert add_split_covariates(split, alike, known=True).note == "of two"
    ages = _write(tmp_path, "name,age,site\na,30,north\nb,40,North\nc,50,south\n", "ages.csv")
    assert add_split_covariates(split, ages).note == "of two; all fitted scans are of one site, North: it is left out"
    assert find_columns([{"age": 30.0}, {"age": 30.0, "sex": "F"}, {"sex": "M"}]) == ("sex",)
    assert find_columns([]) == ()


def test_too_many_sites_or_groups_of_none_are_refused_before_the_fit(tmp_path: Path) -> None:
    table = _write(tmp_path, "name,site\n" + "".join(f"{n},s{n}\n" for n in range(30)))
    items = [{"image": f"{n}.nii.gz", "name": str(n)} for n in range(30)]
    with pytest.raises(ValueError, match=rf"`covariates` must name {MOST_SITES} sites at most, got 30"):
        add_split_covariates(Split(items, items[:2], True), table)
    with pytest.raises(ValueError, match="`group_by` site must have fitted scans of two sites or more"):
        add_split_covariates(Split(items[:1], items[1:3], True), table, group_by="site", known=True)
    with pytest.raises(ValueError, match="groups of 2 held-out scans or more, got 0 of the group site s1"):
        add_split_covariates(Split(items[:2], [items[0], items[0]], True), table, group_by="site")


def test_pictures_are_refused_before_the_fit(tmp_path: Path) -> None:
    table = _write(tmp_path, "name,age\na,30\nb,40\nc,50\n")
    items = [{"image": f"{name}.{kind}", "name": name} for name, kind in (("a", "nii"), ("b", "png"), ("c", "png"))]
    with pytest.raises(ValueError, match=r"left out of a fit of pictures, .* got b.png"):
        add_split_covariates(Split(items[:2], items[2:], True), table)


def test_single_slices_are_refused_before_the_fit(tmp_path: Path) -> None:
    pytest.importorskip("pydicom")
    table = _write(tmp_path, "name,age\na,30\nb,40\nc,50\n")
    one = str(write_slice(tmp_path / "IM1", np.ones((4, 4), np.uint16), 0))
    many = str(write_slice(tmp_path / "IM2", np.ones((4, 4), np.uint16), 0, NumberOfFrames=2))
    volumes = [{"image": many, "name": "a"}, {"image": [one, one], "name": "b"}]
    add_split_covariates(Split(volumes, [], True), table)
    with pytest.raises(ValueError, match=r"left out of a fit of pictures, .* got .*IM1"):
        add_split_covariates(Split([*volumes, {"image": one, "name": "c"}], [], True), table)


def test_groups_by_what_the_table_has_not_are_refused(tmp_path: Path) -> None:
    table = _write(tmp_path, "name,age\n" + "".join(f"{name},{40 + number}\n" for number, name in enumerate("abcdef")))
    train, held_out = ([{"image": f"{name}.nii.gz", "name": name} for name in names] for names in ("abc", "def"))
    with pytest.raises(ValueError, match="got sex, which the table has of none"):
        add_split_covariates(Split(train, held_out, True), table, group_by="sex")


def test_a_group_of_one_is_refused_before_the_fit(tmp_path: Path) -> None:
    lines = "".join(f"{name},{sex}\n" for name, sex in zip("abcdef", "FMFMFF", strict=True))
    table = _write(tmp_path, f"name,sex\n{lines}")
    train, held_out = ([{"image": f"{name}.nii.gz", "name": name} for name in names] for names in ("abc", "def"))
    with pytest.raises(ValueError, match="groups of 2 held-out scans or more, got 1 of the group M"):
        add_split_covariates(Split(train, held_out, True), table, group_by="sex")
    split = add_split_covariates(Split(train, held_out, True), table)
    assert [json.loads(item["covariates"])["sex"] for item in [*split.train, *split.held_out]] == list("FMFMFF")
