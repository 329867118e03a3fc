"""How a worker is known to live: a pulse, where its partitions stand, and what does not move although it could.

    every 0.1 s   a tick of the event loop, and the pulse of that moment
    every 1 s     where partitions stand; one that has records and does not move is read anew, then given up
    every 5 s     what tasks hold
    every 15 s    how far logs reach, asked apart from reading them: a reader that is stuck would hide its own lag

Each has a loop of its own, so that brokers that do not answer hold up nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from streamproc.core.batch import END
from streamproc.core.errors import StreamprocError
from streamproc.ports import Observer
from streamproc.ports.broker import Broker, BrokerError, TopicPartition
from streamproc.ports.worker import Pulse, Reachability, Rebalanced, Standing
from streamproc.runners.worker.assigning import TaskId
from streamproc.runners.worker.hosting import Hosted
from streamproc.runners.worker.house import Compute

TICK, STAND, COUNT, ASK = 0.1, 1.0, 5.0, 15.0
"""Seconds between two ticks, reports of where partitions stand, counts of what is held, and questions for ends."""


class Stalled(StreamprocError):
    """A partition has records and does not move, although reading it was begun anew."""


class Watch:
    """Watches the tasks that are `hosted`, and tells an observer.

    `refresh` begins anew to read a partition, `settled` says since when the group has been rebalancing (None for not),
    and a partition stalls after `stall_after` seconds.
    """

    def __init__(  # noqa: PLR0913 - one parameter for each thing it looks at
        self,
        hosted: Mapping[TaskId, Hosted],
        *,
        broker: Broker,
        observer: Observer,
        compute: Compute,
        clock: Callable[[], float],
        refresh: Callable[[TopicPartition], None],
        unsettled_since: Callable[[], float | None],
        stall_after: float,
    ) -> None:
        self._hosted = hosted
        self._broker = broker
        self._observer = observer
        self._compute = compute
        self._clock = clock
        self._refresh = refresh
        self._unsettled_since = unsettled_since
        self._stall_after = stall_after
        self._was_unsettled: float | None = None
        self._ends: Mapping[TopicPartition, int] = {}
        self._stuck: dict[TopicPartition, tuple[int, float]] = {}
        self._healed: set[TopicPartition] = set()
        now = clock()
        self.pulse = Pulse("starting", now, now, ticked_at=now, polled_at=now, reachable=True, reachable_since=now)

    def enter(self, state: str) -> None:
        """The worker is in another state."""
        self.pulse = replace(self.pulse, state=state, state_since=self._clock())
        self._observer.state(state)

    def polled(self) -> None:
        """A read was answered, or there was nothing to be read."""
        self.pulse = replace(self.pulse, polled_at=self._clock())
        self._observer.polled({})

    async def run(self) -> None:
        """Watch until cancelled.  Raises Stalled."""
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._tick(), name="tick")
            loops.create_task(_each(STAND, self._stand), name="stand")
            loops.create_task(_each(COUNT, self._count), name="count")
            loops.create_task(_each(ASK, self._ask, at_once=True), name="ask")

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + TICK
            await asyncio.sleep(TICK)
            now = loop.time()
            self._observer.ticked(max(0.0, now - due))
            self._beat(now)

    def _beat(self, at: float) -> None:
        """The pulse of this moment; `at` is that of the event loop's clock."""
        hosted = self._hosted.values()
        stepping = [(each.stepping_since, each.name) for each in hosted if each.stepping_since is not None]
        stepping_since, name = min(stepping, default=(None, None))
        stepped = [each.last_step_at for each in hosted if each.last_step_at is not None]
        restoring = sum(each.state in {"pending", "fencing", "restoring"} for each in hosted)
        wanted = "restoring" if restoring else "running"
        if self.pulse.state in {"running", "restoring"} and self.pulse.state != wanted:
            self.enter(wanted)
        now, since = self._clock(), self._unsettled_since()
        if self._was_unsettled is not None and since is None:
            self._observer.happened(Rebalanced(at - self._was_unsettled))
        self._was_unsettled = since
        self.pulse = replace(
            self.pulse,
            ticked_at=now,
            rebalancing_since=None if since is None else now - (at - since),
            stepping_since=stepping_since,
            stepping=name,
            last_step_at=max(stepped, default=self.pulse.last_step_at),
            restoring=restoring,
        )

    async def _ask(self) -> None:
        """Ask how far the logs reach; an answer shows that brokers can be reached."""
        wanted = [one for hosted in self._hosted.values() for one in hosted.inputs]
        try:
            async with asyncio.timeout(ASK):
                self._ends = await self._broker.list_offsets(wanted, "end", "read_uncommitted")
        except (BrokerError, TimeoutError):
            self._reach(reachable=False)
        else:
            self._reach(reachable=True)

    def _reach(self, *, reachable: bool) -> None:
        if reachable != self.pulse.reachable:
            self._observer.happened(Reachability(reachable))
            self.pulse = replace(self.pulse, reachable=reachable, reachable_since=self._clock())

    async def _count(self) -> None:
        """Tell what tasks hold; counted where nothing changes it meanwhile."""
        for hosted in list(self._hosted.values()):
            windows, entries = await self._compute(hosted.held)
            self._observer.counted(hosted.name, windows, entries)

    async def _stand(self) -> None:
        """Tell where every partition stands, and find those that do not move."""
        now = asyncio.get_running_loop().time()
        standings: dict[tuple[str, int], Standing] = {}
        stuck: dict[TopicPartition, tuple[int, float]] = {}
        for hosted in self._hosted.values():
            for partition, standing in hosted.standings(self._ends, self._clock()).items():
                standings[partition] = standing
                if not standing.lag_records or hosted.state != "running" or not self.pulse.reachable:
                    continue
                position, since = self._stuck.get(partition, (standing.position, now))
                stuck[partition] = (position, since) if position == standing.position else (standing.position, now)
                if now - stuck[partition][1] >= self._stall_after:
                    standings[partition] = standing._replace(stalled=True)
        self._healed &= stuck.keys() & self._stuck.keys()
        self._stuck = stuck
        self._observer.lagged(standings)
        self._tell_progress(standings)
        self._heal(now)

    def _tell_progress(self, standings: Mapping[tuple[str, int], Standing]) -> None:
        """Tell the watermark of each partition, and who holds the others back."""
        watermarks: dict[tuple[str, int], int] = {
            place: at for hosted in self._hosted.values() for place, at in hosted.watermarks().items()
        }
        active = [(at, place) for place, at in watermarks.items() if at != END and not standings[place].idle]
        self._observer.progressed(watermarks, min(active)[1] if active else None)

    def _heal(self, now: float) -> None:
        """Begin anew to read what has stalled, once; what does not move then either ends the worker."""
        longest = None
        for partition, (position, since) in self._stuck.items():
            waited = now - since
            if waited < self._stall_after:
                continue
            if partition not in self._healed:
                self._healed.add(partition)
                self._refresh(partition)
                continue
            longest = max(longest or 0.0, waited)
            if waited >= 3 * self._stall_after:
                raise Stalled(
                    f"topic {partition.topic!r} partition {partition.partition} has not moved from offset {position} "
                    f"for {waited:.0f} s, and its log ends at {self._ends[partition]}: a transaction of another writer "
                    "is open, a step does not end, or this worker has a fault. It stops, so that another may try"
                )
        self.pulse = replace(self.pulse, stalled_since=None if longest is None else self._clock() - longest)


async def _each(seconds: float, work: Callable[[], Awaitable[None]], *, at_once: bool = False) -> None:
    """Do something each so many seconds."""
    if at_once:
        await work()
    while True:
        await asyncio.sleep(seconds)
        await work()
