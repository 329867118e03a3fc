"""The observer behind `/lag`: the last that was said of each partition, as plain data.

Asked from another thread: what it keeps is replaced as a whole, never changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from streamproc.core.batch import END, START, DeadLetter, Step
from streamproc.ports import Commit
from streamproc.ports.worker import Event, Ownership, Standing, Waiting


class LagObserver:
    """Knows where the partitions of this worker stand."""

    def __init__(self) -> None:
        self._standings: Mapping[tuple[str, int], Standing] = {}
        self._watermarks: Mapping[tuple[str, int], int] = {}
        self._held_by: tuple[str, int] | None = None

    def table(self) -> dict[str, Any]:
        """A row for each partition, by topic and number; watermarks in ms, None for none yet and at the end."""
        standings, watermarks, held_by = self._standings, self._watermarks, self._held_by
        return {
            "partitions": [
                {
                    "topic": topic,
                    "partition": number,
                    "position": standing.position,
                    "end": standing.end,
                    "committed": standing.committed,
                    "lag_records": standing.lag_records,
                    "lag_seconds": standing.lag_seconds,
                    "watermark": _finite(watermarks.get((topic, number), START)),
                    "holds": (topic, number) == held_by,
                    "paused": standing.paused,
                    "idle": standing.idle,
                    "stalled": standing.stalled,
                }
                for (topic, number), standing in sorted(standings.items())
            ]
        }

    def planned(self, plan: Any) -> None:
        """Of no matter here."""

    def read(self, topic: str, partition: int, records: int, size: int, position: int) -> None:
        """Of no matter here."""

    def stepped(self, task: str, step: Step, records: int, seconds: float) -> None:
        """Of no matter here."""

    def committed(self, commit: Commit, dead: Sequence[DeadLetter], seconds: float) -> None:
        """Of no matter here."""

    def progressed(self, watermarks: Mapping[tuple[str, int], int], held_by: tuple[str, int] | None) -> None:
        """Keeps the newest watermark of each partition, and which one holds the others back."""
        self._watermarks = {**self._watermarks, **watermarks}
        self._held_by = held_by

    def counted(self, task: str, windows: Mapping[str, int], entries: Mapping[str, int]) -> None:
        """Of no matter here."""

    def state(self, name: str) -> None:
        """Of no matter here."""

    def happened(self, event: Event) -> None:
        """Forgets what is not owned any more."""
        if isinstance(event, Ownership):
            owned = {(topic, number) for topic, numbers in event.owned.items() for number in numbers}
            self._standings = {place: each for place, each in self._standings.items() if place in owned}
            self._watermarks = {place: each for place, each in self._watermarks.items() if place in owned}

    def lagged(self, standings: Mapping[tuple[str, int], Standing]) -> None:
        """Keeps them."""
        self._standings = dict(standings)

    def polled(self, waited: Mapping[Waiting, float]) -> None:
        """Of no matter here."""

    def ticked(self, late: float) -> None:
        """Of no matter here."""


def _finite(watermark: int) -> int | None:
    return None if watermark in {START, END} else watermark
