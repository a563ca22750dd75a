# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Kinds of anomaly, from scans to tables and pictures."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from monai_dpmm_ad.clustering.groups import WEIGHTS, describe_instances, score_instances
from monai_dpmm_ad.clustering.instances import Instance, InstanceCollector, Thumbnail
from monai_dpmm_ad.commands import infer
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.commands.cluster import ClusterOutcome, cluster
from monai_dpmm_ad.data.dataset import ScanDataset

pytestmark = pytest.mark.filterwarnings("default")


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "clusters.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def scans(cohort: Path) -> list[Path]:
    return sorted((cohort.parent / "imagesTs").glob("*.nii.gz"))


@pytest.fixture(scope="module")
def grouped(bundle: Path, scans: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClusterOutcome]:
    out = tmp_path_factory.mktemp("groups")
    types = out / "given.csv"
    lines = [f"{scan.name},{'a' if index < 2 else 'b'}" for index, scan in enumerate(scans)]
    types.write_text("\n".join(["file,type", *lines]) + "\n")
    return out, cluster(bundle, scans, out, num_clusters=2, types=types)


def test_every_scan_is_in_one_group(grouped: tuple[Path, ClusterOutcome], scans: list[Path]) -> None:
    out, outcome = grouped
    rows = table(out)
    assert sorted(row["image"] for row in rows) == [str(scan) for scan in scans]
    assert {row["group"] for row in rows} == {"1", "2"}
    assert {row["type"] for row in rows} == {"a", "b"}
    assert not outcome.failures
    for row in rows:
        assert row["region"] == ""
        assert float(row["distance"]) >= 0


def test_the_summary_holds_settings_and_agreement(grouped: tuple[Path, ClusterOutcome]) -> None:
    summary = json.loads((grouped[0] / "clusters.json").read_text())
    assert summary["num_items"] == 4
    assert summary["num_clusters"] == 2
    assert summary["settings"]["weights"] == "detector"
    assert set(summary["metrics"]) == {"nmi", "ari", "f1", "num_items_with_type"}


def test_pictures_are_written(grouped: tuple[Path, ClusterOutcome]) -> None:
    for name in ("group_1.png", "group_2.png", "dendrogram.png"):
        with Image.open(grouped[0] / name) as picture:
            assert min(picture.size) > 100
            assert np.asarray(picture.convert("L")).std() > 5


def test_the_same_input_gives_the_same_bytes(
    grouped: tuple[Path, ClusterOutcome], bundle: Path, scans: list[Path], tmp_path: Path
) -> None:
    cluster(bundle, scans, tmp_path, num_clusters=2, types=grouped[0] / "given.csv")
    for name in ("clusters.csv", "clusters.json", "group_1.png", "dendrogram.png"):
        assert (tmp_path / name).read_bytes() == (grouped[0] / name).read_bytes()


def test_pictures_of_an_earlier_run_do_not_stay(bundle: Path, scans: list[Path], tmp_path: Path) -> None:
    cluster(bundle, scans, tmp_path, num_clusters=3, weights="uniform")
    assert (tmp_path / "group_3.png").is_file()
    (tmp_path / "group_9.png").write_bytes(b"the user's own")
    cluster(bundle, scans, tmp_path, num_clusters=1, weights="uniform")
    assert sorted(path.name for path in tmp_path.glob("group_*")) == ["group_1.png", "group_9.png"]


@pytest.mark.parametrize("weights", ["unsupervised", "semi-supervised"])
def test_weights_from_distances(bundle: Path, scans: list[Path], tmp_path: Path, weights: str) -> None:
    outcome = cluster(bundle, scans, tmp_path, weights=weights, max_patches=50, tau=0.5)
    assert len(outcome.groups.instances) == 4
    assert all(len(item.patches) == 50 for item in outcome.groups.instances)


def test_normal_scans_may_be_named(bundle: Path, scans: list[Path], cohort: Path, tmp_path: Path) -> None:
    normals = [cohort.parent / "imagesTr"]
    outcome = cluster(bundle, scans, tmp_path, weights="semi-supervised", normals=normals, max_patches=50)
    assert not outcome.failures


def test_regions_are_those_of_the_mask(bundle: Path, scans: list[Path], tmp_path: Path) -> None:
    infer(bundle, scans, tmp_path / "maps", report=False, false_positive_rate=0.05, min_region_volume=300.0)
    with open(tmp_path / "maps" / "regions.csv", newline="") as file:
        flagged = {(row["name"], row["region"]): float(row["size"]) for row in csv.DictReader(file)}
    outcome = cluster(
        bundle, scans, tmp_path, items="regions", num_clusters=2, false_positive_rate=0.05, min_region_volume=300.0
    )
    found = {(item.scan, str(item.region)): item.size for item in outcome.groups.instances}
    assert len(found) >= 2
    for key, size in found.items():
        assert size == pytest.approx(flagged[key])
    for item in outcome.groups.instances:
        assert item.coverage is not None
        assert bool((item.coverage > 0).all())
        assert item.thumbnail.mask is not None
        assert item.thumbnail.mask.any()


