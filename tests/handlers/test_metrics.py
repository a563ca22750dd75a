# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The adapters add nothing to the numbers and fit any Ignite engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.data import MetaTensor

from monai_dpmm_ad.handlers.metrics import AnomalyMapMetric, AnomalyMetricsHandler, MetricsTable
from monai_dpmm_ad.metrics import AnomalyMetrics


@pytest.fixture
def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    out = []
    for _ in range(3):
        label = torch.zeros(2, 1, 12, 12)
        label[1, :, 3:6, 3:7] = 1
        pred = torch.rand(2, 1, 12, 12, generator=generator) + 0.5 * label
        out.append({"pred": pred, "label": label, "foreground": torch.ones_like(label)})
    return out


def _direct(batches) -> dict[str, object]:
    metrics = AnomalyMetrics()
    for i, batch in enumerate(batches):
        for j in range(2):
            arrays = (batch[key][j, 0] for key in ("pred", "label", "foreground"))
            metrics.update(f"rank00000_scan{2 * i + j:07d}", *arrays, image_score=float(batch["pred"][j].max()))
    return metrics.compute(bootstrap=30)


def _transform(output):
    return output["pred"], output["label"], {"foreground": output["foreground"]}


def test_handler_on_a_plain_engine_gives_the_figures_themselves(batches):
    engine = Engine(lambda engine, batch: batch)
    AnomalyMetricsHandler(output_transform=_transform, bootstrap=30).attach(engine, "val_score")
    for _ in range(2):  # a second run starts anew
        state = engine.run(batches, max_epochs=1)
    expected = _direct(batches)
    assert state.metric_details["val_score"] == expected
    numbers = {key: value for key, value in expected.items() if not key.endswith("_ci")}
    assert state.metrics == numbers | {"val_score": expected["pixel_aupr_foreground"]}
    assert all(isinstance(value, float) for value in state.metrics.values())


def test_the_name_may_be_that_of_a_figure(batches):
    engine = Engine(lambda engine, batch: (batch["pred"], batch["label"]))
    AnomalyMetricsHandler(keys=["pixel_auroc"], bootstrap=0).attach(engine, "pixel_auroc")
    metrics = engine.run(batches).metrics
    assert 0.5 < metrics["pixel_auroc"] <= 1
    assert "pixel_auroc_foreground" not in metrics


def test_metric_takes_lists_of_meta_tensors_missing_masks_and_keywords(batches):
    whole, lists = AnomalyMapMetric(bootstrap=0), AnomalyMapMetric(AnomalyMetrics(), bootstrap=0)
    for i, batch in enumerate(batches):
        names = [f"{i}{j}" for j in range(2)]
        scores = whole(batch["pred"], batch["label"], names=names)
        assert scores.shape == (2, 1)
        lists(
            [MetaTensor(item) for item in batch["pred"]],
            [None, MetaTensor(batch["label"][1])],
            names=names,
            image_scores=scores[:, 0],
            abnormal=torch.tensor([0, 1]),
        )
    assert whole.aggregate() == lists.aggregate()
    whole.reset()
    assert whole.aggregate() == {}


def test_iterations_without_a_scan_are_skipped(batches):
    handler = AnomalyMetricsHandler(keys=["pixel_auroc"], bootstrap=0, output_transform=lambda output: output)
    engine = Engine(lambda engine, batch: None if batch is None else (batch["pred"], batch["label"]))
    handler.attach(engine, "score")
    expected = Engine(lambda engine, batch: (batch["pred"], batch["label"]))
    AnomalyMetricsHandler(keys=["pixel_auroc"], bootstrap=0).attach(expected, "score")
    skipping = engine.run([batches[0], None, *batches[1:]]).metrics
    assert skipping == expected.run(batches).metrics


