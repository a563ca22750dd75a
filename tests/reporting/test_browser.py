# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The report in headless Chromium: it renders, sorts and explores, and text from files does nothing."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_dpmm_ad.reporting import ScanResult, ScoreCalibration, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian package chromium)"),
]

Maker = Callable[..., ScanResult]
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>.nii.gz"
SWITCHES = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    "--window-size=1200,900",
]
# Runs in the page: clicks through it as a reader does and reports what it sees.
PROBE = (Path(__file__).parent / "probe.js").read_text(encoding="utf-8")


def _browse(page: str, profile: Path) -> dict[str, Any]:
    """Show a page in Chromium and return what it posts to /seen."""
    answers: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/report.html"
            self.send_response(200 if found else 204)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            if found:
                self.wfile.write(page.encode())

        def do_POST(self) -> None:
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/report.html"
    command = [str(CHROMIUM), *SWITCHES, f"--user-data-dir={profile}", "--remote-debugging-port=0", address]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        return answers.get(timeout=120)
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
        server.shutdown()
        server.server_close()
        thread.join()


def write_twin(path: Path) -> Path:
    """A map of the volume's shape that looks like nothing in it."""
    values = np.tile(np.linspace(50, 200, 18, dtype=np.float32), (22, 26, 1))
    nib.save(nib.Nifti1Image(values, np.diag([-2.0, 2.0, 2.5, 1.0])), path)
    return path


@pytest.fixture
def report(make_volume: Maker, make_picture: Maker, tmp_path: Path) -> Path:
    results = [
        make_volume("volume", score=2.0, p_value=0.5, healthy=write_twin(tmp_path / "healthy.nii.gz")),
        make_picture("picture", score=3.0, p_value=None),
        make_volume(EVIL, score=1.0, p_value=0.01),
    ]
    calibration = ScoreCalibration(healthy_scores=[1.0, 1.2], threshold=1.5)
    return write_report(tmp_path / "report.html", results, calibration=calibration, title=EVIL, settings={EVIL: EVIL})


def test_a_reader_can_sort_filter_and_explore(report: Path, tmp_path: Path) -> None:
    page = report.read_text()
    # The probe could not run under the page's own policy; without it, only escaping keeps names inert.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', f"<script>{PROBE}</script>", page, count=1)
    seen = _browse(page, tmp_path / "profile")
    assert seen["problems"] == []
    assert seen["first"] == ["picture", "volume", EVIL]
    assert seen["ascending"] == [EVIL, "volume", "picture"]
    assert seen["mark"] == "ascending"
    assert seen["byP"] == [EVIL, "volume", "picture"], "a missing value comes last"
    assert seen["cards"] == seen["byP"], "pictures follow the table"
    assert seen["filtered"] == ["volume"]
    assert seen["closed"] == ["closed"] * 3, "nothing is decoded before it is opened"
    assert seen["open"] == ["ready"] * 3
    assert seen["canvases"] == [3, 3, 2], "three planes, or picture and overlay"
    assert re.fullmatch(r"x -?\d+, y -?\d+, z -?\d+ mm · map [\d.]+ \(above threshold\)", seen["readout"])
    assert len(set(seen["states"])) == 8, "each control changes the picture"
    assert seen["twins"] == [False, True, False], "what has no healthy twin has no switch"
    assert seen["moved"] != seen["readout"], "a click moves the crosshair"
    assert len(seen["places"]) == len(set(seen["places"])) == 2, "each region can be gone to"
    assert seen["places"][0] == seen["readout"], "the first is where the viewer opens"
    assert seen["images"]
    assert seen["wide"], "the page does not scroll sideways"
    assert seen["phone"] == {"fits": True, "columns": [2, 2, 2], "first": "sticky"}, "390 pixels are enough"
    assert seen["scripts"] == 1 + 3 + 1 + 1, "probe, scans, page data, report.js"


def test_the_page_runs_under_its_own_policy_without_a_word(report: Path, tmp_path: Path) -> None:
    address = f"{report.as_uri()}#scan-1"
    run = subprocess.run(
        [str(CHROMIUM), *SWITCHES, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert not [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert re.search(r'id="scan-1".*?<details open="">.*?<div class="viewer" data-state="', run.stdout, re.DOTALL)
