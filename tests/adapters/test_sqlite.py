"""One file, one transaction: what was committed is there, what was not is not, and nobody else writes in between."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.adapters.packing import merge, pack, unpack
from streamproc.adapters.sqlite import SqliteLog
from streamproc.core.batch import FARTHEST, NEVER, START, Change, Emit
from streamproc.core.errors import ConfigError, StateError
from streamproc.ports import Commit

IDENTITY: dict[str, str | int] = {"topology": "demo", "layout": "abc", "partitions": 4}


def opened(path: Path, identity: dict[str, str | int] = IDENTITY, **settings: Any) -> SqliteLog:
    """The log of a file."""
    return SqliteLog.open(path, identity, pack=pack, unpack=unpack, merge=merge, **settings)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a log may be."""
    return tmp_path / "state.sqlite"


def put(node: str, slot: int, at: int, cells: dict[Any, Any]) -> Change:
    """Cells to add, replace and remove."""
    return Change(node, slot, at, wiped=False, cells=cells)


def wipe(node: str, slot: int, at: int) -> Change:
    """A time whose cells all go."""
    return Change(node, slot, at, wiped=True, cells={})


def emit(value: bytes | None, at: int = 0, key: bytes | None = None) -> Emit:
    """A record without headers."""
    return Emit(key, value, at, (), None)


def state(log: SqliteLog, task: str = "t") -> dict[tuple[str, int, int], dict[Any, Any]]:
    """All cells of a task by address, as a store would hold them."""
    found: dict[tuple[str, int, int], dict[Any, Any]] = {}
    for node, slot, at, wiped, cells in log.changes(task):
        assert not wiped
        found.setdefault((node, slot, at), {}).update(cells)
        assert None not in cells.values()
        assert cells
    return found


def test_a_new_log_is_empty(path: Path) -> None:
    """Nothing was committed, and no topic is known."""
    with closing(opened(path)) as log:
        assert (log.positions("t"), log.bookmark("in"), list(log.changes("t"))) == (None, None, [])
        assert (log.topics(), log.end_offset("out", 0), list(log.read("out"))) == ({}, 0, [])


def test_what_is_committed_is_there_for_the_next_process(path: Path) -> None:
    """Records with headers, nulls and any instant; positions and bookmarks with their types; state."""
    rich = Emit(b"k", b"v", -FARTHEST, (("a", b"\xff"), ("a", b"")), b"route")
    commit = Commit(
        emits={("out", 1): [rich, emit(None, FARTHEST)], ("out", 0): [emit(b"x", 5, b"")], ("none", 0): []},
        changes={"t": [put("n", 1, -7, {"k": ["k", (1, 2), None], b"k": [b"k"]})]},
        positions={"t": {"watermarks": {0: START}, "decisions": [(1, "ended")]}},
        bookmarks={"in": ("file", 3)},
    )
    with closing(opened(path)) as log:
        log.commit(commit)
    with closing(opened(path)) as log:
        assert list(log.read("out")) == [
            (0, 0, emit(b"x", 5, b"")),
            (1, 0, rich._replace(route=None)),
            (1, 1, emit(None, FARTHEST)),
        ]
        assert log.topics() == {"out": {0: 1, 1: 2}}
        assert log.positions("t") == {"watermarks": {0: START}, "decisions": [(1, "ended")]}
        assert log.bookmark("in") == ("file", 3)
        assert state(log) == {("n", 1, -7): {"k": ["k", (1, 2), None], b"k": [b"k"]}}


def test_offsets_go_on_where_they_ended(path: Path) -> None:
    """Each partition counts its own records, over commits and processes."""
    for start in (0, 3, 6):
        with closing(opened(path)) as log:
            assert log.end_offset("out", 2) == start
            log.commit(Commit(emits={("out", 2): [emit(b"%d" % n) for n in range(start, start + 2)]}))
            log.commit(Commit(emits={("out", 2): [emit(b"%d" % (start + 2))], ("out", 0): [emit(b"z")]}))
            assert [value for _, _, (_, value, *_) in log.read("out", 2, 1)] == [b"%d" % n for n in range(1, start + 3)]
            assert list(log.read("out", 2, start + 3)) == []


