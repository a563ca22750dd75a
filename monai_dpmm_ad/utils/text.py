# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Text from file names and file contents, where it must not be able to act."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Show what a terminal or a table would obey, or what no encoding has, as its escape.

    That is control characters (line breaks, carriage returns, escape codes), characters that change the direction of
    writing, and the bytes of a file name that is no UTF-8.

    Example:
        >>> printable("a\x1b[2J\r\nb \u202egpj.exe")
        'a\\x1b[2J\\r\\nb \\u202egpj.exe'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )
