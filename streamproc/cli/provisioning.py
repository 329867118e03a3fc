"""The topics that a topology needs on Kafka: which there are, which are not as they must be, and making the rest.

    sources                       somebody else's: must be there, unless their number of partitions is said
    sinks, late, dead letters     may have any number of partitions
    repartition, changelog        the topology's own: partitions and configs must be exactly these

Nothing that is there is ever changed or removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from streamproc.adapters.kafka import KafkaAdmin, Topic
from streamproc.cli import reading
from streamproc.core.errors import StateError
from streamproc.core.plan import Graph, Plan, build

Kind = Literal["source", "sink", "dead letters", "repartition", "changelog"]

DAY = 86_400_000
FOREVER = 2**63 - 1
REPLICATION = 3

TIMES = {"message.timestamp.type": "CreateTime", "message.timestamp.after.max.ms": str(FOREVER)}
"""Stamps are those of events, however far ahead of a broker's clock."""
CHANGELOG = {"cleanup.policy": "compact", "delete.retention.ms": str(DAY), **TIMES}
REPARTITION = {"cleanup.policy": "delete", "retention.ms": "-1", "segment.bytes": str(50 * 2**20), **TIMES}


@dataclass(frozen=True, slots=True)
class Needed:
    """One topic as it must be; `partitions` is how many it must have, or how many it gets if any number will do."""

    name: str
    kind: Kind
    partitions: int
    configs: Mapping[str, str] = field(default_factory=dict)

    @property
    def own(self) -> bool:
        """Whether it is the topology's alone, so that it has to be exactly so."""
        return self.kind in {"repartition", "changelog"}

    def miscounted(self, there: Topic) -> str:
        """What is wrong with the number of partitions of the topic that is there, and what to do; "" for nothing."""
        if there.partitions == self.partitions:
            return ""
        return (
            f"it has {there.partitions} partitions and the plan needs {self.partitions}, because the number of "
            "partitions of a source has changed: go back to that number, or begin anew under another app name"
        )

    def misconfigured(self, there: Topic) -> list[str]:
        """What is wrong with its configs, and what to do."""
        return [
            f"{name} is {there.configs[name]} and must be {wanted}: kafka-configs.sh --alter --entity-type topics "
            f"--entity-name {self.name} --add-config {name}={wanted}"
            for name in ("cleanup.policy", "retention.ms", "message.timestamp.type")
            if (wanted := self.configs.get(name)) is not None and there.configs.get(name, wanted) != wanted
        ]


@dataclass(frozen=True, slots=True)
class Finding:
    """One topic as it is: there, missing and to be created, or wrong in a way that must be mended by hand."""

    needed: Needed
    state: Literal["exists", "create", "wrong"]
    partitions: int
    replication: int
    why: str = ""

    def row(self) -> dict[str, Any]:
        """It as a row."""
        needed = self.needed
        return {
            "topic": needed.name,
            "kind": needed.kind,
            "state": self.state,
            "partitions": self.partitions,
            "replication": self.replication,
            "configs": dict(needed.configs),
            **({"why": self.why} if self.why else {}),
        }

    def topic(self) -> Topic:
        """The topic as it is created."""
        safe = {"min.insync.replicas": "2"} if self.replication >= REPLICATION else {}
        return Topic(self.needed.name, self.needed.partitions, self.replication, {**self.needed.configs, **safe})


def needed(plan: Plan) -> list[Needed]:
    """Every topic that a plan reads or writes, in the order in which they are spoken of."""
    found = [Needed(topic, "source", count) for topic, count in sorted(plan.counts.items())]
    found += [Needed(topic, "sink", plan.partitions) for topic in plan.sinks]
    found += [Needed(topic, "dead letters", plan.partitions) for topic in plan.dead_letters if topic not in plan.sinks]
    found += [Needed(each.topic, "repartition", each.partitions, REPARTITION) for each in plan.repartitions]
    found += [Needed(plan.changelog(stage), "changelog", stage.partitions, CHANGELOG) for stage in plan.stages]
    return found


async def findings(
    admin: KafkaAdmin, graph: Graph, partitions: int | None = None, replication: int | None = None
) -> list[Finding]:
    """What there is and what is not of the topics that a topology needs.

    StateError for a source that is not there, unless `partitions` says how many it is to have.
    """
    sources = await admin.describe_topics(reading.sources(graph))
    counts = {topic: found.partitions for topic, found in sources.items()}
    for topic in reading.sources(graph):
        if topic not in counts and partitions is None:
            raise StateError(
                f"topic {topic!r}, which {graph.name} reads, does not exist: create it, or say --partitions N to have "
                "it created with so many"
            )
        counts.setdefault(topic, partitions or 1)
    wanted = needed(build(graph, counts))
    brokers = await admin.brokers()
    copies = replication or (REPLICATION if brokers >= REPLICATION else 1)
    there = await admin.describe_topics([each.name for each in wanted])
    return [_compared(each, there.get(each.name), copies) for each in wanted]


def _compared(needed: Needed, there: Topic | None, copies: int) -> Finding:
    if there is None:
        return Finding(needed, "create", needed.partitions, copies)
    wrong = [why for why in (needed.miscounted(there), *needed.misconfigured(there)) if why] if needed.own else []
    return Finding(needed, "wrong" if wrong else "exists", there.partitions, there.replication, "; ".join(wrong))


def text(finding: Finding) -> str:
    """A finding for people."""
    needed = finding.needed
    words = {"exists": "exists", "create": "to be created", "wrong": "WRONG"}[finding.state]
    line = f"{words:14} {needed.kind:13} {needed.name}  {finding.partitions} partitions, {finding.replication} replicas"
    return f"{line}\n{'':14} {finding.why}" if finding.why else line