def test_a_long_topic_is_read_to_its_end(path: Path) -> None:
    """Reading in portions leaves nothing out and sees what is committed meanwhile."""
    with closing(opened(path)) as log:
        log.commit(Commit(emits={("out", 0): [emit(b"%d" % n) for n in range(20_000)]}))
        records = log.read("out")
        assert next(records)[1] == 0
        log.commit(Commit(emits={("out", 0): [emit(b"last")]}))
        rest = list(records)
        assert [offset for _, offset, _ in rest] == list(range(1, 20_001))
        assert rest[-1][2].value == b"last"
        records = log.read("out", 0, 20_000)
        next(records)
        log.commit(Commit(emits={("out", 0): [emit(b"more")]}))
        assert [offset for _, offset, _ in records] == [20_001]


def test_topics_can_be_read_with_plain_sql(path: Path) -> None:
    """The view `records` shows topic, partition and offset."""
    with closing(opened(path)) as log:
        log.commit(Commit(emits={("out", 3): [emit(b"a", -1, b"k"), emit(b"b")]}))
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute('SELECT topic, "partition", "offset", at, key, value FROM records').fetchall()
    assert rows == [("out", 3, 0, -1, b"k", b"a"), ("out", 3, 1, 0, None, b"b")]


keys = st.sampled_from(["a", "b", b"a", "\ud800", ""])
addresses = st.tuples(
    st.sampled_from(["t", "u"]),
    st.sampled_from(["n", "m"]),
    st.sampled_from([0, 1]),
    st.sampled_from([-1, 0, NEVER - 1, NEVER]),
)
entries = st.none() | st.lists(st.integers(0, 3) | st.tuples(st.integers(0, 1)), max_size=2)
actions = st.lists(st.tuples(addresses, st.booleans(), st.dictionaries(keys, entries, max_size=3)), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(actions | st.just("restart"), max_size=40), st.sampled_from([1, 3, 16]))
def test_state_is_what_the_changes_make_it(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], most: int
) -> None:
    """Whatever is put, removed and wiped, in one commit or many, over restarts and merges: the store of a dict."""
    path = tmp_path_factory.mktemp("law") / "state.sqlite"
    log = opened(path, merge_beyond=most)
    model: dict[str, dict[Any, dict[Any, Any]]] = {"t": {}, "u": {}}
    try:
        for step in steps:
            if step == "restart":
                log.close()
                log = opened(path, merge_beyond=most)
                assert {task: state(log, task) for task in model} == model
                continue
            changes: dict[str, list[Change]] = {}
            for (task, node, slot, at), wiped, cells in step:
                changes.setdefault(task, []).append(Change(node, slot, at, wiped=wiped, cells=cells))
                held = model[task].setdefault((node, slot, at), {})
                if wiped:
                    held.clear()
                held.update(cells)
                for key in [key for key, entry in held.items() if entry is None]:
                    del held[key]
                if not held:
                    del model[task][node, slot, at]
            log.commit(Commit(changes=changes))
        assert {task: state(log, task) for task in model} == model
    finally:
        log.close()


def blocks(path: Path) -> list[int]:
    """The sizes of all blocks in a file."""
    with closing(sqlite3.connect(path)) as connection:
        return [size for (size,) in connection.execute("SELECT length(block) FROM blocks ORDER BY id")]


def test_blocks_do_not_pile_up(path: Path) -> None:
    """A window that is touched by many commits has a bounded number of blocks."""
    with closing(opened(path)) as log:
        for n in range(300):
            log.commit(Commit(changes={"t": [put("n", 0, 9, {"same": [n], f"own{n}": [n]})]}))
            assert len(blocks(path)) <= 16 + 8
        assert state(log) == {("n", 0, 9): {"same": [299], **{f"own{n}": [n] for n in range(300)}}}


def test_nothing_is_left_of_what_was_removed(path: Path) -> None:
    """Times wiped, and times whose cells were removed one by one, leave no block, over restarts too."""
    with closing(opened(path)) as log:
        for n in range(30):
            log.commit(Commit(changes={"t": [put("n", 0, n, {"k": [n]})]}))
        log.commit(Commit(changes={"t": [wipe("n", 0, n) for n in range(10)]}))
        log.commit(Commit(changes={"t": [put("n", 0, n, {"k": None}) for n in range(10, 30)]}))
    with closing(opened(path)) as log:
        assert list(log.changes("t")) == []
        log.commit(Commit(positions={"t": {}}))
        assert blocks(path) == []


def test_cells_without_a_time_are_rows(path: Path) -> None:
    """One that changes does not rewrite the others, and many come back in portions."""
    many: dict[Any, Any] = {f"{n:05}": [n] for n in range(25_000)}
    with closing(opened(path)) as log:
        log.commit(Commit(changes={"t": [put("n", 0, NEVER, many)]}))
        log.commit(Commit(changes={"t": [put("n", 0, NEVER, {"00007": ["new"], "00008": None})]}))
        assert blocks(path) == []
        many["00007"] = ["new"]
        del many["00008"]
        assert state(log) == {("n", 0, NEVER): many}
        assert len(list(log.changes("t"))) == 3


