"""Structured logs: one JSON object per line, or one coloured line per event for people.

Every line, those of other libraries included, passes the same processors; secrets are cut out of it last.
What an observer logs is bounded: in steady state it is silent, and events about records are limited to one
line per event, node and minute, where the last one says how many were left out.
"""

# ruff: noqa: ARG002 - an observer is told more than it uses

from __future__ import annotations

import logging
import math
import os
import platform
import re
import sys
import time
import traceback
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO, TypeAlias

import orjson
import structlog
from structlog.typing import EventDict, Processor

from streamproc.core.batch import DeadLetter, Step
from streamproc.core.errors import ConfigError
from streamproc.ports import Commit
from streamproc.ports.worker import (
    Event,
    Ownership,
    Reachability,
    Restored,
    Restoring,
    Standing,
    Uncommitted,
    Waiting,
)

Format: TypeAlias = Literal["auto", "json", "pretty"]

EVENTS: Final = frozenset(
    {
        "worker_started",
        "plan_built",
        "partitions_assigned",
        "partitions_revoked",
        "partitions_lost",
        "restore_started",
        "restore_progress",
        "restore_finished",
        "watermark_held",
        "partition_stalled",
        "commit_failed",
        "fenced",
        "brokers_reachable",
        "brokers_unreachable",
        "record_failed",
        "dead_lettered",
        "late_summary",
        "draining",
        "stopped",
        "stalled",
        "stacks",
        "worker_note",
        "supervisor_note",
        "library",
    }
)
"""The names of all events; `library` is what another library logged, with its text as `message`.

So are the notes: what a worker says of its group and its topics, and a supervisor of its workers.
"""

_NOTES: Final = {"streamproc.worker": "worker_note", "streamproc.supervisor": "supervisor_note"}

_REACHABLE: Final = {True: ("info", "brokers_reachable"), False: ("warning", "brokers_unreachable")}

REDACTED: Final = "[redacted]"
MINUTE: Final = 60.0

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
_WORDS: Final = "passw|token|secret|sasl|credential|authorization|api_?key"
_SECRET_NAME: Final = re.compile(_WORDS, re.IGNORECASE)
_SECRET_PAIR: Final = re.compile(
    rf"""((?:{_WORDS})[\w.-]{{0,40}}["']?\s*[=:]\s*)"""
    r"""(b?'(?:[^'\\]|\\.)*'|b?"(?:[^"\\]|\\.)*"|(?s:[\[({].*)"""
    r"""|(?:(?:bearer|basic)\s+)?[^\s,;&)}\]]+)""",
    re.IGNORECASE,
)
_USERINFO: Final = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(@)")
_CAPPED: Final = ("aiokafka", "aiohttp", "asyncio")
"""Libraries whose DEBUG lines may hold requests, credentials included: they are heard from INFO on."""


def redact(value: Any) -> Any:
    """A value without secrets: under a name that looks like one, or in text as `name=value` or in a URL.

    In a text, a secret that is itself a structure takes the rest with it.  Only plain data comes out: what
    JSON does not know becomes text first.
    """
    if isinstance(value, str):
        return _USERINFO.sub(rf"\1{REDACTED}\2", _SECRET_PAIR.sub(rf"\1{REDACTED}", value))
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        return {str(name): _under(str(name), below) for name, below in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(below) for below in value]
    return redact(str(value))


def _under(name: str, value: Any) -> Any:
    return REDACTED if _SECRET_NAME.search(name) else redact(value)


def _redacted(_: Any, __: str, line: EventDict) -> EventDict:
    plain: EventDict = redact(line)
    return plain


def _named(_: Any, __: str, line: EventDict) -> EventDict:
    """The text of a record that is not ours, or of a note, is a message; its event has a name of the closed list."""
    line["message"] = line.pop("event")
    line["logger"] = line["_record"].name
    line["event"] = _NOTES.get(line["logger"], "library")
    return line


def _raised(_: Any, __: str, line: EventDict) -> EventDict:
    """What was raised, as `error.type`, `error.message` and `error.stack`."""
    raised = line.pop("exc_info", None)
    if raised and not isinstance(raised, BaseException | tuple):
        raised = sys.exc_info()
    error = raised[1] if isinstance(raised, tuple) else raised
    if isinstance(error, BaseException):
        line["error.type"] = type(error).__name__
        line["error.message"] = str(error)
        line["error.stack"] = "".join(traceback.format_exception(error)).rstrip()
    return line


