"""Real streams: what other people's engines gave for them, row by row, in memory and embedded.

No event of a stream without lateness may be late, so its disorder is the greatest there is in the data.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamproc.core.batch import END, Batch, DeadLetter
from tests.semantics.real import ERROR, FIELDS, Departure, compare, compared, flat, oracles, topology_of
from tests.semantics.scripts import Mark, batch_of, task_of
from tests.semantics.ways import WAYS, Letter, Lines, Ran, unzipped

DATA_SETS = ("nycflights_jan_feb", "apache_logs", "nab_cloud")
NYC, APACHE, NAB = DATA_SETS
ON_TIME: dict[str, tuple[str, ...]] = {
    NYC: ("tumbling_a", "tumbling_b", "tumbling_day", "hopping_a", "trailing_closed", "trailing_halfopen"),
    APACHE: ("tumbling_a", "tumbling_b", "hopping_a", "trailing_closed", "trailing_halfopen"),
    NAB: ("tumbling_a", "hopping_a", "trailing_closed", "trailing_halfopen"),
}
BY_ARRIVAL: dict[str, tuple[str, ...]] = {
    NYC: ("trailing_arrival",),
    APACHE: ("trailing_arrival",),
    NAB: ("trailing_rows", "spc_prev"),
}
LATE: dict[str, tuple[str, ...]] = {
    NYC: tuple(
        f"late_{kind}_{how}"
        for kind in ("tumbling", "hopping")
        for how in ("d0m_l0m", "d30m_l0m", "d30m_l60m", "d0m_l120m")
    ),
    APACHE: tuple(
        f"late_{kind}_{how}"
        for kind in ("tumbling", "hopping")
        for how in ("d0s_l0s", "d10s_l0s", "d10s_l20s", "d30s_l0s", "d0s_l60s")
    ),
}
SHARED_OUT = "late_tumbling_3partitions_d30m_l0m"


SLOW = {
    NYC: {"trailing_closed", "trailing_halfopen", "trailing_arrival"},
    NAB: {"hopping_a", "trailing_closed", "trailing_halfopen", "spc_prev"},
}


def every(named: dict[str, tuple[str, ...]]) -> pytest.MarkDecorator:
    """All oracles that are named, as (data set, name)."""
    chosen = [
        pytest.param(data, name, marks=[pytest.mark.slow] if name in SLOW.get(data, ()) else [])
        for data, names in named.items()
        for name in names
    ]
    return pytest.mark.parametrize(("data", "name"), chosen)


HOW = pytest.mark.parametrize(("way", "partitions"), [("memory", 1), ("memory", 3), ("embedded", 1), ("embedded", 3)])


def test_no_oracle_is_forgotten(reference_data: Path) -> None:
    """Every oracle of an operation that there is has its test."""
    here = {data: {*ON_TIME[data], *BY_ARRIVAL[data], *LATE.get(data, ())} for data in DATA_SETS}
    here[NYC].add(SHARED_OUT)
    there = {
        data: {one.name for one in oracles(reference_data / data).values() if one.op in FIELDS} for data in DATA_SETS
    }
    assert here == there


@every(ON_TIME)
@HOW
def test_final_results(  # noqa: PLR0913, PLR0917 - what is run, and how
    reference_data: Path, data: str, name: str, way: str, partitions: int, record_property: Callable[[str, int], None]
) -> None:
    """All events count, however late: windows and trailing results are those of the oracle, and nothing is refused."""
    oracle = oracles(reference_data / data)[name]
    ran = WAYS[way](topology_of(oracle), {oracle.stream: Lines(oracle.path)}, partitions)
    found = list(map(flat, ran.rows["out"]))
    record_property("rows", compare(oracle.expected(), found, oracle.ids, FIELDS[oracle.op]))
    assert (ran.late, ran.refused) == ([], {})
    if oracle.op == "tumbling":
        for row in found:
            exact = row["p95_nearest_rank"]
            assert abs(row["p95"] - exact) <= ERROR * abs(exact)


@every(BY_ARRIVAL)
@HOW
def test_results_by_arrival(  # noqa: PLR0913, PLR0917 - what is run, and how
    reference_data: Path, data: str, name: str, way: str, partitions: int, record_property: Callable[[str, int], None]
) -> None:
    """Own operators see each key in the order of its arrival, if the source is partitioned by it."""
    oracle = oracles(reference_data / data)[name]
    keyed = partitions > 1
    lines = Lines(oracle.path, oracle.key if keyed else None)
    ran = WAYS[way](topology_of(oracle, keyed=keyed), {oracle.stream: lines}, partitions)
    record_property("rows", compare(oracle.expected(), ran.rows["out"], oracle.ids, FIELDS[oracle.op]))
    assert (ran.late, ran.refused) == ([], {})


@every(LATE)
@pytest.mark.parametrize("way", list(WAYS))
def test_late_events(
    reference_data: Path, data: str, name: str, way: str, record_property: Callable[[str, int], None]
) -> None:
    """With a bound of disorder and a grace, windows hold what was not too late, and every refusal is the oracle's."""
    oracle = oracles(reference_data / data)[name]
    ran = WAYS[way](topology_of(oracle), {oracle.stream: Lines(oracle.path)}, 1)
    record_property("rows", compared(oracle, ran))


def test_late_events_of_three_inputs(reference_data: Path, record_property: Callable[[str, int], None]) -> None:
    """With an input for each airport, the slowest of them holds the watermark of all."""
    oracle = oracles(reference_data / NYC)[SHARED_OUT]
    inputs = oracle.parameters["partitions"]
    assert oracle.parameters["partition_by"] == oracle.key
    rows = 0
    for fused in (False, True):
        task = task_of(topology_of(oracle), len(inputs), fused=fused)
        events = [msgspec.json.decode(line, type=Departure) for line in unzipped(oracle.path)]
        ran = Ran()
        for start in range(0, len(events), 500):
            part = events[start : start + 500]
            numbers = [inputs.index(event.origin) for event in part]
            batch = Batch(numbers, part, [event.ts for event in part], range(start, start + len(part)))
            take(ran, task.step(batch))
        take(ran, task.step(batch_of([Mark(number, END) for number in range(len(inputs))], 0, len(inputs))))
        rows += compared(oracle, ran)
    record_property("rows", rows)


def take(ran: Ran, step: Any) -> None:
    """Take note of what a step of a task alone brought about."""
    ran.stepped(step)
    ran.wrote("out", step.emits.get("out", []))
    ran.late += map(letter, step.dead)


def letter(dead: DeadLetter) -> Letter:
    """A dead letter that has not been written yet; the number of an event is its offset."""
    assert dead.reason == "late"
    assert dead.window is not None
    return Letter(dead.offset, dead.watermark, dead.window)
