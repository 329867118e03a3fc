"""What a run is made of: inputs and outputs from the command line, the state file, and the checks of all three."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from streamproc.adapters.codecs import JsonSerde, field_of
from streamproc.adapters.jsonlines import JsonLinesOutput, JsonLinesSource, StdoutOutput
from streamproc.adapters.packing import merge, pack, unpack
from streamproc.adapters.sqlite import SqliteLog
from streamproc.config import Config
from streamproc.core.batch import Change
from streamproc.core.errors import ConfigError
from streamproc.core.partition import partition
from streamproc.core.plan import Plan
from streamproc.ports import Commit, Log
from streamproc.runners.embedded import Output

STANDARD = "-"


class Input(NamedTuple):
    """One `--input`: the topic, the field that holds its key, and where its lines are."""

    topic: str
    field: str | None
    path: str


def inputs(given: Sequence[str], plan: Plan) -> list[Input]:
    """The inputs of a plan, one for each of its sources; ConfigError otherwise, with what there is."""
    found: dict[str, Input] = {}
    sources = ", ".join(plan.sources)
    for text in given:
        name, sign, path = text.partition("=")
        topic, _, field = name.partition(":")
        if not sign or not topic or not path:
            raise ConfigError(f"--input {text!r}: write TOPIC=PATH, TOPIC:KEYFIELD=PATH, or - for standard input")
        if topic not in plan.sources:
            raise ConfigError(f"--input {text!r}: {plan.name} has no source {topic!r}; it has {sources}")
        if topic in found:
            raise ConfigError(f"--input {text!r}: {topic} has an input already; name a directory to read several files")
        if path != STANDARD and not Path(path).exists():
            raise ConfigError(f"--input {text!r}: there is no {path}")
        found[topic] = Input(topic, field or None, path)
    missing = [topic for topic in plan.sources if topic not in found]
    if missing:
        raise ConfigError(
            f"{plan.name} reads {sources}, and there is no input for {missing[0]}: --input {missing[0]}=PATH"
        )
    keyed = {inlet.topic for inlet in plan.inlets if inlet.source is not None and inlet.source.key is not None}
    for one in found.values():
        if one.topic in keyed and one.field is None:
            raise ConfigError(
                f"source {one.topic!r} is keyed, and JSON lines have no key of their own: "
                f"name the field that holds it, as in --input {one.topic}:FIELD={one.path}"
            )
    if sum(one.path == STANDARD for one in found.values()) > 1:
        raise ConfigError("standard input (-) can be the input of one topic only")
    return list(found.values())


def outputs(given: Sequence[str], plan: Plan) -> dict[str, str]:
    """Paths by topic of a plan; ConfigError for a topic that nothing is written to."""
    found: dict[str, str] = {}
    topics = sorted({*plan.sinks, *plan.dead_letters})
    for text in given:
        topic, sign, path = text.partition("=")
        if not sign or not topic or not path:
            raise ConfigError(f"--output {text!r}: write TOPIC=PATH, or TOPIC=- for standard output")
        if topic not in topics:
            raise ConfigError(
                f"--output {text!r}: {plan.name} does not write to {topic}; it writes to {', '.join(topics)}"
            )
        if topic in found or path in found.values():
            raise ConfigError(f"--output {text!r}: a topic has one output, and an output one topic")
        found[topic] = path
    return found


def source_of(one: Input, plan: Plan, serde: JsonSerde, *, follow: bool) -> JsonLinesSource:
    """The source that reads an input."""
    return JsonLinesSource(
        one.topic,
        one.path,
        partition_of=partition,
        encode_key=serde.encode_key,
        field_of=field_of,
        key_field=one.field,
        partitions=plan.partitions,
        follow=follow,
    )


def output_of(path: str) -> Output:
    """The output that writes to a path."""
    return StdoutOutput() if path == STANDARD else JsonLinesOutput(path)


def identity(plan: Plan) -> dict[str, str | int]:
    """What state is bound to: the topology, its partitions, where its sub-topologies begin, and each stateful node."""
    found: dict[str, str | int] = {"topology": plan.name, "partitions": plan.partitions}
    for stage in plan.stages:
        topics = ", ".join(sorted(inlet.topic for inlet in stage.inlets))
        parted = "" if stage.partitions == plan.partitions else f" in {stage.partitions} partitions"
        found[f"sub-topology {stage.name}"] = f"over {topics}{parted}"
    return found | {f"node {name}": layout for name, layout in plan.layout.items()}


@dataclass(frozen=True, slots=True)
class StateFile:
    """Where a run keeps its state; a temporary one goes with the run."""

    path: Path
    temporary: bool = False

    @contextmanager
    def opened(self, plan: Plan) -> Iterator[Log]:
        """The log in this file, held until the end."""
        log = SqliteLog.open(self.path, identity(plan), pack=pack, unpack=unpack, merge=merge)
        try:
            yield Passing(log) if self.temporary else log
        finally:
            log.close()

    def remove(self) -> None:
        """Remove a temporary file with all that SQLite keeps beside it."""
        if self.temporary:
            shutil.rmtree(self.path.parent, ignore_errors=True)


def state_file(config: Config, plan: Plan, given: Sequence[Input]) -> StateFile:
    """The file that was named, or that of the app; a temporary one for standard input, which is not there again."""
    if config.embedded_file is not None:
        return StateFile(Path(config.embedded_file))
    if any(one.path == STANDARD for one in given):
        return StateFile(Path(tempfile.mkdtemp(prefix="streamproc-")) / "state.sqlite", temporary=True)
    return StateFile(Path(f"{plan.app}.sqlite"))


@dataclass(frozen=True, slots=True)
class Passing:
    """A log that goes with the run: nobody will read topics in it, so rows are not kept."""

    log: Log

    def positions(self, task: str) -> Mapping[str, Any] | None:
        """As the log has it."""
        return self.log.positions(task)

    def bookmark(self, topic: str) -> Any | None:
        """As the log has it."""
        return self.log.bookmark(topic)

    def changes(self, task: str) -> Iterable[Change]:
        """As the log has it."""
        return self.log.changes(task)

    def commit(self, commit: Commit) -> None:
        """Everything but the rows."""
        self.log.commit(Commit({}, commit.changes, commit.positions, commit.bookmarks))

    def close(self) -> None:
        """Close the log."""
        self.log.close()
