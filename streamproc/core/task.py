"""A task: the work of one partition of a stage, as a pure function from batches to steps.

    Batch --> record by record:  its input's W moves, what is due closes, then the record itself --> Step

What is written here is the plain meaning: one record at a time, depth first, each as a unit that leaves no trace if it
fails (S44).  `fuse` generates loops that do whole runs of records at once where nobody can tell the difference, and
hand back here whatever is not plain sailing.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from streamproc.core.batch import (
    END,
    NEVER,
    START,
    Batch,
    Cell,
    Change,
    Counts,
    Crossing,
    DeadLetter,
    Decision,
    Emit,
    Encode,
    Ended,
    Flows,
    Headers,
    Idle,
    Mark,
    Position,
    Record,
    Refusal,
    Said,
    Step,
)
from streamproc.core.errors import FutureTimestamp, InvalidTimestamp, TaskFailed
from streamproc.core.operators import AnyRecord, Cross, Sink
from streamproc.core.plan import STAGES, Action, Stage
from streamproc.core.progress import Combined, InputTime
from streamproc.core.site import Failed, Site, Writer
from streamproc.core.state import Journal, KeyId, Store, key_id, undo
from streamproc.core.windowing import WindowResult

MESSAGE, STACK = 1_000, 4_000
"""Longest message and stack trace of a dead letter, in characters (S43)."""


class Input(NamedTuple):
    """What feeds a task with a watermark of its own: one partition of a source, or one upstream task.

    `inlet` is the inlet of the stage it belongs to; behind a repartition topic `partition` is the upstream task.
    """

    inlet: int
    topic: str
    partition: int


class Task:
    """The work of one partition number of a stage: state, progress and nodes.

    `inputs` are what feeds it, in the order that breaks ties (S39).  `settled` is the position record of its last
    commit, None at its very beginning.  `loops`, from `fuse`, replace the plain way of an inlet's records; where the
    task is `alone` with one input, they see to W themselves.  So does the `closer` of a site for its due cells.
    """

    def __init__(
        self,
        stage: Stage,
        inputs: Sequence[Input],
        store: Store,
        writer: Writer,
        settled: Mapping[str, Any] | None = None,
    ) -> None:
        self.stage = stage
        self.inputs = tuple(inputs)
        self.store = store
        self.writer = writer
        self.settled = settled
        self.journal: Journal = []
        self.noted: list[tuple[str, Any]] = []
        self.outs: dict[str, list[Emit]] = {topic: [] for topic in _topics(stage)}
        self.crossings: dict[str, list[Crossing]] = {topic: [] for topic in stage.crossings}
        self.dead: list[DeadLetter] = []
        self.tallied: Counter[tuple[str, Any]] = Counter()
        self._undoable: tuple[list[Any], ...] = (*self.outs.values(), *self.crossings.values(), self.dead, self.noted)
        self.times = [InputTime() for _ in self.inputs]
        self.offsets: dict[int, int] = {}
        self.incarnations = [0 for _ in self.inputs]
        self.disorders = [inlet.source.disorder if inlet.source is not None else 0 for inlet in stage.inlets]
        self.domains = {
            place.domain: Combined(
                tuple(
                    (self.times[number], lag)
                    for inlet, lag in place.domain
                    for number, one in enumerate(self.inputs)
                    if one.inlet == inlet
                )
            )
            for place in stage.places
        }
        self.sites = [Site(self, n, place, store, self.domains[place.domain]) for n, place in enumerate(stage.places)]
        for site in self.sites:
            site.children = tuple(self.sites[child] for child in site.place.children)
        self.stateful = [site for site in self.sites if site.place.stateful]
        self.crosses = [site for site in self.sites if isinstance(site.operator, Cross)]
        self.entries = [self.sites[inlet.place] for inlet in stage.inlets]
        self.loops: list[Callable[..., None] | None] = [None for _ in stage.inlets]
        self.alone = False
        self._batch = Batch(0, [], [], [])
        self._origin: tuple[int, int] | None = None
        self._restore(settled)

    # one step

    def step(self, batch: Batch, decisions: Iterable[Decision] = ()) -> Step:
        """Everything a batch causes.  TaskFailed where a record meets the action `fail`."""
        self._batch = batch
        for decision in decisions:
            self._decide(decision)
        self.advance()
        self._walk(batch)
        self.offsets |= batch.positions
        return self._step(len(batch))

    def _decide(self, decision: Decision) -> None:
        """What a clock or the outside decided, in front of the batch."""
        time = self.times[decision.input]
        match decision:
            case Idle():
                time.falls_silent()
            case Flows(_, watermark):
                time.flows_to(watermark)
            case Ended():
                time.end()

    def _walk(self, batch: Batch) -> None:
        """Take a batch record by record, marks and refusals where they stand, of one place the refusals first."""
        start = 0
        if batch.marks or batch.refusals:
            stops: list[tuple[int, Refusal | Mark]] = [(refusal.before, refusal) for refusal in batch.refusals]
            stops += [(mark.before, mark) for mark in batch.marks]
            for stop, one in sorted(stops, key=lambda stop: stop[0]):
                if stop > start:
                    self._stretch(batch, start, stop)
                    start = stop
                if isinstance(one, Mark):
                    self._hear(one)
                else:
                    self._refuse(one)
        self._stretch(batch, start, len(batch))

    def _hear(self, mark: Mark) -> None:
        """What is said of an input counts from here on, unless by an incarnation that another has replaced (S46)."""
        time = self.times[mark.input]
        if mark.incarnation < self.incarnations[mark.input]:
            return
        self.incarnations[mark.input] = mark.incarnation
        if mark.watermark == END:
            time.end()
        elif mark.idle is None:
            time.moves_to(mark.watermark)
        else:
            time.marked(mark.watermark, mark.idle)
            if self.stage.all_idle == "advance":  # the clock is in the watermark that an idle task says
                time.flows_to(mark.watermark)
        self.advance()

    def _stretch(self, batch: Batch, start: int, stop: int) -> None:
        """Records from start to stop, with nothing between them; by generated loops where there are any."""
        while start < stop:
            number = batch.inputs if isinstance(batch.inputs, int) else batch.inputs[start]
            loop = self.loops[self.inputs[number].inlet]
            if loop is None:
                self.take(number, start)
                start += 1
            elif self.alone:
                loop(self, batch, number, start, stop)
                start = stop
            else:
                end = self._still(batch, number, start, stop)
                loop(self, batch, number, start, end)
                start = end

    def _still(self, batch: Batch, number: int, start: int, stop: int) -> int:
        """Move W by the record at start, and tell up to where no other record of the same input would move it."""
        inlet, time = self.inputs[number].inlet, self.times[number]
        inputs, times, end = batch.inputs, batch.times, start + 1
        timed = self.stage.inlets[inlet].source is not None
        if not timed:  # only marks move W, so records of other upstream tasks may stand between
            if not isinstance(inputs, int) and len(self.stage.inlets) > 1:
                while end < stop and self.inputs[inputs[end]].inlet == inlet:
                    end += 1
                return end
            return stop
        if time.saw(times[start], self.disorders[inlet]):
            self.advance()
        while end < stop and (isinstance(inputs, int) or inputs[end] == number) and times[end] <= time.top:
            end += 1
        return end

    def take(self, number: int, index: int) -> None:
        """One record by the plain meaning: time, closings, then the record (S21)."""
        batch = self._batch
        inlet = self.inputs[number].inlet
        at = batch.times[index]
        if self.stage.inlets[inlet].source is not None and self.times[number].saw(at, self.disorders[inlet]):
            self.advance()
        self.unit(number, index)
        if self.is_due():
            self.advance()

    def advance(self) -> int:
        """Let W flow: operator by operator, what is due closes, its results go on, then the next one's W moves."""
        for combined in self.domains.values():
            combined.refresh()
        for site in self.stateful:
            site.watermark = site.combined.watermark
            if site.due() <= site.watermark:
                site.close_due()
        return self.due()

    def due(self) -> int:
        """The least watermark of a single input at which something closes, NEVER if nothing is open."""
        least = NEVER
        for site in self.stateful:
            at = site.due()
            if at != NEVER:
                least = min(least, at + max(lag for _, lag in site.place.domain))
        return least

    def is_due(self) -> bool:
        """Whether an operator has put a cell whose time has come already."""
        return any(site.due() <= site.watermark for site in self.stateful)

    # what generated loops call

    def flow_of(self, number: int) -> Callable[[int | None], int]:
        """A function that lets W flow to a greatest timestamp, and gives the one at which something closes next."""
        time, disorder = self.times[number], self.disorders[self.inputs[number].inlet]

        def flow(top: int | None) -> int:
            if top is not None:
                time.saw(top, disorder)
            return self.advance() + disorder

        return flow

    def plain_of(self, number: int) -> Callable[[int, int | None], int]:
        """A function that processes one record by its plain meaning, after W has flowed to a greatest timestamp."""
        flow = self.flow_of(number)

        def plain(index: int, top: int | None) -> int:
            flow(top)
            self.unit(number, index)
            return flow(None)

        return plain

    def push(self, number: int, index: int, records: Iterable[tuple[Site, Any, Any]]) -> bool:
        """Give what became of one record to nodes outside the loop, all or none; False if it failed and was undone."""
        batch, place = self._batch, self.place(number, index)
        at, headers = batch.times[index], batch.headers[index] if batch.headers is not None else ()
        self._origin = (number, batch.origins[index] if batch.origins is not None else index)
        given = [(site, Record(key, value, at, headers, *place)) for site, value, key in records]

        def run() -> None:
            for site, record in given:
                site.accept(record)

        stands = self._attempt(run, lambda: given[0][1] if given else Record(None, None, at, headers, *place))
        self._origin = None
        return stands

    def place(self, number: int, index: int) -> Position:
        """Where an input record of the batch at hand came from."""
        batch, source = self._batch, self.inputs[number]
        known = batch.places[index] if batch.places is not None else None
        return known or (source.topic, source.partition, batch.offsets[index])

    def places(self, number: int, start: int, stop: int) -> Iterable[Position]:
        """Where each of a stretch of records of one input came from."""
        batch, source = self._batch, self.inputs[number]
        if batch.places is None:
            return zip(repeat(source.topic), repeat(source.partition), batch.offsets[start:stop], strict=False)
        return (self.place(number, index) for index in range(start, stop))

    def tally(self, node: str, entered: int, left: int) -> None:
        """Count records that went through a node in a loop."""
        self.tallied["records_in", node] += entered
        self.tallied["records_out", node] += left

    def opened(self, node: str, cells: int) -> None:
        """Count windows that a loop has opened."""
        self.tallied["opened", node] += cells

    def closed(self, node: str, cells: int) -> None:
        """Count windows that were closed."""
        self.tallied["closed", node] += cells

    def unmatched(self, node: str, records: int) -> None:
        """Count records that no branch of a split took."""
        self.tallied["dropped", (node, "unmatched", "skip")] += records

    # units of work: a record, or a cell that is due, with all that follows from it

    def unit(self, number: int, index: int) -> None:
        """Process one input record in every branch, or leave no trace of it (S44)."""
        batch = self._batch
        record = Record(
            batch.keys[index] if batch.keys is not None else None,
            batch.values[index],
            batch.times[index],
            batch.headers[index] if batch.headers is not None else (),
            *self.place(number, index),
        )
        self._origin = (number, batch.origins[index] if batch.origins is not None else index)
        self._attempt(lambda: self.entries[self.inputs[number].inlet].accept(record), lambda: record)
        self._origin = None

    def close(self, site: Site, cell: Cell) -> None:
        """Give a due cell to its operator, and pass on what comes of it; undone as a whole if that fails."""
        reached: list[AnyRecord] = []

        def run() -> None:
            try:
                for result in site.operator.on_due(cell, site):
                    reached[:] = [result]
                    site.pass_on(result)
            except (Failed, TaskFailed):
                raise
            except Exception as error:
                raise Failed(site, error) from error

        self._attempt(run, lambda: reached[0] if reached else Record(cell.key, None, cell.at))
        if site.place.windowed:
            self.closed(site.place.name, site.operator.closing(cell))

    def _attempt(self, run: Callable[[], None], reached: Callable[[], AnyRecord]) -> bool:
        """Run a unit, repeated as its policy says; False if it failed for good and left no trace.

        `reached` is what a dead letter is about: the input record, or the result that was on its way.
        """
        attempts = 0
        while True:
            mark = self.mark()
            attempts += 1
            try:
                run()
            except Failed as failed:
                self.roll_back(mark)
                action = failed.site.place.actions.get(failed.reason)
                if action is None or attempts > action.retry:
                    self._failed(failed, reached(), attempts)
                    self.settle_unit()
                    return False
                self.noted.append(("retries", failed.site.place.name))
                self.settle_unit()
            else:
                self.settle_unit()
                return True

    def mark(self) -> list[int]:
        """Where every output stands, to go back to."""
        return list(map(len, self._undoable))

    def roll_back(self, mark: list[int]) -> None:
        """Undo what happened since a mark."""
        undo(self.journal)
        for rows, length in zip(self._undoable, mark, strict=True):
            del rows[length:]

    def settle_unit(self) -> None:
        """A unit is done: nothing of it can be undone any more."""
        self.journal.clear()
        self.tallied.update(self.noted)
        self.noted.clear()

    # what cannot be processed

    def _failed(self, failed: Failed, record: AnyRecord, attempts: int = 1) -> None:
        site, reason, value = failed.site, failed.reason, record.value
        window = (value.start_ms, value.end_ms) if type(value) is WindowResult else None
        action = site.place.actions.get(reason, Action("fail"))
        self.noted.append(("errors", (site.place.name, reason, action.then)))
        if action.then != "skip":
            self.give_up(site, record, reason, failed.error, action, attempts=attempts, window=window)

    def _refuse(self, refusal: Refusal) -> None:
        """A message that could not be decoded, or has no usable time: it leaves before it has moved anything."""
        site = self.entries[self.inputs[refusal.input].inlet]
        reason = reason_of(refusal.error)
        source = self.inputs[refusal.input]
        self._origin = (refusal.input, refusal.origin)
        record = Record(None, None, refusal.at, (), source.topic, source.partition, refusal.offset)
        self._failed(Failed(site, refusal.error, reason), record)
        self._origin = None
        self.settle_unit()

    def give_up(  # noqa: PLR0913 - half of them by name
        self,
        site: Site,
        record: AnyRecord,
        reason: str,
        error: Exception | None,
        action: Action,
        *,
        attempts: int = 1,
        window: tuple[int, int] | None = None,
    ) -> None:
        """Write a dead letter (S43), or stop the task."""
        why = f"{type(error).__name__}: {error}"[:MESSAGE] if error is not None else reason
        place = f"{record.topic} partition {record.partition} offset {record.offset}" if record.topic else "a result"
        if action.then == "fail":
            raise TaskFailed(
                f"{reason} at node {site.place.name!r} on {place}: {why}. "
                "To go on without such records, set dead_letters=TOPIC on the topology, "
                f'or .on_error("{reason}", then="skip") behind the node'
            ) from error
        key, value, headers = self._raw(record, action.topic)
        self.dead.append(
            DeadLetter(
                topic=action.topic or "",
                reason=reason,
                stage=STAGES.get(reason, "process"),
                node=site.place.name,
                key=key,
                value=value,
                headers=headers,
                source=record.topic,
                partition=record.partition,
                offset=record.offset,
                at=record.at if record.at != START else None,
                watermark=site.combined.watermark,
                exception=type(error).__name__ if error is not None else reason,
                message=str(error)[:MESSAGE] if error is not None else "",
                stacktrace="".join(traceback.format_exception(error))[-STACK:] if error is not None else "",
                attempts=attempts,
                window=window,
            )
        )

    def _raw(self, record: AnyRecord, topic: str | None) -> tuple[bytes | None, bytes | None, Headers]:
        """The input record byte for byte, or a result as it would have been written, if the topic takes that."""
        if self._origin is not None:
            number, origin = self._origin
            raw = self._batch.raws.get(number)
            if raw is not None:
                return raw.at(origin)
        key, value, bounds = _tried(self.writer.key, record.key), _tried(self.writer.value, record.value), None
        if topic is not None and self.writer.bounds is not None:
            bounds = self.writer.bounds(topic)
        if bounds is not None and value is not None and len(value) > bounds.size:
            value = None
        return key, value, record.headers

    def key_id(self, key: Any) -> KeyId:
        """The canonical form of a key: itself for text, else by its bytes (S1)."""
        return key if type(key) is str else key_id(self.writer.key(key))

    # what was done

    def _step(self, records: int = 0) -> Step:
        counts = Counts()
        for (field, what), number in self.tallied.items():
            if number:
                getattr(counts, field)[what] = number
        step = Step(
            {topic: rows[:] for topic, rows in self.outs.items() if rows},
            {topic: rows[:] for topic, rows in self.crossings.items() if rows},
            self.dead[:],
            counts,
            {site.place.name: site.combined.watermark for site in self.sites},
            dict(self.offsets),
            self.said(),
            records,
        )
        self.tallied.clear()
        for rows in self._undoable:
            rows.clear()
        return step

    def said(self) -> dict[str, Said]:
        """What this task says of itself behind each repartition topic that it writes to (S46)."""
        return {site.operator.topic: Said(site.combined.watermark, site.combined.idle) for site in self.crosses}

    def changes(self) -> list[Change]:
        """State that changed since the last commit."""
        return [change for site in self.stateful for cells in site.cells for change in cells.changes()]

    def position(self) -> dict[str, Any]:
        """The position record, as plain data: where each inlet stands, and all of time (S14, S41)."""
        return {
            "offsets": {self.stage.inlets[inlet].topic: offset for inlet, offset in sorted(self.offsets.items())},
            "inputs": {
                f"{one.topic}/{one.partition}": [
                    time.top,
                    time.watermark,
                    time.idle,
                    time.ended,
                    time.flown,
                    incarnation,
                ]
                for one, time, incarnation in zip(self.inputs, self.times, self.incarnations, strict=True)
            },
            "domains": [[list(map(list, d)), c.watermark, sorted(c.behind)] for d, c in self.domains.items()],
        }

    def committed(self, changes: Iterable[Change], position: Mapping[str, Any]) -> None:
        """The commit of these changes succeeded: the store takes them over."""
        self.store.apply(changes)
        self.settled = position
        for site in self.stateful:
            for cells in site.cells:
                cells.settle()

    def aborted(self) -> None:
        """The commit failed: back to the last one, in state and in time."""
        for site in self.stateful:
            for cells in site.cells:
                cells.restart()
        self.journal.clear()
        self.noted.clear()
        self._step()
        self._restore(self.settled)

    def _restore(self, settled: Mapping[str, Any] | None) -> None:
        read = settled["offsets"] if settled is not None else {}
        self.offsets = {n: read[inlet.topic] for n, inlet in enumerate(self.stage.inlets) if inlet.topic in read}
        known = settled["inputs"] if settled is not None else {}
        for number, one in enumerate(self.inputs):
            top, watermark, idle, ended, flown, incarnation = known.get(
                f"{one.topic}/{one.partition}", (START, START, False, False, START, 0)
            )
            self.incarnations[number] = incarnation
            time = self.times[number]
            time.top, time.watermark, time.idle, time.ended, time.flown = top, watermark, idle, ended, flown
        held = {
            tuple(map(tuple, d)): (w, behind) for d, w, behind in (settled["domains"] if settled is not None else ())
        }
        for domain, combined in self.domains.items():
            watermark, behind = held.get(domain, (START, ()))
            combined.watermark, combined.behind = watermark, set(behind)
        for site in self.sites:
            site.watermark = site.combined.watermark

    def holders(self) -> set[int]:
        """The inputs that hold W back at a node whose results depend on it."""
        held = {id(time) for domain in self.timed for time in self.domains[domain].holders()}
        return {number for number, time in enumerate(self.times) if id(time) in held}

    @property
    def timed(self) -> set[tuple[tuple[int, int], ...]]:
        """The domains in which W matters: of nodes with state and of crossings; of all nodes where there are none."""
        return {site.place.domain for site in (*self.stateful, *self.crosses)} or set(self.domains)

    @property
    def ended(self) -> bool:
        """Whether all inputs have ended, so that nothing can come any more."""
        return all(time.ended for time in self.times)


def reason_of(error: Exception) -> str:
    """The reason of S42 for a message that was refused before it was processed."""
    if isinstance(error, InvalidTimestamp):
        return "invalid_timestamp"
    return "future_timestamp" if isinstance(error, FutureTimestamp) else "deserialization_error"


def _topics(stage: Stage) -> list[str]:
    """Every topic that a stage writes results or late records to."""
    topics: dict[str, None] = {}
    for place in stage.places:
        if isinstance(place.operator, Sink):
            topics |= dict.fromkeys(place.operator.topics)
        if place.late is not None:
            topics[place.late] = None
    return list(topics)


def _tried(encode: Encode, value: Any) -> bytes | None:
    """The bytes of a value, None where it has none."""
    try:
        return None if value is None else encode(value)
    except Exception:  # noqa: BLE001 - S43: null if it cannot be encoded
        return None
