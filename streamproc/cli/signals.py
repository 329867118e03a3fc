"""The ladder of stopping: once asks for a drain, twice leaves at once, and a drain has a deadline.

SIGTERM, SIGINT --> stop reading, finish the step, commit, exit 0
             again --> exit 130         deadline passed --> exit 75         SIGUSR1 --> all stacks to stderr
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from streamproc.cli.outcomes import SECOND, TOO_LATE


class Stop(Protocol):
    """What is asked to stop, and knows whether it was."""

    @property
    def requested(self) -> bool: ...

    def request(self) -> None: ...


class Ladder:
    """Signal handlers for the time of a run; `leave` tidies up before the process ends without a drain."""

    def __init__(self, stop: Stop, deadline: float, leave: Callable[[], None]) -> None:
        self._stop = stop
        self._deadline = deadline
        self._leave = leave
        self._before: dict[signal.Signals, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._heard)
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        faulthandler.unregister(signal.SIGUSR1)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, _: int, __: FrameType | None) -> None:
        if self._stop.requested:
            self._end(SECOND, "stopped at once; what was not committed will be read again")
        self._stop.request()
        self._timer = threading.Timer(self._deadline, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        self._end(TOO_LATE, f"no drain within {self._deadline:g} s; what was not committed will be read again")

    def _end(self, code: int, why: str) -> None:
        """Leave without going back to whatever is under way."""
        self._leave()
        os.write(2, f"streamproc: {why}\n".encode())
        os._exit(code)
