"""State: cells addressed by (node, slot, time, key), and what of it is not committed yet.

    task --> Cells (overlay: touched since the last commit) --> Store (committed)

The overlay holds whole new entries; the store is never written before the commit has succeeded, and dropping the
overlay takes a task back to its last commit.  Keys are canonical (S1): the text of the serialized key, or its bytes
where they are no text; their order is that of the bytes.  An entry is a list that begins with the key as the user gave
it; what follows is the operator's.  An entry read from the store is never changed in place.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, Protocol, TypeAlias

from streamproc.core.batch import NEVER, Change

KeyId: TypeAlias = str | bytes
Entry: TypeAlias = list[Any]
_ABSENT: Mapping[KeyId, Entry] = {}


def key_id(encoded: bytes) -> KeyId:
    """The canonical form of a serialized key: one for equal bytes, whatever Python type they came from."""
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return encoded


def byte_order(keys: Iterable[KeyId]) -> list[KeyId]:
    """Canonical keys in the order of their bytes; for text that is the order of its code points."""
    found = list(keys)
    if all(type(key) is str for key in found):
        return sorted(found)
    return sorted(found, key=lambda key: key.encode() if isinstance(key, str) else key)


class Store(Protocol):
    """Committed state of one task."""

    def bucket(self, node: str, slot: int, at: int) -> Mapping[KeyId, Entry]:
        """All cells of one time; empty if there are none."""
        ...

    def times(self, node: str, slot: int) -> Iterable[int]:
        """Every time that has a cell, in no order."""
        ...

    def due(self, node: str, slot: int, upto: int) -> list[int]:
        """The times at or before `upto`, ascending."""
        ...

    def scan(self, node: str, slot: int, key: KeyId, low: int, high: int) -> list[tuple[int, Entry]]:
        """The cells of one key with low <= time <= high, ascending."""
        ...

    def apply(self, changes: Iterable[Change]) -> None:
        """Take over what was committed."""
        ...

    def size(self) -> dict[str, int]:
        """The number of cells of each node that has any."""
        ...


class MemoryStore:
    """Dictionaries by time, and by key where an operator asks for that order."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, int], dict[int, dict[KeyId, Entry]]] = {}

    def bucket(self, node: str, slot: int, at: int) -> Mapping[KeyId, Entry]:
        times = self._buckets.get((node, slot))
        return _ABSENT if times is None else times.get(at, _ABSENT)

    def times(self, node: str, slot: int) -> Iterable[int]:
        return self._buckets.get((node, slot), {}).keys()

    def due(self, node: str, slot: int, upto: int) -> list[int]:
        return sorted(at for at in self.times(node, slot) if at <= upto)

    def scan(self, node: str, slot: int, key: KeyId, low: int, high: int) -> list[tuple[int, Entry]]:
        times = self._buckets.get((node, slot), {})
        return [(at, times[at][key]) for at in sorted(times) if low <= at <= high and key in times[at]]

    def apply(self, changes: Iterable[Change]) -> None:
        for change in changes:
            times = self._buckets.setdefault((change.node, change.slot), {})
            if change.wiped:
                times.pop(change.at, None)
            bucket = times.setdefault(change.at, {})
            for key, entry in change.cells.items():
                if entry is None:
                    bucket.pop(key, None)
                else:
                    bucket[key] = entry
            if not bucket:
                del times[change.at]

    def size(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for (node, _), times in self._buckets.items():
            if times:
                found[node] = found.get(node, 0) + sum(map(len, times.values()))
        return found


class _Course:
    """The cells of one key over time, in order: times and entries side by side."""

    __slots__ = ("entries", "times")

    def __init__(self) -> None:
        self.times: list[int] = []
        self.entries: list[Entry] = []

    def put(self, at: int, entry: Entry) -> None:
        where = bisect_left(self.times, at)
        if where < len(self.times) and self.times[where] == at:
            self.entries[where] = entry
        else:
            self.times.insert(where, at)
            self.entries.insert(where, entry)

    def drop(self, at: int) -> None:
        where = bisect_left(self.times, at)
        if where < len(self.times) and self.times[where] == at:
            del self.times[where]
            del self.entries[where]


class Cells:
    """One slot of one operator: the overlay, seen through to the store beneath it.

    `fresh[at][key]` is an entry touched since the last commit, None where a cell was removed; a time in `wiped` hides
    the store.  `dues` is a heap of times that may hold cells.  With `by_key`, cells are found by key over time too, for
    which `_index` has what the others have.  `journal` is told how to undo each change of a cell.
    """

    __slots__ = ("_by_key", "_index", "_store", "dues", "fresh", "journal", "node", "slot", "wiped")

    def __init__(self, store: Store, node: str, slot: int, journal: Journal, *, by_key: bool = False) -> None:
        self._store = store
        self._by_key = by_key
        self.node = node
        self.slot = slot
        self.journal = journal
        self.restart()

    def restart(self) -> None:
        """Drop the overlay: what is seen is what was committed."""
        self.fresh: dict[int, dict[KeyId, Entry | None]] = {}
        self.wiped: set[int] = set()
        times = list(self._store.times(self.node, self.slot))
        self.dues: list[int] = [at for at in times if at != NEVER]
        heapify(self.dues)
        self._index: dict[KeyId, _Course] = {}
        if self._by_key:
            for at in sorted(times):
                for key, entry in self._store.bucket(self.node, self.slot, at).items():
                    self._note(at, key, entry)

    def committed(self, at: int) -> Callable[[KeyId], Entry | None]:
        """A look-up of what the store holds at one time."""
        return _ABSENT.get if at in self.wiped else self._store.bucket(self.node, self.slot, at).get

    def get(self, at: int, key: KeyId) -> Entry | None:
        bucket = self.fresh.get(at)
        if bucket is not None and key in bucket:
            return bucket[key]
        return self.committed(at)(key)

    def put(self, at: int, key: KeyId, entry: Entry) -> None:
        self._set(at, key, entry)
        if self._by_key:
            self._note(at, key, entry)

    def drop(self, at: int, key: KeyId) -> None:
        if self.get(at, key) is not None:
            self._set(at, key, None)
            if self._by_key:
                self._note(at, key, None)

    def join(self, at: int, bucket: dict[KeyId, Entry | None]) -> None:
        """Add cells of a time that the overlay has none of; the bucket must not stay empty."""
        self.fresh[at] = bucket
        if at != NEVER and (at in self.wiped or not self._store.bucket(self.node, self.slot, at)):
            heappush(self.dues, at)

    def _set(self, at: int, key: KeyId, entry: Entry | None) -> None:
        bucket = self.fresh.get(at)
        if bucket is None:
            bucket = {}
            self.join(at, bucket)
        self.journal.append((self, at, key, bucket.get(key), key in bucket))
        bucket[key] = entry

    def take_back(self, at: int, key: KeyId, entry: Entry | None, *, was_fresh: bool) -> None:
        """Take back one change of a cell, as the journal has it."""
        if was_fresh:
            self.fresh[at][key] = entry
        else:
            del self.fresh[at][key]
            if not self.fresh[at]:
                del self.fresh[at]
        if self._by_key:
            self._note(at, key, self.get(at, key))

    def _note(self, at: int, key: KeyId, entry: Entry | None) -> None:
        """Keep the index true: what is there now, None for nothing."""
        course = self._index.get(key)
        if course is None:
            course = self._index[key] = _Course()
        if entry is not None:
            course.put(at, entry)
            return
        course.drop(at)
        if not course.times:
            del self._index[key]

    def next_due(self) -> int:
        """The least time that holds a cell, NEVER if none does."""
        dues = self.dues
        while dues:
            at = dues[0]
            if self.fresh.get(at) or (at not in self.wiped and self._store.bucket(self.node, self.slot, at)):
                return at
            heappop(dues)
        return NEVER

    def take(self, at: int) -> list[tuple[KeyId, Entry]]:
        """Remove all cells of one time and give them in the order of their key bytes."""
        found: dict[KeyId, Entry | None] = {}
        if at not in self.wiped:
            found.update(self._store.bucket(self.node, self.slot, at))
            self.wiped.add(at)
        found.update(self.fresh.pop(at, ()))
        taken = [(key, entry) for key in byte_order(found) if (entry := found[key]) is not None]
        if self._by_key:
            for key, _ in taken:
                self._note(at, key, None)
        return taken

    def scan(self, key: KeyId, low: int, high: int) -> list[tuple[int, Entry]]:
        """The cells of one key with low <= time <= high, ascending; only where `by_key` was asked for."""
        course = self._index.get(key)
        if course is None:
            return []
        first, behind = bisect_left(course.times, low), bisect_right(course.times, high)
        return list(zip(course.times[first:behind], course.entries[first:behind], strict=True))

    def changes(self) -> list[Change]:
        """What a commit has to make durable; nothing for what came and went since the last one."""
        found = []
        for at in sorted(self.wiped | self.fresh.keys()):
            held = self._store.bucket(self.node, self.slot, at)
            wiped = at in self.wiped and bool(held)
            cells = self.fresh.get(at, {})
            if any(entry is None and key not in held for key, entry in cells.items()):
                cells = {key: entry for key, entry in cells.items() if entry is not None or key in held}
            if wiped or cells:
                found.append(Change(self.node, self.slot, at, wiped, dict(cells)))
        return found

    def settle(self) -> None:
        """The commit succeeded and the store has taken the changes over."""
        self.fresh = {}
        self.wiped = set()

    def live(self) -> dict[tuple[int, KeyId], Entry]:
        """Every cell, committed or not; for tests and for looking in."""
        found: dict[tuple[int, KeyId], Entry] = {}
        for at in {*self._store.times(self.node, self.slot), *self.fresh}:
            if at not in self.wiped:
                found |= {(at, key): entry for key, entry in self._store.bucket(self.node, self.slot, at).items()}
            for key, entry in self.fresh.get(at, {}).items():
                if entry is None:
                    found.pop((at, key), None)
                else:
                    found[at, key] = entry
        return found


Journal: TypeAlias = "list[tuple[Cells, int, KeyId, Entry | None, bool]]"
"""Changes of cells since a unit of work began: (where, time, key, what the overlay held, whether it did)."""


def undo(journal: Journal) -> None:
    """Take back everything in a journal, the last change first, and empty it."""
    while journal:
        cells, at, key, entry, was_fresh = journal.pop()
        cells.take_back(at, key, entry, was_fresh=was_fresh)
