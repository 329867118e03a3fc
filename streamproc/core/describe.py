"""A plan as words and pictures: a tree for terminals, mermaid and dot for documents, plain data for programs.

    outline(plan) --> tree(plan), mermaid(plan), dot(plan)

Everything shown is a function of the plan's structure, so the same topology gives the same text in every process:
functions are λ, and nothing depends on addresses or the order of sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeAlias

from streamproc.core.instants import text
from streamproc.core.operators import Cross, Sink
from streamproc.core.plan import IDLE_TIMEOUT, Inlet, Place, Plan, SourceSpec, Stage, shown

_Node: TypeAlias = Mapping[str, Any]


def outline(plan: Plan) -> dict[str, Any]:
    """The plan as plain data, ready for JSON: stages with their inlets and nodes, topics by role."""
    return {
        "name": plan.name,
        "app": plan.app,
        "hash": plan.hash,
        "partitions": plan.partitions,
        "sources": list(plan.sources),
        "sinks": list(plan.sinks),
        "dead_letters": list(plan.dead_letters),
        "repartitions": [each.topic for each in plan.repartitions],
        "stages": [_stage(stage) for stage in plan.stages],
    }


def _stage(stage: Stage) -> dict[str, Any]:
    entries = {inlet.place: inlet for inlet in stage.inlets}
    return {
        "name": stage.name,
        "partitions": stage.partitions,
        "nodes": [_node(stage, place, entries.get(number)) for number, place in enumerate(stage.places)],
    }


def _node(stage: Stage, place: Place, inlet: Inlet | None) -> dict[str, Any]:
    source = inlet is not None and inlet.source is not None
    return {
        "name": place.name,
        "kind": "source" if source else place.kind,
        "parameters": _source(inlet.source) if inlet is not None and inlet.source is not None else parameters(place),
        "parents": [stage.places[parent].name for parent in place.parents],
        "reads": None if inlet is None else inlet.topic,
        "writes": _writes(place),
        "late": place.late,
        "stateful": place.stateful,
        "on_error": _actions(place),
    }


def _actions(place: Place) -> dict[str, str]:
    """What happens to a record the node cannot process, by reason: an action, and where it leads."""
    found = {}
    for reason, action in sorted(place.actions.items()):
        words = [action.then, *([action.topic] if action.topic else [])]
        words += [f"after {action.retry} retries"] if action.retry else []
        found[reason] = " ".join(words)
    return found


def _writes(place: Place) -> list[str]:
    if isinstance(place.operator, Sink):
        return list(place.operator.topics)
    return [place.operator.topic] if isinstance(place.operator, Cross) else []


def _source(spec: SourceSpec) -> dict[str, str]:
    """What a source declares, without what was left as it is."""
    found = {"type": _type(spec.type)}
    if spec.key is not None:
        found["key"] = _type(spec.key)
    if spec.event_time is not None:
        found["event_time"] = "λ"
    found["disorder"] = text(spec.disorder)
    if spec.idle_timeout != IDLE_TIMEOUT:
        found["idle_timeout"] = "None" if spec.idle_timeout is None else text(spec.idle_timeout)
    if spec.max_future is None:
        found["max_future"] = "None"
    if spec.start != "earliest":
        found["start"] = str(spec.start)
    return found


def _type(declared: Any) -> str:
    return declared.__name__ if isinstance(declared, type) else str(declared)


def parameters(place: Place) -> dict[str, str]:
    """What a node's operator was given, in words, without what is as it would be anyway."""
    operator = place.operator
    if not is_dataclass(operator):
        return {}
    found = {}
    for one in fields(operator):
        given = getattr(operator, one.name)
        if one.repr and (one.default is MISSING or given != one.default):
            found[one.name] = shown(given)
    if isinstance(operator, Sink):
        found.pop("topics")
        found["topic"] = " | ".join(operator.topics)
    return found


def tree(plan: Plan) -> str:
    """The plan as an indented tree; a node with several parents is drawn under the first and named under the rest."""
    lines = [f"{plan.name} ({_partitions(plan.partitions)}, plan {plan.hash})"]
    for stage in outline(plan)["stages"]:
        count = "" if stage["partitions"] == plan.partitions else f" ({_partitions(stage['partitions'])})"
        lines += ["", f"sub-topology {stage['name']}{count}"]
        children: dict[str, list[_Node]] = {}
        for node in stage["nodes"]:
            for parent in node["parents"]:
                children.setdefault(parent, []).append(node)
        for node in stage["nodes"]:
            if not node["parents"]:
                lines += _branch(node, children, "", "")
    if plan.dead_letters:
        lines += ["", f"dead letters ==> {' | '.join(plan.dead_letters)}"]
    return "\n".join(lines) + "\n"