def test_scans_that_are_known_to_be_normal_are_left_out(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    outcome = cluster(bundle, [cohort], tmp_path)
    assert {item.name for item in outcome.groups.instances} == {"test_abnormal_000", "test_abnormal_001"}


def test_a_bad_scan_is_named_and_the_others_are_grouped(
    bundle: Path, scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for scan in scans:
        shutil.copy(scan, folder)
    (folder / "bad.nii.gz").write_text("hello")
    out = tmp_path / "out"
    status = main(["cluster", "--bundle", str(bundle), "--images", str(folder), "--out", str(out)])
    assert status == 1
    assert "bad.nii.gz" in capsys.readouterr().err
    assert "bad.nii.gz" in (out / "failures.csv").read_text()
    assert len(table(out)) == 4


WRONG = {
    "one image": (["--images", "ONE"], "at least two"),
    "weights": (["--weights", "detectors"], "Did you mean 'detector'"),
    "items": (["--items", "region"], "Did you mean 'regions'"),
    "linkage": (["--linkage", "wards"], "Did you mean 'ward'"),
    "tau": (["--tau", "0"], "`tau` must be positive"),
    "groups": (["--num-clusters", "9"], "between 1 and the number of items 4"),
    "no groups": (["--num-clusters", "0"], "at least 1"),
    "types": (["--types", "/no/such/types.csv"], "/no/such/types.csv"),
    "patches": (["--max-patches", "0"], "`max_patches`"),
    "useless": (["--weights", "uniform", "--normals", "BAD"], "`normals` must be left out with `weights` uniform"),
    "normals": (["--weights", "semi-supervised", "--normals", "BAD"], "bad.nii.gz: cannot be read"),
}
#: Found out before scans are embedded.
EARLY = ("one image", "groups", "no groups", "types", "normals")


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_options_are_one_clear_line(
    kind: str,
    bundle: Path,
    scans: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments, message = WRONG[kind]
    (tmp_path / "bad.nii.gz").write_bytes(b"no volume")
    known = {"ONE": str(scans[0]), "BAD": str(tmp_path / "bad.nii.gz")}
    arguments = [known.get(argument, argument) for argument in arguments]
    if kind in EARLY:
        collect = InstanceCollector.collect

        def refuse(self: InstanceCollector, dataset: ScanDataset, *rest: str) -> list[Instance]:
            assert rest, "scans are embedded before this is found out"
            return collect(self, dataset, *rest)

        monkeypatch.setattr(InstanceCollector, "collect", refuse)
    images = [] if "--images" in arguments else ["--images", *map(str, scans)]
    status = main(["cluster", "--bundle", str(bundle), *images, "--out", str(tmp_path), *arguments])
    err = capsys.readouterr().err
    assert status == 1
    assert message in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1


def make_item(name: str, patches: torch.Tensor, coverage: torch.Tensor | None = None) -> Instance:
    empty = np.zeros((2, 2), np.float32)
    return Instance(
        name, name.split("_")[0], f"/{name}.png", patches, patches.norm(dim=1), Thumbnail(empty, empty), coverage
    )


def test_tau_is_on_the_scale_of_the_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    items = [make_item(f"s{index}", torch.randn(6, 3, generator=generator)) for index in range(3)]
    scores = [item.scores for item in items]
    np.testing.assert_allclose(
        describe_instances(items, scores, 0.7), describe_instances(items, [100 * s for s in scores], 0.7), atol=1e-5
    )


def test_uniform_weights_are_the_plain_mean() -> None:
    items = [make_item("a", torch.tensor([[1.0, 0.0], [0.0, 1.0]])), make_item("b", torch.eye(2))]
    found = describe_instances(items, score_instances(items, "uniform"), 0.1)
    np.testing.assert_allclose(found, 0.5)


def test_regions_are_compared_with_other_scans_only() -> None:
    own, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [30.0, 40.0]])
    items = [make_item("a_1", own), make_item("a_2", own)]
    scores = score_instances(items, "unsupervised", {"a": own, "b": other})
    assert [score.tolist() for score in scores] == [[pytest.approx(5.0)]] * 2
    with pytest.raises(ValueError, match="single scan"):
        score_instances(items, "unsupervised", {"a": own})


def test_semi_supervised_weights_need_normal_patches() -> None:
    items = [make_item("a", torch.eye(2)), make_item("b", torch.eye(2))]
    with pytest.raises(ValueError, match="--normals"):
        score_instances(items, "semi-supervised")
    with pytest.raises(ValueError, match="`weights` must be one of"):
        score_instances(items, "other")
    assert "detector" in WEIGHTS


def test_single_slices_are_items_too(bundle: Path, scans: list[Path], tmp_path: Path) -> None:
    scan = nib.load(scans[0])
    for index in range(3):
        slice_ = scan.slicer[:, :, scan.shape[2] // 2 + index : scan.shape[2] // 2 + index + 1]
        nib.save(slice_, tmp_path / f"{index}.nii.gz")
    outcome = cluster(bundle, [tmp_path], tmp_path / "out", num_clusters=2)
    assert [item.name for item in outcome.groups.instances] == ["0", "1", "2"]
