"""Topologies over real streams: for each kind of oracle the one that gives its results, and what a user adds for it.

An oracle is an operation with parameters on one stream, and the rows that engines of other people gave for it.
"""

from __future__ import annotations

import json
import math
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

from streamproc import (
    NEVER,
    Cell,
    Context,
    Count,
    Hopping,
    Max,
    Mean,
    Min,
    Quantile,
    Record,
    StdDev,
    Sum,
    Topology,
    Trailing,
    Tumbling,
)
from tests.laws import ms
from tests.semantics.ways import Letter, Ran, unzipped

Row = dict[str, Any]
ERROR = 0.01
"""The relative error of the sketch that stands beside an exact quantile."""


# --- oracles ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Oracle:
    """An operation on a stream of a data set, with the files of its expected rows."""

    folder: Path
    name: str
    op: str
    parameters: Row
    files: tuple[str, ...]
    ids: tuple[str, ...]
    lateness: int

    @property
    def stream(self) -> str:
        """The topic, which is the name of the stream."""
        return str(self.parameters["stream"])

    @property
    def path(self) -> Path:
        """The file of the stream."""
        return there(self.folder, self.stream)

    @property
    def key(self) -> str:
        """The field that is the key."""
        (key,) = self.parameters["key"]
        return str(key)

    def expected(self, part: str = "") -> list[Row]:
        """The rows of a file, `windows` or `dropped` where there are two."""
        name = f"{self.name}.{part}" if part else self.name
        assert name in self.files
        return list(map(msgspec.json.decode, unzipped(there(self.folder / "oracles", name))))


def there(folder: Path, name: str) -> Path:
    """A file of JSON lines, compressed or not."""
    return next(path for path in (folder / f"{name}.jsonl.gz", folder / f"{name}.jsonl") if path.exists())


@lru_cache(maxsize=8)
def oracles(folder: Path) -> dict[str, Oracle]:
    """The oracles of a data set by name."""
    described = json.loads((folder / "oracles.json").read_text())
    found = {}
    for one in described["oracles"]:
        stream = described["streams"].get(one["params"].get("stream"), {})
        lateness = (stream.get("lateness_ms") or {}).get("max", 0)
        name, op, parameters = one["name"], one["op"], one["params"]
        found[name] = Oracle(folder, name, op, parameters, tuple(one["files"]), tuple(one["ids"]), lateness)
    return found


class Differs(AssertionError):
    """Rows are not what they should be."""


def compare(expected: Sequence[Row], actual: Sequence[Row], ids: Sequence[str], fields: Sequence[str]) -> int:
    """How many rows were compared; AssertionError unless both have the same ids, each once, with the same fields."""
    known, found = by_ids(expected, ids), by_ids(actual, ids)
    missing, extra = known.keys() - found.keys(), found.keys() - known.keys()
    if missing or extra:
        raise Differs(f"{len(missing)} rows are missing and {len(extra)} too many: {[*missing, *extra][:5]}")
    for place, row in known.items():
        for name in fields:
            if not same(row[name], found[place][name]):
                raise Differs(f"{place}: {name} is {found[place][name]!r} and should be {row[name]!r}")
    return len(known)


def by_ids(rows: Sequence[Row], ids: Sequence[str]) -> dict[tuple[Any, ...], Row]:
    """Rows by what names them, each of which must be there once."""
    found = {tuple(row[name] for name in ids): row for row in rows}
    if len(found) < len(rows):
        raise Differs(f"{len(rows) - len(found)} rows bear ids that others have too")
    return found


def same(expected: Any, actual: Any) -> bool:
    """Integers exactly; floats, which are rounded to six decimals in the files, within what that can be."""
    if isinstance(expected, float) and isinstance(actual, int | float):
        return abs(expected - actual) <= max(1e-6, 1e-9 * abs(expected))
    return bool(expected == actual)


# --- what a user adds ---------------------------------------------------------------------------------------

TS = attrgetter("ts")
Of = Callable[[Any], Any]


@dataclass(frozen=True)
class Ranked:
    """An aggregate of a user's own: all values, sorted, and of them the q-quantile by `shows`."""

    of: Of
    q: float
    shows: Callable[[list[float], float], float]

    def zero(self) -> list[float]:
        return []

    def add(self, acc: list[float], value: Any, /) -> list[float]:
        more = acc[:]
        insort(more, self.of(value))
        return more

    def merge(self, left: list[float], right: list[float], /) -> list[float]:
        return sorted(left + right)

    def result(self, acc: list[float], /) -> float:
        return self.shows(acc, self.q)


