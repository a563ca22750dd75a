# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Docstrings name things as Sphinx does, ``:func:`~package.module.name` ``; the site shows the name."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")


class Roles(Extension):
    """Replace roles by the last part of their names."""

    def on_instance(self, *, obj: Any, **context: Any) -> None:
        """Rewrite one docstring."""
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
