"""The group coordinator: who is a member, what each was assigned, and how far the group has read.

    EMPTY --> JOINING --> SYNCING --> STABLE        each change of members goes back to JOINING
                 until all known have joined again, or the longest rebalance timeout is over

A member that does not show itself for its session timeout is put out.  One with an instance id (static) that comes
back within it takes its old place, and no rebalance happens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from streamproc.ports.broker import Code, Joined, Member, Membership, Refused, TopicPartition, Writer
from streamproc.testing.simulation.habits import Habits
from streamproc.testing.simulation.loop import Loop
from streamproc.testing.simulation.network import Parked

SHORTEST_SESSION, LONGEST_SESSION = 6_000, 1_800_000


class State(Enum):
    """Where a group is between two generations."""

    EMPTY = auto()
    JOINING = auto()
    SYNCING = auto()
    STABLE = auto()


@dataclass(slots=True)
class Seat:
    """A member, as the coordinator knows it."""

    id: str
    membership: Membership
    metadata: bytes
    seen: float
    assignment: bytes = b""
    joining: Parked | None = None
    syncing: Parked | None = None


@dataclass(slots=True)
class Group:
    """One group; `given` are ids that were handed out and not used yet."""

    name: str
    state: State = State.EMPTY
    generation: int = 0
    leader: str = ""
    protocol: str = ""
    seats: dict[str, Seat] = field(default_factory=dict)
    given: dict[str, float] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    round: int = 0
    """Counts the phases, so that a timer of one that is over does nothing."""


@dataclass(slots=True)
class Offsets:
    """Those of one group: committed ones, and per producer those that wait for its transaction."""

    committed: dict[TopicPartition, int] = field(default_factory=dict)
    pending: dict[int, dict[TopicPartition, int]] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)


class Groups:
    """All groups of a cluster, and their offsets."""

    def __init__(
        self,
        loop: Loop,
        habits: Habits,
        verify: Callable[[Writer, str], None],
        exists: Callable[[TopicPartition], bool],
    ) -> None:
        self._loop = loop
        self._habits = habits
        self._verify = verify
        self._exists = exists
        self._groups: dict[str, Group] = {}
        self._offsets: dict[str, Offsets] = {}
        self._names = 0

    def of(self, name: str) -> Group | None:
        """A group, if it was ever joined."""
        return self._groups.get(name)

    # membership

    def join(self, membership: Membership, member: str, metadata: bytes) -> Joined | Parked:
        """JoinGroup."""
        what = f"group {membership.group}"
        if not SHORTEST_SESSION <= membership.session_timeout <= LONGEST_SESSION:
            raise Refused(Code.INVALID_SESSION_TIMEOUT, what)
        group = self._groups.get(membership.group)
        if group is None:
            if member:
                raise Refused(Code.UNKNOWN_MEMBER_ID, what)
            group = self._groups[membership.group] = Group(membership.group)
        if group.seats and membership.protocol != group.protocol:
            raise Refused(Code.INCONSISTENT_GROUP_PROTOCOL, what)
        group.protocol = membership.protocol
        if membership.instance is not None:
            return self._join_static(group, membership, member, metadata)
        if not member:
            member = self._new_id(membership.group)
            group.given[member] = self._loop.time()
            self._loop.later(membership.session_timeout / 1000, self._forget, group, member)
            raise Given(member, what)
        if group.given.pop(member, None) is not None:
            return self._admit(group, membership, member, metadata)
        if member not in group.seats:
            raise Refused(Code.UNKNOWN_MEMBER_ID, what)
        return self._rejoin(group, group.seats[member], membership, metadata)

    def _join_static(self, group: Group, membership: Membership, member: str, metadata: bytes) -> Joined | Parked:
        instance = membership.instance or ""
        known = group.instances.get(instance)
        if member:
            if known is None:
                raise Refused(Code.UNKNOWN_MEMBER_ID, f"group {group.name}")
            if known != member:
                raise Refused(Code.FENCED_INSTANCE_ID, f"group {group.name}")
            return self._rejoin(group, group.seats[member], membership, metadata)
        member = self._new_id(instance)
        group.instances[instance] = member
        if known is None:
            return self._admit(group, membership, member, metadata)
        old = group.seats.pop(known)
        for parked in (old.joining, old.syncing):
            if parked is not None:
                parked.resolve(Refused(Code.FENCED_INSTANCE_ID, f"group {group.name}"))
        leader = group.leader
        if leader == known:
            group.leader = member
        seat = Seat(member, membership, metadata, self._loop.time(), old.assignment)
        group.seats[member] = seat
        self._watch(group, seat)
        if group.state is State.STABLE:
            return Joined(group.generation, member, leader)  # the old leader's id: nobody is to assign anything anew
        return self._rejoin(group, seat, membership, metadata)

    def sync(self, membership: Membership, generation: int, member: str, shares: Mapping[str, bytes]) -> bytes | Parked:
        """SyncGroup."""
        group, seat = self._seat(membership, member)
        if generation != group.generation:
            raise Refused(Code.ILLEGAL_GENERATION, f"group {group.name}")
        seat.seen = self._loop.time()
        if group.state is State.JOINING:
            raise Refused(Code.REBALANCE_IN_PROGRESS, f"group {group.name}")
        if group.state is State.STABLE:
            return seat.assignment
        seat.syncing = parked = Parked()
        if member == group.leader:
            group.state = State.STABLE
            for other in group.seats.values():
                other.assignment = shares.get(other.id, b"")
                if other.syncing is not None:
                    waiting, other.syncing = other.syncing, None
                    other.seen = self._loop.time()
                    waiting.resolve(other.assignment)
        return parked

    def heartbeat(self, membership: Membership, generation: int, member: str) -> None:
        """Heartbeat."""
        group, seat = self._seat(membership, member)
        if generation != group.generation:
            raise Refused(Code.ILLEGAL_GENERATION, f"group {group.name}")
        seat.seen = self._loop.time()
        if group.state is State.JOINING:
            raise Refused(Code.REBALANCE_IN_PROGRESS, f"group {group.name}")

    def leave(self, membership: Membership, member: str) -> None:
        """LeaveGroup."""
        group = self._groups.get(membership.group)
        if group is not None and group.given.pop(member, None) is not None:
            self._joined_all(group)
            return
        group, seat = self._seat(membership, member)
        self._remove(group, seat)

    def _new_id(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}-{self._names}"

    def _seat(self, membership: Membership, member: str) -> tuple[Group, Seat]:
        what = f"group {membership.group}"
        group = self._groups.get(membership.group)
        if group is None:
            raise Refused(Code.UNKNOWN_MEMBER_ID, what)
        if membership.instance is not None:
            known = group.instances.get(membership.instance)
            if known is None:
                raise Refused(Code.UNKNOWN_MEMBER_ID, what)
            if known != member:
                raise Refused(Code.FENCED_INSTANCE_ID, what)
        seat = group.seats.get(member)
        if seat is None:
            raise Refused(Code.UNKNOWN_MEMBER_ID, what)
        return group, seat

    def _admit(self, group: Group, membership: Membership, member: str, metadata: bytes) -> Parked:
        seat = group.seats[member] = Seat(member, membership, metadata, self._loop.time())
        self._watch(group, seat)
        return self._await_others(group, seat)

    def _rejoin(self, group: Group, seat: Seat, membership: Membership, metadata: bytes) -> Joined | Parked:
        changed = seat.metadata != metadata
        seat.membership, seat.metadata, seat.seen = membership, metadata, self._loop.time()
        leads = seat.id == group.leader
        if group.state is State.SYNCING and not changed:
            return Joined(group.generation, seat.id, group.leader, _members(group) if leads else ())
        if group.state is State.STABLE and not changed and not leads:
            return Joined(group.generation, seat.id, group.leader)
        return self._await_others(group, seat)

    def _await_others(self, group: Group, seat: Seat) -> Parked:
        seat.joining = parked = Parked()  # one that waits already is never answered
        if group.state is not State.JOINING:
            self._rebalance(group)
        else:
            self._joined_all(group)
        return parked

    def _rebalance(self, group: Group) -> None:
        for seat in group.seats.values():
            if seat.syncing is not None:
                waiting, seat.syncing = seat.syncing, None
                waiting.resolve(Refused(Code.REBALANCE_IN_PROGRESS, f"group {group.name}"))
        first = group.state is State.EMPTY
        group.state = State.JOINING
        group.round += 1
        delay = self._habits.rebalance_delay
        if first and delay:
            self._loop.later(delay, self._join_over, group, group.round)
        else:
            longest = max((seat.membership.rebalance_timeout for seat in group.seats.values()), default=0)
            self._loop.later(longest / 1000, self._join_over, group, group.round)
            self._joined_all(group)

    def _joined_all(self, group: Group) -> None:
        everybody = not group.given and all(seat.joining is not None for seat in group.seats.values())
        if group.state is State.JOINING and everybody:
            self._next_generation(group)

    def _join_over(self, group: Group, phase: int) -> None:
        if group.state is State.JOINING and group.round == phase:
            for seat in list(group.seats.values()):
                if seat.joining is None and seat.membership.instance is None:
                    del group.seats[seat.id]
            if group.seats and all(seat.joining is None for seat in group.seats.values()):
                self._rebalance(group)  # static members only, and none of them is back: wait on
            else:
                self._next_generation(group)

    def _next_generation(self, group: Group) -> None:
        group.generation += 1
        group.round += 1
        if not group.seats:
            group.state, group.leader = State.EMPTY, ""
            return
        group.state = State.SYNCING
        leader = group.seats.get(group.leader)
        if leader is None or leader.joining is None:
            group.leader = next(seat.id for seat in group.seats.values() if seat.joining is not None)
        members = _members(group)
        for seat in group.seats.values():
            if seat.joining is not None:
                waiting, seat.joining = seat.joining, None
                seat.seen = self._loop.time()
                leads = seat.id == group.leader
                waiting.resolve(Joined(group.generation, seat.id, group.leader, members if leads else ()))
        longest = max(seat.membership.rebalance_timeout for seat in group.seats.values())
        self._loop.later(longest / 1000, self._sync_over, group, group.round)

    def _sync_over(self, group: Group, phase: int) -> None:
        if group.state is State.SYNCING and group.round == phase:
            for seat in [seat for seat in group.seats.values() if seat.syncing is None]:
                self._remove(group, seat)

    def _watch(self, group: Group, seat: Seat) -> None:
        session = seat.membership.session_timeout / 1000
        due = max(seat.seen + session, self._loop.time() + 0.001)
        self._loop.later(due - self._loop.time(), self._look, group, seat)

    def _look(self, group: Group, seat: Seat) -> None:
        if group.seats.get(seat.id) is not seat:
            return
        if seat.joining is not None or seat.syncing is not None:
            seat.seen = self._loop.time()
        if self._loop.time() >= seat.seen + seat.membership.session_timeout / 1000 - 1e-9:
            self._remove(group, seat)
        else:
            self._watch(group, seat)

    def _forget(self, group: Group, member: str) -> None:
        if group.given.pop(member, None) is not None:
            self._joined_all(group)

    def _remove(self, group: Group, seat: Seat) -> None:
        if group.seats.pop(seat.id, None) is None:
            return
        for parked in (seat.joining, seat.syncing):
            if parked is not None:
                parked.resolve(Refused(Code.UNKNOWN_MEMBER_ID, f"group {group.name}"))
        if seat.membership.instance is not None and group.instances.get(seat.membership.instance) == seat.id:
            del group.instances[seat.membership.instance]
        if group.state is State.JOINING:
            self._joined_all(group)
        else:
            self._rebalance(group)

    # offsets

    def committed(self, name: str) -> dict[TopicPartition, int]:
        """The committed offsets of a group, as they are."""
        return self._offsets[name].committed if name in self._offsets else {}

    def all_committed(self) -> Iterator[tuple[str, dict[TopicPartition, int]]]:
        """The committed offsets of every group."""
        for name, known in self._offsets.items():
            yield name, known.committed

    def fetch(self, name: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """OffsetFetch."""
        known = self._offsets.get(name)
        if known is None:
            return {}
        if self._habits.stable_reads and known.pending:
            for pending in known.pending.values():
                for partition in partitions:
                    if partition in pending:
                        raise Refused(Code.UNSTABLE_OFFSET_COMMIT, f"group {name}, {partition}")
        found = {}
        for partition in partitions:
            if partition in known.committed:
                found[partition] = known.committed[partition]
        return found

    def commit(self, name: str, offsets: Mapping[TopicPartition, int], generation: int, member: str) -> None:
        """OffsetCommit."""
        group = self._groups.get(name)
        what = f"group {name}"
        if generation >= 0 or member:
            if group is None:
                raise Refused(Code.ILLEGAL_GENERATION, what)
            if member not in group.seats:
                raise Refused(Code.UNKNOWN_MEMBER_ID, what)
            if generation != group.generation:
                raise Refused(Code.ILLEGAL_GENERATION, what)
            if group.state is State.SYNCING:
                raise Refused(Code.REBALANCE_IN_PROGRESS, what)
            group.seats[member].seen = self._loop.time()
        elif group is not None and group.seats:
            raise Refused(Code.UNKNOWN_MEMBER_ID, what)
        there, refusal = self._there(offsets)
        self._known(name).committed.update(there)
        if refusal is not None:
            raise refusal

    def commit_in(self, writer: Writer, name: str, offsets: Mapping[TopicPartition, int]) -> None:
        """TxnOffsetCommit."""
        known = self._known(name)
        offsets, refusal = self._there(offsets)
        if refusal is not None and not offsets:
            raise refusal
        epoch = known.epochs.get(writer.producer_id, -1)
        if writer.epoch < epoch:
            if self._habits.forgetful:
                held = known.pending.get(writer.producer_id, {})
                for partition in offsets:
                    held.pop(partition, None)
            raise Refused(Code.INVALID_PRODUCER_EPOCH, f"group {name}")
        if writer.producer_id not in known.pending:
            self._verify(writer, name)
        known.epochs[writer.producer_id] = writer.epoch
        known.pending.setdefault(writer.producer_id, {}).update(offsets)
        if refusal is not None:
            raise refusal

    def mark(self, name: str, producer: int, epoch: int, *, commit: bool) -> None:
        """End the transaction of a writer here."""
        known = self._known(name)
        known.epochs[producer] = max(epoch, known.epochs.get(producer, -1))
        pending = known.pending.pop(producer, {})
        if commit:
            known.committed.update(pending)

    def _there(self, offsets: Mapping[TopicPartition, int]) -> tuple[Mapping[TopicPartition, int], Refused | None]:
        """Those of partitions that exist, and what is said about others."""
        there = {partition: offset for partition, offset in offsets.items() if self._exists(partition)}
        missing = next((partition for partition in offsets if partition not in there), None)
        return there, missing and Refused(Code.UNKNOWN_TOPIC_OR_PARTITION, f"an offset for {missing}")

    def _known(self, name: str) -> Offsets:
        return self._offsets.setdefault(name, Offsets())


class Given(Refused):
    """MEMBER_ID_REQUIRED, with the id."""

    def __init__(self, member: str, what: str) -> None:
        super().__init__(Code.MEMBER_ID_REQUIRED, what)
        self.member = member


def _members(group: Group) -> tuple[Member, ...]:
    return tuple(Member(seat.id, seat.metadata, seat.membership.instance) for seat in group.seats.values())
