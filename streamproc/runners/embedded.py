"""The embedded runner: a plan on one machine, over sources that are read and a log that commits.

    sources --read--> engine --work--> commit:  outputs appended and synced, then one transaction of the log
                                                (topics, state, positions, bookmarks, lengths of the outputs)

Exactly once: whatever is not in the log's last commit has not happened.  After a crash each output is cut back to the
length that the commit knows, sources are read again from their bookmarks, and messages below a partition's committed
position are passed over.  An output that cannot be cut back, such as standard output, may repeat what was written just
before a crash; it never misses anything.
"""

from __future__ import annotations

import gc
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Any, Literal, Protocol, TypeAlias

from streamproc.core.plan import Plan
from streamproc.core.state import MemoryStore
from streamproc.core.windowing import WindowAggregate
from streamproc.ports import Commit, Log, Observer, Run, Serde, Source
from streamproc.ports.worker import Pulse
from streamproc.runners.collector import tuned_collector
from streamproc.runners.engine import Engine

AT_ONCE = 5_000
"""Messages asked of a source at a time."""

SHORTEST_WAIT, LONGEST_WAIT = 0.005, 0.1
"""Seconds between two looks at sources that had nothing; they double from the first to the second."""

RECOUNT = 5.0
"""Seconds between two counts of what the tasks hold."""

How: TypeAlias = Literal["ended", "stopped", "left_open", "complete", "grown"]
"""Why a run is over: all inputs ended; it was asked to stop; all was read and nothing was closed (`keep_open`); an
earlier run had ended already, and its inputs are as they were, or have grown since."""


class Output(Protocol):
    """One topic that is written out beside the log, value by value."""

    def open(self, committed_length: int | None) -> None:
        """Go back to a length that `sync` gave, None if none was ever committed; refuse if that is gone."""
        ...

    def append(self, values: Iterable[bytes | None]) -> None:
        """Write values, None for a tombstone."""
        ...

    def sync(self) -> int:
        """Make durable what was appended, and say how long that is in all."""
        ...

    def close(self) -> None:
        """Give free what is held."""
        ...