def test_errors_say_what_is_missing(batches):
    engine = Engine(lambda engine, batch: (batch["pred"], batch["label"]))
    AnomalyMetricsHandler(keys=["pixel_aurok"], bootstrap=0).attach(engine, "score")
    with pytest.raises(ValueError, match="Did you mean 'pixel_auroc'"):
        engine.run(batches)
    engine = Engine(lambda engine, batch: None)
    AnomalyMetricsHandler().attach(engine, "score")
    with pytest.raises(NotComputableError, match="No metric can be computed"):
        engine.run(batches)
    with pytest.raises(ValueError, match="must be \\(y_pred, y\\)"):
        AnomalyMetricsHandler().update((1,))
    with pytest.raises(ValueError, match="`y_pred` must have one channel"):
        AnomalyMapMetric()(torch.ones(1, 3, 4, 4))


def test_what_does_not_belong_together_is_refused(batches):
    metric, (pred, label) = AnomalyMapMetric(bootstrap=0), (batches[0][key] for key in ("pred", "label"))
    for name in ("names", "foreground", "image_scores", "abnormal"):
        with pytest.raises(ValueError, match=f"`{name}` must have one item per map, 2, got 1"):
            metric(pred, label, **{name: [1]})
    with pytest.raises(ValueError, match="`y` must have one item per map, 2, got 3"):
        metric(pred, [None, *label])
    for name in ("y", "foreground"):
        with pytest.raises(ValueError, match="must be free of NaN, got some in scan 'rank00000_scan0000000'"):
            metric(pred, **{name: torch.full_like(label, torch.nan)})
    for value in (-1, 2, 0.5, float("nan")):
        with pytest.raises(ValueError, match=f"`abnormal` must be 0, 1 or None, got {value} in scan"):
            metric(pred, abnormal=[value, 1])
        with pytest.raises(ValueError, match="`abnormal` must be 0, 1 or None, got tensor"):
            metric(pred, abnormal=torch.tensor([value, 1.0]))
    for value in (None, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"`image_score` must be finite, got {value} in scan '7'"):
            metric(pred, names=[7, 8], image_scores=[value, 1.0])
    with pytest.raises(ValueError, match=r"`image_scores` must have one item per map, 2, got 0\.5"):
        metric(pred, image_scores=0.5)
    with pytest.raises(ValueError, match=r"`y_pred` must have pixels, got shape \(1, 0, 12\)"):
        metric(pred[:, :, :0])
    assert len(metric.metrics) == 0


def test_one_key_is_enough_and_a_name_may_be_a_number(batches):
    def name(batch):
        return batch["pred"], batch["label"], {"names": [batch["number"], f"scan {batch['number']}"]}

    engine = Engine(lambda engine, batch: batch)
    handler = AnomalyMetricsHandler("pixel_auroc", name, bootstrap=0)
    handler.attach(engine, "score")
    metrics = engine.run([{**batch, "number": number} for number, batch in enumerate(batches)]).metrics
    assert metrics["score"] == metrics["pixel_auroc"]
    assert handler.metric.metrics.names == ["0", "1", "2", "scan 0", "scan 1", "scan 2"]


def test_values_of_the_labels_do_not_matter_only_nonzero_ones(batches):
    one, many = AnomalyMapMetric(bootstrap=0), AnomalyMapMetric(bootstrap=0)
    for batch in batches:
        one(batch["pred"], batch["label"])
        many(batch["pred"], (batch["label"] * 254).to(torch.uint8))
    assert one.aggregate() == many.aggregate()
    assert np.isfinite(list(one.aggregate().values())).all()


def test_the_table_removes_no_file_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    engine = Engine(lambda engine, scan: engine.state.metrics.update(pixel_auroc=scan))
    MetricsTable(tmp_path).attach(engine)
    for value in (0.9, 0.8):
        engine.run([value])
        assert (tmp_path / "metrics.csv").read_text().split() == [f"pixel_auroc,{value}"]
    assert (tmp_path / "metrics.json").read_text() == "{}"
