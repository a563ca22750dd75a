# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What is known of a scan before it is read."""

from __future__ import annotations

from typing import Any

__all__ = ["Item"]

#: An entry of a datalist: ``image``, a path or those of a DICOM series, a unique ``name``, and as far as the data tell
#: ``label`` and ``regions``, paths too, ``abnormal``, 0 or 1, and ``subject``.
Item = dict[str, Any]
