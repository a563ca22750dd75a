# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The app in this process: threads that call it at once, what marks a study as normal, the stock app."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import types
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from conftest import FAST
from PIL import Image

pytest.importorskip("monailabel", reason="MONAI Label is not installed here; `make test-label` runs these tests")

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.interfaces.exception import MONAILabelException

from monai_dpmm_ad.bundle.folder import write_settings
from monai_dpmm_ad.commands import fit, infer
from monai_dpmm_ad.errors import CheckpointError
from monai_dpmm_ad.label.app import AnomalyApp
from monai_dpmm_ad.label.labels import load_marked

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.filterwarnings("ignore::ResourceWarning")]
STUDIES = ("test_abnormal_000", "test_abnormal_001", "test_healthy_000", "test_healthy_001")


@pytest.fixture
def app(bundle: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnomalyApp:
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_AUTO_RELOAD", False)
    monkeypatch.setattr(settings, "MONAI_LABEL_SESSIONS", False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "studies").mkdir()
    for name in STUDIES:
        scan = cohort.parent / "imagesTs" / f"{name}.nii.gz"
        (tmp_path / "studies" / scan.name).write_bytes(scan.read_bytes())
    return AnomalyApp(str(tmp_path), str(tmp_path / "studies"), {"bundle": str(bundle)})


def test_eight_threads_at_once_are_eight_in_turn(app: AnomalyApp) -> None:
    jobs = [(model, name) for model in ("dpmm_ad_mask", "dpmm_ad_map") for name in STUDIES]

    def ask(job: tuple[str, str]) -> tuple[bytes, dict[str, Any]]:
        answer = app.infer({"model": job[0], "image": job[1], "result_extension": ".nii"})
        answer["params"].pop("latencies")
        content = Path(answer["file"]).read_bytes()
        Path(answer["file"]).unlink()
        return content, answer["params"]

    in_turn = [ask(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, jobs)) == in_turn


def test_a_head_where_brains_were_fitted_is_told(brains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_AUTO_RELOAD", False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "head.nii.gz").write_bytes((brains / "head.nii.gz").read_bytes())
    served = AnomalyApp(str(tmp_path), str(tmp_path / "studies"), {"bundle": str(brains / "bundle")})
    answer = served.infer({"model": "dpmm_ad_mask", "image": "head"})
    drawn, study = nib.load(answer["file"]), nib.load(brains / "head.nii.gz")
    assert drawn.shape == study.shape
    np.testing.assert_array_equal(drawn.affine, study.affine)
    values = np.asarray(drawn.dataobj)
    assert values.any()
    assert not values[study.get_fdata() == 0].any()
    told = answer["params"]
    assert told["in_range"] is False
    assert any("its skull was taken away by the frame, " in warning for warning in told["warnings"])
    assert not any(level["guaranteed"] for level in told["levels"])


def test_a_bundle_must_be_named(tmp_path: Path) -> None:
    for conf in ({}, {"bundle": str(tmp_path)}):
        with pytest.raises(CheckpointError, match="--conf bundle BUNDLE"):
            AnomalyApp(str(tmp_path), str(tmp_path), conf)


def test_a_bundle_of_several_sequences_is_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    write_settings(tmp_path / "bundle", {"sequences": ["T1", "FLAIR"]})
    with pytest.raises(
        ValueError, match="for a label server, which hands over one image, got one of the sequences T1, FL"
    ):
        AnomalyApp(str(tmp_path), str(tmp_path), {"bundle": str(tmp_path / "bundle")})


def test_the_packages_own_copy_of_the_app_is_not_started(bundle: Path, tmp_path: Path) -> None:
    folder = Path(sys.modules["monai_dpmm_ad"].__file__ or "").parents[1] / "bundles" / "label_app"
    with pytest.raises(ValueError, match="monai-dpmm-ad label-app"):
        AnomalyApp(str(folder), str(tmp_path), {"bundle": str(bundle)})


def test_without_the_gate_nothing_is_served(app: AnomalyApp) -> None:
    app.server_mode(True)
    with pytest.raises(RuntimeError, match=r"--uvicorn_app monai_dpmm_ad\.label\.server:app"):
        app.on_init_complete()


def test_a_file_that_is_no_upload_is_no_study(app: AnomalyApp, tmp_path: Path) -> None:
    scan = tmp_path / "elsewhere.nii.gz"
    scan.write_bytes(Path(app.datastore().get_image_uri(STUDIES[0])).read_bytes())
    (tmp_path / "temporary" / "linked.nii.gz").symlink_to(scan)
    for path in (scan, tmp_path / "temporary" / "linked.nii.gz", tmp_path / "temporary" / ".." / "elsewhere.nii.gz"):
        with pytest.raises(HTTPException) as caught:
            app.infer({"model": "dpmm_ad_map", "image": str(path)})
        assert caught.value.status_code == 404


def test_a_bundle_that_has_gone_is_said(app: AnomalyApp, tmp_path: Path) -> None:
    app.runner.root = tmp_path / "gone"
    with pytest.raises(HTTPException) as caught:
        app.infer({"model": "dpmm_ad_map", "image": STUDIES[0]})
    assert (caught.value.status_code, "no bundle" in caught.value.detail) == (503, True)


def test_a_bundles_own_configs_run_where_it_is_trusted(app: AnomalyApp, bundle: Path, tmp_path: Path) -> None:
    copy, mark = tmp_path / "copy", tmp_path / "mark"
    shutil.copytree(bundle, copy)
    path = copy / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"]["state"] = f"$open({str(mark)!r}, 'w').close() or monai_dpmm_ad.read_state(@ckpt_path)"
    path.write_text(json.dumps(config))
    request = {"model": "dpmm_ad_map", "image": STUDIES[0]}
    with pytest.raises(ValueError, match="must be true or false, got yes"):
        AnomalyApp(str(tmp_path), app.studies, {"bundle": str(copy), "trust_bundle": "yes"})
    answers = [app.infer(request), AnomalyApp(str(tmp_path), app.studies, {"bundle": str(copy)}).infer(request)]
    assert not mark.exists()  # by its settings, which are data
    answers += [AnomalyApp(str(tmp_path), app.studies, {"bundle": str(copy), "trust_bundle": "True"}).infer(request)]
    assert mark.exists()
    maps = [nib.load(answer["file"]).get_fdata() for answer in answers]
    assert np.array_equal(maps[0], maps[1])
    assert np.array_equal(maps[0], maps[2])


def test_a_result_that_cannot_be_written_leaves_nothing(
    app: AnomalyApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("monai_dpmm_ad.label.infer.write_map", fail)
    with pytest.raises(HTTPException) as caught:
        app.infer({"model": "dpmm_ad_map", "image": STUDIES[0]})
    assert "No space left" in caught.value.detail
    assert not list((tmp_path / "temporary").iterdir())


def test_scores_outlive_neither_the_file_nor_the_bundle(app: AnomalyApp) -> None:
    method = {"method": "dpmm_ad"}
    assert app.scoring(method) == {"total": 4, "skipped": 0, "executed": 4, "failed": 0}
    assert app.scoring(method)["executed"] == 0
    path = Path(app.datastore().get_image_uri(STUDIES[0]))
    path.write_text("hello")
    assert app.scoring(method) == {"total": 4, "skipped": 3, "executed": 1, "failed": 1}
    info = app.datastore().get_image_info(STUDIES[1])["dpmm_ad"]
    app.datastore().update_image_info(STUDIES[1], {"dpmm_ad": info | {"bundle": "another"}})
    assert app.scoring(method) == {"total": 4, "skipped": 3, "executed": 1, "failed": 0}


def test_a_picture_in_a_picture_out(app: AnomalyApp, picture_bundle: Path, tmp_path: Path) -> None:
    pixels = nib.load(app.datastore().get_image_uri(STUDIES[1])).get_fdata()[:, :, 5].T
    picture = tmp_path / "temporary" / "slice.png"  # where uploads lie
    Image.fromarray((255 * pixels / pixels.max()).astype(np.uint8)).save(picture)
    with pytest.raises(HTTPException) as caught:
        app.infer({"model": "dpmm_ad_map", "image": str(picture)})
    assert "is a 2D picture; this bundle was fitted on 3D scans" in caught.value.detail
    app = AnomalyApp(str(tmp_path), str(tmp_path / "studies"), {"bundle": str(picture_bundle)})
    infer(app.runner.root, [picture], tmp_path / "out", report=False)
    answers = {model: app.infer({"model": model, "image": str(picture)}) for model in app._infers}
    with Image.open(answers["dpmm_ad_map"]["file"]) as ours, Image.open(tmp_path / "out/slice_anomaly.png") as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    with Image.open(answers["dpmm_ad_mask"]["file"]) as ours, Image.open(tmp_path / "out/slice_mask.png") as theirs:
        assert np.array_equal(np.asarray(ours) > 0, np.asarray(theirs) > 0)
        assert set(np.unique(np.asarray(ours))) <= {0, 1, 2, 3}
    assert json.dumps(answers["dpmm_ad_mask"]["params"], allow_nan=False)


def test_the_levels_follow_each_regions_own_threshold(
    app: AnomalyApp, cohort: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    affine = nib.affines.from_matvec(np.diag([4.0, 4.0, 4.0]), [-120, -150, -100])
    labels = np.ones((60, 60, 60), np.uint8)
    labels[30:] = 2
    atlas = tmp_path / "atlas.nii.gz"
    nib.save(nib.Nifti1Image(labels, affine), atlas)
    regional = tmp_path / "regional"
    fit([cohort], regional, embedder_name=str(tiny_vit), regions=str(atlas), **FAST)
    scan = app.datastore().get_image_uri(STUDIES[1])
    infer(regional, [scan], tmp_path / "out", report=False, regions=str(atlas), false_positive_rate=0.3)
    conf = {"bundle": str(regional), "regions": str(atlas), "device": "cpu"}
    answer = AnomalyApp(str(tmp_path), app.studies, conf).infer(
        {"model": "dpmm_ad_mask", "image": STUDIES[1], "rate": 0.3}
    )
    mask, plain = (nib.load(path) for path in (tmp_path / f"out/{STUDIES[1]}_mask.nii.gz", answer["file"]))
    assert np.array_equal(np.asarray(plain.dataobj) > 0, np.asarray(mask.dataobj) > 0)
    score_map = np.asarray(nib.load(tmp_path / f"out/{STUDIES[1]}_anomaly.nii.gz").dataobj)
    whole = score_map > np.float32(answer["params"]["levels"][0]["threshold"])
    assert not np.array_equal(np.asarray(plain.dataobj) > 0, whole)  # one threshold for all would draw another mask


@pytest.mark.parametrize(
    ("values", "segments", "normal"),
    [
        ([0], [], True),
        ([0], [{"name": "anomaly_level_1", "idx": 1}], True),
        ([0, 4], [{"name": "anomaly_level_1", "idx": 1}, {"name": "Normal", "idx": 4}], True),
        ([0, 1, 4], [{"name": "anomaly_level_1", "idx": 1}, {"name": "normal", "idx": 4}], False),
        ([0, 1], [{"name": "anomaly_level_1", "idx": 1}], False),
        ([0, 1], [], False),
    ],
)
def test_what_marks_a_study_as_normal(tmp_path: Path, values: list[int], segments: list, normal: bool) -> None:
    label = np.zeros((3, 3, 3), np.uint8)
    label.flat[: len(values)] = values
    nib.save(nib.Nifti1Image(label, np.eye(4)), tmp_path / "label.nii.gz")
    marked = load_marked(tmp_path / "label.nii.gz", {"label_info": segments} if segments else {})
    assert bool(marked.any()) is not normal


@pytest.fixture
def _no_torchvision_needed() -> None:
    """Let ``monailabel.transform.post`` be imported without the torchvision that it imports and we do not have."""
    if "monailabel.transform.post" not in sys.modules:
        stand_in, utils = types.ModuleType("torchvision"), types.ModuleType("torchvision.utils")
        utils.make_grid = utils.save_image = None  # type: ignore[attr-defined]
        sys.modules |= {"torchvision": stand_in, "torchvision.utils": utils}
        try:
            import_module("monailabel.transform.post")
        finally:
            del sys.modules["torchvision"], sys.modules["torchvision.utils"]


@pytest.mark.usefixtures("_no_torchvision_needed")
def test_the_stock_bundle_app_draws_the_same_map_and_no_more(bundle: Path, cohort: Path, tmp_path: Path) -> None:
    from monailabel.tasks.infer.bundle import BundleInferTask

    task = BundleInferTask(str(bundle), {})
    scan = cohort.parent / "imagesTs" / f"{STUDIES[1]}.nii.gz"
    infer(bundle, [scan], tmp_path, report=False)
    path, facts = task({"image": str(scan), "device": "cpu"})
    ours, theirs = nib.load(tmp_path / f"{STUDIES[1]}_anomaly.nii.gz"), nib.load(path)
    assert np.array_equal(np.asarray(theirs.dataobj), np.asarray(ours.dataobj))
    assert np.allclose(theirs.affine, ours.affine)
    assert task.labels == {"anomaly": 0}  # the map is one channel, which the app takes for a label
    assert not {"score", "p_value", "regions"} & set(facts)


def test_the_stock_app_cannot_be_imported_without_torchvision() -> None:
    # When this fails MONAI Label has changed: docs/slicer.md says what does not work and why.
    source = Path(sys.modules[MONAILabelException.__module__].__file__ or "").parents[1] / "transform" / "post.py"
    assert "from torchvision.utils import" in source.read_text()
