# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Contact sheets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from monai_dpmm_ad.reporting import ScanResult, plot_overview

Maker = Callable[..., ScanResult]


def test_a_sheet_has_a_row_for_each_kind_and_a_column_for_each_slice(make_volume: Maker, tmp_path: Path) -> None:
    result = make_volume("name with $math$ and \u0007 bell")
    sizes = []
    for slices in (1, 5):
        with Image.open(plot_overview(tmp_path / f"{slices}.png", [result], num_slices=slices)) as image:
            sizes.append(image.size)
    assert sizes[1][0] > 3 * sizes[0][0] * 0.6
    bare = make_volume("bare", mask=None, label=None)
    with Image.open(plot_overview(tmp_path / "bare.png", [bare], num_slices=1)) as image:
        assert image.size[1] < 0.7 * sizes[0][1], "no rows for what is not known"


def test_the_same_scans_give_the_same_bytes(make_volume: Maker, make_picture: Maker, tmp_path: Path) -> None:
    results = [make_volume("a"), make_picture("b")]
    first, second = (plot_overview(tmp_path / f"{i}.png", results, num_slices=2).read_bytes() for i in range(2))
    assert first == second


def test_unusable_arguments_are_named(make_volume: Maker, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`results` must not be empty"):
        plot_overview(tmp_path / "a.png", [])
    with pytest.raises(ValueError, match="`num_slices` must be at least 1, got 0"):
        plot_overview(tmp_path / "a.png", [make_volume()], num_slices=0)


def test_missing_matplotlib_says_how_to_install_it(
    make_volume: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'monai-dpmm-ad\[report\]'"):
        plot_overview(tmp_path / "a.png", [make_volume()])
