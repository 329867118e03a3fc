"""One measurement, in a process of its own: `python -m bench.measure WHAT FILE KIND SIZE ADVANCE` prints JSON.

    lines in memory --offer 5,000--> engine --work--> rows,  and each 20,000 events a commit with its state as bytes

The file is read before the clock starts, and the answer is summed up after it has stopped.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

from bench.workload import Answer, Event, Work, expected, written
from streamproc.adapters.codecs import JsonSerde, field_of
from streamproc.adapters.jsonlines import JsonLinesSource
from streamproc.adapters.packing import pack
from streamproc.core.batch import Emit
from streamproc.core.feed import SLICE
from streamproc.core.partition import partition
from streamproc.core.plan import build
from streamproc.core.state import MemoryStore
from streamproc.ports import Run
from streamproc.runners.collector import THRESHOLDS
from streamproc.runners.embedded import AT_ONCE
from streamproc.runners.engine import Engine

COMMIT_EACH = 20_000


class Spent(NamedTuple):
    """What a run took, in seconds, and what came of it."""

    cpu: float
    wall: float
    answer: Answer


def timed(run: Callable[[], Callable[[], Answer]]) -> Spent:
    """Run with the collector as the runners have it; what `run` returns gives the answer once the clock has stopped."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    wall, cpu = perf_counter(), process_time()
    answer = run()
    cpu, wall = process_time() - cpu, perf_counter() - wall
    return Spent(cpu, wall, answer())


def engine(path: Path, work: Work, *, fused: bool) -> Spent:
    """The engine over memory: decoding, processing, encoding, and commits that turn changed state into bytes."""
    lines: list[bytes | None] = list(path.read_bytes().splitlines())
    made = Engine(build(work.topology().graph()), JsonSerde(), lambda _: MemoryStore(), lambda _: None, fused=fused)
    rows: list[Emit] = []

    def commit() -> None:
        pending = made.pending(0)
        for changes in pending.changes.values():
            for change in changes:
                pack(change.cells)
        for emits in pending.emits.values():
            rows.extend(emits)
        made.committed(pending)

    def run() -> Callable[[], Answer]:
        for start in range(0, len(lines), AT_ONCE):
            part = lines[start : start + AT_ONCE]
            made.offer("events", Run(0, range(start, start + len(part)), part), None)
            for _ in made.work():
                pass
            if (start + AT_ONCE) % COMMIT_EACH == 0:
                commit()
        made.end("events")
        for _ in made.work():
            pass
        commit()
        return lambda: written(row.value for row in rows)

    return timed(run)


def decode(path: Path) -> Spent:
    """Nothing but decoding, a slice at a time: a bound."""
    lines: list[bytes | None] = list(path.read_bytes().splitlines())
    codec = JsonSerde().decoder(Event)

    def run() -> Callable[[], Answer]:
        count = sum(len(codec.decode(lines[start : start + SLICE]).values) for start in range(0, len(lines), SLICE))
        return lambda: Answer(count, 0)

    return timed(run)


def fetch(path: Path) -> Spent:
    """Nothing but reading lines of a file: a bound."""
    source = JsonLinesSource(
        "events", path, partition_of=partition, encode_key=JsonSerde().encode_key, field_of=field_of
    )
    source.open(None)

    def run() -> Callable[[], Answer]:
        count = 0
        while not source.ended:
            count += sum(len(each.values) for each in source.read(AT_ONCE))
        return lambda: Answer(count, 0)

    return timed(run)


def measured(what: str, path: Path, work: Work) -> Spent:
    """One of the measurements by name."""
    runs: dict[str, Callable[[], Spent]] = {
        "engine": lambda: engine(path, work, fused=True),
        "plain": lambda: engine(path, work, fused=False),
        "decode": lambda: decode(path),
        "fetch": lambda: fetch(path),
        "right": lambda: timed(lambda: lambda: expected(path, work)),
    }
    return runs[what]()


if __name__ == "__main__":
    name, file, kind, size, advance = sys.argv[1:]
    chosen: Any = kind
    print(json.dumps(measured(name, Path(file), Work(chosen, int(size), int(advance)))))
