"""Membership against single answers of a coordinator, and whole groups in a simulated world."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Literal, cast

import pytest

from streamproc.core.errors import ConfigError
from streamproc.ports.broker import Broker, Code, Joined, Member, Membership, Refused, Unanswered, Unsent
from streamproc.runners.worker.assigning import (
    Claim,
    Malformed,
    Share,
    TaskId,
    decode_claim,
    decode_share,
    encode_claim,
    encode_share,
)
from streamproc.runners.worker.membership import GroupMember, NotAdmitted
from streamproc.testing.simulation.broker import SimBroker
from streamproc.testing.simulation.cluster import Cluster
from streamproc.testing.simulation.loop import Loop, Process, running
from streamproc.testing.simulation.network import FAIR, Network, Weather

PLAN = "p1"
A, B, C = (TaskId("a", number) for number in range(3))
TASKS = (A, B, C)
SESSION, REBALANCE = 6.0, 20.0
DYNAMIC = Membership("g", "streamproc", 6_000, 20_000)
STATIC = Membership("g", "streamproc", 6_000, 20_000, "i1")


def topics_of(task: TaskId) -> list[str]:
    """The topics of a task: two, read together."""
    return [f"{task.stage}_left", f"{task.stage}_right"]


def share(*tasks: TaskId, plan: str = PLAN) -> bytes:
    """An assignment of these tasks."""
    return encode_share(Share(plan, tasks), topics_of)


def refused(code: Code) -> Refused:
    """A refusal."""
    return Refused(code, "group g")


HANGS = object()
"""An answer that never comes."""


@dataclass
class Scripted:
    """A coordinator of one member, which says what it was told to say next, and yes when it was told nothing.

    An exception is raised, a number of seconds passes before the usual answer, anything else is returned.  `calls` are
    time, name and what was said.
    """

    answers: dict[str, list[Any]] = field(default_factory=dict)
    calls: list[tuple[float, str, Any]] = field(default_factory=list)
    topics: tuple[str, ...] = ()
    generation: int = 0

    async def _answered(self, name: str, said: Any, usual: Callable[[], Any]) -> Any:
        self.calls.append((asyncio.get_running_loop().time(), name, said))
        answer = self.answers[name].pop(0) if self.answers.get(name) else None
        if answer is HANGS:
            await asyncio.Event().wait()
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            answer = None
        if isinstance(answer, Exception):
            raise answer
        return usual() if answer is None else answer

    async def join(self, membership: Membership, member: str, metadata: bytes) -> Joined:
        self.topics = membership.topics

        def usual() -> Joined:
            self.generation += 1
            name = member or "m1"
            return Joined(self.generation, name, name, (Member(name, metadata),))

        return cast("Joined", await self._answered("join", (member, decode_claim(metadata)), usual))

    async def sync(self, _: Membership, __: int, member: str, shares: Mapping[str, bytes]) -> bytes:
        said = {name: decode_share(each).tasks for name, each in shares.items()}
        return cast("bytes", await self._answered("sync", said, lambda: shares.get(member, b"")))

    async def heartbeat(self, _: Membership, generation: int, member: str) -> None:
        await self._answered("heartbeat", (generation, member), lambda: None)

    async def leave(self, _: Membership, member: str) -> None:
        await self._answered("leave", member, lambda: None)

    def said(self, name: str) -> list[Any]:
        """What was said in the calls of this name."""
        return [said for _, called, said in self.calls if called == name]

    def times(self, name: str) -> list[float]:
        """When the calls of this name were made."""
        return [round(at, 3) for at, called, _ in self.calls if called == name]


@dataclass
class Hears:
    """A listener that writes down what it hears; closing takes `closing` seconds."""

    closing: float = 0.0
    heard: list[tuple[str, tuple[TaskId, ...]]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def _note(self, what: str, tasks: tuple[TaskId, ...]) -> None:
        self.heard.append((what, tasks))
        self.times.append(round(asyncio.get_running_loop().time(), 3))

    def assigned(self, tasks: tuple[TaskId, ...]) -> None:
        self._note("assigned", tasks)

    async def revoked(self, tasks: tuple[TaskId, ...]) -> None:
        self._note("revoked", tasks)
        await asyncio.sleep(self.closing)
        self._note("closed", tasks)

    def lost(self, tasks: tuple[TaskId, ...]) -> None:
        self._note("lost", tasks)


@dataclass
class Scene:
    """One member before a scripted coordinator."""

    membership: Membership = DYNAMIC
    coordinator: Scripted = field(default_factory=Scripted)
    listener: Hears = field(default_factory=Hears)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        broker = cast("Broker", self.coordinator)
        self.member = GroupMember(broker, self.membership, TASKS, PLAN, topics_of, self.listener, tell=self.told.append)

    def play(self, seconds: float, *acts: tuple[float, Callable[[], Any]], seed: int = 0) -> None:
        """Let the member be for so many seconds, with acts at their times; raises what it raises."""

        async def body() -> None:
            loop = asyncio.get_running_loop()
            for at, act in acts:
                loop.call_at(at, act)
            run = loop.create_task(self.member.run())
            await asyncio.wait({run}, timeout=seconds)
            if run.done():
                run.result()
            run.cancel()
            await asyncio.wait({run})

        simulated(body(), seed)


def simulated(body: Coroutine[Any, Any, None], seed: int = 0) -> None:
    """Run in a world whose time is only counted; an exception that nobody saw is an error too."""
    with running(Loop(seed)) as loop:
        loop.run_until_complete(body)
        assert loop.unseen() == []


def scene(**answers: list[Any]) -> Scene:
    """A dynamic member, and what the coordinator says to it."""
    return Scene(coordinator=Scripted(answers))


# --- coming and going ---------------------------------------------------------------------------------------


def test_a_member_joins_gets_tasks_and_shows_itself() -> None:
    """The first generation brings tasks, and a heartbeat is sent every half second."""
    one = scene()
    one.play(2.1)
    assert one.coordinator.said("join") == [("", Claim(PLAN))]
    assert one.coordinator.said("sync") == [{"m1": TASKS}]
    assert one.coordinator.topics == ("a_left", "a_right")
    assert one.coordinator.times("heartbeat") == [0.5, 1.0, 1.5, 2.0]
    assert one.listener.heard == [("assigned", TASKS)]
    assert (one.member.id, one.member.generation, one.member.owned) == ("m1", 1, TASKS)


def test_what_is_kept_is_not_mentioned_when_the_group_rebalances() -> None:
    """A rebalance is joined at once, with the tasks that are owned; those that stay are neither taken nor given."""
    one = scene(heartbeat=[None, refused(Code.REBALANCE_IN_PROGRESS)])
    one.play(1.4)
    assert one.coordinator.said("join") == [("", Claim(PLAN)), ("m1", Claim(PLAN, 1, TASKS))]
    assert one.coordinator.times("join") == [0.0, 1.0]
    assert one.listener.heard == [("assigned", TASKS)]


def test_what_is_given_up_is_closed_and_then_the_group_is_joined_again() -> None:
    """Heartbeats go on while tasks are closed, and only afterwards are they claimed no more."""
    one = scene(sync=[share(A, B), share(B), share(B)], heartbeat=[refused(Code.REBALANCE_IN_PROGRESS)])
    one.listener.closing = 1.7
    one.play(3.0)
    assert one.listener.heard == [("assigned", (A, B)), ("revoked", (A,)), ("closed", (A,))]
    assert [claim for _, claim in one.coordinator.said("join")] == [
        Claim(PLAN),
        Claim(PLAN, 1, (A, B)),
        Claim(PLAN, 2, (B,)),
    ]
    assert one.coordinator.times("join") == [0.0, 0.5, 2.2]
    assert one.coordinator.times("heartbeat") == [0.5, 1.0, 1.5, 2.0, 2.7]


def test_new_tasks_do_not_wait_for_those_that_are_closed() -> None:
    """What nobody else holds is begun at once."""
    one = scene(sync=[share(A), share(B), share(B)], heartbeat=[refused(Code.REBALANCE_IN_PROGRESS)])
    one.listener.closing = 5.0
    one.play(8.0)
    assert one.listener.heard == [("assigned", (A,)), ("assigned", (B,)), ("revoked", (A,)), ("closed", (A,))]
    assert one.listener.times == [0.0, 0.5, 0.5, 5.5]


def test_a_rebalance_waits_for_what_is_being_closed() -> None:
    """While tasks are closed the group hears from the member, and it joins when they are."""
    again = refused(Code.REBALANCE_IN_PROGRESS)
    one = scene(sync=[share(A), share(), share(B)], heartbeat=[again, *[again] * 4])
    one.listener.closing = 2.1
    one.play(4.0)
    assert one.coordinator.times("join") == [0.0, 0.5, 2.6]
    assert one.listener.heard == [("assigned", (A,)), ("revoked", (A,)), ("closed", (A,)), ("assigned", (B,))]


def test_tasks_that_do_not_close_are_lost() -> None:
    """Closing has half the rebalance timeout; then it is cancelled, and the others need not wait any longer."""
    one = scene(sync=[share(A), share(), share(B)], heartbeat=[refused(Code.REBALANCE_IN_PROGRESS)])
    one.listener.closing = 3600.0
    one.play(12.0)
    assert one.listener.heard == [("assigned", (A,)), ("revoked", (A,)), ("lost", (A,)), ("assigned", (B,))]
    assert one.listener.times == [0.0, 0.5, 0.5 + REBALANCE / 2, 0.5 + REBALANCE / 2]
    assert "not closed within 10 s: a/0" in one.told


def test_a_listener_that_fails_ends_the_member() -> None:
    """What the listener raises is not swallowed."""

    class Fails(Hears):
        async def revoked(self, tasks: tuple[TaskId, ...]) -> None:
            raise ValueError(str(tasks[0]))

    one = Scene(
        coordinator=Scripted({"sync": [share(A), share()], "heartbeat": [refused(Code.REBALANCE_IN_PROGRESS)]}),
        listener=Fails(),
    )
    with pytest.raises(ValueError, match="a/0"):
        one.play(3.0)


# --- what is lost -------------------------------------------------------------------------------------------


def test_an_unknown_member_has_lost_everything_and_joins_as_a_new_one() -> None:
    """Its tasks were given away: they are stopped, nothing is claimed, and the old id is forgotten."""
    one = scene(heartbeat=[refused(Code.UNKNOWN_MEMBER_ID)])
    one.play(0.9)
    assert one.listener.heard == [("assigned", TASKS), ("lost", TASKS), ("assigned", TASKS)]
    assert one.coordinator.said("join") == [("", Claim(PLAN)), ("", Claim(PLAN))]


@pytest.mark.parametrize("call", ["heartbeat", "sync"])
def test_a_member_of_an_old_generation_has_lost_everything_and_keeps_its_id(call: str) -> None:
    """Under a new id the old one would stay in the group until its session times out, and be given tasks."""
    one = scene(heartbeat=[refused(Code.REBALANCE_IN_PROGRESS)], sync=[None])
    one.coordinator.answers[call].append(refused(Code.ILLEGAL_GENERATION))
    one.play(2.0)
    assert ("lost", TASKS) in one.listener.heard
    assert one.coordinator.said("join")[-1] == ("m1", Claim(PLAN))


def test_a_sync_that_another_rebalance_overtakes_loses_nothing() -> None:
    """The member joins again at once, with what it still owns since the generation of which it knows."""
    again = refused(Code.REBALANCE_IN_PROGRESS)
    one = scene(sync=[None, again], heartbeat=[again])
    one.play(0.7)
    assert one.coordinator.said("join")[1:] == [("m1", Claim(PLAN, 1, TASKS))] * 2
    assert one.coordinator.times("join") == [0.0, 0.5, 0.5]
    assert one.listener.heard == [("assigned", TASKS)]


def test_what_is_lost_while_it_is_closed_is_closed_no_further() -> None:
    """Closing is cancelled, since there is nothing left to commit."""
    one = scene(
        sync=[share(A, B), share(B)], heartbeat=[refused(Code.REBALANCE_IN_PROGRESS), refused(Code.UNKNOWN_MEMBER_ID)]
    )
    one.listener.closing = 5.0
    one.play(8.0)
    assert one.listener.heard == [
        ("assigned", (A, B)),
        ("revoked", (A,)),
        ("lost", (A, B)),
        ("assigned", TASKS),
    ]


SILENCE = [
    refused(Code.NOT_COORDINATOR),
    refused(Code.COORDINATOR_LOADING),
    refused(Code.COORDINATOR_NOT_AVAILABLE),
    Unsent("no connection"),
    Unanswered("no answer"),
    HANGS,
]


@pytest.mark.parametrize("silence", SILENCE, ids=lambda silence: "hangs" if silence is HANGS else str(silence))
def test_a_short_silence_is_nothing(silence: object) -> None:
    """Heartbeats that do not get through are repeated; one that does makes up for them."""
    one = scene(heartbeat=[None, silence, None])
    one.play(20.0)
    assert one.listener.heard == [("assigned", TASKS)]
    assert len(one.coordinator.said("join")) == 1


@pytest.mark.parametrize("silence", SILENCE, ids=lambda silence: "hangs" if silence is HANGS else str(silence))
def test_who_is_not_heard_for_a_session_has_lost_everything(silence: object) -> None:
    """The broker gives the tasks to others after that time, so they are stopped by then, within one heartbeat."""
    one = scene(heartbeat=[None] + [silence] * 100)
    one.play(8.0)
    assert one.listener.heard[:2] == [("assigned", TASKS), ("lost", TASKS)]
    assert 0.5 + SESSION <= one.listener.times[1] <= 0.5 + SESSION + 0.5


def test_a_session_is_counted_from_what_the_group_has_heard() -> None:
    """A heartbeat whose answer takes long was sent long ago, and the group may have heard it then."""
    one = scene(heartbeat=[1.9] + [Unsent("no connection")] * 100)
    one.play(8.0)
    assert one.listener.heard[:2] == [("assigned", TASKS), ("lost", TASKS)]
    assert 0.5 + SESSION <= one.listener.times[1] <= 0.5 + SESSION + 0.5


def test_an_assignment_that_comes_too_late_is_not_believed() -> None:
    """After a session without a word the group has given the tasks to others: to begin with them would fence those."""
    one = scene(sync=[SESSION + 1.0], join=[None, refused(Code.UNKNOWN_MEMBER_ID)])
    one.play(7.3)
    assert one.coordinator.times("join") == [0.0, 7.05, 7.15]
    assert [member for member, _ in one.coordinator.said("join")] == ["", "m1", ""]
    assert one.listener.heard == [("assigned", TASKS)]
    assert one.listener.times == [7.15]


def test_pauses_begin_anew_after_a_generation_that_was() -> None:
    """Only failures in a row make them longer."""
    not_yet = Unsent("no connection")
    one = scene(join=[not_yet, not_yet, not_yet, None, None], heartbeat=[refused(Code.UNKNOWN_MEMBER_ID)])
    one.play(1.0)
    assert one.coordinator.times("join") == [0.0, 0.05, 0.15, 0.35, 0.9]


def test_joining_is_tried_again_and_again() -> None:
    """What is not ready will be, and nothing is lost before a session is over; pauses double up to a second."""
    not_yet = [Unsent("no connection"), refused(Code.COORDINATOR_LOADING), Unanswered("no answer")]
    one = scene(join=[*not_yet, *not_yet])
    one.play(10.0)
    assert one.coordinator.times("join") == [0.0, 0.05, 0.15, 0.35, 0.75, 1.55, 2.55]
    assert one.listener.heard == [("assigned", TASKS)]


def test_a_member_that_cannot_join_again_for_a_session_has_lost_everything() -> None:
    """As with heartbeats: what it owned is given to others."""
    one = scene(join=[None, *[Unsent("no connection")] * 12], heartbeat=[refused(Code.REBALANCE_IN_PROGRESS)])
    one.play(30.0)
    assert one.listener.heard == [("assigned", TASKS), ("lost", TASKS), ("assigned", TASKS)]
    assert SESSION <= one.listener.times[1] - 0.5 <= SESSION + 1.0
    assert one.coordinator.said("join")[-1] == ("m1", Claim(PLAN))


# --- what nobody but a person can mend ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (Code.FENCED_INSTANCE_ID, "instance id 'i1': give each process"),
        (Code.INCONSISTENT_GROUP_PROTOCOL, "group 'g' is in use by another kind of consumer"),
        (Code.GROUP_AUTHORIZATION_FAILED, "group 'g': give this principal READ"),
        (Code.INVALID_SESSION_TIMEOUT, "session timeout of 6000 ms"),
        (Code.GROUP_MAX_SIZE_REACHED, "group.max.size"),
    ],
)
@pytest.mark.parametrize("call", ["join", "heartbeat"])
def test_a_refusal_that_lasts_says_what_to_do(code: Code, words: str, call: str) -> None:
    """The member ends with an error of configuration that names the group and the setting or permission."""
    one = Scene(STATIC, Scripted({call: [refused(code)]}))
    with pytest.raises(NotAdmitted, match=words) as caught:
        one.play(3.0)
    assert isinstance(caught.value, ConfigError)
    assert caught.value.code == code


def test_a_doubled_instance_id_is_found_by_a_heartbeat() -> None:
    """Whoever is replaced loses its tasks before it ends, for the other has them."""
    one = Scene(STATIC, Scripted({"heartbeat": [None, refused(Code.FENCED_INSTANCE_ID)]}))
    with pytest.raises(NotAdmitted):
        one.play(3.0)
    assert one.listener.heard == [("assigned", TASKS), ("lost", TASKS)]


def test_a_refusal_nobody_has_foreseen_ends_the_member() -> None:
    """It is raised as it is, rather than repeated for ever."""
    one = scene(heartbeat=[Refused(4711, "group g")])
    with pytest.raises(Refused, match="4711"):
        one.play(3.0)


def test_an_assignment_by_something_else_ends_the_member() -> None:
    """Bytes that cannot be read are an error with a name."""
    one = scene(sync=[b"\x00"])
    with pytest.raises(Malformed):
        one.play(3.0)


# --- fencing ------------------------------------------------------------------------------------------------


def test_a_fenced_task_is_asked_for_and_taken_again_only_if_given() -> None:
    """The group is joined at once without it; the assignment brings it back, or it is not touched."""
    one = scene(sync=[share(A, B), share(B), share(A, B)])
    one.play(5.0, (1.2, lambda: one.member.fenced(A)), (2.0, one.member.rejoin))
    assert [claim.tasks for _, claim in one.coordinator.said("join")] == [(), (B,), (B,)]
    assert one.listener.heard == [("assigned", (A, B)), ("assigned", (A,))]
    assert one.listener.times == [0.0, 2.0]


def test_an_assignment_made_before_a_task_was_fenced_does_not_bring_it_back() -> None:
    """Its leader believed the claim; only the next round knows better."""
    one = scene(heartbeat=[refused(Code.REBALANCE_IN_PROGRESS)], sync=[None, 1.0])
    one.play(5.0, (1.0, lambda: one.member.fenced(A)))
    assert [claim.tasks for _, claim in one.coordinator.said("join")] == [(), (A, B, C), (B, C)]
    assert one.listener.heard == [("assigned", TASKS), ("assigned", (A,))]
    assert one.listener.times == [0.0, 1.6]


# --- other plans --------------------------------------------------------------------------------------------


def test_a_member_with_another_plan_than_the_leader_is_idle() -> None:
    """It says so, and goes on being a member."""
    one = scene(sync=[share(plan="p2")])
    one.play(3.0)
    assert one.listener.heard == []
    assert one.member.group_plan == "p2"
    assert "idle: the group runs plan p2 and this member has p1" in one.told
    assert len(one.coordinator.said("join")) == 1


def test_a_static_member_that_comes_back_with_another_plan_gives_its_tasks_back() -> None:
    """The group did not notice, so the assignment is that of its predecessor: another round is asked for, once."""
    one = Scene(STATIC, Scripted({"sync": [share(A, plan="p2"), share(plan="p2")]}))
    one.play(3.0)
    assert one.listener.heard == []
    assert len(one.coordinator.said("join")) == 2


def test_a_member_that_cannot_be_understood_gets_nothing() -> None:
    """One that is newer, or something else, does not keep the others from working."""
    others = (Member("m1", encode_claim(Claim(PLAN), [])), Member("m2", b"\x00\x01"))
    one = scene(join=[Joined(1, "m1", "m1", others)])
    one.play(0.4)
    assert one.coordinator.said("sync") == [{"m1": TASKS, "m2": ()}]
    assert [line for line in one.told if line.startswith("m2: nothing")] != []


# --- leaving ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("membership", "left"), [(DYNAMIC, ["m1"]), (STATIC, [])], ids=["dynamic", "static"])
def test_who_leaves_says_so_unless_it_may_come_back(membership: Membership, left: list[str]) -> None:
    """Leaving ends the run; a static member goes without a word, and finds its place again within the session."""
    one = Scene(membership)

    async def body() -> None:
        run = asyncio.get_running_loop().create_task(one.member.run())
        await asyncio.sleep(1.2)
        await one.member.leave()
        await run

    simulated(body())
    assert one.coordinator.said("leave") == left
    assert one.member.state == "left"


def test_leaving_does_not_wait_for_a_rebalance() -> None:
    """A join in flight is given up, and a coordinator that does not answer to a leave is no error."""
    one = scene(join=[None, HANGS], heartbeat=[refused(Code.REBALANCE_IN_PROGRESS)], leave=[Unanswered("no answer")])

    async def body() -> None:
        run = asyncio.get_running_loop().create_task(one.member.run())
        await asyncio.sleep(1.2)
        assert one.member.state == "joining"
        assert one.member.rebalancing_since == 0.5
        await one.member.leave()
        await run
        assert asyncio.get_running_loop().time() == 1.2

    simulated(body())
    assert one.coordinator.said("leave") == ["m1"]


def test_a_run_that_is_cancelled_is_cancelled() -> None:
    """It is not taken for leaving, not even if both are asked for at once."""
    one = scene()

    async def body() -> None:
        run = asyncio.get_running_loop().create_task(one.member.run())
        await asyncio.sleep(1.2)
        run.cancel()
        await one.member.leave()
        with pytest.raises(asyncio.CancelledError):
            await run

    simulated(body())
    assert one.coordinator.said("leave") == ["m1"]


# --- whole groups -------------------------------------------------------------------------------------------

MANY = tuple(TaskId(stage, number) for stage, size in (("a", 5), ("b", 3), ("c", 1)) for number in range(size))
QUIET = 45.0
"""Long enough for a member to be missed, for a rebalance, and for everything to be closed."""


@dataclass
class Node:
    """One process of a group, with what it works on; `outcome` is what its membership ended with."""

    world: World
    name: str
    process: Process
    working: set[TaskId] = field(default_factory=set)
    outcome: BaseException | None = None
    ended: bool = False
    member: GroupMember = field(init=False)

    async def live(self) -> None:
        """The life of the process."""
        try:
            await self.member.run()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.outcome = error
        self.ended = True

    async def stop(self) -> None:
        """Close everything, then leave."""
        await asyncio.sleep(self.world.random.uniform(0.0, 2.0))
        self.working.clear()
        await self.member.leave()

    def fence(self, task: TaskId) -> None:
        """Find that somebody else writes as this task."""
        self.working.discard(task)
        self.member.fenced(task)

    def assigned(self, tasks: tuple[TaskId, ...]) -> None:
        self.world.check(self, tasks)
        self.working.update(tasks)

    async def revoked(self, tasks: tuple[TaskId, ...]) -> None:
        assert self.working.issuperset(tasks)
        await asyncio.sleep(self.world.random.choice([0.0, 0.3, 4.0]))
        self.working.difference_update(tasks)

    def lost(self, tasks: tuple[TaskId, ...]) -> None:
        assert self.working.issuperset(tasks)
        self.working.difference_update(tasks)


@dataclass
class World:
    """A group and its coordinator.

    `owners` says of whom none may have a task that another has: of all, while nobody has died, froze or was cut off, or
    of those of one generation.
    """

    loop: Loop
    seed: int
    weather: Weather = FAIR
    owners: Literal["all", "generation", "any"] = "all"
    nodes: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.cluster = Cluster(self.loop, self.seed)
        self.network = Network(self.loop, self.seed, self.weather)

    def start(self, instance: str | None = None, plan: str = PLAN) -> Node:
        """A new process joins."""
        name = f"n{len(self.nodes)}"
        process = self.loop.process(name)
        node = Node(self, name, process)
        membership = Membership("g", "streamproc", 6_000, 20_000, instance)
        broker = SimBroker(self.cluster, self.network, process)
        node.member = GroupMember(broker, membership, MANY, plan, topics_of, node)
        self.nodes.append(node)
        process.start(node.live())
        return node

    @property
    def alive(self) -> list[Node]:
        """Whoever is a member or becomes one."""
        return [node for node in self.nodes if not node.process.killed and not node.ended]

    def check(self, node: Node, tasks: tuple[TaskId, ...]) -> None:
        """Nobody has a task that somebody else has."""
        for other in self.alive if self.owners != "any" else ():
            if other is not node and (self.owners == "all" or other.member.generation == node.member.generation):
                both = other.working.intersection(tasks)
                assert not both, f"{node.name} and {other.name} in {node.member.generation}: {sorted(both)}"

    @property
    def generation(self) -> int:
        """The group's, as the broker knows it."""
        group = self.cluster.groups.of("g")
        return group.generation if group else 0

    def assert_settled(self) -> None:
        """Every task has one owner, all have equally many but for one, and listeners know what members know."""
        assert [node.outcome for node in self.nodes if node.outcome] == []
        assert {node.member.state for node in self.alive} <= {"stable"}
        for node in self.alive:
            assert sorted(node.working) == list(node.member.owned)
            assert node.member.rebalancing_since is None
        if self.alive:
            assert sorted(task for node in self.alive for task in node.member.owned) == sorted(MANY)
            counts = [len(node.member.owned) for node in self.alive]
            assert max(counts) - min(counts) <= 1


