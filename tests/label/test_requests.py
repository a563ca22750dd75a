# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from monai_dpmm_ad.label.requests import MapRequest, check_output, parse_request

DEFAULTS = MapRequest(rate=0.01, axes=("axial",), min_region=0.0)


def test_what_a_request_leaves_out_is_the_bundles() -> None:
    assert parse_request({"image": "case", "client_id": "user", "result_dtype": "uint8"}, DEFAULTS) == DEFAULTS


@pytest.mark.parametrize("axes", ["axial+coronal", ["axial", "coronal"], "axial + coronal"])
def test_numbers_and_axes_may_come_as_text(axes: Any) -> None:
    wanted = parse_request({"rate": "0.05", "axes": axes, "min_region": "20"}, DEFAULTS)
    assert wanted == MapRequest(0.05, ("axial", "coronal"), 20.0)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"rate": 0}, "`rate` must lie in"),
        ({"rate": 1}, "`rate` must lie in"),
        ({"rate": "much"}, "`rate` must be a number, got 'much'"),
        ({"rate": None}, "`rate` must be a number"),
        ({"rate": True}, "`rate` must be a number"),
        ({"rate": float("nan")}, "`rate` must be a number"),
        ({"rate": [0.1]}, "`rate` must be a number"),
        ({"min_region": -1}, "`min_region` must be at least 0"),
        ({"axes": "axal"}, "Did you mean 'axial'"),
        ({"axes": ""}, "`axes` must be one of"),
        ({"axes": []}, "`axes` must be text"),
        ({"axes": 3}, "`axes` must be text"),
        ({"axes": [1]}, "`axes` must be text"),
        ({"axes": "axial+axial"}, "each axis once"),
        ({"rates": 0.1}, "Did you mean 'rate'"),
        ({"axis": "axial"}, "Did you mean 'axes'"),
        ({"min_region_volume": 3}, "Did you mean 'min_region'"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_request(request_, DEFAULTS)


def test_outputs() -> None:
    assert check_output({"result_extension": ".nrrd", "result_dtype": "uint8"}, True) == (".nrrd", np.dtype("uint8"))
    assert check_output({}, True) == (None, np.dtype("uint8"))
    assert check_output({"result_extension": ""}, False) == (None, np.dtype("float32"))


@pytest.mark.parametrize(
    ("request_", "is_mask", "message"),
    [
        ({"result_extension": ".nrd"}, True, "Did you mean '.nrrd'"),
        ({"result_dtype": "int33"}, True, "`result_dtype` must be a number type"),
        ({"result_dtype": "object"}, True, "`result_dtype` must be a number type"),
        ({"result_dtype": "uint8"}, False, "choose dpmm_ad_mask"),
        ({"result_dtype": "object"}, False, "`result_dtype` must be"),
    ],
)
def test_a_wrong_output_says_what_is_wrong(request_: dict[str, Any], is_mask: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_output(request_, is_mask)
