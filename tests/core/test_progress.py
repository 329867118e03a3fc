"""Event time in small: the order of inputs, and which instants are accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.core.batch import FARTHEST
from streamproc.core.errors import FutureTimestamp, InvalidTimestamp
from streamproc.core.progress import instants, merge


@pytest.mark.parametrize(
    ("queues", "awaited", "order"),
    [
        ([[5], [5], [3]], [False, False, False], [2, 0, 1]),
        ([[5, 4], [5], [3]], [False, False, False], [2, 0, 0, 1]),
        ([[5, 6], [5], [3]], [False, False, False], [2, 0, 1, 0]),
        ([[5], [6]], [True, True], [0]),
        ([[5], []], [True, True], []),
        ([[5], []], [True, False], [0]),
        ([[1, 2, 3]], [True], [0, 0, 0]),
        ([], [], []),
    ],
)
def test_heads_are_taken_by_time_then_input(queues: list[list[int]], awaited: list[bool], order: list[int]) -> None:
    """The least head goes first, of equal ones that of the first input; an input that may still deliver is awaited."""
    assert merge(queues, awaited) == order


@given(st.lists(st.lists(st.integers(0, 4), max_size=6), min_size=1, max_size=4))
def test_a_merge_is_one_head_at_a_time(queues: list[list[int]]) -> None:
    """Merging is what choosing the least (head, input) again and again gives, each input kept in its own order."""
    left = [list(queue) for queue in queues]
    chosen = []
    while any(left):
        number = min((queue[0], n) for n, queue in enumerate(left) if queue)[1]
        left[number].pop(0)
        chosen.append(number)
    assert merge(queues, [False] * len(queues)) == chosen


@pytest.mark.parametrize("others", [[], [None], ["text"], [10_001]], ids=["alone", "missing", "text", "future"])
def test_the_limit_itself_is_accepted(others: list[object]) -> None:
    """A stamp at the limit passes and one a millisecond beyond does not, whatever else is in the slice."""
    stamps = [10_000, *others, 10_001]
    timed = instants(stamps, lambda stamp: stamp, 10_000)
    assert timed.times[0] == 10_000
    assert isinstance(dict(timed.failed)[len(stamps) - 1], FutureTimestamp)
    assert [index for index, _ in timed.failed] == list(range(1, len(stamps)))


@pytest.mark.parametrize("stamp", [None, "1", 1.0, True, FARTHEST + 1, -FARTHEST - 1])
def test_what_is_no_instant_is_refused(stamp: object) -> None:
    """Only integers within 2**62 are instants, and a boolean is none; the neighbours in the slice do not suffer."""
    timed = instants([1, stamp, -FARTHEST, FARTHEST], lambda given: given, None)
    assert timed.times[0] == 1
    assert timed.times[2:] == [-FARTHEST, FARTHEST]
    assert [(index, type(error)) for index, error in timed.failed] == [(1, InvalidTimestamp)]
