"""Being a member of the group: joining, heartbeats, and tasks that come and go.

    join ──> sync ──> new tasks: assigned                        ┌── the group rebalances
     ^                tasks not ours any more: revoked ──> closed├── something was given up, or fenced
     │                heartbeats all the while                   │
     └───────────────────────────────────────────────────────────┘

What is kept is worked on all the while, joining included.  Nothing here waits for a task without heartbeats going on.
Who has not been heard by the group for the session timeout has lost everything: others may have it already.  Safety
does not rest on any of this, but on fencing; what is kept here is good order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Literal, Protocol, TypeAlias

from streamproc.core.errors import ConfigError
from streamproc.ports.broker import Broker, BrokerError, Code, Joined, Membership, Refused, Unanswered, Unsent
from streamproc.runners.worker.assigning import (
    Claim,
    Malformed,
    Share,
    TaskId,
    assign,
    decode_claim,
    decode_share,
    encode_claim,
    encode_share,
    listed,
    why,
)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds before joining again after it did not succeed; they double."""

SHORTEST = 0.1
"""Seconds that a generation is let last: whoever has not heard of its share before the next would need one more."""

NOT_READY = frozenset(
    {Code.COORDINATOR_LOADING, Code.COORDINATOR_NOT_AVAILABLE, Code.NOT_COORDINATOR, Code.REQUEST_TIMED_OUT}
)
"""Refusals that pass by themselves."""

State: TypeAlias = Literal["joining", "stable", "revoking", "left"]


class NotAdmitted(ConfigError):
    """The group does not take this member, and will not until somebody changes something; `code` is the broker's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Listener(Protocol):
    """Who works on the tasks."""

    def assigned(self, tasks: tuple[TaskId, ...], /) -> None:
        """Tasks came.  Must not wait: whatever has to be done is begun, and done elsewhere."""
        ...

    async def revoked(self, tasks: tuple[TaskId, ...], /) -> None:
        """Tasks are to go: commit and close them.

        What is not done in half the rebalance timeout is cancelled, and `lost` follows; so it is if they are lost
        meanwhile.
        """
        ...

    def lost(self, tasks: tuple[TaskId, ...], /) -> None:
        """Tasks may be another's already: stop them, and commit nothing more.  Must not wait."""
        ...


