"""What a person sees of a run: a view that moves on a terminal, plain lines elsewhere, and a summary at the end.

An observer like any other: told once per step or commit, it keeps a handful of numbers and the newest results, and
draws them a few times a second at most.  Nothing is decoded that is not drawn.
"""

# ruff: noqa: ARG002 - an observer is told more than it uses

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, TextIO, TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamproc.core.batch import Counts, DeadLetter, Emit, Step
from streamproc.core.instants import moment
from streamproc.ports import Commit, Source
from streamproc.ports.worker import Event, Standing, Waiting

ROWS = 12
"""How many results are shown."""

MOVES = 0.125
"""Seconds between two pictures of the view."""

LINES = 1.0
"""Seconds between two sets of plain lines, and how many results are in one: the newest of so many topics."""
FEW = 6

WIDE = 60
COARSE = 100
"""From here on a fraction is shown with one digit behind the point."""


@dataclass(slots=True)
class Tally:
    """What has been counted since the start of this run."""

    read: int = 0
    size: int = 0
    emitted: int = 0
    late: int = 0
    dead: int = 0
    closed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    def skip(self, counts: Counts) -> None:
        """Count what was passed over, late records apart, by reason."""
        for (_, reason, action), number in (*counts.dropped.items(), *counts.errors.items()):
            if action == "skip":
                self.skipped[reason] = self.skipped.get(reason, 0) + number

    def words(self) -> str:
        """All of it in one line."""
        parts = [f"read {self.read:,}", f"emitted {self.emitted:,}", f"late {self.late:,}"]
        parts += [f"dead-lettered {self.dead:,}", f"windows closed {self.closed:,}"]
        if self.skipped:
            reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(self.skipped.items()))
            parts.append(f"skipped {sum(self.skipped.values()):,} ({reasons})")
        return ", ".join(parts)


Key: TypeAlias = tuple[str, bytes | None]


class Drawing(Protocol):
    """One way of showing a run."""

    def due(self, now: float) -> bool:
        """Whether it is time for another picture."""
        ...

    def draw(self, screen: Screen) -> None:
        """Show how things stand."""
        ...


@dataclass(slots=True)
class Screen:
    """The observer behind every drawing.

    `newest` has the newest result of each topic and key, the last one last; `latest` that of each topic.
    """

    sources: Sequence[Source]
    sinks: frozenset[str]
    monotonic: Callable[[], float]
    drawing: Drawing | None
    address: str | None = None
    tally: Tally = field(default_factory=Tally)
    newest: dict[Key, Emit] = field(default_factory=dict)
    latest: dict[str, Emit] = field(default_factory=dict)
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.monotonic()

    def planned(self, plan: Any) -> None:
        """Begins to count time."""
        self.started = self.monotonic()

    def read(self, topic: str, partition: int, records: int, size: int, position: int) -> None:
        """Counts what was read."""
        self.tally.read += records
        self.tally.size += size

    def stepped(self, task: str, step: Step, records: int, seconds: float) -> None:
        """Counts, keeps the newest results, and draws when it is time."""
        self.tally.late += sum(step.counts.late.values())
        self.tally.closed += sum(step.counts.closed.values())
        self.tally.skip(step.counts)
        if self.drawing is None:
            return
        for topic, rows in step.emits.items():
            if topic in self.sinks:
                self.latest[topic] = rows[-1]
                for row in rows[-ROWS:]:
                    place = topic, row.key
                    self.newest.pop(place, None)
                    self.newest[place] = row
        if len(self.newest) > 10 * ROWS:
            self.newest = dict(islice(self.newest.items(), len(self.newest) - ROWS, None))
        self._draw()

    def committed(self, commit: Commit, dead: Sequence[DeadLetter], seconds: float) -> None:
        """Counts what is there for good."""
        self.tally.dead += len(dead)
        self.tally.emitted += sum(len(rows) for (topic, _), rows in commit.emits.items() if topic in self.sinks)
        self._draw()

    def progressed(self, watermarks: Mapping[tuple[str, int], int], held_by: tuple[str, int] | None) -> None:
        """Shows nothing."""

    def counted(self, task: str, windows: Mapping[str, int], entries: Mapping[str, int]) -> None:
        """Shows nothing."""

    def state(self, name: str) -> None:
        """Shows nothing."""

    def happened(self, event: Event) -> None:
        """Shows nothing."""

    def lagged(self, standings: Mapping[tuple[str, int], Standing]) -> None:
        """Shows nothing."""

    def polled(self, waited: Mapping[Waiting, float]) -> None:
        """Shows nothing."""

    def ticked(self, late: float) -> None:
        """Shows nothing."""

    def _draw(self) -> None:
        if self.drawing is not None and self.drawing.due(self.monotonic()):
            self.drawing.draw(self)

    @property
    def seconds(self) -> float:
        """How long the run has lasted."""
        return self.monotonic() - self.started

    @property
    def share(self) -> float | None:
        """How much of all inputs has been read, None where that cannot be known."""
        totals = [source.total_bytes for source in self.sources]
        known = [total for total in totals if total is not None]
        if len(known) < len(totals) or not sum(known):
            return None
        return min(1.0, sum(source.read_bytes for source in self.sources) / sum(known))

    def last(self, count: int) -> list[tuple[str, str, str, str]]:
        """The newest results, as topic, key, time and value in words, the newest first."""
        found = list(islice(reversed(self.newest.items()), count))
        return [(topic, *in_words(row)) for (topic, _), row in found]

    def summary(self) -> str:
        """All that was counted, with how fast it went."""
        seconds = self.seconds
        pace = f"{self.tally.read / seconds:,.0f} records/s" if seconds > 0 else "at once"
        return f"{self.tally.words()} in {seconds:.2f} s, {pace}"


