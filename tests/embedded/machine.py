"""An embedded runner for tests: real log and outputs in a folder, a scripted source, a clock that stands still."""

# ruff: noqa: ARG002 - a double is told more than it uses

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from streamproc import Topology
from streamproc.adapters.codecs import JsonSerde
from streamproc.adapters.jsonlines import JsonLinesOutput
from streamproc.adapters.packing import merge, pack, unpack
from streamproc.adapters.sqlite import SqliteLog
from streamproc.cli.wiring import identity
from streamproc.core.batch import DeadLetter, Step
from streamproc.core.plan import build
from streamproc.ports import Commit, Run, Source
from streamproc.runners.embedded import EmbeddedRunner, Outcome, Settings, Stop

NOW = 1_700_000_100.0
"""What the wall clock shows, in seconds."""

Item: TypeAlias = "tuple[int, bytes] | Callable[[], object]"
"""A message as (partition, value), or something that happens when the source is asked next."""


@dataclass
class Script:
    """A source that gives one portion per read: messages, nothing, or a call to make first; bookmarks are offsets."""

    topic: str
    portions: list[list[Item]]
    endless: bool = False
    offset: int = 0
    at: int = 0
    opened_at: Any = None
    asked: list[int] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether all portions have been given."""
        return not self.endless and self.at >= len(self.portions)

    @property
    def read_bytes(self) -> int:
        """How many portions were read."""
        return self.at

    @property
    def total_bytes(self) -> int | None:
        """How many there are."""
        return len(self.portions)

    def open(self, bookmark: Any | None) -> None:
        """All is given again from the beginning, as a bookmark may lie before what was processed."""
        self.opened_at = bookmark

    def read(self, limit: int) -> list[Run]:
        """The next portion."""
        if self.at >= len(self.portions):
            return []
        portion = self.portions[self.at]
        self.at += 1
        runs: dict[int, tuple[list[int], list[bytes | None]]] = {}
        for item in portion:
            if not isinstance(item, tuple):
                item()
                continue
            offsets, values = runs.setdefault(item[0], ([], []))
            offsets.append(self.offset)
            values.append(item[1])
            self.offset += 1
        return [Run(partition, *lists) for partition, lists in runs.items()]

    def bookmark(self, offset: int) -> Any:
        """The offset itself."""
        self.asked.append(offset)
        return offset

    def fingerprint(self) -> Any:
        """How many portions there are."""
        return len(self.portions)

    def close(self) -> None:
        """Nothing to close."""


@dataclass
class Seen:
    """An observer that keeps what it is told."""

    states: list[str] = field(default_factory=list)
    reads: list[tuple[str, int, int, int, int]] = field(default_factory=list)
    steps: list[tuple[str, int]] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    watermarks: dict[tuple[str, int], int] = field(default_factory=dict)
    counts: dict[str, tuple[Mapping[str, int], Mapping[str, int]]] = field(default_factory=dict)

    def planned(self, plan: Any) -> None:
        """Takes no note."""

    def read(self, topic: str, partition: int, records: int, size: int, position: int) -> None:
        """Takes note."""
        self.reads.append((topic, partition, records, size, position))

    def stepped(self, task: str, step: Step, records: int, seconds: float) -> None:
        """Takes note."""
        self.steps.append((task, records))

    def committed(self, commit: Commit, dead: Sequence[DeadLetter], seconds: float) -> None:
        """Takes note."""
        self.commits.append(commit)
        self.dead += dead

    def progressed(self, watermarks: Mapping[tuple[str, int], int], held_by: tuple[str, int] | None) -> None:
        """Takes note."""
        self.watermarks = dict(watermarks)

    def counted(self, task: str, windows: Mapping[str, int], entries: Mapping[str, int]) -> None:
        """Takes note."""
        self.counts[task] = windows, entries

    def state(self, name: str) -> None:
        """Takes note."""
        self.states.append(name)


@dataclass
class Machine:
    """Everything a run needs, in a folder; each `run` is a process of its own as far as anybody can tell."""

    folder: Path
    topology: Topology
    partitions: int = 1
    outputs: Sequence[str] = ()
    monotonic: Callable[[], float] = lambda: 0.0
    seen: Seen = field(default_factory=Seen)
    stop: Stop = field(default_factory=Stop)

    @contextmanager
    def log(self) -> Iterator[SqliteLog]:
        """The log in the folder."""
        plan = build(self.topology.graph(), self.partitions)
        log = SqliteLog.open(self.folder / "state.sqlite", identity(plan), pack=pack, unpack=unpack, merge=merge)
        try:
            yield log
        finally:
            log.close()

    def runner(self, log: Any, *sources: Source, outputs: Mapping[str, Any], **settings: Any) -> EmbeddedRunner:
        """A runner over the log, with settings by name."""
        self.seen, self.stop = Seen(), Stop()
        return EmbeddedRunner(
            build(self.topology.graph(), self.partitions),
            log=log,
            sources=sources,
            outputs=outputs,
            serde=JsonSerde(),
            observer=self.seen,
            clock=lambda: NOW,
            monotonic=self.monotonic,
            settings=Settings(**settings),
            stop=self.stop,
        )

    def run(self, *sources: Source, **settings: Any) -> Outcome:
        """Run over sources, with outputs as files of their topics' names."""
        outputs = {topic: JsonLinesOutput(self.folder / f"{topic}.jsonl") for topic in self.outputs}
        try:
            with self.log() as log:
                return self.runner(log, *sources, outputs=outputs, **settings).run()
        finally:
            for output in outputs.values():
                output.close()

    def ask(self) -> None:
        """Request a stop of the run that is under way."""
        self.stop.request()

    def rows(self, topic: str) -> list[tuple[int, bytes | None]]:
        """The values of a topic, with their partitions."""
        with self.log() as log:
            return [(partition, emit.value) for partition, _, emit in log.read(topic)]

    def lines(self, topic: str) -> list[bytes]:
        """The lines of an output file."""
        return (self.folder / f"{topic}.jsonl").read_bytes().splitlines()
