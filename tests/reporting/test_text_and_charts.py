# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Text is inert inside HTML; plots are valid and reproducible."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_dpmm_ad.metrics import Curve
from monai_dpmm_ad.reporting import ScanResult, ScoreCalibration
from monai_dpmm_ad.reporting.charts import plot_calibration, plot_components, plot_curve, pretty_name
from monai_dpmm_ad.reporting.text import flatten, format_number, to_script

RESULTS = [
    ScanResult(name=str(i), image="a", anomaly_map="b", score=float(i), abnormal=truth)
    for i, truth in enumerate((True, False, None))
]


JSON = st.recursive(
    st.text() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(JSON)
def test_data_in_a_script_come_back_and_cannot_end_it(content: object) -> None:
    text = to_script(content)
    assert json.loads(text) == content
    assert not set("<>&") & set(text)
    assert text.isascii()


def test_numbers_and_names() -> None:
    assert format_number(0.00012345) == "0.0001234"
    assert format_number(True) == "True"
    assert pretty_name("aupro_foreground") == "AUPRO (foreground)"
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


@given(st.lists(st.floats(-5, 5), max_size=60), st.floats(0.01, 0.5), st.floats(-6, 6))
def test_above_the_threshold_means_a_p_value_at_most_the_rate(scores: list[float], rate: float, score: float) -> None:
    calibration = ScoreCalibration.at_rate(scores, rate)
    p_value = (1 + sum(healthy >= score for healthy in scores)) / (len(scores) + 1)
    assert (calibration.threshold is not None and score > calibration.threshold) == (p_value <= rate + 1e-9)


def test_a_rate_is_a_share() -> None:
    with pytest.raises(ValueError, match="`rate` must lie between 0 and 1, got 5"):
        ScoreCalibration.at_rate([1.0], rate=5)


def _parse(url: str) -> ElementTree.Element:
    head, content = url.split(",", 1)
    assert head == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(content))


def test_plots_are_svg_and_the_same_every_time() -> None:
    x = np.linspace(0, 1, 20).tolist()
    curve = Curve(x, x, [0.9 * v for v in x], [min(1, v + 0.1) for v in x], "False-positive rate", "Sensitivity")
    bare = Curve([0.0, 1.0, 8.0], [0.0, 0.5, 1.0], None, None, "False positives per scan", "Detected lesions")
    calibration = ScoreCalibration(healthy_scores=[0.1, 0.4], threshold=1.0, rate=0.05)
    draws: list[Callable[[], str]] = [
        lambda: plot_curve("image_roc", curve),
        lambda: plot_curve("pixel_pr_foreground", curve),
        lambda: plot_curve("froc", bare),
        lambda: plot_calibration(calibration, RESULTS),
        lambda: plot_calibration(ScoreCalibration(healthy_scores=[]), RESULTS[:1]),
        lambda: plot_components([0.5, 0.2, 0.3]),
        lambda: plot_components([0.0]),
    ]
    for draw in draws:
        first = draw()
        assert _parse(first).tag.endswith("svg")
        assert first == draw()
