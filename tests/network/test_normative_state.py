# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A model that was fitted before keeps what it was calibrated with."""

from __future__ import annotations

from monai_dpmm_ad.detectors import create_detector
from monai_dpmm_ad.embedding import create_embedder
from monai_dpmm_ad.network import AnomalyNet


def test_what_an_older_model_does_not_say_is_as_it_was_then() -> None:
    embedder = create_embedder("pixels-8")
    networks = [AnomalyNet(embedder, create_detector("dpmm", 64), 64, normative="on") for _ in range(2)]
    state = networks[0].state_dict()
    for name in ("weights", "matching"):
        del state[f"normative.{name}"]
    networks[1].load_state_dict(state)
    assert networks[1].normative is not None
    assert networks[1].normative.weights.tolist() == [1.0, 1.0, 0.5] != networks[0].normative.weights.tolist()
    assert not networks[1].normative.matching
