"""Several workers on one machine: who is started again, who is not, and how all of them come to their end.

The workers are tiny shell commands; nothing waits for time to pass but for a pause of no length.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from streamproc.cli.supervisor import SUPERVISED, Backoff, Command, Supervisor, Workers
from streamproc.config import load

AT_ONCE = Backoff(first=0.0)
PATIENT = 'trap "exit 0" TERM; echo up > "$UP"; while read -r _; do :; done'
"""A worker that goes on until it is told to stop, or its supervisor has gone; `read` ends at either."""


class Scripts:
    """What each worker does at each of its starts, the last of them for ever; counts how often they were started."""

    def __init__(self, folder: Path, **scripts: Sequence[str]) -> None:
        self.starts: Counter[int] = Counter()
        self._scripts = {int(name.removeprefix("worker")): script for name, script in scripts.items()}
        self._up = folder / "up"
        os.mkfifo(self._up)
        self._reading = os.open(self._up, os.O_RDWR)

    def __call__(self, worker: int) -> Command:
        script = self._scripts[worker]
        number = min(self.starts[worker], len(script) - 1)
        self.starts[worker] += 1
        return Command(["sh", "-c", script[number]], {**os.environ, "UP": str(self._up)})

    async def up(self) -> None:
        """Wait until one more worker has said that it is up."""
        await asyncio.to_thread(os.read, self._reading, 3)


async def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    """By a crash or by a signal; one that has ended in good order was asked to, and stays away."""
    scripts = Scripts(tmp_path, worker1=["exit 1", "kill -9 $$", "exit 0"], worker2=["exit 0"])
    assert await Supervisor(2, scripts, 5.0, AT_ONCE).run() == 0
    assert scripts.starts == {1: 3, 2: 1}


@pytest.mark.parametrize("code", [2, 3, 4])
async def test_what_cannot_be_mended_by_starting_again_stops_all(tmp_path: Path, code: int) -> None:
    """Usage, state that does not fit, brokers that were never there: the others drain, and that is the code."""
    scripts = Scripts(tmp_path, worker1=[f'read -r _ < "$UP"; exit {code}'], worker2=[PATIENT])
    assert await Supervisor(2, scripts, 5.0, AT_ONCE).run() == code
    assert scripts.starts == {1: 1, 2: 1}


async def test_brokers_that_go_away_later_are_waited_for(tmp_path: Path) -> None:
    """A worker that was at work and finds no brokers when it is started again is tried once more."""
    scripts = Scripts(tmp_path, worker1=["exit 1", "exit 4", "exit 0"])
    assert await Supervisor(1, scripts, 5.0, AT_ONCE).run() == 0
    assert scripts.starts == {1: 3}


@pytest.mark.parametrize(("last", "code"), [("exit 1", 1), ("kill -9 $$", 1), ("exit 75", 75)])
async def test_a_worker_that_dies_again_and_again_is_given_up(tmp_path: Path, last: str, code: int) -> None:
    """After so many quick deaths in a row the others drain, and that is the code: whoever started us may do more."""
    scripts = Scripts(tmp_path, worker1=['read -r _ < "$UP"; exit 1', "exit 1", last], worker2=[PATIENT])
    assert await Supervisor(2, scripts, 5.0, Backoff(first=0.0, tries=3)).run() == code
    assert scripts.starts == {1: 3, 2: 1}


async def test_brokers_that_stay_away_are_no_reason_to_give_up(tmp_path: Path) -> None:
    """An outage lasts as long as it lasts; it is not a fault of the worker."""
    scripts = Scripts(tmp_path, worker1=["exit 1", *["exit 4"] * 5, "exit 0"])
    assert await Supervisor(1, scripts, 5.0, Backoff(first=0.0, tries=2)).run() == 0
    assert scripts.starts == {1: 7}


async def test_deaths_after_a_calm_time_do_not_add_up(tmp_path: Path) -> None:
    """One crash a day is not ten in a row."""
    scripts = Scripts(tmp_path, worker1=[*["exit 1"] * 5, "exit 0"])
    assert await Supervisor(1, scripts, 5.0, Backoff(first=0.0, calm=0.0, tries=2)).run() == 0
    assert scripts.starts == {1: 6}


async def test_stopping_asks_every_worker_once(tmp_path: Path) -> None:
    """All of them drain, and none is started again."""
    scripts = Scripts(tmp_path, worker1=[PATIENT], worker2=[PATIENT], worker3=[PATIENT])
    supervisor = Supervisor(3, scripts, 5.0, AT_ONCE)
    running = asyncio.create_task(supervisor.run())
    for _ in range(3):
        await scripts.up()
    assert supervisor.pulse.state == "running"
    os.kill(os.getpid(), signal.SIGTERM)
    assert await running == 0
    assert supervisor.pulse.state == "stopped"
    assert scripts.starts == {1: 1, 2: 1, 3: 1}


async def test_stopping_twice_does_not_wait_for_a_drain(tmp_path: Path) -> None:
    """The second signal goes on to the workers, and the code is that of a second Ctrl-C."""
    stubborn = """trap 'trap "exit 9" TERM; echo up > "$UP"' TERM; echo up > "$UP"; while :; do read -r _; done"""
    scripts = Scripts(tmp_path, worker1=[stubborn])
    supervisor = Supervisor(1, scripts, 60.0, AT_ONCE)
    running = asyncio.create_task(supervisor.run())
    await scripts.up()
    supervisor.stop()
    await scripts.up()
    supervisor.stop()
    assert await running == 130


async def test_a_worker_that_does_not_drain_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its own deadline and some more have passed; what it did not commit is read again: 75."""
    monkeypatch.setattr("streamproc.cli.supervisor.GRACE", 0.0)
    deaf = 'trap "" TERM; echo up > "$UP"; exec cat'
    scripts = Scripts(tmp_path, worker1=[deaf], worker2=[PATIENT])
    supervisor = Supervisor(2, scripts, 0.05, AT_ONCE)
    running = asyncio.create_task(supervisor.run())
    await scripts.up()
    await scripts.up()
    supervisor.stop()
    assert await running == 75


