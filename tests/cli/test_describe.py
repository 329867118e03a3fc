"""A plan as words and pictures: the same in every process, and everything in it is drawn."""

import json
import subprocess
import sys

import pytest

from streamproc import Count, Max, Topology, Trailing, Tumbling
from streamproc.core.describe import dot, mermaid, outline, tree
from streamproc.core.plan import Plan, build
from tests.embedded.kills import ROOT, environment
from tests.embedded.topologies import Click


def shop() -> Topology:
    """One node of most kinds."""
    topology = Topology("shop", dead_letters="dead")
    clicks = topology.source("clicks", Click, event_time=lambda c: c.ts, disorder="5s", max_future=None)
    views = topology.source("views", Click, event_time=lambda c: c.ts, key=str)
    ways = clicks.filter(lambda c: c.n > 0).split(big=lambda c: c.n > 9, rest=lambda c: c.n >= 0)
    ways["big"].to("big")
    by_user = ways["rest"].key_by(lambda c: c.user)
    windows = by_user.merge(views).window(Tumbling("1m", grace="30s"), late="late")
    windows.count(name="per_minute").on_error("processing_error", then="skip", retry=2).to("counts")
    trailing = by_user.window(Trailing("10m")).agg(n=Count(), top=Max(of=lambda c: c.n), name="lately")
    trailing.to(lambda w: "high" if w.value.n > 9 else "low", topics=["high", "low"])
    return topology


def plan(partitions: int = 1) -> Plan:
    """The plan of the shop."""
    return build(shop().graph(), partitions)


def test_a_tree_shows_every_node_once() -> None:
    """A node with two parents is drawn under the first and named under the other."""
    assert tree(plan()).splitlines()[1:] == [
        "",
        "sub-topology clicks",
        "clicks ==> source_clicks [source] type=Click event_time=λ disorder=5s max_future=None",
        "└─ filter f=λ",
        "   └─ split branches=(('big', λ), ('rest', λ))",
        "      ├─ branch_big [branch] name='big'",
        "      │  └─ to_big [sink] ==> big",
        "      └─ branch_rest [branch] name='rest'",
        "         └─ key_by f=λ",
        "            ├─ pass",
        "            │  └─ per_minute [window_aggregate] window=tumbling 1m grace 30s folds=Count() (late ==> late)",
        "            │     └─ to_counts [sink] ==> counts",
        "            └─ lately [trailing_aggregate] window=trailing 10m folds=n=Count(), top=Max(of=λ)",
        "               └─ to_topics [sink] ==> high | low",
        "views ==> source_views [source] type=Click key=str event_time=λ disorder=0ms",
        "└─ pass (drawn under key_by)",
        "",
        "dead letters ==> dead",
    ]


def test_several_partitions_show_what_crosses_a_topic() -> None:
    """A re-key before a stateful node cuts the plan, and the repartition topic stands on both sides of the cut."""
    lines = tree(plan(2)).splitlines()
    assert [line.strip(" └─├│") for line in lines if "repartition" in line] == [
        "per_minute_repartition [cross] ==> shop-per_minute-repartition",
        "shop-per_minute-repartition ==> per_minute_landing [landing]",
    ]
    assert lines[0] == f"shop (2 partitions, plan {plan(2).hash})"


def test_mermaid_joins_topics_and_nodes() -> None:
    """Topics are cylinders, sub-topologies boxes, and the way of late records is dotted."""
    lines = [line.strip() for line in mermaid(plan()).splitlines()]
    assert lines[:3] == ["flowchart LR", 't0[("big")]', 't1[("clicks")]']
    assert 'subgraph s0["clicks"]' in lines
    assert 'n_filter["filter<br/>f=λ"]' in lines
    assert [line for line in lines if line.startswith("n_per_minute ")] == [
        "n_per_minute -.-> t4",
        "n_per_minute --> n_to_counts",
    ]


def test_dot_joins_topics_and_nodes() -> None:
    """The same picture for Graphviz."""
    lines = [line.strip() for line in dot(plan()).splitlines()]
    assert lines[:4] == ['digraph "shop" {', "rankdir=LR;", "node [shape=box];", 't0 [shape=cylinder label="big"];']
    assert r'n_filter [label="filter\nf=λ"];' in lines
    assert "n_per_minute -> t4 [style=dotted];" in lines
    assert lines[-1] == "}"


def test_an_outline_is_plain_data() -> None:
    """Programs get names, kinds, parameters, edges, topics and what happens to bad records."""
    drawn = json.loads(json.dumps(outline(plan())))
    nodes = {node["name"]: node for node in drawn["stages"][0]["nodes"]}
    assert (drawn["sources"], drawn["sinks"]) == (["clicks", "views"], ["big", "counts", "high", "late", "low"])
    assert nodes["per_minute"] == {
        "name": "per_minute",
        "kind": "window_aggregate",
        "parameters": {"window": "tumbling 1m grace 30s", "folds": "Count()"},
        "parents": ["pass"],
        "reads": None,
        "writes": [],
        "late": "late",
        "stateful": True,
        "on_error": {
            "late": "dead_letter dead",
            "null_key": "dead_letter dead",
            "processing_error": "skip after 2 retries",
            "serialization_error": "dead_letter dead",
        },
    }


@pytest.mark.parametrize("draw", [tree, mermaid, dot])
def test_a_name_cannot_break_a_picture(draw: object) -> None:
    """Signs that mean something to mermaid or Graphviz are written so that they mean themselves."""
    assert callable(draw)
    topology = Topology("odd")
    topology.source('a"<b>\\', Click, event_time=lambda c: c.ts).to("end")
    drawn = draw(build(topology.graph()))
    assert {tree: 'a"<b>\\', mermaid: "a&quot;&lt;b&gt;\\", dot: 'a\\"<b>\\\\'}[draw] in drawn


def test_a_picture_is_the_same_in_every_process() -> None:
    """Nothing of a picture depends on hash seeds or addresses."""
    script = (
        "from tests.cli.test_describe import *; print(tree(plan(3)), mermaid(plan(3)), dot(plan(3)), outline(plan(3)))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=environment() | {"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
