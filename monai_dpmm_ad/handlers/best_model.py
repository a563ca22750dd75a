# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Keep the state of the best epoch, under its name at once or not at all."""

from __future__ import annotations

import os

from ignite.engine import Engine, Events
from torch import nn

from monai_dpmm_ad.utils.distributed import get_rank
from monai_dpmm_ad.utils.files import save_state

__all__ = ["BestModelSaver"]


class BestModelSaver:
    """Write a network's state dict whenever the evaluator's key metric is higher than ever before.

    MONAI's ``CheckpointSaver`` writes under the final name, where a killed process leaves half a file.

    Args:
        network: what is saved; MONAI's ``CheckpointLoader`` reads it.
        path: the file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import torch
        >>> from ignite.engine import Engine
        >>> saver = BestModelSaver(torch.nn.Linear(2, 1), Path(tempfile.mkdtemp()) / "best.pt")
        >>> engine = Engine(lambda engine, value: engine.state.metrics.update(criterion=value))
        >>> engine.state.key_metric_name = "criterion"
        >>> saver.attach(engine)
        >>> for value in (1.0, 3.0, 2.0):
        ...     _ = engine.run([value])
        >>> saver.best, saver.path.is_file()
        (3.0, True)
    """

    def __init__(self, network: nn.Module, path: str | os.PathLike[str]) -> None:
        self.network = network
        self.path = path
        self.best: float | None = None

    def attach(self, engine: Engine) -> None:
        """Register the handler's event."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Compare and write; the first process does."""
        value = float(engine.state.metrics[engine.state.key_metric_name])  # type: ignore[attr-defined]
        if self.best is None or value > self.best:
            self.best = value
            if get_rank() == 0:
                save_state(self.path, self.network.state_dict())
