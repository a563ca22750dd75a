# Copyright 2026 monai_dpmm_ad contributors. Licensed under the Apache License, Version 2.0.
"""Working ahead: order, results and exceptions are those of a plain loop, and leaving early ends the work."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_dpmm_ad.engines.prefetch import Prefetcher, StoppedError

WAIT = 30  # seconds, of what must happen at once


@settings(deadline=None)
@given(st.lists(st.integers(), max_size=8))
def test_results_come_in_the_order_of_the_items(items: list[int]) -> None:
    ahead: Prefetcher[int, int] = Prefetcher(items, lambda item: -item)
    for _ in range(2):  # each pass begins anew
        assert list(ahead) == [-item for item in items]
    assert len(ahead) == len(items)


def test_the_next_item_is_worked_on_while_this_one_is_used() -> None:
    begun = {number: threading.Event() for number in range(4)}

    def begin(number: int) -> int:
        begun[number].set()
        return number

    ahead: Prefetcher[int, int] = Prefetcher(range(4), begin)
    for number in ahead:
        assert number == 3 or begun[number + 1].wait(WAIT)
        assert number > 1 or not begun[number + 2].is_set()  # and no further, so that memory stays bounded


def test_nothing_is_begun_beside_what_is_to_be_alone() -> None:
    begun: list[int] = []

    def begin(number: int) -> int:
        begun.append(number)
        return number

    taken = []
    for number in Prefetcher(range(6), begin, alone=lambda number: number != 4):
        taken.append(number)
        if number != 4:
            assert begun == list(range(number + 1))
    assert taken == list(range(6))


def test_what_is_to_be_alone_is_let_go_before_the_next_is_begun() -> None:
    kept: list[weakref.ref[Big]] = []

    class Big:
        pass

    def begin(number: int) -> Big:
        assert not any(one() is not None for one in kept)
        made = Big()
        kept.append(weakref.ref(made))
        return made

    results = iter(Prefetcher(range(4), begin, alone=lambda result: True))
    for _ in range(4):
        one = next(results)
        assert kept[-1]() is one
        del one
    assert len(kept) == 4


def test_work_is_done_in_another_thread_one_item_at_a_time() -> None:
    threads = set(Prefetcher(range(5), lambda _: threading.get_ident()))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_exception_comes_where_a_plain_loop_would_raise_it() -> None:
    results = iter(Prefetcher([2, 1, 0, 1], lambda item: 1 / item))
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_exception_of_the_source_comes_too() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise KeyError("gone")

    results = iter(Prefetcher(source(), lambda item: item))
    assert next(results) == 1
    with pytest.raises(KeyError, match="gone"):
        next(results)


@pytest.mark.parametrize("leave", ["break", "raise", "close"])
def test_leaving_early_ends_the_work_that_is_under_way(leave: str) -> None:
    working, ended = threading.Event(), threading.Event()

    def work(number: int) -> None:
        if number:
            working.set()
            try:
                while True:  # a volume of many slices: each is preceded by a look
                    ahead.check()
            except StoppedError:
                ended.set()
                raise

    ahead: Prefetcher[int, None] = Prefetcher(range(3), work)

    def use() -> None:
        for _ in ahead:
            assert working.wait(WAIT)
            if leave == "raise":
                raise KeyboardInterrupt
            if leave == "close":
                ahead.close()
            break

    if leave == "raise":
        with pytest.raises(KeyboardInterrupt):
            use()
    else:
        use()
    ahead.close()
    assert ended.is_set()


def test_nothing_is_stopped_before_the_end() -> None:
    ahead: Prefetcher[int, None] = Prefetcher(range(3), lambda _: ahead.check())
    assert len(list(ahead)) == 3