def _partitions(count: int) -> str:
    return f"{count} partition{'s' if count > 1 else ''}"


def _branch(node: _Node, children: Mapping[str, list[_Node]], lead: str, below: str) -> Iterator[str]:
    """A node and all that is drawn under it; `lead` stands before its line, `below` before the lines under it."""
    yield lead + _line(node)
    under = children.get(node["name"], [])
    for child in under:
        fork, bar = ("└─ ", "   ") if child is under[-1] else ("├─ ", "│  ")
        first = child["parents"][0]
        if first == node["name"]:
            yield from _branch(child, children, below + fork, below + bar)
        else:
            yield f"{below}{fork}{child['name']} (drawn under {first})"


def _line(node: _Node) -> str:
    """A node in one line: what it reads, its name, kind and parameters, and what it writes."""
    kind = "" if node["kind"] == node["name"] else f" [{node['kind']}]"
    line = " ".join([node["name"] + kind, *_given(node)])
    if node["reads"]:
        line = f"{node['reads']} ==> {line}"
    if node["writes"]:
        line = f"{line} ==> {' | '.join(node['writes'])}"
    return line + (f" (late ==> {node['late']})" if node["late"] else "")


def _given(node: _Node) -> list[str]:
    return [f"{name}={value}" for name, value in node["parameters"].items() if name != "topic"]


def mermaid(plan: Plan) -> str:
    """The plan as a mermaid flowchart: a box for each sub-topology, a cylinder for each topic."""
    drawn = outline(plan)
    topics = _topics(drawn)
    lines = ["flowchart LR"]
    lines += [f'    t{number}[("{_html(topic)}")]' for topic, number in topics.items()]
    for number, stage in enumerate(drawn["stages"]):
        lines.append(f'    subgraph s{number}["{_html(stage["name"])}"]')
        for node in stage["nodes"]:
            label = "<br/>".join(map(_html, _label(node)))
            lines.append(f'        n_{node["name"]}["{label}"]')
        lines.append("    end")
    lines += [f"    {left} {'-.->' if dotted else '-->'} {right}" for left, right, dotted in _edges(drawn, topics)]
    return "\n".join(lines) + "\n"


def dot(plan: Plan) -> str:
    """The plan in the language of Graphviz: a cluster for each sub-topology, a cylinder for each topic."""
    drawn = outline(plan)
    topics = _topics(drawn)
    lines = [f"digraph {_quoted(plan.name)} {{", "    rankdir=LR;", "    node [shape=box];"]
    lines += [f"    t{number} [shape=cylinder label={_quoted(topic)}];" for topic, number in topics.items()]
    for number, stage in enumerate(drawn["stages"]):
        lines += [f"    subgraph cluster_{number} {{", f"        label={_quoted(stage['name'])};"]
        lines += [f"        n_{node['name']} [label={_quoted(*_label(node))}];" for node in stage["nodes"]]
        lines.append("    }")
    for left, right, dotted in _edges(drawn, topics):
        lines.append(f"    {left} -> {right}{' [style=dotted]' if dotted else ''};")
    return "\n".join([*lines, "}"]) + "\n"


def _label(node: _Node) -> list[str]:
    kind = [] if node["kind"] == node["name"] else [node["kind"]]
    return [node["name"], *kind, *_given(node)]


def _topics(drawn: Mapping[str, Any]) -> dict[str, int]:
    """Every topic that records pass through, numbered in the order of the alphabet."""
    named = {*drawn["sources"], *drawn["sinks"], *drawn["repartitions"]}
    return {topic: number for number, topic in enumerate(sorted(named))}


def _edges(drawn: Mapping[str, Any], topics: Mapping[str, int]) -> Iterator[tuple[str, str, bool]]:
    """What leads where, as t0 for topics and n_name for nodes; the way of late records is dotted."""
    for stage in drawn["stages"]:
        for node in stage["nodes"]:
            here = f"n_{node['name']}"
            if node["reads"]:
                yield f"t{topics[node['reads']]}", here, False
            for parent in node["parents"]:
                yield f"n_{parent}", here, False
            for topic in node["writes"]:
                yield here, f"t{topics[topic]}", False
            if node["late"]:
                yield here, f"t{topics[node['late']]}", True


def _html(label: str) -> str:
    """Text within a mermaid label: what would end it or be read as markup is written as an entity."""
    for sign, entity in (("&", "amp"), ('"', "quot"), ("<", "lt"), (">", "gt")):
        label = label.replace(sign, f"&{entity};")
    return label


def _quoted(*lines: str) -> str:
    """Lines as one string of Graphviz."""
    return '"' + "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'
