# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""The metrics of :mod:`monai_dpmm_ad.metrics` as a MONAI metric and as an Ignite metric."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from monai.handlers import MetricsSaver
from monai.handlers.ignite_metric import IgniteMetricHandler
from monai.metrics import CumulativeIterationMetric
from monai.utils import CommonKeys
from torch import Tensor

from monai_dpmm_ad.errors import unknown_option
from monai_dpmm_ad.metrics import FPR_RATES, AnomalyMetrics
from monai_dpmm_ad.metrics.records import to_score
from monai_dpmm_ad.network import AnomalyNet
from monai_dpmm_ad.utils.distributed import get_rank
from monai_dpmm_ad.utils.files import replace_file
from monai_dpmm_ad.utils.outputs import OutputFolder

__all__ = ["METRICS", "AnomalyMapMetric", "AnomalyMetricsHandler", "MetricsTable", "ScanMetrics"]

#: What an evaluation writes: this handler the table, the command the other one after it.
METRICS = ("metrics.csv", "metrics.json")


class AnomalyMapMetric(CumulativeIterationMetric):
    """MONAI metric around :class:`~monai_dpmm_ad.metrics.AnomalyMetrics`; one item of a batch is one scan.

    Args:
        metrics: the accumulator, emptied here; a default one if None.
        bootstrap: replicates for the intervals.
        seed: of the replicates.
    """

    def __init__(self, metrics: AnomalyMetrics | None = None, bootstrap: int = 1000, seed: int = 0) -> None:
        self.metrics = AnomalyMetrics() if metrics is None else metrics
        super().__init__()  # resets
        self.bootstrap, self.seed = bootstrap, seed

    def __call__(  # type: ignore[override]
        self,
        y_pred: Tensor | Sequence[Tensor],
        y: Tensor | Sequence[Tensor | None] | None = None,
        *,
        names: Sequence[str] | None = None,
        foreground: Tensor | Sequence[Tensor] | None = None,
        image_scores: Sequence[float] | Tensor | None = None,
        abnormal: Sequence[int | None] | Tensor | None = None,
    ) -> Tensor:
        """Add scans.

        Args:
            y_pred: anomaly maps: a batch (B, 1, *spatial), or a list of (1, *spatial).
            y: masks, likewise; None for a scan without one.
            names: unique over all calls and processes, text or what can be written; numbered per process if None.
            foreground: masks of the foreground, likewise.
            image_scores: one score per scan; the map's maximum if None.
            abnormal: one class per scan (0, 1 or None); from the mask if None.

        Returns:
            (B, 1) image scores.

        Raises:
            ValueError: a number of channels other than 1, more or fewer masks, names, … than maps, or what
                :meth:`~monai_dpmm_ad.metrics.AnomalyMetrics.update` refuses.
        """
        _check_lengths(
            len(y_pred), y=y, names=names, foreground=foreground, image_scores=image_scores, abnormal=abnormal
        )
        nothing = [None] * len(y_pred)
        scores = []
        for i, item in enumerate(y_pred):
            score_map = _drop_channel(item, "y_pred")
            name = self._number() if names is None else names[i]
            score = float(score_map.max()) if image_scores is None else to_score(image_scores[i], str(name))
            self.metrics.update(
                name=name,
                score_map=score_map,
                mask=_drop_optional((nothing if y is None else y)[i], "y"),
                foreground=_drop_optional((nothing if foreground is None else foreground)[i], "foreground"),
                image_score=score,
                abnormal=None if abnormal is None else abnormal[i],  # type: ignore[arg-type]
            )
            scores.append(score)
        return torch.tensor(scores)[:, None]

    def _number(self) -> str:
        return f"rank{get_rank():05d}_scan{len(self.metrics):07d}"

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        return self(y_pred, y, **kwargs)

    def reset(self) -> None:
        """Forget all scans."""
        super().reset()
        self.metrics.reset()
        #: the scans of all processes, after `aggregate`; :meth:`AnomalyMetrics.curves` of it draws a report
        self.gathered = self.metrics

    def aggregate(self) -> dict[str, Any]:  # type: ignore[override]
        """Compute all metrics over the scans of all processes, see :meth:`AnomalyMetrics.compute`."""
        self.gathered = self.metrics.gather()
        return self.gathered.compute(self.bootstrap, self.seed)


