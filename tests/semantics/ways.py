"""Ways to run a topology on files of JSON lines, to the end: in memory, and embedded with its state in SQLite.

run(topology, {topic: Lines(path)}, partitions) -> Ran     what was written, what was late, what was refused
"""

from __future__ import annotations

import gzip
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from streamproc import Topology
from streamproc.adapters.codecs import JsonSerde, field_of
from streamproc.adapters.jsonlines import JsonLinesSource
from streamproc.adapters.packing import merge, pack, unpack
from streamproc.adapters.sqlite import SqliteLog
from streamproc.core.batch import DeadLetter, Emit, Step
from streamproc.core.partition import partition
from streamproc.core.plan import Plan, build
from streamproc.core.state import MemoryStore
from streamproc.ports import Commit, Run
from streamproc.runners.embedded import EmbeddedRunner
from streamproc.runners.engine import Engine

AT_ONCE = 4_000
"""Lines that are read before the next commit of the run in memory."""


class Lines(NamedTuple):
    """A file of JSON lines; with `key`, its lines go to the partition of that field, and have it for a key."""

    path: Path
    key: str | None = None


class Letter(NamedTuple):
    """A record that was refused as late: its number, the watermark it met and the last window that refused it."""

    seq: int
    watermark: int
    window: tuple[int, int]


@dataclass
class Ran:
    """What a run brought about: values per topic, late records, and refusing windows per node."""

    rows: dict[str, list[Any]] = field(default_factory=dict)
    late: list[Letter] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)

    def wrote(self, topic: str, emits: Sequence[Emit]) -> None:
        """Take note of rows; of the topic `dead` they are dead letters."""
        if topic == "dead":
            self.late += map(letter_of, emits)
        else:
            self.rows.setdefault(topic, []).extend(msgspec.json.decode(emit.value or b"null") for emit in emits)

    def stepped(self, step: Step) -> None:
        """Take note of what was refused in a step."""
        for node, many in step.counts.refused.items():
            self.refused[node] = self.refused.get(node, 0) + many


def letter_of(emit: Emit) -> Letter:
    """The dead letter of a late record; there should be no other."""
    headers = {name: value.decode() for name, value in emit.headers}
    assert headers["streamproc.errors.reason"] == "late", headers
    start, end = map(int, headers["streamproc.errors.window"].split(","))
    record = msgspec.json.decode(emit.value or b"")
    return Letter(record["seq"], int(headers["streamproc.errors.watermark"]), (start, end))


def in_memory(topology: Topology, files: Mapping[str, Lines], partitions: int = 1) -> Ran:
    """An engine on stores in memory, with a commit every few thousand lines."""
    ran = Ran()
    stores: dict[str, MemoryStore] = {}
    plan = build(topology.graph(), partitions)
    engine = Engine(plan, JsonSerde(), lambda task: stores.setdefault(task, MemoryStore()), lambda _: None)

    def work() -> None:
        for worked in engine.work():
            ran.stepped(worked.step)
        commit = engine.pending(0)
        engine.committed(commit)
        for (topic, _), emits in commit.emits.items():
            ran.wrote(topic, emits)

    for topic, lines in files.items():
        read = unzipped(lines.path)
        for start in range(0, len(read), AT_ONCE):
            for run in spread(read[start : start + AT_ONCE], start, lines.key, partitions):
                engine.offer(topic, run, None)
            work()
    for topic in files:
        engine.end(topic)
    work()
    assert engine.ended
    return ran


def unzipped(path: Path) -> list[bytes]:
    """The lines of a file."""
    read = path.read_bytes()
    return (gzip.decompress(read) if path.suffix == ".gz" else read).splitlines()


def spread(lines: Sequence[bytes], first: int, key: str | None, partitions: int) -> list[Run]:
    """Lines by partition: that of their key, or line n in n mod partitions."""
    serde = JsonSerde()
    keys = [None if key is None else serde.encode_key(field_of(line, key)) for line in lines]
    places = [
        (first + index) % partitions if found is None else partition(found, partitions)
        for index, found in enumerate(keys)
    ]
    runs = []
    for number in range(partitions):
        chosen = [index for index, place in enumerate(places) if place == number]
        if chosen:
            values: list[bytes | None] = [lines[index] for index in chosen]
            runs.append(Run(number, [first + index for index in chosen], values, [keys[index] for index in chosen]))
    return runs


def embedded(topology: Topology, files: Mapping[str, Lines], partitions: int = 1) -> Ran:
    """The embedded runner on files, with its log in SQLite; what was written is read from there."""
    plan = build(topology.graph(), partitions)
    serde, watch = JsonSerde(), Watch()
    with tempfile.TemporaryDirectory() as folder:
        log = SqliteLog.open(Path(folder) / "state.sqlite", {"plan": plan.hash}, pack=pack, unpack=unpack, merge=merge)
        sources = [
            JsonLinesSource(
                topic,
                lines.path,
                partition_of=partition,
                encode_key=serde.encode_key,
                field_of=field_of,
                key_field=lines.key,
                partitions=partitions,
            )
            for topic, lines in files.items()
        ]
        runner = EmbeddedRunner(
            plan,
            log=log,
            sources=sources,
            outputs={},
            serde=serde,
            observer=watch,
            clock=time.time,
            monotonic=time.monotonic,
        )
        try:
            assert runner.run().how == "ended"
            for topic in (*plan.sinks, *plan.dead_letters):
                watch.ran.wrote(topic, [emit for _, _, emit in log.read(topic)])
        finally:
            for source in sources:
                source.close()
            log.close()
    return watch.ran


@dataclass
class Watch:
    """An observer that keeps what was refused."""

    ran: Ran = field(default_factory=Ran)

    def planned(self, plan: Plan) -> None: ...

    def read(self, topic: str, partition: int, records: int, size: int, position: int) -> None: ...

    def stepped(self, task: str, step: Step, records: int, seconds: float) -> None:  # noqa: ARG002
        """Take note of what was refused."""
        self.ran.stepped(step)

    def committed(self, commit: Commit, dead: Sequence[DeadLetter], seconds: float) -> None: ...

    def progressed(self, watermarks: Mapping[tuple[str, int], int], held_by: tuple[str, int] | None) -> None: ...

    def counted(self, task: str, windows: Mapping[str, int], entries: Mapping[str, int]) -> None: ...

    def state(self, name: str) -> None: ...


Way = Callable[[Topology, Mapping[str, Lines], int], Ran]
WAYS: dict[str, Way] = {"memory": in_memory, "embedded": embedded}
