# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The bundle as an object, for a notebook or a pipeline."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import FAST
from monai.data import MetaTensor
from monai.transforms import LoadImage

from monai_dpmm_ad import AnomalyModel, AnomalyResult, infer
from monai_dpmm_ad.bundle.integrity import describe_digest
from monai_dpmm_ad.commands.cli import main
from monai_dpmm_ad.errors import CheckpointError, ScanError

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


@pytest.fixture(scope="module")
def model(bundle: Path) -> AnomalyModel:
    return AnomalyModel.load(bundle)


@pytest.fixture(scope="module")
def scan(cohort: Path) -> Path:
    return cohort.parent / "imagesTs" / "test_abnormal_001.nii.gz"


@pytest.fixture(scope="module")
def expected(bundle: Path, scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("expected")
    assert not infer(bundle, [scan], out, report=False).failures
    return out


def voxels(folder: Path, kind: str) -> np.ndarray:
    return np.asarray(nib.load(folder / f"test_abnormal_001_{kind}.nii.gz").dataobj)


def assert_same(result: AnomalyResult, expected: Path) -> None:
    assert np.array_equal(result.map, voxels(expected, "anomaly"))
    assert np.array_equal(result.mask, voxels(expected, "mask") > 0)
    assert np.array_equal(result.percentile, voxels(expected, "percentile"))
    (regions,) = json.loads((expected / "regions.json").read_text()).values()
    assert [region.num_voxels for region in result.regions] == [region["num_voxels"] for region in regions]
    centres = [region.centroid for region in result.regions]
    assert np.allclose(centres, [region["centroid"] for region in regions], rtol=0, atol=1e-4)
    line = dict(zip(*[line.split(",") for line in (expected / "scores.csv").read_text().splitlines()], strict=True))
    assert (result.score, result.p_value) == (float(line["score"]), float(line["p_value"]))


def test_in_six_lines(bundle: Path, scan: Path, expected: Path) -> None:
    import monai_dpmm_ad

    model = monai_dpmm_ad.AnomalyModel.load(bundle)
    image = nib.load(scan)
    assert_same(model.predict(scan), expected)
    assert_same(model.predict(image.get_fdata(), image.affine), expected)


def as_tensor(scan: Path) -> MetaTensor:
    return LoadImage(image_only=True, ensure_channel_first=True)(scan)


def in_lps(scan: Path) -> MetaTensor:
    """As ITK's readers give it with ``affine_lps_to_ras=False``."""
    image = as_tensor(scan)
    affine = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=image.affine.dtype)) @ image.affine
    return MetaTensor(image.as_tensor(), affine=affine, meta={"space": "LPS"})


@pytest.mark.parametrize(
    "make",
    [str, nib.load, as_tensor, lambda scan: as_tensor(scan)[0], in_lps],
    ids=["text", "nibabel", "MetaTensor", "no channel", "LPS"],
)
def test_whatever_holds_a_scan_gives_the_same(model: AnomalyModel, scan: Path, expected: Path, make: Any) -> None:
    result = model.predict(make(scan))
    assert_same(result, expected)
    assert np.allclose(result.affine, nib.load(scan).affine, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.uint16], ids=str)
def test_a_tensor_may_have_a_type_that_numpy_has_not(model: AnomalyModel, scan: Path, dtype: torch.dtype) -> None:
    image = as_tensor(scan)
    rounded = MetaTensor((image.as_tensor() / image.max() * 100).to(dtype), affine=image.affine)
    assert np.array_equal(model.predict(rounded).map, model.predict(rounded.float()).map)
    as_it_is = model.predict(rounded.as_tensor(), image.affine.bfloat16())
    assert np.array_equal(as_it_is.map, model.predict(rounded.float()).map)


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_model_goes_to_another_process_by_its_folder(bundle: Path, scan: Path, expected: Path, again: Any) -> None:
    model = AnomalyModel.load(bundle, false_regions=0.5, device="cpu")
    other = again(model)
    assert other.network is not model.network
    assert (other.root, other.settings) == (model.root, model.settings)
    assert np.array_equal(other.predict(scan).map, voxels(expected, "anomaly"))


@pytest.fixture
def another_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.usefixtures("expected", "another_default")
def test_the_process_may_have_defaults_of_its_own(
    bundle: Path, model: AnomalyModel, scan: Path, expected: Path, cohort: Path, tiny_vit: Path
) -> None:
    assert_same(model.predict(scan), expected)
    assert_same(AnomalyModel.load(bundle).predict(scan), expected)
    assert model.compare(scan, scan).regions == []
    fitted = AnomalyModel.fit(str(cohort), embedder_name=str(tiny_vit), **FAST)
    types, usual = ({key: value.dtype for key, value in one.network.state_dict().items()} for one in (fitted, model))
    assert types == usual
    assert (torch.get_default_dtype(), torch.get_default_device().type) == (torch.float64, "meta")


def test_threads_wait_for_each_other(bundle: Path, model: AnomalyModel, scan: Path, expected: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(model.predict, scan) for _ in range(4)]
        others = [pool.submit(AnomalyModel.load, bundle) for _ in range(2)]
        assert all(np.array_equal(result.result().map, voxels(expected, "anomaly")) for result in results)
        assert {other.result().digest for other in others} == {model.digest}


