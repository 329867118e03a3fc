"""Who works on which task: sticky, balanced, cooperative.  No clock, no waiting: claims in, shares out.

    claims (what each member holds) ──> targets: how many tasks of each stage a member is to have
                                    ──> shares:  what it keeps, and what it gets that nobody holds

A task is partition n of every inlet topic of its stage, so what belongs together is never parted.  Of a stage, and
in total, the numbers of tasks of two members differ by one at most, and no other balanced assignment keeps more tasks
where they are.  A task that is to move is in no share: who holds it sees that, closes it and joins again, and only the
next generation gives it away.

Tasks are those of the leader's plan.  While a new version of a topology is rolled out, members with another plan get
nothing: which of two plans may have a task's state is not for an assignment to decide.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from streamproc.core.errors import StreamprocError


class TaskId(NamedTuple):
    """The work of one stage on one partition."""

    stage: str
    number: int

    def __str__(self) -> str:
        return f"{self.stage}/{self.number}"


class Claim(NamedTuple):
    """What a member says of itself when it joins: its plan's hash, and what it holds since which generation."""

    plan: str
    generation: int = -1
    tasks: tuple[TaskId, ...] = ()


class Share(NamedTuple):
    """What a member is given: tasks of the plan that the leader has."""

    plan: str
    tasks: tuple[TaskId, ...] = ()


class Malformed(StreamprocError):
    """Bytes of the group's protocol that are none of ours."""


Shares: TypeAlias = Mapping[str, tuple[TaskId, ...]]
"""The tasks of each member, in order."""


def assign(tasks: Iterable[TaskId], members: Mapping[str, Claim], plan: str) -> Shares:
    """The tasks of each member; in no share is a task that somebody else still holds.

    `plan` is the leader's, and `tasks` are all of its tasks.
    """
    stages = _stages(tasks)
    eligible = sorted(member for member, claim in members.items() if claim.plan == plan)
    if not eligible:
        return dict.fromkeys(members, ())
    holders = held(members)
    free = {stage: [one for one in ones if one not in holders] for stage, ones in stages.items()}
    holds = {stage: _by_member(eligible, ones, holders) for stage, ones in stages.items()}
    shares: dict[str, list[TaskId]] = {member: [] for member in members}
    for stage, targets in _targets(stages, holds, eligible).items():
        for member in eligible:
            shares[member] += holds[stage][member][: targets[member]]
        wanting = {member: targets[member] - len(holds[stage][member]) for member in eligible}
        for task in free[stage]:
            member = min(eligible, key=lambda m: (-wanting[m], len(shares[m]), m))
            wanting[member] -= 1
            shares[member].append(task)
    return {member: tuple(sorted(share)) for member, share in shares.items()}


def held(members: Mapping[str, Claim]) -> Mapping[TaskId, str]:
    """Who holds each task that is claimed: the claim of the greatest generation counts.

    Two such claims of one generation should not be.  If they are, the task is held by "", that is: kept by neither.
    """
    newest: dict[TaskId, tuple[int, str]] = {}
    for member, claim in sorted(members.items()):
        for task in claim.tasks:
            generation, _ = newest.get(task, (claim.generation - 1, ""))
            if claim.generation > generation:
                newest[task] = claim.generation, member
            elif claim.generation == generation:
                newest[task] = generation, ""
    return {task: member for task, (_, member) in newest.items()}


def why(tasks: Iterable[TaskId], members: Mapping[str, Claim], plan: str, shares: Shares) -> list[str]:
    """An assignment in words, a line for each member and one for what is in no share."""
    tasks = sorted(tasks)
    holders = held(members)
    lines = [f"{len(tasks)} tasks of plan {plan} for {len(members)} members"]
    for member, share in sorted(shares.items()):
        claim = members[member]
        if claim.plan != plan:
            lines.append(f"{member}: nothing, for its plan is {claim.plan or 'not known'} and the leader's is {plan}")
            continue
        kept = [task for task in share if holders.get(task) == member]
        came = [task for task in share if holders.get(task) != member]
        parts = [f"{word} {listed(some)}" for word, some in (("keeps", kept), ("gets", came)) if some]
        lines.append(f"{member}: {', '.join(parts) or 'nothing'}")
    given = {task for share in shares.values() for task in share}
    withheld = [task for task in tasks if task not in given]
    if withheld:
        owners = sorted({holders.get(task, "") or "two that claim the same" for task in withheld})
        lines.append(f"withheld until given up by {', '.join(owners)}: {listed(withheld)}")
    return lines


def listed(tasks: Iterable[TaskId]) -> str:
    """Tasks in words: orders/0 orders/1 users/0, or none."""
    return " ".join(map(str, sorted(tasks))) or "none"


# --- how many -----------------------------------------------------------------------------------------------