def in_a_world(act: Callable[[World], Coroutine[Any, Any, None]], seed: int, weather: Weather = FAIR) -> int:
    """Let a world pass; a number over all that happened in it."""
    with running(Loop(seed)) as loop:
        loop.run_until_complete(act(World(loop, seed, weather)))
        assert loop.unseen() == []
        return loop.trace


@pytest.mark.parametrize("seed", range(60))
def test_a_group_settles_after_each_change_in_two_rounds(seed: int) -> None:
    """Processes come, leave, die and come back as zombies: no task has two owners, and none is without for long."""

    async def act(world: World) -> None:
        for _ in range(8):
            before, rounds = world.generation, 2
            node = world.random.choice(world.alive) if world.alive else None
            what = world.random.choice(["start", "start", "stop", "kill", "freeze"])
            if node is None or (what == "start" and len(world.alive) < 4):
                world.start()
            elif what in {"start", "stop"}:
                node.process.start(node.stop())
            elif what == "kill":
                world.owners = "generation"
                node.process.kill()
            else:
                world.owners = "generation"
                node.process.freeze(30.0)
                rounds = 4  # it goes, and it comes
            await asyncio.sleep(QUIET)
            world.assert_settled()
            assert world.generation - before <= rounds
            world.owners = "all"

    in_a_world(act, seed)


