# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""A sample of the soak in ``tests/soak/files.py``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from soak.files import try_example, write_example

pytest.importorskip("pydicom")


@pytest.mark.filterwarnings("ignore")  # libraries comment on odd headers; what counts is what comes of it
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_mixture_of_files_is_read_or_refused_with_a_reason(seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_example(Path(folder), np.random.default_rng(seed))
        counts = try_example(Path(folder))
    assert sum(counts.values()) >= 1
