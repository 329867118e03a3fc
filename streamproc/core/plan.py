"""Topology -> Plan: names, order, stages, and what each node does with records that it cannot process.

    graph of nodes --cut at re-keys--> stages, each fed by sources or repartition topics --one per partition--> tasks

With one partition everywhere nothing need cross a topic, so nothing is cut.  Everything that can be wrong with a
topology is found here or before, and said with what to do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import blake2b
from typing import Any

from streamproc.core.errors import TopologyError
from streamproc.core.joins import IntervalJoin
from streamproc.core.operators import Branch, Cross, KeyBy, Pass, Side, Sink, Split, hold, is_stateful
from streamproc.core.windowing import Folds, TrailingAggregate, WindowAggregate

NAME = re.compile(r"[a-z0-9_]+")
IDLE_TIMEOUT = 60_000
"""Milliseconds of silence after which an input is idle, unless its source says other (S17)."""
REASONS: Mapping[str, str] = {
    "deserialization_error": "fail",
    "invalid_timestamp": "fail",
    "future_timestamp": "fail",
    "processing_error": "fail",
    "null_key": "skip",
    "null_value": "skip",
    "expectation_failed": "fail",
    "late": "skip",
    "serialization_error": "fail",
    "production_error": "fail",
}
"""Every reason for not processing a record, with the action where there is no dead-letter topic (S42)."""
ACTIONS = ("dead_letter", "skip", "fail")
STAGES: Mapping[str, str] = {
    "deserialization_error": "deserialize",
    "invalid_timestamp": "deserialize",
    "future_timestamp": "deserialize",
    "late": "late",
    "serialization_error": "produce",
    "production_error": "produce",
}
"""The processing stage of a reason; the others belong to `process`."""


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A topic as a topology declares it; times in ms, `key` None where records bear no declared key."""

    topic: str
    type: Any
    event_time: Callable[[Any], Any] | None
    key: Any = None
    disorder: int = 0
    idle_timeout: int | None = IDLE_TIMEOUT
    max_future: int | None = 3_600_000
    start: Any = "earliest"


