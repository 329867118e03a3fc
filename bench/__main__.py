"""`python -m bench [--quick] [--json FILE]`: interleaved rounds, a table, and no figure without the right answer.

round 1:  engine  plain  decode  fetch  embedded 1  embedded 3  nothing      each in a process of its own
round 2:  engine  plain  ...                                                 medians over rounds, ratios within them
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Protocol

from bench.records import KINDS
from bench.workload import Answer, Load, Taken, W, Work, WrongAnswer, written

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1024
"""In the unit of `ru_maxrss`."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to be measured: `how` is a name in `bench.measure` or `bench.records`, or a number of partitions."""

    name: str
    how: str | int
    load: Load
    work: Work = W
    runs: list[Taken] = field(default_factory=list, compare=False)

    def run(self, folder: Path) -> Taken:
        """Run once."""
        path = self.load.file(folder)
        return self._command(path, self.how) if isinstance(self.how, int) else self._measured(path, self.how)

    def _measured(self, path: Path, how: str) -> Taken:
        work = self.work
        command = [sys.executable, "-m", "bench.measure", how, str(path), work.kind, str(work.size), str(work.advance)]
        if how in KINDS:
            command = [sys.executable, "-m", "bench.records", how, str(path), str(work.size)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)  # noqa: S603 - ourselves
        (cpu, wall, answer), *count = json.loads(done.stdout) if how in KINDS else [json.loads(done.stdout)]
        return Taken(cpu, wall, None, Answer(*answer), *count)

    def _command(self, path: Path, partitions: int) -> Taken:
        """From a file to SQLite by the command line, start and end of the process included."""
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            state = Path(folder) / "state.sqlite"
            command = [sys.executable, "-m", "streamproc", "run", self.work.spec, "--input", f"events={path}"]
            command += ["--state", str(state), "--partitions", str(partitions), "--no-http", "--log-level", "error"]
            started = perf_counter()
            child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: S603 - ourselves
            _, status, used = os.wait4(child.pid, 0)
            wall = perf_counter() - started
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                raise WrongAnswer(f"{' '.join(map(str, command))} ended with {child.returncode}")
            with sqlite3.connect(state) as connection:
                rows = connection.execute("SELECT value FROM records WHERE topic = 'totals'")
                answer = written(value for (value,) in rows)
            connection.close()
        return Taken(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / MEGABYTE, answer)

    @property
    def bound(self) -> bool:
        """Whether it has no answer but how many events there were."""
        return self.how in {"decode", "fetch"}

    def right(self, folder: Path) -> Answer:
        """The right answer; by another process, for a child's peak memory begins at its parent's."""
        if self.bound:
            return Answer(self.load.events, 0)
        return self._measured(self.load.file(folder), "right").answer


class Measured(Protocol):
    """What can be measured in rounds."""

    name: str
    load: Load
    work: Work
    runs: list[Taken]

    @property
    def bound(self) -> bool: ...

    def right(self, folder: Path) -> Answer: ...

    def run(self, folder: Path) -> Taken: ...


def measure(subjects: Sequence[Measured], rounds: int, folder: Path) -> None:
    """Interleaved rounds of all subjects; WrongAnswer if one of them gives one."""
    known: dict[tuple[Load, Work, bool], Answer] = {}
    for turn in range(rounds):
        for subject in subjects:
            right = known.get((subject.load, subject.work, subject.bound))
            if right is None:
                right = known[subject.load, subject.work, subject.bound] = subject.right(folder)
            _show(f"round {turn + 1} of {rounds}: {subject.name}")
            taken = subject.run(folder)
            if taken.answer != right:
                raise WrongAnswer(f"{subject.name}: {taken.answer}, and by brute force it is {right}")
            subject.runs.append(taken)
    _show("")


