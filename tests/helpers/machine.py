# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What a bundle's README says of the run that fitted it, which no other run says."""

from __future__ import annotations

import re

__all__ = ["without_machine"]

_MACHINE = re.compile(rb"<!-- machine -->.*?<!-- /machine -->", re.DOTALL)


def without_machine(content: bytes) -> bytes:
    """Leave out the processor, the time and the memory of a fit."""
    return _MACHINE.sub(b"", content)
