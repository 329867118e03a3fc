"""Several observers as one: each is told everything, in the order given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamproc.core.batch import DeadLetter, Step
from streamproc.ports import Commit, Observer
from streamproc.ports.worker import Event, Standing, Waiting


@dataclass(frozen=True, slots=True)
class Observers:
    """A fan-out; `Observers()` is the observer that watches nothing."""

    watchers: tuple[Observer, ...] = ()

    def planned(self, plan: Any) -> None:
        """Tells all of the plan."""
        for watcher in self.watchers:
            watcher.planned(plan)

    def read(self, topic: str, partition: int, records: int, size: int, position: int) -> None:
        """Tells all of what was read."""
        for watcher in self.watchers:
            watcher.read(topic, partition, records, size, position)

    def stepped(self, task: str, step: Step, records: int, seconds: float) -> None:
        """Tells all of a step."""
        for watcher in self.watchers:
            watcher.stepped(task, step, records, seconds)

    def committed(self, commit: Commit, dead: Sequence[DeadLetter], seconds: float) -> None:
        """Tells all of a commit."""
        for watcher in self.watchers:
            watcher.committed(commit, dead, seconds)

    def progressed(self, watermarks: Mapping[tuple[str, int], int], held_by: tuple[str, int] | None) -> None:
        """Tells all of the watermarks."""
        for watcher in self.watchers:
            watcher.progressed(watermarks, held_by)

    def counted(self, task: str, windows: Mapping[str, int], entries: Mapping[str, int]) -> None:
        """Tells all of what a task holds."""
        for watcher in self.watchers:
            watcher.counted(task, windows, entries)

    def state(self, name: str) -> None:
        """Tells all of the new state."""
        for watcher in self.watchers:
            watcher.state(name)

    def happened(self, event: Event) -> None:
        """Tells all of the event."""
        for watcher in self.watchers:
            watcher.happened(event)

    def lagged(self, standings: Mapping[tuple[str, int], Standing]) -> None:
        """Tells all of where the partitions stand."""
        for watcher in self.watchers:
            watcher.lagged(standings)

    def polled(self, waited: Mapping[Waiting, float]) -> None:
        """Tells all of the pass."""
        for watcher in self.watchers:
            watcher.polled(waited)

    def ticked(self, late: float) -> None:
        """Tells all of the tick."""
        for watcher in self.watchers:
            watcher.ticked(late)
