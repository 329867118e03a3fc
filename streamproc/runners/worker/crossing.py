"""What crosses a repartition topic: records under their new key, and marks without one (S46).

    record   key: route    value: [FORMAT, task, incarnation, at, topic, partition, offset, headers, key, value]
    mark     key: none     value: [FORMAT, task, incarnation, watermark, idle]

`task` is the number of the upstream task and `incarnation` which life of it speaks; topic, partition and offset are
where the record came from (S13).  Both ways go by columns, since each record passes here twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any, NamedTuple

from streamproc.core.batch import Crossing, Headers, Mark, Position, Said
from streamproc.core.errors import StateError
from streamproc.core.feed import SLICE, Landed, Slice, read_back_in_slices
from streamproc.ports import Packing

FORMAT = 1
"""The first item of every value: what follows, and in which order."""


class Spoken(NamedTuple):
    """A mark as it was read, just before the record `before` of its run."""

    before: int
    offset: int
    task: int
    incarnation: int
    said: Said


@dataclass(slots=True)
class Crossed:
    """What a run of messages of one partition says: parallel lists with one item a record, and the marks in between.

    `headers` is None where no record has any.
    """

    offsets: Sequence[int] = ()
    routes: Sequence[Any] = ()
    tasks: Sequence[int] = ()
    incarnations: Sequence[int] = ()
    keys: Sequence[Any] = ()
    values: Sequence[Any] = ()
    times: Sequence[int] = ()
    headers: Sequence[Headers] | None = None
    positions: Sequence[Position] = ()
    marks: list[Spoken] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)

    def rows(self) -> list[Landed]:
        """Records and marks one by one, in the order of the run."""
        headers = self.headers if self.headers is not None else repeat(())
        records = map(Crossing, self.keys, self.values, self.times, headers, self.positions, self.routes)
        rows = list(map(Landed, self.offsets, self.tasks, self.incarnations, records))
        for one in reversed(self.marks):
            rows.insert(one.before, Landed(one.offset, one.task, one.incarnation, one.said))
        return rows

    def slices(self, first: int, incarnations: list[int], next_offset: int) -> list[Slice]:
        """What `read_back` gives of all rows, in slices; `next_offset` stands behind the whole run.

        Column by column, unless a task speaks in another incarnation than the one that was heard of last.  Raises
        StateError where a task speaks that has no place in `incarnations`.
        """
        heard = {*zip(self.tasks, self.incarnations, strict=True), *((one.task, one.incarnation) for one in self.marks)}
        strange = {task for task, _ in heard if not 0 <= task < len(incarnations)}
        if strange:
            raise StateError(
                f"a repartition topic holds records of upstream task {min(strange)}, and there are "
                f"{len(incarnations)}: their input had more partitions once. Use another app name, or begin anew"
            )
        if any(incarnations[task] != incarnation for task, incarnation in heard):
            return read_back_in_slices(self.rows(), next_offset, first, incarnations)
        count, marks = len(self), iter(self.marks)
        mark = next(marks, None)
        found: list[Slice] = []
        for start in range(0, count or 1, SLICE):
            stop = min(start + SLICE, count)
            part = slice(start, stop)
            one = Slice(
                [first + task for task in self.tasks[part]],
                list(self.values[part]),
                list(self.times[part]),
                self.offsets[part],
                next_offset if stop == count else self.offsets[stop - 1] + 1,
                list(self.keys[part]),
                None if self.headers is None else list(self.headers[part]),
                list(self.positions[part]),
                range(stop - start),
            )
            while mark is not None and (mark.before < stop or stop == count):
                at = mark.before - start
                one.marks.append(Mark(at, first + mark.task, *mark.said, mark.incarnation, mark.offset + 1))
                mark = next(marks, None)
            found.append(one)
        return found


def encode(crossings: Sequence[Crossing], task: int, incarnation: int, packing: Packing) -> list[tuple[bytes, bytes]]:
    """Keys and values of records on their way through a repartition topic, from one incarnation of one task.

    Raises StateError for a key, value or header that cannot be packed.
    """
    if not crossings:
        return []
    count = len(crossings)
    keys, values, times, headers, positions, routes = zip(*crossings, strict=True)
    topics, partitions, offsets = zip(*positions, strict=True)
    named = [list(chain.from_iterable(each)) or None for each in headers] if any(headers) else [None] * count
    sender = [FORMAT] * count, [task] * count, [incarnation] * count
    packed = packing.pack_rows([*sender, times, topics, partitions, offsets, named, keys, values])
    return list(zip(routes, packed, strict=True))


def mark(said: Said, task: int, incarnation: int, packing: Packing) -> bytes:
    """The value of a mark, whose key is None."""
    return packing.pack([FORMAT, task, incarnation, said.watermark, said.idle])


def decode(
    offsets: Sequence[int], keys: Sequence[bytes | None], values: Sequence[bytes | None], packing: Packing
) -> Crossed:
    """What was encoded and marked, in the order of the run.

    Raises StateError for what is no such message, naming its offset and what is wrong with it.
    """
    if None not in keys:
        return _records(offsets, keys, _unpacked(offsets, values, packing))
    marked = [index for index, key in enumerate(keys) if key is None]
    placed = [index for index, key in enumerate(keys) if key is not None]
    at = [offsets[index] for index in placed]
    frames = _unpacked(at, [values[index] for index in placed], packing)
    crossed = _records(at, [keys[index] for index in placed], frames)
    at = [offsets[index] for index in marked]
    frames = _unpacked(at, [values[index] for index in marked], packing)
    befores = (index - number for number, index in enumerate(marked))
    crossed.marks = list(map(_spoken, befores, at, frames))
    return crossed


_RECORD = {"format": int, "task": int, "incarnation": int, "time": int, "topic": str, "partition": int, "offset": int}
"""The first parts of a record; headers, key and value follow."""
_MARK = {"format": int, "task": int, "incarnation": int, "watermark": int, "idle": bool}


def _records(offsets: Sequence[int], routes: Sequence[bytes | None], frames: list[Any]) -> Crossed:
    if not frames:
        return Crossed()
    if set(map(type, frames)) != {list} or set(map(len, frames)) != {len(_RECORD) + 3}:
        raise _first_wrong(offsets, frames)
    versions, tasks, incarnations, times, topics, partitions, places, headers, keys, values = zip(*frames, strict=True)
    if (
        set(map(type, chain(versions, tasks, incarnations, times, partitions, places))) != {int}
        or set(map(type, topics)) != {str}
        or set(versions) != {FORMAT}
    ):
        raise _first_wrong(offsets, frames)
    named: list[Headers] | None = None
    if headers.count(None) != len(headers):
        if not all(map(_are_headers, headers)):
            raise _first_wrong(offsets, frames)
        named = [tuple(zip(each[::2], each[1::2], strict=True)) if each else () for each in headers]
    positions = list(zip(topics, partitions, places, strict=True))
    return Crossed(offsets, routes, tasks, incarnations, keys, values, times, named, positions)


def _are_headers(flat: Any) -> bool:
    """Names and values in turn, None for none at all."""
    if flat is None:
        return True
    return (
        type(flat) is list
        and len(flat) % 2 == 0
        and set(map(type, flat[::2])) <= {str}
        and set(map(type, flat[1::2])) <= {bytes, type(None)}
    )


def _spoken(before: int, offset: int, frame: Any) -> Spoken:
    fault = _fault(frame, _MARK, len(_MARK))
    if fault:
        raise StateError(f"offset {offset} of a repartition topic is no mark: {fault}")
    _, task, incarnation, watermark, idle = frame
    return Spoken(before, offset, task, incarnation, Said(watermark, idle))


def _unpacked(offsets: Sequence[int], values: Sequence[bytes | None], packing: Packing) -> list[Any]:
    """What messages hold; their offsets are for words about one that holds nothing."""
    try:
        return packing.unpack_each(values)  # type: ignore[arg-type] # a None is damage like any other
    except StateError as error:
        for offset, value in zip(offsets, values, strict=True):
            try:
                packing.unpack(value)  # type: ignore[arg-type] # the same
            except StateError as reason:
                raise StateError(f"offset {offset} of a repartition topic: {reason}") from error
        raise


def _first_wrong(offsets: Sequence[int], frames: list[Any]) -> StateError:
    """Words about the first record that is none."""
    for offset, frame in zip(offsets, frames, strict=True):
        fault = _fault(frame, _RECORD, len(_RECORD) + 3)
        if not fault and not _are_headers(frame[len(_RECORD)]):
            fault = f"its headers are none, {_FOREIGN}"
        if fault:
            return StateError(f"offset {offset} of a repartition topic is no record: {fault}")
    raise AssertionError("one of them is wrong")


_FOREIGN = "it is damaged, or somebody else has written it"


def _fault(frame: Any, shape: Mapping[str, type], length: int) -> str:
    """What is wrong with a message as it was unpacked, "" if nothing."""
    if type(frame) is not list or not frame:
        return _FOREIGN
    if type(frame[0]) is int and frame[0] != FORMAT:
        return f"it has format {frame[0]}, and this streamproc knows format {FORMAT}: run one version at a time"
    if len(frame) != length:
        return f"it has {len(frame)} parts and not {length}, {_FOREIGN}"
    wrong = [name for (name, kind), each in zip(shape.items(), frame, strict=False) if type(each) is not kind]
    return f"its {wrong[0]} is none, {_FOREIGN}" if wrong else ""
