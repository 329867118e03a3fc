"""Whether an own operator cares where a run of records is cut.

    heard from a calm run:   record, record | W moves, a cell is due | record, record, record
    done again, in scratch:  on_run(2), on_due, on_run(3)   and   on_run(1), on_run(1), on_due, on_run(1), ...

Both must give the same results: an engine may give an operator its records one by one or many at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from streamproc.core.batch import Cell
from streamproc.core.operators import AnyRecord, Context
from streamproc.core.plan import Plan
from streamproc.core.state import KeyId, key_id


class _Heard(NamedTuple):
    """One call of an operator: a record or a cell that is due, at a watermark."""

    watermark: int
    record: AnyRecord | None
    cell: Cell | None


class Listener:
    """An operator that does as another does, and notes what each of its tasks was given."""

    def __init__(self, name: str, operator: Any) -> None:
        self.name = name
        self.operator = operator
        self.heard: dict[Context, list[_Heard]] = {}
        self.raised = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.operator, name)

    def on_run(self, run: Iterable[AnyRecord], ctx: Context) -> Iterator[AnyRecord]:
        """Note the records of a run, and do what the operator does."""
        records = tuple(run)
        self.heard.setdefault(ctx, []).extend(_Heard(ctx.watermark, record, None) for record in records)
        yield from self._listening(self.operator.on_run(records, ctx))

    def on_due(self, cell: Cell, ctx: Context) -> Iterator[AnyRecord]:
        """Note a cell, and do what the operator does."""
        self.heard.setdefault(ctx, []).append(_Heard(ctx.watermark, None, cell))
        yield from self._listening(self.operator.on_due(cell, ctx))

    def _listening(self, results: Iterable[AnyRecord]) -> Iterator[AnyRecord]:
        rest = iter(results)
        while True:
            try:
                result = next(rest)
            except StopIteration:
                return
            except Exception:
                self.raised = True
                raise
            yield result

    def cut_here_and_there(self, encode_key: Callable[[Any], bytes]) -> Iterator[tuple[list[Any], list[Any]]]:
        """For each task what it gives for single records and for whole runs; nothing where it raised an error."""
        for script in self.heard.values() if not self.raised else ():
            yield self._again(script, encode_key, whole=False), self._again(script, encode_key, whole=True)

    def _again(self, script: list[_Heard], encode_key: Callable[[Any], bytes], *, whole: bool) -> list[Any]:
        scratch = _Scratch(encode_key)
        for (watermark, _), alike in groupby(script, lambda heard: (heard.watermark, heard.cell is None)):
            calls = list(alike)
            scratch.watermark = watermark
            records = [heard.record for heard in calls if heard.record is not None]
            for run in [records] if whole else [[record] for record in records]:
                scratch.results += self.operator.on_run(tuple(run), scratch) if run else ()
            for heard in calls:
                if heard.cell is not None and (cell := scratch.taken(heard.cell)) is not None:
                    scratch.results += self.operator.on_due(cell, scratch)
        return [*scratch.results, *sorted(map(repr, scratch.cells.items()))]


class _Scratch:
    """State of one operator in a dictionary, and a list of what it gave and refused."""

    def __init__(self, encode_key: Callable[[Any], bytes]) -> None:
        self.watermark = 0
        self.cells: dict[tuple[int, int, KeyId], Cell] = {}
        self.results: list[Any] = []
        self._encode_key = encode_key

    def _id(self, key: Any) -> KeyId:
        return key_id(self._encode_key(key))

    def taken(self, cell: Cell) -> Cell | None:
        return self.cells.pop((cell.slot, cell.at, self._id(cell.key)), None)

    def get(self, at: int, key: Any, *, slot: int = 0) -> Any:
        cell = self.cells.get((slot, at, self._id(key)))
        return None if cell is None else cell.value

    def put(self, at: int, key: Any, value: Any, *, slot: int = 0) -> None:
        self.cells[slot, at, self._id(key)] = Cell(at, key, value, slot)

    def drop(self, at: int, key: Any, *, slot: int = 0) -> None:
        self.cells.pop((slot, at, self._id(key)), None)

    def scan(self, key: Any, low: int, high: int, *, slot: int = 0) -> list[Cell]:
        wanted = self._id(key)
        found = [cell for (s, at, k), cell in self.cells.items() if s == slot and k == wanted and low <= at <= high]
        return sorted(found, key=lambda cell: cell.at)

    def late(self, record: AnyRecord, window: tuple[int, int] | None = None) -> None:
        self.results.append(("late", record, window))

    def refuse(self, windows: int) -> None:
        """Refusals are counted, and counts may be added up in any way."""

    def skip(self, record: AnyRecord, reason: str) -> None:
        self.results.append((reason, record))


def listening(plan: Plan) -> tuple[Plan, list[Listener]]:
    """The plan with a listener at each own operator of the user's."""
    listeners: list[Listener] = []
    stages = []
    for stage in plan.stages:
        places = []
        for place in stage.places:
            if place.stateful and not type(place.operator).__module__.startswith("streamproc.core."):
                listeners.append(Listener(place.name, place.operator))
                places.append(replace(place, operator=listeners[-1]))
            else:
                places.append(place)
        stages.append(replace(stage, places=tuple(places)))
    return replace(plan, stages=tuple(stages)), listeners
