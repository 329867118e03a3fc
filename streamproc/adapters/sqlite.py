"""Topics, positions and state in one SQLite file: the log of the embedded runner.

    commit --BEGIN--> messages, blocks, cells, positions, bookmarks --COMMIT-->  all of it or nothing

State is kept as it changes: each commit appends one block per (task, node, slot, time) with the whole new
entries of the cells it touched.  A closed time is deleted by its address; a time with many blocks has the
newest of them merged, so that each entry is rewritten about as often as the logarithm of their number.  Cells
that no watermark makes due (time NEVER) are rows of their own.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from streamproc.core.batch import NEVER, Change, Emit
from streamproc.core.errors import ConfigError, StateError, StreamprocError
from streamproc.ports import Commit

FORMAT = 1
"""The version of the tables below."""

_APPLICATION = 0x73747270
_OFFSET_BITS = 44
_OFFSETS = 1 << _OFFSET_BITS
_PAGE = 10_000
_CELLS_A_BLOCK = 500_000
_LARGEST_MERGE = 256 * 2**20
_MERGE_EACH = 8

_Cells: TypeAlias = dict[Any, list[Any] | None]

_SCHEMA = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE logs (id INTEGER PRIMARY KEY, topic TEXT, "partition" INTEGER, UNIQUE (topic, "partition"));
CREATE TABLE messages (id INTEGER PRIMARY KEY, at INTEGER, key BLOB, value BLOB, headers BLOB);
CREATE VIEW records AS SELECT topic, "partition", m.id & {_OFFSETS - 1} AS "offset", at, key, value, headers
    FROM messages m JOIN logs l ON l.id = m.id >> {_OFFSET_BITS};
CREATE TABLE positions (task TEXT PRIMARY KEY, position BLOB) WITHOUT ROWID;
CREATE TABLE bookmarks (topic TEXT PRIMARY KEY, bookmark BLOB) WITHOUT ROWID;
CREATE TABLE places (id INTEGER PRIMARY KEY, task TEXT, node TEXT, slot INTEGER, UNIQUE (task, node, slot));
CREATE TABLE blocks (id INTEGER PRIMARY KEY, place INTEGER, at INTEGER, block BLOB);
CREATE INDEX block_of_time ON blocks (place, at);
CREATE TABLE cells (place INTEGER, key BLOB, entry BLOB, PRIMARY KEY (place, key)) WITHOUT ROWID;
"""  # noqa: S608 - nothing in it but two numbers


class _Merge(Protocol):
    """Packed blocks from old to new as one, None if it would be empty."""

    def __call__(self, blocks: Iterable[bytes], *, keep_removals: bool) -> bytes | None: ...


class _Place(NamedTuple):
    """Where a change belongs, its time aside."""

    task: str
    node: str
    slot: int


