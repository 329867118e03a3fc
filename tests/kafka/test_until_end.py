"""Runs on Kafka that have an end, against what the same messages in a file give."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from streamproc.cli import main
from tests.kafka import oracle
from tests.kafka.brokers import Kafka
from tests.kafka.oracle import Message
from tests.kafka.runs import KILLED, Scene, WorkerProcess
from tests.kafka.topologies import DISORDER

PARTITIONS = 3


def events(count: int = 4_000) -> list[Message]:
    """Events of an hour, a tenth of them out of order and none so far that it could be late."""
    latest, found = 0, []
    for message in oracle.load(1, count, users=40, step=900):
        at = json.loads(message.value)["ts"]
        latest = max(latest, at)
        found += [message] if at > latest - DISORDER else []
    return found


def in_a_file(messages: Sequence[Message], scene: Scene, folder: Path) -> list[Any]:
    """What the same topology gives over a file."""
    source, results = folder / "events.jsonl", folder / "totals.jsonl"
    source.write_bytes(b"".join(message.value + b"\n" for message in messages))
    arguments = ("--input", f"{scene.prefix}-events:user={source}", "--output", f"{scene.prefix}-totals={results}")
    state = ("--state", str(folder / "state.sqlite"), "--no-http", "--partitions", str(PARTITIONS))
    assert main(["run", scene.target, *arguments, *state]) == 0
    return ordered(json.loads(line) for line in results.read_text().splitlines())


def ordered(results: Iterable[Any]) -> list[Any]:
    """Results in an order that does not depend on who wrote them."""
    return sorted(results, key=lambda one: (one["key"], one["start"]))


async def committed(scene: Scene) -> list[Any]:
    """What the workers have given."""
    found = await scene.read(f"{scene.prefix}-totals", PARTITIONS)
    return ordered(json.loads(record.value) for records in found for record in records)


def words(worker: WorkerProcess) -> str:
    """The first words of its last line."""
    return worker.conclusion.partition(":")[0]


@pytest.mark.parametrize("topology", ["keyed", "rekeyed"])
async def test_a_worker_ends_with_what_a_file_gives(kafka: Kafka, prefix: str, tmp_path: Path, topology: str) -> None:
    """All windows are closed, and it ends with 0; a second run does nothing, nor one over more, and both say so."""
    messages = events()
    async with Scene(kafka.bootstrap, prefix, topology, tmp_path, partitions=PARTITIONS, watched=False) as scene:
        await scene.produce(messages)
        worker = scene.worker("run", scene.target, "--until-end")
        assert await worker.ended() == 0
        assert words(worker) == "done"
        first = await committed(scene)
        again = scene.worker("run", scene.target, "--until-end")
        assert await again.ended() == 0
        assert words(again) == "nothing to do"
        await scene.produce(messages[:10])
        more = scene.worker("run", scene.target, "--until-end")
        assert await more.ended() == 0
        assert words(more) == "nothing done"
        assert await committed(scene) == first
        assert first == in_a_file(messages, scene, tmp_path)


@pytest.mark.parametrize("topology", ["keyed", "rekeyed"])
async def test_two_workers_after_one_was_killed(kafka: Kafka, prefix: str, tmp_path: Path, topology: str) -> None:
    """One dies with a task committed and another in the middle of it; two that come after it end it, both with 0."""
    messages = events()
    async with Scene(kafka.bootstrap, prefix, topology, tmp_path, partitions=PARTITIONS, watched=False) as scene:
        await scene.produce(messages)
        dying = scene.worker("run", scene.target, "--until-end", CRASH_AT="before_endtxn:2")
        assert await dying.ended() == KILLED
        others = [scene.worker("run", scene.target, "--until-end") for _ in range(2)]
        assert [await worker.ended() for worker in others] == [0, 0]
        assert await committed(scene) == in_a_file(messages, scene, tmp_path)


async def test_a_supervisor_ends_when_its_workers_have(kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    """Workers that have come to the end are not started again."""
    messages = events(1_000)
    async with Scene(kafka.bootstrap, prefix, "rekeyed", tmp_path, partitions=PARTITIONS, watched=False) as scene:
        await scene.produce(messages)
        supervisor = scene.worker("run", scene.target, "--until-end", "--workers", "2")
        assert await supervisor.ended() == 0
        assert await committed(scene) == in_a_file(messages, scene, tmp_path)