@pytest.mark.parametrize("table", ["messages", "blocks", "cells", "positions", "bookmarks", "logs", "places"])
def test_a_commit_that_fails_anywhere_leaves_nothing(path: Path, table: str) -> None:
    """Every table stands where it stood, and the same commit succeeds when the obstacle is gone."""
    commit = Commit(
        emits={("new", 0): [emit(b"a")], ("out", 0): [emit(b"b")]},
        changes={
            "t": [
                put("new", 0, 1, {"k": [2]}),
                put("n", 0, NEVER, {"k": [3]}),
                wipe("n", 0, 5),
            ]
        },
        positions={"t": {"n": 2}},
        bookmarks={"in": 2},
    )

    def whole(log: SqliteLog) -> Any:
        return log.topics(), list(log.read("out")), state(log), log.positions("t"), log.bookmark("in")

    with closing(opened(path)) as log:
        log.commit(
            Commit(
                emits={("out", 0): [emit(b"0")]},
                changes={"t": [put("n", 0, 5, {"k": [1]})]},
                positions={"t": {"n": 1}},
                bookmarks={"in": 1},
            )
        )
        before = whole(log)
        with closing(sqlite3.connect(path)) as other:
            other.execute(f"CREATE TRIGGER boom BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'boom'); END")
        with pytest.raises(StateError, match="boom"):
            log.commit(commit)
        assert whole(log) == before
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TRIGGER boom")
        log.commit(commit)
        assert whole(log) == (
            {"new": {0: 1}, "out": {0: 2}},
            [(0, 0, emit(b"0")), (0, 1, emit(b"b"))],
            {("new", 0, 1): {"k": [2]}, ("n", 0, NEVER): {"k": [3]}},
            {"n": 2},
            2,
        )


def test_state_that_cannot_be_packed_fails_its_commit_only(path: Path) -> None:
    """The error passes, the records of that commit are not there, and the log goes on."""
    with closing(opened(path)) as log:
        with pytest.raises(StateError, match="cannot be kept"):
            log.commit(Commit(emits={("out", 0): [emit(b"a")]}, positions={"t": {"n": object()}}))
        assert log.end_offset("out", 0) == 0
        log.commit(Commit(emits={("out", 0): [emit(b"b")]}))
        assert [each.value for _, _, each in log.read("out")] == [b"b"]


WRITER = """
import sys
from streamproc.adapters.packing import merge, pack, unpack
from streamproc.adapters.sqlite import SqliteLog
from streamproc.core.batch import Change, Emit
from streamproc.ports import Commit
log = SqliteLog.open(sys.argv[1], {"topology": "demo"}, pack=pack, unpack=unpack, merge=merge)
n = (log.positions("t") or {"n": 0})["n"]
while True:
    n += 1
    log.commit(Commit(
        emits={("out", p): [Emit(None, b"%d" % n, n, (), None)] * 5 for p in (0, 1)},
        changes={"t": [Change("n", 0, 9, False, {str(k): [str(k), n] for k in range(200)})]},
        positions={"t": {"n": n}}))
    print(n, flush=True)
"""