class Stop:
    """A wish to stop, that may be spoken by a signal handler: nothing in it can block the thread that waits."""

    def __init__(self) -> None:
        self.requested = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def request(self) -> None:
        """Ask for the run to be drained; may be said more than once."""
        self.requested = True
        self._wake.put(None)

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or at once when a stop is requested."""
        if not self.requested:
            try:
                self._wake.get(timeout=seconds)
            except Empty:
                return


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run behaves.

    A commit is due `tick` seconds after the last while nothing waits to be read, `stretched` seconds after it while
    something does.  With `follow` inputs never end; with `keep_open` nothing is closed when they have been read.
    """

    tick: float = 0.1
    stretched: float = 1.0
    follow: bool = False
    keep_open: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended; `grown` are the topics that have grown since an earlier run ended."""

    how: How
    grown: tuple[str, ...] = ()


class EmbeddedRunner:
    """Runs a plan once, from the log's last commit on.

    `outputs` are by topic, and only for topics of the plan; `clock` is the wall clock and `monotonic` a monotonic one,
    both in seconds.  Sources, outputs and log are the caller's to close.
    """

    def __init__(  # noqa: PLR0913 - one parameter for each thing it joins
        self,
        plan: Plan,
        *,
        log: Log,
        sources: Sequence[Source],
        outputs: Mapping[str, Output],
        serde: Serde,
        observer: Observer,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        settings: Settings | None = None,
        stop: Stop | None = None,
    ) -> None:
        self._plan = plan
        self._log = log
        self._sources = tuple(sources)
        self._outputs = dict(sorted(outputs.items()))
        self._observer = observer
        self._clock = clock
        self._monotonic = monotonic
        self._settings = settings if settings is not None else Settings()
        self._stop = stop if stop is not None else Stop()
        self._serde = serde
        self._read_to: dict[str, dict[int, int]] = {source.topic: {} for source in self._sources}
        self._told: set[str] = set()
        self._behind: set[str] = set()
        self._committed_at = 0.0
        self._counted_at = 0.0
        now = clock()
        self.pulse = Pulse("starting", now, now)

    def run(self) -> Outcome:
        """Work until the inputs have ended or a stop is requested.

        Raises TaskFailed where a record met the action `fail`: what was committed before stands, and nothing else.
        """
        self._enter("starting")
        self._observer.planned(self._plan)
        try:
            with tuned_collector():
                outcome = self._run()
        except BrokenPipeError:  # whoever read an output has seen enough
            self._enter("stopped")
            raise
        except BaseException:
            self._enter("failed")
            raise
        self._enter("stopped")
        return outcome

    def _run(self) -> Outcome:
        engine = self._restore()
        if engine.ended and not self._settings.follow:
            return self._already_over()
        for source in self._sources:
            source.open(self._log.bookmark(source.topic))
        self._open_outputs()
        gc.collect()
        gc.freeze()
        self._enter("running")
        how = self._work(engine)
        self._commit(engine)
        self._count(engine)
        return Outcome(how)

    # start

    def _restore(self) -> Engine:
        """The engine as the last commit left it."""
        self._enter("restoring")
        engine = Engine(self._plan, self._serde, self._store, self._log.positions)
        self._count(engine)
        self._committed_at = self._monotonic()
        return engine

    def _store(self, task: str) -> MemoryStore:
        store = MemoryStore()
        store.apply(self._log.changes(task))
        return store

    def _open_outputs(self) -> None:
        """Cut outputs back to what is committed; a new one is noted before anything is written to it."""
        fresh = {}
        for topic, output in self._outputs.items():
            length = self._log.bookmark(_output(topic))
            output.open(length)
            if length is None:
                fresh[_output(topic)] = output.sync()
        if fresh:
            self._log.commit(Commit(bookmarks=fresh))

    def _already_over(self) -> Outcome:
        """An earlier run closed everything, so that there is nothing to do (S49)."""
        grown = []
        for source in self._sources:
            known = self._log.bookmark(_end(source.topic))
            if known is not None and source.fingerprint() != known:
                grown.append(source.topic)
        return Outcome("grown", tuple(grown)) if grown else Outcome("complete")

    # the loop

    def _work(self, engine: Engine) -> How:
        """Read, step and commit until there is a reason to stop; the last commit is still to be made."""
        wait = SHORTEST_WAIT
        while not self._stop.requested:
            found = self._read(engine)
            worked = self._step(engine)
            if engine.ended and not self._settings.follow:
                return "ended"
            if self._settings.keep_open and not found and not worked and self._exhausted:
                return "left_open"
            self._commit_if_due(engine)
            if found or worked:
                wait = SHORTEST_WAIT
            else:
                self._stop.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
        self._enter("draining")
        return "stopped"

    @property
    def _exhausted(self) -> bool:
        return all(source.ended for source in self._sources)

    def _read(self, engine: Engine) -> bool:
        """Offer what is at hand of every topic that the engine has nothing left of; whether there was anything."""
        found = False
        for source in self._sources:
            topic = source.topic
            runs: list[Run] | None = None
            if not source.ended and engine.hungry(topic):
                runs = source.read(AT_ONCE)
                now = int(self._clock() * 1000)
                for run in runs:
                    self._offer(engine, topic, run, now)
                self._note_lag(topic, sum(len(run.values) for run in runs))
                found = found or bool(runs)
            if self._settings.follow:
                self._tell_lag(engine, topic, runs)
            if source.ended and topic not in self._told and not self._settings.keep_open:
                self._told.add(topic)
                engine.end(topic)
        return found

    def _tell_lag(self, engine: Engine, topic: str, runs: Sequence[Run] | None) -> None:
        """A partition is at its end if the source was read to its own and had nothing of it; None for not read."""
        more = None if runs is None or topic in self._behind else {run.partition for run in runs}
        now = int(self._monotonic() * 1000)
        for number in range(self._plan.counts[topic]):
            engine.lags(topic, number, None if more is None or number in more else 0, now)

    def _note_lag(self, topic: str, count: int) -> None:
        """A source that gave as much as it was asked for has more."""
        if count >= AT_ONCE // 2:
            self._behind.add(topic)
        else:
            self._behind.discard(topic)

    def _offer(self, engine: Engine, topic: str, run: Run, now: int) -> None:
        """Hand on what is not committed yet: a bookmark may lie before it."""
        number, end = run.partition, run.offsets[-1] + 1
        self._read_to[topic][number] = end
        run = _from(run, engine.position(topic, number))
        if run.values:
            engine.offer(topic, run, now)
            size = sum(map(len, filter(None, run.values)))
            self._observer.read(topic, number, len(run.values), size, end)

    def _step(self, engine: Engine) -> bool:
        """Take every step that can be taken; whether there was one."""
        worked = False
        started = self._monotonic()
        self.pulse = replace(self.pulse, stepping_since=self._clock())
        for done in engine.work():
            worked = True
            finished = self._monotonic()
            self._observer.stepped(done.task, done.step, done.records, finished - started)
            started = finished
            now = self._clock()
            self.pulse = replace(self.pulse, stepping_since=now, last_step_at=now)
        self.pulse = replace(self.pulse, stepping_since=None)
        return worked

    # the commit

    def _commit_if_due(self, engine: Engine) -> None:
        now = self._monotonic()
        interval = max(self._settings.stretched, self._settings.tick) if self._behind else self._settings.tick
        if now - self._committed_at >= interval:
            self._commit(engine)
            if now - self._counted_at >= RECOUNT:
                self._count(engine)

    def _commit(self, engine: Engine) -> None:
        """Make durable all that was done since the last commit; nothing if nothing was."""
        started = self._monotonic()
        self._committed_at = started
        commit = engine.pending(int(self._clock() * 1000))
        if not self._moved(engine, commit):
            return
        for topic, output in self._outputs.items():
            numbers = range(self._plan.partitions)
            values = [emit.value for number in numbers for emit in commit.emits.get((topic, number), ())]
            if values:
                output.append(values)
            commit.bookmarks[_output(topic)] = output.sync()
        commit.bookmarks.update(self._bookmarks(engine))
        self._log.commit(commit)
        dead = engine.committed(commit)
        self._observer.committed(commit, dead, self._monotonic() - started)
        self._observer.progressed(engine.watermarks(), engine.holder())

    @staticmethod
    def _moved(engine: Engine, commit: Commit) -> bool:
        """Whether anything is different from the last commit."""
        if commit.emits or commit.changes:
            return True
        return any(_place(task.settled) != _place(commit.positions[name]) for name, task in engine.tasks())

    def _bookmarks(self, engine: Engine) -> dict[str, Any]:
        """Where each source would be read from again, and what it was when it ended."""
        found: dict[str, Any] = {}
        for source in self._sources:
            topic, read_to = source.topic, self._read_to[source.topic]
            if read_to:
                waiting = (at for number, end in read_to.items() if (at := engine.position(topic, number)) < end)
                found[topic] = source.bookmark(min(waiting, default=max(read_to.values())))
            if topic in self._told:
                found[_end(topic)] = source.fingerprint()
        return found

    # what is told

    def _count(self, engine: Engine) -> None:
        """Tell the observer what every task holds; a commit or a restore has just been."""
        self._counted_at = self._monotonic()
        for name, task in engine.tasks():
            sizes = task.store.size()
            places = [place for place in task.stage.places if place.stateful]
            entries = {place.name: sizes.get(place.name, 0) for place in places}
            windows = {each.name: entries[each.name] for each in places if isinstance(each.operator, WindowAggregate)}
            self._observer.counted(name, windows, entries)

    def _enter(self, state: str) -> None:
        if state != self.pulse.state or state == "starting":
            self.pulse = replace(self.pulse, state=state, state_since=self._clock())
            self._observer.state(state)


def _place(position: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """A position record without the records in it: they change only with the position of the task they came from."""
    return None if position is None else {name: part for name, part in position.items() if name != "waiting"}


def _end(topic: str) -> str:
    """The bookmark that says what a source was when it ended."""
    return "end:" + topic


def _output(topic: str) -> str:
    """The bookmark that says how long an output was."""
    return "output:" + topic


def _from(run: Run, offset: int) -> Run:
    """The messages of a run from an offset on."""
    start = bisect_left(run.offsets, offset)
    if start == 0:
        return run
    columns = {name: getattr(run, name) for name in ("offsets", "values", "keys", "headers", "stamps")}
    return replace(run, **{name: column and column[start:] for name, column in columns.items()})