def _stages(tasks: Iterable[TaskId]) -> dict[str, list[TaskId]]:
    stages: dict[str, list[TaskId]] = {}
    for task in sorted(set(tasks)):
        stages.setdefault(task.stage, []).append(task)
    return stages


def _by_member(
    members: Sequence[str], tasks: Sequence[TaskId], holders: Mapping[TaskId, str]
) -> dict[str, list[TaskId]]:
    found: dict[str, list[TaskId]] = {member: [] for member in members}
    for task in tasks:
        holder = holders.get(task)
        if holder in found:
            found[holder].append(task)
    return found


def _targets(
    stages: Mapping[str, Sequence[TaskId]], holds: Mapping[str, Mapping[str, Sequence[TaskId]]], members: Sequence[str]
) -> dict[str, dict[str, int]]:
    """How many tasks of each stage each member is to have.

    Each has `floor` tasks of a stage, and as many members as there are tasks left over have an extra one.  Who gets an
    extra is all there is to choose: a member that holds more than `floor` keeps one more task if it does.
    """
    floors = {stage: len(tasks) // len(members) for stage, tasks in stages.items()}
    extras = {stage: len(tasks) % len(members) for stage, tasks in stages.items()}
    fond = {stage: {m for m in members if len(holds[stage][m]) > floors[stage]} for stage in stages}
    chosen = _dealt(extras, fond, members)
    return {stage: {m: floors[stage] + (m in chosen[stage]) for m in members} for stage in stages}


def _dealt(extras: Mapping[str, int], fond: Mapping[str, set[str]], members: Sequence[str]) -> dict[str, set[str]]:
    """Who gets an extra task of each stage, so that nobody has two more than another and the fond ones are most.

    To begin with, always those with the fewest extras, which is balanced.  Then exchanges that keep the balance, as
    long as one makes more members content; once there is none, no choice is better (negative cycles, as in
    https://en.wikipedia.org/wiki/Minimum-cost_flow_problem).
    """
    counts = dict.fromkeys(members, 0)
    chosen: dict[str, set[str]] = {}
    for stage, extra in extras.items():
        ranked = sorted(members, key=lambda m: (counts[m], m not in fond[stage], m))
        chosen[stage] = set(ranked[:extra])
        for member in chosen[stage]:
            counts[member] += 1
    while cycle := _improving(chosen, fond, counts):
        for member, taken, given_up in cycle:
            if taken:
                chosen[taken].add(member)
                counts[member] += 1
            if given_up:
                chosen[given_up].remove(member)
                counts[member] -= 1
    return chosen


Exchange: TypeAlias = tuple[str, str, str]
"""A member, the stage of which it takes an extra task, and the one of which it gives one up; "" for none."""
Costs: TypeAlias = Mapping[int, set[str]]
"""Members by what it costs them, -1 or 0 or 1, to take or to give up an extra task."""


def _improving(
    chosen: Mapping[str, set[str]], fond: Mapping[str, set[str]], counts: Mapping[str, int]
) -> list[Exchange]:
    """Exchanges that together keep every number and make one more member content; none if there are none.

    They are a cycle of cost below zero in the graph of stages, found as by Bellman and Ford.  "" is a stage too, that
    of no task: there a member with fewer extras in all and one with more change places.
    """
    least = min(counts.values())
    taking: dict[str, Costs] = {"": {0: {m for m in counts if counts[m] > least}}}
    giving: dict[str, Costs] = {"": {0: {m for m in counts if counts[m] == least}}}
    for stage, have in chosen.items():
        taking[stage] = {-1: fond[stage] - have, 0: counts.keys() - have - fond[stage]}
        giving[stage] = {1: fond[stage] & have, 0: have - fond[stage]}
    arcs = [
        (taken, given_up, *cheapest)
        for taken in taking
        for given_up in giving
        if taken != given_up and (cheapest := _cheapest(taking[taken], giving[given_up]))
    ]
    costs = dict.fromkeys(taking, 0)
    before: dict[str, tuple[str, str]] = {}
    last = ""
    for _ in taking:
        cheaper = False
        for taken, given_up, cost, member in arcs:
            if costs[taken] + cost < costs[given_up]:
                costs[given_up] = costs[taken] + cost
                before[given_up] = taken, member
                last, cheaper = given_up, True
        if not cheaper:
            return []
    for _ in taking:  # `last` is reached from the cycle, so this leads back into it
        last, _ = before[last]
    cycle: list[Exchange] = []
    stage = last
    while not cycle or stage != last:
        taken, member = before[stage]
        cycle.append((member, taken, stage))
        stage = taken
    return cycle


def _cheapest(taking: Costs, giving: Costs) -> tuple[int, str] | None:
    """Which member takes the one and gives up the other at the least cost."""
    pairs = ((a + b, some & others) for a, some in taking.items() for b, others in giving.items())
    return min(((cost, min(both)) for cost, both in pairs if both), default=None)


# --- bytes --------------------------------------------------------------------------------------------------
#
# What goes between members are the structures of Kafka's consumer protocol, so that ordinary tools can show who reads
# what; ours is their user data.  Later versions of them append fields, so what follows the user data is passed over.
#
#   subscription  version:int16 topics:[string] user data:bytes
#   assignment    version:int16 [topic:string [partition:int32]] user data:bytes
#   ours          format:int8 plan:string [stage:string [number:int32]], and in a claim generation:int32

FORMAT = 1


def encode_claim(claim: Claim, topics: Iterable[str]) -> bytes:
    """A claim as a subscription to topics."""
    ours = struct.pack(">b", FORMAT) + _string(claim.plan) + struct.pack(">i", claim.generation) + _numbers(claim.tasks)
    return struct.pack(">h", 0) + _array(_string(topic) for topic in sorted(set(topics))) + _bytes(ours)


def decode_claim(message: bytes) -> Claim:
    """The claim in a subscription; Malformed if it is none of ours."""
    reader = _Reader(message, "subscription")
    reader.version()
    for _ in range(reader.int32(0)):
        reader.string()
    reader = reader.user_data()
    plan, generation = reader.string(), reader.int32(-1)
    return Claim(plan, generation, reader.tasks())


def encode_share(share: Share, topics_of: Callable[[TaskId], Collection[str]]) -> bytes:
    """A share as an assignment of partitions."""
    partitions = sorted({(topic, task.number) for task in share.tasks for topic in topics_of(task)})
    ours = struct.pack(">b", FORMAT) + _string(share.plan) + _numbers(share.tasks)
    return struct.pack(">h", 0) + _numbers(partitions) + _bytes(ours)


def decode_share(message: bytes) -> Share:
    """The share in an assignment, none if it is empty; Malformed if it is none of ours."""
    if not message:
        return Share("")
    reader = _Reader(message, "assignment")
    reader.version()
    reader.pairs()
    reader = reader.user_data()
    return Share(reader.string(), reader.tasks())


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">h", len(raw)) + raw


