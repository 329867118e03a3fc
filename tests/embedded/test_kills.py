"""A run that is killed again and again has the same results as one that is left alone."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.embedded.kills import PLACES, deaths, relentless, run
from tests.embedded.topologies import write_load


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """All topics of a state file; of dead letters without the time of their writing and what S43 says of it."""
    query = 'SELECT topic, "partition", "offset", at, key, value FROM records ORDER BY 1, 2, 3'
    with closing(sqlite3.connect(folder / "state.sqlite")) as connection:
        return [
            (topic, *place, None if topic == "dead" else at, key, value)
            for topic, *place, at, key, value in connection.execute(query)
        ]


def outputs(folder: Path) -> Iterator[bytes]:
    """The output files of a run."""
    for topic in ("counts", "late"):
        yield (folder / f"{topic}.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 3])
def test_kills_leave_no_trace(tmp_path: Path, partitions: int) -> None:
    """Killed at every place of its work and then let through, a run has lost nothing and done nothing twice."""
    counted = killed_and_calm(tmp_path, "counting(trailing=True)", 60_000, partitions)
    assert len({(each["key"], each["start"]) for each in counted}) == len(counted)


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [1, 3])
def test_kills_leave_no_trace_in_a_join(tmp_path: Path, partitions: int) -> None:
    """What waits for its partner is found again, and nobody meets twice or is padded after all."""
    pairs = killed_and_calm(tmp_path, "joining()", 30_000, partitions)
    met = {number for pair in pairs if None not in pair for number in pair}
    alone = [number for pair in pairs if None in pair for number in pair if number is not None]
    assert met
    assert alone
    assert met.isdisjoint(set(alone) - {0, 7})  # numbers that bad records of the load share


def killed_and_calm(tmp_path: Path, topology: str, count: int, partitions: int) -> list[Any]:
    """The results of a run that was killed at every place, after they were found to be those of a calm one."""
    lines = write_load(tmp_path / "clicks.jsonl", seed=1, count=count)
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    arguments = [
        "run",
        f"tests.embedded.topologies:{topology}",
        f"--input=clicks={lines}",
        "--state=state.sqlite",
    ]
    arguments += ["--output=counts=counts.jsonl", "--output=late=late.jsonl", f"--partitions={partitions}"]
    arguments += ["--commit-interval=1ms", "--no-http", "--log-level=error"]
    for folder in (calm, rough):
        folder.mkdir()
    assert run(calm, *arguments).returncode == 0

    life = relentless(rough, *arguments, planned=deaths(seed=partitions, count=len(PLACES), most=3))

    assert life.last.returncode == 0, life.last.stderr.decode()
    assert sorted(life.killed) == sorted(PLACES)
    if partitions == 1:
        assert list(outputs(rough)) == list(outputs(calm))
        assert rows(rough) == rows(calm)
    else:
        assert [sorted(each.splitlines()) for each in outputs(rough)] == [
            sorted(each.splitlines()) for each in outputs(calm)
        ]
    return [json.loads(line) for line in (rough / "counts.jsonl").read_bytes().splitlines()]