@dataclass(frozen=True, slots=True)
class Policy:
    """What `on_error` says of the node it follows; no reasons mean all of them."""

    reasons: tuple[str, ...]
    then: str
    retry: int = 0
    topic: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of a topology and where its records come from."""

    operator: Any
    parents: tuple[int, ...] = ()
    name: str = ""
    source: SourceSpec | None = None
    late: str | None = None


@dataclass(frozen=True, slots=True)
class Graph:
    """A topology as data: nodes in order of declaration, parents before children."""

    name: str
    app: str
    nodes: tuple[Node, ...]
    policies: Mapping[int, tuple[Policy, ...]]
    dead_letters: str | None = None
    all_idle: str = "hold"
    max_wait: int | None = 0


@dataclass(frozen=True, slots=True)
class Action:
    """What happens to a record that a node cannot process for one reason."""

    then: str
    topic: str | None = None
    retry: int = 0


@dataclass(frozen=True, slots=True)
class Place:
    """One node within a stage: its neighbours by number, and which watermark it has.

    `domain` is what its watermark combines: (source number, ms that path holds it back).
    """

    name: str
    kind: str
    operator: Any
    parents: tuple[int, ...]
    children: tuple[int, ...]
    actions: Mapping[str, Action]
    domain: tuple[tuple[int, int], ...]
    late: str | None = None

    @property
    def stateful(self) -> bool:
        return is_stateful(self.operator)

    @property
    def windowed(self) -> bool:
        return isinstance(self.operator, WindowAggregate | TrailingAggregate)

    @property
    def reasons(self) -> Mapping[str, str]:
        """The reasons that can occur at this node, with the action for each; of gaps and splits there is only one."""
        found = {reason: action.then for reason, action in self.actions.items()}
        if isinstance(self.operator, Split):
            found["unmatched"] = "skip"
        if isinstance(self.operator, WindowAggregate) and getattr(self.operator.window, "allow_gaps", False):
            found["gap"] = "skip"
        return found


@dataclass(frozen=True, slots=True)
class Inlet:
    """Where records enter a stage: a declared source, or a repartition topic of this plan."""

    topic: str
    place: int
    source: SourceSpec | None


@dataclass(frozen=True, slots=True)
class Stage:
    """A sub-topology: what can be worked off partition by partition, by a task for each.

    Places are in topological order.  All inlets have as many partitions as the stage.  `all_idle` is `hold` or
    `advance` (S18).
    """

    name: str
    places: tuple[Place, ...]
    inlets: tuple[Inlet, ...]
    crossings: tuple[str, ...]
    partitions: int = 1
    all_idle: str = "hold"

    @property
    def stateful(self) -> bool:
        """Whether its tasks have state beyond their position."""
        return any(place.stateful for place in self.places)


@dataclass(frozen=True, slots=True)
class Repartition:
    """A repartition topic: its partitions, and the stage whose tasks all write to each of them."""

    topic: str
    partitions: int
    stage: str
    tasks: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A topology ready to run: `counts` are the partitions of each source topic, `partitions` those of its outputs.

    `max_wait` is for how many ms an input without lag is awaited, None for as long as it takes (S39).
    """

    name: str
    app: str
    partitions: int
    stages: tuple[Stage, ...]
    dead_letters: tuple[str, ...]
    counts: Mapping[str, int]
    max_wait: int | None = 0

    @property
    def nodes(self) -> tuple[Place, ...]:
        return tuple(place for stage in self.stages for place in stage.places)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(sorted({inlet.topic for inlet in self.inlets if inlet.source is not None}))

    @property
    def inlets(self) -> tuple[Inlet, ...]:
        return tuple(inlet for stage in self.stages for inlet in stage.inlets)

    @property
    def repartitions(self) -> tuple[Repartition, ...]:
        """Every repartition topic, each in front of those of later stages."""
        landed = {inlet.topic: stage for stage in self.stages for inlet in stage.inlets if inlet.source is None}
        return tuple(
            Repartition(topic, landed[topic].partitions, stage.name, stage.partitions)
            for stage in self.stages
            for topic in stage.crossings
        )

    def changelog(self, stage: Stage) -> str:
        """The topic in which the tasks of a stage keep their state, where that is kept in topics."""
        return f"{self.app}-{stage.name}-changelog"

    @property
    def sinks(self) -> tuple[str, ...]:
        """Every topic that results or late records are written to."""
        topics = {topic for place in self.nodes if isinstance(place.operator, Sink) for topic in place.operator.topics}
        return tuple(sorted(topics | {place.late for place in self.nodes if place.late}))

    @property
    def layout(self) -> Mapping[str, str]:
        """What the state of each stateful node depends on: another layout cannot read it."""
        return {place.name: shown(place.operator) for place in self.nodes if place.stateful}

    @property
    def hash(self) -> str:
        """A short name for this plan: equal for equal structure, whatever the functions do."""
        drawn = [
            (
                stage.name,
                stage.partitions,
                [(place.name, shown(place.operator), place.parents) for place in stage.places],
            )
            for stage in self.stages
        ]
        return blake2b(repr((self.name, self.partitions, drawn)).encode(), digest_size=6).hexdigest()


def build(graph: Graph, partitions: int | Mapping[str, int] = 1) -> Plan:
    """The plan of a topology on so many partitions, or so many of each source topic.

    TopologyError where it cannot work.
    """
    if not any(node.source for node in graph.nodes):
        raise TopologyError(f"topology {graph.name!r} has no source: begin with topology.source(topic, type, ...)")
    _check_topics(graph)
    graph = replace(graph, nodes=_with_null_keys(graph.nodes))
    names = _names(graph)
    counts = _counts(graph, partitions)
    asked = [graph.nodes[rekey].operator.partitions or 1 for rekey in _behind_rekey(graph)]
    parted = max(*counts.values(), *asked, 1) > 1
    nodes, labels, origin = _cut(graph, names) if parted else (graph.nodes, names, range(len(graph.nodes)))
    stages = tuple(_stage(graph, nodes, labels, origin, members) for members in _components(nodes))
    if len({stage.name for stage in stages}) < len(stages):
        raise TopologyError("two sub-topologies have one name: give a key_by a name of its own with name=")
    dead = {action.topic for stage in stages for place in stage.places for action in place.actions.values()}
    return Plan(
        graph.name,
        graph.app,
        partitions if isinstance(partitions, int) else max(counts.values()),
        _counted(_ordered(stages), counts),
        tuple(sorted(topic for topic in dead if topic)),
        counts,
        graph.max_wait,
    )