async def test_a_pause_before_a_start_ends_when_all_are_stopped(tmp_path: Path) -> None:
    """A worker that waits to be started again holds up nobody."""
    scripts = Scripts(tmp_path, worker1=['echo up > "$UP"; exit 1'])
    supervisor = Supervisor(1, scripts, 5.0, Backoff(first=3600.0, most=3600.0))
    running = asyncio.create_task(supervisor.run())
    await scripts.up()
    supervisor.stop()
    assert await running in {0, 1}  # it may not have ended yet
    assert scripts.starts == {1: 1}


def test_pauses_double_up_to_a_limit() -> None:
    """A worker that dies at once is not started a thousand times a minute."""
    backoff = Backoff(first=0.5, most=30.0)
    assert [backoff.pause(deaths) for deaths in (1, 2, 3, 7, 1000)] == [0.5, 1.0, 2.0, 30.0, 30.0]


def test_each_worker_has_a_port_and_a_name(tmp_path: Path) -> None:
    """What was said on the command line is said to each, but for the port; a static name gets a number."""
    environment = {"STREAMPROC_GROUP__INSTANCE_ID": "pod", "STREAMPROC_KAFKA__BOOTSTRAP_SERVERS": "a:9092"}
    flags = {"workers": 3, "commit.interval": "50ms", "http.enabled": False, "log.level": None}
    config = load(flags, environment, tmp_path)
    command = Workers("flights:build('EWR')", flags, config, 9400, ["--debug"])(2)
    assert command.arguments == [sys.executable, "-m", "streamproc", "run", "flights:build('EWR')", "--debug"]
    said = {name: value for name, value in command.environment.items() if name not in os.environ}
    assert said == {
        "STREAMPROC_RUNNER": "kafka",
        "STREAMPROC_WORKERS": "1",
        "STREAMPROC_COMMIT__INTERVAL": "50ms",
        "STREAMPROC_HTTP__ENABLED": "false",
        "STREAMPROC_HTTP__PORT": "9402",
        "STREAMPROC_GROUP__INSTANCE_ID": "pod-2",
        SUPERVISED: str(os.getpid()),
    }
