"""A task alone, given records and marks exactly where a test wants them, in batches of any length.

    [Rec(0, "a", 100), Mark(0, 104), Rec(1, "a", 99)]  --cut--> batches --> task.step --> what each of them caused

A record's offset and number are its place in the script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from streamproc import Topology
from streamproc.adapters.codecs import JsonSerde
from streamproc.core import batch as values
from streamproc.core.batch import Batch, Step
from streamproc.core.fuse import fuse
from streamproc.core.plan import Plan, Stage, build
from streamproc.core.site import Writer
from streamproc.core.state import MemoryStore
from streamproc.core.task import Input, Task
from streamproc.runners.bench import Bench, codecs_of
from tests.semantics.dense import Beat


class Rec(NamedTuple):
    """A record of an input."""

    input: int
    key: str
    at: int


class Mark(NamedTuple):
    """The watermark of an input is said to be here."""

    input: int
    watermark: int


Script = Sequence[Rec | Mark]


def task_of(
    topology: Topology,
    inputs: int = 1,
    *,
    fused: bool,
    settled: Mapping[str, Any] | None = None,
    store: MemoryStore | None = None,
) -> Task:
    """The task of a topology: its one source has so many partitions, or its sources have one each."""
    (stage,) = build(topology.graph()).stages
    serde = JsonSerde()
    numbered = [
        Input(inlet, one.topic, number)
        for inlet, one in enumerate(stage.inlets)
        for number in range(inputs if len(stage.inlets) == 1 else 1)
    ]
    writer = Writer(serde.encode, serde.encode_key)
    task = Task(stage, numbered, MemoryStore() if store is None else store, writer, settled)
    if fused:
        fuse(task)
    return task


def bench_of(  # noqa: PLR0913 - each by name
    plan: Plan,
    stage: Stage,
    number: int = 0,
    *,
    store: MemoryStore | None = None,
    settled: Mapping[str, Any] | None = None,
    stored: bool = True,
    fused: bool = True,
) -> Bench:
    """One task of a plan with its feed, as it is hosted alone."""
    codecs = codecs_of(plan, JsonSerde())
    kept = MemoryStore() if store is None else store
    return Bench(plan, stage, number, codecs, kept, settled, stored=stored, fused=fused)


def batch_of(script: Script, start: int, stop: int) -> Batch:
    """A part of a script as one batch."""
    inputs: list[int] = []
    batch = Batch(inputs, [], [], [], keys=[])
    offsets: list[int] = []
    for number, one in enumerate(script[start:stop], start):
        if isinstance(one, Mark):
            batch.marks.append(values.Mark(len(inputs), one.input, one.watermark))
            continue
        inputs.append(one.input)
        batch.values.append(Beat(one.at, one.key, 1, number))
        batch.times.append(one.at)
        offsets.append(number)
        assert batch.keys is not None
        batch.keys.append(None)
        batch.positions[0] = number + 1
    batch.offsets = offsets
    if len(set(inputs)) == 1:
        batch.inputs = inputs[0]
    elif not inputs:
        batch.inputs = 0
    return batch


def play(task: Task, script: Script, cuts: Iterable[int] | None = None) -> list[Step]:
    """Play a script, cut in front of these places; one step of it a batch without."""
    inner = range(1, len(script)) if cuts is None else sorted(set(cuts) - {0, len(script)})
    places = [0, *inner, len(script)]
    return [task.step(batch_of(script, start, end)) for start, end in pairwise(places) if end > start]


def commit(task: Task) -> Mapping[str, Any]:
    """Commit what a task has done, and give its position record."""
    position = task.position()
    task.committed(task.changes(), position)
    return position


__all__ = ["Input", "Mark", "Rec", "Script", "Step", "Task", "batch_of", "bench_of", "commit", "play", "task_of"]