def _check_lengths(number: int, **given: Any) -> None:
    for name, values in given.items():
        if values is not None and (length := _length(values)) != number:
            raise ValueError(f"`{name}` must have one item per map, {number}, got {length}. Use None for missing.")


def _length(values: Any) -> int | str:
    try:
        return len(values)
    except TypeError:  # a number, or a tensor of one without an axis
        return f"{values!r}"


def _drop_optional(item: Tensor | None, name: str) -> Tensor | None:
    return None if item is None else _drop_channel(item, name)


def _drop_channel(item: Tensor, name: str) -> Tensor:
    if item.shape[0] != 1:
        raise ValueError(f"`{name}` must have one channel per scan, got shape {tuple(item.shape)}. Score one map.")
    if 0 in item.shape:
        raise ValueError(f"`{name}` must have pixels, got shape {tuple(item.shape)}. Leave such a scan out.")
    # The metrics need no affine, and plain tensors are faster than MetaTensor.
    return torch.as_tensor(item).as_subclass(Tensor)[0]


class AnomalyMetricsHandler(IgniteMetricHandler):
    """Put all metrics into ``engine.state.metrics`` at the end of an epoch, over all processes.

    ``engine.state.metrics`` gets numbers only: every metric under its own name and the key metric again under that of
    ``attach`` (so that it can serve as MONAI's ``key_val_metric``). The full dictionary, with intervals, is in
    ``engine.state.metric_details[name]``. Works on any Ignite engine.

    Args:
        keys: metric that stands for all, or several of which the first one that the data allow does.
        output_transform: from ``engine.state.output`` to ``(y_pred, y)`` or ``(y_pred, y, keywords)``, arguments of
            :meth:`AnomalyMapMetric.__call__`; None where there is nothing to add (a failed scan).
        metrics: the accumulator; a default one if None.
        bootstrap: replicates for the intervals.
        seed: of the replicates.

    Example:
        >>> import torch
        >>> from ignite.engine import Engine
        >>> truth = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> truth[0, :2] = True
        >>> engine = Engine(lambda engine, scan: scan)
        >>> AnomalyMetricsHandler(output_transform=lambda scan: ([scan], [truth])).attach(engine, "key")
        >>> engine.run([truth + 0.1]).metrics["pixel_auroc"]
        1.0
    """

    def __init__(
        self,
        keys: str | Sequence[str] = ("pixel_aupr_foreground", "pixel_aupr", "image_auroc"),
        output_transform: Callable = lambda x: x,
        metrics: AnomalyMetrics | None = None,
        bootstrap: int = 1000,
        seed: int = 0,
    ) -> None:
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        #: all metrics with their intervals, once an epoch has ended
        self.figures: dict[str, Any] = {}
        self.metric = AnomalyMapMetric(metrics, bootstrap, seed)
        super().__init__(metric_fn=self.metric, output_transform=output_transform, save_details=True)

    def update(self, output: Sequence[Any] | None) -> None:
        """Add the scans of one iteration, see ``output_transform``."""
        if output is None:
            return
        if len(output) not in (2, 3):
            raise ValueError(f"`output` must be (y_pred, y) or (y_pred, y, keywords), got {len(output)} items.")
        keywords = output[2] if len(output) == 3 else {}
        self.metric_fn(output[0], output[1], **keywords)
        self._is_reduced = False

    def compute(self) -> dict[str, Any]:
        """Compute all metrics.

        Raises:
            NotComputableError: no process saw a scan, or the data lack what every metric needs.
        """
        metrics: dict[str, Any] = self.metric_fn.aggregate()
        if not metrics:
            raise NotComputableError("No metric can be computed. Evaluate scans with masks, or scans of both classes.")
        return metrics

    def completed(self, engine: Engine, name: str) -> None:
        """Write the metrics to the engine.

        Raises:
            ValueError: none of ``keys`` is among the metrics that the data allow.
        """
        metrics = self.figures = self.compute()
        numbers = {key: value for key, value in metrics.items() if not isinstance(value, list)}
        key = next((key for key in self.keys if key in numbers), None)
        if key is None:
            raise unknown_option("keys", ", ".join(self.keys), numbers)
        engine.state.metrics.update(numbers)
        engine.state.metrics[name] = numbers[key]
        engine.state.metric_details[name] = metrics  # type: ignore[attr-defined]


