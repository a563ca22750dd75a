# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What an output says of the run that made it, which no other run says."""

from __future__ import annotations

import re

__all__ = ["without_machine"]

_MACHINE = re.compile(rb'<!-- machine -->.*?<!-- /machine -->|"cpu_seconds": {.*?}', re.DOTALL)


def without_machine(content: bytes) -> bytes:
    """Leave out the processor, the memory and the time of a fit, and the time of a benchmark's cell."""
    return _MACHINE.sub(b"", content)
