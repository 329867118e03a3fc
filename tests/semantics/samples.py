"""Expected results of the samples, by batch programs.

python -m tests.semantics.samples     writes them anew, into tests/data/real/oracles
"""

from __future__ import annotations

import gzip
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from tests.semantics.batch_job import Event, Fixed, final_trailing, judged
from tests.semantics.real import Oracle, Row, linear, nearest_rank, oracles
from tests.semantics.ways import unzipped

FOLDER = Path(__file__).parent.parent / "data" / "real"
DIGITS = 6
EVER = 2**60
"""A disorder with which nothing is late."""


def computed(oracle: Oracle) -> dict[str, list[Row]]:
    """The rows of each file of an oracle, sorted by what names them."""
    events = [Event(str(row[oracle.key]), row["ts"], row) for row in map(msgspec.json.decode, unzipped(oracle.path))]
    match oracle.op:
        case "tumbling" | "hopping":
            return {oracle.name: windows(oracle, events, EVER)}
        case "late_tumbling" | "late_hopping":
            disorder = oracle.parameters["delay_ms"]
            kept, refused = windows(oracle, events, disorder), dropped(oracle, events, disorder)
            return {f"{oracle.name}.windows": kept, f"{oracle.name}.dropped": refused}
        case "trailing":
            found = final_trailing(oracle.parameters["window_ms"] - (oracle.parameters["bounds"] == "halfopen"), events)
            rows = [
                {
                    "seq": one.event.item["seq"],
                    **basic(of(oracle, one.members)),
                    "stddev_samp": spread(oracle, one.members),
                }
                for one in found
            ]
        case "trailing_arrival":
            rows = [
                {"seq": number, **basic(of(oracle, so_far(oracle, events, number)))} for number in range(len(events))
            ]
        case "trailing_rows":
            rows = [{"seq": number, **basic(of(oracle, last(oracle, events, number)))} for number in range(len(events))]
        case _:
            rows = [{"seq": number, **control(oracle, events, number)} for number in range(len(events))]
    return {oracle.name: sorted(rows, key=lambda row: row["seq"])}


def fixed(oracle: Oracle) -> Fixed:
    """The windows of an oracle."""
    size: int = oracle.parameters["size_ms"]
    return Fixed(size, oracle.parameters.get("hop_ms", size), 0, oracle.parameters.get("lateness_ms", 0))


def windows(oracle: Oracle, events: Sequence[Event], disorder: int) -> list[Row]:
    """What every window holds in the end."""
    rows = []
    for (_, start, end), members in judged(fixed(oracle), disorder, events).results:
        values = of(oracle, members)
        row = {"key": members[0][oracle.key], "window_start": start, "window_end": end, **basic(values)}
        if not oracle.op.startswith("late"):
            row["avg"] = short(statistics.fmean(values))
        if oracle.op == "tumbling":
            row["p95_nearest_rank"] = short(nearest_rank(sorted(values), 0.95))
            row["p95_linear"] = short(linear(sorted(values), 0.95))
        rows.append(row)
    return sorted(rows, key=lambda row: (str(row["key"]), row["window_start"]))


def dropped(oracle: Oracle, events: Sequence[Event], disorder: int) -> list[Row]:
    """Every window's refusal of every event, with the watermark it met."""
    return [
        {"seq": item["seq"], "key": item[oracle.key], "ts": item["ts"], "window_start": start, "watermark": watermark}
        for item, (start, _), watermark in judged(fixed(oracle), disorder, events).refusals
    ]


def so_far(oracle: Oracle, events: Sequence[Event], number: int) -> list[Row]:
    """What of the key of an event had arrived, of the time behind it."""
    here = events[number]
    arrived = [event for event in events[: number + 1] if event.key == here.key]
    return [event.item for event in arrived if 0 <= here.at - event.at <= oracle.parameters["window_ms"]]


def last(oracle: Oracle, events: Sequence[Event], number: int) -> list[Row]:
    """The last so many of the key of an event, itself included."""
    arrived = [event.item for event in events[: number + 1] if event.key == events[number].key]
    return arrived[-oracle.parameters["rows"] :]


def control(oracle: Oracle, events: Sequence[Event], number: int) -> Row:
    """An event against those of its key before it."""
    here, window = events[number], oracle.parameters["window_ms"]
    before = of(oracle, [e.item for e in events if e.key == here.key and 1 <= here.at - e.at <= window])
    (value,) = of(oracle, [here.item])
    mean = statistics.fmean(before) if before else None
    deviation = statistics.stdev(before) if len(before) > 1 else None
    known = len(before) >= oracle.parameters["min_count"] and bool(deviation)
    z = (value - mean) / deviation if known and mean is not None and deviation is not None else None
    return {
        "prev_count": len(before),
        "prev_mean": short(mean),
        "prev_stddev_samp": short(deviation),
        "z": short(z),
        "flagged": z is not None and abs(z) > oracle.parameters["sigmas"],
    }


def of(oracle: Oracle, rows: Sequence[Row]) -> list[Any]:
    """The values of some events."""
    return [row[oracle.parameters["value"]] for row in rows]


def basic(values: Sequence[Any]) -> Row:
    """Count, sum, least and greatest."""
    total = math.fsum(values) if isinstance(values[0], float) else sum(values)
    return {"count": len(values), "sum": short(total), "min": short(min(values)), "max": short(max(values))}


def spread(oracle: Oracle, rows: Sequence[Row]) -> Any:
    """The standard deviation of a sample, null of one value."""
    values = of(oracle, rows)
    return short(statistics.stdev(values)) if len(values) > 1 else None


def short(value: Any) -> Any:
    """A float as it is kept."""
    return round(value, DIGITS) if isinstance(value, float) else value


def write() -> None:
    """Compute all that is expected of the samples, and keep it."""
    for oracle in oracles(FOLDER).values():
        for name, rows in computed(oracle).items():
            lines = [msgspec.json.encode(row) for row in rows]
            packed = gzip.compress(b"".join(line + b"\n" for line in lines), 9, mtime=0)
            (FOLDER / "oracles" / f"{name}.jsonl.gz").write_bytes(packed)


if __name__ == "__main__":
    write()
