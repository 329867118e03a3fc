"""The loop of the simulation: time is counted, the schedule is the seed's, and the killed never run again."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from streamproc.testing.simulation.loop import Loop, Process, Stalled, running


def run(seed: int, scene: Callable[[Loop, list[str]], None], seconds: float = 100.0) -> tuple[int, list[str]]:
    """Set a scene, let time pass, and tell the trace and what was said."""
    said: list[str] = []
    with running(Loop(seed)) as loop:
        scene(loop, said)
        loop.run_until_complete(asyncio.sleep(seconds))
        assert loop.unseen() == []
        trace = loop.trace
    gc.collect()
    return trace, said


def racing(loop: Loop, said: list[str]) -> None:
    """Three processes that wait for the same moments."""

    async def race(name: str) -> None:
        for lap in range(5):
            await asyncio.sleep(1)
            said.append(f"{name}{lap}")

    for name in "abc":
        loop.process(name).start(race(name))


def test_the_same_seed_gives_the_same_schedule() -> None:
    """Trace and outcome are functions of the seed, and different seeds find different ones."""
    runs = [run(seed, racing) for seed in range(20)]
    assert runs == [run(seed, racing) for seed in range(20)]
    assert len({trace for trace, _ in runs}) == 20
    assert len({tuple(said) for _, said in runs}) > 10


def test_time_is_counted_and_not_spent() -> None:
    """A day passes in no time, and `sleep` is exact."""
    with running(Loop(0)) as loop:
        loop.run_until_complete(asyncio.sleep(86_400))
        assert loop.time() == 86_400


def test_a_limit_on_a_wait_is_kept_in_counted_time() -> None:
    """asyncio's own tools work on the loop: timeouts, groups, queues, locks."""

    async def work() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        lock = asyncio.Lock()

        async def put() -> None:
            for number in range(10):
                await queue.put(number)
                async with lock:
                    await asyncio.sleep(0.1)

        async with asyncio.TaskGroup() as group:
            group.create_task(put())
            got = [await queue.get() for _ in range(10)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await queue.get()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 5)
        return got

    with running(Loop(3)) as loop:
        assert loop.run_until_complete(loop.process("a").start(work())) == list(range(10))
        assert loop.time() == pytest.approx(11.0)


def test_waiting_for_what_never_comes_is_an_error() -> None:
    """With nothing ready and nothing due the loop says so, where another would hang."""
    with running(Loop(0)) as loop, pytest.raises(Stalled):
        loop.run_until_complete(loop.create_future())


def test_there_are_no_threads() -> None:
    """What would use a thread is told to do without."""

    async def work() -> None:
        await asyncio.to_thread(print)

    with running(Loop(0)) as loop, pytest.raises(RuntimeError, match="no threads"):
        loop.run_until_complete(work())


@asynccontextmanager
async def opened(said: list[str]) -> AsyncIterator[None]:
    """Say so when it is left."""
    try:
        yield
    finally:
        said.append("left a context")
        await asyncio.sleep(1)


@contextmanager
def held(said: list[str]) -> Iterator[None]:
    """Say so when it is let go."""
    try:
        yield
    finally:
        said.append("let go")


async def numbers(said: list[str]) -> AsyncIterator[int]:
    """Count slowly; say so at the end."""
    try:
        while True:
            await asyncio.sleep(1)
            yield 1
    finally:
        said.append("generator ended")


async def careful(said: list[str]) -> None:
    """Everything that could run when a coroutine is closed."""
    try:
        async with opened(said), asyncio.TaskGroup() as group:
            group.create_task(inner(said))
            with held(said):
                async for number in numbers(said):
                    assert number == 1
                    said.append("tick")
    except BaseException:
        said.append("caught")
        raise
    finally:
        said.append("finally")
        await asyncio.sleep(1)


async def inner(said: list[str]) -> None:
    """A child with its own last words."""
    try:
        await asyncio.Event().wait()
    finally:
        said.append("child's finally")


@pytest.mark.parametrize("steps", range(30))
def test_what_is_killed_never_runs_another_line(steps: int) -> None:
    """No `except`, no `finally`, no exit of a context, neither then nor when the world ends or garbage is collected."""

    def scene(loop: Loop, said: list[str]) -> None:
        process = loop.process("a")
        process.start(careful(said))
        process.after(steps, process.kill)

    _, said = run(steps, scene)
    assert set(said) <= {"tick"}
    assert len(said) < 30


def test_a_process_can_be_killed_before_any_of_its_steps() -> None:
    """`after(n)` lets exactly n callbacks run."""

    async def count(said: list[str]) -> None:
        while True:
            said.append("step")
            await asyncio.sleep(0)

    for steps in range(5):

        def scene(loop: Loop, said: list[str], steps: int = steps) -> None:
            process = loop.process("a")
            process.start(count(said))
            process.after(steps, process.kill)

        assert run(0, scene, 1.0)[1] == ["step"] * steps


def test_the_children_of_a_process_die_with_it() -> None:
    """Tasks, timers and callbacks belong to the process that made them, and others live on."""

    def scene(loop: Loop, said: list[str]) -> None:
        async def parent() -> None:
            loop.call_later(5, said.append, "timer")
            child = asyncio.create_task(asyncio.sleep(5))
            child.add_done_callback(lambda _: said.append("child"))
            await asyncio.sleep(5)
            said.append("parent")

        async def other() -> None:
            await asyncio.sleep(5)
            said.append("other")

        first = loop.process("first")
        first.start(parent())
        loop.process("second").start(other())
        loop.later(3, first.kill)

    assert run(0, scene)[1] == ["other"]


def test_what_is_frozen_goes_on_late() -> None:
    """What came due meanwhile comes after the thaw, at the time it is then."""

    def scene(loop: Loop, said: list[str]) -> None:
        async def tick() -> None:
            for _ in range(3):
                await asyncio.sleep(1)
                said.append(f"{loop.time():.1f}")

        process = loop.process("a")
        process.start(tick())
        loop.later(1.5, process.freeze, 10)

    assert run(0, scene)[1] == ["1.0", "11.5", "12.5"]


def test_what_dies_while_frozen_stays_dead() -> None:
    """A kill counts for the frozen, too."""

    def scene(loop: Loop, said: list[str]) -> None:
        async def tick() -> None:
            try:
                await asyncio.sleep(1)
            finally:
                said.append("woke")

        process = loop.process("a")
        process.start(tick())
        loop.later(0.5, process.freeze, 10)
        loop.later(5, process.kill)

    assert run(0, scene)[1] == []


def test_an_exception_that_nobody_saw_is_kept() -> None:
    """A callback that fails, or a task that fails alone, is found in `unseen`."""

    async def fail() -> None:
        raise ValueError("alone")

    with running(Loop(0)) as loop:
        process: Process = loop.process("a")
        loop.call_soon(lambda: 1 // 0)
        process.start(fail())
        loop.run_until_complete(asyncio.sleep(1))
        assert [type(error) for error in loop.unseen()] == [ZeroDivisionError, ValueError]
        assert loop.unseen() == []