@pytest.mark.parametrize("seed", range(60))
def test_a_group_settles_after_many_changes_at_once(seed: int) -> None:
    """Whatever happens while it rebalances: no task has two owners in a generation, and in the end each has one."""

    async def act(world: World) -> None:
        world.owners = "generation"
        for _ in range(12):
            what = world.random.choice(["start", "start", "start", "stop", "kill", "freeze", "fence"])
            node = world.random.choice(world.alive) if world.alive else None
            if node is None or (what == "start" and len(world.alive) < 5):
                world.start()
            elif what == "stop":
                node.process.start(node.stop())
            elif what == "kill":
                node.process.kill()
            elif what == "freeze":
                node.process.after(
                    world.random.randrange(40), partial(node.process.freeze, world.random.choice(FREEZES))
                )
            elif node.working and not node.process.frozen:
                node.fence(world.random.choice(sorted(node.working)))
            await asyncio.sleep(world.random.choice([0.0, 0.01, 0.3, 2.0, 8.0]))
        await asyncio.sleep(2 * QUIET)
        world.assert_settled()

    in_a_world(act, seed)


FREEZES = [1.0, 5.0, 7.0, 30.0]
STORM = Weather(
    latency=0.01, slow_requests=0.05, slow_answers=0.05, tail=(1.0, 20.0), lost_requests=0.05, lost_answers=0.05
)