def nearest_rank(ranked: list[float], q: float) -> float:
    """The ceil(q * n)-th smallest; by whole percents, for 0.95 * 100 is more than 95 in floats."""
    return ranked[-(-round(q * 100) * len(ranked) // 100) - 1]


def linear(ranked: list[float], q: float) -> float:
    """Between the two values around q * (n - 1)."""
    place = q * (len(ranked) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (place - low)


class Stateful:
    """What these own operators have in common: nothing comes of a cell that is due."""

    def on_due(self, cell: Cell, ctx: Context) -> Iterable[Record[Any, Any]]:  # noqa: ARG002
        return ()


def summary(values: Sequence[float]) -> Row:
    """Count, sum, least and greatest of some values."""
    total = sum(values) if isinstance(values[0], int) else math.fsum(values)
    return {"count": len(values), "sum": total, "min": min(values), "max": max(values)}


@dataclass(frozen=True)
class LastRows(Stateful):
    """For each record a summary of the last so many of its key, by arrival."""

    of: Of
    rows: int

    def on_run(self, run: Iterable[Record[Any, Any]], ctx: Context) -> Iterator[Record[Any, Any]]:
        for record in run:
            kept = (*(ctx.get(NEVER, record.key) or ()), self.of(record.value))[-self.rows :]
            ctx.put(NEVER, record.key, kept)
            yield record._replace(value={"seq": record.value.seq, **summary(kept)})


@dataclass(frozen=True)
class SoFar(Stateful):
    """For each record a summary of what its key has had so far in [t - window, t]; records on time see all of it."""

    of: Of
    window: int
    by_key: bool = True

    def on_run(self, run: Iterable[Record[Any, Any]], ctx: Context) -> Iterator[Record[Any, Any]]:
        for record in run:
            last = record.at + self.window + 1
            ctx.put(last, record.key, (*(ctx.get(last, record.key) or ()), self.of(record.value)))
            cells = ctx.scan(record.key, last - self.window, last)
            seen = [value for cell in cells for value in cell.value]
            yield record._replace(value={"seq": record.value.seq, **summary(seen)})


@dataclass(frozen=True)
class Control(Stateful):
    """Each value against mean and deviation of those of its key in [t - window, t - 1]; for a stream in order.

    The deviation is that of the differences from the first value, twice gone through: exactly 0 where all are equal.
    """

    of: Of
    window: int
    sigmas: float
    least: int

    def on_run(self, run: Iterable[Record[Any, Any]], ctx: Context) -> Iterator[Record[Any, Any]]:
        for record in run:
            times, values = ctx.get(NEVER, record.key) or ((), ())
            gone = sum(1 for _ in iter_while(times, record.at - self.window))
            times, values = times[gone:], values[gone:]
            before = len(times)
            while before and times[before - 1] == record.at:
                before -= 1
            yield record._replace(
                value={"seq": record.value.seq, **self._judged(self.of(record.value), values[:before])}
            )
            ctx.put(NEVER, record.key, ((*times, record.at), (*values, self.of(record.value))))

    def _judged(self, value: float, before: Sequence[float]) -> Row:
        n = len(before)
        mean = deviation = z = None
        if n:
            apart = [x - before[0] for x in before]
            centre = math.fsum(apart) / n
            mean = before[0] + centre
            if n > 1:
                deviation = math.sqrt(math.fsum([(x - centre) ** 2 for x in apart]) / (n - 1))
        known = n >= self.least and mean is not None and deviation is not None and deviation > 0
        if known and mean is not None and deviation is not None:
            z = (value - mean) / deviation
        flagged = z is not None and deviation is not None and abs(z) * deviation > self.sigmas * deviation
        return {"prev_count": n, "prev_mean": mean, "prev_stddev_samp": deviation, "z": z, "flagged": flagged}


def iter_while(times: Sequence[int], below: int) -> Iterator[int]:
    """The times at the beginning that are below an instant."""
    for at in times:
        if at >= below:
            return
        yield at


# --- topologies ---------------------------------------------------------------------------------------------


class Departure(msgspec.Struct, frozen=True):
    """A flight that left, as far as it is looked at."""

    seq: int
    ts: int
    origin: str
    carrier: str
    dep_delay: int


class Request(msgspec.Struct, frozen=True):
    """A request to a web server."""

    seq: int
    ts: int
    status: int
    bytes: int


class Metric(msgspec.Struct, frozen=True):
    """A measurement of a machine."""

    seq: int
    ts: int
    series: str
    value: float


TYPES = {"departures": Departure, "requests": Request, "metrics": Metric}


BASIC = ("count", "sum", "min", "max")
FIELDS = {
    "tumbling": (*BASIC, "window_end", "avg", "p95_nearest_rank", "p95_linear"),
    "hopping": (*BASIC, "window_end", "avg"),
    "late_tumbling": (*BASIC, "window_end"),
    "late_hopping": (*BASIC, "window_end"),
    "trailing": (*BASIC, "stddev_samp"),
    "trailing_rows": BASIC,
    "trailing_arrival": BASIC,
    "spc_prev": ("prev_count", "prev_mean", "prev_stddev_samp", "z", "flagged"),
}
"""What is compared of each kind of oracle, besides its ids."""


def topology_of(oracle: Oracle, *, keyed: bool = False) -> Topology:
    """The topology of an oracle; with `keyed`, its source is partitioned by the key, which must be text."""
    parameters = oracle.parameters
    disorder, grace = parameters.get("delay_ms", oracle.lateness), parameters.get("lateness_ms", 0)
    topology = Topology("real", dead_letters="dead")
    type_: Any = TYPES[oracle.stream]
    given: Any = {"event_time": TS, "disorder": ms(disorder)}
    of = attrgetter(parameters["value"])
    stream: Any = (
        topology.source(oracle.stream, type_, key=str, **given)
        if keyed
        else topology.source(oracle.stream, type_, **given).key_by(attrgetter(oracle.key))
    )
    own: dict[str, Callable[[], Any]] = {
        "trailing_rows": lambda: LastRows(of, parameters["rows"]),
        "trailing_arrival": lambda: SoFar(of, parameters["window_ms"]),
        "spc_prev": lambda: Control(of, parameters["window_ms"], parameters["sigmas"], parameters["min_count"]),
    }
    if oracle.op in own:
        stream.via(own[oracle.op](), name="own").to("out")
        return topology
    folds: dict[str, Any] = {"count": Count(), "sum": Sum(of=of), "min": Min(of=of), "max": Max(of=of)}
    if oracle.op == "tumbling":
        folds |= {
            "avg": Mean(of=of),
            "p95_nearest_rank": Ranked(of, 0.95, nearest_rank),
            "p95_linear": Ranked(of, 0.95, linear),
            "p95": Quantile(0.95, of=of, error=ERROR),
        }
    elif oracle.op == "hopping":
        folds["avg"] = Mean(of=of)
    elif oracle.op == "trailing":
        folds["stddev_samp"] = StdDev(of=of)
    stream.window(window_of(oracle, ms(grace))).agg(name="w", **folds).to("out")
    return topology


def window_of(oracle: Oracle, grace: str) -> Tumbling | Hopping | Trailing:
    """The window of an oracle; a half-open trailing window is 1 ms shorter than a closed one."""
    parameters = oracle.parameters
    match oracle.op:
        case "tumbling" | "late_tumbling":
            return Tumbling(ms(parameters["size_ms"]), grace=grace)
        case "hopping" | "late_hopping":
            return Hopping(ms(parameters["size_ms"]), advance=ms(parameters["hop_ms"]), grace=grace)
    return Trailing(ms(parameters["window_ms"] - (parameters["bounds"] == "halfopen")), grace=grace)


def flat(row: Row) -> Row:
    """A result as the oracles have it."""
    if "start" not in row:
        return row
    if "event" in row:
        return {"seq": row["event"]["seq"], **row["value"]}
    return {"key": row["key"], "window_start": row["start"], "window_end": row["end"], **row["value"]}


def compared(oracle: Oracle, ran: Ran) -> int:
    """How many rows of windows and refusals were compared."""
    rows = compare(oracle.expected("windows"), list(map(flat, ran.rows["out"])), oracle.ids, FIELDS[oracle.op])
    dropped = oracle.expected("dropped")
    assert ran.refused.get("w", 0) == len(dropped)
    by_event: dict[int, list[Row]] = {}
    for row in dropped:
        by_event.setdefault(row["seq"], []).append(row)
    size = oracle.parameters["size_ms"]
    windows = size // oracle.parameters.get("hop_ms", size)
    late = [
        Letter(seq, refusals[-1]["watermark"], (refusals[-1]["window_start"], refusals[-1]["window_start"] + size))
        for seq, refusals in sorted(by_event.items())
        if len(refusals) == windows
    ]
    assert sorted(ran.late) == late
    return rows + len(dropped)
