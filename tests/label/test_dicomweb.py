# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The label server on a real DICOM server: ranking, inference, Segmentations, labels, training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed here; `make test-label` runs these tests")

import pydicom
import requests
from helpers.dicom_series import write_series
from label.orthanc import is_installed, running_orthanc
from label.serving import Server, running_server
from monailabel.client import MONAILabelClient
from monailabel.config import settings

from monai_dpmm_ad.label.dicom import open_dicom_studies
from monai_dpmm_ad.label.labels import list_read_studies
from monai_dpmm_ad.transforms import LoadScan

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.slow,
    pytest.mark.orthanc,
    pytest.mark.skipif(not is_installed(), reason="Orthanc with DICOMweb is absent; `make test-label` installs it"),
]
NAMES = ("test_abnormal_000", "test_abnormal_001", "test_healthy_000", "test_healthy_001")


@pytest.fixture(scope="module")
def archive(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str], Path]]:
    """Address of the DICOM server; identifier of the series by name; folder of the series' files."""
    folder = tmp_path_factory.mktemp("archive")
    with running_orthanc(folder / "orthanc") as url:
        series = {}
        for number, name in enumerate((*NAMES, "ct")):
            image = nib.as_closest_canonical(nib.load(cohort.parent / "imagesTs" / f"{NAMES[number % 4]}.nii.gz"))
            volume = np.asarray(image.dataobj, np.float64)
            kind = "CT" if name == "ct" else "MR"
            volume = np.round(1000 * volume / volume.max()) - (1000 if kind == "CT" else 0)
            files = write_series(folder / name, volume, image.affine, kind, seed=number)
            series[name] = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
            for file in files:
                assert requests.post(f"{url}/instances", data=file.read_bytes(), timeout=60).ok
        yield url, series, folder


def environment_of(folder: Path) -> dict[str, str]:
    return {
        "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": json.dumps({"Modality": "MR"}),
        "MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache"),
    }


