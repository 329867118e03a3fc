"""How event time moves: watermarks of inputs, their combination, and the order in which inputs are taken.

    input 0   max so far - disorder ──┐
    input 1   max so far - disorder ──┴─ least of the active, aligned ones, never falling ──> W

Pure functions and small values; whatever a clock decides comes in as an argument (S41).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import Any, NamedTuple

from streamproc.core.batch import END, FARTHEST, START, earlier
from streamproc.core.errors import FutureTimestamp, InvalidTimestamp
from streamproc.core.instants import instant


@dataclass(slots=True)
class InputTime:
    """The progress of one input: its greatest timestamp, its watermark, and whether it counts (S14, S16).

    `flown` is where its watermark would be by the clock, START unless that was decided since it is idle (S18).
    """

    top: int = START
    watermark: int = START
    idle: bool = False
    ended: bool = False
    flown: int = START

    def saw(self, at: int, disorder: int) -> bool:
        """Take note of an acceptable record; whether the watermark moved, or counts again after idleness."""
        if woke := self.idle:
            self.wakes()
        if at <= self.top:
            return woke
        self.top = at
        return self.moves_to(earlier(at, disorder)) or woke

    def moves_to(self, watermark: int) -> bool:
        """Raise the watermark; it never falls."""
        if watermark <= self.watermark:
            return False
        self.watermark = watermark
        return True

    def falls_silent(self) -> None:
        """The input is idle and holds nobody back until its next record (S17)."""
        self.idle = not self.ended

    def wakes(self) -> None:
        """The input counts again."""
        self.idle, self.flown = False, START

    def flows_to(self, watermark: int) -> None:
        """While it is idle, it has flown with the clock to here (S18)."""
        if self.idle:
            self.flown = max(self.flown, watermark)

    def marked(self, watermark: int, idle: bool) -> None:  # noqa: FBT001 - as it stands in the mark
        """Take over what an upstream task says of itself (S46)."""
        if idle:
            self.falls_silent()
        else:
            self.wakes()
        self.moves_to(watermark)

    def end(self) -> None:
        """The input has been read to its end: it counts as +inf (S49)."""
        self.ended = True
        self.wakes()
        self.moves_to(END)


@dataclass(slots=True)
class Combined:
    """The watermark of several inputs, each held back by a lag of its own (S16, S26).

    An input that was idle is in `behind` until it is aligned again: until its watermark is not below the combined one.
    While all are idle, W stays, unless every one of them that has delivered flows on with the clock (S18).
    """

    inputs: tuple[tuple[InputTime, int], ...]
    watermark: int = START
    behind: set[int] = field(default_factory=set)

    @property
    def idle(self) -> bool:
        """Whether all inputs are idle, so that nobody moves W."""
        return all(one.idle for one, _ in self.inputs)

    def refresh(self) -> bool:
        """Combine anew; whether the watermark moved."""
        least = None
        for number, (one, lag) in enumerate(self.inputs):
            if one.idle:
                self.behind.add(number)
                continue
            its = earlier(one.watermark, lag)
            if number in self.behind:
                if its < self.watermark:
                    continue
                self.behind.remove(number)
            if least is None or its < least:
                least = its
        if least is None and self.idle:
            flown = [earlier(one.flown, lag) for one, lag in self.inputs if one.watermark != START]
            least = min(flown, default=None)
        if least is None or least <= self.watermark:
            return False
        self.watermark = least
        return True

    def holders(self) -> list[InputTime]:
        """The inputs W waits for: those that are active and aligned, else those that are to catch up, else all."""
        active = [(number, one) for number, (one, _) in enumerate(self.inputs) if not (one.ended or one.idle)]
        aligned = [one for number, one in active if number not in self.behind]
        return aligned or [one for _, one in active] or [one for one, _ in self.inputs if not one.ended]


@dataclass(slots=True)
class Silence:
    """How long an input has been silent (S17): since its last acceptable record, without the time that does not count.

    Spans are told as they pass, in ms of a monotonic clock.  `timeout` is None for an input that never falls idle.
    """

    timeout: int | None
    silent: int = 0

    @property
    def idle(self) -> bool:
        """Whether it has been silent for so long that it is idle."""
        return self.timeout is not None and self.silent >= self.timeout

    def heard(self) -> None:
        """An acceptable record has come."""
        self.silent = 0

    def passed(self, span: int, *, polled: bool, lag: int | None) -> None:
        """Time has passed; it counts if the input was polled, so not paused, and its lag known to be 0."""
        if polled and lag == 0:
            self.silent += span


class Timed(NamedTuple):
    """The instants of a slice; where there is none it is START and `failed` says why."""

    times: list[int]
    failed: list[tuple[int, InvalidTimestamp | FutureTimestamp]]


def instants(values: Sequence[Any], event_time: Callable[[Any], Any], limit: int | None) -> Timed:
    """The event time of each value, checked (S4); beyond `limit` it is in the future (S15).

    An `event_time` that raises has found no timestamp.  Most slices are all integers in range, which is found out
    without a step per record.
    """
    try:
        times = list(map(event_time, values))
        latest = FARTHEST if limit is None else min(limit, FARTHEST)
        if set(map(type, times)) == {int} and min(times) >= -FARTHEST and max(times) <= latest:
            return Timed(times, [])
    except Exception:  # noqa: BLE001, S110 - user code; the slow way below finds the record
        pass
    times, failed = [], []
    for index, value in enumerate(values):
        at = START
        try:
            at = _checked(value, event_time, limit)
        except (InvalidTimestamp, FutureTimestamp) as error:
            failed.append((index, error))
        times.append(at)
    return Timed(times, failed)


def _checked(value: Any, event_time: Callable[[Any], Any], limit: int | None) -> int:
    """The event time of one value; InvalidTimestamp or FutureTimestamp where it has none to be used."""
    try:
        stamp = event_time(value)
    except Exception as error:
        raise InvalidTimestamp(f"event_time raised {type(error).__name__}: {error}") from error
    at = instant(stamp)
    if limit is not None and at > limit:
        raise future(at, limit)
    return at


def future(at: int, limit: int) -> FutureTimestamp:
    """What is said of an event time beyond the limit."""
    return FutureTimestamp(f"the event time is {at - limit} ms beyond what max_future allows", at)


def merge(queues: Sequence[Sequence[int]], awaited: Sequence[bool]) -> list[int]:
    """The order in which the heads of several inputs are taken, as numbers of queues (S39).

    `queues` are the timestamps at hand, one queue an input, the inputs in the order that breaks ties (tables first,
    then topic, then partition).  It stops where a queue runs empty that is awaited: one that may still deliver.
    """
    if any(wait and not queue for queue, wait in zip(queues, awaited, strict=True)):
        return []
    if len(queues) == 1:
        return [0] * len(queues[0])
    heads = [(queue[0], number, 0) for number, queue in enumerate(queues) if queue]
    heapify(heads)
    order: list[int] = []
    while heads:
        _, number, index = heads[0]
        order.append(number)
        queue = queues[number]
        if index + 1 < len(queue):
            heapreplace(heads, (queue[index + 1], number, index + 1))
        elif awaited[number]:
            break
        else:
            heappop(heads)
    return order
