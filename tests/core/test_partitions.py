"""How many partitions each stage of a plan has, and that results do not depend on it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from streamproc import Topology, TopologyError, Tumbling
from streamproc.core.describe import outline, tree
from streamproc.core.plan import Plan, Repartition, build
from streamproc.testing import TestDriver
from tests.laws import Event


def counts(plan: Plan) -> dict[str, int]:
    """The partitions of each stage."""
    return {stage.name: stage.partitions for stage in plan.stages}


def source(topology: Topology, number: int, **how: Any) -> Any:
    """A source of events."""
    return topology.source(f"in{number}", Event, event_time=lambda e: e.ts, disorder="1m", max_future=None, **how)


def rekeyed(partitions: int | None = None) -> Topology:
    """Events counted by another key."""
    topology = Topology("law")
    keyed = source(topology, 0).key_by(lambda e: e.key, partitions=partitions)
    keyed.window(Tumbling("10ms")).count(name="w").to("out")
    return topology


def met(partitions: int | None = None, *, rekey: bool) -> Topology:
    """Two sources that meet in a window; the second is partitioned by its keys, or gets them like the first."""
    topology = Topology("law")
    first = source(topology, 0).key_by(lambda e: e.key, partitions=partitions, name="first")
    second = source(topology, 1).key_by(lambda e: e.key) if rekey else source(topology, 1, key=str)
    first.merge(second).window(Tumbling("10ms")).count(name="w").to("out")
    return topology


def test_a_repartition_topic_is_as_wide_as_its_source() -> None:
    """Unless said otherwise; nothing is cut where everything has one partition."""
    assert counts(build(rekeyed().graph(), {"in0": 3})) == {"in0": 3, "w": 3}
    assert counts(build(rekeyed(5).graph(), {"in0": 3})) == {"in0": 3, "w": 5}
    assert counts(build(rekeyed(5).graph())) == {"in0": 1, "w": 5}
    assert counts(build(rekeyed(1).graph(), 4)) == {"in0": 4, "w": 1}
    assert counts(build(rekeyed(1).graph())) == {"in0": 1}
    assert counts(build(rekeyed().graph(), {"in0": 1})) == {"in0": 1}


def test_repartition_topics_take_the_number_of_the_topics_they_meet() -> None:
    """That of a source partner; among themselves the greatest, of those that were said if any was."""
    assert counts(build(met(rekey=False).graph(), {"in0": 3, "in1": 4})) == {"in0": 3, "first": 4}
    assert counts(build(met(rekey=True).graph(), {"in0": 6, "in1": 8})) == {"in0": 6, "in1": 8, "first": 8}
    assert counts(build(met(7, rekey=True).graph(), {"in0": 6, "in1": 8})) == {"in0": 6, "in1": 8, "first": 7}


def test_a_key_that_nothing_depends_on_cuts_nothing() -> None:
    """The number of a repartition topic says nothing where there is none."""
    topology = Topology("law")
    keyed = source(topology, 0).key_by(lambda e: e.key, partitions=5)
    keyed.to("keyed")
    keyed.key_by(lambda e: e.x).window(Tumbling("10ms")).count(name="w").to("out")
    assert counts(build(topology.graph())) == {"in0": 1}
    assert counts(build(topology.graph(), 2)) == {"in0": 2, "w": 2}


def test_a_plan_names_the_topics_that_it_needs() -> None:
    """Repartition topics with their width and those who write to them, changelogs for stages with state."""
    plan = build(rekeyed(5).graph(), {"in0": 3})
    assert plan.repartitions == (Repartition("law-w-repartition", 5, "in0", 3),)
    assert [(stage.stateful, plan.changelog(stage)) for stage in plan.stages] == [
        (False, "law-in0-changelog"),
        (True, "law-w-changelog"),
    ]


def test_another_number_is_another_plan() -> None:
    """The hash of a plan tells widths apart, of a stage as well as of all."""
    plans = [build(rekeyed(n).graph(), {"in0": m}) for n in (2, 3) for m in (3, 4)]
    assert len({plan.hash for plan in plans}) == 4
    assert build(rekeyed().graph(), 3).hash == build(rekeyed().graph(), {"in0": 3}).hash


def test_a_tree_says_where_a_stage_is_wider() -> None:
    """A stage with another number than its topology shows it."""
    plan = build(rekeyed(5).graph(), 3)
    assert [line for line in tree(plan).splitlines() if line.startswith("sub-")] == [
        "sub-topology in0",
        "sub-topology w (5 partitions)",
    ]
    assert [stage["partitions"] for stage in outline(plan)["stages"]] == [3, 5]


@pytest.mark.parametrize(
    ("topology", "partitions", "said"),
    [
        (met(rekey=False), {"in0": 1}, "nothing says how many partitions"),
        (met(rekey=False), {"in0": 1, "in1": 0}, "at least 1"),
        (met(9, rekey=False), {"in0": 3, "in1": 4}, "'in1' has 4, 'law-first-repartition' is to have 9; leave out"),
    ],
)
def test_what_cannot_meet_is_refused(topology: Topology, partitions: Mapping[str, int], said: str) -> None:
    """With the topics, their numbers, and what to do."""
    with pytest.raises(TopologyError, match=said):
        build(topology.graph(), partitions)


def test_sources_that_meet_need_equal_numbers() -> None:
    """Their partitions are worked off together, so 6 and 8 are refused, and a key of their own puts it right."""
    topology = Topology("law")
    source(topology, 0, key=str).merge(source(topology, 1, key=str)).window(Tumbling("1s")).count(name="w").to("out")
    with pytest.raises(TopologyError, match=r"'in0' has 6, 'in1' has 8; make them equal, or .*key_by"):
        build(topology.graph(), {"in0": 6, "in1": 8})
    assert counts(build(topology.graph(), {"in0": 6, "in1": 6})) == {"in0": 6}


@pytest.mark.parametrize("partitions", [0, -1, True, 2.0])
def test_a_number_of_partitions_is_a_number(partitions: Any) -> None:
    """At least 1."""
    with pytest.raises(TopologyError, match="partitions="):
        source(Topology("law"), 0).key_by(lambda e: e.key, partitions=partitions)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("spread", [{"in0": 1, "in1": 1}, {"in0": 3, "in1": 2}, {"in0": 2, "in1": 5}])
def test_results_do_not_depend_on_the_number(spread: Mapping[str, int], fused: bool) -> None:  # noqa: FBT001
    """Three in and seven out, with crashes: the final results are those of one partition (law 20)."""
    chance = random.Random(7)
    sent = [
        (f"in{chance.randrange(2)}", Event(chance.randrange(100), chance.choice("abcd"), 0)) for _ in range(120)
    ]  # fmt: skip

    def results(partitions: int | Mapping[str, int], width: int | None) -> list[str]:
        with TestDriver(met(width, rekey=True), partitions=partitions, fused=fused) as t:
            for number, (topic, event) in enumerate(sent):
                t.send(topic, event)
                if number % 50 == 49:
                    t.restart()
            t.end()
            return sorted(map(repr, t.read("out")))

    assert results(spread, 7) == results(1, None) != []