def _ordered(context: Mapping[str, str]) -> Processor:
    """Puts instant, level and event first, then what is the same on all lines of this process."""

    def order(_: Any, __: str, line: EventDict) -> EventDict:
        record: logging.LogRecord = line.pop("_record")
        line.pop("_from_structlog", None)
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {"ts": at.replace("+00:00", "Z"), "level": line.pop("level"), "event": line.pop("event")}
        return {**head, **context, **line}

    return order


def _counting(counted: Callable[[str], None]) -> Processor:
    def count(_: Any, __: str, line: EventDict) -> EventDict:
        if line["level"] in _LEVELS:
            counted(line["level"])
        return line

    return count


def _as_json(_: Any, __: str, line: EventDict) -> str:
    return orjson.dumps(line, default=str).decode()


def _stack_apart(_: Any, __: str, line: EventDict) -> EventDict:
    """People read a stack line by line, below its event."""
    stack = line.pop("error.stack", None)
    if stack is not None:
        line["exception"] = stack
    return line


def _renderers(form: Format, stream: TextIO) -> list[Processor]:
    terminal = stream.isatty()
    if form == "json" or (form == "auto" and not terminal):
        return [_as_json]
    console = structlog.dev.ConsoleRenderer(
        colors=terminal and not os.environ.get("NO_COLOR"),
        sort_keys=False,
        timestamp_key="ts",
        exception_formatter=structlog.dev.plain_traceback,
    )
    return [_stack_apart, console]


def _check(level: str, form: str) -> None:
    if level.lower() not in _LEVELS:
        raise ConfigError(f"no such log level: {level!r}; set STREAMPROC_LOG__LEVEL to one of {', '.join(_LEVELS)}")
    if form not in ("auto", "json", "pretty"):
        raise ConfigError(f"no such log format: {form!r}; set STREAMPROC_LOG__FORMAT to auto, json or pretty")


def configure(
    level: str,
    format: Format,  # noqa: A002 - the setting's own name
    stream: TextIO | None = None,
    context: Mapping[str, str] | None = None,
    counted: Callable[[str], None] | None = None,
) -> None:
    """Sends all logging of this process to `stream`, stderr when None, one line per event.

    `auto` is pretty on a terminal and JSON elsewhere; NO_COLOR is respected.  `context`, such as topology and
    worker, is on every line; `counted` is told the level of each.  Raises ConfigError for an unknown level or
    format.
    """
    _check(level, format)
    stream = sys.stderr if stream is None else stream
    shared: list[Processor] = [structlog.stdlib.add_log_level, _raised]
    if counted is not None:
        shared.append(_counting(counted))
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _named],
            processors=[_ordered(context or {}), _redacted, *_renderers(format, stream)],
        )
    )
    _listen(_LEVELS[level.lower()], handler)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _listen(level: int, handler: logging.Handler) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _CAPPED:
        logging.getLogger(name).setLevel(logging.INFO if level < logging.INFO else logging.NOTSET)


@dataclass(slots=True)
class _Window:
    """The minute after a line: what came in it and was not logged."""

    until: float
    level: str
    suppressed: int = 0
    last: dict[str, Any] = field(default_factory=dict)


class Limiter:
    """One line per event, place (a node, a task) and minute.

    The first event is logged at once.  Those in the minute behind it are counted; its closing line is the
    last of them, with how many there were as `suppressed`, and opens the next minute.  A minute without any
    ends it.
    """

    def __init__(self, write: Callable[[str, str, dict[str, Any]], None], counted: Callable[[str], None]) -> None:
        self._write = write
        self._counted = counted
        self._windows: dict[tuple[str, str], _Window] = {}

    def note(self, now: float, level: str, event: str, where: str, fields: dict[str, Any]) -> None:
        """Logs the event of a place, or counts it where its minute is not over."""
        self.close(now)
        place = (event, where)
        window = self._windows.get(place)
        if window is None:
            self._windows[place] = _Window(now + MINUTE, level)
            self._write(level, event, fields)
        else:
            window.suppressed += 1
            window.last = fields
            self._counted(level)

    def close(self, now: float) -> None:
        """Ends the minutes that are over."""
        for place in [place for place, window in self._windows.items() if window.until <= now]:
            window = self._windows.pop(place)
            if window.suppressed:
                self._windows[place] = _Window(now + MINUTE, window.level)
                self._summarise(place[0], window)

    def finish(self) -> None:
        """Ends all minutes at once."""
        for (event, _), window in self._windows.items():
            if window.suppressed:
                self._summarise(event, window)
        self._windows.clear()

    def _summarise(self, event: str, window: _Window) -> None:
        self._write(window.level, event, {**window.last, "suppressed": window.suppressed})