@pytest.mark.parametrize("seed", range(40))
def test_a_group_settles_after_a_storm(seed: int) -> None:
    """Whatever is lost or late on the wire, no task has two owners in a generation, and calm brings order."""

    async def act(world: World) -> None:
        world.owners = "generation"
        for _ in range(3):
            world.start()
            await asyncio.sleep(world.random.uniform(0.0, 20.0))
        await asyncio.sleep(60.0)
        world.network.weather = FAIR
        await asyncio.sleep(3 * QUIET)
        world.assert_settled()

    in_a_world(act, seed, STORM)


def test_the_same_seed_is_the_same_world() -> None:
    """Membership has no chance of its own."""

    async def act(world: World) -> None:
        for _ in range(3):
            world.start()
        await asyncio.sleep(QUIET)

    assert in_a_world(act, 7, STORM) == in_a_world(act, 7, STORM)


@pytest.mark.parametrize("seed", range(10))
def test_the_group_does_not_notice_that_a_static_member_was_away(seed: int) -> None:
    """Back within its session, it has the tasks that it had, and there is no rebalance."""

    async def act(world: World) -> None:
        for number in range(3):
            world.start(f"i{number}")
        await asyncio.sleep(QUIET)
        world.assert_settled()
        before = world.generation
        for number, old in enumerate(list(world.nodes)):
            had = old.member.owned
            await old.process.start(old.stop())
            await asyncio.sleep(3.0)
            new = world.start(f"i{number}")
            await asyncio.sleep(5.0)
            assert new.member.owned == had
        assert world.generation == before
        world.assert_settled()

    in_a_world(act, seed)


