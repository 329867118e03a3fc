"""What can be found wrong with a topology before it runs, each finding with a code that has a page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from streamproc.core.errors import TopologyError
from streamproc.core.operators import Cross, Sink
from streamproc.core.plan import Graph, Plan, build
from streamproc.topology import Topology


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: its code, how bad it is, the node or topic it is about, and what to do."""

    code: str
    severity: Literal["error", "warning"]
    about: str
    message: str


def findings(load: Callable[[], Topology], partitions: int, *, stamped: bool = False) -> list[Finding]:
    """Everything found, in the order of codes and then of nodes; `stamped` inputs bear timestamps of their own."""
    try:
        graph = load().graph()
        plan = build(graph, partitions)
    except TopologyError as error:
        return [Finding("SP100", "error", "topology", str(error))]
    found = [*_unused(plan), *_nothing_written(plan), *(() if stamped else _times(plan)), *_late(plan, graph)]
    return sorted(found, key=lambda one: one.code)


def _unused(plan: Plan) -> Iterator[Finding]:
    for place in plan.nodes:
        if not place.children and not isinstance(place.operator, Sink | Cross):
            yield Finding(
                "SP101", "warning", place.name, f"nothing follows {place.name!r}: write it with to(), or remove it"
            )


def _nothing_written(plan: Plan) -> Iterator[Finding]:
    if not plan.sinks:
        yield Finding("SP102", "error", plan.name, f"{plan.name} writes to no topic: end a stream with to()")


def _times(plan: Plan) -> Iterator[Finding]:
    for inlet in plan.inlets:
        if inlet.source is not None and inlet.source.event_time is None:
            yield Finding(
                "SP401",
                "error",
                inlet.topic,
                f"source {inlet.topic!r} has no event_time, and JSON lines bear no timestamps: say event_time=",
            )


def _late(plan: Plan, graph: Graph) -> Iterator[Finding]:
    chosen = {
        graph.nodes[number].name
        for number, policies in graph.policies.items()
        if any(not policy.reasons or "late" in policy.reasons for policy in policies)
    }
    for place in plan.nodes:
        if place.windowed and place.late is None and place.actions["late"].then == "skip" and place.name not in chosen:
            yield Finding(
                "SP403",
                "warning",
                place.name,
                f"late records of {place.name!r} are counted and gone: say late=TOPIC, dead_letters=TOPIC on the "
                'topology, or .on_error("late", then="skip") if that is meant',
            )


def written(found: Sequence[Finding], form: Literal["text", "json", "github"]) -> Iterator[str]:
    """The findings as lines of text, JSON, or annotations of a workflow."""
    for one in found:
        match form:
            case "json":
                yield json.dumps(asdict(one), ensure_ascii=False)
            case "github":
                yield f"::{one.severity} title={one.code} {one.about}::{_escaped(one.message)}"
            case "text":
                yield f"{one.code} {one.severity}: {one.message}"
    if form == "text" and not found:
        yield "nothing found"


def _escaped(message: str) -> str:
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
