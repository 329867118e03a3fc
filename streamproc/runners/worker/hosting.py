"""One task on this worker, from its take-over to its end.

    fencing --> restoring --> running --> closing --> parked
       ^________________________|  a commit failed, or nobody knows: begin anew from what is committed

A take-over fences the last owner first, and asks for offsets and for the end of the changelog only then: before, they
could still change.  State is restored up to that end, and must name the very offsets that the group has.  Then the
task works: batch after batch into its overlay, and now and then one transaction of all that has come of it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

from streamproc.core.batch import Said, Step
from streamproc.core.errors import StreamprocError
from streamproc.core.partition import strays
from streamproc.core.plan import Stage
from streamproc.ports import Commit, Run
from streamproc.ports.broker import BrokerError, Code, Fetched, Outgoing, Refused, TopicPartition
from streamproc.ports.worker import Changelog as ChangelogGrew
from streamproc.ports.worker import Delays, Restored, Standing, Uncommitted
from streamproc.runners.bench import Bench
from streamproc.runners.worker import crossing
from streamproc.runners.worker.assigning import TaskId
from streamproc.runners.worker.changelog import Draft
from streamproc.runners.worker.fetching import TRIES, Gone, Unreadable
from streamproc.runners.worker.house import House, Incompatible, Kept
from streamproc.runners.worker.outbox import STAMP, Outbox
from streamproc.runners.worker.producing import Committed, Forbidden, Lost, Undone, Unwritable, patient
from streamproc.runners.worker.takeover import TakeOver, layout

Came: TypeAlias = Literal["new", "over", "grown"]
"""With something to do; ended before; the same, and its sources have grown since."""


class Hosted:
    """A task at work here.  `run` is its life; it ends when it was closed, or by what it cannot mend itself.

    Raises Lost when somebody else has the task, Incompatible, Unreadable, Unwritable, Forbidden or TaskFailed.
    """

    def __init__(self, task: TaskId, stage: Stage, house: House, kept: Kept | None = None, offset: float = 0.0) -> None:
        self.task = task
        self.stage = stage
        self.state = "pending"
        self.stepping_since: float | None = None
        self.last_step_at: float | None = None
        self._house = house
        self._kept = kept
        self._phase = offset
        self._bench: Bench | None = None
        self._outbox = Outbox(house, task.number, 0)
        self._said: dict[str, Said] = {}
        self._delays: list[Delays] = []
        self._inputs = {inlet.topic: TopicPartition(inlet.topic, task.number) for inlet in stage.inlets}
        self._landings = {inlet.topic for inlet in stage.inlets if inlet.source is None}
        self._changelog = TopicPartition(house.plan.changelog(stage), task.number)
        self._committer = house.committer(transactional_id(house.plan.app, task), self._changelog)
        self._news = asyncio.Event()
        self._closing = False
        self._broken: Code | int | None = None
        self._unknown = 0
        self._over: set[str] = set()
        self._came: Came | None = None
        self._unproven = {
            inlet.topic for inlet in stage.inlets if inlet.source is not None and inlet.source.key is not None
        }
        self._trimmed_at = asyncio.get_running_loop().time()
        self._due_at = 0.0
        self._open_since = 0.0
        self._behind = False

    @property
    def inputs(self) -> tuple[TopicPartition, ...]:
        """The partitions that it reads."""
        return tuple(self._inputs.values())

    def standings(self, ends: Mapping[TopicPartition, int], now: float) -> dict[TopicPartition, Standing]:
        """Where the partitions stand that it reads; `now` is the wall clock in seconds."""
        bench, kept = self._bench, self._kept
        if bench is None or kept is None:
            return {}
        found = {}
        for topic, partition in self._inputs.items():
            end = ends.get(partition)
            if topic in self._over:  # what lies behind is nobody's to read
                end = bench.offset(topic)
            stamp = self._house.fetcher.next_stamp(partition)
            found[partition] = Standing(
                position=bench.offset(topic) or 0,
                end=end,
                lag_seconds=0.0 if stamp is None else max(0.0, now - stamp / 1000),
                committed=None if kept.position is None else kept.position["offsets"].get(topic),
                paused=self.state != "running",
                idle=all(
                    time.idle
                    for one, time in zip(bench.task.inputs, bench.task.times, strict=True)
                    if one.topic == topic
                ),
            )
        return found

    def watermarks(self) -> dict[TopicPartition, int]:
        """The watermark of each of its partitions that has one of its own: those of sources."""
        if self._bench is None:
            return {}
        task = self._bench.task
        return {
            TopicPartition(one.topic, one.partition): time.watermark
            for one, time in zip(task.inputs, task.times, strict=True)
            if one.topic not in self._landings
        }

    def held(self) -> tuple[dict[str, int], dict[str, int]]:
        """Open windows and entries of each node with state, as committed."""
        sizes = self._kept.store.size() if self._kept is not None else {}
        places = [place for place in self.stage.places if place.stateful]
        entries = {place.name: sizes.get(place.name, 0) for place in places}
        return {place.name: entries[place.name] for place in places if place.windowed}, entries

    @property
    def finished(self) -> bool:
        """Whether all of its inputs have ended, and that is committed; never but in a run that has an end."""
        bench = self._bench
        return bool(self._house.ends) and bench is not None and bench.ended and not self._pending

    @property
    def came(self) -> Came | None:
        """How it was found: with something to do, or ended, which its inputs may have outgrown; None before that."""
        return self._came

    # its life

    async def run(self) -> None:
        """Take over, work, and begin anew after a commit that failed, until closed."""
        try:
            while not self._is_closing():
                try:
                    await self._take_over()
                    await self._work()
                except Undone as undone:
                    self._undo(undone)
                    if self._is_closing():
                        await self._abandon()
        except Gone as gone:
            if await self._is_elsewhere():
                raise Lost(str(gone)) from gone
            raise
        except (Unwritable, Forbidden):
            await self._abandon()
            raise
        except BrokerError as error:
            if isinstance(error, Refused) and error.code == Code.UNKNOWN_TOPIC_OR_PARTITION:
                raise Unreadable(
                    f"{error}: this partition does not exist (any more). Create the topic again or restore it; "
                    "`streamproc topics plan` tells what is expected"
                ) from error
            raise Forbidden(str(error)) from error
        finally:
            self._let_go()
            self.state = "closed"

    def close(self) -> None:
        """Finish the step in hand, commit, and end; where there is nothing to commit yet, end at once."""
        self._closing = True
        self._news.set()

    def _is_closing(self) -> bool:
        return self._closing

    @property
    def kept(self) -> Kept | None:
        """Its state as of the last commit, for when the task comes back; None before it had any."""
        return self._kept

    def _let_go(self) -> None:
        for partition in self._inputs.values():
            self._house.fetcher.remove(partition)
        self._committer.discard()

    def _undo(self, undone: Undone) -> None:
        """A commit failed: nothing of it was, or may be, done; what is committed decides.

        What shows that the broker and we disagree on what was sent may happen once; a second time it is a bug.  A topic
        that is not known again and again is gone: to begin anew would never end.
        """
        self._house.observer.happened(
            Uncommitted(self.name, "unknown" if undone.unknown else "aborted", 0.0, str(undone))
        )
        if isinstance(undone.why, Refused) and undone.why.code in {Code.INVALID_TXN_STATE, Code.OUT_OF_ORDER_SEQUENCE}:
            if self._broken == undone.why.code:
                raise StreamprocError(
                    f"task {self.name}: a commit was refused twice for what was sent: {undone}"
                ) from undone
            self._broken = undone.why.code
        if isinstance(undone.why, Refused) and undone.why.code == Code.UNKNOWN_TOPIC_OR_PARTITION:
            self._unknown += 1
            if self._unknown >= TRIES:
                raise undone.why
        self._let_go()
        self._bench = None
        self._outbox = self._emptied()

    async def _is_elsewhere(self) -> bool:
        """Whether somebody has committed more than was done here: the task has another owner, unknown to this one."""
        bench, house = self._bench, self._house
        assert bench is not None
        committed = await patient(lambda: house.broker.offset_fetch(house.group, list(self._inputs.values())))
        return any(offset > (bench.offset(place.topic) or 0) for place, offset in committed.items())

    async def _abandon(self) -> None:
        """End what is still open at the broker: readers would wait for it until it times out."""
        with suppress(TimeoutError, BrokerError):
            async with asyncio.timeout(self._house.pace().lasting):
                await self._committer.open()

    @property
    def name(self) -> str:
        return f"{self.task.stage}/{self.task.number}"

    # taking over

    async def _take_over(self) -> None:
        """Fence, ask, restore, compare, and only then begin to read."""
        house, loop = self._house, asyncio.get_running_loop()
        started = loop.time()
        self.state = "fencing"
        await self._committer.open()
        house.crash("after_init_pid")
        taking = TakeOver(self.name, self.stage, self._changelog, self._inputs, house)
        await taking.ask()
        self.state = "restoring"
        kept, self._kept = self._kept, None  # while it is filled it is nothing to go back to
        self._kept = await taking.restore(kept)
        position = self._kept.position
        starts = await taking.starts(position)
        incarnation = (position["incarnation"] if position is not None else 0) + 1
        store, settled = self._kept.store, position["task"] if position is not None else None
        self._bench = await house.compute(
            lambda: Bench(house.plan, self.stage, self.task.number, house.codecs, store, settled, stored=True)
        )
        self._said = {}
        self._outbox = Outbox(house, self.task.number, incarnation, moved=starts != taking.committed)
        for topic, partition in self._inputs.items():
            self._bench.begin(topic, starts[topic])
            house.fetcher.add(partition, starts[topic], self._news.set)
        self._find_ends(self._bench, starts)
        self.state = "running"
        now = loop.time()
        self._due_at = now + house.pace().tick * self._phase
        self._open_since = now
        house.observer.happened(Restored(self.name, taking.records, now - started))

    def _find_ends(self, bench: Bench, starts: Mapping[str, int]) -> None:
        """In a run that has an end: inputs that have ended are not read on, those that are at their end have ended."""
        ends, grown, over = self._house.ends, False, bench.ended
        self._over = set()
        for topic, partition in self._inputs.items():
            end = ends.get(partition)
            if end is None:
                continue
            grown = grown or starts[topic] < end
            if starts[topic] >= end or bench.task.times[bench.input(topic)].ended:
                self._pass_over(topic)
                bench.end(topic)
        if self._came is None:
            self._came = "new" if not over else "grown" if grown else "over"

    def _pass_over(self, topic: str) -> None:
        """Read no more of an input."""
        self._over.add(topic)
        self._house.fetcher.remove(self._inputs[topic])

    # working

    async def _work(self) -> None:
        """Step and commit until closed; whatever is open then is committed last."""
        loop = asyncio.get_running_loop()
        while not self._closing:
            self._news.clear()
            worked = await self._step()
            if worked and self._committer.eager:
                await self._append()
            now = loop.time()
            if self._due(now):
                await self._commit()
            elif not worked:
                if self.finished:
                    self._house.finished()
                await self._rest(now)
        self.state = "closing"
        if self._pending:
            await self._commit()

    async def _rest(self, now: float) -> None:
        """Wait for records, or for the next commit, whichever is first."""
        try:
            async with asyncio.timeout(max(0.001, self._due_at - now) if self._pending else LOOK):
                await self._news.wait()
        except TimeoutError:
            return

    async def _step(self) -> bool:
        """Take what is at hand through the engine; whether there was anything."""
        house, bench = self._house, self._bench
        assert bench is not None
        taken = self._take(bench)
        self._behind = any(map(house.fetcher.holds, self._inputs.values()))
        if not taken and not bench.ready:
            return False
        now = int(house.clock() * 1000)
        self.stepping_since = house.clock()
        try:
            steps: list[tuple[Step, float]] = await house.compute(partial(self._through, bench, taken, now))
        finally:
            self.stepping_since = None
        if steps:
            self.last_step_at = house.clock()
        for topic, fetched in taken:
            if fetched.offsets:
                number = self.task.number
                house.observer.read(topic, number, len(fetched.offsets), fetched.size, fetched.next_offset)
        for delays in self._delays:
            house.observer.happened(delays)
        self._delays.clear()
        for step, seconds in steps:
            house.observer.stepped(self.name, step, step.records, seconds)
        return bool(steps)

    def _take(self, bench: Bench) -> list[tuple[str, Fetched]]:
        """What is at hand of each input that the engine has nothing left of, and how far each is behind its end."""
        taken: list[tuple[str, Fetched]] = []
        clock = int(asyncio.get_running_loop().time() * 1000)
        for topic, partition in self._inputs.items():
            while topic not in self._over and bench.hungry(topic):
                fetched = self._house.fetcher.take(partition)
                if fetched is None:
                    break
                end = self._house.ends.get(partition)
                if end is not None and fetched.next_offset >= end:
                    fetched = cut(fetched, end)
                    self._pass_over(topic)
                taken.append((topic, fetched))
                if topic in self._unproven:
                    self._prove(topic, fetched)
                if fetched.offsets:
                    break  # what is behind it is read when this has been taken
            bench.lags(topic, self._house.fetcher.lag(partition), clock)
        return taken

    def _prove(self, topic: str, fetched: Fetched) -> None:
        """A source that is said to be partitioned by its keys is (S52): so is a sample of them, but for a few."""
        count, number = self._house.counts[topic], self.task.number
        keys = [key for key in fetched.keys[:SAMPLE] if key is not None]
        wrong = strays(keys, number, count)
        if len(keys) >= SAMPLE // 4 and len(wrong) * 4 > len(keys):
            raise Incompatible(
                f"topic {topic!r} partition {number}: {len(wrong)} of {len(keys)} keys at offset {fetched.offsets[0]} "
                "and behind are not in the partition of the default partitioner (murmur2): its producer has "
                "another, or partitions were added. Use that partitioner, or leave out key= and say key_by"
            )
        if len(keys) >= SAMPLE // 4:
            self._unproven.discard(topic)

    def _through(self, bench: Bench, taken: Iterable[tuple[str, Fetched]], now: int) -> list[tuple[Step, float]]:
        """Everything that can be done with what is at hand; away from the event loop."""
        for topic, fetched in taken:
            if topic in self._landings:
                crossed = crossing.decode(fetched.offsets, fetched.keys, fetched.values, self._house.packing)
                slices = partial(crossed.slices, next_offset=fetched.next_offset)
                bench.land_slices(topic, slices, heard=bool(fetched.offsets))
            else:
                if delays := bench.offer(topic, as_run(fetched), now):
                    self._delays.append(Delays(topic, delays))
                if topic in self._over:
                    bench.end(topic)
        steps = []
        started = self._house.stopwatch()
        while (step := bench.work()) is not None:
            self._outbox.take(step, now)
            finished = self._house.stopwatch()
            steps.append((step, finished - started))
            started = finished
        return steps

    # committing

    def _emptied(self) -> Outbox:
        return Outbox(self._house, self.task.number, self._outbox.incarnation)

    async def _append(self) -> None:
        """Write what there is without waiting for the commit; what fails begins anew, and is written again."""
        records, self._outbox.records = self._outbox.records, {}
        await self._committer.append(records)

    @property
    def _pending(self) -> bool:
        return self._outbox.moved or bool(self._outbox.records)

    def _due(self, now: float) -> bool:
        if not self._pending:
            self._open_since = now
            return False
        pace = self._house.pace()
        if self._outbox.full or now - self._open_since >= pace.lasting / 3:
            return True
        due = self._open_since + pace.stretched if self._behind else self._due_at
        return now >= due

    async def _commit(self) -> None:
        """One transaction of everything since the last: rows, dead letters, marks, state, position, offsets."""
        house, bench, kept = self._house, self._bench, self._kept
        assert bench is not None
        assert kept is not None
        started = asyncio.get_running_loop().time()
        outbox = self._outbox
        now = int(house.clock() * 1000)
        said = {topic: said for topic, said in bench.said().items() if said != self._said.get(topic)}
        outbox.mark(said, now)
        changes, position, draft = await house.compute(lambda: self._draft(bench, kept))
        outbox.records[self._changelog] = [Outgoing(key, value, now) for key, value in draft.records]
        offsets = {partition: position["offsets"][topic] for topic, partition in self._inputs.items()}
        done = await self._send(outbox.records, offsets)
        house.crash("before_fold")
        await house.compute(partial(bench.committed, changes, position["task"]))
        kept.changelog.committed(draft)
        kept.position = position
        first = done.first_offsets.get(self._changelog, -1)
        if first >= 0:
            kept.restored_to = first + len(draft.records)
        self._said |= said
        self._broken, self._unknown = None, 0
        self._outbox = self._emptied()
        finished = asyncio.get_running_loop().time()
        pace = house.pace()
        self._due_at = max(self._due_at + pace.tick, finished + min(pace.tick, finished - started))
        self._open_since = finished
        if self._landings and finished - self._trimmed_at >= TRIM:
            self._trimmed_at = finished
            await self._trim(position["offsets"])
        commit = Commit(emits=outbox.emits, changes={self.name: changes}, positions={self.name: position})
        house.observer.committed(commit, outbox.dead, finished - started)
        size = sum(len(record.key) + len(record.value or b"") for record in draft.records)
        house.observer.happened(ChangelogGrew(self.name, len(draft.records), size))

    async def _trim(self, offsets: Mapping[str, int]) -> None:
        """Delete what has been read from repartition topics, never beyond what is committed: nobody else reads it."""
        before = {self._inputs[topic]: offsets[topic] for topic in sorted(self._landings)}
        with suppress(BrokerError):
            await self._house.broker.trim(before)

    async def _send(
        self, records: Mapping[TopicPartition, list[Outgoing]], offsets: Mapping[TopicPartition, int]
    ) -> Committed:
        try:
            return await self._committer.commit(records, offsets)
        except Lost as lost:
            self._house.observer.happened(Uncommitted(self.name, "fenced", 0.0, str(lost)))
            raise
        except (Unwritable, Forbidden) as refused:
            self._house.observer.happened(Uncommitted(self.name, "failed", 0.0, str(refused)))
            raise
        except asyncio.CancelledError:
            self._committer.discard()
            raise

    def _draft(self, bench: Bench, kept: Kept) -> tuple[list[Any], dict[str, Any], Draft]:
        """What the changelog has to be told: changes of state, and the position record."""
        changes = bench.changes()
        task = bench.position()
        position = {
            "task": task,
            "offsets": {topic: bench.offset(topic) for topic in self._inputs},
            "incarnation": self._outbox.incarnation,
            "layout": layout(self.stage),
            "plan": self._house.plan.hash,
        }
        return changes, position, kept.changelog.records(changes, position, kept.store)


SAMPLE = 32
"""Keys of a keyed source that are looked at before the rest is believed."""
TRIM = 30.0
"""Seconds between two deletions of what has been read from repartition topics."""
LOOK = 0.1
"""Seconds between two looks of a task that has nothing to do."""


def transactional_id(app: str, task: TaskId) -> str:
    """Who writes as a task: of the task and never of the worker, so that fencing follows the partition."""
    return f"{app}-{task.stage}-{task.number}"


def cut(fetched: Fetched, end: int) -> Fetched:
    """What lies before an offset."""
    count = bisect_left(fetched.offsets, end)
    return replace(
        fetched,
        next_offset=min(fetched.next_offset, end),
        offsets=fetched.offsets[:count],
        keys=fetched.keys[:count],
        values=list(fetched.values[:count]),
        stamps=fetched.stamps[:count],
        headers=None if fetched.headers is None else fetched.headers[:count],
    )


def as_run(fetched: Fetched) -> Run:
    """What was fetched, as the engine takes it; a timestamp in a header wins over Kafka's own (S4)."""
    stamps = list(fetched.stamps)
    if fetched.headers is not None:
        for index, headers in enumerate(fetched.headers):
            for name, content in headers:
                if name == STAMP:
                    stamps[index] = int(content)
    return Run(
        fetched.partition,
        fetched.offsets,
        list(fetched.values),
        fetched.keys,
        fetched.headers,
        stamps,
        fetched.next_offset,
        appended=fetched.appended,
    )
