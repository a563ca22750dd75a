# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""MONAI Label's server and client, and nothing in their place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed here; `make test-label` runs these tests")

import nrrd
import requests
from helpers.nrrd_files import write_nrrd
from label.serving import Server, running_server
from monailabel.client import MONAILabelClient

from monai_dpmm_ad.bundle import write_settings
from monai_dpmm_ad.commands import infer
from monai_dpmm_ad.label.refit import exchange_folders

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # MONAI Label's client leaves its sockets to the collector
    pytest.mark.slow,
]
STUDY = "test_abnormal_001"
SCORES = ("score", "p_value", "threshold", "flagged", "num_regions")


@pytest.fixture(scope="module")
def scans(cohort: Path) -> list[Path]:
    return sorted((cohort.parent / "imagesTs").glob("*.nii.gz"))


@pytest.fixture(scope="module")
def server(bundle: Path, scans: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    broken = tmp_path_factory.mktemp("broken") / "broken.nii.gz"
    broken.write_text("hello")
    truncated = broken.with_name("truncated.nii.gz")
    truncated.write_bytes(scans[0].read_bytes()[:5000])
    with running_server(tmp_path_factory.mktemp("server"), bundle, [*scans, broken, truncated]) as running:
        yield running
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{running.url}/info/", timeout=5)
    assert running.list_leftovers() == set()  # of all requests in this file, answered and refused


@pytest.fixture
def client(server: Server, tmp_path: Path) -> MONAILabelClient:
    return MONAILabelClient(server.url, tmpdir=str(tmp_path))


def command_line(bundle: Path, studies: Path, out: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "monai_dpmm_ad", "infer", "--bundle", str(bundle), "--images"]
    command += [*map(str, sorted(studies.glob("test_*.nii.gz"))), "--out", str(out), "--no-report", *options]
    with TemporaryDirectory() as temporary:
        environment = {**os.environ, "TMPDIR": temporary}
        finished = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert [name for name in os.listdir(temporary) if not name.startswith("torchinductor")] == []  # torch's own
    assert finished.returncode == 0, finished.stderr
    return out


@pytest.fixture(scope="module")
def expected(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return command_line(server.bundle, server.studies, tmp_path_factory.mktemp("cli"))


def row_of(folder: Path, name: str) -> dict[str, str]:
    lines = (folder / "scores.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    return next(row for row in rows if row["name"] == name)


def voxels(path: str | Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_info_names_what_is_served(client: MONAILabelClient) -> None:
    info = client.info()
    assert list(info["models"]) == ["dpmm_ad_mask", "dpmm_ad_map"]
    assert info["models"]["dpmm_ad_mask"]["type"] == "segmentation"
    assert info["models"]["dpmm_ad_map"]["type"] == "others"  # 3D Slicer does not offer it as a label map
    config = info["models"]["dpmm_ad_mask"]["config"]
    assert config == {
        "rate": 0.01,
        "axes": ["auto", "axial", "coronal", "sagittal", "axial+coronal+sagittal"],
        "min_region": 0.0,
    }
    assert next(iter(info["strategies"])) == "most_anomalous"
    assert list(info["scoring"]) == ["dpmm_ad"]
    assert list(info["trainers"]) == ["dpmm_ad_update", "dpmm_ad_refit"]  # 3D Slicer's choice is the first
    assert info["trainers"]["dpmm_ad_update"]["config"] == {"max_epochs": 10, "force": False}
    assert info["trainers"]["dpmm_ad_refit"]["config"] == {"max_epochs": 10, "seed": 0, "force": False}
    assert info["labels"] == ["anomaly_level_1", "anomaly_level_2", "anomaly_level_3", "normal"]


def test_the_map_is_the_command_lines_to_the_bit(client: MONAILabelClient, server: Server, expected: Path) -> None:
    for scan in sorted(server.studies.glob("test_*.nii.gz")):
        name = scan.name.removesuffix(".nii.gz")
        path, facts = client.infer("dpmm_ad_map", name, {})
        theirs, ours = nib.load(expected / f"{name}_anomaly.nii.gz"), nib.load(path)
        assert np.array_equal(voxels(path), np.asarray(theirs.dataobj))
        assert ours.header.binaryblock == theirs.header.binaryblock
        assert np.array_equal(ours.affine, nib.load(scan).affine)
        assert ours.shape == nib.load(scan).shape
        row = row_of(expected, name)
        assert [str(facts[key]) for key in SCORES] == [row[key] for key in SCORES]
        assert facts["regions"] == json.loads((expected / "regions.json").read_text())[name]


def test_what_slicer_asks_for(client: MONAILabelClient, server: Server, expected: Path) -> None:
    path, facts = client.infer("dpmm_ad_mask", STUDY, {"result_extension": ".nrrd", "result_dtype": "uint8"})
    values, header = nrrd.read(path)
    scan = nib.load(server.studies / f"{STUDY}.nii.gz")
    assert values.dtype == np.uint8
    assert values.shape == scan.shape
    lps = np.diag([-1, -1, 1, 1]) @ scan.affine
    assert header["space"] == "left-posterior-superior"
    assert np.allclose(np.array(header["space directions"]).T, lps[:3, :3])
    assert np.allclose(header["space origin"], lps[:3, 3])
    assert np.array_equal(values > 0, voxels(expected / f"{STUDY}_mask.nii.gz") > 0)
    for level in facts["levels"]:
        assert level["num_voxels"] == (values >= level["level"]).sum()
    assert [level["p_value"] for level in facts["levels"]] == [1.0, 0.05, 0.01]
    for region in facts["regions"]:
        reached = [level["level"] for level in facts["levels"] if region["p_value"] <= level["p_value"]]
        assert values[tuple(region["peak_voxel"])] == max(reached)
    assert facts["label_names"] == {"anomaly_level_1": 1, "anomaly_level_2": 2, "anomaly_level_3": 3}
    assert facts["levels"][0]["num_voxels"] > 0  # the rarer levels may be empty on a small scan


def test_each_level_is_the_command_lines_mask_at_its_rate(
    client: MONAILabelClient, server: Server, tmp_path: Path
) -> None:
    scan = nib.load(server.studies / f"{STUDY}.nii.gz")
    values = np.asarray(scan.dataobj, np.float32)
    middle = tuple(slice(length // 2 - 4, length // 2 + 4) for length in values.shape)
    block = np.indices(values[middle].shape).sum(0) % 2
    values[middle] = block * 4 * values.max()  # no brain looks like this: all levels have voxels
    strong = tmp_path / "strong.nii.gz"
    nib.save(nib.Nifti1Image(values, scan.affine), strong)
    wanted = {"rate": 0.2, "result_extension": ".nrrd", "result_dtype": "uint8"}
    path, facts = client.infer("dpmm_ad_mask", "", wanted, file=str(strong))
    found = nrrd.read(path)[0]
    levels = facts["levels"]
    assert [level["rate"] for level in levels] == pytest.approx([0.2, 0.02, 0.002])
    thresholds = [level["threshold"] for level in levels]
    assert thresholds == sorted(set(thresholds))  # three different ones, or they would not tell the levels apart
    sizes = [level["num_voxels"] for level in levels]
    assert sizes[0] > sizes[1] > sizes[2] > 0
    assert set(np.unique(found)) == {0, 1, 2, 3}
    score_map = voxels(client.infer("dpmm_ad_map", "", {}, file=str(strong))[0])
    for level in levels:
        reached = found >= level["level"]
        assert reached.sum() == level["num_voxels"]
        assert np.array_equal(reached, score_map > np.float32(level["threshold"]))
        out = tmp_path / str(level["level"])
        infer(server.bundle, [strong], out, report=False, false_positive_rate=level["rate"])
        assert np.array_equal(reached, voxels(out / "strong_mask.nii.gz") > 0)


def test_a_request_sets_rate_axes_and_lesion_size(client: MONAILabelClient, server: Server, tmp_path: Path) -> None:
    inference = server.bundle / "configs" / "inference.json"
    options = ["--rate", "0.2", "--min-region", "2000"]
    copy = tmp_path / "bundle"
    (copy / "configs").mkdir(parents=True)
    (copy / "models").symlink_to(server.bundle / "models")
    for file in inference.parent.iterdir():
        (copy / "configs" / file.name).write_bytes(file.read_bytes())
    write_settings(copy, {"axes": ["axial", "coronal"]})
    out = command_line(copy, server.studies, tmp_path / "out", *options)
    wanted = {"rate": "0.2", "axes": "axial+coronal", "min_region": 2000}
    path, facts = client.infer("dpmm_ad_map", STUDY, wanted)
    assert np.array_equal(voxels(path), voxels(out / f"{STUDY}_anomaly.nii.gz"))
    assert facts["regions"] == json.loads((out / "regions.json").read_text())[STUDY]
    assert "not calibrated" in " ".join(facts["warnings"])
    mask, _ = client.infer("dpmm_ad_mask", STUDY, wanted)
    sizes = [lesion["num_voxels"] for lesion in facts["regions"]]
    assert (voxels(mask) > 0).sum() == sum(sizes)
    assert np.array_equal(voxels(mask) > 0, voxels(out / f"{STUDY}_mask.nii.gz") > 0)


def test_the_answer_may_be_the_image_or_the_json_alone(server: Server, expected: Path, tmp_path: Path) -> None:
    image = server.post("/infer/dpmm_ad_map", params={"image": STUDY, "output": "image"})
    (tmp_path / "map.nii.gz").write_bytes(image.content)
    assert np.array_equal(voxels(tmp_path / "map.nii.gz"), voxels(expected / f"{STUDY}_anomaly.nii.gz"))
    facts = server.post("/infer/dpmm_ad_mask", params={"image": STUDY, "output": "json"}).json()
    assert str(facts["score"]) == row_of(expected, STUDY)["score"]


def test_an_uploaded_scan_is_processed(client: MONAILabelClient, server: Server, expected: Path) -> None:
    path, _ = client.infer("dpmm_ad_map", "", {}, file=str(server.studies / f"{STUDY}.nii.gz"))
    assert np.array_equal(voxels(path), voxels(expected / f"{STUDY}_anomaly.nii.gz"))


def test_eight_requests_at_once_are_eight_in_turn(server: Server, scans: list[Path]) -> None:
    names = [scan.name.removesuffix(".nii.gz") for scan in scans]
    wanted = [("dpmm_ad_mask", {"rate": 0.2, "axes": "coronal"}), ("dpmm_ad_map", {"rate": 0.05, "min_region": 500})]
    jobs = [(name, model, parameters) for name in names for model, parameters in wanted]
    assert len(jobs) == 8

    def ask(job: tuple[str, str, dict[str, Any]]) -> tuple[bytes, dict[str, Any]]:
        name, model, parameters = job
        data = {"params": json.dumps({**parameters, "result_extension": ".nii"})}
        image = server.post(f"/infer/{model}", params={"image": name, "output": "image"}, data=data)
        facts = server.post(f"/infer/{model}", params={"image": name, "output": "json"}, data=data).json()
        facts.pop("latencies")
        assert image.status_code == 200
        assert facts["rate"] == parameters["rate"]  # each has its own, whoever asks beside it
        return image.content, facts

    in_turn = [ask(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, jobs)) == in_turn


BAD = {
    "unknown study": ({"image": "test_abnormal_01"}, {}, 404, f"Did you mean '{STUDY}'"),
    "unreadable file": ({"image": "broken"}, {}, 422, "broken.nii.gz: cannot be read; it may be damaged"),
    "rate": ({"image": STUDY}, {"rate": 7}, 400, "`rate` must lie in"),
    "rate of nothing": ({"image": STUDY}, {"rate": 0}, 400, "`rate` must lie in (0, 1), got 0"),
    "rate of everything": ({"image": STUDY}, {"rate": 1}, 400, "`rate` must lie in (0, 1), got 1"),
    "axes": ({"image": STUDY}, {"axes": "axal"}, 400, "Did you mean 'axial'"),
    "axis": ({"image": STUDY}, {"axes": "axial+diagonal"}, 400, "must be one of auto, axial, coronal, sagittal"),
    "negative lesion size": ({"image": STUDY}, {"min_region": -1}, 400, "`min_region` must be at least 0"),
    "study that is no name": ({"image": STUDY}, {"image": 5}, 400, "`image` must be given in the address"),
    "truncated file": ({"image": "truncated"}, {}, 422, "truncated.nii.gz: is truncated or damaged"),
    "DICOM of files": ({"image": STUDY, "output": "dicom_seg"}, {}, 400, "must be image, json or all"),
    "lesion size": ({"image": STUDY}, {"min_region": "big"}, 400, "`min_region` must be a number"),
    "parameter's name": ({"image": STUDY}, {"rates": 0.1}, 400, "Did you mean 'rate'"),
    "extension": ({"image": STUDY}, {"result_extension": ".nrd"}, 400, "Did you mean '.nrrd'"),
    "map as integers": ({"image": STUDY}, {"result_dtype": "uint8"}, 400, "choose dpmm_ad_mask"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_request_gets_a_reason_and_the_server_lives_on(kind: str, server: Server) -> None:
    query, parameters, status, message = BAD[kind]
    answer = server.post("/infer/dpmm_ad_map", params=query, data={"params": json.dumps(parameters)})
    assert answer.status_code == status
    assert message in answer.json()["detail"]
    assert requests.get(f"{server.url}/info/", timeout=60).ok


@pytest.mark.parametrize(
    "path",
    [
        f"/infer/dpmm_ad_mas?image={STUDY}",
        "/activelearning/most_anomalos",
        "/scoring/dpmm?run_sync=true",
        "/train/dpmm_ad_refi?run_sync=true",
        "/batch/infer/dpmm_ad_mas?run_sync=true",
    ],
)
def test_an_unknown_task_gets_404(path: str, server: Server) -> None:
    answer = server.post(path)
    assert answer.status_code == 404
    assert "Did you mean" in answer.json()["detail"]


@pytest.mark.parametrize("text", ["{bad", "[1]", "5", "null", '"rate"', "x" * 1000])
def test_parameters_that_are_no_json_object_get_a_reason(text: str, server: Server) -> None:
    scan = (server.studies / f"{STUDY}.nii.gz").read_bytes()
    answers = [
        server.post("/infer/dpmm_ad_map", params={"image": STUDY}, data={"params": text}),
        server.post("/infer/dpmm_ad_map", data={"params": text}, files={"file": ("a.nii.gz", scan)}),
        requests.put(
            f"{server.url}/datastore/label",
            params={"image": STUDY},
            data={"params": text},
            files={"label": ("a.nii.gz", scan)},
            timeout=60,
        ),
        requests.put(f"{server.url}/datastore/image/info", params={"image": STUDY}, data={"info": text}, timeout=60),
    ]
    for answer in answers:
        assert answer.status_code == 400
        assert "must be" in answer.json()["detail"]
        assert len(answer.json()["detail"]) < 250
    assert requests.get(f"{server.url}/info/", timeout=60).ok


@pytest.mark.parametrize(("content", "message"), [(b"hello", "may be damaged"), (None, "is truncated or damaged")])
def test_an_uploaded_scan_that_is_refused_is_deleted(content: bytes | None, message: str, server: Server) -> None:
    content = content or (server.studies / "truncated.nii.gz").read_bytes()
    before = server.list_leftovers()
    answer = server.post("/infer/dpmm_ad_map", files={"file": ("a.nii.gz", content)})
    assert (answer.status_code, message in answer.json()["detail"]) == (422, True)
    assert server.list_leftovers() <= before


def test_a_label_of_an_unknown_study_gets_404(server: Server) -> None:
    scan = (server.studies / f"{STUDY}.nii.gz").read_bytes()
    answer = requests.put(
        f"{server.url}/datastore/label", params={"image": "nobody"}, files={"label": ("a.nii.gz", scan)}, timeout=60
    )
    assert (answer.status_code, answer.json()["detail"]) == (404, "Image nobody not found")


def test_a_batch_goes_on_after_a_scan_that_cannot_be_read(server: Server, scans: list[Path], expected: Path) -> None:
    answer = server.post("/batch/infer/dpmm_ad_mask?run_sync=true", json={"rate": 0.01})
    found = answer.json()
    assert answer.status_code == 200
    assert "may be damaged" in found.pop("broken")["error"]
    assert "is truncated" in found.pop("truncated")["error"]
    assert sorted(found) == [scan.name.removesuffix(".nii.gz") for scan in scans]
    for name in found:
        label = server.studies / "labels" / "original" / f"{name}.nii.gz"
        assert np.array_equal(voxels(label) > 0, voxels(expected / f"{name}_mask.nii.gz") > 0)


def test_next_sample_is_the_most_suspicious_study(client: MONAILabelClient, server: Server, expected: Path) -> None:
    names = [path.name.removesuffix("_anomaly.nii.gz") for path in expected.glob("*_anomaly.nii.gz")]
    by_score = sorted(names, key=lambda name: -float(row_of(expected, name)["score"]))
    lazy = client.next_sample("most_anomalous", {"max_new_scores": 2})
    assert lazy["unscored"] == 4  # two were scored for this answer: broken and one more
    summary = server.post("/scoring/dpmm_ad?run_sync=true").json()
    assert summary == {"total": 6, "skipped": 2, "executed": 4, "failed": 1}
    sample = client.next_sample("most_anomalous", {})
    assert sample["id"] == by_score[0]
    assert str(sample["score"]) == row_of(expected, by_score[0])["score"]
    assert sample["unscored"] == 0
    assert sample["path"] == str(server.studies / f"{by_score[0]}.nii.gz")
    # Scores are in the datastore, with the reason in the place of a score that could not be computed.
    objects = json.loads((server.studies / "datastore_v2.json").read_text())["objects"]
    assert objects[by_score[0]]["image"]["info"]["dpmm_ad"]["score"] == sample["score"]
    assert "may be damaged" in objects["broken"]["image"]["info"]["dpmm_ad"]["error"]
    assert server.post("/scoring/dpmm_ad?run_sync=true").json()["executed"] == 0
    # A study that a reader has labelled is not handed out again.
    label = voxels(expected / f"{by_score[0]}_mask.nii.gz")
    submit(client, server, by_score[0], label, [{"name": "anomaly_level_1", "idx": 1}])
    assert client.next_sample("most_anomalous", {})["id"] == by_score[1]
    wrong = server.post("/activelearning/most_anomalous", json={"max_new_scores": "all"})
    assert (wrong.status_code, "must be a number" in wrong.json()["detail"]) == (400, True)


def submit(client: MONAILabelClient, server: Server, name: str, values: np.ndarray, segments: list[Any]) -> None:
    path = Path(client._tmpdir) / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(values.astype(np.uint8), nib.load(server.studies / path.name).affine), path)
    client.save_label(name, str(path), params={"label_info": segments})


def train(client: MONAILabelClient, parameters: dict[str, Any]) -> dict[str, Any]:
    client.train_start("dpmm_ad_update", parameters)
    for _ in range(600):
        status = client.train_status(check_if_running=False)
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            return status
        time.sleep(0.5)
    raise TimeoutError(status)


def answer_of(status: dict[str, Any]) -> dict[str, Any]:
    """What a training in the background answered: a line of its output."""
    [line] = [line for line in status["details"] if "Result: " in line]
    return json.loads(line.split("Result: ", 1)[1])


def test_training_learns_what_is_normal_and_is_tested_on_what_is_not(
    client: MONAILabelClient, server: Server, cohort: Path, expected: Path, tmp_path: Path
) -> None:
    before = server.post("/infer/dpmm_ad_mask", params={"image": STUDY, "output": "json"}).json()
    shape = nib.load(server.studies / f"{STUDY}.nii.gz").shape
    refused = server.post("/train/dpmm_ad_update?run_sync=true")
    assert (refused.status_code, "marked as normal, got none" in refused.json()["detail"]) == (400, True)
    submit(client, server, "test_healthy_000", np.zeros(shape), [{"name": "anomaly_level_1", "idx": 1}])
    drawn = np.zeros(shape)
    drawn[3:5, 4, 2] = 4
    submit(
        client, server, "test_healthy_001", drawn, [{"name": "anomaly_level_1", "idx": 1}, {"name": "normal", "idx": 4}]
    )
    truth = voxels(cohort.parent / "labelsTs" / f"{STUDY}.nii.gz") > 0
    submit(client, server, STUDY, truth, [{"name": "anomaly_level_1", "idx": 1}])
    # Two scans do not take the place of five, unless somebody insists.
    refused = server.post("/train/dpmm_ad_refit?run_sync=true")
    assert (refused.status_code, "in the place of the 5" in refused.json()["detail"]) == (400, True)
    status = train(client, {"max_epochs": 1})
    assert status["status"] == "DONE", "\n".join(status["details"])
    answer = answer_of(status)
    assert answer["studies"] == ["test_healthy_000", "test_healthy_001"]
    assert answer["fitted"]["before"] == 3
    assert answer["fitted"]["after"] + answer["calibration"]["scans_after"] == 7
    assert answer["calibration"]["scans_before"] == 2 <= answer["calibration"]["scans_after"]
    assert answer["calibration"]["held_out"] is True
    found = answer["sensitivity"]
    abnormal = sorted({STUDY, *found["studies"]})  # another test may have marked one
    assert found["studies"] == abnormal
    assert found["share"] == found["found"] / found["marked"]
    after = server.post("/infer/dpmm_ad_mask", params={"image": STUDY, "output": "json"}).json()
    assert after["bundle"] != before["bundle"]  # taken up without a restart
    path, _ = client.infer("dpmm_ad_map", STUDY, {})
    fresh = command_line(server.bundle, server.studies, tmp_path / "fresh")
    assert np.array_equal(voxels(path), voxels(fresh / f"{STUDY}_anomaly.nii.gz"))
    assert not np.array_equal(voxels(path), voxels(expected / f"{STUDY}_anomaly.nii.gz"))
    [previous] = server.bundle.parent.glob("bundle-until-*")
    exchange_folders(previous, server.bundle)  # as the guide says: the kept bundle can be brought back
    again = server.post("/infer/dpmm_ad_mask", params={"image": STUDY, "output": "json"}).json()
    assert {**again, "latencies": 0} == {**before, "latencies": 0}
    for name, wrong in (("max_epoch", 3), ("force", "maybe"), ("max_epochs", -1)):
        assert server.post("/train/dpmm_ad_update?run_sync=true", json={name: wrong}).status_code == 400


def test_an_nrrd_study_is_the_nifti_of_the_same_voxels(
    client: MONAILabelClient, server: Server, expected: Path, tmp_path: Path
) -> None:
    image = nib.load(server.studies / f"{STUDY}.nii.gz")
    write_nrrd(tmp_path / "as_nrrd.nrrd", np.asarray(image.dataobj, np.float32), image.affine)
    client.upload_image(str(tmp_path / "as_nrrd.nrrd"), "as_nrrd")
    wanted, _ = client.infer("dpmm_ad_map", STUDY, {})
    path, facts = client.infer("dpmm_ad_map", "as_nrrd", {})
    values, header = nrrd.read(path)  # an NRRD in, an NRRD out
    assert np.allclose(values, voxels(wanted), rtol=1e-5, atol=1e-5)
    lps = np.diag([-1, -1, 1, 1]) @ image.affine
    assert np.allclose(np.array(header["space directions"]).T, lps[:3, :3])
    mask, _ = client.infer("dpmm_ad_mask", "as_nrrd", {"result_extension": ".nrrd", "result_dtype": "uint8"})
    client.save_label("as_nrrd", mask, params={"label_info": [{"name": "anomaly_level_1", "idx": 1}]})
    label = client.download_label("as_nrrd", "final")
    assert np.array_equal(nrrd.read(label)[0], nrrd.read(mask)[0])
    assert client.next_sample("most_anomalous", {}).get("id") != "as_nrrd"
    assert facts["flagged_unit"] == "mL"
