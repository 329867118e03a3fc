"""What crosses a repartition topic: records under their new key, and marks without one (S46).

    record   key: route    value: [FORMAT, task, incarnation, at, topic, partition, offset, headers, key, value]
    mark     key: none     value: [FORMAT, task, incarnation, watermark, idle]

`task` is the number of the upstream task and `incarnation` which life of it speaks; topic, partition and offset are
where the record came from (S13).  Both ways go by columns, since each record passes here twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from streamproc.core.batch import Crossing, Headers, Position
from streamproc.core.errors import StateError
from streamproc.ports import Packing

FORMAT = 1
"""The first item of every value: what follows, and in which order."""


class Spoken(NamedTuple):
    """A mark as it was read, just before the record `before` of the run; `message` is its own place among all."""

    before: int
    message: int
    task: int
    incarnation: int
    watermark: int
    idle: bool


@dataclass(slots=True)
class Crossed:
    """What a run of messages of one partition says: parallel lists with one item a record, and the marks in between.

    `indexes` are the places of the records in the run, to find their offsets by; `headers` is None where none has any.
    """

    indexes: Sequence[int] = ()
    tasks: list[int] = field(default_factory=list)
    incarnations: list[int] = field(default_factory=list)
    keys: list[Any] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    headers: list[Headers] | None = None
    positions: list[Position] = field(default_factory=list)
    marks: list[Spoken] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)


def encode(crossings: Sequence[Crossing], task: int, incarnation: int, packing: Packing) -> list[bytes]:
    """The values of records on their way through a repartition topic; their keys are their routes.

    Raises StateError for a key, value or header that cannot be packed.
    """
    if not crossings:
        return []
    count = len(crossings)
    keys, values, times, headers, positions, _ = zip(*crossings, strict=True)
    topics, partitions, offsets = zip(*positions, strict=True)
    named = [list(chain.from_iterable(each)) or None for each in headers] if any(headers) else [None] * count
    sender = [FORMAT] * count, [task] * count, [incarnation] * count
    return packing.pack_rows([*sender, times, topics, partitions, offsets, named, keys, values])


def mark(task: int, incarnation: int, watermark: int, packing: Packing, *, idle: bool) -> bytes:
    """The value of a mark: the task will send nothing older than the watermark; `idle` says that all its inputs are."""
    return packing.pack([FORMAT, task, incarnation, watermark, idle])


def decode(keys: Sequence[bytes | None], values: Sequence[bytes | None], packing: Packing) -> Crossed:
    """What was encoded and marked, in the order of the run.

    Raises StateError for what is no such message, naming its place in the run and what is wrong with it.
    """
    count = len(keys)
    if None not in keys:
        return _records(range(count), _unpacked(range(count), values, packing))
    placed = [index for index, key in enumerate(keys) if key is not None]
    marked = [index for index, key in enumerate(keys) if key is None]
    crossed = _records(placed, _unpacked(placed, [values[index] for index in placed], packing))
    frames = _unpacked(marked, [values[index] for index in marked], packing)
    crossed.marks = [
        _spoken(index - number, index, frame) for number, (index, frame) in enumerate(zip(marked, frames, strict=True))
    ]
    return crossed


_RECORD = {"format": int, "task": int, "incarnation": int, "time": int, "topic": str, "partition": int, "offset": int}
"""The first parts of a record; headers, key and value follow."""
_MARK = {"format": int, "task": int, "incarnation": int, "watermark": int, "idle": bool}


def _records(indexes: Sequence[int], frames: list[Any]) -> Crossed:
    if not frames:
        return Crossed(indexes)
    if set(map(type, frames)) != {list} or set(map(len, frames)) != {len(_RECORD) + 3}:
        raise _first_wrong(indexes, frames)
    versions, tasks, incarnations, times, topics, partitions, offsets, headers, keys, values = zip(*frames, strict=True)
    if (
        set(map(type, chain(versions, tasks, incarnations, times, partitions, offsets))) != {int}
        or set(map(type, topics)) != {str}
        or set(versions) != {FORMAT}
    ):
        raise _first_wrong(indexes, frames)
    named: list[Headers] | None = None
    if headers.count(None) != len(headers):
        if not all(map(_are_headers, headers)):
            raise _first_wrong(indexes, frames)
        named = [tuple(zip(each[::2], each[1::2], strict=True)) if each else () for each in headers]
    places = list(zip(topics, partitions, offsets, strict=True))
    return Crossed(indexes, list(tasks), list(incarnations), list(keys), list(values), list(times), named, places)


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


def _spoken(before: int, message: int, frame: Any) -> Spoken:
    fault = _fault(frame, _MARK, len(_MARK))
    if fault:
        raise StateError(f"message {message} of a run from a repartition topic is no mark: {fault}")
    return Spoken(before, message, *frame[1:])


def _unpacked(indexes: Sequence[int], values: Sequence[bytes | None], packing: Packing) -> list[Any]:
    """What messages hold; their places in the run are for words about one that holds nothing."""
    try:
        return packing.unpack_each(values)  # type: ignore[arg-type] # a None is damage like any other
    except StateError as error:
        for index, value in zip(indexes, values, strict=True):
            try:
                packing.unpack(value)  # type: ignore[arg-type] # the same
            except StateError as reason:
                raise StateError(f"message {index} of a run from a repartition topic: {reason}") from error
        raise


def _first_wrong(indexes: Sequence[int], frames: list[Any]) -> StateError:
    """Words about the first record that is none."""
    for index, frame in zip(indexes, frames, strict=True):
        fault = _fault(frame, _RECORD, len(_RECORD) + 3)
        if not fault and not _are_headers(frame[len(_RECORD)]):
            fault = f"its headers are none, {_FOREIGN}"
        if fault:
            return StateError(f"message {index} of a run from a repartition topic is no record: {fault}")
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
