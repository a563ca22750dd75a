# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What an evaluation needs of a scan's truth."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import MapTransform

from monai_dpmm_ad.errors import ScanError, source_of

__all__ = ["CheckTruthd"]


class CheckTruthd(MapTransform):
    """Refuse a scan whose mask marks something and whose class says that it is normal: one of the two is wrong.

    Args:
        keys: of the mask, where there is one.
        class_key: of the class, 0 or 1, where there is one.

    Example:
        >>> CheckTruthd()({"abnormal": 0})
        {'abnormal': 0}
    """

    def __init__(self, keys: str = "label", class_key: str = "abnormal") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.class_key = class_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        for key in self.key_iterator(out):
            if out[key] is not None and out.get(self.class_key) == 0 and bool((out[key] != 0).any()):
                raise ScanError(
                    source_of(out[key]),
                    f"marks something in a scan that `{self.class_key}` 0 calls normal; correct the mask or the class",
                )
        return out
