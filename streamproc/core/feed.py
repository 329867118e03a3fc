"""From messages to batches: decode a run, check its times, and take the heads of all inputs in the order of S39.

    run of one partition --decode, S4, S15--> Slice ─┐
    records that crossed a repartition topic ─ Slice ┴─ merge ──> Batch

A message that is refused here leaves at once: its refusal stands in the batch where it was the head of its input.  A
queue is one inlet: one partition of a topic, with offsets of its own where the topic is a log that is read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streamproc.core.batch import END, START, Batch, Crossing, Headers, Mark, Position, Raw, Refusal, Said
from streamproc.core.errors import FutureTimestamp, StreamprocError
from streamproc.core.plan import SourceSpec
from streamproc.core.progress import Timed, future, instants, merge

Decode = Callable[[Sequence[bytes | None]], tuple[list[Any], list[tuple[int, Exception]]]]
SLICE = 500
"""Records a slice: larger ones fall out of the processor's cache."""


class Decoders(NamedTuple):
    """How the messages of one source become values, and their keys keys; None keeps key bytes as they are."""

    value: Decode
    key: Decode | None = None


class Landed(NamedTuple):
    """One record or mark as it was read from a repartition topic, and which incarnation of which task sent it."""

    offset: int
    task: int
    incarnation: int
    what: Crossing | Said


@dataclass(slots=True)
class Slice:
    """A run of records of one queue, not yet in a batch; the lists are parallel, as in `Batch`.

    When all of it has been taken, `next_offset` is where to read on; None in a queue without offsets.
    """

    inputs: int | list[int]
    values: list[Any]
    times: list[int]
    offsets: Sequence[int]
    next_offset: int | None
    keys: list[Any] | None = None
    headers: list[Headers] | None = None
    places: list[Position | None] | None = None
    origins: Sequence[int] | None = None
    raw: Raw | None = None
    refusals: list[Refusal] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


def decoded(  # noqa: PLR0913 - half of them by name
    number: int,
    spec: SourceSpec,
    decoders: Decoders,
    raw: Raw,
    offsets: Sequence[int],
    *,
    now: int | None,
    stamps: Sequence[int] | None = None,
    appended: bool = False,
    next_offset: int | None = None,
) -> Slice:
    """A run of messages as values with times; what cannot be decoded or has no usable time becomes a refusal.

    `now` is the reference clock in ms for `max_future`, None to accept every stamp; `stamps` are the transport's own
    timestamps, taken where the source has no `event_time`, and each the clock of its message where the log itself set
    it (`appended`).  `next_offset` is where to read on, None for just behind the last message.
    """
    values, failed = decoders.value(raw.values)
    refused = dict(failed)
    keys: list[Any] | None = None if raw.keys is None else list(raw.keys)
    if decoders.key is not None and keys is not None:
        keys, lost = decoders.key(keys)
        refused = dict(lost) | refused
    dated = appended and spec.event_time is not None
    limit = None if dated or now is None or spec.max_future is None else now + spec.max_future
    times, untimed = _times(spec, values, refused, limit, stamps)
    refused = dict(untimed) | refused
    if dated and stamps is not None and spec.max_future is not None:
        refused = dict(_ahead(times, stamps, spec.max_future)) | refused
    behind = next_offset if next_offset is not None else offsets[-1] + 1 if offsets else None
    whole = Slice(number, values, times, offsets, behind, keys, raw=raw)
    whole.headers = None if raw.headers is None else list(raw.headers)
    return _without(whole, refused) if refused else whole


def _times(
    spec: SourceSpec,
    values: list[Any],
    refused: Mapping[int, Exception],
    limit: int | None,
    stamps: Sequence[int] | None,
) -> Timed:
    """The instants of a slice; those of messages refused before are START."""
    if spec.event_time is None:
        if stamps is None:
            raise StreamprocError(f"source {spec.topic!r} has no event_time, and its transport has no timestamps")
        return instants(range(len(values)), stamps.__getitem__, limit)
    if not refused:
        return instants(values, spec.event_time, limit)
    good = [index for index in range(len(values)) if index not in refused]
    found = instants([values[index] for index in good], spec.event_time, limit)
    times = [START] * len(values)
    for index, at in zip(good, found.times, strict=True):
        times[index] = at
    return Timed(times, [(good[index], error) for index, error in found.failed])


def _ahead(times: Sequence[int], stamps: Sequence[int], by: int) -> Iterator[tuple[int, Exception]]:
    """The messages whose time is further ahead of their own stamp than allowed (S15)."""
    for index, (at, stamp) in enumerate(zip(times, stamps, strict=True)):
        if at > stamp + by:
            yield index, future(at, stamp + by)


