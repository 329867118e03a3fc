"""An event loop whose schedule comes from a seed and whose time is only counted.

    nothing ready?   time jumps to the next timer
    several ready?   the seed picks one of them

A callback belongs to a process, which a context variable names, so that whatever a process starts is its own.  Before
any callback of a process, that is at every `await`, the process can be killed or frozen.  One that is killed is never
resumed and never closed: no `except` and no `finally` of it runs.  There are no threads and no sockets.

The same seed gives the same schedule, and `trace` says so: a number over time, process and name of every callback.
Nothing in here iterates over a set.  What runs on the loop should not either, or needs PYTHONHASHSEED to be fixed.

The order among callbacks that are ready is any order, while asyncio's own loop keeps that of their scheduling.  What is
right here is right there.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from inspect import CORO_CLOSED, getcoroutinestate
from random import Random
from typing import Any, NoReturn, TypeVar
from zlib import crc32

T = TypeVar("T")

_process: ContextVar[Process | None] = ContextVar("process", default=None)


def current_process() -> Process | None:
    """The process that is running, if any is."""
    return _process.get()


class Stalled(Exception):
    """Nothing is ready and nothing is due: what is waited for can never come."""


class Call(asyncio.TimerHandle):
    """A callback, with the process that it belongs to."""

    __slots__ = ("process",)

    _context: Context

    def __init__(
        self, loop: Loop, when: float, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> None:
        # The base class would ask for the context and the debug mode twice; this is the hottest line of the simulation.
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = False
        self.process: Process | None = self._context.get(_process)

    def run(self) -> None:
        """Do it."""
        self._context.run(self._callback, *self._args)

    @property
    def name(self) -> str:
        """What is to run: the coroutine's name for a step of a task, else the callback's."""
        owner = getattr(self._callback, "__self__", None)
        if isinstance(owner, asyncio.Task):
            return owner.get_coro().__qualname__  # type: ignore[no-any-return, union-attr]
        name: str = getattr(self._callback, "__qualname__", "") or type(self._callback).__qualname__
        return name


class Process:
    """What runs and dies together.  It is made by `Loop.process`.

    `killed` and `frozen` tell its state; both may be caused from outside or, by `after`, between any two of its steps.
    """

    def __init__(self, loop: Loop, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.killed = False
        self.frozen = False
        self._loop = loop
        self._context = copy_context()
        self._context.run(_process.set, self)
        self._tasks: list[asyncio.Task[Any]] = []
        self._room = 16
        self._kept: list[object] = []
        self._parked: list[Call] = []
        self._steps = 0
        self._action: Callable[[], object] | None = None
        self.odd = False
        """Whether its callbacks need a second look: it is dead, frozen or about to be."""

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as a task of this process."""
        return self._loop.create_task(coroutine, context=self._context.copy())

    def kill(self) -> None:
        """As by SIGKILL: nothing of it ever runs again."""
        self.killed = self.odd = True
        self._kept.extend(self._parked)
        self._parked.clear()

    def freeze(self, seconds: float) -> None:
        """As by SIGSTOP, and SIGCONT after so long: what comes due in the meantime waits, and then is late."""
        if not self.killed and not self.frozen:
            self.frozen = self.odd = True
            self._loop.later(seconds, self._thaw)

    def after(self, steps: int, action: Callable[[], object]) -> None:
        """Call `action` before the callback that comes after so many more of its callbacks."""
        self._steps, self._action, self.odd = steps, action, True

    def _thaw(self) -> None:
        self.frozen = False
        self.odd = self.killed or self._action is not None
        self._loop.resume(self._parked)
        self._parked = []

    def admits(self, call: Call) -> bool:
        """Whether a callback may run now; one that may not is kept."""
        if self._action is not None and not self.killed and not self.frozen:
            self._steps -= 1
            if self._steps < 0:
                action, self._action = self._action, None
                self.odd = False
                action()
        if self.killed:
            self._kept.append(call)  # its arguments must outlive it, or their finalisers would run
        elif self.frozen:
            self._parked.append(call)
        return not self.killed and not self.frozen

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold on to a task while it runs: asyncio does not, and one that is dropped would be closed."""
        if len(self._tasks) >= self._room:
            self._tasks = [kept for kept in self._tasks if not kept.done()]
            self._room = 2 * len(self._tasks) + 16
        self._tasks.append(task)

    def failed(self) -> list[asyncio.Task[Any]]:
        """Its tasks that died of something that nobody asked for."""
        return [task for task in self._tasks if task.done() and task._log_traceback]  # noqa: SLF001

    def hold(self, kept: object) -> None:
        """Keep an object from being finalised for as long as the loop is open."""
        self._kept.append(kept)

    def bury(self) -> None:
        """Let go of everything, without a line of it being run."""
        unfinished = [task for task in self._tasks if not task.done()]
        for task in unfinished:
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001  # it is destroyed, and pending
        _close_unheard([task.get_coro() for task in unfinished])
        self._tasks.clear()
        self._parked.clear()
        self._kept.clear()


class Loop(asyncio.BaseEventLoop):
    """The event loop of a simulated world; everything random about the schedule comes from `seed`.

    `trace` is a hash of all that ran so far.
    """

    _stopping: bool  # set by `stop`

    def __init__(self, seed: int) -> None:
        super().__init__()
        super().set_debug(False)
        self._now = 0.0
        self._count = 0
        self._random = Random(seed).random
        self._ready: list[Call] = []
        self._scheduled: list[tuple[float, int, Call]] = []
        self._names: dict[str, int] = {}
        self._processes: list[Process] = []
        self.outside = Context()
        """The context of what belongs to no process."""
        self._ended = False
        self.trace = 0
        self.steps = 0
        self._unseen: list[BaseException] = []
        self._suspects: list[asyncio.Task[Any]] = []
        self.history: list[tuple[float, str, str]] | None = None
        """Time, process and name of each callback, if this is made a list before the run."""

    # processes

    def process(self, name: str) -> Process:
        """A new process, which has nothing to do yet."""
        process = Process(self, name, len(self._processes) + 1)
        self._processes.append(process)
        return process

    def later(self, seconds: float, callback: Callable[..., object], *args: Any) -> Call:
        """Call something that belongs to no process."""
        return self.call_at(self._now + seconds, callback, *args, context=self.outside)

    def resume(self, calls: Iterable[Call]) -> None:
        """Put callbacks that were parked among those that are ready."""
        self._ready.extend(calls)

    def unseen(self, *, twice: bool = False) -> list[BaseException]:
        """Exceptions of callbacks and tasks that nobody waited for, each told once.

        In the middle of a run they are to be looked for `twice`: who waits for a task has its turn after the task's
        end, and one that is frozen has none.
        """
        alive = [process for process in self._processes if not process.killed and not (twice and process.frozen)]
        failed = [task for process in alive for task in process.failed()]
        suspects, self._suspects = self._suspects, failed
        self._unseen += [
            error for task in failed if not twice or task in suspects if (error := task.exception()) is not None
        ]
        unseen, self._unseen = self._unseen, []
        return unseen

    # what asyncio asks of a loop

    def time(self) -> float:
        """Seconds since the world began."""
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Call:  # type: ignore[override]
        """As in asyncio, but among the callbacks that are ready none is first."""
        call = Call(self, 0.0, callback, args, context)
        self._ready.append(call)
        return call

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Call:  # type: ignore[override]
        """As `call_soon`: there is one thread."""
        return self.call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Call:  # type: ignore[override]
        """As in asyncio."""
        call = Call(self, when, callback, args, context)
        self._count = count = self._count + 1
        heapq.heappush(self._scheduled, (when, count, call))
        return call

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Call:
        """As in asyncio."""
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """As in asyncio; the task belongs to the process that made it."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, **options)
        context = options.get("context")
        process = _process.get() if context is None else context.get(_process)
        if process is not None:
            process.keep(task)
        return task

    def run_in_executor(self, *_: Any) -> NoReturn:  # type: ignore[override]
        """No threads: their schedule is nobody's."""
        raise RuntimeError("the simulation has no threads: give what would use one a way to do without")

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001  # asyncio's signature
        """Debug mode measures real time, so there is none."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody saw."""
        if not self._ended:
            self._unseen.append(context.get("exception") or RuntimeError(context.get("message")))

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it in the heap: it is skipped when its time has come."""

    def _asyncgen_firstiter_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        process = _process.get()
        if process is not None:
            process.hold(agen)

    def _asyncgen_finalizer_hook(self, agen: AsyncGenerator[Any, Any]) -> None:
        """Nothing: those of a process are held until the end."""

    def _run_once(self) -> None:
        """Run callbacks until the loop is to stop."""
        ready, random = self._ready, self._random
        while not self._stopping:
            count = len(ready)
            if count > 1:
                index = int(random() * count)
                call = ready[index]
                ready[index] = ready[-1]
                ready.pop()
            elif count:
                call = ready.pop()
            else:
                self._advance()
                continue
            if call.cancelled():
                continue
            if call.process is None or not call.process.odd or call.process.admits(call):
                self._run(call)

    def _run(self, call: Call) -> None:
        name, process = call.name, call.process
        code = self._names.get(name)
        if code is None:
            code = self._names[name] = crc32(name.encode())
        self.trace = hash((self.trace, self._now, 0 if process is None else process.number, code))
        self.steps += 1
        if self.history is not None:
            self.history.append((self._now, "" if process is None else process.name, name))
        try:
            call.run()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001  # as asyncio's own loop does
            self._unseen.append(error)

    def _advance(self) -> None:
        """Move time to the next timer, and what is due then among what is ready."""
        scheduled, ready = self._scheduled, self._ready
        while scheduled:
            when, _, call = heapq.heappop(scheduled)
            if call.cancelled():
                continue
            if call.process is not None and call.process.killed:
                call.process.hold(call)
                continue
            self._now = max(self._now, when)
            ready.append(call)
            while scheduled and scheduled[0][0] <= self._now:
                ready.append(heapq.heappop(scheduled)[2])
            return
        raise Stalled(f"at {self._now:.3f} s nothing is left that could happen")

    def close(self) -> None:
        """End the world; whatever still waits in it is let go without being run."""
        if self._ended:
            return
        self._ended = True
        for process in self._processes:
            process.kill()
            process.bury()
        self._scheduled.clear()
        super().close()


@contextmanager
def running(loop: Loop) -> Iterator[Loop]:
    """A loop that is closed in the end; no garbage is collected meanwhile, since finalisers would run at any time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield loop
    finally:
        loop.close()
        if collecting:
            gc.enable()


