"""A worker: its part of the tasks of a topology, on Kafka.

    group ── assigned, revoked, lost ──> hosted tasks ──> engine (one step at a time, apart from the event loop)
                                           ^     |
                            fetcher ───────┘     └── transactions ──> broker

Everything that waits is on one event loop; everything that computes is not.  What a task cannot mend ends the worker:
the others finish their step and commit first.  Stopping is a ladder: read no more, finish the step in hand, commit,
leave; at three quarters of the deadline whatever is left is cut off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from streamproc.core import partition as partitioner
from streamproc.core.errors import ConfigError
from streamproc.core.plan import Plan
from streamproc.ports import Observer, Packing, Serde
from streamproc.ports.broker import Broker, BrokerError, Code, Described, Membership, TopicPartition
from streamproc.ports.worker import Failure, Ownership, Pulse, Reachability
from streamproc.runners.bench import codecs_of
from streamproc.runners.worker.assigning import TaskId
from streamproc.runners.worker.fetching import Fetcher
from streamproc.runners.worker.hosting import Hosted
from streamproc.runners.worker.house import Compute, House, Incompatible, Kept, Pace
from streamproc.runners.worker.membership import GroupMember
from streamproc.runners.worker.producing import Appends, Committer, Forbidden, Lost, Transactions, patient
from streamproc.runners.worker.topic_limits import Takes, TopicLimits, bounds_of, most_of, usual
from streamproc.runners.worker.watching import Watch

COMMITS = 100
"""Most commits a second of one worker: its processor and the broker's are spent on them otherwise."""
DUEL, DUEL_SECONDS = 5, 60.0
"""Fencings of one task in so many seconds that cannot be the work of a zombie."""
KEYS = 100_000
"""Keys whose partition is remembered: to hash one takes as long as to fold several records."""
KEPT_TASKS, KEPT_SECONDS = 16, 600.0
"""Tasks whose state is kept after they have gone, and for how long: many come back soon."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker behaves; times in seconds, but for those of the group, in ms.

    `topic_limits` asks what the topics take that are written to.  With `until_end` sources are read as far as they
    reach when the worker begins, everything closes, and it ends.
    """

    group: Membership
    guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once"
    tick: float = 0.1
    stretched: float = 1.0
    lasting: float = 10.0
    drain: float = 30.0
    heartbeat: float = 0.5
    stall_after: float = 60.0
    topic_limits: TopicLimits = usual
    until_end: bool = False


Ended: TypeAlias = Literal["ended", "complete", "grown"]
"""At the end; it had been there already; the same, and sources have grown since."""