class MetricsTable(MetricsSaver):
    """MONAI's handler, but each file gets its name when it is whole, and no file of the user's is replaced.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ignite.engine import Engine
        >>> folder = Path(tempfile.mkdtemp())
        >>> engine = Engine(lambda engine, scan: engine.state.metrics.update(pixel_auroc=0.9))
        >>> MetricsTable(folder).attach(engine)
        >>> _ = engine.run(["scan"])
        >>> (folder / "metrics.csv").read_text().split()
        ['pixel_auroc,0.9']
    """

    def __call__(self, engine: Engine) -> None:
        """Write the reports."""
        folder = self.save_dir
        with TemporaryDirectory() as temporary:
            self.save_dir = temporary
            try:
                super().__call__(engine)
            finally:
                self.save_dir = folder
            files = sorted(Path(temporary).iterdir())
            if get_rank() == self.save_rank:
                self._discard_earlier(Path(folder))
            for file in files:
                replace_file(Path(folder) / file.name, partial(shutil.copyfile, file))

    def _discard_earlier(self, folder: Path) -> None:
        """Remove what an evaluation wrote before: a run that dies between two files leaves no two that disagree."""
        with OutputFolder(folder) as output:
            for name in METRICS:
                output.discard(folder / name)


class ScanMetrics(AnomalyMetricsHandler):
    """Compare maps with masks and classes; the thresholds of ``dice_fpr…`` come from the network's calibration.

    A handler among others: data that allow no metric at all are no error, ``figures`` is empty then.

    Args:
        network: its calibration saw the normal validation scans.
        bootstrap: replicates for the intervals.
        seed: of the replicates.

    Example:
        >>> from monai_dpmm_ad import AnomalyNet, create_detector, create_embedder
        >>> embedder, detector = create_embedder("pixels-8"), create_detector("dpmm", 64)
        >>> network = AnomalyNet(embedder, detector, image_size=64, normative="off")
        >>> metrics = ScanMetrics(network, bootstrap=0)
        >>> metrics.figures  # filled by a run of a ScanEvaluator to which it is attached
        {}
    """

    def __init__(self, network: AnomalyNet, bootstrap: int = 1000, seed: int = 0) -> None:
        self.network = network  # first, since Ignite's constructor calls reset
        super().__init__(output_transform=_scans_of, bootstrap=bootstrap, seed=seed)

    def reset(self) -> None:
        """Forget all scans and read the thresholds, which a checkpoint may just have brought."""
        calibration = self.network.calibration
        if calibration.fitted:
            self.metric.metrics = AnomalyMetrics(
                normal_thresholds={rate: calibration.quantile(rate, whole_field=True) for rate in FPR_RATES},
                normal_thresholds_foreground={rate: calibration.quantile(rate) for rate in FPR_RATES},
            )
        super().reset()

    def attach(self, engine: Engine, name: str = "figures") -> None:  # type: ignore[override]
        """Register the handler's events."""
        super().attach(engine, name)

    def completed(self, engine: Engine, name: str) -> None:
        """Write the metrics that the data allow to the engine."""
        try:
            super().completed(engine, name)
        except NotComputableError:
            self.figures = {}


def _scans_of(output: Sequence[dict[str, Any]]) -> tuple[Any, Any, dict[str, Any]] | None:
    """Arguments of the metric for the scans of one iteration; None where the scan failed."""
    if not output:
        return None
    maps = [scan[CommonKeys.PRED].as_subclass(torch.Tensor) for scan in output]
    keywords = {
        "names": [scan[CommonKeys.PRED].meta["name"] for scan in output],
        "foreground": [anomaly_map > 0 for anomaly_map in maps],
        "image_scores": [scan["score"] for scan in output],
        "abnormal": [scan[CommonKeys.PRED].meta["abnormal"] for scan in output],
    }
    return maps, [scan.get(CommonKeys.LABEL) for scan in output], keywords
