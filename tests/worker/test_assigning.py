"""The laws of assignment: one holder for each task, balance, and nothing moves that need not."""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
    held,
    why,
)

PLAN = "p1"


def tasks_of(sizes: Iterable[int]) -> list[TaskId]:
    """All tasks of stages of these sizes."""
    return [TaskId("abcd"[n], number) for n, size in enumerate(sizes) for number in range(size)]


SIZES = st.lists(st.integers(0, 5), min_size=1, max_size=3)
MEMBERS = st.integers(1, 4).map(lambda n: [f"m{i}" for i in range(n)])


@st.composite
def groups(draw: st.DrawFn, *, plans: bool = False) -> tuple[list[TaskId], dict[str, Claim]]:
    """Tasks, and members with any claims to them, those of other generations and plans included."""
    tasks = draw(SIZES.map(tasks_of))
    claims = {}
    for member in draw(MEMBERS):
        plan = draw(st.sampled_from([PLAN, "p2"])) if plans else PLAN
        some = draw(st.sets(st.sampled_from([*tasks, TaskId("gone", 0)])))
        claims[member] = Claim(plan, draw(st.integers(3, 5)), tuple(sorted(some)))
    return tasks, claims


def settled(tasks: list[TaskId], claims: Mapping[str, Claim], generation: int = 9) -> dict[str, Claim]:
    """Two rounds: each keeps what is in its share, gives up what is not, and takes what is new."""
    for _ in range(2):
        claims = {m: Claim(PLAN, generation, share) for m, share in assign(tasks, claims, PLAN).items()}
    return dict(claims)


def spread(numbers: Iterable[int]) -> int:
    """How far the greatest number is from the least."""
    numbers = list(numbers)
    return max(numbers) - min(numbers)


def is_balanced(tasks: Iterable[TaskId], shares: Iterable[Iterable[TaskId]]) -> bool:
    """Whether members have equally many tasks, but for one, of each stage and in all."""
    counts = [Counter(task.stage for task in share) for share in shares]
    stages = {task.stage for task in tasks}
    each = all(spread(count[stage] for count in counts) <= 1 for stage in stages)
    return each and spread(count.total() for count in counts) <= 1


# --- laws ---------------------------------------------------------------------------------------------------


@given(groups(plans=True))
def test_a_task_is_given_once_and_to_nobody_while_another_holds_it(
    group: tuple[list[TaskId], dict[str, Claim]],
) -> None:
    """No task is in two shares, and one that is held is in its holder's share or in none."""
    tasks, claims = group
    shares = assign(tasks, claims, PLAN)
    given_out = [task for share in shares.values() for task in share]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) <= set(tasks)
    holders = held(claims)
    for member, share in shares.items():
        assert [task for task in share if holders.get(task, member) != member] == []


@given(groups())
def test_two_rounds_settle_a_group(group: tuple[list[TaskId], dict[str, Claim]]) -> None:
    """After two rounds every task has a holder, the group is balanced, and a third round changes nothing."""
    tasks, claims = group
    claims = settled(tasks, claims)
    assert sorted(task for claim in claims.values() for task in claim.tasks) == sorted(tasks)
    assert is_balanced(tasks, [claim.tasks for claim in claims.values()])
    assert assign(tasks, claims, PLAN) == {member: claim.tasks for member, claim in claims.items()}


