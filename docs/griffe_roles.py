# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""What the docstrings of this package, which are MONAI's kind, need to be shown by the site.

Names in roles, ``:func:`~package.module.name` ``, become the bare name; ``Example:`` is the section that Griffe calls
``Examples:``.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")


class Roles(Extension):
    """Rewrite docstrings before they are parsed."""

    def on_instance(self, *, obj: Any, **context: Any) -> None:
        """Rewrite one docstring."""
        if not obj.is_alias and obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub("Examples:", text)