def _without(whole: Slice, refused: Mapping[int, Exception]) -> Slice:
    """A slice whose refused messages stand as refusals between the records that are left."""
    kept = [index for index in range(len(whole.values)) if index not in refused]
    assert isinstance(whole.inputs, int)
    return Slice(
        whole.inputs,
        [whole.values[index] for index in kept],
        [whole.times[index] for index in kept],
        [whole.offsets[index] for index in kept],
        whole.next_offset,
        None if whole.keys is None else [whole.keys[index] for index in kept],
        None if whole.headers is None else [whole.headers[index] for index in kept],
        origins=kept,
        raw=whole.raw,
        refusals=[
            Refusal(bisect_left(kept, index), whole.inputs, index, whole.offsets[index], _known(error), error)
            for index, error in sorted(refused.items())
        ],
    )


def _known(error: Exception) -> int:
    """The event time of a refused message where it has one."""
    return error.at if isinstance(error, FutureTimestamp) else START


def landed(number: int, crossings: Sequence[Crossing], said: Said, incarnation: int = 1) -> Slice:
    """Records of one upstream task that crossed in memory, with its mark behind them (S46)."""
    return Slice(
        number,
        [one.value for one in crossings],
        [one.at for one in crossings],
        range(len(crossings)),
        None,
        [one.key for one in crossings],
        [one.headers for one in crossings] if any(one.headers for one in crossings) else None,
        [one.position for one in crossings],
        marks=[Mark(len(crossings), number, *said, incarnation)],
    )


def read_back(first: int, rows: Sequence[Landed], incarnations: list[int], next_offset: int) -> Slice:
    """Records and marks of all upstream tasks as they stand in one partition of a repartition topic.

    `first` is the input of task 0.  `incarnations` are the latest that were heard of, by task, and are brought up to
    date: what a lower one sent is passed over, and the first record of a higher one takes over in front of its mark.
    """
    inputs: list[int] = []
    crossings: list[Crossing] = []
    offsets: list[int] = []
    marks: list[Mark] = []
    for offset, task, incarnation, what in rows:
        if incarnation < incarnations[task]:
            continue
        if isinstance(what, Said):
            marks.append(Mark(len(inputs), first + task, *what, incarnation, offset + 1))
        else:
            if incarnation > incarnations[task]:
                marks.append(Mark(len(inputs), first + task, START, None, incarnation))
            inputs.append(first + task)
            crossings.append(what)
            offsets.append(offset)
        incarnations[task] = incarnation
    return Slice(
        inputs,
        [one.value for one in crossings],
        [one.at for one in crossings],
        offsets,
        next_offset,
        [one.key for one in crossings],
        [one.headers for one in crossings],
        [one.position for one in crossings],
        range(len(crossings)),
        marks=marks,
    )


def read_back_in_slices(rows: Sequence[Landed], next_offset: int, first: int, incarnations: list[int]) -> list[Slice]:
    """What `read_back` gives, cut to the size of slices; without rows, one that only says where to read on."""
    found = []
    for start in range(0, len(rows) or 1, SLICE):
        part = rows[start : start + SLICE]
        behind = next_offset if start + SLICE >= len(rows) else part[-1].offset + 1
        found.append(read_back(first, part, incarnations, behind))
    return found


def marked(number: int, watermark: int) -> Slice:
    """The watermark of an input is said to be here, behind its last record."""
    return Slice(number, [], [], (), None, marks=[Mark(0, number, watermark)])


def ended(number: int) -> Slice:
    """The end of an input, where it stands behind its last record (S49)."""
    return marked(number, END)


