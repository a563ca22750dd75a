# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the documentation shows runs."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from monai_dpmm_ad.commands import evaluate

DOCS = Path(__file__).parents[1] / "docs"


def test_a_plain_ignite_loop_gives_the_figures_of_evaluate(
    bundle: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len((DOCS / "ignite_loop.py").read_text().splitlines()) <= 30
    items = json.loads(cohort.read_text())["test"]
    chosen = [{**items[i], **{k: str(cohort.parent / items[i][k]) for k in ("image", "label")}} for i in (0, 2, 3)]
    (tmp_path / "list.json").write_text(json.dumps({"test": chosen}))
    monkeypatch.setattr(sys, "argv", ["ignite_loop.py", str(bundle), str(tmp_path / "list.json")])
    found = runpy.run_path(str(DOCS / "ignite_loop.py"))["engine"].state.metrics
    expected = evaluate(bundle, [tmp_path / "list.json"], tmp_path / "out", report=False).metrics
    for key in ("image_auroc", "pixel_auroc", "pixel_aupr_foreground", "aupro", "best_dice", "froc"):
        assert found[key] == pytest.approx(expected[key], abs=1e-6), key
