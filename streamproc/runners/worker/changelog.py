"""State as records of a compacted topic: written with each transaction, read when a task is taken over.

    P                               position record: one, rewritten with every transaction
    C node slot NEVER key           one cell of a table or running aggregate; a tombstone where it was removed
    B node slot at number           the cells of one time that one transaction touched: a block

Blocks of a time are applied by number; the first of them is `whole`, and so is one that takes the place of all before
it.  A time that closes leaves tombstones only.  Whatever compaction has left, the records that are the last of their
key and no tombstone are the state: nothing here asks for more of a log than that.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from streamproc.core.batch import NEVER, Change
from streamproc.core.errors import StateError
from streamproc.core.state import KeyId, Store, key_id
from streamproc.ports import Packing

FORMAT = 1
"""The first byte of every value: how keys and values are laid out."""

LIMIT = 900_000
"""Bytes of a packed block at most: brokers take records of a megabyte unless told otherwise."""
MOST = 16
"""Blocks of a time that are not worth a thought while they hold few cells."""

_PATIENCE = 16
"""How many times MOST blocks a time may have, whatever they hold."""
_SLACK = 64
"""Cells that a time may hold beyond twice the live ones while its blocks are no more than MOST."""
_PORTION = 16_384
"""Cells of a block at most."""
_BUDGET = 64 * 2**20
"""Bytes of values that a restore holds before it puts them into the store."""

_WHOLE, _PART = 1, 2
"""Flags of a block: nothing before it counts; it goes on where a whole one was too large."""

_POSITION, _CELL, _ODD, _BLOCK = b"P", b"C", b"S", b"B"
"""First byte of a key.  An odd cell's key is text that UTF-8 cannot write, with its lone surrogates passed through."""

_PLACE = struct.Struct(">cHHq")
_NUMBER = struct.Struct(">Q")
_START = bytes([FORMAT])

_Cells: TypeAlias = Mapping[KeyId, list[Any] | None]


class ChangelogRecord(NamedTuple):
    """One record of a changelog; a tombstone where its value is None."""

    key: bytes
    value: bytes | None


class Place(NamedTuple):
    """The cells of one time in one slot of a node."""

    node: str
    slot: int
    at: int

    def __str__(self) -> str:
        return f"node {self.node!r}, slot {self.slot}, time {self.at}"


class _Span(NamedTuple):
    """The live blocks of a time: numbers from `first` up to `behind`, of which the first `parts` are one whole.

    `whole` is the number of cells in those, `cells` in all of them.
    """

    first: int
    behind: int
    parts: int
    whole: int
    cells: int


@dataclass(slots=True)
class Draft:
    """The records of a transaction, and what of the changelog will be live when it has committed."""

    records: list[ChangelogRecord] = field(default_factory=list)
    spans: dict[Place, _Span | None] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