def _with_null_keys(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The nodes, of which those that give keys let null ones pass where only joins follow that pad them (S30)."""
    followers: dict[int, list[int]] = {}
    padded = set[int]()
    for number, node in enumerate(nodes):
        for side, parent in enumerate(node.parents):
            followers.setdefault(parent, []).append(number)
            if isinstance(node.operator, IntervalJoin) and node.operator.pads(side):
                padded.add(parent)
    return tuple(
        replace(node, operator=replace(node.operator, nulls=True))
        if isinstance(node.operator, KeyBy) and number in followers and padded.issuperset(followers[number])
        else node
        for number, node in enumerate(nodes)
    )


def _counts(graph: Graph, partitions: int | Mapping[str, int]) -> dict[str, int]:
    """The partitions of each source topic."""
    topics = sorted({node.source.topic for node in graph.nodes if node.source})
    if isinstance(partitions, int):
        partitions = dict.fromkeys(topics, partitions)
    if missing := [topic for topic in topics if topic not in partitions]:
        raise TopologyError(f"source {missing[0]!r}: nothing says how many partitions it has")
    if few := [topic for topic in topics if partitions[topic] < 1]:
        raise TopologyError(f"source {few[0]!r}: {partitions[few[0]]} partitions; at least 1")
    return {topic: partitions[topic] for topic in topics}


def _counted(stages: tuple[Stage, ...], counts: Mapping[str, int]) -> tuple[Stage, ...]:
    """Each stage with its number of partitions (S45): that of its sources, else what its repartition topics need."""
    made: list[Stage] = []
    upstream: dict[str, int] = {}
    asked: dict[str, int] = {}
    for stage in stages:
        sources = {inlet.topic: counts[inlet.topic] for inlet in stage.inlets if inlet.source is not None}
        landings = [inlet.topic for inlet in stage.inlets if inlet.source is None]
        told = {topic: asked[topic] for topic in landings if topic in asked}
        if len(set(sources.values())) > 1 or (sources and set(told.values()) - set(sources.values())):
            raise TopologyError(_unequal(sources, told))
        if sources:
            partitions = max(sources.values())
        else:
            partitions = max((told or {topic: upstream[topic] for topic in landings}).values())
        made.append(replace(stage, partitions=partitions))
        for place in stage.places:
            if isinstance(place.operator, Cross):
                upstream[place.operator.topic] = partitions
                if place.operator.partitions is not None:
                    asked[place.operator.topic] = place.operator.partitions
    return tuple(made)


def _unequal(sources: Mapping[str, int], told: Mapping[str, int]) -> str:
    """What is wrong with topics that meet, and what to do."""
    have = [f"{topic!r} has {count}" for topic, count in sources.items()]
    want = [f"{topic!r} is to have {count}" for topic, count in told.items()]
    what = f"topics that meet need equal numbers of partitions: {', '.join(have + want)}"
    if len(set(sources.values())) == 1:
        return f"{what}; leave out partitions=... there, since key_by takes the number of the topics it meets"
    return f"{what}; make them equal, or let each get its key before they meet: a.key_by(f).merge(b.key_by(g))"


def _check_topics(graph: Graph) -> None:
    read = {node.source.topic for node in graph.nodes if node.source}
    written = {topic for node in graph.nodes if isinstance(node.operator, Sink) for topic in node.operator.topics}
    written |= {node.late for node in graph.nodes if node.late}
    written |= {policy.topic for policies in graph.policies.values() for policy in policies if policy.topic}
    written |= {graph.dead_letters} if graph.dead_letters else set()
    if loop := read & written:
        raise TopologyError(f"{min(loop)!r} is read and written by one topology: write to another topic")


def _names(graph: Graph) -> list[str]:
    """A name for every node: its own, or its kind and a number."""
    names: list[str] = []
    taken = {node.name for node in graph.nodes if node.name}
    seen: dict[str, int] = {}
    for node in graph.nodes:
        if node.name:
            names.append(node.name)
            continue
        stem = _stem(node)
        seen[stem] = seen.get(stem, 0) + 1
        name = stem if seen[stem] == 1 and stem not in taken else f"{stem}_{seen[stem]}"
        while name in taken:
            seen[stem] += 1
            name = f"{stem}_{seen[stem]}"
        taken.add(name)
        names.append(name)
    return names


def _stem(node: Node) -> str:
    if node.source is not None:
        return "source_" + _plain(node.source.topic)
    if isinstance(node.operator, Sink):
        return "to_" + (_plain(node.operator.topic) if isinstance(node.operator.topic, str) else "topics")
    if isinstance(node.operator, Side):
        return ("left", "right")[node.operator.number]
    if isinstance(node.operator, Branch):
        return "branch_" + _plain(node.operator.name)
    return kind(node.operator)


def _plain(topic: str) -> str:
    return re.sub(r"[^a-z0-9_]", "_", topic.lower())


def kind(operator: Any) -> str:
    """The kind of an operator in one word, as `describe` shows it."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(operator).__name__).lower()


def _cut(graph: Graph, names: list[str]) -> tuple[list[Node], list[str], list[int]]:
    """The graph with a crossing behind every re-key that a stateful node needs, and a landing in front of the rest."""
    behind = _behind_rekey(graph)
    taken = set(names)
    bases: set[str] = set()
    nodes: list[Node] = []
    labels: list[str] = []
    origin: list[int] = []
    moved: dict[int, int] = {}
    for number, node in enumerate(graph.nodes):
        parents = tuple(moved[parent] for parent in node.parents)
        nodes.append(replace(node, parents=parents))
        labels.append(names[number])
        origin.append(number)
        moved[number] = len(nodes) - 1
        if number in behind:
            base = _unused(node.name or names[behind[number]], bases)
            topic = f"{graph.app}-{base}-repartition"
            nodes += [Node(Cross(topic, node.operator.partitions), (len(nodes) - 1,)), Node(Landing(topic))]
            labels += [_unused(f"{base}_repartition", taken), _unused(f"{base}_landing", taken)]
            origin += [number, number]
            moved[number] = len(nodes) - 1
    return nodes, labels, origin


def _unused(name: str, taken: set[str]) -> str:
    """A name, or the first of name_2, name_3 ... that nobody has; it is taken from then on."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free


def _behind_rekey(graph: Graph) -> dict[int, int]:
    """Each re-key that has to cross a topic, with the first stateful node that makes it."""
    keyed_by: list[frozenset[int]] = []
    found: dict[int, int] = {}
    for number, node in enumerate(graph.nodes):
        above = frozenset[int]().union(*(keyed_by[parent] for parent in node.parents))
        if isinstance(node.operator, KeyBy):
            above = frozenset({number})
        elif is_stateful(node.operator):
            for rekey in above:
                found.setdefault(rekey, number)
        keyed_by.append(above)
    return found


@dataclass(frozen=True, slots=True)
class Landing(Pass):
    """Where the records of a repartition topic enter the next stage."""

    topic: str


def _components(nodes: Sequence[Node]) -> list[list[int]]:
    """The nodes that hang together, each group in order of declaration."""
    group = list(range(len(nodes)))

    def root(number: int) -> int:
        while group[number] != number:
            number = group[number]
        return number

    for number, node in enumerate(nodes):
        for parent in node.parents:
            low, high = sorted((root(parent), root(number)))
            group[high] = low
    members: dict[int, list[int]] = {}
    for number in range(len(nodes)):
        members.setdefault(root(number), []).append(number)
    return list(members.values())


def _stage(
    graph: Graph, nodes: Sequence[Node], labels: Sequence[str], origin: Sequence[int], members: list[int]
) -> Stage:
    """The nodes of one stage with their neighbours, watermarks and policies."""
    here = {number: index for index, number in enumerate(members)}
    inlets: list[Inlet] = []
    domains: list[dict[int, int]] = []
    places: list[Place] = []
    for number in members:
        node = nodes[number]
        parents = tuple(here[parent] for parent in node.parents)
        domain: dict[int, int] = {}
        if node.source is not None or isinstance(node.operator, Landing):
            domain[len(inlets)] = 0
            topic = node.source.topic if node.source is not None else node.operator.topic
            inlets.append(Inlet(topic, here[number], node.source))
        for parent in parents:
            for inlet, lag in domains[parent].items():
                domain[inlet] = max(domain.get(inlet, 0), lag + hold(nodes[members[parent]].operator))
        domains.append(domain)
        children = tuple(here[child] for child in members if number in nodes[child].parents)
        places.append(
            Place(
                labels[number],
                kind(node.operator),
                node.operator,
                parents,
                children,
                _actions(graph, origin[number], node, labels[number]),
                tuple(sorted(domain.items())),
                node.late,
            )
        )
    landings = sorted(inlet.topic for inlet in inlets if inlet.source is None)
    name = (
        landings[0].removeprefix(f"{graph.app}-").removesuffix("-repartition")
        if landings
        else min(_plain(inlet.topic) for inlet in inlets)
    )
    crossings = tuple(place.operator.topic for place in places if isinstance(place.operator, Cross))
    return Stage(name, tuple(places), tuple(inlets), crossings, all_idle=graph.all_idle)


def _ordered(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Stages so that each stands behind those that feed it."""
    placed: list[Stage] = []
    waiting = sorted(stages, key=lambda stage: stage.name)
    while waiting:
        fed_later = {topic for stage in waiting for topic in stage.crossings}
        ready = [stage for stage in waiting if not fed_later & {i.topic for i in stage.inlets if i.source is None}]
        placed += ready
        waiting = [stage for stage in waiting if stage not in ready]
    return tuple(placed)


def _actions(graph: Graph, origin: int, node: Node, label: str) -> Mapping[str, Action]:
    """What this node does for each reason that can occur at it."""
    actions = {}
    for reason in _possible(node):
        then = "dead_letter" if graph.dead_letters else REASONS[reason]
        action = Action(then, graph.dead_letters)
        for policy in graph.policies.get(origin, ()):
            if not policy.reasons or reason in policy.reasons:
                action = Action(policy.then, policy.topic or graph.dead_letters, policy.retry)
        if action.then == "dead_letter" and action.topic is None:
            raise TopologyError(
                f"on_error(then='dead_letter') after {label!r}: no dead-letter topic; "
                "say topic=... here or dead_letters=... on the Topology"
            )
        actions[reason] = action if action.then == "dead_letter" else replace(action, topic=None)
    return actions


def _possible(node: Node) -> tuple[str, ...]:
    """The reasons for which this node can fail to process a record."""
    found: tuple[str, ...] = ("processing_error",)
    match node.operator:
        case _ if node.source is not None:
            first = ("deserialization_error", "invalid_timestamp", "future_timestamp")
            found = (*first, "null_key") if node.source.key is not None else first
        case Sink():
            found = ("processing_error", "serialization_error", "production_error")
        case KeyBy():
            found = ("processing_error", "null_key")
        case Cross():
            found = ("serialization_error",)
        case Side():
            found = ()
        case operator if is_stateful(operator):
            found = ("processing_error", "late", "null_key")
            if not isinstance(operator, WindowAggregate | TrailingAggregate):
                found = (*found, "null_value")
            if node.late:
                found = (*found, "serialization_error")
    return found


def shown(part: Any) -> str:
    """A part of an operator in words: parameters as they are, functions as λ, whatever they are called."""
    if isinstance(part, Folds):
        many = list(map(shown, part.aggregates))
        return ", ".join(map("=".join, zip(part.names, many, strict=True)) if part.names else many)
    if callable(part) and not is_dataclass(part):
        return "λ"
    if is_dataclass(part) and not isinstance(part, type):
        if type(part).__str__ is not object.__str__ and "__str__" in vars(type(part)):
            return str(part)
        kept = [f"{field.name}={shown(getattr(part, field.name))}" for field in fields(part) if field.repr]
        return f"{type(part).__name__}({', '.join(kept)})"
    if isinstance(part, tuple):
        return "(" + ", ".join(map(shown, part)) + ")"
    return repr(part)
