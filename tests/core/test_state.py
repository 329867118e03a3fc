"""State against a model: whatever is done to cells, they are what a dictionary would be."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc import Count, Topology, Tumbling
from streamproc.adapters.codecs import JsonSerde
from streamproc.core.batch import NEVER, Batch
from streamproc.core.fuse import fuse
from streamproc.core.plan import build
from streamproc.core.site import Writer
from streamproc.core.state import Cells, Entry, Journal, KeyId, MemoryStore, byte_order, key_id, undo
from streamproc.core.task import Input, Task
from tests.laws import Event

KEYS: list[KeyId] = ["a", "ab", "b", "10", "9", b"\xff"]
TIMES = [1, 2, 5, 9, NEVER]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "drop", "take", "commit", "abort", "begin", "undo"]),
        st.sampled_from(TIMES),
        st.sampled_from(KEYS),
    ),
    max_size=60,
)
Model = dict[tuple[int, KeyId], Entry]


@given(ACTIONS)
@settings(max_examples=300)
def test_cells_are_a_dictionary(actions: list[tuple[str, int, KeyId]]) -> None:
    """Puts, drops, takes, undone units, commits and aborts leave what they would leave of a dictionary."""
    store, journal = MemoryStore(), list[Any]()
    cells = Cells(store, "node", 0, journal, by_key=True)
    now: Model = {}
    committed: Model = {}
    begun: Model = {}
    for number, (action, at, key) in enumerate(actions):
        match action:
            case "put":
                cells.put(at, key, [key, number])
                now[at, key] = [key, number]
            case "drop":
                cells.drop(at, key)
                now.pop((at, key), None)
            case "take":
                taken = cells.take(at)
                keys = byte_order(k for t, k in now if t == at)
                assert taken == [(k, now.pop((at, k))) for k in keys]
                journal.clear()  # what is taken is no part of a unit
                begun = dict(now)
            case "commit":
                store.apply(cells.changes())
                cells.settle()
                committed, begun = dict(now), dict(now)
                journal.clear()
            case "abort":
                cells.restart()
                now, begun = dict(committed), dict(committed)
                journal.clear()
            case "begin":
                journal.clear()
                begun = dict(now)
            case "undo":
                undo(journal)
                now = dict(begun)
        _agree(cells, now, store, committed)


def _agree(cells: Cells, now: Model, store: MemoryStore, committed: Model) -> None:
    assert cells.live() == now
    assert cells.next_due() == min((t for t, _ in now if t != NEVER), default=NEVER) or _emptied(cells, now)
    for key in KEYS:
        course = sorted((t, entry) for (t, k), entry in now.items() if k == key)
        assert cells.scan(key, 1, NEVER) == course
        assert cells.scan(key, 2, 5) == [(t, entry) for t, entry in course if 2 <= t <= 5]
        assert [cells.get(t, key) for t in TIMES] == [now.get((t, key)) for t in TIMES]
    held = {(t, k): entry for t in store.times("node", 0) for k, entry in store.bucket("node", 0, t).items()}
    assert held == committed


def _emptied(cells: Cells, now: Model) -> bool:
    """A time may be offered early if all of its cells were dropped: there is nothing to take, and no harm in it."""
    at = cells.next_due()
    return at < min((t for t, _ in now), default=NEVER) and not any(t == at for t, _ in now)


@given(st.lists(st.binary(max_size=3), unique=True))
def test_keys_are_in_the_order_of_their_bytes(keys: list[bytes]) -> None:
    """Text or not, canonical keys are ordered as their bytes are, and equal only if these are."""
    found = byte_order(map(key_id, keys))
    assert [key.encode() if isinstance(key, str) else key for key in found] == sorted(keys)


def test_an_abort_goes_back_to_the_last_commit() -> None:
    """A task whose commit failed is where it was: the same batches again have the same results, and no others."""
    topology = Topology("aborts")
    keyed = topology.source("in", Event, event_time=lambda e: e.ts).key_by(lambda e: e.key)
    keyed.window(Tumbling("10ms")).agg(Count(), name="n").to("out")
    serde = JsonSerde()
    (stage,) = build(topology.graph()).stages
    task = Task(stage, [Input(0, "in", 0)], MemoryStore(), Writer(serde.encode, serde.encode_key))
    fuse(task)

    def feed(*times: int, offset: int) -> list[tuple[int, bytes | None]]:
        events = [Event(at, "a", 1) for at in times]
        batch = Batch(0, events, list(times), range(offset, offset + len(times)), positions={0: offset + len(times)})
        return [(row.at, row.value) for row in task.step(batch).emits.get("out", [])]

    assert feed(1, 2, offset=0) == []
    changes, position = task.changes(), task.position()
    task.committed(changes, position)
    once = feed(3, 25, 31, offset=2)
    task.aborted()
    assert task.position() == position
    assert feed(3, 25, 31, offset=2) == once
    assert [row[0] for row in once] == [9, 29]


def test_a_journal_is_empty_when_it_is_undone() -> None:
    """Undoing takes the last change first, so that a cell that was changed twice is what it was before both."""
    journal: Journal = []
    cells = Cells(MemoryStore(), "node", 0, journal)
    cells.put(1, "a", ["a", 1])
    journal.clear()
    cells.put(1, "a", ["a", 2])
    cells.put(1, "a", ["a", 3])
    cells.drop(1, "a")
    undo(journal)
    assert (cells.get(1, "a"), journal) == (["a", 1], [])
