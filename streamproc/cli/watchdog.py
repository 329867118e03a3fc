"""What every thread and every task of the event loop is at, told when one of them makes no progress, or on SIGUSR1.

    pulse ── a tick is 5 s late ── a step takes half its limit ── a partition does not move ──> `stalled`, once each
    SIGUSR1 ──> `stacks`, and before it what faulthandler writes, which needs nobody's help

It is a thread of its own: whatever holds up the event loop or the engine does not hold it up.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

import structlog

from streamproc.ports.worker import Limits, Pulse

LOOK = 1.0
"""Seconds between two looks at the pulse."""
DEEPEST = 40
"""Frames of one stack that are told, the innermost."""


class Watchdog:
    """Watches a pulse for the time of a run; in the main thread, with the event loop whose tasks are told.

    `clock` is the wall clock in seconds, by which the pulse counts.
    """

    def __init__(
        self,
        pulse: Callable[[], Pulse],
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pulse = pulse
        self._limits = limits
        self._loop = loop
        self._clock = clock
        self._log: Any = structlog.get_logger("streamproc")
        self._woken = threading.Event()
        self._asked = False
        self._over = False
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._watch, name="streamproc-watchdog", daemon=True)

    def __enter__(self) -> None:
        faulthandler.unregister(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, self._heard)
        faulthandler.register(signal.SIGUSR1, file=2, all_threads=True, chain=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._woken.set()
        faulthandler.unregister(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def _heard(self, _: int, __: FrameType | None) -> None:
        self._asked = True
        self._woken.set()

    def _watch(self) -> None:
        while not self._over:
            self._woken.wait(LOOK)
            self._woken.clear()
            if self._asked:
                self._asked = False
                self._log.info("stacks", **self._stacks())
            self.look()

    def look(self) -> None:
        """Tell of what has stalled since it was last looked at; once, until it moves again."""
        found = dict(stalls(self._pulse(), self._limits, self._clock()))
        for what in sorted(found.keys() - self._told):
            self._log.error("stalled", **found[what], what=what, **self._stacks())
        self._told = set(found)

    def _stacks(self) -> dict[str, Any]:
        return {"threads": threads(), "tasks": tasks(self._loop)}


def stalls(pulse: Pulse, limits: Limits, now: float) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What makes no progress, and for how many seconds; before a health check would give the worker up for it."""
    if pulse.state in {"stopped", "failed"}:
        return
    if pulse.ticked_at is not None and now - pulse.ticked_at >= limits.tick:
        yield "loop", {"seconds": round(now - pulse.ticked_at, 3)}
    if pulse.stepping_since is not None and now - pulse.stepping_since >= limits.step / 2:
        yield "step", {"seconds": round(now - pulse.stepping_since, 3), "task": pulse.stepping}
    if pulse.stalled_since is not None:
        yield "partitions", {"seconds": round(now - pulse.stalled_since, 3)}


def threads() -> dict[str, list[str]]:
    """Where each thread is, outermost frame first."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return {
        f"{names.get(number, '?')} {number}": _lines(reversed(list(_callers(frame))))
        for number, frame in sys._current_frames().items()  # noqa: SLF001 - the documented way to see them
    }


def tasks(loop: asyncio.AbstractEventLoop) -> dict[str, list[str]]:
    """Where each task of an event loop waits, outermost frame first."""
    return {task.get_name(): _lines(_awaited(task.get_coro())) for task in asyncio.all_tasks(loop)}


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _awaited(waiting: Any) -> Iterator[FrameType]:
    """The frames of a coroutine, of what it waits for, and so on."""
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            return
        yield frame
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)


def _lines(frames: Iterator[FrameType]) -> list[str]:
    """Places without their source lines, which may hold what belongs in no log."""
    return [f"{one.f_code.co_filename}:{one.f_lineno} {one.f_code.co_qualname}" for one in frames][-DEEPEST:]
