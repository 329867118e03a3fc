"""One task with its feed: what it is given, what it makes of it, and what of that is to be committed.

    offer, land, end, mark --> feed --work--> Step      changes, position --> a commit --> committed, or aborted

It has no clock and waits for nothing.  The embedded engine has a bench for each task of a plan and lets records cross
between them; where tasks are hosted one by one, what crosses is read back from a log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import sub
from typing import Any, NamedTuple

from streamproc.core.batch import START, Batch, Change, Crossing, Decision, Flows, Idle, Raw, Said, Step
from streamproc.core.errors import StateError
from streamproc.core.feed import (
    SLICE,
    Decoders,
    Feed,
    Landed,
    Slice,
    decoded,
    ended,
    landed,
    marked,
    read_back_in_slices,
)
from streamproc.core.fuse import fuse
from streamproc.core.plan import Plan, Stage
from streamproc.core.progress import Silence
from streamproc.core.site import Bounds, Writer
from streamproc.core.state import Store
from streamproc.core.task import Input, Task
from streamproc.ports import Run, Serde

SAMPLE = 10
"""Of so many messages of a source one is asked by how much it came after its event."""


class Codecs(NamedTuple):
    """How values and keys become bytes, and the messages of each source topic values; the tasks of a plan share it."""

    writer: Writer
    decoders: Mapping[str, Decoders]


def codecs_of(plan: Plan, serde: Serde, bounds: Callable[[str], Bounds] | None = None) -> Codecs:
    """The codecs of a plan; `bounds` says what a topic takes, where that is not everything."""
    decoders = {
        inlet.topic: Decoders(
            serde.decoder(inlet.source.type).decode,
            None if inlet.source.key is None else serde.key_decoder(inlet.source.key).decode,
        )
        for inlet in plan.inlets
        if inlet.source is not None
    }
    return Codecs(Writer(serde.encode, serde.encode_key, bounds), decoders)


@dataclass(slots=True)
class _Watch:
    """What is seen of one partition from outside: when records come, and when it could have had some.

    `base` is from where its watermark flows since `since`; `looked` is when its lag was asked for last, and `lag` what
    it was.  Instants are ms of a monotonic clock.
    """

    silence: Silence
    base: int = START
    ended: bool = False
    heard: bool = False
    looked: int | None = None
    lag: int | None = None
    since: int = 0
    quiet: int = 0

    def look(self, lag: int | None, now: int, *, held: bool) -> None:
        """Its lag is now known to be this, or not known; `held` says that there is something to be taken yet."""
        if self.looked is None or self.heard:  # of the span in which a record came, nothing counts
            self.since, self.quiet = now, 0
            self.silence.heard()
            self.base = START if self.heard else self.base
        else:
            span = now - self.looked
            both = None if held or lag != self.lag else lag
            self.silence.passed(span, polled=True, lag=both)
            self.quiet = self.quiet + span if both == 0 else 0
        self.heard, self.looked, self.lag = False, now, lag


class Bench:
    """A task at work: `number` of a stage, with the state and the position record of its last commit.

    With `stored`, repartition topics are logs that are read by offset, and awaited as sources are.  Else records cross
    in memory, and those that wait here are a part of the position.  `fused=False` keeps to the plain meaning of every
    operator.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - what a task is made from
        self,
        plan: Plan,
        stage: Stage,
        number: int,
        codecs: Codecs,
        store: Store,
        settled: Mapping[str, Any] | None,
        *,
        stored: bool = False,
        fused: bool = True,
    ) -> None:
        self.name = f"{stage.name}/{number}"
        self.stage = stage
        self.number = number
        self.stored = stored
        self._decoders = codecs.decoders
        upstream = {each.topic: each.tasks for each in plan.repartitions}
        order = sorted(range(len(stage.inlets)), key=lambda inlet: stage.inlets[inlet].topic)
        self._inlets = tuple(stage.inlets[inlet] for inlet in order)
        self._queues = {inlet.topic: queue for queue, inlet in enumerate(self._inlets)}
        self._inputs: dict[str, range] = {}
        self._starts: dict[str, int] = {}
        inputs: list[Input] = []
        for inlet in order:
            topic, source = stage.inlets[inlet].topic, stage.inlets[inlet].source
            numbers = (number,) if source is not None else range(upstream[topic])
            self._inputs[topic] = range(len(inputs), len(inputs) + len(numbers))
            inputs += [Input(inlet, topic, each) for each in numbers]
        self.task = Task(stage, inputs, store, codecs.writer, settled)
        if fused:
            fuse(self.task)
        self._feed = Feed(order)
        self._max_wait = plan.max_wait
        self._watches: dict[str, _Watch] = {}
        self._awaited: list[bool] = []
        self._decisions: list[Decision] = []
        self._landed: dict[str, list[int]] = {}
        self._begin()

    def _begin(self) -> None:
        """Nothing is at hand but what waited at the last commit."""
        self._feed.clear()
        self._decisions = []
        self._landed = {
            inlet.topic: [self.task.incarnations[number] for number in self._inputs[inlet.topic]]
            for inlet in self._inlets
            if inlet.source is None
        }
        self._awaited = [inlet.source is not None or self.stored for inlet in self._inlets]
        self._watches = {
            inlet.topic: _Watch(
                Silence(None if inlet.source is None else inlet.source.idle_timeout),
                self.task.times[self.input(inlet.topic)].flown,
                ended=all(self.task.times[number].ended for number in self._inputs[inlet.topic]),
            )
            for inlet in self._inlets
        }
        for topic, waits in (self.task.settled or {}).get("waiting", {}).items():
            self._feed.wait_again(self._queues[topic], waits)

    # in

    def begin(self, topic: str, offset: int) -> None:
        """Where reading of a topic begins as long as nothing of it has been processed."""
        self._starts[topic] = offset

    def offer(self, topic: str, run: Run, now: int | None) -> list[int]:
        """A run of messages of this task's partition of a source; `now` is the clock in ms it was fetched at (S15).

        Gives, of a few of them, how many ms before the transport's own timestamp the event was, where it has a time of
        its own.
        """
        queue, number = self._queues[topic], self.input(topic)
        spec = self._inlets[queue].source
        assert spec is not None
        count = len(run.values)
        delays: list[int] = []
        for start in range(0, count or 1, SLICE):
            part = slice(start, start + SLICE)
            raw = Raw(
                run.values[part],
                run.keys[part] if run.keys is not None else None,
                run.headers[part] if run.headers is not None else None,
            )
            one = decoded(
                number,
                spec,
                self._decoders[topic],
                raw,
                run.offsets[part],
                now=now,
                stamps=None if run.stamps is None else run.stamps[part],
                appended=run.appended,
                next_offset=run.next_offset if start + SLICE >= count else None,
            )
            if one.values:
                self._watches[topic].heard = True
            if run.stamps is not None and spec.event_time is not None and not one.refusals:
                delays += map(sub, run.stamps[part][::SAMPLE], one.times[::SAMPLE])
            self._feed.add(queue, one)
        return delays

    def land(self, topic: str, rows: Sequence[Landed], next_offset: int) -> None:
        """Records and marks as they stand in this task's partition of a repartition topic (S46).

        Like a run of a source, it may be empty and only say where to read on.  StateError where an upstream task
        speaks that there should not be.
        """
        tasks = len(self._landed[topic])
        if any(row.task >= tasks for row in rows):
            raise StateError(
                f"{topic}/{self.number} has records of more than {tasks} upstream tasks: their input had more "
                "partitions once. Use another app name, or begin anew"
            )
        self.land_slices(topic, partial(read_back_in_slices, rows, next_offset), heard=bool(rows))

    def land_slices(self, topic: str, slices: Callable[[int, list[int]], Iterable[Slice]], *, heard: bool) -> None:
        """What `land` takes, as slices: made by `slices`, given the first input and the incarnations heard of last.

        `heard` says whether there is anything in them.
        """
        self._watches[topic].heard |= heard
        try:
            made = slices(self.input(topic), self._landed[topic])
        except StateError as error:
            raise StateError(f"{topic}/{self.number}: {error}") from error
        for one in made:
            self._feed.add(self._queues[topic], one)

    def arrive(self, topic: str, task: int, crossings: Sequence[Crossing], said: Said) -> None:
        """Records that an upstream task sent here in memory, with its mark behind them."""
        self._feed.add(self._queues[topic], landed(self._inputs[topic][task], crossings, said))

    def mark(self, topic: str, watermark: int) -> None:
        """The watermark of a source is said to be here, behind all that is at hand; it never falls."""
        self._feed.add(self._queues[topic], marked(self.input(topic), watermark))

    def end(self, topic: str) -> None:
        """No more will come from a source: its end stands behind its last message (S49)."""
        if not self._watches[topic].ended:
            self._feed.add(self._queues[topic], ended(self.input(topic)))
            self._watches[topic].ended = True

    def await_(self, topic: str, *, awaited: bool) -> None:
        """Whether a topic may have more than is at hand: lag above 0 or unknown, not 0 (S39)."""
        self._awaited[self._queues[topic]] = awaited

    def lags(self, topic: str, lag: int | None, now: int) -> None:
        """By how much a topic is behind its end now, None where that is not known or it is not polled.

        `now` is a monotonic clock in ms.  From what is said again and again follows whether the topic is awaited, and
        what the clock decides: that it is idle (S17), and that time flows while all are (S18).
        """
        watch, number = self._watches[topic], self.input(topic)
        if watch.ended:
            return
        watch.look(lag, now, held=not self.hungry(topic))
        waits = self._max_wait is None or watch.quiet < self._max_wait
        self._awaited[self._queues[topic]] = lag != 0 or waits
        if watch.silence.idle and not self._idle(number):
            self._decisions.append(Idle(number))
        if self.stage.all_idle == "advance":
            self._flow(now)

    def _idle(self, number: int) -> bool:
        """Whether an input is idle, or will be with the next step."""
        return self.task.times[number].idle or any(isinstance(d, Idle) and d.input == number for d in self._decisions)

    def _flow(self, now: int) -> None:
        """Where all inputs of a node are idle, each that has delivered flows on from its last record (S18)."""
        inputs = enumerate(self.task.inputs)
        active = {one.inlet for number, one in inputs if self.holds(one.topic) or not self._idle(number)}
        domains = ({inlet for inlet, _ in domain} for domain in self.task.timed)
        flowing = set[int]().union(*(domain for domain in domains if not domain & active))
        for inlet in self._inlets:
            watch, number = self._watches[inlet.topic], self.input(inlet.topic)
            if inlet.source is None or self.task.inputs[number].inlet not in flowing:
                continue
            time = self.task.times[number]
            flown = max(watch.base, time.watermark) + now - watch.since
            known = [one.watermark for one in self._decisions if isinstance(one, Flows) and one.input == number]
            if time.watermark != START and flown > max([time.flown, *known]):
                self._decisions.append(Flows(number, flown))

    def decide(self, decision: Decision) -> None:
        """What a clock or the outside decided; the next step takes it in, before any record."""
        self._decisions.append(decision)

    # what there is

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that is read here, in the order that breaks ties."""
        return tuple(self._queues)

    def input(self, topic: str) -> int:
        """The number of the input that is this task's partition of a source, or the first of several upstream tasks."""
        return self._inputs[topic].start

    def holds(self, topic: str) -> int:
        """How many records, refusals and marks of a topic wait to be taken."""
        return self._feed.holds(self._queues[topic])

    def hungry(self, topic: str) -> bool:
        """Whether nothing of a topic waits, so that reading on may help."""
        return not self.holds(topic)

    def offset(self, topic: str) -> int | None:
        """The next offset of a topic, as far as it has been processed; before anything was, that of `begin` or None."""
        inlet = self.stage.inlets.index(self._inlets[self._queues[topic]])
        return self.task.offsets.get(inlet, self._starts.get(topic))

    @property
    def ready(self) -> bool:
        """Whether something waits or was decided, so that `work` may find a step to take."""
        return bool(self._decisions) or any(map(self.holds, self._queues))

    @property
    def ended(self) -> bool:
        """Whether every input has ended and nothing waits."""
        return self.task.ended and not any(map(self.holds, self._queues))

    # through

    def work(self) -> Step | None:
        """One step over what is at hand and was decided, None if there is nothing that may be taken."""
        batch = self._feed.next(self._waits())
        if batch is None:
            if not self._decisions:
                return None
            batch = Batch(0, [], [], [])
        decisions, self._decisions = self._decisions, []
        return self.task.step(batch, decisions)

    def _waits(self) -> list[bool]:
        """Which queues are awaited (S39): not one that has ended, nor one of inputs that are all idle."""
        if len(self._inlets) == 1:
            return self._awaited
        return [
            awaited and not (self._watches[topic].ended or all(map(self._silent, self._inputs[topic])))
            for topic, awaited in zip(self._queues, self._awaited, strict=True)
        ]

    def _silent(self, number: int) -> bool:
        return self._idle(number) or self.task.times[number].ended

    # out

    def said(self) -> dict[str, Said]:
        """What this task says of itself now behind each repartition topic that it writes to (S46)."""
        return self.task.said()

    def changes(self) -> list[Change]:
        """State that changed since the last commit."""
        return self.task.changes()

    def position(self) -> dict[str, Any]:
        """The position record, as plain data: what `settled` is to be after a commit that covers the work so far."""
        position = self.task.position()
        if not self.stored:
            topics = [inlet.topic for inlet in self._inlets if inlet.source is None]
            if waits := {topic: kept for topic in topics if (kept := self._feed.waiting(self._queues[topic]))}:
                position["waiting"] = waits
        return position

    def committed(self, changes: Iterable[Change], position: Mapping[str, Any]) -> None:
        """The commit of these changes succeeded."""
        self.task.committed(changes, position)

    def aborted(self) -> None:
        """The commit failed: back to the last one, with nothing at hand.  Each topic is read again from `offset` on."""
        self.task.aborted()
        self._begin()