class GroupMember:
    """One member of a group, from `run` to `leave`.

    `tasks` are all tasks of the plan, `topics_of` tells what one of them reads.  `tell` gets lines for the log.

    To be read at any time: `id`, `generation` (-1 while in none), `state`, `owned`, `heard_at` and `rebalancing_since`
    (seconds of the loop's clock, None for never and for not at all), and `group_plan`, the plan of the group's leader.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - one parameter for each thing it joins
        self,
        broker: Broker,
        membership: Membership,
        tasks: Iterable[TaskId],
        plan: str,
        topics_of: Callable[[TaskId], Collection[str]],
        listener: Listener,
        *,
        heartbeat: float = 0.5,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.id = ""
        self.generation = -1
        self.state: State = "joining"
        self.heard_at: float | None = None
        self.rebalancing_since: float | None = None
        self.group_plan = ""
        self._broker = broker
        self._tasks = frozenset(tasks)
        topics = {topic for task in self._tasks for topic in topics_of(task)}
        self._membership = replace(membership, topics=tuple(sorted(topics)))
        self._plan = plan
        self._topics_of = topics_of
        self._listener = listener
        self._heartbeat = heartbeat
        self._tell = tell
        self._session = membership.session_timeout / 1000
        self._owned: set[TaskId] = set()
        self._again = False
        self._woken = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._life: asyncio.Task[None] | None = None
        self._leaving = False
        self._pause = FIRST_PAUSE

    @property
    def owned(self) -> tuple[TaskId, ...]:
        """The tasks that this member has, those that it is just closing included."""
        return tuple(sorted(self._owned))

    def rejoin(self) -> None:
        """Ask for another assignment."""
        self._again = True
        self._woken.set()

    def fenced(self, task: TaskId) -> None:
        """Another writes as this task, and it was dropped: ask whose it is.

        It is assigned again only by an assignment that was made in the knowledge of this.
        """
        self._owned.discard(task)
        self.rejoin()

    async def run(self) -> None:
        """Be a member until `leave` is called.

        Raises NotAdmitted, Malformed, what the listener raises, and refusals of the broker that nobody has foreseen.
        """
        left_before = self._leaving
        if left_before:
            return
        self._life = asyncio.get_running_loop().create_task(self._live(), name="membership")
        try:
            await self._life
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if not self._leaving or (own is not None and own.cancelling()):
                raise

    async def leave(self, *, for_good: bool = False) -> None:
        """End `run` and leave the group; with an instance id only `for_good`, else it may come back unnoticed.

        Tasks are to be closed before; while they are, `run` had better go on, or the group takes them for lost.
        """
        self._leaving = True
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait({self._life})
        member, self.id = self.id, ""
        if member and (for_good or self._membership.instance is None):
            try:
                await self._broker.leave(self._membership, member)
            except BrokerError as error:  # then the session timeout does it
                self._tell(f"left the group without its knowledge: {error}")

    # generations

    async def _live(self) -> None:
        try:
            while True:
                trouble = await self._generation()
                if trouble is None:
                    continue
                self._tell(f"joining again: {trouble}")
                if self._unheard():
                    self._lose(f"not heard by the group for {self._session:g} s")
                await asyncio.sleep(self._pause)
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
        finally:
            self._stop_closing()
            self.state = "left"

    async def _generation(self) -> BrokerError | None:
        """One generation, from joining to the reason to join another; or what was in the way."""
        try:
            await self._join()
            self._pause = FIRST_PAUSE
            await self._stay()
        except (Unsent, Unanswered) as error:
            return error
        except Refused as refused:
            self._take(refused)
            return None if refused.code == Code.REBALANCE_IN_PROGRESS else refused
        return None

    async def _join(self) -> None:
        """Join a generation, give or get its assignment, and begin what follows from it."""
        self.state = "joining"
        if self.rebalancing_since is None:
            self.rebalancing_since = self._now()
        self._again = False
        claim = Claim(self._plan, self.generation, self.owned)
        joined = await self._broker.join(self._membership, self.id, encode_claim(claim, self._membership.topics))
        self.id = joined.member
        self.heard_at = self._now()
        shares = self._shares(joined) if joined.leader == joined.member else {}
        share = await self._broker.sync(self._membership, joined.generation, joined.member, shares)
        if self._unheard():  # this process stood still, or the answer was long on its way: it may be worth nothing now
            raise Unanswered("the assignment came too late")
        self.heard_at = self._now()
        self.generation = joined.generation
        self._settle(claim, decode_share(share))

    def _shares(self, joined: Joined) -> dict[str, bytes]:
        """What each member gets; this one leads."""
        claims = {}
        for member in joined.members:
            try:
                claims[member.id] = decode_claim(member.metadata)
            except Malformed as malformed:  # it gets nothing, which is no reason for the others to get nothing
                self._tell(f"{member.id}: {malformed}")
                claims[member.id] = Claim("")
        shares = assign(self._tasks, claims, self._plan)
        for line in why(self._tasks, claims, self._plan, shares):
            self._tell(line)
        return {
            member: encode_share(Share(self._plan, tasks), self._topics_of) for member, tasks in sorted(shares.items())
        }

    def _settle(self, claim: Claim, share: Share) -> None:
        """Begin what is new, and give up what is gone.

        What was claimed and is not owned any more was fenced meanwhile: the leader did not know, so it is not ours yet.
        """
        self.group_plan = share.plan
        mine = self._tasks.intersection(share.tasks)
        if share.plan not in {self._plan, ""}:
            self._tell(f"idle: the group runs plan {share.plan} and this member has {self._plan}")
            mine = frozenset()
        if self._membership.instance is not None and claim.generation < 0 and not mine:
            self.rejoin()  # the group may not have noticed that this is another than was here before, with another plan
        came = tuple(sorted(mine.difference(claim.tasks)))
        gone = tuple(sorted(self._owned - mine))
        self._owned.update(came)
        self._tell(
            f"generation {self.generation}: {len(self._owned)} tasks, gets {listed(came)}, gives up {listed(gone)}"
        )
        self.state = "stable"
        if gone:
            self.state = "revoking"
            self._closing = asyncio.get_running_loop().create_task(self._close(gone), name="revoking")
            self._closing.add_done_callback(lambda _: self._woken.set())
        else:
            self.rebalancing_since = None
        if came:
            self._listener.assigned(came)

    async def _close(self, tasks: tuple[TaskId, ...]) -> None:
        """Have tasks closed in the time there is."""
        seconds = self._membership.rebalance_timeout / 2000
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await self._listener.revoked(tasks)
        except TimeoutError:
            if not limit.expired():
                raise
            late = tuple(task for task in tasks if task in self._owned)
            self._tell(f"not closed within {seconds:g} s: {listed(late)}")
            self._listener.lost(late)
        self._owned.difference_update(tasks)
        self.rejoin()

    def _stop_closing(self) -> None:
        closing, self._closing = self._closing, None
        if closing is not None:
            closing.cancel()
            closing.add_done_callback(self._stopped)

    def _stopped(self, closing: asyncio.Task[None]) -> None:
        if not closing.cancelled() and (error := closing.exception()) is not None:
            self._tell(f"closing tasks that were lost: {error!r}")

    # within a generation

    async def _stay(self) -> None:
        """Heartbeats, until there is a reason to join again and nothing is being closed any more."""
        begun = self._now()
        due = begun + self._heartbeat
        while True:
            self._woken.clear()
            if self._closing is not None and self._closing.done():
                closing, self._closing = self._closing, None
                closing.result()
            if self._again and self._closing is None:
                await asyncio.sleep(begun + SHORTEST - self._now())
                return
            if self._now() < due:
                await self._nap(due)
            else:
                due = self._now() + self._heartbeat
                await self._beat()

    async def _nap(self, until: float) -> None:
        """Wait until then, or until something happens."""
        try:
            async with asyncio.timeout_at(until):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _beat(self) -> None:
        """One heartbeat.  It has a third of the session's time, so that another can still be in time."""
        sent = self._now()
        if self._unheard():
            raise Unanswered("heartbeats")
        try:
            async with asyncio.timeout(self._session / 3):
                await self._broker.heartbeat(self._membership, self.generation, self.id)
        except (Unsent, Unanswered, TimeoutError):
            return
        except Refused as refused:
            if refused.code in NOT_READY:
                return
            if refused.code != Code.REBALANCE_IN_PROGRESS:
                raise
            self._again = True
            if self.rebalancing_since is None:
                self.rebalancing_since = self._now()
        self.heard_at = sent

    def _take(self, refused: Refused) -> None:
        """Do what a refusal is about, and raise it if there is nothing to be done."""
        code = refused.code
        if code in NOT_READY or code == Code.REBALANCE_IN_PROGRESS:
            return
        if code == Code.UNKNOWN_MEMBER_ID:
            self.id = ""
            self._lose("the group does not know this member any more")
        elif code == Code.ILLEGAL_GENERATION:  # under another id, the old one would stay in the group as a ghost
            self._lose("the group has gone on without this member")
        elif code == Code.FENCED_INSTANCE_ID:
            self._lose("another process has the same instance id")
            raise NotAdmitted(code, self._mending(code)) from refused
        elif text := self._mending(code):
            raise NotAdmitted(code, text) from refused
        else:
            raise refused

    def _mending(self, code: int) -> str:
        """What somebody has to do about a refusal; nothing if that is not known."""
        group, membership = self._membership.group, self._membership
        texts: dict[int, str] = {
            Code.FENCED_INSTANCE_ID: f"another process is in group {group!r} with the instance id "
            f"{membership.instance!r}: give each process an instance id of its own",
            Code.INCONSISTENT_GROUP_PROTOCOL: f"group {group!r} is in use by another kind of consumer: stop it, or run "
            "this application under another name",
            Code.GROUP_AUTHORIZATION_FAILED: f"not allowed to join group {group!r}: give this principal READ on it",
            Code.INVALID_SESSION_TIMEOUT: "the broker does not accept a session timeout of "
            f"{membership.session_timeout} ms: keep within its group.min.session.timeout.ms and "
            "group.max.session.timeout.ms",
            Code.GROUP_MAX_SIZE_REACHED: f"group {group!r} has as many members as the broker's group.max.size allows",
        }
        return texts.get(code, "")

    def _lose(self, reason: str) -> None:
        """Everything may be another's already."""
        tasks = self.owned
        self._owned.clear()
        self.generation = -1
        self._stop_closing()
        if tasks:
            self._tell(f"lost {listed(tasks)}: {reason}")
            self._listener.lost(tasks)

    def _unheard(self) -> bool:
        """Whether the group has not heard this member for so long that it counts as gone."""
        return self.heard_at is not None and self._now() >= self.heard_at + self._session

    def _now(self) -> float:
        return asyncio.get_running_loop().time()