def _ignore(_: str) -> None:
    """Counts nothing."""


class LogObserver:
    """An `Observer` that logs the few things a person must know, each named in EVENTS.

    `clock` is a monotonic clock in seconds; `counted` is told the level of each line that is left out.  With
    `details` the texts of errors are logged as well: they may quote a record, so they are left out otherwise.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        counted: Callable[[str], None] = _ignore,
        *,
        details: bool = False,
    ) -> None:
        self._clock = clock
        self._details = details
        self._log: Any = structlog.get_logger("streamproc")
        self._limiter = Limiter(self._write, counted)
        self._held: tuple[tuple[str, int], int] | None = None
        self._held_since = 0.0
        self._held_logged = -math.inf
        self._late: Tally[str] = Tally()
        self._late_due = math.inf
        self._restoring: dict[str, int] = {}
        self._restore_due = math.inf
        self._stalled: frozenset[tuple[str, int]] = frozenset()

    def planned(self, plan: Any) -> None:
        """Logs the plan, and binds its hash to every line that follows."""
        self._log = self._log.bind(plan=plan.hash)
        self._log.info(
            "plan_built",
            nodes=len(plan.nodes),
            sources=list(plan.sources),
            sinks=list(plan.sinks),
            dead_letters=list(plan.dead_letters),
            partitions=plan.partitions,
        )

    def read(self, topic: str, partition: int, records: int, size: int, position: int) -> None:
        """Says nothing."""

    def stepped(self, task: str, step: Step, records: int, seconds: float) -> None:
        """Notes what failed and what was late."""
        now = self._clock()
        if step.counts.errors:
            self._failed(now, step)
        if step.counts.late:
            self._late_due = min(self._late_due, now + MINUTE)
            for (node, _), number in step.counts.late.items():
                self._late[node] += number
        self._tick(now)

    def _failed(self, now: float, step: Step) -> None:
        letters = {(letter.node, letter.reason): letter for letter in reversed(step.dead)}
        for (node, reason, action), number in step.counts.errors.items():
            fields = {"node": node, "reason": reason, "action": action, "records": number}
            letter = letters.get((node, reason))
            if letter is not None:
                fields |= _place(letter) | self._cause(letter)
            self._limiter.note(now, "warning", "record_failed", node, fields)

    def committed(self, commit: Commit, dead: Sequence[DeadLetter], seconds: float) -> None:
        """Notes the dead letters that are now written."""
        now = self._clock()
        for letter in dead:
            fields = {"node": letter.node, "to": letter.topic, "reason": letter.reason, "stage": letter.stage}
            self._limiter.note(now, "warning", "dead_lettered", letter.node, fields | _place(letter))
        self._tick(now)

    def progressed(self, watermarks: Mapping[tuple[str, int], int], held_by: tuple[str, int] | None) -> None:
        """Logs, once a minute, which partition has held the others back for a minute or more."""
        now = self._clock()
        held = None if held_by is None or held_by not in watermarks else (held_by, watermarks[held_by])
        if held != self._held:
            self._held, self._held_since = held, now
        since = now - self._held_since
        due = since >= MINUTE and now - self._held_logged >= MINUTE
        if held is not None and due and max(watermarks.values()) > held[1]:
            self._held_logged = now
            topic, partition = held[0]
            self._log.warning("watermark_held", topic=topic, partition=partition, held_seconds=round(since, 3))
        self._tick(now)

    def counted(self, task: str, windows: Mapping[str, int], entries: Mapping[str, int]) -> None:
        """Says nothing."""

    def state(self, name: str) -> None:
        """Logs the start and the end of a worker."""
        if name == "starting":
            self._log.info("worker_started", pid=os.getpid(), python=platform.python_version())
        elif name == "draining":
            self._log.info("draining")
        elif name in ("stopped", "failed"):
            self._limiter.finish()
            self._late_summary()
            self._write("info" if name == "stopped" else "error", "stopped", {"state": name})

    def happened(self, event: Event) -> None:
        """Logs what a person must know of it."""
        now = self._clock()
        match event:
            case Ownership():
                self._owned(event)
            case Restoring() | Restored():
                self._restored(now, event)
            case Uncommitted():
                self._uncommitted(now, event)
            case Reachability():
                self._write(*_REACHABLE[event.reachable], {})
        self._tick(now)

    def _owned(self, change: Ownership) -> None:
        if change.how != "assigned":
            self._restoring = {task: left for task, left in self._restoring.items() if task not in change.tasks}
            self._held = None
        if change.tasks:
            fields = {"tasks": sorted(change.tasks), "owned": {topic: len(n) for topic, n in change.owned.items()}}
            self._write("warning" if change.how == "lost" else "info", f"partitions_{change.how}", fields)

    def _restored(self, now: float, event: Restoring | Restored) -> None:
        """A line at the start and at the end of a task that has anything to restore; in between one for all, rarely."""
        known = event.task in self._restoring
        if isinstance(event, Restored):
            self._restoring.pop(event.task, None)
            if known or event.records:
                fields = {"task": event.task, "records": event.records, "seconds": round(event.seconds, 3)}
                self._write("info", "restore_finished", fields)
            return
        if not known and event.remaining:
            self._write("info", "restore_started", {"task": event.task, "remaining": event.remaining})
            self._restore_due = min(self._restore_due, now + MINUTE)
        if known or event.remaining:
            self._restoring[event.task] = event.remaining

    def _uncommitted(self, now: float, event: Uncommitted) -> None:
        fields = {"task": event.task, "seconds": round(event.seconds, 3), "why": event.why}
        if event.outcome == "fenced":
            self._limiter.note(now, "warning", "fenced", event.task, fields)
        else:
            fields["outcome"] = event.outcome
            self._limiter.note(now, "warning", "commit_failed", event.task, fields)

    def lagged(self, standings: Mapping[tuple[str, int], Standing]) -> None:
        """Logs partitions that have stalled since they were last looked at."""
        now = self._clock()
        stalled = frozenset(place for place, standing in standings.items() if standing.stalled)
        for place in sorted(stalled - self._stalled):
            topic, partition = place
            standing = standings[place]
            fields = {
                "topic": topic,
                "partition": partition,
                "position": standing.position,
                "end": standing.end,
                "lag_seconds": round(standing.lag_seconds, 3),
            }
            self._limiter.note(now, "warning", "partition_stalled", f"{topic}/{partition}", fields)
        self._stalled = stalled
        self._tick(now)

    def polled(self, waited: Mapping[Waiting, float]) -> None:
        """Says nothing."""

    def ticked(self, late: float) -> None:
        """Says nothing."""

    def _tick(self, now: float) -> None:
        self._limiter.close(now)
        if now >= self._restore_due:
            self._restore_progress(now)
        if now >= self._late_due:
            self._late_summary()

    def _restore_progress(self, now: float) -> None:
        self._restore_due = now + MINUTE if self._restoring else math.inf
        if self._restoring:
            fields = {"tasks": len(self._restoring), "remaining": sum(self._restoring.values())}
            self._write("info", "restore_progress", fields)

    def _late_summary(self) -> None:
        if self._late:
            self._log.info("late_summary", records=self._late.total(), nodes=dict(self._late))
        self._late.clear()
        self._late_due = math.inf

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        getattr(self._log, level)(event, **fields)

    def _cause(self, letter: DeadLetter) -> dict[str, Any]:
        if not self._details:
            return {"error.type": letter.exception}
        return {
            "error.type": letter.exception,
            "error.message": letter.message,
            "error.stack": letter.stacktrace,
        }


def _place(letter: DeadLetter) -> dict[str, Any]:
    """Where the record is: enough to find it without printing it."""
    return {"topic": letter.source, "partition": letter.partition, "offset": letter.offset}
