"""Joins of two streams: records of equal keys that are near in time, whichever comes first.

    left  l@t --side 0--> [t - before, t + after] holds u? --> f(l, r) at max(t, u), with the second of the two
    right r@u --side 1--> the same, from the other side
    W     -------------->  nobody can come any more, and nobody came --> f(l, None) or f(None, r)

A record stands in the cell of the instant that closes it, so that what is due is what has closed (S28), and a record
that finds its own instant passed is late (S29).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from streamproc.core.batch import Cell, Record
from streamproc.core.operators import AnyRecord, Context, Run

LEFT, RIGHT = 0, 1


@dataclass(frozen=True, slots=True)
class IntervalJoin:
    """Left l@t and right r@u of one key meet iff `t - before <= u <= t + after` (S27); times in ms.

    A side that is padded emits what closes alone, with None for the other (S28); `how` is inner, left or outer.  Each
    side has a slot of cells `[[value, whether it has met somebody], ...]`, in order of arrival.
    """

    f: Callable[[Any, Any], Any]
    how: str
    before: int
    after: int
    grace: int
    slots: int = field(default=2, init=False, repr=False)
    by_key: bool = field(default=True, init=False, repr=False)
    one_by_one: bool = field(default=True, init=False, repr=False)
    forgets: tuple[int, ...] = field(init=False, repr=False)
    _lasts: tuple[int, int] = field(init=False, repr=False)
    _slots: tuple[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        lasts = max(self.after, 0) + 1 + self.grace, max(self.before, 0) + 1 + self.grace
        # of those that close together the older come first, which are the longer lasting, and then the left ones (S28)
        slots = (0, 1) if lasts[LEFT] >= lasts[RIGHT] else (1, 0)
        for name, given in (
            ("_lasts", lasts),
            ("_slots", slots),
            ("forgets", tuple(sorted(slots[side] for side in (LEFT, RIGHT) if not self.pads(side)))),
        ):
            object.__setattr__(self, name, given)

    def pads(self, side: int) -> bool:
        """Whether a record of this side that closes alone is emitted."""
        return self.how == "outer" or (side == LEFT and self.how == "left")

    @property
    def hold(self) -> int:
        """Results are no older than W by more than this (S26)."""
        return max(self.before, self.after, 0) + self.grace

    def on_side(self, side: int, record: AnyRecord, ctx: Context) -> Iterator[AnyRecord]:
        """A record of the left (0) or the right (1) side: it meets all that wait for it, and waits itself."""
        key, value, at, pads = record.key, record.value, record.at, self.pads(side)
        if key is None and not pads:
            ctx.skip(record, "null_key")
            return
        if value is None:
            ctx.skip(record, "null_value")
            return
        closes = at + self._lasts[side]
        if closes <= ctx.watermark:
            ctx.late(record)
            return
        if key is None:  # nobody can meet it, so nothing is awaited (S30)
            yield self._alone(side, record)
            return
        met = False
        for cell in self._others(side, key, at, ctx):
            other_at = cell.at - self._lasts[1 - side]
            for other, _ in cell.value:
                met = True
                joined = self.f(value, other) if side == LEFT else self.f(other, value)
                yield Record(key, joined, max(at, other_at), (), record.topic, record.partition, record.offset)
            if self.pads(1 - side) and not all(known for _, known in cell.value):
                ctx.put(cell.at, key, [[other, True] for other, _ in cell.value], slot=self._slots[1 - side])
        slot = self._slots[side]
        ctx.put(closes, key, [*(ctx.get(closes, key, slot=slot) or ()), [value, met]], slot=slot)

    def _others(self, side: int, key: Any, at: int, ctx: Context) -> list[Cell]:
        """What waits on the other side and is near enough, by time."""
        back, ahead = (self.before, self.after) if side == LEFT else (self.after, self.before)
        lasts = self._lasts[1 - side]
        return ctx.scan(key, at - back + lasts, at + ahead + lasts, slot=self._slots[1 - side])

    def on_run(self, run: Run, ctx: Context) -> Run:
        raise NotImplementedError("a join is fed by its sides")

    def on_due(self, cell: Cell, ctx: Context) -> Iterator[AnyRecord]:  # noqa: ARG002 - what it needs is in the cell
        """One record that has closed; alone if it has met nobody."""
        value, met = cell.value
        if not met:
            side = self._slots[cell.slot]
            yield self._alone(side, Record(cell.key, value, cell.at - self._lasts[side]))

    def _alone(self, side: int, record: AnyRecord) -> AnyRecord:
        padded = self.f(record.value, None) if side == LEFT else self.f(None, record.value)
        return Record(record.key, padded, record.at, (), record.topic, record.partition, record.offset)
