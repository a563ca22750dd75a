# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
import math

import numpy as np
import pytest

from monai_dpmm_ad.normative.frame import Frame
from monai_dpmm_ad.normative.lattice import Lattice


def test_frame_is_described_in_plain_json() -> None:
    matrix = np.diag([1.1, 0.9, 1.0, 1.0])
    for quality, stored in ((0.93, 0.93), (math.nan, None)):
        again = json.loads(json.dumps(Frame("affine", matrix, quality).to_dict(), allow_nan=False))
        assert again == {"kind": "affine", "matrix": matrix.tolist(), "quality": stored}


def test_frame_locates_points() -> None:
    matrix = np.diag([2.0, 1.0, 1.0, 1.0])
    matrix[:3, 3] = 1, 2, 3
    np.testing.assert_allclose(Frame("box", matrix).locate(np.array([[1.0, 1.0, 1.0]])), [[3, 3, 4]])


def test_bad_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`kind` must be one of .*got 'afine'\. Did you mean 'affine'"):
        Frame("afine", np.eye(4))
    with pytest.raises(ValueError, match="`matrix` must be an invertible"):
        Frame("box", np.zeros((4, 4)))


def test_deformed_frame_is_inverted() -> None:
    lattice = Lattice((12, 12, 12), 5.0, (0.0, 0.0, 0.0))
    points = lattice.points()
    field = (3 * np.sin(points / 12)).astype(np.float32)
    matrix = np.diag([1.1, 0.9, 1.0, 1.0])
    frame = Frame("deformed", matrix, 0.9, field, lattice)
    places = points[3:9, 3:9, 3:9]
    np.testing.assert_allclose(frame.locate(frame.trace(places)), places, atol=0.05)
    assert np.abs(frame.trace(places) - Frame("affine", matrix).trace(places)).max() > 2


def test_field_belongs_to_deformed_frames_alone() -> None:
    with pytest.raises(ValueError, match="`field` and `lattice` must be given of a deformed frame alone"):
        Frame("deformed", np.eye(4))