def in_words(row: Emit) -> tuple[str, str, str]:
    """Key, time and value of a result, short enough for a line; the time of a window is its end."""
    value, key, at = _plain(row.value), row.key.decode(errors="replace") if row.key is not None else "", row.at
    if isinstance(value, dict) and {"key", "start", "end", "value"} <= value.keys():
        key, at, value = _phrase(value["key"]), value["end"], value["value"]
    return _short(key), instant(at), _short(_phrase(value))


def _plain(raw: bytes | None) -> Any:
    try:
        return None if raw is None else json.loads(raw)
    except ValueError:
        return raw.decode(errors="replace") if raw is not None else None


def _phrase(value: Any) -> str:
    """A value as a person says it: no quotes and braces, and of a fraction what can be told apart."""
    match value:
        case str():
            return value
        case float():
            return f"{value:,.1f}" if abs(value) >= COARSE else f"{value:.3g}"
        case dict():
            return ", ".join(f"{name} {_phrase(each)}" for name, each in value.items())
        case list():
            return ", ".join(map(_phrase, value))
        case _:
            return json.dumps(value)


def _short(words: str) -> str:
    return words if len(words) <= WIDE else words[: WIDE - 3] + "..."


def instant(at: Any) -> str:
    """An instant in ms as a person reads it, to the second."""
    try:
        shown = moment(at)
    except (OverflowError, TypeError):
        return str(at)
    return shown.strftime("%Y-%m-%d %H:%M:%S").removesuffix(":00")


@dataclass(slots=True)
class View:
    """The moving view of a terminal: progress, the newest results, the address of the metrics."""

    live: Live
    results: bool
    drawn: float = 0.0

    def due(self, now: float) -> bool:
        """A few times a second."""
        if now - self.drawn < MOVES:
            return False
        self.drawn = now
        return True

    def draw(self, screen: Screen) -> None:
        """Put a new picture in the place of the last one."""
        self.live.update(self.picture(screen), refresh=True)

    def picture(self, screen: Screen) -> RenderableType:
        """The whole view."""
        parts: list[RenderableType] = []
        if self.results:
            parts.append(_table(screen.last(ROWS)))
        parts.append(_progress(screen))
        parts.append(Text(screen.tally.words(), style="dim", no_wrap=True, overflow="ellipsis"))
        if screen.address is not None:
            parts.append(Text(f"metrics {screen.address}/metrics", style="dim"))
        return Group(*parts)


def _table(rows: Sequence[tuple[str, str, str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    table.add_column("topic", style="cyan", no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column("key", style="green", no_wrap=True, overflow="ellipsis", max_width=16)
    table.add_column("time", no_wrap=True)
    table.add_column("value", style="bold", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in (*rows, *[("", "", "", "")] * (ROWS - len(rows))):
        table.add_row(*map(Text, row))
    return table


def _progress(screen: Screen) -> Table:
    grid = Table.grid(padding=(0, 1))
    share, seconds = screen.share, screen.seconds
    pace = f"{screen.tally.read / seconds:,.0f} records/s" if seconds > 0 else ""
    if share is None:
        grid.add_row(Text(f"{screen.tally.read:,} records"), Text(pace))
    else:
        bar = ProgressBar(total=1.0, completed=share, width=30)
        grid.add_row(bar, Text(f"{share:4.0%}"), Text(f"{screen.tally.read:,} records"), Text(pace))
    return grid


@dataclass(slots=True)
class Lines:
    """Plain lines: now and then some new results and how far reading has come."""

    stream: TextIO
    results: bool
    drawn: float
    shown: int = 0

    def due(self, now: float) -> bool:
        """Once a second."""
        if now - self.drawn < LINES:
            return False
        self.drawn = now
        return True

    def draw(self, screen: Screen) -> None:
        """Write what is new."""
        if self.results:
            for topic, row in sorted(screen.latest.items())[:FEW]:
                print("  ".join(part for part in (topic, *in_words(row)) if part), file=self.stream)
            screen.latest.clear()
        share = screen.share
        far = "" if share is None else f" ({share:.0%})"
        print(f"{screen.tally.words()}{far}", file=self.stream, flush=True)


def terminal(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can show a moving view."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def drawing(
    stream: TextIO, now: float, *, beside: bool, results: bool
) -> tuple[Drawing | None, AbstractContextManager[Any]]:
    """How a run is shown on a stream, and what must be entered for it; NO_COLOR is rich's to respect.

    With `beside`, standard output has data: a view may move beside it if that is not on the same terminal.
    """
    if terminal(stream) and not (beside and sys.stdout.isatty()):
        live = Live(console=Console(file=stream), auto_refresh=False)
        return View(live, results), live
    return None if beside else Lines(stream, results, now), nullcontext()