class Worker:
    """Runs its share of a topology until `stop` is called or something cannot be mended.

    `plan_for` makes the plan once the partition counts of the sources are known.  `compute` runs a function apart from
    the event loop; `clock` is the wall clock in seconds and `stopwatch` one for measuring; `tell` gets lines for the
    log, and `crash` is told each step of a commit.
    """

    def __init__(  # noqa: PLR0913 - one parameter for each thing it joins
        self,
        sources: Collection[str],
        plan_for: Callable[[Mapping[str, int]], Plan],
        *,
        broker: Broker,
        serde: Serde,
        packing: Packing,
        observer: Observer,
        compute: Compute,
        clock: Callable[[], float],
        stopwatch: Callable[[], float],
        settings: Settings,
        tell: Callable[[str], object] = lambda _: None,
        crash: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._sources = tuple(sources)
        self._plan_for = plan_for
        self._broker = broker
        self._serde = serde
        self._packing = packing
        self._observer = observer
        self._compute = compute
        self._clock = clock
        self._stopwatch = stopwatch
        self._tell_log = tell
        self._settings = settings
        self._crash = crash
        self._hosted: dict[TaskId, Hosted] = {}
        self._runs: dict[TaskId, asyncio.Task[None]] = {}
        self._kept: dict[TaskId, tuple[Kept, float]] = {}
        self._fencings: dict[TaskId, list[float]] = {}
        self._stopping = asyncio.Event()
        self._fatal: BaseException | None = None
        self._late = False
        self._topic_limits: Mapping[str, Takes] = {}
        self._ends: Mapping[TopicPartition, int] = {}
        self._ended: Ended | None = None
        self._watch = Watch(
            self._hosted,
            broker=broker,
            observer=observer,
            compute=compute,
            clock=clock,
            refresh=self._refresh,
            unsettled_since=lambda: self._member.rebalancing_since,
            stall_after=settings.stall_after,
        )
        self._fetcher = Fetcher(broker, polled=self._watch.polled, failed=observer.happened)

    @property
    def pulse(self) -> Pulse:
        """Its progress, for those who ask from another thread."""
        return self._watch.pulse

    def _refresh(self, partition: TopicPartition) -> None:
        self._fetcher.refresh(partition)

    def stop(self) -> None:
        """Ask for the worker to be drained; may be said more than once."""
        self._stopping.set()

    async def run(self) -> Literal["drained", "cut off"] | Ended:
        """Work until stopped, or to the end; says whether everything was committed in time, or what end there was.

        Raises what no task could mend: Incompatible, Forbidden, Unreadable, Unwritable, TaskFailed, Stalled.
        """
        self._watch.enter("starting")
        try:
            if (prepared := await self._prepared()) is not None:
                await self._work(*prepared)
        except BaseException:
            self._watch.enter("failed")
            raise
        if self._fatal is not None:
            self._watch.enter("failed")
            raise self._fatal
        self._watch.enter("stopped")
        if self._late:
            return "cut off"
        return self._ended or "drained"

    # before the first record

    async def _prepared(self) -> tuple[Plan, dict[str, int]] | None:
        """The plan and the partition counts, None if there is a wish to stop before they are known."""
        preparing = asyncio.ensure_future(self._prepare())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({preparing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return await preparing if preparing.done() else None
        finally:
            preparing.cancel()
            stopping.cancel()

    async def _prepare(self) -> tuple[Plan, dict[str, int]]:
        """Ask what topics there are, and make the plan for them."""
        counts = await self._counts(self._sources, "the topology reads it")
        plan = self._plan_for(counts)
        if self._settings.until_end:  # with what stands in open transactions: it may have been committed already
            sources = [TopicPartition(topic, number) for topic in self._sources for number in range(counts[topic])]
            self._ends = await patient(lambda: self._broker.list_offsets(sources, "end", "read_uncommitted"))
        self._observer.planned(plan)
        self._observer.happened(Reachability(reachable=True))  # as they have just answered
        written = [*plan.sinks, *plan.dead_letters]
        counts |= await self._counts(written, "the topology writes it")
        expected = {one.topic: one.partitions for one in plan.repartitions}
        expected |= {plan.changelog(stage): stage.partitions for stage in plan.stages}
        found = await self._counts(list(expected), "the topology needs it for itself")
        self._topic_limits = await self._settings.topic_limits([*written, *expected])
        for topic, count in found.items():
            if count != expected[topic]:
                raise Incompatible(
                    f"topic {topic!r} has {count} partitions and the plan needs {expected[topic]}: a source has "
                    "another number of partitions than in the last run. State cannot be dealt out anew: go back to the "
                    "old number, or begin anew under another app name"
                )
        return plan, counts | found

    async def _counts(self, topics: Collection[str], why: str) -> dict[str, int]:
        """The number of partitions of each topic; a missing one is an error that says what to do."""
        found: Mapping[str, Described] = await patient(lambda: self._broker.metadata(topics)) if topics else {}
        forbidden = sorted(topic for topic in topics if found[topic].code == Code.TOPIC_AUTHORIZATION_FAILED)
        if forbidden:
            raise Forbidden(f"not allowed to see topic {forbidden[0]!r} ({why}): give this principal DESCRIBE on it")
        missing = sorted(topic for topic in topics if not found[topic].leaders)
        if missing:
            raise Incompatible(
                f"topic {missing[0]!r} does not exist ({why})"
                + (f", nor do {', '.join(map(repr, missing[1:]))}" if missing[1:] else "")
                + ": `streamproc topics apply` creates what is missing"
            )
        return {topic: len(found[topic].leaders) for topic in topics}

    def _house(self, plan: Plan, counts: Mapping[str, int]) -> House:
        settings = self._settings
        group = settings.group.group

        def committer(transactional_id: str, changelog: TopicPartition) -> Committer:
            most = most_of(self._topic_limits)
            transactions = Transactions(self._broker, transactional_id, group, settings.lasting, self._crash, most)
            if settings.guarantee == "exactly_once":
                return transactions
            return Appends(self._broker, changelog, transactions)

        return House(
            plan,
            self._broker,
            self._fetcher,
            codecs_of(plan, self._serde, bounds_of(self._topic_limits, self._clock)),
            self._packing,
            self._observer,
            self._compute,
            self._clock,
            self._stopwatch,
            lru_cache(maxsize=KEYS)(partitioner.partition),
            counts,
            group,
            committer,
            self._pace,
            self._crash,
            self._ends,
            self._finished,
        )

    def _pace(self) -> Pace:
        tick = max(self._settings.tick, len(self._hosted) / COMMITS)
        return Pace(tick, max(tick, self._settings.stretched), self._settings.lasting)

    # the work

    async def _work(self, plan: Plan, counts: Mapping[str, int]) -> None:
        self._shared = self._house(plan, counts)
        self._stages = {stage.name: stage for stage in plan.stages}
        tasks = [TaskId(stage.name, number) for stage in plan.stages for number in range(stage.partitions)]
        self._member = GroupMember(
            self._broker,
            self._settings.group,
            tasks,
            plan.hash,
            self._topics_of,
            self,
            heartbeat=self._settings.heartbeat,
            tell=self._tell_log,
        )
        async with asyncio.TaskGroup() as group:
            self._group = group
            lasting = [
                group.create_task(self._guarded(self._fetcher.run), name="fetcher"),
                group.create_task(self._guarded(self._watch.run), name="watch"),
            ]
            group.create_task(self._guarded(self._member.run), name="member")
            self._watch.enter("running")
            await self._stopping.wait()
            await self._drain()
            for each in lasting:
                each.cancel()

    def _topics_of(self, task: TaskId) -> list[str]:
        return [inlet.topic for inlet in self._stages[task.stage].inlets]

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Whatever ends a part of the worker ends the worker, in good order."""
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - it is raised again when the others have come to their end
            self._fail(_first(error))

    def _fail(self, error: BaseException) -> None:
        if self._fatal is None:
            self._fatal = error
        self._stopping.set()

    def _finished(self) -> None:
        """A task has come to its end; when all have that are here, others take care of theirs, and of ours if asked.

        What is taken over after its end has nothing to do, so the last of the group sees all of them ended.
        """
        hosted = self._hosted.values()
        if self._stopping.is_set() or not all(each.finished for each in hosted):
            return
        came = {each.came for each in hosted}
        self._ended = "ended" if "new" in came else "grown" if "grown" in came else "complete"
        self._stopping.set()

    async def _drain(self) -> None:
        """Close every task, then leave the group; what is not done at three quarters of the deadline is cut off.

        Until then heartbeats go on, or the tasks would be given away and their last commits refused.
        """
        self._watch.enter("draining")
        self._late = not await self._close(list(self._hosted), self._settings.drain * 0.75)
        try:
            async with asyncio.timeout(self._settings.drain * 0.25):
                await self._member.leave(for_good=self._ended is not None)
        except (TimeoutError, BrokerError):
            return

    # what the group says

    def assigned(self, tasks: Iterable[TaskId]) -> None:
        """Host tasks; their take-over begins when they are first run."""
        names = []
        if self._stopping.is_set():
            return
        for task in tasks:
            kept = self._kept_of(task)
            spread = (task.number % 8) / 8
            hosted = Hosted(task, self._stages[task.stage], self._shared, kept, spread)
            self._hosted[task] = hosted
            self._runs[task] = self._group.create_task(self._host(hosted), name=f"task-{hosted.name}")
            names.append(hosted.name)
        self._tell("assigned", names)

    async def revoked(self, tasks: Collection[TaskId]) -> None:
        """Commit and give up tasks, in the time there is."""
        await self._close(tasks, self._settings.group.rebalance_timeout / 2000)
        self._tell("revoked", [f"{task.stage}/{task.number}" for task in tasks])

    def lost(self, tasks: Collection[TaskId]) -> None:
        """Tasks are somebody else's already: drop them as they are."""
        for task in tasks:
            self._drop(task)
        self._tell("lost", [f"{task.stage}/{task.number}" for task in tasks])

    async def _host(self, hosted: Hosted) -> None:
        try:
            await hosted.run()
        except Lost as lost:
            self._observer.happened(Failure("fenced", f"task {hosted.name}: {lost}"))
            if self._hosted.get(hosted.task) is hosted:
                self._note_fencing(hosted, lost)
                self._drop(hosted.task)
                self._member.fenced(hosted.task)
                self._tell("lost", [hosted.name])
        except Exception as error:  # noqa: BLE001 - it is raised again when the others have come to their end
            self._fail(error)

    def _note_fencing(self, hosted: Hosted, lost: Lost) -> None:
        """A task may be fenced now and then; again and again, although the group says it is ours, is a duel."""
        now = asyncio.get_running_loop().time()
        recent = [at for at in self._fencings.get(hosted.task, ()) if now - at < DUEL_SECONDS]
        self._fencings[hosted.task] = [*recent, now]
        if len(recent) + 1 >= DUEL:
            self._fail(
                ConfigError(
                    f"task {hosted.name} was fenced {DUEL} times within {DUEL_SECONDS:g} s, although group "
                    f"{self._settings.group.group!r} gives it to this worker ({lost}): another process writes under "
                    "its transactional id, perhaps one with the same app name in another group; or commits take "
                    "longer than transaction.timeout"
                )
            )

    def _drop(self, task: TaskId) -> None:
        self._hosted.pop(task, None)
        run = self._runs.pop(task, None)
        if run is not None and run is not asyncio.current_task():
            run.cancel()

    async def _close(self, tasks: Collection[TaskId], seconds: float) -> bool:
        """Let tasks commit and end; whether all did in time."""
        runs = []
        for task in tasks:
            hosted = self._hosted.pop(task, None)
            if hosted is None:
                continue
            run = self._runs.pop(task)
            runs.append((task, hosted, run))
            if hosted.state in {"running", "closing"}:
                hosted.close()
            else:
                run.cancel()
        if not runs:
            return True
        late = {run for _, _, run in runs}
        try:
            _, late = await asyncio.wait(late, timeout=seconds)
        finally:  # given up in the middle, too
            for run in late:
                run.cancel()
        for task, hosted, run in runs:
            if run not in late and hosted.kept is not None:
                self._keep(task, hosted.kept)
        return not late

    def _keep(self, task: TaskId, kept: Kept) -> None:
        """Keep the state of a task that may come back; not for long, since what was deleted meanwhile could return."""
        now = asyncio.get_running_loop().time()
        self._kept[task] = (kept, now)
        for old in [each for each, (_, since) in self._kept.items() if now - since > KEPT_SECONDS]:
            del self._kept[old]
        while len(self._kept) > KEPT_TASKS:
            del self._kept[next(iter(self._kept))]

    def _kept_of(self, task: TaskId) -> Kept | None:
        kept, since = self._kept.pop(task, (None, 0.0))
        return kept if asyncio.get_running_loop().time() - since <= KEPT_SECONDS else None

    def _tell(self, how: Literal["assigned", "revoked", "lost"], tasks: Collection[str]) -> None:
        owned: dict[str, list[int]] = {}
        for task in sorted(self._hosted):
            for topic in self._topics_of(task):
                owned.setdefault(topic, []).append(task.number)
        self._observer.happened(Ownership(how, tasks, owned))


def _first(error: BaseException) -> BaseException:
    """The first of several that ended a group of loops, or what there is."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
