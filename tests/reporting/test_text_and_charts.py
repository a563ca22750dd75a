# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Numbers and settings are readable; plots are valid and reproducible."""

from __future__ import annotations

import base64
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_dpmm_ad.metrics import Curve
from monai_dpmm_ad.reporting import ScanResult, ScoreCalibration
from monai_dpmm_ad.reporting.charts import plot_calibration, plot_components, plot_curve, pretty_name
from monai_dpmm_ad.reporting.text import count_decimals, flatten, format_p_value, format_setting

RESULTS = [
    ScanResult(name=str(i), image="a", anomaly_map="b", score=float(i), abnormal=truth)
    for i, truth in enumerate((True, False, None))
]


@given(st.lists(st.floats(1e-6, 1e6), min_size=1), st.integers(1, 6))
def test_a_column_has_one_precision_that_suits_its_largest_number(values: list[float], digits: int) -> None:
    decimals = count_decimals([*values, None], digits)
    shown = f"{max(values):.{decimals}f}"
    significant = len(shown.replace(".", "").lstrip("0"))
    assert decimals >= 0
    assert significant >= digits
    assert decimals == 0 or significant <= digits + 1  # one more where rounding adds a digit


@pytest.mark.parametrize(
    ("value", "text"), [(0.25, "0.250"), (1.0, "1.000"), (1 / 999, "0.001"), (1 / 2001, "0.0005"), (1 / 4097, "0.0002")]
)
def test_a_p_value_is_never_shown_as_zero(value: float, text: str) -> None:
    assert format_p_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), ([], "–"), (False, "no"), (["a", None], "a, –"), (0.12345678, "0.1235"), (3, "3")]
)
def test_settings_are_words_and_no_python(value: object, text: str) -> None:
    assert format_setting(value) == text


def test_names() -> None:
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