class Changelog:
    """What of a task's changelog is live, so that the next transaction knows what to write and what to bury.

    `limit` bounds the bytes of a block's value, unless it is a single cell that is larger.  A time has at most about
    16 times `most` blocks, and as many as it takes to write it whole.
    """

    __slots__ = ("_limit", "_most", "_orphans", "_packing", "_spans")

    def __init__(self, packing: Packing, *, limit: int = LIMIT, most: int = MOST) -> None:
        self._packing = packing
        self._limit = limit
        self._most = most
        self._spans: dict[Place, _Span] = {}
        self._orphans: dict[str, set[bytes]] = {}

    @property
    def orphans(self) -> dict[str, int]:
        """How many live records there are of each node that the topology no longer has."""
        return {node: len(keys) for node, keys in self._orphans.items() if keys}

    def live(self) -> dict[Place, range]:
        """The numbers of the live blocks of each time."""
        return {place: range(span.first, span.behind) for place, span in self._spans.items()}

    def records(
        self, changes: Iterable[Change], position: Mapping[str, Any], store: Store, drop: Iterable[str] = ()
    ) -> Draft:
        """The records of one transaction; nothing here changes until `committed` takes the draft over.

        `changes` has one change a place at most, and `store` the state before them.  `drop` names nodes whose orphans
        are to go.  Raises StateError for what cannot be packed.
        """
        draft = Draft(dropped=tuple(drop))
        for change in changes:
            if change.at == NEVER:
                self._put_cells(draft, change, store)
            else:
                self._put_block(draft, change, store)
        for node in draft.dropped:
            draft.records += [ChangelogRecord(key, None) for key in sorted(self._orphans.get(node, ()))]
        draft.records.append(ChangelogRecord(_POSITION, _START + self._packing.pack(dict(position))))
        return draft

    def committed(self, draft: Draft) -> None:
        """The transaction of these records has succeeded."""
        for place, span in draft.spans.items():
            if span is None:
                self._spans.pop(place, None)
            else:
                self._spans[place] = span
        for node in draft.dropped:
            self._orphans.pop(node, None)

    def _put_cells(self, draft: Draft, change: Change, store: Store) -> None:
        place = Place(change.node, change.slot, change.at)
        cells = change.cells
        if change.wiped:
            cells = {**dict.fromkeys(store.bucket(*place)), **cells}
        keys = _cell_keys(place, cells)
        if all(cells.values()):
            packed = self._packing.pack_each(list(cells.values()))
            draft.records += [ChangelogRecord(key, _START + value) for key, value in zip(keys, packed, strict=True)]
            return
        kept = iter(self._packing.pack_each([entry for entry in cells.values() if entry is not None]))
        draft.records += [
            ChangelogRecord(key, None if entry is None else _START + next(kept))
            for key, entry in zip(keys, cells.values(), strict=True)
        ]

    def _put_block(self, draft: Draft, change: Change, store: Store) -> None:
        place = Place(change.node, change.slot, change.at)
        assert place not in draft.spans, "one change a place"
        span = self._spans.get(place)
        held: _Cells = {} if change.wiped else store.bucket(*place)
        cells: _Cells = change.cells
        whole = span is None or change.wiped or self._outgrown(span, len(cells), len(held))
        if whole or (not any(cells.values()) and len(cells) >= len(held)):
            after = {**held, **cells} if held else cells
            if not all(after.values()):
                after = {key: entry for key, entry in after.items() if entry is not None}
            whole = whole or not after
            cells = after if whole else cells
        head = _head(_BLOCK, place)
        number = span.behind if span is not None else 0
        blocks = list(self._blocks(cells))
        for index, packed in enumerate(blocks):
            flags = (_PART if index else _WHOLE) if whole else 0
            draft.records.append(ChangelogRecord(head + _NUMBER.pack(number + index), bytes((FORMAT, flags)) + packed))
        behind = number + len(blocks)
        if whole:
            if span is not None:
                numbers = range(span.first, span.behind)
                draft.records += [ChangelogRecord(head + _NUMBER.pack(each), None) for each in numbers]
            draft.spans[place] = _Span(number, behind, len(blocks), len(cells), len(cells)) if blocks else None
        else:
            assert span is not None
            draft.spans[place] = span._replace(behind=behind, cells=span.cells + len(cells))

    def _outgrown(self, span: _Span, touched: int, held: int) -> bool:
        """Whether it is time to write a time whole: its blocks hold twice what is live, or are very many.

        Many blocks alone are no reason while they hold little, or a large time would be written again and again.
        """
        added = span.behind - span.first - span.parts + 1
        if added > _PATIENCE * self._most:
            return True
        return span.cells + touched > 2 * held + (_SLACK if added <= self._most else 0)

    def _blocks(self, cells: _Cells) -> Iterator[bytes]:
        """Cells packed, in blocks that are not too large; none of no cells."""
        if len(cells) > _PORTION:
            for portion in _portions(cells, _PORTION):
                yield from self._blocks(portion)
        elif cells:
            packed = self._packing.pack(cells)
            if len(packed) + 2 <= self._limit or len(cells) == 1:
                yield packed
            else:
                size = max(1, len(cells) * self._limit * 9 // (len(packed) * 10))
                for portion in _portions(cells, min(size, len(cells) - 1)):
                    yield from self._blocks(portion)


class Restore:
    """Fills a store from the records of a changelog, in any number of portions.

        restore = Restore(changelog, store, nodes, packing)
        for fetched in log: restore.feed(fetched.keys, fetched.values)
        restore.finish()                                  the store, the changelog and restore.position are right now

    Store and changelog may stand at an earlier end of the same log, with the `position` of that time: then only what
    has been written since is fed.  That holds as long as no tombstone has been removed from the log since.  `nodes` are
    those of the topology with state; records of others are left aside as `changelog.orphans`.  What a record says is
    read only if nothing fed since takes its place, so that closed times cost next to nothing.
    """

    __slots__ = ("_blocks", "_budget", "_changelog", "_latest", "_nodes", "_packing", "_size", "_store", "position")

    def __init__(  # noqa: PLR0913 - half of them by name
        self,
        changelog: Changelog,
        store: Store,
        nodes: Collection[str],
        packing: Packing,
        *,
        position: Mapping[str, Any] | None = None,
        budget: int = _BUDGET,
    ) -> None:
        self.position = position
        self._changelog = changelog
        self._store = store
        self._nodes = frozenset(nodes)
        self._packing = packing
        self._budget = budget
        self._latest: dict[bytes, bytes | None] = {}
        self._size = 0
        self._blocks: dict[Place, dict[int, tuple[int, int]]] = {}

    def feed(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> None:
        """Records in the order of the log.  Raises StateError for what no changelog holds."""
        if None in keys:
            raise StateError("the changelog holds a record without a key: somebody else has written to it")
        self._latest.update(zip(keys, values, strict=True))  # type: ignore[arg-type] # it has just been seen to
        self._size += sum(map(len, filter(None, values)))
        if self._size > self._budget:
            self._settle()

    def finish(self) -> None:
        """The end of the log has been reached.  Raises StateError where blocks are missing."""
        self._settle()
        spans = self._changelog._spans  # noqa: SLF001 - they are one thing, in and out
        for place, blocks in self._blocks.items():
            if blocks:
                spans[place] = _span(place, blocks)
            else:
                spans.pop(place, None)
        self._blocks.clear()

    def _settle(self) -> None:
        """Put what is known so far into the store; between two portions it is in no particular state."""
        groups: dict[bytes, tuple[list[bytes], list[bytes | None]]] = {}
        for key, value in self._latest.items():
            if key == _POSITION:
                self.position = None if value is None else self._unpacked("the position record", [value], 1, dict)[0]
                continue
            try:
                cut = key[1] << 8 | key[2]
            except IndexError:
                raise StateError(f"the changelog holds a record with key {key!r}: {_FOREIGN}") from None
            head = key[:cut]
            group = groups.get(head)
            if group is None:
                group = groups[head] = ([], [])
            group[0].append(key[cut:])
            group[1].append(value)
        for head, (rests, values) in groups.items():
            kind, place = _parsed(head)
            if place.node not in self._nodes:
                self._leave_aside(place.node, head, rests, values)
            elif kind == _BLOCK:
                self._settle_blocks(place, rests, values)
            else:
                self._settle_cells(kind, place, rests, values)
        self._latest.clear()
        self._size = 0

    def _leave_aside(self, node: str, head: bytes, rests: list[bytes], values: list[bytes | None]) -> None:
        keys = self._changelog._orphans.setdefault(node, set())  # noqa: SLF001 - as above
        for rest, value in zip(rests, values, strict=True):
            if value is None:
                keys.discard(head + rest)
            else:
                keys.add(head + rest)

    def _settle_cells(self, kind: bytes, place: Place, rests: list[bytes], values: list[bytes | None]) -> None:
        kept = [value for value in values if value is not None]
        entries = self._unpacked(f"a cell of {place}", kept, 1, list)
        keys = _cell_ids(kind, rests)
        if len(kept) == len(values):
            cells = dict(zip(keys, entries, strict=True))
        else:
            left = iter(entries)
            cells = {key: None if value is None else next(left) for key, value in zip(keys, values, strict=True)}
        self._store.apply([Change(*place, wiped=False, cells=cells)])

    def _settle_blocks(self, place: Place, rests: list[bytes], values: list[bytes | None]) -> None:
        live = self._blocks.get(place)
        if live is None:
            live = self._blocks[place] = _blocks_of(self._changelog._spans.get(place))  # noqa: SLF001 - as above
        wiped = False
        fresh: dict[int, bytes] = {}
        for rest, value in zip(rests, values, strict=True):
            if len(rest) != _NUMBER.size:
                raise StateError(f"the changelog holds a block of {place} without a number: {_FOREIGN}")
            number = _NUMBER.unpack(rest)[0]
            if value is not None:
                fresh[number] = value
            elif live.pop(number, None) is not None:
                wiped = not live
        wholes = [number for number, value in fresh.items() if len(value) > 1 and value[1] & _WHOLE]
        if wholes:  # its predecessors' tombstones may be still to come
            begin = max(wholes)
            fresh = {number: value for number, value in fresh.items() if number >= begin}
            live.clear()
            wiped = True
        numbers = sorted(fresh)
        found = self._unpacked(f"a block of {place}", [fresh[number] for number in numbers], 2, dict)
        cells: dict[KeyId, list[Any] | None] = {}
        for number, block in zip(numbers, found, strict=True):
            live[number] = (fresh[number][1], len(block))
            if cells:
                cells.update(block)
            else:
                cells = block
        if wiped or cells:
            self._store.apply([Change(*place, wiped=wiped, cells=cells)])

    def _unpacked(self, what: str, values: list[bytes], skip: int, kind: type) -> list[Any]:
        """What these values hold behind their first bytes; all of it of one kind."""
        for value in values:
            if value[:1] != _START:
                raise StateError(_unknown(what, value))
        try:
            found = self._packing.unpack_each([value[skip:] for value in values])
        except StateError as error:
            raise StateError(f"the changelog holds {what} that cannot be read: {error}") from error
        if not set(map(type, found)) <= {kind}:
            raise StateError(f"the changelog holds {what} that is none: {_FOREIGN}")
        return found


_FOREIGN = "it is damaged, or somebody else has written to it"


def _unknown(what: str, value: bytes) -> str:
    if not value:
        return f"the changelog holds {what} without a value: {_FOREIGN}"
    return (
        f"the changelog holds {what} of format {value[0]}, and this streamproc knows format {FORMAT}: use the "
        "streamproc that wrote it, or begin anew under another application name"
    )


def _head(kind: bytes, place: Place) -> bytes:
    """How the keys of all records of one kind begin that belong to one place, with its own length in it."""
    node = place.node.encode()
    return _PLACE.pack(kind, _PLACE.size + len(node), place.slot, place.at) + node


def _parsed(head: bytes) -> tuple[bytes, Place]:
    """The kind and the place that a key begins with."""
    kind = head[:1]
    if kind not in {_CELL, _ODD, _BLOCK}:
        raise StateError(
            f"the changelog holds records of kind {kind!r}, which this streamproc does not know: use the streamproc "
            "that wrote them, or begin anew under another application name"
        )
    try:
        _, length, slot, at = _PLACE.unpack_from(head)
        node = head[_PLACE.size :].decode()
    except (struct.error, UnicodeDecodeError):
        raise StateError(f"the changelog holds a key that begins with {head!r}: {_FOREIGN}") from None
    if length != len(head):
        raise StateError(f"the changelog holds a key that ends in {head!r}: {_FOREIGN}")
    return kind, Place(node, slot, at)


def _cell_keys(place: Place, cells: Iterable[KeyId]) -> list[bytes]:
    """The record keys of cells: behind the place, text as UTF-8 and bytes as they are, which are never both."""
    head = _head(_CELL, place)
    try:
        return [head + (key.encode() if type(key) is str else key) for key in cells]  # type: ignore[operator]
    except UnicodeEncodeError:
        return [_cell_key(head, _head(_ODD, place), key) for key in cells]


def _cell_key(head: bytes, odd: bytes, key: KeyId) -> bytes:
    if isinstance(key, bytes):
        return head + key
    try:
        return head + key.encode()
    except UnicodeEncodeError:
        return odd + key.encode("utf-8", "surrogatepass")


def _cell_ids(kind: bytes, rests: list[bytes]) -> Sequence[KeyId]:
    """The canonical keys that record keys end in."""
    if kind == _CELL:
        try:
            return list(map(bytes.decode, rests))
        except UnicodeDecodeError:
            return list(map(key_id, rests))
    try:
        return [rest.decode("utf-8", "surrogatepass") for rest in rests]
    except UnicodeDecodeError:
        raise StateError(f"the changelog holds a text key that is no text: {_FOREIGN}") from None


def _portions(cells: _Cells, size: int) -> Iterator[_Cells]:
    items = iter(cells.items())
    while portion := dict(islice(items, size)):
        yield portion


def _blocks_of(span: _Span | None) -> dict[int, tuple[int, int]]:
    """The live blocks of a time as flags and cells by number; which of them hold the cells does not matter."""
    if span is None:
        return {}
    blocks = dict.fromkeys(range(span.first, span.first + span.parts), (_PART, 0))
    blocks[span.first] = (_WHOLE, span.whole)
    blocks |= dict.fromkeys(range(span.first + span.parts, span.behind), (0, 0))
    if span.behind > span.first + span.parts:
        blocks[span.behind - 1] = (0, span.cells - span.whole)
    return blocks


def _span(place: Place, blocks: Mapping[int, tuple[int, int]]) -> _Span:
    """What the changelog knows of a time's live blocks.  Raises StateError where one is missing."""
    first, behind = min(blocks), max(blocks) + 1
    if behind - first != len(blocks) or not blocks[first][0] & _WHOLE:
        raise StateError(
            f"the changelog has lost a block of {place}: it holds {sorted(blocks)}. Records were deleted from it, "
            "or it was not compacted by key: restore it from a copy, or begin anew under another application name"
        )
    parts = [cells for flags, cells in blocks.values() if flags & (_WHOLE | _PART)]
    return _Span(first, behind, len(parts), sum(parts), sum(cells for _, cells in blocks.values()))