class SqliteLog:
    """Implements `ports.Log`, and reads topics.  Made by `SqliteLog.open`; one process at a time.

    Every method raises StateError where the file is damaged or cannot be written.  After a failed commit the
    log stands where it stood before, and the commit may be tried again.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - called by open alone
        self,
        connection: sqlite3.Connection,
        lock: _Lock,
        pack: Callable[[Any], bytes],
        unpack: Callable[[bytes], Any],
        merge: _Merge,
        merge_beyond: int,
    ) -> None:
        self._connection = connection
        self._lock = lock
        self._pack = pack
        self._unpack = unpack
        self._merge_blocks = merge
        self._merge_beyond = merge_beyond
        self._thinned: set[tuple[int, int]] = set()
        self._commits = 0
        self._forget()

    @classmethod
    def open(  # noqa: PLR0913 - one parameter a setting
        cls,
        path: str | Path,
        identity: Mapping[str, str | int],
        *,
        pack: Callable[[Any], bytes],
        unpack: Callable[[bytes], Any],
        merge: _Merge,
        max_pages: int | None = None,
        merge_beyond: int = 16,
    ) -> SqliteLog:
        """The log in this file, which is made if it is not there.

        `identity` is what the file is bound to, such as topology, state layout and number of partitions: a
        file with another one is refused.  `pack` and `unpack` keep plain values and blocks of cells exactly;
        `merge(blocks, keep_removals)` makes one packed block of several, None of nothing. The file grows to
        `max_pages` pages of 4 KiB at most.  A time has at most about `merge_beyond` + 8 blocks.

        Raises StateError for a file that belongs to something else, is of a newer version or is used by
        another process, and ConfigError for a place where no file can be.
        """
        path = Path(path)
        lock = _Lock(path)
        try:
            connection = _connect(path, identity, max_pages)
        except BaseException:
            lock.release()
            raise
        return cls(connection, lock, pack, unpack, merge, merge_beyond)

    def positions(self, task: str) -> Mapping[str, Any] | None:
        """The position record of a task, None before its first commit."""
        found: Mapping[str, Any] | None = self._one("SELECT position FROM positions WHERE task = ?", task)
        return found

    def bookmark(self, topic: str) -> Any | None:
        """The bookmark of a source topic or output, None before its first commit."""
        return self._one("SELECT bookmark FROM bookmarks WHERE topic = ?", topic)

    def changes(self, task: str) -> Iterator[Change]:
        """The state of a task as changes to an empty store: the cells there are, by node, slot and time.

        Cells without a time come last, in portions.  Nothing may be committed before the last was taken.
        """
        with self._speaking():
            places = self._connection.execute("SELECT id, node, slot FROM places WHERE task = ? ORDER BY id", (task,))
            for place, node, slot in places.fetchall():
                times = self._connection.execute("SELECT DISTINCT at FROM blocks WHERE place = ? ORDER BY at", (place,))
                for (at,) in times.fetchall():
                    merged = self._merge_blocks(self._blocks(place, at), keep_removals=False)
                    if merged is None:
                        self._thinned.add((place, at))
                    else:
                        yield Change(node, slot, at, wiped=False, cells=self._unpack(merged))
                rows = self._connection.execute("SELECT key, entry FROM cells WHERE place = ? ORDER BY key", (place,))
                while portion := rows.fetchmany(_PAGE):
                    cells = {_key_of(key): self._unpack(entry) for key, entry in portion}
                    yield Change(node, slot, NEVER, wiped=False, cells=cells)

    def topics(self) -> dict[str, dict[int, int]]:
        """How many records there are, by topic and partition."""
        with self._speaking():
            rows = self._connection.execute(
                'SELECT topic, "partition" FROM logs ORDER BY topic, "partition"'
            ).fetchall()
        found: dict[str, dict[int, int]] = {}
        for topic, partition in rows:
            found.setdefault(topic, {})[partition] = self.end_offset(topic, partition)
        return found

    def end_offset(self, topic: str, partition: int) -> int:
        """The offset that the next record of a partition gets; 0 of an unknown one."""
        with self._speaking():
            log = self._log(topic, partition)
            return 0 if log is None else self._ends[log]

    def read(self, topic: str, partition: int | None = None, from_offset: int = 0) -> Iterator[tuple[int, int, Emit]]:
        """The records of a topic from an offset on, as (partition, offset, record), by partition and offset.

        Their `route` is None: the partition has been chosen.  Records committed while reading are seen.
        """
        partitions = sorted(self.topics().get(topic, ())) if partition is None else [partition]
        for each in partitions:
            with self._speaking():
                log = self._log(topic, each)
            if log is None:
                continue
            base, offset = log << _OFFSET_BITS, from_offset
            while offset < self.end_offset(topic, each):
                with self._speaking():
                    rows = self._connection.execute(
                        "SELECT id, key, value, at, headers FROM messages WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
                        (base + offset, base + _OFFSETS, _PAGE),
                    ).fetchall()
                if not rows:
                    raise self._damaged(topic, each, offset)
                for number, key, value, at, headers in rows:
                    if number != base + offset:
                        raise self._damaged(topic, each, offset)
                    named = tuple(map(tuple, self._unpack(headers))) if headers else ()
                    yield each, offset, Emit(key, value, at, named, None)
                    offset += 1

    def commit(self, commit: Commit) -> None:
        """Makes a commit durable, all of it or nothing; raises StateError if it cannot.

        It survives the end of the process at once, and a loss of power once the operating system has written
        it; then the file stands at an earlier commit.
        """
        with self._speaking():
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                for (topic, partition), rows in commit.emits.items():
                    self._append(topic, partition, rows)
                for task, changes in commit.changes.items():
                    self._change(task, changes)
                self._put("INSERT OR REPLACE INTO positions VALUES (?, ?)", commit.positions)
                self._put("INSERT OR REPLACE INTO bookmarks VALUES (?, ?)", commit.bookmarks)
                tidy = self._commits % _MERGE_EACH == 0
                if tidy:
                    self._merge()
                    self._drop_empty()
                self._connection.execute("COMMIT")
                self._commits += 1
                if tidy:
                    self._thinned.clear()
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                self._forget()
                raise

    def close(self) -> None:
        """Gives the file free for others."""
        try:
            with self._speaking():
                self._connection.close()
        finally:
            self._lock.release()

    def _forget(self) -> None:
        """Nothing is known of the file but what stands in it."""
        self._logs: dict[tuple[str, int], int] = {}
        self._ends: dict[int, int] = {}
        self._places: dict[_Place, int] = {}
        self._looked_at = 0

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """What SQLite reports becomes a StateError that says what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise _explained(error, self._lock.path) from error

    def _damaged(self, topic: str, partition: int, offset: int) -> StateError:
        return StateError(
            f"{self._lock.path} is damaged: it has lost record {offset} of {topic}[{partition}]; restore it from a copy"
        )

    def _one(self, query: str, name: str) -> Any:
        with self._speaking():
            row = self._connection.execute(query, (name,)).fetchone()
        return None if row is None else self._unpack(row[0])

    def _put(self, statement: str, values: Mapping[str, Any]) -> None:
        if values:
            self._connection.executemany(statement, [(name, self._pack(value)) for name, value in values.items()])

    def _log(self, topic: str, partition: int) -> int | None:
        """The number of a (topic, partition), with its end in `_ends`."""
        found = self._logs.get((topic, partition))
        if found is None:
            row = self._connection.execute(
                'SELECT id FROM logs WHERE topic = ? AND "partition" = ?', (topic, partition)
            ).fetchone()
            if row is None:
                return None
            found = self._logs[topic, partition] = row[0]
            base = found << _OFFSET_BITS
            last = self._connection.execute(
                "SELECT max(id) FROM messages WHERE id >= ? AND id < ?", (base, base + _OFFSETS)
            ).fetchone()[0]
            self._ends[found] = 0 if last is None else last - base + 1
        return found

    def _append(self, topic: str, partition: int, rows: list[Emit]) -> None:
        if not rows:
            return
        log = self._log(topic, partition)
        if log is None:
            self._connection.execute('INSERT INTO logs (topic, "partition") VALUES (?, ?)', (topic, partition))
            log = self._log(topic, partition)
        if log is None:
            raise self._damaged(topic, partition, 0)
        pack, end = self._pack, self._ends[log]
        self._connection.executemany(
            "INSERT INTO messages VALUES (?, ?, ?, ?, ?)",
            [
                (number, at, key, value, pack(list(map(list, headers))) if headers else None)
                for number, (key, value, at, headers, _) in enumerate(rows, (log << _OFFSET_BITS) + end)
            ],
        )
        self._ends[log] = end + len(rows)

    def _place(self, place: _Place) -> int:
        found = self._places.get(place)
        if found is None:
            self._connection.execute("INSERT OR IGNORE INTO places (task, node, slot) VALUES (?, ?, ?)", place)
            found = self._places[place] = self._connection.execute(
                "SELECT id FROM places WHERE task = ? AND node = ? AND slot = ?", place
            ).fetchone()[0]
        return found

    def _change(self, task: str, changes: list[Change]) -> None:
        """Deletes what is wiped, then appends what is new; of one address only what follows its last wiping."""
        wiped: set[tuple[int, int]] = set()
        blocks: dict[tuple[int, int], list[_Cells]] = {}
        for change in changes:
            address = self._place(_Place(task, change.node, change.slot)), change.at
            if change.wiped:
                wiped.add(address)
                blocks[address] = []
            if change.cells:
                blocks.setdefault(address, []).append(change.cells)
        if wiped:
            self._connection.executemany("DELETE FROM blocks WHERE place = ? AND at = ?", wiped)
            without_time = [(place,) for place, at in wiped if at == NEVER]
            self._connection.executemany("DELETE FROM cells WHERE place = ?", without_time)
        timed: list[tuple[int, int, bytes]] = []
        for (place, at), pieces in blocks.items():
            for cells in pieces:
                if at == NEVER:
                    self._put_cells(place, cells)
                else:
                    if not any(cells.values()):
                        self._thinned.add((place, at))
                    timed.extend((place, at, self._pack(portion)) for portion in _portions(cells))
        if timed:
            self._connection.executemany("INSERT INTO blocks (place, at, block) VALUES (?, ?, ?)", timed)

    def _drop_empty(self) -> None:
        """Deletes the times whose cells were all removed one by one, without being wiped."""
        empty = [each for each in self._thinned if self._merge_blocks(self._blocks(*each), keep_removals=False) is None]
        self._connection.executemany("DELETE FROM blocks WHERE place = ? AND at = ?", empty)

    def _put_cells(self, place: int, cells: _Cells) -> None:
        gone = [(place, _key(key)) for key, entry in cells.items() if entry is None]
        kept = [(place, _key(key), self._pack(entry)) for key, entry in cells.items() if entry is not None]
        if gone:
            self._connection.executemany("DELETE FROM cells WHERE place = ? AND key = ?", gone)
        if kept:
            self._connection.executemany("INSERT OR REPLACE INTO cells VALUES (?, ?, ?)", kept)

    def _blocks(self, place: int, at: int, first: int = 0) -> Iterator[bytes]:
        """The blocks of a time from old to new, from this id on."""
        rows = self._connection.execute(
            "SELECT block FROM blocks WHERE place = ? AND at = ? AND id >= ? ORDER BY id", (place, at, first)
        )
        return (block for (block,) in rows)

    def _merge(self) -> None:
        """Merges the newest blocks of each time that has got too many since this was last done."""
        crowded = self._connection.execute(
            "SELECT place, at FROM blocks WHERE (place, at) IN (SELECT place, at FROM blocks WHERE id > ?) "
            "GROUP BY place, at HAVING count(*) > ?",
            (self._looked_at, self._merge_beyond),
        ).fetchall()
        for place, at in crowded:
            sizes = self._connection.execute(
                "SELECT id, length(block) FROM blocks WHERE place = ? AND at = ? ORDER BY id", (place, at)
            ).fetchall()
            start = _merge_from([size for _, size in sizes], self._merge_beyond // 2)
            ids = [(number,) for number, _ in sizes[start:]]
            merged = self._merge_blocks(self._blocks(place, at, *ids[0]), keep_removals=start > 0)
            self._connection.executemany("DELETE FROM blocks WHERE id = ?", ids)
            if merged is not None:
                self._connection.execute("INSERT INTO blocks (place, at, block) VALUES (?, ?, ?)", (place, at, merged))
        self._looked_at = self._connection.execute("SELECT max(id) FROM blocks").fetchone()[0] or 0


def _merge_from(sizes: list[int], keep: int) -> int:
    """The index from which blocks are merged: all that are not much larger than those behind them, down to `keep`."""
    start = len(sizes) - 1
    total = sizes[start]
    while start > 0:
        older = sizes[start - 1]
        if total + older > _LARGEST_MERGE or (older > 2 * total and start <= keep):
            break
        total += older
        start -= 1
    return start


def _portions(cells: _Cells) -> Iterator[_Cells]:
    """A block in pieces that SQLite takes."""
    if len(cells) <= _CELLS_A_BLOCK:
        yield cells
        return
    items = iter(cells.items())
    while portion := dict(islice(items, _CELLS_A_BLOCK)):
        yield portion


def _key(key: str | bytes) -> bytes:
    """A canonical key as one blob, text and bytes apart."""
    return b"t" + key.encode("utf-8", "surrogatepass") if isinstance(key, str) else b"b" + key


def _key_of(stored: bytes) -> str | bytes:
    return stored[1:].decode("utf-8", "surrogatepass") if stored[:1] == b"t" else stored[1:]


class _Lock:
    """A lock beside the file that the kernel gives free when its holder ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._beside = path.with_name(path.name + ".lock")
        while True:
            try:
                self._file = os.open(self._beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise ConfigError(f"no state can be kept in {path}: {error.strerror}") from error
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(self._file, 20).decode("ascii", "replace").strip() or "that has just started"
                os.close(self._file)
                raise StateError(
                    f"{path} is used by process {holder}: wait until it has ended, or name another state file"
                ) from None
            with suppress(FileNotFoundError):
                if self._beside.stat().st_ino == os.fstat(self._file).st_ino:
                    break
            os.close(self._file)  # the one before us took the name away in between
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Harmless when done twice."""
        if self._file >= 0:
            with suppress(OSError):
                self._beside.unlink()
            os.close(self._file)
            self._file = -1


def _connect(path: Path, identity: Mapping[str, str | int], max_pages: int | None) -> sqlite3.Connection:
    """The file, opened and found to be ours."""
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if tables and connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise StateError(f"{path} is an SQLite file of another program: name another state file")  # noqa: TRY301
        if max_pages is not None:
            connection.execute(f"PRAGMA max_page_count = {int(max_pages)}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        connection.execute(f"PRAGMA journal_size_limit = {64 * 2**20}")
        if tables:
            _compare(path, dict(connection.execute("SELECT name, value FROM meta")), identity)
        else:
            values = [("format", FORMAT), *((f"identity.{name}", value) for name, value in identity.items())]
            connection.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.executemany("INSERT INTO meta VALUES (?, ?)", values)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute("COMMIT")
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise _explained(error, path) from error
        raise
    return connection


def _compare(path: Path, meta: Mapping[str, Any], identity: Mapping[str, str | int]) -> None:
    """Raises StateError where the file is not the one this run needs."""
    choices = "name another state file, or remove this one to begin anew"
    if meta.get("format") != FORMAT:
        raise StateError(
            f"{path} has format {meta.get('format')}, and this streamproc knows format {FORMAT}: use the "
            f"streamproc that wrote it, or {choices}"
        )
    for name in {**identity, **{key[9:]: 0 for key in meta if key.startswith("identity.")}}:
        stored, given = meta.get(f"identity.{name}"), identity.get(name)
        if stored != given:
            raise StateError(f"{path} was written for {name} {stored}, and this run has {name} {given}: {choices}")


def _explained(error: sqlite3.Error, path: Path) -> StreamprocError:
    """What is wrong with the file and what to do."""
    name = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])  # SQLITE_IOERR_WRITE is an SQLITE_IOERR
    if name == "SQLITE_CANTOPEN":
        return ConfigError(f"no state can be kept in {path}: it cannot be opened")
    said = _SAID.get(name, "{path} cannot be read or written ({error}): it stands at its last commit")
    return StateError(said.format(path=path, error=error))


_SAID = {
    "SQLITE_FULL": "the disk is full: {path} stands at its last commit; free some and start again, nothing is lost",
    "SQLITE_NOTADB": "{path} is no state file: name another one",
    "SQLITE_READONLY": "{path} cannot be written: give this user the right to, or name another state file",
    "SQLITE_BUSY": "{path} is being written by another program: let it end, and start again",
    "SQLITE_CORRUPT": "{path} is damaged ({error}): restore it from a copy, or remove it to begin anew",
}
