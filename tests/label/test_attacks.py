# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Attacks on the real server: none writes, reads, replaces or deletes what it should not, and it lives on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("monailabel", reason="MONAI Label is not installed here; `make test-label` runs these tests")

import requests
from label.serving import Server, running_server
from monailabel.client import MONAILabelClient

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.slow,
]
STUDY, TOKEN, VIEWER = "test_abnormal_001", "a-token-for-the-tests-0123", "https://viewer.example"
CLIMBS = ["../app/main", "..\\app\\main", "/tmp/x", "..", ".", "a/b", ".hidden", "a\x00b", "a\nb", "x" * 300]


@pytest.fixture(scope="module")
def scans(cohort: Path) -> list[Path]:
    return sorted((cohort.parent / "imagesTs").glob("*.nii.gz"))


@pytest.fixture(scope="module")
def server(bundle: Path, scans: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Open to the network by mistake: on every interface, without a token."""
    folder = tmp_path_factory.mktemp("open")
    options = ["--conf", "max_upload", "2", "--conf", "max_waiting", "3"]
    with running_server(folder, bundle, scans, *options, host="0.0.0.0") as running:
        secret = folder / "secret.nii.gz"
        secret.write_bytes(scans[0].read_bytes())
        (running.studies / "linked.nii.gz").symlink_to(secret)
        time.sleep(2)  # MONAI Label sees the folder's events
        yield running
        assert running.list_leftovers() == set()


@pytest.fixture(scope="module")
def locked(bundle: Path, scans: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Open to the network on purpose."""
    options = ["--conf", "token", TOKEN, "--conf", "origins", VIEWER, "--conf", "deletion", "true"]
    folder = tmp_path_factory.mktemp("locked")
    with running_server(folder, bundle, scans, *options, host="0.0.0.0") as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_changes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever an attack does: app, bundle, studies and what lies beside them stay, to the byte; the server answers."""
    if "server" not in request.fixturenames:
        yield
        return
    server: Server = request.getfixturevalue("server")
    before = digest_of(server)
    yield
    assert digest_of(server) == before
    assert requests.get(f"{server.url}/info/", timeout=60).ok


def digest_of(server: Server) -> dict[str, str]:
    root = server.studies.parent
    own = ("app/logs", "temporary", "sessions", "server.log", "studies/.lock", "studies/datastore_v2.json")
    files = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files.items()
        if not name.startswith(own) and "__pycache__" not in name
    }


def put(server: Server, path: str, name: str, content: bytes, field: str = "file", **arguments: Any) -> Any:
    return requests.put(f"{server.url}{path}", files={field: (name, content)}, timeout=60, **arguments)


@pytest.mark.parametrize("name", CLIMBS)
def test_no_name_leads_out_of_the_studies(name: str, server: Server, scans: list[Path]) -> None:
    scan = scans[0].read_bytes()
    answers = [
        put(server, path, "a.nii.gz", scan, params={"image": name}) for path in ("/datastore/", "/datastore/image")
    ]
    label = {"field": "label", "params": {"image": STUDY, "tag": name}}
    answers.append(put(server, "/datastore/label", "a.nii.gz", scan, **label))
    answers.append(put(server, "/datastore/label", "a.nii.gz", scan, field="label", params={"image": name}))
    for path in ("/datastore/image", "/datastore/image/info"):
        answers.append(requests.get(f"{server.url}{path}", params={"image": name}, timeout=60))
    answers.append(requests.get(f"{server.url}/datastore/label", params={"label": STUDY, "tag": name}, timeout=60))
    answers.append(server.post("/infer/dpmm_ad_map", params={"image": name}))
    answers.append(server.post("/infer/dpmm_ad_map", params={"session_id": name}))
    save = {"params": json.dumps({"save_label": True, "label_tag": name})}
    answers.append(server.post("/infer/dpmm_ad_mask", params={"image": STUDY}, data=save))
    answers.append(server.post("/batch/infer/dpmm_ad_mask?run_sync=true", json={"label_tag": name}))
    for answer in answers:
        assert answer.status_code == 400, answer.text
        assert "must be" in answer.json()["detail"]


@pytest.mark.parametrize(
    "name", ["a.py", "a.json", "a.JSON", "a.Json", "main.py.nii.gz/../x.py", "a", ".nii.gz", "a.bin"]
)
def test_only_scans_are_taken(name: str, server: Server, scans: list[Path]) -> None:
    content = json.dumps({"test": [{"image": "/etc/passwd"}]}).encode()
    answers = [
        put(server, "/datastore/image", name, content, params={"image": "datastore_v2"}),
        server.post("/infer/dpmm_ad_map", files={"file": (name, content)}),
        requests.put(f"{server.url}/session/", files={"files": (name, content)}, timeout=60),
        put(server, "/datastore/label", name, content, field="label", params={"image": STUDY}),
    ]
    assert {answer.status_code for answer in answers} <= {400, 415}


def test_a_file_of_the_server_is_not_read(server: Server) -> None:
    secret = str(server.studies.parent / "secret.nii.gz")
    for path in (secret, "/etc/passwd", str(server.bundle / "models" / "model.pt")):
        assert server.post("/infer/dpmm_ad_map", params={"image": path}).status_code == 400
        for name in ("image", "Image", "file", "session"):
            data = {"params": json.dumps({name: path})}
            assert server.post("/infer/dpmm_ad_map", params={"image": STUDY}, data=data).status_code == 400
        for run in ("/batch/infer/dpmm_ad_map", "/scoring/dpmm_ad", "/train/dpmm_ad_update"):
            answer = server.post(f"{run}?run_sync=true", json={"images": [path], "bundle_path": path})
            assert answer.status_code == 400


def test_a_link_out_of_the_studies_is_not_followed(server: Server) -> None:
    listed = requests.get(f"{server.url}/datastore/", params={"output": "all"}, timeout=60).json()
    assert "linked" in listed["objects"]
    answers = [
        requests.get(f"{server.url}/datastore/image", params={"image": "linked"}, timeout=60),
        server.post("/infer/dpmm_ad_map", params={"image": "linked"}),
    ]
    for answer in answers:
        assert (answer.status_code, "--conf links true" in answer.json()["detail"]) == (403, True)


def test_labels_are_not_written_through_a_link(server: Server) -> None:
    (server.studies / "labels" / "elsewhere").symlink_to(server.studies.parent / "app")
    try:
        target = {"image": STUDY, "tag": "elsewhere"}
        answer = put(server, "/datastore/label", "a.nii.gz", b"x", field="label", params=target)
        assert (answer.status_code, "link" in answer.json()["detail"]) == (403, True)
    finally:
        (server.studies / "labels" / "elsewhere").unlink()


@pytest.mark.parametrize("name", [STUDY, STUDY.upper(), "linked"])
def test_a_study_is_never_replaced(name: str, server: Server) -> None:
    for file in ("a.nii.gz", "a.nii", "a.nrrd"):
        answer = put(server, "/datastore/image", file, b"x", params={"image": name})
        assert (answer.status_code, "replaces no study" in answer.json()["detail"]) == (409, True)
    assert put(server, "/datastore/image", f"{STUDY}.nii.gz", b"x").status_code == 409


def test_the_model_is_not_taken_nor_deleted(server: Server) -> None:
    before = requests.get(f"{server.url}/model/info/dpmm_ad_map", timeout=60).json()
    for answer in (
        put(server, "/model/dpmm_ad_map", "a.pt", b"evil"),
        requests.delete(f"{server.url}/model/dpmm_ad_map", timeout=60),
    ):
        assert answer.status_code == 403
    assert requests.get(f"{server.url}/model/info/dpmm_ad_map", timeout=60).json() == before
    assert server.post("/infer/dpmm_ad_map", params={"image": STUDY, "output": "json"}).ok


def test_nothing_is_deleted(server: Server) -> None:
    for path in ("/datastore/", "/datastore/image", "/datastore/label"):
        answer = requests.delete(f"{server.url}{path}", params={"id": STUDY, "tag": "final"}, timeout=60)
        assert (answer.status_code, "--conf deletion true" in answer.json()["detail"]) == (403, True)


def test_an_archive_is_not_unpacked(server: Server) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("../../../../../../../../tmp/dpmm_ad_escaped.nii.gz")
        archive.addfile(entry)
    files = {"files": ("a.nii.gz", packed.getvalue())}
    answer = requests.put(f"{server.url}/session/", params={"uncompress": "true"}, files=files, timeout=60)
    assert (answer.status_code, "archives" in answer.json()["detail"]) == (400, True)
    assert not Path("/tmp/dpmm_ad_escaped.nii.gz").exists()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/reload"),
        ("GET", "/logs/gpu"),
        ("GET", "/proxy/dicom/../../etc/passwd"),
        ("POST", "/proxy/dicom/wado/tools/execute-script"),
        ("GET", "/ohif/..%2f..%2f..%2fapp.py"),
        ("POST", "/infer/wsi/dpmm_ad_map"),
        ("GET", "/datastore/dataset"),
        ("POST", "/train/"),
        ("DELETE", "/session/%2e%2e"),
        ("GET", "/session/..%2f..%2fetc"),
        ("PUT", "/MODEL/dpmm_ad_map"),
    ],
)
def test_what_is_not_needed_is_not_served(method: str, path: str, server: Server) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as raw:  # no client tidies the path
        raw.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        status = int(raw.makefile("rb").readline().split()[1])
    assert status in (400, 403, 404)


def test_another_machine_is_not_answered(server: Server) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only asks which address would be ours
        except OSError:
            pytest.skip("this machine has no address but the loopback's")
        address = probe.getsockname()[0]
    url = f"http://{address}:{urlsplit(server.url).port}"
    for headers in ({}, {"Host": "127.0.0.1"}, {"X-Forwarded-For": "127.0.0.1"}):
        answer = requests.get(f"{url}/info/", headers=headers, timeout=60)
        assert (answer.status_code, "--conf token" in answer.json()["detail"]) == (403, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_web_page_may_not_ask(headers: dict[str, str], server: Server, scans: list[Path]) -> None:
    answers = [
        requests.get(f"{server.url}/datastore/", headers=headers, timeout=60),
        put(server, "/datastore/image", "a.nii.gz", scans[0].read_bytes(), params={"image": "new"}, headers=headers),
        requests.options(
            f"{server.url}/info/", headers={**headers, "Access-Control-Request-Method": "PUT"}, timeout=60
        ),
    ]
    for answer in answers:
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_an_upload_is_bounded(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.nii.gz"\r\n\r\n'
        for _ in range(40):
            yield bytes(100_000)

    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as raw:
        raw.sendall(b"PUT /datastore/image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999999999\r\n\r\n")
        assert raw.makefile("rb").readline().split()[1] == b"413"
    try:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}  # and no length: in chunks
        url = f"{server.url}/datastore/image"
        status = requests.put(url, data=chunks(), headers=headers, timeout=60).status_code
    except requests.ConnectionError:  # the server has answered and hung up while we were sending
        status = 413
    assert status == 413


def test_a_list_does_not_wait_behind_the_work_and_the_work_is_bounded(server: Server) -> None:
    def work(number: int) -> tuple[int, str]:
        answer = server.post("/infer/dpmm_ad_map", params={"image": STUDY, "output": "json"})
        return answer.status_code, answer.json().get("detail", "")

    with ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(work, number) for number in range(12)]
        lists = 0
        while not all(answer.done() for answer in answers):
            assert requests.get(f"{server.url}/datastore/", timeout=60).ok
            lists += not all(answer.done() for answer in answers)
    statuses = [answer.result() for answer in answers]
    assert lists > 0  # answered while scans were being processed
    assert {status for status, _ in statuses} == {200, 503}
    assert all("requests are waiting already" in reason for status, reason in statuses if status == 503)


def test_with_a_token_slicer_logs_in_and_nobody_else_gets_in(locked: Server, tmp_path: Path) -> None:
    for path in ("/", "/info/", "/openapi.json", "/logs/", "/datastore/"):
        assert requests.get(f"{locked.url}{path}", timeout=60).status_code == 401
    client = MONAILabelClient(locked.url, tmpdir=str(tmp_path))  # as 3D Slicer's plugin does
    assert client.auth_enabled()
    assert not client.auth_valid_token()
    wrong = requests.post(f"{locked.url}/auth/token", data={"username": "u", "password": "guess"}, timeout=60)
    assert wrong.status_code == 401
    client.update_auth(client.auth_token("reader", TOKEN))
    assert client.auth_valid_token()
    assert client.info()["name"] == "monai_dpmm_ad"
    _, facts = client.infer("dpmm_ad_mask", STUDY, {})
    assert facts["score"] > 0


def test_a_listed_page_is_told_that_it_may_ask(locked: Server) -> None:
    headers = {
        "Origin": VIEWER,
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    preflight = requests.options(f"{locked.url}/info/", headers=headers, timeout=60)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, VIEWER)
    headers = {"Origin": VIEWER, "Authorization": f"Bearer {TOKEN}"}
    answer = requests.get(f"{locked.url}/info/", headers=headers, timeout=60)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, VIEWER)


def test_the_background_tells_the_server_its_token(locked: Server) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    started = requests.post(f"{locked.url}/scoring/dpmm_ad", headers=headers, timeout=60)
    assert started.ok
    for _ in range(600):
        status = requests.get(f"{locked.url}/scoring/", headers=headers, timeout=60).json()
        if status["status"] not in ("SUBMITTED", "RUNNING"):
            break
        time.sleep(0.5)
    assert status["status"] == "DONE", status


def test_what_is_switched_on_deletes(locked: Server) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    victim = locked.studies / "test_healthy_000.nii.gz"
    elsewhere = locked.studies.parent / "kept.nii.gz"
    os.rename(victim, elsewhere)
    victim.symlink_to(elsewhere)
    refused = requests.delete(f"{locked.url}/datastore/?id=test_healthy_000", headers=headers, timeout=60)
    assert (refused.status_code, elsewhere.exists()) == (403, True)  # a link leads to what is not the server's
    victim = locked.studies / "test_healthy_001.nii.gz"
    assert requests.delete(f"{locked.url}/datastore/?id=test_healthy_001", headers=headers, timeout=60).ok
    assert not victim.exists()


def test_with_monai_labels_own_oauth_nobody_gets_in_without_it(
    bundle: Path, scans: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("oauth")
    with running_server(folder, bundle, scans[:1], host="0.0.0.0", MONAI_LABEL_AUTH_ENABLE="true") as running:
        assert requests.get(f"{running.url}/auth/", timeout=60).json()["enabled"] is True
        for method, path in (("GET", "/info/"), ("GET", "/datastore/"), ("POST", "/infer/dpmm_ad_map?image=a")):
            assert requests.request(method, f"{running.url}{path}", timeout=60).status_code == 401
        assert requests.delete(f"{running.url}/datastore/?id=a", timeout=60).status_code == 403