@given(groups(), st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(group: tuple[list[TaskId], dict[str, Claim]], random: object) -> None:
    """Whatever the order in which tasks and members are told, the assignment is the same."""
    tasks, claims = group
    mixed = list(claims.items())
    random.shuffle(mixed)  # type: ignore[attr-defined]
    again = random.sample(tasks, len(tasks))  # type: ignore[attr-defined]
    assert assign(again, dict(mixed), PLAN) == assign(tasks, claims, PLAN)


def fewest_moves(tasks: list[TaskId], claims: Mapping[str, Claim]) -> int:
    """How many held tasks have to move at least, by trying every balanced way to count tasks out to members."""
    holders = held(claims)
    sizes = Counter(task.stage for task in tasks)
    holds = {m: Counter(t.stage for t in tasks if holders.get(t) == m) for m in claims}
    ways = []
    for stage, size in sizes.items():
        floor, extra = divmod(size, len(claims))
        ways.append(
            [
                {m: (stage, floor + (m in lucky)) for m in claims}
                for lucky in map(set, itertools.combinations(claims, extra))
            ]
        )
    kept = [
        sum(min(count, holds[m][stage]) for way in choice for m, (stage, count) in way.items())
        for choice in itertools.product(*ways)
        if not claims or spread(sum(way[m][1] for way in choice) for m in claims) <= 1
    ]
    return sum(task in holders for task in tasks) - max(kept)


@given(groups())
@example((tasks_of([1, 1, 1]), {"m0": Claim(PLAN, 3, (TaskId("c", 0),)), "m1": Claim(PLAN, 3), "m2": Claim(PLAN, 3)}))
def test_no_task_moves_that_balance_does_not_move(group: tuple[list[TaskId], dict[str, Claim]]) -> None:
    """As many held tasks stay where they are as in the best of all balanced assignments."""
    tasks, claims = group
    holders = held(claims)
    shares = assign(tasks, claims, PLAN)
    moved = [task for task in tasks if task in holders and task not in shares.get(holders[task], ())]
    assert len(moved) == fewest_moves(tasks, claims)


@given(SIZES.map(tasks_of), MEMBERS)
def test_a_newcomer_gets_its_part_in_two_rounds(tasks: list[TaskId], members: list[str]) -> None:
    """In the first round all keep or give up and nobody gets; in the second, no more has moved than balance demands."""
    before = settled(tasks, dict.fromkeys(members, Claim(PLAN)))
    first = assign(tasks, {**before, "new": Claim(PLAN)}, PLAN)
    assert all(set(first[member]) <= set(before[member].tasks) for member in members)
    second = assign(tasks, {m: Claim(PLAN, 10, share) for m, share in first.items()}, PLAN)
    assert is_balanced(tasks, second.values())
    moved = sum(len(set(before[member].tasks).difference(second[member])) for member in members)
    assert moved == fewest_moves(tasks, {**before, "new": Claim(PLAN)})


@given(SIZES.map(tasks_of), MEMBERS, st.integers(0, 3))
def test_what_a_leaver_had_goes_to_the_others(tasks: list[TaskId], members: list[str], which: int) -> None:
    """Who leaves frees its tasks, and they are given away at once."""
    before = settled(tasks, dict.fromkeys([*members, "last"], Claim(PLAN)))
    gone = before.pop(sorted(before)[which % len(before)])
    shares = assign(tasks, before, PLAN)
    assert {task for share in shares.values() for task in share} >= set(gone.tasks)
    lost = [task for member, claim in before.items() for task in claim.tasks if task not in shares[member]]
    assert len(lost) == fewest_moves(tasks, before)


# --- examples -----------------------------------------------------------------------------------------------

A0, A1, A2, A3 = tasks_of([4])
B0, B1 = (TaskId("b", number) for number in range(2))


def test_a_task_that_is_to_move_is_in_no_share_at_first() -> None:
    """Two of four tasks go to a newcomer: in the first round to nobody, in the second to it."""
    tasks = [A0, A1, A2, A3]
    first = assign(tasks, {"m0": Claim(PLAN, 1, (A0, A1, A2, A3)), "m1": Claim(PLAN)}, PLAN)
    assert first == {"m0": (A0, A1), "m1": ()}
    second = assign(tasks, {"m0": Claim(PLAN, 2, first["m0"]), "m1": Claim(PLAN, 2)}, PLAN)
    assert second == {"m0": (A0, A1), "m1": (A2, A3)}


def test_the_newest_claim_counts() -> None:
    """A zombie's claim is of an older generation and loses; one that nobody else makes is good for all its age."""
    claims = {"old": Claim(PLAN, 3, (A0, A1)), "new": Claim(PLAN, 7, (A0, A2))}
    assert held(claims) == {A0: "new", A1: "old", A2: "new"}
    assert assign([A0, A1, A2], claims, PLAN) == {"new": (A0, A2), "old": (A1,)}


def test_two_claims_of_one_generation_are_kept_by_neither() -> None:
    """Should it ever be, both close the task, and then it is given to one."""
    claims = {"m0": Claim(PLAN, 3, (A0,)), "m1": Claim(PLAN, 3, (A0,))}
    assert assign([A0], claims, PLAN) == {"m0": (), "m1": ()}


def test_tasks_are_those_of_the_plan_of_the_leader() -> None:
    """A member with another plan gets nothing, and what it holds is given to nobody until it has closed it."""
    claims = {"m0": Claim("p2"), "m1": Claim(PLAN, 3, (A0,))}
    assert assign([A0, A1], claims, "p2") == {"m0": (A1,), "m1": ()}
    assert assign([A0, A1], {"m0": Claim("p2", 4, (A1,)), "m1": Claim(PLAN, 4)}, "p2") == {"m0": (A0, A1), "m1": ()}
    assert assign([A0], {"m1": Claim(PLAN)}, "p2") == {"m1": ()}


def test_an_assignment_says_why() -> None:
    """A line for each member, and one for what waits for somebody to let go."""
    tasks = [A0, A1, A2, A3, B0, B1]
    claims = {
        "m0": Claim(PLAN, 3, (A0, A1, A2, A3)),
        "m1": Claim(PLAN),
        "m2": Claim("p2", 3, (B0,)),
        "m3": Claim(""),
    }
    assert why(tasks, claims, PLAN, assign(tasks, claims, PLAN)) == [
        "6 tasks of plan p1 for 4 members",
        "m0: keeps a/0 a/1",
        "m1: gets b/1",
        "m2: nothing, for its plan is p2 and the leader's is p1",
        "m3: nothing, for its plan is not known and the leader's is p1",
        "withheld until given up by m0, m2: a/2 a/3 b/0",
    ]


# --- bytes --------------------------------------------------------------------------------------------------

STAGES = st.text("ab_é", min_size=1, max_size=3)
SOME_TASKS = st.sets(st.builds(TaskId, STAGES, st.integers(0, 2**31 - 1)), max_size=8).map(lambda s: tuple(sorted(s)))
CLAIMS = st.builds(Claim, st.text(max_size=5), st.integers(-1, 2**31 - 1), SOME_TASKS)
SHARES = st.builds(Share, st.text(max_size=5), SOME_TASKS)


def topics_of(task: TaskId) -> list[str]:
    """The topics of a task: two, read together."""
    return [f"{task.stage}_left", f"{task.stage}_right"]


@given(CLAIMS, st.lists(STAGES, max_size=3), st.binary(max_size=4))
def test_a_claim_is_read_as_it_was_written(claim: Claim, topics: list[str], later: bytes) -> None:
    """What later versions of the subscription append is passed over."""
    assert decode_claim(encode_claim(claim, topics) + later) == claim


@given(SHARES, st.binary(max_size=4))
def test_a_share_is_read_as_it_was_written(share: Share, later: bytes) -> None:
    """What later versions of the assignment append is passed over; no bytes at all are no tasks."""
    assert decode_share(encode_share(share, topics_of) + later) == share
    assert decode_share(b"") == Share("")


def test_a_claim_is_a_subscription_to_topics() -> None:
    """Any tool that knows Kafka's consumer protocol sees the topics, once each."""
    message = encode_claim(Claim("p", 7, (B1, A0, A2)), ["in", "in", "go"])
    ours = b"\x01" + b"\x00\x01p" + struct.pack(">i", 7) + struct.pack(">i", 2)
    ours += b"\x00\x01a" + struct.pack(">iii", 2, 0, 2) + b"\x00\x01b" + struct.pack(">ii", 1, 1)
    topics = struct.pack(">i", 2) + b"\x00\x02go" + b"\x00\x02in"
    assert message == b"\x00\x00" + topics + struct.pack(">i", len(ours)) + ours


def test_a_share_is_an_assignment_of_partitions() -> None:
    """Any tool that knows Kafka's consumer protocol sees partition n of every topic of the stage of task n."""
    message = encode_share(Share("p", (A0, A2)), topics_of)
    ours = b"\x01" + b"\x00\x01p" + struct.pack(">i", 1) + b"\x00\x01a" + struct.pack(">iii", 2, 0, 2)
    numbers = struct.pack(">iii", 2, 0, 2)
    partitions = struct.pack(">i", 2) + b"\x00\x06a_left" + numbers + b"\x00\x07a_right" + numbers
    assert message == b"\x00\x00" + partitions + struct.pack(">i", len(ours)) + ours


@given(st.binary(max_size=40) | st.builds(bytes.__add__, st.just(b"\x00\x00\x00\x00\x00\x00"), st.binary(max_size=40)))
def test_bytes_that_are_not_ours_have_one_error(message: bytes) -> None:
    """Whatever is sent, it is a claim or Malformed."""
    for decode in (decode_claim, decode_share):
        with contextlib.suppress(Malformed):
            decode(message)


@given(CLAIMS)
def test_a_claim_that_is_cut_off_is_malformed(claim: Claim) -> None:
    """No beginning of a claim is a claim."""
    message = encode_claim(claim, ["in"])
    for size in range(len(message)):
        with pytest.raises(Malformed):
            decode_claim(message[:size])


WRONG = {
    "version": b"\xff\xff" + b"\x00" * 8,
    "no user data": struct.pack(">hii", 0, 0, -1),
    "empty user data": struct.pack(">hii", 0, 0, 0),
    "topics": struct.pack(">hi", 0, -1),
    "format": struct.pack(">hiib", 0, 0, 1, 2),
    "text": struct.pack(">hiibh", 0, 0, 4, 1, 1) + b"\xff",
    "behind": struct.pack(">hiibhiib", 0, 0, 12, 1, 0, 1, 0, 0),
    "generation": struct.pack(">hiibhii", 0, 0, 11, 1, 0, -2, 0),
    "twice": struct.pack(">hiibhiih1siii", 0, 0, 26, 1, 0, 1, 1, 1, b"a", 2, 3, 3),
    "negative": struct.pack(">hiibhiih1sii", 0, 0, 22, 1, 0, 1, 1, 1, b"a", 1, -1),
}


@pytest.mark.parametrize("message", WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_a_claim_is_found(message: bytes) -> None:
    """Each of the ways in which a claim can be wrong is Malformed."""
    with pytest.raises(Malformed, match="used by something else"):
        decode_claim(message)