def test_a_healthy_twin_on_request(bundle: Path, model: AnomalyModel, scan: Path, tmp_path: Path) -> None:
    assert model.predict(scan).healthy is None
    twin = model.predict(scan, healthy_twin=True).healthy
    assert (
        main(["infer", "--bundle", str(bundle), "--images", str(scan), "--out", str(tmp_path), "--healthy-twin"]) == 0
    )
    (path,) = tmp_path.glob("*_healthy.nii.gz")
    image, shown = nib.load(path), np.asarray(nib.load(scan).dataobj, dtype=np.float32)
    assert twin is not None
    np.testing.assert_array_equal(np.asarray(image.dataobj), twin)
    np.testing.assert_allclose(image.affine, nib.load(scan).affine)
    inside = (model.predict(scan).map > 0) & (twin != 0)
    assert np.median(twin[inside]) == pytest.approx(np.median(shown[inside]), rel=0.3), "in the scan's own units"
    assert np.corrcoef(twin[inside], shown[inside])[0, 1] > 0.3, "and where it lies"
    assert "average of healthy scans" in (tmp_path / "report.html").read_text()


def test_a_bundle_that_knows_no_places_has_no_healthy_twin(
    picture_bundle: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["infer", "--bundle", picture_bundle, "--images", picture_bundle.parent, "--out", tmp_path]
    assert main([*map(str, command), "--healthy-twin"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: `healthy_twin` must be off for a bundle that does not judge by place, got True.")


def test_a_nibabel_image_is_what_its_file_is(model: AnomalyModel, scan: Path, expected: Path, tmp_path: Path) -> None:
    image = nib.load(scan)
    values = np.asarray(image.dataobj)
    assert_same(model.predict(nib.Nifti1Image(values[..., None], image.affine)), expected)
    sagittal = image.slicer[20:21]
    nib.save(sagittal, tmp_path / "sagittal.nii.gz")
    assert np.array_equal(model.predict(sagittal).map, model.predict(tmp_path / "sagittal.nii.gz").map)


def test_a_flat_image_is_a_slice(model: AnomalyModel, scan: Path) -> None:
    image = nib.load(scan)
    flat = np.asarray(image.dataobj)[:, :, 4]
    assert model.predict(flat, image.affine).map.shape == flat.shape


def test_a_scan_changes_nothing_for_the_next(model: AnomalyModel, scan: Path, expected: Path) -> None:
    path, network = sys.path[:], model.network
    strict = model.predict(scan, false_positive_rate=0.2, axes=["coronal"])
    assert strict.mask.sum() > 0
    assert not np.array_equal(strict.map, voxels(expected, "anomaly"))
    assert_same(model.predict(scan), expected)
    assert model.network is network
    assert sys.path == path


def test_a_setting_of_the_network_is_the_loaded_models(
    model: AnomalyModel, bundle: Path, scan: Path, expected: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_same(model.predict(scan, image_size=56, upsampling="guided"), expected)
    with pytest.raises(ValueError, match="`image_size` must be that of the loaded model, 56, got 112"):
        model.predict(scan, image_size=112)
    with pytest.raises(ValueError, match="`num_components` must be that of the loaded model, 8, got 9"):
        model.predict(nib.load(scan), num_components=9)
    assert not caplog.records
    other = AnomalyModel.load(bundle, upsampling="bilinear")
    told = "calibrated with `upsampling` guided, not bilinear: its thresholds and p-values do not hold"
    assert told in caplog.text
    outcome = infer(bundle, [scan], tmp_path, report=False, upsampling="bilinear")
    assert told in str(outcome.note)
    assert np.array_equal(other.predict(scan, upsampling="bilinear").map, voxels(tmp_path, "anomaly"))


def test_another_path_is_no_override(model: AnomalyModel, scan: Path) -> None:
    with pytest.raises(TypeError, match="dataset_dir"):
        model.predict(scan, dataset_dir=str(scan.with_name("test_abnormal_000.nii.gz")))


def test_what_is_no_scan_is_said(model: AnomalyModel, scan: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_text("hello")
    values = np.asarray(nib.load(scan).dataobj).astype(np.float32)
    values[tuple(size // 2 for size in values.shape)] = np.nan
    for image, affine, error, message in [
        (tmp_path / "bad.nii.gz", None, ScanError, "bad.nii.gz: cannot be read; it may be damaged"),
        (tmp_path / "none.nii.gz", None, ScanError, "no such file"),
        (scan.parent, None, ScanError, "holds 4 scans; name one"),
        (values, np.eye(4), ScanError, "the image in memory: .*NaN"),
        (values, None, ValueError, "`affine` must be given with an array"),
        (values, np.eye(3), ValueError, r"`affine` must have shape \(4, 4\)"),
        (values, np.eye(4) + np.eye(4, k=-1), ValueError, "must end with the row 0 0 0 1, got .* Is it transposed"),
        (values, np.diag([1.0, 0, 1, 1]), ValueError, "`affine` must be finite and invertible, got"),
        (values, np.diag([1.0, np.nan, 1, 1]), ValueError, "`affine` must be finite and invertible, got"),
        ("", None, ValueError, "`image` must name a file or a folder, got ''"),
        (np.zeros((2, 3, 4, 5)), np.eye(4), ValueError, r"must have shape \(X, Y, Z\) or \(X, Y\)"),
        (np.array(["a"]), np.eye(4), TypeError, "an array of numbers, got ndarray"),
        (None, np.eye(4), TypeError, "an array of numbers, got NoneType"),
        (values + 1j, np.eye(4), TypeError, "an array of numbers, got ndarray of complex64"),
        (
            torch.zeros(4, 4, 4, device="meta"),
            np.eye(4),
            TypeError,
            "must be a dense tensor with values, got one of no",
        ),
        (torch.zeros(4, 4, 4).to_sparse(), np.eye(4), TypeError, "got one of torch.float32 and torch.sparse_coo"),
        (values, np.eye(4) + 0j, ValueError, "`affine` must hold real numbers, got complex128"),
        (values, "eye", ValueError, "`affine` must hold real numbers, got <U3"),
    ]:
        with pytest.raises(error, match=message):
            model.predict(image, affine)
    with pytest.raises(ScanError, match=r"^the image in memory: is no volume; visits are compared in space"):
        model.compare(nib.load(scan).slicer[:, :, 4:5], nib.load(scan))
    with pytest.raises(ValueError, match="`false_positive_rate` must lie in"):
        model.predict(scan, false_positive_rate=2.0)
    with pytest.raises(ValueError, match="`device` must be one that this machine has, got 'gpu'"):
        model.predict(scan, device="gpu")
    with pytest.raises(ValueError, match="`save_maps` must be off to have `percentile` in memory, got on"):
        _ = model.predict(scan, save_maps=True).percentile
    with pytest.raises(ValueError, match="Did you mean `false_positive_rate`"):
        model.predict(scan, false_positive_rat=0.1)


def test_it_is_quiet(bundle: Path, scan: Path, cohort: Path, tiny_vit: Path) -> None:
    options = {**FAST, "embedder_name": str(tiny_vit)}
    code = "import sys, monai_dpmm_ad; monai_dpmm_ad.AnomalyModel.load(sys.argv[1]).predict(sys.argv[2]); "
    code += f"monai_dpmm_ad.AnomalyModel.fit(sys.argv[3:], **{options!r})"
    scans = sorted(map(str, (cohort.parent / "imagesTr").glob("*.nii.gz")))
    command = [sys.executable, "-W", "ignore", "-c", code, str(bundle), str(scan), *scans]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def test_fit_and_save(cohort: Path, tiny_vit: Path, scan: Path, tmp_path: Path) -> None:
    folder = cohort.parent
    images = [nib.load(path) for path in sorted((folder / "imagesTr").glob("*.nii.gz"))]
    held_out = sorted((folder / "imagesVal").glob("*.nii.gz"))
    model = AnomalyModel.fit(images, held_out, embedder_name=str(tiny_vit), **FAST)
    assert model.outcome is not None
    assert not model.outcome.failures
    assert (model.outcome.metrics["num_fitted"], model.outcome.metrics["num_held_out"]) == (3, 2)
    assert "calibrated on 2" in str(model.outcome.note)
    before, where = model.predict(scan), model.root
    with pytest.raises(TypeError, match="lives in this process alone"):
        pickle.dumps(model)
    assert model.save(tmp_path / "my" / "bundle") == tmp_path / "my" / "bundle"
    with pytest.raises(CheckpointError, match="is there already"):
        model.save(tmp_path / "my")
    with pytest.raises(CheckpointError, match="lies inside the bundle that is copied"):
        model.save(where / "copy")
    assert len(repr(before)) < 2000
    del model
    gc.collect()
    assert not where.exists()
    assert np.array_equal(AnomalyModel.load(tmp_path / "my" / "bundle").predict(scan).map, before.map)
    assert [path.name for path in (tmp_path / "my").iterdir()] == ["bundle"]


def test_a_bundle_without_calibration_is_refused(bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    state = torch.load(copy / "models" / "model.pt", weights_only=True)
    state["calibration.num_scans"].zero_()
    torch.save(state, copy / "models" / "model.pt")
    metadata = copy / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({**content, "fitted": {**content["fitted"], **describe_digest(state)}}))
    with pytest.raises(CheckpointError, match="has no calibration"):
        AnomalyModel.load(copy)


def test_a_single_slice_among_volumes_is_outside(cohort: Path, bundle: Path, tmp_path: Path) -> None:
    image = nib.load(cohort.parent / "imagesTs" / "test_healthy_000.nii.gz")
    nib.save(image.slicer[:, :, 4:5], tmp_path / "slice.nii.gz")
    result = AnomalyModel.load(bundle).predict(tmp_path / "slice.nii.gz")
    assert result.row.frame == "none"
    assert result.row.in_range is False
    assert "single slice, which has no place" in str(result.row.warning)
    assert result.p_value is None
