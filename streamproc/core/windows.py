"""Window arithmetic.  No state, no clock: integers in, integers out.

    Hopping(size=30, advance=10)     0    10    20    30    40
                                     [--------------)
                                          [--------------)
                                                [--------------)

A fixed window is named by its end, which is exclusive; `start(end)` gives the other side.  A window is closed iff
W >= end + grace (S19).  Sizes and instants are milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from streamproc.core.errors import TopologyError
from streamproc.core.instants import Duration, duration, text

MOST_WINDOWS = 10_000
"""The greatest number of windows that may hold one record."""


class FixedWindow(Protocol):
    """Windows that depend on the timestamp alone (S6 to S9)."""

    @property
    def grace(self) -> int: ...

    def ends(self, at: int) -> tuple[int, ...]:
        """The ends of all windows that hold this instant, ascending."""
        ...

    def start(self, end: int) -> int:
        """The start of the window with this end."""
        ...

    def span(self, at: int) -> tuple[int, int]:
        """The widest [low, high) around an instant within which `ends` gives the same answer."""
        ...


def _set(window: object, **fields: int | bool) -> None:
    for name, given in fields.items():
        object.__setattr__(window, name, given)


@dataclass(frozen=True, slots=True, init=False)
class Tumbling:
    """Windows of one size, side by side: `start = at - (at - offset) mod size` (S6)."""

    size: int
    offset: int
    grace: int

    def __init__(self, size: Duration, *, offset: Duration = "0s", grace: Duration = "0s") -> None:
        _set(
            self,
            size=duration("size", size, least=1),
            offset=duration("offset", offset, least=-(2**60)),
            grace=duration("grace", grace),
        )

    def ends(self, at: int) -> tuple[int, ...]:
        return (at - (at - self.offset) % self.size + self.size,)

    def start(self, end: int) -> int:
        return end - self.size

    def span(self, at: int) -> tuple[int, int]:
        low = at - (at - self.offset) % self.size
        return low, low + self.size

    def __str__(self) -> str:
        return f"tumbling {text(self.size)}" + _rest(self.offset, self.grace)


@dataclass(frozen=True, slots=True, init=False)
class Hopping:
    """Windows of one size that start every `advance`; a record is in all that hold it (S7).

    An advance greater than the size leaves gaps and loses the records in them, so it is refused unless `allow_gaps`.
    """

    size: int
    advance: int
    offset: int
    grace: int
    allow_gaps: bool

    def __init__(
        self,
        size: Duration,
        *,
        advance: Duration,
        offset: Duration = "0s",
        grace: Duration = "0s",
        allow_gaps: bool = False,
    ) -> None:
        _set(
            self,
            size=duration("size", size, least=1),
            advance=duration("advance", advance, least=1),
            offset=duration("offset", offset, least=-(2**60)),
            grace=duration("grace", grace),
            allow_gaps=allow_gaps,
        )
        if self.advance > self.size and not allow_gaps:
            raise TopologyError(
                f"advance={advance!r} is greater than size={size!r}: records between the windows would be lost; "
                "make it smaller, or say allow_gaps=True"
            )
        if (each := self.size // self.advance) > MOST_WINDOWS:
            raise TopologyError(
                f"size={size!r} and advance={advance!r}: each record would be in {each:,} windows, "
                f"and {MOST_WINDOWS:,} are the most; make advance greater"
            )

    def ends(self, at: int) -> tuple[int, ...]:
        last = at - (at - self.offset) % self.advance + self.size
        first = last - (last - at - 1) // self.advance * self.advance
        return tuple(range(first, last + 1, self.advance))

    def start(self, end: int) -> int:
        return end - self.size

    def span(self, at: int) -> tuple[int, int]:
        start = at - (at - self.offset) % self.advance
        end = at - (at - self.offset - self.size) % self.advance
        return max(start, end), min(start, end) + self.advance

    def __str__(self) -> str:
        return f"hopping {text(self.size)} every {text(self.advance)}" + _rest(self.offset, self.grace)


@dataclass(frozen=True, slots=True, init=False)
class Trailing:
    """One result per event: the fold of its key's records in [at - d, at], both ends included (S11)."""

    d: int
    grace: int

    def __init__(self, d: Duration, *, grace: Duration = "0s") -> None:
        _set(self, d=duration("d", d), grace=duration("grace", grace))

    def __str__(self) -> str:
        return f"trailing {text(self.d)}" + _rest(0, self.grace)


def _rest(offset: int, grace: int) -> str:
    return (f" offset {text(offset)}" if offset else "") + (f" grace {text(grace)}" if grace else "")