# A coroutine that is dropped is closed, and closing runs its `finally`.  What was killed must not run a line.  Python
# has no word for that; but at the very limit of the recursion no frame can be entered, so that closing ends each frame
# where it is.  Should an interpreter know better, everything is kept for ever instead.

_KEPT: list[object] = []


def _close_unheard(coroutines: list[Any]) -> None:
    """Close coroutines where no code can run; whatever they say to that is not heard."""
    if not _closes_without_running():
        _KEPT.extend(coroutines)
    elif coroutines:
        _at_the_limit(coroutines)


def _at_the_limit(coroutines: list[Any]) -> None:
    hook, limit = sys.unraisablehook, sys.getrecursionlimit()
    sys.unraisablehook = bool  # must not be a function of Python, which could not be entered
    depth = 1
    try:
        while True:
            try:
                sys.setrecursionlimit(depth)
                break
            except RecursionError:
                depth += 1
        _close(coroutines)
    finally:
        sys.setrecursionlimit(limit)
        sys.unraisablehook = hook


def _close(coroutines: list[Any]) -> None:
    for coroutine in coroutines:
        try:  # noqa: SIM105  # `suppress` would be a call, and there is no room for one
            coroutine.close()
        except BaseException:  # noqa: BLE001, S110  # RecursionError, as intended
            pass


_verdict: list[bool] = []


def _closes_without_running() -> bool:
    if not _verdict:
        ran: list[bool] = []

        class Pause:
            def __await__(self) -> Generator[None, None, None]:
                yield

        async def probe() -> None:
            try:
                await Pause()
            finally:
                ran.append(True)

        coroutine = probe()
        coroutine.send(None)
        _at_the_limit([coroutine])
        _verdict.append(getcoroutinestate(coroutine) == CORO_CLOSED and not ran)
    return _verdict[0]
