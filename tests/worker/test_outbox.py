"""What waits for a commit: where each record goes, in which order, and in which batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.adapters import packing
from streamproc.core.batch import Counts, Crossing, Emit, Said, Step
from streamproc.core.partition import partition
from streamproc.ports.broker import Outgoing, TopicPartition
from streamproc.runners.worker import outbox as outboxes
from streamproc.runners.worker import producing
from streamproc.runners.worker.crossing import decode
from streamproc.runners.worker.outbox import STAMP, Outbox
from streamproc.runners.worker.producing import in_batches, size_of

COUNT = 3


def outbox_of(task: int = 1) -> Outbox:
    """That of a task whose topics have three partitions each."""
    house: Any = SimpleNamespace(
        plan=SimpleNamespace(hash="h"),
        counts={"cross": COUNT, "out": COUNT},
        partition=partition,
        packing=packing,
    )
    return Outbox(house, task, 5)


def step_of(
    emits: Mapping[str, list[Emit]] | None = None, crossings: Mapping[str, list[Crossing]] | None = None
) -> Step:
    """A step that has come to this."""
    return Step(dict(emits or {}), dict(crossings or {}), [], Counts(), {}, {}, {}, 0)


def crossing_of(number: int) -> Crossing:
    """A record on its way, under one of a few keys."""
    key = f"k{number % 7}"
    return Crossing(key, {"n": number}, number, (), ("in", 1, number), key.encode())


def test_crossings_go_where_their_keys_belong_in_their_order() -> None:
    """Step after step, stamped by the clock, and marks stand behind them in every partition."""
    outbox = outbox_of()
    for start in (0, 10):
        outbox.take(step_of(crossings={"cross": list(map(crossing_of, range(start, start + 10)))}), 1_000 + start)
    outbox.take(step_of(crossings={"cross": []}), 1_020)
    outbox.mark({"cross": Said(15)}, 1_030)
    assert set(outbox.records) == {TopicPartition("cross", number) for number in range(COUNT)}
    seen = []
    for place, rows in outbox.records.items():
        assert all(type(row) is Outgoing for row in rows)
        crossed = decode(range(len(rows)), [row.key for row in rows], [row.value for row in rows], packing)
        assert [partition(key, COUNT) for key in crossed.routes] == [place.partition] * len(crossed)
        assert list(crossed.times) == sorted(crossed.times)
        assert [row.at for row in rows] == [*(1_000 + at // 10 * 10 for at in crossed.times), 1_030]
        assert [(one.before, one.said, one.incarnation) for one in crossed.marks] == [(len(crossed), Said(15), 5)]
        seen += crossed.times
    assert sorted(seen) == list(range(20))


def test_without_a_key_results_stay_in_the_partition_of_their_task() -> None:
    """And a time before 1970 goes into a header, in place of one that says another."""
    outbox = outbox_of(task=4)
    outbox.take(step_of({"out": [Emit(None, b"v", -7, ((STAMP, b"1"), ("h", b"2")), None)]}), 0)
    assert outbox.records == {TopicPartition("out", 1): [Outgoing(None, b"v", 0, (("h", b"2"), (STAMP, b"-7")))]}


@pytest.mark.parametrize("what", ["crossings", "results"])
@pytest.mark.parametrize("limit", ["MANY_ROWS", "MANY_BYTES"])
def test_it_says_when_it_is_full(monkeypatch: pytest.MonkeyPatch, what: str, limit: str) -> None:
    """By records or by bytes, whatever they are."""
    outbox = outbox_of()

    def take() -> None:
        if what == "crossings":
            outbox.take(step_of(crossings={"cross": [crossing_of(n) for n in range(50)]}), 0)
        else:
            outbox.take(step_of({"out": [Emit(b"k", b"v" * 20, 0, (), b"k")] * 50}), 0)

    monkeypatch.setattr(outboxes, limit, 100 if limit == "MANY_ROWS" else 1_500)
    take()
    assert not outbox.full or limit == "MANY_BYTES"
    take()
    assert outbox.full


texts = st.none() | st.integers(0, 40).map(bytes)
outgoing = st.builds(Outgoing, texts, texts, st.just(0), st.sampled_from([(), (), (("h", b"1234"),)]))


def cut(rows: Sequence[Outgoing], most: int) -> list[list[Outgoing]]:
    """Record by record: into a batch as long as there is room."""
    parts: list[list[Outgoing]] = []
    held = 0
    for row in rows:
        if not parts or held + size_of(row) > most:
            parts.append([])
            held = 0
        parts[-1].append(row)
        held += size_of(row)
    return parts


@given(st.lists(outgoing, max_size=12), st.integers(1, 200))
def test_batches_are_as_large_as_they_may_be(rows: list[Outgoing], most: int) -> None:
    """A record that is larger stands alone; sequences go on from batch to batch."""
    sequences: dict[TopicPartition, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(producing, "BATCH_BYTES", most)
        rounds = in_batches({TopicPartition("t", 0): rows}, sequences)
    wanted = cut(rows, most)
    assert [list(batch.records) for (batch,) in rounds] == wanted
    assert [batch.sequence for (batch,) in rounds] == [sum(map(len, wanted[:n])) for n in range(len(wanted))]
    assert sequences.get(TopicPartition("t", 0), 0) == len(rows)
