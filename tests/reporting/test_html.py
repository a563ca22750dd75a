# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The report: complete, self-contained, escaped, reproducible."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from monai_dpmm_ad.data.dataset import ScanFailure
from monai_dpmm_ad.reporting import ScanResult, ScoreCalibration, write_report

Maker = Callable[..., ScanResult]
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&.nii.gz"


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def _tags(path: Path) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser.tags


def test_nothing_is_loaded_from_elsewhere(make_volume: Maker, make_picture: Maker, tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", [make_volume("a"), make_picture("b")])
    for _tag, attributes in _tags(path):
        for key in ("src", "href"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#"))
    assert not re.search(r"url\((?!data:)", path.read_text())
    assert "not a medical device" in path.read_text()


def test_names_stay_text(make_volume: Maker, tmp_path: Path) -> None:
    path = write_report(
        tmp_path / "r.html",
        [make_volume("plain"), make_volume(EVIL), ScanResult(name=EVIL, image=EVIL, anomaly_map=EVIL, score=0.0)],
        title=EVIL,
        settings={EVIL: EVIL},
        metrics={EVIL: 0.5},
    )
    tags = _tags(path)
    assert not any("onerror" in attributes or attributes.get("src") == "x" for _, attributes in tags)
    scripts = [attributes for tag, attributes in tags if tag == "script"]
    assert [attributes.get("type") for attributes in scripts] == ["application/json"] * 3 + [None]
    assert path.read_text().count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5


def test_only_the_report_s_own_script_may_run(make_volume: Maker, tmp_path: Path) -> None:
    text = write_report(tmp_path / "r.html", [make_volume()]).read_text()
    script = re.search(r"<script>(.*?)</script></body>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script.group(1).encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text


def test_every_section_is_there_only_when_there_is_something_to_show(make_volume: Maker, tmp_path: Path) -> None:
    result = make_volume(p_value=0.04, num_regions=1, volume_ml=1.25)
    bare = write_report(tmp_path / "bare.html", [make_volume("bare", abnormal=None)]).read_text()
    full = write_report(
        tmp_path / "full.html",
        [result],
        metrics={"image_auroc": 0.9, "image_auroc_ci": [0.8, 1.0], "aupro": 0.5, "aupro_foreground": 0.4},
        calibration=ScoreCalibration(healthy_scores=[1.0, 1.1], threshold=1.2, rate=0.05),
        component_usage=[0.7, 0.3],
        settings={"fit": {"seed": 0}},
    ).read_text()
    for key in ("metrics", "model"):
        assert f'id="{key}"' in full
        assert f'id="{key}"' not in bare
    assert not re.search(r"<th[^>]*>(<button[^>]*>)?p-value", bare)
    assert "0.800 to 1.000" in full
    assert "fit.seed" in full
    assert "above threshold" in full
    assert "1 above the threshold (set to flag 5 % of healthy scans)" in full
    assert "flagged regions <b>1</b>" in full


def test_it_is_read_from_the_question_to_the_settings(make_volume: Maker, tmp_path: Path) -> None:
    judged = [dataclasses.replace(region, p_value=0.25) for region in make_volume().regions]
    text = write_report(
        tmp_path / "r.html",
        [make_volume(regions=judged, frame="affine", frame_quality=0.934)],
        asked={"Date": "2026-01-02", "Fitted on": "10 scans"},
        note="too few scans",
        metrics={"image_auroc": 0.9},
        component_usage=[1.0],
        settings={"axes": ["axial", "coronal"], "num_slices": None},
    ).read_text()
    parts = ["2026-01-02", "too few scans", 'class="regions"']
    parts[2:2] = [f'id="{key}"' for key in ("table", "words", "pictures")]
    parts += [f'id="{key}"' for key in ("metrics", "model", "settings")]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    for part in ("smallest region p <b>0.250</b>", "frame <b>affine 0.93</b>", "axial, coronal"):
        assert part in text
    visible = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.DOTALL)
    assert visible.count("Research software, not a medical device") == 1
    assert not re.search(r"None|\[\'|nan|lesion(?!s that are found)", visible)


def test_scans_that_failed_are_named(make_volume: Maker, tmp_path: Path) -> None:
    failures = [ScanFailure("scan_7", f"/data/{EVIL}\n.nii", "is empty (0 bytes)")]
    text = write_report(tmp_path / "r.html", [make_volume()], failures=failures).read_text()
    assert "1 scan, 1 more failed" in text
    section = text[text.index('id="failures"') : text.index('id="pictures"')]
    for part in ("<td>scan_7</td>", "&lt;script&gt;alert(1)&lt;/script&gt;", "\\n.nii", "<td>is empty (0 bytes)</td>"):
        assert part in section
    assert "failed" not in write_report(tmp_path / "r.html", [make_volume()]).read_text()


def test_regions_beyond_the_first_ten_are_counted(make_volume: Maker, tmp_path: Path) -> None:
    region = make_volume().regions[0]
    regions = [dataclasses.replace(region, index=index) for index in range(1, 14)]
    text = write_report(tmp_path / "r.html", [make_volume(regions=regions, num_regions=13)]).read_text()
    assert re.findall(r"Go to (\d+)<", text) == [str(index) for index in range(1, 11)]
    assert "The first 10 regions; 3 more are in regions.csv." in text


def test_the_same_cohort_gives_the_same_bytes_in_any_order(make_volume: Maker, tmp_path: Path) -> None:
    results = [make_volume("a", score=1.0), make_volume("b", score=3.0), make_volume("c", score=2.0)]
    first = write_report(tmp_path / "1.html", results)
    second = write_report(tmp_path / "2.html", results[::-1])
    assert first.read_bytes() == second.read_bytes()
    assert re.findall(r"<h3>(.)</h3>", first.read_text()) == ["b", "c", "a"]


def test_a_scan_that_cannot_be_read_keeps_its_row(make_volume: Maker, tmp_path: Path) -> None:
    lost = ScanResult(name="lost", image=tmp_path / "lost.nii", anomaly_map=tmp_path / "lost.nii", score=9.0)
    seen: list[tuple[int, int]] = []
    text = write_report(
        tmp_path / "r.html", [lost, make_volume("found")], progress=lambda i, n: seen.append((i, n))
    ).read_text()
    assert "No picture:" in text
    assert "lost.nii: cannot be read" in text
    assert text.count('class="scan-data"') == 1
    assert seen == [(1, 2), (2, 2)]


def test_viewers_are_embedded_for_the_highest_scores_only(make_volume: Maker, tmp_path: Path) -> None:
    results = [make_volume(str(i), score=float(i)) for i in range(3)]
    text = write_report(tmp_path / "r.html", results, max_viewers=1).read_text()
    assert text.count('class="scan-data"') == 1
    assert text.index('class="scan-data"') < text.index("<h3>1</h3>")
    assert text.count('src="data:image/webp') == 3 * 4  # scan, map, mask, truth


def test_an_empty_cohort_is_still_a_page(tmp_path: Path) -> None:
    assert "0 scans" in write_report(tmp_path / "r.html", []).read_text()


def test_missing_matplotlib_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'monai-dpmm-ad\[report\]'"):
        write_report(tmp_path / "r.html", [])
    assert not (tmp_path / "r.html").exists()
