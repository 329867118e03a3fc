"""A small plan and what a step over it may count, shared by the tests beside this file."""

from dataclasses import dataclass, field

from streamproc.core.batch import Counts, DeadLetter, Emit, Step
from streamproc.ports import Commit


@dataclass(frozen=True)
class Node:
    """A node as observers see it."""

    name: str
    windowed: bool = False
    stateful: bool = False
    reasons: dict[str, str] = field(default_factory=dict)
    late: str | None = None


@dataclass(frozen=True)
class Inlet:
    """Where records of a topic enter a stage."""

    topic: str
    place: int


@dataclass(frozen=True)
class Stage:
    """Nodes that run together."""

    places: tuple[Node, ...]
    inlets: tuple[Inlet, ...]
    name: str = "clicks"
    partitions: int = 2


@dataclass(frozen=True)
class Plan:
    """A topology ready to run."""

    stages: tuple[Stage, ...]
    name: str = "orders"
    hash: str = "c0ffee"
    sources: tuple[str, ...] = ("clicks",)
    sinks: tuple[str, ...] = ("totals",)
    dead_letters: tuple[str, ...] = ("poison",)
    partitions: int = 2

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes of all stages."""
        return tuple(place for stage in self.stages for place in stage.places)


PLAN = Plan(
    (
        Stage(
            (
                Node(
                    "source_clicks",
                    reasons={"deserialization_error": "dead_letter", "future_timestamp": "skip"},
                ),
                Node(
                    "per_user",
                    windowed=True,
                    stateful=True,
                    reasons={"processing_error": "dead_letter", "late": "skip", "null_key": "skip"},
                ),
                Node("to_totals", reasons={"serialization_error": "fail"}),
            ),
            (Inlet("clicks", 0),),
        ),
    )
)


def letter(offset: int = 7, node: str = "per_user", **other: object) -> DeadLetter:
    """A dead letter of clicks-1 with a payload that nobody may print."""
    fields: dict[str, object] = {
        "topic": "poison",
        "reason": "processing_error",
        "stage": "process",
        "node": node,
        "key": b"canary-key",
        "value": b"canary-value",
        "headers": (("canary-header", b"canary-header"),),
        "source": "clicks",
        "partition": 1,
        "offset": offset,
        "at": 1000,
        "watermark": 500,
        "exception": "KeyError",
        "message": "canary-message",
    }
    return DeadLetter(**(fields | other))  # type: ignore[arg-type]


def busy_step() -> Step:
    """A step in which everything happens that the plan allows."""
    counts = Counts(
        records_in={"source_clicks": 10, "per_user": 8},
        records_out={"source_clicks": 8, "per_user": 2},
        opened={"per_user": 5},
        closed={"per_user": 2},
        updated={"per_user": 4},
        late={("per_user", "skip"): 3},
        refused={"per_user": 6},
        dropped={("per_user", "null_key", "skip"): 1},
        errors={
            ("source_clicks", "deserialization_error", "dead_letter"): 2,
            ("source_clicks", "future_timestamp", "skip"): 1,
        },
        retries={"per_user": 1},
    )
    return Step(counts=counts, watermarks={"source_clicks": 2500, "per_user": 1500})


def full_commit() -> Commit:
    """Two results for one topic, of 3 + 4 + 2 and 5 bytes."""
    rows = [Emit(b"key", b"four", 0, (("h", b"x"),), None), Emit(None, b"fives", 0, (), None)]
    return Commit(emits={("totals", 0): rows})
