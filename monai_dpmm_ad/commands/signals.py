# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""End a command on Ctrl-C and on SIGTERM, which schedulers send, alike: tidily, and with a status that says which."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from monai_dpmm_ad.errors import find_behind

__all__ = ["Terminated", "end_on_signals", "exit_status", "find_interrupt"]


#: Seconds after which a finaliser is over.
_SOON = 0.1


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM. Whatever tidies up on Ctrl-C does so."""


@contextmanager
def end_on_signals() -> Iterator[list[Terminated]]:
    """Raise :class:`Terminated` on the first SIGTERM; later ones must not disturb the tidying up.

    What was raised is in the list, too: compiled code may make an error of its own of it. A signal that comes while
    Python finalises an object is swallowed there; it, or Ctrl-C, is raised again at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    raised: list[Terminated] = []

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raised.append(Terminated())
        raise raised[-1]

    def raise_again(lost: Any) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            hook(lost)
            return
        number = signal.SIGTERM if issubclass(lost.exc_type, Terminated) else signal.SIGINT
        if number == signal.SIGTERM:
            signal.signal(number, end)
        _thread.start_new_thread(_interrupt_soon, (number,))  # a Thread's start would wait for it, in here

    before, hook = signal.signal(signal.SIGTERM, end), sys.unraisablehook
    sys.unraisablehook = raise_again
    try:
        yield raised
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


def _interrupt_soon(number: int) -> None:
    time.sleep(_SOON)
    _thread.interrupt_main(signal.Signals(number))


def find_interrupt(error: BaseException | None) -> KeyboardInterrupt | None:
    """Find the signal behind an exception: MONAI imports through ``pydoc``, which wraps whatever comes up meanwhile."""
    return find_behind(error, KeyboardInterrupt)


def exit_status(error: KeyboardInterrupt) -> int:
    """128 and the number of the signal, as shells have it: 143 for SIGTERM, 130 for Ctrl-C."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