def _show(text: str) -> None:
    """Say to people who watch what is being done."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def comparison(*, quick: bool) -> list[Subject]:
    """Workload W in the engine, in its plain meaning, and from a file to SQLite; with what bounds them."""
    load = Load(200_000 if quick else 1_000_000)
    return [
        Subject("engine: generated loops", "engine", load),
        Subject("engine: plain meaning", "plain", Load(load.events // 4 if quick else load.events // 2)),
        Subject("bound: decode only", "decode", load),
        Subject("bound: read lines only", "fetch", load),
        Subject("file to SQLite, 1 partition", 1, load),
        Subject("file to SQLite, 3 partitions", 3, load),
        Subject("file to SQLite, 100 events", 1, Load(100)),
    ]


def windows(*, quick: bool) -> list[Subject]:
    """Each kind of window over few and many keys, all of them alike; trailing ones hold about 30 records.

    With 100,000 keys there are three events a key: that row is about many keys, not about full windows.
    """
    events = 60_000 if quick else 300_000
    found: list[Subject] = []
    for keys in (100, 10_000) if quick else (100, 10_000, 100_000):
        load = Load(events, keys, zipf=False)
        found += [
            Subject(f"tumbling 10 s, {keys:,} keys", "engine", load),
            Subject(f"hopping 60 s by 5 s, {keys:,} keys", "engine", load, Work("hopping", 60_000, 5_000)),
            Subject(f"trailing, {keys:,} keys", "engine", load, Work("trailing", 30 * keys // load.per_ms)),
        ]
    return found


def records(*, quick: bool) -> list[Subject]:
    """State to changelogs and back, in cells, and events across a repartition topic."""
    load = Load(60_000 if quick else 300_000, 10_000 if quick else 100_000, zipf=False)
    return [
        Subject("state: blocks to store", "restore blocks", load),
        Subject("state: cells to store", "restore cells", load),
        Subject("state: changes to blocks", "write blocks", load),
        Subject("state: changes to cells", "write cells", load),
        Subject("crossing: records to values", "encode crossings", load),
        Subject("crossing: values to records", "decode crossings", load),
    ]


def figures(subjects: Sequence[Measured], base: Measured) -> Iterator[dict[str, Any]]:
    """Medians of each subject; ratios to the base are taken within rounds."""
    for subject in subjects:
        n = subject.runs[0].count or subject.load.events
        rates = [n / taken.cpu for taken in subject.runs]
        ratios = [
            rate * taken.cpu / (taken.count or base.load.events) for rate, taken in zip(rates, base.runs, strict=True)
        ]
        rss = [taken.rss for taken in subject.runs if taken.rss is not None]
        yield {
            "name": subject.name,
            "events": n,
            "results": subject.runs[0].answer.rows,
            "events_per_cpu_second": round(median(rates)),
            "least": round(min(rates)),
            "most": round(max(rates)),
            "events_per_wall_second": round(median(n / taken.wall for taken in subject.runs)),
            "peak_rss_mb": round(median(rss), 1) if rss else None,
            "ratio": round(median(ratios), 3),
            "runs": [asdict(taken) for taken in subject.runs],
        }


def table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Figures for people, in thousands a second."""
    heads = (
        f"{'k/cpu-s':>9}{'least':>8}{'most':>8}{'k/wall-s':>10}{'ratio':>8}{'RSS MB':>8}{'events':>11}{'results':>11}"
    )
    lines = [title, " " * 36 + heads]
    for row in rows:
        rss = "" if row["peak_rss_mb"] is None else f"{row['peak_rss_mb']:.0f}"
        lines.append(
            f"{row['name']:36}{row['events_per_cpu_second'] / 1000:9,.1f}{row['least'] / 1000:8,.1f}"
            f"{row['most'] / 1000:8,.1f}{row['events_per_wall_second'] / 1000:10,.1f}{row['ratio']:8.2f}{rss:>8}"
            f"{row['events']:11,}{row['results']:11,}"
        )
    return "\n".join(lines) + "\n"


def on_kafka(folder: Path, rounds: int, *, only: str, quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Everything that needs a broker."""
    from bench import kafka  # noqa: PLC0415 - it needs aiokafka, and the way of the tests to a broker

    found: dict[str, list[dict[str, Any]]] = {}
    with kafka.running(folder) as brokers:
        subjects: list[Measured] = list(kafka.throughput(brokers, quick=quick))
        subjects.append(Subject("engine: generated loops", "engine", subjects[0].load))
        title = "Workload W, Kafka to Kafka"
        if chosen := [subject for subject in subjects if only in subject.name]:
            measure(chosen, rounds, folder)
            found[title] = list(figures(chosen, chosen[0]))
            print(table(title, found[title]))
        if not only or only in {"take-over", "latency"}:
            found["Take-over"] = taken = kafka.take_over(brokers, rounds, quick=quick, show=_show)
            found["Latency"] = live = kafka.latency(brokers, quick=quick, show=_show)
            _show("")
            print(kafka.tables(taken, live))
    return found


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "cpu": cpu.partition(":")[2].strip() or platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "load": os.getloadavg(),
    }


def main() -> int:
    """Measure, print the tables, write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds: less than a minute")
    parser.add_argument("--json", metavar="FILE", help="where the figures go")
    parser.add_argument("--only", metavar="TEXT", default="", help="only what has this in its name")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--kafka", action="store_true", help="from Kafka to Kafka instead; needs java, and mvn once")
    asked = parser.parse_args()
    rounds = asked.rounds or ((1 if asked.quick else 3) if asked.kafka else (3 if asked.quick else 5))
    on = machine()
    print(f"{on['cpu']}, {on['cores']} cores, Python {on['python']}, load {on['load'][0]:.1f}; medians of {rounds}\n")
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if asked.kafka:
            found = on_kafka(Path(folder), rounds, only=asked.only, quick=asked.quick)
        parts: dict[str, tuple[list[Subject], int]] = (
            {}
            if asked.kafka
            else {
                "Workload W": (comparison(quick=asked.quick), rounds),
                "Windows, state commits included": (windows(quick=asked.quick), 1 if asked.quick else min(rounds, 3)),
                "Changelogs in cells, crossings in events": (records(quick=asked.quick), 1 if asked.quick else rounds),
            }
        )
        for title, (subjects, turns) in parts.items():
            chosen = [subject for subject in subjects if asked.only in subject.name]
            if not chosen:
                continue
            measure(chosen, turns, Path(folder))
            found[title] = list(figures(chosen, chosen[0]))
            print(table(title, found[title]))
    if asked.json:
        Path(asked.json).write_text(json.dumps({"machine": on, **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