class Feed:
    """The queues of one task, in the order that breaks ties (tables first, then topic, then partition).

    `inlets` says which inlet of the stage each queue is.
    """

    def __init__(self, inlets: Sequence[int]) -> None:
        self._inlets = tuple(inlets)
        self._queues: list[list[Slice]] = [[] for _ in inlets]

    def add(self, queue: int, one: Slice) -> None:
        """Records that are at hand now."""
        self._queues[queue].append(one)

    def clear(self) -> None:
        """Forget all that is at hand."""
        self._queues = [[] for _ in self._inlets]

    def holds(self, queue: int) -> int:
        """The number of records, refusals and marks that wait in a queue."""
        return sum(len(one.values) + len(one.refusals) + len(one.marks) for one in self._queues[queue])

    def waiting(self, queue: int) -> list[dict[str, Any]]:
        """What has crossed a repartition topic and waits in a queue, as data: `wait_again` puts it back."""
        return [
            {
                "inputs": one.inputs,
                "values": one.values,
                "times": one.times,
                "keys": one.keys,
                "headers": one.headers,
                "places": one.places,
                "marks": list(map(tuple, one.marks)),
            }
            for one in self._queues[queue]
        ]

    def wait_again(self, queue: int, waiting: Iterable[Mapping[str, Any]]) -> None:
        """Put back what waited in a queue at the last commit."""
        for one in waiting:
            count = len(one["values"])
            marks = [Mark(*mark) for mark in one["marks"]]
            again = Slice(offsets=range(count), next_offset=None, origins=range(count), **{**one, "marks": marks})
            self.add(queue, again)

    def next(self, awaited: Sequence[bool], limit: int = SLICE) -> Batch | None:
        """The next batch of up to `limit` records, None while there is nothing that may be taken.

        `awaited` says of each queue whether it may still deliver, and so must have a head.
        """
        if len(self._queues) == 1:
            waiting = self._queues[0]
            return _batch(waiting.pop(0), self._inlets[0]) if waiting else None
        return self._merged(awaited, limit)

    def _merged(self, awaited: Sequence[bool], limit: int) -> Batch | None:
        heads = [_joined(waiting) for waiting in self._queues]
        order = merge([head.times if head is not None else [] for head in heads], awaited)[:limit]
        builder = _Builder(heads, self._inlets)
        for queue in order:
            builder.take(queue)
        self._queues = [[rest] if (rest := builder.rest(queue)) is not None else [] for queue in range(len(heads))]
        return builder.batch()


def _batch(one: Slice, inlet: int) -> Batch:
    number = one.inputs if isinstance(one.inputs, int) else -1
    return Batch(
        one.inputs,
        one.values,
        one.times,
        one.offsets,
        keys=one.keys,
        headers=one.headers,
        marks=one.marks,
        places=one.places,
        origins=one.origins,
        raws={number: one.raw} if one.raw is not None else {},
        refusals=one.refusals,
        positions={inlet: one.next_offset} if one.next_offset is not None else {},
    )


def _joined(waiting: list[Slice]) -> Slice | None:
    """All slices of a queue as one, with raw messages and inputs spelled out."""
    if not waiting:
        return None
    if len(waiting) == 1 and not isinstance(waiting[0].inputs, int):
        return waiting[0]
    whole = Slice([], [], [], [], None, keys=[], headers=[], places=[], origins=[], raw=None)
    read, crossed = (any(one.raw is not None for one in waiting), any(one.places is not None for one in waiting))
    messages: list[bytes | None] = []
    keys: list[bytes | None] = []
    headers: list[Headers] = []
    for one in waiting:
        base, first = len(whole.values), len(messages)
        count = len(one.values)
        whole.inputs += [one.inputs] * count if isinstance(one.inputs, int) else one.inputs  # type: ignore[operator]
        whole.values += one.values
        whole.times += one.times
        whole.offsets += list(one.offsets)  # type: ignore[operator]
        whole.keys += one.keys if one.keys is not None else [None] * count  # type: ignore[operator]
        whole.headers += one.headers if one.headers is not None else [()] * count  # type: ignore[operator]
        whole.places += one.places if one.places is not None else [None] * count  # type: ignore[operator]
        whole.origins += [first + n for n in (one.origins if one.origins is not None else range(count))]  # type: ignore[operator]
        raws = one.raw if one.raw is not None else Raw([None] * count)
        messages += raws.values
        keys += raws.keys if raws.keys is not None else [None] * len(raws.values)
        headers += raws.headers if raws.headers is not None else [()] * len(raws.values)
        whole.refusals += [r._replace(before=r.before + base, origin=r.origin + first) for r in one.refusals]
        whole.marks += [mark._replace(before=mark.before + base) for mark in one.marks]
        if one.next_offset is not None:  # an end or a mark has none, and leaves those of the records before it
            whole.next_offset = one.next_offset
    whole.raw = Raw(messages, keys, headers) if read else None
    whole.places = whole.places if crossed else None
    return whole


def _from(raw: Raw | None, first: int) -> Raw | None:
    """The raw messages from an origin on: those of records that have left are not kept."""
    if raw is None or first == 0:
        return raw
    keys = raw.keys[first:] if raw.keys is not None else None
    return Raw(raw.values[first:], keys, raw.headers[first:] if raw.headers is not None else None)


