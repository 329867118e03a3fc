"""The first laws: nobody can tell how a log was cut, whether a loop was generated, or that there was a crash."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.laws import CUTS, DECISIONS, LOGS, SHAPES, SLOW_LOGS, Cut, Decided, Shape, run

pytestmark = pytest.mark.timeout(900)  # a counterexample of this size takes minutes to become small


@given(shape=SHAPES, first=LOGS, second=LOGS, cut=CUTS)
@settings(max_examples=300)
def test_cuts_commits_and_crashes_are_invisible(
    shape: Shape, first: list[bytes], second: list[bytes], cut: Cut
) -> None:
    """A generated loop on random cuts, with commits and crashes, does byte for byte what the plain one does at once."""
    logs = {"in0": first, "in1": second} if shape.sources == 2 else {"in0": first}
    plain = run(shape.build(), logs, fused=False)
    cut_up = run(shape.build(), logs, cut)
    assert cut_up == plain


def test_what_a_node_outside_the_loop_waits_for_closes_in_its_turn() -> None:
    """A loop that has handed a record on wakes for the cell that this has put, and not for its own windows only."""
    branches = (((), "tumbling", 1, 0), ((), "trailing", 1, 0))
    shape = Shape(split=True, branches=branches)
    log = [b'{"ts":%d,"key":"a","x":%d}' % (ts, x) for ts, x in ((0, 0), (0, 0), (1, 1), (2, 0))]
    assert run(shape.build(), {"in0": log}) == run(shape.build(), {"in0": log}, fused=False)


@given(shape=SHAPES, first=LOGS, second=LOGS, size=st.integers(1, 9))
@settings(max_examples=150)
def test_generated_loops_mean_what_the_plain_ones_do_behind_a_repartition(
    shape: Shape, first: list[bytes], second: list[bytes], size: int
) -> None:
    """Cut by repartition topics into three partitions, and fed the same slices, both loops agree byte for byte."""
    logs = {"in0": first, "in1": second} if shape.sources == 2 else {"in0": first}
    cut = Cut((size,), ("", "commit"))
    assert run(shape.build(), logs, cut, partitions=3) == run(shape.build(), logs, cut, fused=False, partitions=3)


@given(shape=SHAPES, log=SLOW_LOGS, cut=CUTS, decided=DECISIONS)
@settings(max_examples=150)
def test_decisions_of_a_clock_are_part_of_the_log(
    shape: Shape, log: list[bytes], cut: Cut, decided: list[Decided]
) -> None:
    """An input that falls idle, or flows, at some record gives the same however it is cut, and no crash revises it."""
    shape = replace(shape, sources=1)
    plain = run(shape.build(), {"in0": log}, fused=False, decided={"in0": decided})
    assert run(shape.build(), {"in0": log}, cut, decided={"in0": decided}) == plain


@given(
    shape=SHAPES,
    logs=st.tuples(SLOW_LOGS, SLOW_LOGS),
    cut=CUTS,
    decided=st.tuples(DECISIONS, DECISIONS),
    many=st.booleans(),
)
@settings(max_examples=150)
def test_generated_loops_take_decisions_as_the_plain_ones_do(
    shape: Shape,
    logs: tuple[list[bytes], ...],
    cut: Cut,
    decided: tuple[list[Decided], ...],
    many: bool,  # noqa: FBT001
) -> None:
    """Several inputs that fall silent and return, with and without a repartition, are the same to both."""
    sources = [f"in{number}" for number in range(shape.sources)]
    given_ = dict(zip(sources, logs, strict=False))
    when = dict(zip(sources, decided, strict=False))
    fused, plain = (
        run(shape.build(), given_, cut, fused=fused, partitions=3 if many else 1, decided=when)
        for fused in (True, False)
    )
    assert fused == plain


@given(shape=SHAPES, log=LOGS)
@settings(max_examples=100)
def test_state_is_empty_when_everything_has_closed(shape: Shape, log: list[bytes]) -> None:
    """Once W has passed every close, nothing is left but what an operator keeps for ever."""
    logs = {f"in{number}": log for number in range(shape.sources)}
    assert run(shape.build(), logs).left == {}
