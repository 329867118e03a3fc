"""A few lines of real streams, whose expected results batch programs computed: what runs without more data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.semantics.real import FIELDS, Oracle, compare, compared, flat, oracles, topology_of
from tests.semantics.samples import FOLDER, computed
from tests.semantics.ways import WAYS, Lines

NAMES = sorted(oracles(FOLDER))
LATE = [name for name in NAMES if oracles(FOLDER)[name].op.startswith("late")]
BY_ARRIVAL = {"trailing_arrival", "trailing_rows", "spc_prev"}


@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("way", list(WAYS))
def test_samples_refuse_what_a_batch_program_refuses(name: str, way: str) -> None:
    """In memory and embedded, windows and late events are those that are committed."""
    oracle = oracles(FOLDER)[name]
    assert compared(oracle, WAYS[way](topology_of(oracle), {oracle.stream: Lines(oracle.path)}, 1)) > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LATE])
@pytest.mark.parametrize(("way", "partitions"), [("memory", 1), ("memory", 3), ("embedded", 1), ("embedded", 3)])
def test_samples_give_what_a_batch_program_gives(name: str, way: str, partitions: int) -> None:
    """In memory and embedded, in one partition and in three, results are those that are committed."""
    oracle = oracles(FOLDER)[name]
    keyed = partitions > 1 and oracle.op in BY_ARRIVAL
    lines = Lines(oracle.path, oracle.key if keyed else None)
    ran = WAYS[way](topology_of(oracle, keyed=keyed), {oracle.stream: lines}, partitions)
    assert compare(oracle.expected(), list(map(flat, ran.rows["out"])), oracle.ids, FIELDS[oracle.op]) > 0
    assert (ran.late, ran.refused) == ([], {})


@pytest.mark.parametrize("name", NAMES)
def test_the_batch_programs_give_what_is_committed(name: str) -> None:
    """What is committed is what `python -m tests.semantics.samples` would write."""
    oracle = oracles(FOLDER)[name]
    found = computed(oracle)
    assert sorted(found) == sorted(oracle.files)
    for part, rows in found.items():
        assert rows == oracle.expected(part.removeprefix(oracle.name).removeprefix("."))


CHECKED = {
    "apache_logs": ("tumbling", "hopping", "late_tumbling", "late_hopping"),
    "nycflights_jan_feb": ("late_tumbling",),
}
"""Where the batch programs are quick enough to be tried on whole streams."""


@pytest.mark.parametrize("data", list(CHECKED))
def test_the_batch_programs_give_what_other_engines_give(reference_data: Path, data: str) -> None:
    """On whole streams the batch programs agree with engines of other people, so that they may judge this one."""
    chosen = [one for one in oracles(reference_data / data).values() if one.op in CHECKED[data]]
    rows = sum(agreed(one) for one in chosen if "partitions" not in one.parameters)
    assert rows > 0


def agreed(oracle: Oracle) -> int:
    """How many rows were compared."""
    found = computed(oracle)
    if oracle.op.startswith("late"):
        kept, refused = found[f"{oracle.name}.windows"], found[f"{oracle.name}.dropped"]
        rows = compare(oracle.expected("windows"), kept, oracle.ids, FIELDS[oracle.op])
        return rows + compare(oracle.expected("dropped"), refused, ("seq", "window_start"), ("key", "ts", "watermark"))
    return compare(oracle.expected(), found[oracle.name], oracle.ids, FIELDS[oracle.op])