@pytest.fixture
def writer(path: Path) -> Iterator[Any]:
    """Starts processes that commit for ever."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path)],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path.cwd())},
            )
        )
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.wait()
        assert each.stdout is not None
        each.stdout.close()


def test_a_killed_process_leaves_whole_commits(path: Path, writer: Any) -> None:
    """Killed at any moment, records, positions and state agree, and nothing it was told is durable is gone."""
    last = 0
    for commits in (1, 5, 17, 40):
        process = writer()
        for _ in range(commits):
            last = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        with closing(opened(path, {"topology": "demo"})) as log:
            found = log.positions("t")
            assert found is not None
            assert found["n"] >= last
            last = found["n"]
            assert log.topics() == {"out": {0: 5 * last, 1: 5 * last}}
            assert [each.at for _, _, each in log.read("out", 0)] == [n for n in range(1, last + 1) for _ in range(5)]
            assert state(log) == {("n", 0, 9): {str(k): [str(k), last] for k in range(200)}}


def test_a_second_process_is_told_who_holds_the_file(path: Path, writer: Any) -> None:
    """It is refused with the number of the first, and may have the file as soon as that is gone, killed or not."""
    process = writer()
    assert process.stdout.readline() == "1\n"
    with pytest.raises(StateError, match=f"is used by process {process.pid}:"):
        opened(path, {"topology": "demo"})
    process.send_signal(signal.SIGKILL)
    process.wait()
    own = f"is used by process {os.getpid()}:"
    with closing(opened(path, {"topology": "demo"})), pytest.raises(StateError, match=own):
        opened(path, {"topology": "demo"})
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"topology": "other"}, "written for topology demo, and this run has topology other"),
        ({"layout": "xyz"}, "layout abc, and this run has layout xyz"),
        ({"partitions": 5}, "partitions 4, and this run has partitions 5"),
        ({"tz": "2026a"}, "tz None, and this run has tz 2026a"),
    ],
)
def test_a_file_of_something_else_is_refused(path: Path, changed: dict[str, str | int], words: str) -> None:
    """The message says what differs and what to do, the file stays as it is, and is free for its owner."""
    opened(path).close()
    with pytest.raises(StateError, match=f"{words}: name another state file, or remove this one"):
        opened(path, {**IDENTITY, **changed})
    opened(path).close()


def test_an_identity_that_lost_a_part_is_another_one(path: Path) -> None:
    """What the file is bound to and the run does not know of is a difference too."""
    opened(path).close()
    with pytest.raises(StateError, match="partitions 4, and this run has partitions None"):
        opened(path, {"topology": "demo", "layout": "abc"})


def test_a_newer_format_is_refused(path: Path) -> None:
    """Tables this version does not know are not touched."""
    opened(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE name = 'format'")
        connection.commit()
    with pytest.raises(StateError, match="format 99, and this streamproc knows format 1"):
        opened(path)


def test_a_file_that_is_no_state_is_left_alone(path: Path) -> None:
    """Neither text nor the database of another program is written to."""
    path.write_bytes(b"ts,user,amount\n" * 100)
    with pytest.raises(StateError, match="is no state file"):
        opened(path)
    assert path.read_bytes() == b"ts,user,amount\n" * 100
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(StateError, match="of another program"):
        opened(path)
    assert path.read_bytes() == before


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    """A temporary file that was made in advance will do."""
    path.touch()
    opened(path).close()


def test_a_place_where_no_file_can_be(tmp_path: Path) -> None:
    """A missing directory, and a directory itself, are mistakes of the user."""
    for place in (tmp_path / "missing" / "state.sqlite", tmp_path):
        with pytest.raises(ConfigError, match="no state can be kept in"):
            opened(place)


def fill(log: SqliteLog, commit: Commit) -> int:
    """Commits again and again until the disk is full; how often that was done."""
    done = 0
    while True:
        commit.positions["t"] = {"n": done + 1}
        try:
            log.commit(commit)
        except StateError as error:
            assert "disk is full" in str(error)  # noqa: PT017 - how many commits came before is asked too
            return done
        done += 1


def test_a_full_disk_loses_nothing(path: Path) -> None:
    """The commit that finds no room fails as a whole; with room the log goes on from the one before."""
    big = Commit(emits={("out", 0): [emit(b"x" * 1000)] * 100}, positions={"t": {"n": 0}})
    with closing(opened(path, max_pages=200)) as log:
        done = fill(log, big)
        assert done > 0
        assert (log.positions("t"), log.end_offset("out", 0)) == ({"n": done}, 100 * done)
        log.commit(Commit(bookmarks={"in": 1}))
    with closing(opened(path)) as log:
        assert (log.positions("t"), log.end_offset("out", 0)) == ({"n": done}, 100 * done)
        log.commit(big)
        assert (log.positions("t"), log.end_offset("out", 0)) == ({"n": done + 1}, 100 * done + 100)


def test_a_disk_that_is_full_at_the_start(path: Path) -> None:
    """The file is not half made, and is made when there is room."""
    with pytest.raises(StateError, match="disk is full"):
        opened(path, max_pages=3)
    opened(path).close()


def test_a_damaged_file_says_so(path: Path) -> None:
    """What SQLite or the unpacking finds is one kind of error."""
    with closing(opened(path)) as log:
        log.commit(Commit(emits={("out", 0): [emit(b"x" * 900)] * 200}, positions={"t": {"n": 1}}))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE positions SET position = x'c1'")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(opened(path)) as log, pytest.raises(StateError, match="damaged"):
        log.positions("t")
    raw = bytearray(path.read_bytes())
    raw[60_000:120_000] = b"\xab" * 60_000
    path.write_bytes(raw)
    with closing(opened(path)) as log, pytest.raises(StateError, match="damaged"):
        list(log.read("out"))