class _Builder:
    """A batch in the making: what has been taken from the head of each queue so far."""

    def __init__(self, heads: list[Slice | None], inlets: Sequence[int]) -> None:
        self.heads = heads
        self.inlets = inlets
        self.taken = [0] * len(heads)
        self.refused = [0] * len(heads)
        self.marked = [0] * len(heads)
        self.made = Batch([], [], [], [], keys=[], headers=[], places=[], origins=[])
        self.raws: dict[int, list[tuple[bytes | None, bytes | None, Headers]]] = {}
        self.crossed = any(head is not None and head.places is not None for head in heads)
        for queue in range(len(heads)):
            self._leave(queue)

    def take(self, queue: int) -> None:
        """The head of a queue goes into the batch, and what was behind it may leave."""
        head, index, made = self.heads[queue], self.taken[queue], self.made
        assert head is not None
        number = head.inputs[index]  # type: ignore[index]
        made.inputs.append(number)  # type: ignore[union-attr]
        made.values.append(head.values[index])
        made.times.append(head.times[index])
        made.offsets.append(head.offsets[index])  # type: ignore[attr-defined]
        made.keys.append(head.keys[index])  # type: ignore[union-attr,index]
        made.headers.append(head.headers[index])  # type: ignore[union-attr,index]
        if self.crossed:
            made.places.append(None if head.places is None else head.places[index])  # type: ignore[union-attr]
        made.origins.append(self._raw(head, number, head.origins[index]))  # type: ignore[union-attr,index]
        if head.next_offset is not None:
            made.positions[self.inlets[queue]] = head.offsets[index] + 1
        self.taken[queue] += 1
        self._leave(queue)

    def _raw(self, head: Slice, number: int, origin: int) -> int:
        if head.raw is None:
            return -1
        kept = self.raws.setdefault(number, [])
        kept.append(head.raw.at(origin))
        return len(kept) - 1

    def _leave(self, queue: int) -> None:
        """Refusals and marks that now stand at the head of a queue."""
        head, here, inlet = self.heads[queue], self.taken[queue], self.inlets[queue]
        if head is None:
            return
        while self.refused[queue] < len(head.refusals) and head.refusals[self.refused[queue]].before == here:
            one = head.refusals[self.refused[queue]]
            origin = self._raw(head, one.input, one.origin)
            self.made.refusals.append(one._replace(before=len(self.made.values), origin=origin))
            self.made.positions[inlet] = one.offset + 1
            self.refused[queue] += 1
        while self.marked[queue] < len(head.marks) and head.marks[self.marked[queue]].before == here:
            mark = head.marks[self.marked[queue]]
            self.made.marks.append(mark._replace(before=len(self.made.values)))
            if mark.next_offset is not None:
                self.made.positions[inlet] = mark.next_offset
            self.marked[queue] += 1
        if self._gone(head, queue) and head.next_offset is not None:
            self.made.positions[inlet] = head.next_offset

    def _gone(self, head: Slice, queue: int) -> bool:
        """Whether all of a queue has left."""
        taken = (self.taken[queue], self.refused[queue], self.marked[queue])
        return taken == (len(head.values), len(head.refusals), len(head.marks))

    def rest(self, queue: int) -> Slice | None:
        """What is left of a queue, None if nothing is."""
        head, here = self.heads[queue], self.taken[queue]
        if head is None or self._gone(head, queue):
            return None
        refusals = head.refusals[self.refused[queue] :]
        origins = head.origins[here:] if head.origins is not None else ()
        behind = min([*origins[:1], *(one.origin for one in refusals[:1])], default=0)
        return Slice(
            head.inputs[here:],  # type: ignore[index]
            head.values[here:],
            head.times[here:],
            head.offsets[here:],
            head.next_offset,
            head.keys[here:] if head.keys is not None else None,
            head.headers[here:] if head.headers is not None else None,
            head.places[here:] if head.places is not None else None,
            [origin - behind for origin in origins] if head.origins is not None else None,
            _from(head.raw, behind),
            [one._replace(before=one.before - here, origin=one.origin - behind) for one in refusals],
            [mark._replace(before=mark.before - here) for mark in head.marks[self.marked[queue] :]],
        )

    def batch(self) -> Batch | None:
        """The batch, None if nothing went into it."""
        made = self.made
        if not made.values and not made.refusals and not made.marks and not made.positions:
            return None
        if not self.crossed:
            made.places = None
        made.raws = {
            number: Raw([r[1] for r in kept], [r[0] for r in kept], [r[2] for r in kept])
            for number, kept in self.raws.items()
        }
        return made
