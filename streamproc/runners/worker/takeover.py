"""Taking over a task: what has to be known, and in which order it is found out, before the first record.

    (the last owner is fenced)  offsets of the group --> end of the changelog --> state up to there --> where to read

Asked before the fencing, all of it could still change.  The end is that of the log, not the last stable offset: what
stood in an open transaction would be missed.  A restore is done when that offset is reached, whatever the log holds in
front of it: markers and compaction leave offsets without records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from streamproc.core.plan import Stage, shown
from streamproc.core.state import MemoryStore
from streamproc.ports.broker import BrokerError, Code, Fetched, Read, TopicPartition
from streamproc.ports.worker import Restoring
from streamproc.runners.worker.changelog import Changelog, Restore
from streamproc.runners.worker.house import House, Incompatible, Kept
from streamproc.runners.worker.producing import patient

BYTES = 8_388_608
"""Bytes of a changelog that are asked for at once."""
WAIT = 50
"""Milliseconds that a broker holds a read of a changelog for which it has nothing yet."""
PAUSE = 0.1
"""Seconds before a node that cannot be reached is asked again."""
HANGING = 30.0
"""Seconds that a restore waits for a transaction of somebody else to end, beyond what ours may last."""


class TakeOver:
    """One taking-over of a task: `ask`, `restore` and `starts`, in this order, once its last owner is fenced.

    `committed` has the group's offsets by topic, `records` counts those of the changelog that were read.
    """

    def __init__(
        self, name: str, stage: Stage, changelog: TopicPartition, inputs: Mapping[str, TopicPartition], house: House
    ) -> None:
        self.committed: dict[str, int] = {}
        self.records = 0
        self._name = name
        self._stage = stage
        self._changelog = changelog
        self._inputs = inputs
        self._house = house
        self._end = 0
        self._node = -1
        self._waiting_since: float | None = None

    async def ask(self) -> None:
        """Ask what is committed, and where the changelog ends."""
        house = self._house
        offsets = await patient(lambda: house.broker.offset_fetch(house.group, list(self._inputs.values())))
        self.committed = {partition.topic: offset for partition, offset in offsets.items()}
        self._end = await self._offset_of_changelog("end")

    async def _offset_of_changelog(self, which: Any) -> int:
        changelog = self._changelog
        found = await patient(lambda: self._house.broker.list_offsets([changelog], which, "read_uncommitted"))
        return found[changelog]

    # state

    async def restore(self, kept: Kept | None) -> Kept:
        """State as the changelog has it, on top of what was kept; what is given is used up.

        Raises Incompatible where records are gone that are needed, or do not come.
        """
        house = self._house
        if kept is None:
            kept = Kept(MemoryStore(), Changelog(house.packing), None, 0)
        nodes = [place.name for place in self._stage.places if place.stateful]
        restore = Restore(kept.changelog, kept.store, nodes, house.packing, position=kept.position)
        at = kept.restored_to
        self._tell(0, at)
        while at < self._end:
            fetched = await self._read(at)
            if fetched.code == Code.OFFSET_OUT_OF_RANGE:
                at = await self._behind_what_was_deleted(at)
            elif fetched.next_offset <= at:
                self._wait_for_others(at)
            else:
                self._waiting_since = None
                at = fetched.next_offset
                await house.compute(partial(restore.feed, fetched.keys, fetched.values))
                self._tell(len(fetched.offsets), at)
                house.crash("mid_restore")
        await house.compute(restore.finish)
        return Kept(kept.store, kept.changelog, restore.position, at)

    def _tell(self, records: int, at: int) -> None:
        self.records += records
        self._house.observer.happened(Restoring(self._name, records, max(0, self._end - at)))

    async def _read(self, at: int) -> Fetched:
        """What stands in the changelog from an offset on, from whoever leads it by now."""
        read = Read(*self._changelog, at, BYTES)
        while True:
            node = await self._leader()
            try:
                (fetched,) = await self._house.broker.fetch(node, [read], WAIT, "read_committed")
            except BrokerError:
                self._node = -1
                await asyncio.sleep(PAUSE)
                continue
            if fetched.code in {Code.NONE, Code.OFFSET_OUT_OF_RANGE}:
                return fetched
            if fetched.code in {Code.CORRUPT_MESSAGE, Code.TOPIC_AUTHORIZATION_FAILED}:
                why = fetched.why or Code(fetched.code).name
                raise Incompatible(f"{self._place}, offset {at}: state cannot be read: {why}")
            self._node = -1
            await asyncio.sleep(PAUSE)

    async def _leader(self) -> int:
        """Who leads the changelog; asked anew where the last one did not answer as a leader."""
        topic = self._changelog.topic
        while self._node == -1:
            found = (await patient(lambda: self._house.broker.metadata([topic])))[topic]
            if found.code == Code.UNKNOWN_TOPIC_OR_PARTITION:
                raise Incompatible(
                    f"topic {topic!r} does not exist (any more), and with it state is gone: "
                    "`streamproc topics plan` tells what is expected"
                )
            self._node = found.leaders.get(self._changelog.partition, -1)
            if self._node == -1:
                await asyncio.sleep(PAUSE)
        return self._node

    async def _behind_what_was_deleted(self, at: int) -> int:
        """Where a changelog begins whose head is gone; compaction leaves it, so somebody has deleted records."""
        first = await self._offset_of_changelog("start")
        if any(place.stateful for place in self._stage.places):
            raise Incompatible(
                f"{self._place}: records {at} to {first} were deleted, and state with them. A changelog is compacted "
                "(cleanup.policy=compact) and never deleted by time or size. Restore the topic, or begin anew with "
                "`streamproc offsets reset`"
            )
        return first

    def _wait_for_others(self, at: int) -> None:
        """Nothing comes although the end is not reached, as a transaction of somebody else is open; not for ever."""
        now = asyncio.get_running_loop().time()
        if self._waiting_since is None:
            self._waiting_since = now
        waited = now - self._waiting_since
        if waited > self._house.pace().lasting + HANGING:
            raise Incompatible(
                f"{self._place}: a transaction has been open from offset {at} to {self._end} for {waited:.0f} s, and "
                "this task's own has ended. There is another writer, or it hangs: see kafka-transactions.sh"
            )

    # where to read

    async def starts(self, position: Mapping[str, Any] | None) -> dict[str, int]:
        """Where each input is read from, by topic: the position record decides, if the group is not ahead of it.

        The group may be behind it: offsets expire, and a broker may forget the last of them.
        """
        if position is None and self.committed:
            topic, offset = min(self.committed.items())
            raise Incompatible(
                f"task {self._name}: the group {self._house.group!r} has offset {offset} of {topic!r}, and "
                f"{self._place} holds no position: it was deleted or truncated. To begin anew: "
                "`streamproc offsets reset`"
            )
        known: Mapping[str, int] = {}
        if position is not None:
            self._check(position["layout"])
            known = position["offsets"]
        starts: dict[str, int] = {}
        for topic in self._inputs:
            starts[topic] = known[topic] if topic in known else await self._first(topic)
            if (offset := self.committed.get(topic, 0)) > starts[topic]:
                raise Incompatible(
                    f"task {self._name}: the group {self._house.group!r} has offset {offset} of {topic!r}, and "
                    f"{self._place} says {starts[topic]}: somebody has moved the offsets, or the changelog was "
                    "truncated. To go to another offset together with its state: `streamproc offsets reset`"
                )
        return starts

    def _check(self, written: Mapping[str, str]) -> None:
        """State can only be read by the operators that wrote it."""
        now = layout(self._stage)
        for node, was in written.items():
            if now.get(node, was) != was:
                raise Incompatible(
                    f"task {self._name}: the state of node {node!r} was written by {was}, and it is {now[node]} now: "
                    "give it a new name, or begin anew with `streamproc offsets reset`"
                )

    async def _first(self, topic: str) -> int:
        """Where an input begins of which nothing is committed yet."""
        source = next(inlet.source for inlet in self._stage.inlets if inlet.topic == topic)
        start = "earliest" if source is None else source.start
        at: Any = {"earliest": "start", "latest": "end"}.get(start, start)
        if not isinstance(at, str):
            at = int(at.timestamp() * 1000)
        mine = self._inputs[topic]
        found = await patient(lambda: self._house.broker.list_offsets([mine], at, "read_committed"))
        return found[mine]

    @property
    def _place(self) -> str:
        return f"topic {self._changelog.topic!r} partition {self._changelog.partition}"


def layout(stage: Stage) -> dict[str, str]:
    """What the state of each node of a stage depends on."""
    return {place.name: shown(place.operator) for place in stage.places if place.stateful}