@pytest.mark.parametrize("seed", range(10))
def test_of_two_with_one_instance_id_the_first_ends(seed: int) -> None:
    """It learns of it by its next heartbeat, and says what is wrong; the second has its tasks."""

    async def act(world: World) -> None:
        world.start("i0")
        first = world.start("i1")
        await asyncio.sleep(QUIET)
        world.owners = "any"  # until the heartbeat both have the tasks, and only fencing keeps them apart
        second = world.start("i1")
        await asyncio.sleep(2.0)
        assert isinstance(first.outcome, NotAdmitted)
        assert first.working == set()
        assert second.member.state == "stable"

    in_a_world(act, seed)


@pytest.mark.parametrize("instances", [False, True], ids=["dynamic", "static"])
@pytest.mark.parametrize("seed", range(10))
def test_a_new_plan_is_rolled_out_one_by_one(seed: int, instances: bool) -> None:  # noqa: FBT001
    """Tasks belong to members of the leader's plan; when all have the new one, every task has an owner again."""

    async def act(world: World) -> None:
        names = [f"i{number}" if instances else None for number in range(3)]
        for name in names:
            world.start(name)
        await asyncio.sleep(QUIET)
        for name, old in zip(names, list(world.nodes), strict=True):
            await old.process.start(old.stop())
            await asyncio.sleep(2.0)
            world.start(name, "p2")
            await asyncio.sleep(QUIET)
            owners = {node.member.group_plan for node in world.alive if node.member.owned}
            assert len(owners) == 1
            assert sorted(task for node in world.alive for task in node.member.owned) == sorted(MANY)
        world.assert_settled()

    in_a_world(act, seed)
