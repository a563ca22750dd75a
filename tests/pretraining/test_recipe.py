# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"view_size": 36}, "`view_size` must be a multiple of `patch_size`, got 36 and 8"),
        ({"image_size": 60}, "`image_size` must be a multiple"),
        ({"view_size": 16}, "`view_size` must be at least four patches"),
        ({"num_heads": 3}, "`embed_dim` must be a multiple of `num_heads`, got 32 and 3"),
        ({"steps": 0}, "`steps` must be positive, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive"),
        ({"lesions": -1.0}, "`lesions` must be not negative"),
        ({"contrast": 0.0}, "`contrast` or `distillation` must be positive"),
        ({"min_zoom": 2.0}, "`min_zoom` must be positive and at most `max_zoom`"),
        ({"mixed_share": 1.5}, "`mixed_share` must be at most 1, got 1.5"),
        ({"precision": "bf61"}, "Did you mean 'bf16'"),
    ],
)
def test_bad_settings_are_refused(make_recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        make_recipe(**changes)


def test_wrong_type_is_refused(make_recipe):
    with pytest.raises(TypeError, match=r"`steps` must be of type int, got 1\.5"):
        make_recipe(steps=1.5)
