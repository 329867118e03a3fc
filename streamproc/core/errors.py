"""What streamproc raises, and nothing else.

Bad data is never an exception that leaves the engine: it is a value on a named output.  These are for mistakes in a
topology, for state that does not fit it, and for a task that was told to stop.
"""

from __future__ import annotations


class StreamprocError(Exception):
    """The parent of everything streamproc raises on purpose; its text says what to do."""


class TopologyError(StreamprocError):
    """A topology cannot be built: a mistake in how it was declared."""


class ConfigError(StreamprocError):
    """A setting, flag or file given by the user cannot be used."""


class StateError(StreamprocError):
    """Stored state does not fit: another topology, another layout, a newer format, or a second process on it."""


class InvalidTimestamp(StreamprocError):
    """An event time is missing, no integer or aware datetime, or beyond 2**62 ms (S4)."""


class FutureTimestamp(StreamprocError):
    """An event time is further ahead of the reference clock than `max_future` allows (S15); `at` is the time, in ms."""

    def __init__(self, text: str, at: int) -> None:
        super().__init__(text)
        self.at = at


class TooLarge(StreamprocError):
    """A result is larger than what may be written (S42)."""


class TooFarAhead(StreamprocError):
    """A result bears a timestamp that its topic does not take yet (S42)."""


class TaskFailed(StreamprocError):
    """A record met the action `fail`: the task stops before it, and nothing from that record on was committed."""
