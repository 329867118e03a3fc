"""What makes no progress is told with the stacks of all threads and tasks, once, and before the worker is given up."""

import asyncio
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest

from streamproc.adapters import logs
from streamproc.cli.watchdog import Watchdog, stalls
from streamproc.ports.worker import Limits, Pulse

LIMITS = Limits()
CALM = Pulse("running", 0.0, 0.0, ticked_at=100.0, polled_at=100.0, reachable=True)


class Lines(StringIO):
    """Log lines, and whether there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        """Take a line."""
        done = super().write(text)
        self.written.set()
        return done


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Where log lines go for the time of a test."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = Lines()
    logs.configure("info", "json", stream)
    yield stream
    root.handlers[:], level = before
    root.setLevel(level)


def told(stream: StringIO) -> list[dict[str, Any]]:
    """The lines so far."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("pulse", "what"),
    [
        (CALM, {}),
        (replace(CALM, ticked_at=95.1), {}),
        (replace(CALM, ticked_at=95.0), {"loop": {"seconds": 5.0}}),
        (replace(CALM, ticked_at=95.0, state="stopped"), {}),
        (replace(CALM, stepping_since=70.5, stepping="s/1"), {}),
        (replace(CALM, stepping_since=70.0, stepping="s/1"), {"step": {"seconds": 30.0, "task": "s/1"}}),
        (replace(CALM, stalled_since=40.0), {"partitions": {"seconds": 60.0}}),
    ],
)
def test_what_counts_as_no_progress(pulse: Pulse, what: dict[str, Any]) -> None:
    """A late tick, a step at half its limit, a partition that did not move when it was read anew."""
    assert dict(stalls(pulse, LIMITS, 100.0)) == what


async def test_a_stall_is_told_once_with_all_stacks(lines: Lines) -> None:
    """Every thread and every task is there by name, with where it is; told again only after it has moved."""
    held, pulse = threading.Event(), replace(CALM, stepping_since=70.0, stepping="s/1")
    thread = threading.Thread(target=held.wait, name="streamproc-engine-that-stalls")
    thread.start()

    async def inner() -> None:
        await asyncio.Event().wait()

    async def outer() -> None:
        await inner()

    task = asyncio.create_task(outer(), name="task-s/1")
    await asyncio.sleep(0)
    now = [pulse]
    watchdog = Watchdog(lambda: now[0], LIMITS, asyncio.get_running_loop(), lambda: 100.0)
    try:
        watchdog.look()
        watchdog.look()
        (line,) = told(lines)
        assert (line["event"], line["level"], line["what"], line["task"]) == ("stalled", "error", "step", "s/1")
        (engine,) = (stack for name, stack in line["threads"].items() if name.startswith(f"{thread.name} "))
        assert engine[-1].endswith("Condition.wait")
        waiting = [place.rpartition(" ")[2].rpartition(".")[2] for place in line["tasks"]["task-s/1"]]
        assert waiting == ["outer", "inner", "wait"]
        now[0] = CALM
        watchdog.look()
        now[0] = pulse
        watchdog.look()
        assert [line["event"] for line in told(lines)] == ["stalled", "stalled"]
    finally:
        held.set()
        thread.join()
        task.cancel()


async def test_stacks_can_be_asked_for_at_any_time(lines: Lines, capfd: pytest.CaptureFixture[str]) -> None:
    """SIGUSR1 has them logged, behind what the interpreter itself writes of its threads."""
    before = signal.getsignal(signal.SIGUSR1)
    with Watchdog(lambda: CALM, LIMITS, asyncio.get_running_loop(), lambda: 100.0):
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.to_thread(lines.written.wait)
    signal.signal(signal.SIGUSR1, before)
    (line,) = told(lines)
    assert (line["event"], line["level"]) == ("stacks", "info")
    assert any(name.startswith("MainThread ") for name in line["threads"])
    assert "most recent call first" in capfd.readouterr().err
