"""The laws of assignment: one holder for each task, balance, and nothing moves that need not."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping

from hypothesis import example, given
from hypothesis import strategies as st

from streamproc.runners.worker.assigning import (
    Claim,
    TaskId,
    assign,
    held,
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
    """Who joins gets nothing that is held, and then what was given up for it: no other member gets anything."""
    before = settled(tasks, dict.fromkeys(members, Claim(PLAN)))
    first = assign(tasks, {**before, "new": Claim(PLAN)}, PLAN)
    assert all(set(first[member]) <= set(before[member].tasks) for member in members)
    second = assign(tasks, {m: Claim(PLAN, 10, share) for m, share in first.items()}, PLAN)
    assert {member: second[member] for member in members} == {member: first[member] for member in members}
    assert is_balanced(tasks, second.values())


@given(SIZES.map(tasks_of), MEMBERS, st.integers(0, 3))
def test_what_a_leaver_had_goes_to_the_others(tasks: list[TaskId], members: list[str], which: int) -> None:
    """Who leaves frees its tasks, and they are given away at once."""
    before = settled(tasks, dict.fromkeys([*members, "last"], Claim(PLAN)))
    gone = before.pop(sorted(before)[which % len(before)])
    shares = assign(tasks, before, PLAN)
    assert {task for share in shares.values() for task in share} >= set(gone.tasks)
    lost = [task for member, claim in before.items() for task in claim.tasks if task not in shares[member]]
    assert len(lost) == fewest_moves(tasks, before)