@pytest.fixture(scope="module")
def server(bundle: Path, archive: tuple[str, Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("dicomweb")
    with running_server(folder, bundle, [], url=f"{archive[0]}/dicom-web", **environment_of(folder)) as running:
        yield running
        assert running.list_leftovers() == set()


def find_segmentations(url: str) -> list[Any]:
    """Every Segmentation on the DICOM server."""
    query = {"Level": "Instance", "Query": {"Modality": "SEG"}}
    found = requests.post(f"{url}/tools/find", json=query, timeout=60).json()
    files = [requests.get(f"{url}/instances/{key}/file", timeout=60).content for key in found]
    return [pydicom.dcmread(BytesIO(file)) for file in files]


def referenced(dataset: Any) -> str:
    return str(dataset.ReferencedSeriesSequence[0].SeriesInstanceUID)


def test_only_series_of_the_modality_are_listed_and_ranked(
    server: Server, archive: tuple[str, dict[str, str], Path], tmp_path: Path
) -> None:
    _, series, _ = archive
    summary = server.post("/scoring/dpmm_ad?run_sync=true").json()
    assert summary == {"total": 4, "skipped": 0, "executed": 4, "failed": 0}  # the CT is filtered out
    first = MONAILabelClient(server.url, tmpdir=str(tmp_path)).next_sample("most_anomalous", {})
    scores = {
        name: server.post("/infer/dpmm_ad_map", params={"image": series[name], "output": "json"}).json()["score"]
        for name in NAMES
    }
    assert first["id"] == series[max(scores, key=lambda name: scores[name])]
    assert first["score"] == max(scores.values())
    assert Path(first["path"]).is_file()  # 3D Slicer loads it


def test_a_series_gets_the_command_lines_map(
    server: Server, archive: tuple[str, dict[str, str], Path], tmp_path: Path
) -> None:
    from monai_dpmm_ad.commands import infer

    _, series, folder = archive
    infer(server.bundle, [folder / NAMES[1]], tmp_path / "out", report=False)
    [expected] = (tmp_path / "out").glob("*_anomaly.nii.gz")
    path, _ = MONAILabelClient(server.url, tmpdir=str(tmp_path)).infer("dpmm_ad_map", series[NAMES[1]], {})
    theirs, ours = (LoadScan().read(str(file), is_label=True) for file in (expected, path))
    index = np.linalg.inv(ours.affine.numpy()) @ theirs.affine.numpy()
    axes = [slice(None, None, round(index[n, n])) for n in range(3)]
    assert np.allclose(ours[0].numpy()[tuple(axes)], theirs[0].numpy(), rtol=1e-4, atol=1e-4)


def test_levels_come_as_a_segmentation_and_a_map_does_not(
    server: Server, archive: tuple[str, dict[str, str], Path], tmp_path: Path
) -> None:
    _, series, _ = archive
    query = {"image": series[NAMES[1]], "output": "dicom_seg"}
    rate = {"params": json.dumps({"rate": 0.2})}
    answer = server.post("/infer/dpmm_ad_mask", params=query, data=rate)
    assert answer.status_code == 200, answer.text
    found = pydicom.dcmread(BytesIO(answer.content))
    assert (found.Modality, referenced(found)) == ("SEG", series[NAMES[1]])
    names = [str(segment.SegmentLabel) for segment in found.SegmentSequence]
    assert names == [name for name in ("anomaly_level_1", "anomaly_level_2", "anomaly_level_3") if name in names]
    path, _ = MONAILabelClient(server.url, tmpdir=str(tmp_path)).infer("dpmm_ad_mask", series[NAMES[1]], {"rate": 0.2})
    assert int(found.pixel_array.sum()) == int((np.asarray(nib.load(path).dataobj) > 0).sum()) > 0
    refused = server.post("/infer/dpmm_ad_map", params=query)
    assert (refused.status_code, "a map has no levels" in refused.json()["detail"]) == (400, True)


def test_labels_go_to_the_archive_and_train(
    server: Server, archive: tuple[str, dict[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, series, _ = archive
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    segments = [{"name": "anomaly_level_1", "idx": 1}, {"name": "normal", "idx": 4}]
    drawn, _ = client.infer("dpmm_ad_mask", series[NAMES[1]], {"rate": 0.2})
    mask = nib.load(drawn)
    values = (np.asarray(mask.dataobj) > 0).astype(np.uint8)
    for name, label in ((NAMES[1], values), (NAMES[2], np.zeros_like(values)), (NAMES[3], np.zeros_like(values))):
        shape = LoadScan().read(str(archive[2] / name), is_label=False).shape[1:]
        affine = nib.load(client_image(server, series[name], tmp_path)).affine
        label = label if label.any() else np.zeros(shape, np.uint8)  # empty: all is well, 500 in MONAI Label
        if name == NAMES[3]:
            label[2:4, 3, 2] = 4
        nib.save(nib.Nifti1Image(label, affine), tmp_path / f"{name}.nii.gz")
        client.save_label(series[name], str(tmp_path / f"{name}.nii.gz"), params={"label_info": segments})
    stored = {referenced(found): found for found in find_segmentations(url)}
    assert sorted(stored) == sorted(series[name] for name in NAMES[1:])
    sums = {name: int(stored[series[name]].pixel_array.sum()) for name in NAMES[1:]}
    assert sums == {NAMES[1]: int(values.sum()), NAMES[2]: 0, NAMES[3]: 2}
    labels = {name: [str(s.SegmentLabel) for s in stored[series[name]].SegmentSequence] for name in NAMES[1:]}
    assert labels == {NAMES[1]: ["anomaly_level_1"], NAMES[2]: ["normal"], NAMES[3]: ["normal"]}
    assert client.next_sample("most_anomalous", {})["id"] == series[NAMES[0]]  # the only one without a label
    answer = server.post("/train/dpmm_ad_update?run_sync=true", json={"max_epochs": 1})
    assert answer.status_code == 200, answer.text
    assert answer.json()["studies"] == sorted([series[NAMES[2]], series[NAMES[3]]])
    assert answer.json()["sensitivity"]["studies"] == [series[NAMES[1]]]
    # Another server, whose cache is empty, finds the same in the archive.
    for name, value in {"CACHE_PATH": str(tmp_path / "cache"), "SEARCH_FILTER": {"Modality": "MR"}}.items():
        monkeypatch.setattr(settings, f"MONAI_LABEL_DICOMWEB_{name}", value)
    studies = list_read_studies(open_dicom_studies(f"{url}/dicom-web"))
    assert {study.name: int(study.marked.sum()) for study in studies} == {
        series[NAMES[1]]: int(values.sum()),
        series[NAMES[2]]: 0,
        series[NAMES[3]]: 0,
    }


def client_image(server: Server, image: str, folder: Path) -> Path:
    """The study as 3D Slicer gets it."""
    answer = requests.get(f"{server.url}/datastore/image", params={"image": image}, timeout=60)
    path = folder / f"{image}.nii.gz"
    path.write_bytes(answer.content)
    return path


def test_what_is_the_archives_is_not_changed_here(server: Server, archive: tuple[str, dict[str, str], Path]) -> None:
    _, _, folder = archive
    file = {"file": ("a.nii.gz", b"x")}
    refused = requests.put(f"{server.url}/datastore/image", params={"image": "new"}, files=file, timeout=60)
    assert (refused.status_code, "DICOM server" in refused.json()["detail"]) == (400, True)
    for image in ("1.2.3.4", "../../../etc"):
        assert server.post("/infer/dpmm_ad_map", params={"image": image}).status_code in (400, 404)
        label = {"label": ("a.nii.gz", (folder / NAMES[0] / "IM000").read_bytes())}
        answer = requests.put(f"{server.url}/datastore/label", params={"image": image}, files=label, timeout=60)
        assert answer.status_code in (400, 404)
    assert requests.get(f"{server.url}/proxy/dicom/wado/studies", timeout=60).status_code == 403