def _bytes(raw: bytes) -> bytes:
    return struct.pack(">i", len(raw)) + raw


def _array(items: Iterable[bytes]) -> bytes:
    written = list(items)
    return struct.pack(">i", len(written)) + b"".join(written)


def _numbers(pairs: Iterable[tuple[str, int]]) -> bytes:
    numbers: dict[str, list[int]] = {}
    for name, number in sorted(pairs):
        numbers.setdefault(name, []).append(number)
    return _array(
        _string(name) + _array(struct.pack(">i", number) for number in some) for name, some in numbers.items()
    )


class _Reader:
    """Reads a message from its beginning; whatever does not fit is Malformed."""

    def __init__(self, message: bytes, what: str) -> None:
        self._left = memoryview(message)
        self._what = what

    def malformed(self, why: str) -> Malformed:
        return Malformed(
            f"the {self._what} of a group member {why}: the group is used by something else than streamproc"
        )

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self._left):
            raise self.malformed("is cut off")
        taken, self._left = bytes(self._left[:size]), self._left[size:]
        return taken

    def version(self) -> None:
        (version,) = struct.unpack(">h", self.take(2))
        if version < 0:
            raise self.malformed(f"has version {version}")

    def int32(self, least: int) -> int:
        (number,) = struct.unpack(">i", self.take(4))
        if number < least:
            raise self.malformed(f"has {number} where {least} is the least")
        return int(number)

    def string(self) -> str:
        (size,) = struct.unpack(">h", self.take(2))
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise self.malformed("has text that is not UTF-8") from None

    def pairs(self) -> list[tuple[str, int]]:
        found = []
        for _ in range(self.int32(0)):
            name = self.string()
            found += [(name, self.int32(0)) for _ in range(self.int32(0))]
        return found

    def user_data(self) -> _Reader:
        """A reader of what is ours."""
        size = self.int32(-1)
        if size <= 0:
            raise self.malformed("has no user data")
        reader = _Reader(self.take(size), self._what)
        (kind,) = struct.unpack(">b", reader.take(1))
        if kind != FORMAT:
            raise self.malformed(f"has format {kind} and {FORMAT} is known here")
        return reader

    def tasks(self) -> tuple[TaskId, ...]:
        """The tasks with which a message of ours ends."""
        found = [TaskId(stage, number) for stage, number in self.pairs()]
        if self._left:
            raise self.malformed("goes on behind its end")
        if len(set(found)) < len(found):
            raise self.malformed("names a task twice")
        return tuple(sorted(found))
