"""Bugs planted on purpose: each is put into a copy of the package, and the tests named beside it must catch it.

    python tests/mutants.py [--jobs N] [NAME ...]

A real bug is added here before its fix.  The text to be replaced must occur exactly once, so that a mutant cannot
quietly miss its place when the code around it moves.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LAW = "tests/core/test_batching.py"
BENCH = "tests/core/test_bench.py"
SEMANTICS = "tests/semantics"
JOINS = "tests/semantics/test_joins.py"
OBSERVABILITY = "tests/observability/test_worker_metrics.py tests/observability/test_http.py"
LIMIT = 600


class Mutant(NamedTuple):
    """One planted bug: where, what becomes what, which tests catch it, and which slip it stands for."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    slip: str


class Verdict(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    caught: bool
    said: str


MUTANTS = (
    Mutant(
        "accepts_at_the_close",
        "core/windowing.py",
        "accepting = [close for close in closes if close > watermark]",
        "accepting = [close for close in closes if close >= watermark]",
        SEMANTICS,
        "S19: a window is closed at W = end + grace, and accepts nothing from then on",
    ),
    Mutant(
        "loop_accepts_at_the_close",
        "core/fuse.py",
        'say(f"if close{n} <= {self._watermark()}: raise Aside  # closed: the record is late")',
        'say(f"if close{n} < {self._watermark()}: raise Aside  # closed: the record is late")',
        LAW,
        "S19, in the generated loop",
    ),
    Mutant(
        "closes_one_late",
        "core/site.py",
        "            if at > self.watermark:\n                return\n",
        "            if at >= self.watermark:\n                return\n",
        SEMANTICS,
        "S19: closed iff W >= end + grace",
    ),
    Mutant(
        "forgets_grace",
        "core/windowing.py",
        "return [end + self.window.grace for end in self.window.ends(at)]",
        "return [end for end in self.window.ends(at)]",
        SEMANTICS,
        "S19: grace keeps a window open",
    ),
    Mutant(
        "forwards_w_itself",
        "core/operators.py",
        'return int(getattr(operator, "hold", 0))',
        "return 0",
        SEMANTICS,
        "S26: a window forwards W - grace",
    ),
    Mutant(
        "record_before_its_own_closings",
        "core/task.py",
        "self.times[number].saw(at, self.disorders[inlet]):\n            self.advance()\n"
        "        self.unit(number, index)",
        "self.times[number].saw(at, self.disorders[inlet]):\n            pass\n"
        "        self.unit(number, index)\n        self.advance()",
        LAW,
        "S21: first what the record makes due, last the record itself",
    ),
    Mutant(
        "due_only_from_before_the_slice",
        "core/fuse.py",
        'say(f"if close{n} + disorder < due: due = close{n} + disorder")',
        'say("pass")',
        f"{SEMANTICS} {LAW}",
        "S21: a window that a slice opens can close in it",
    ),
    Mutant(
        "inlines_where_ways_meet_again",
        "core/fuse.py",
        "meeting = len(self.reached.intersection(self.places[number].parents)) > 1",
        "meeting = False",
        LAW,
        "S44: a record that comes to a window twice counts twice",
    ),
    Mutant(
        "stale_watermark_for_pushed_nodes",
        "core/fuse.py",
        '            with self.text.block("if top > time.top:"):\n'
        '                self.text.say(*self._flow("top"))\n        with',
        "            pass\n        with",
        LAW,
        "S21: a node outside the loop sees W where it is",
    ),
    Mutant(
        "state_is_not_undone",
        "core/task.py",
        '        """Undo what happened since a mark."""\n        undo(self.journal)',
        '        """Undo what happened since a mark."""\n        self.journal.clear()',
        SEMANTICS,
        "S44: a failed record leaves no trace in state",
    ),
    Mutant(
        "outputs_are_not_undone",
        "core/task.py",
        "            del rows[length:]",
        "            del rows[max(length, len(rows)) :]",
        SEMANTICS,
        "S44: nor in any output",
    ),
    Mutant(
        "error_before_late",
        "core/windowing.py",
        "            watermark = ctx.watermark\n            accepting",
        "            watermark = ctx.watermark\n"
        "            self.folds.items(record.value, record.at, position_of(record))\n            accepting",
        SEMANTICS,
        "S20, S44: a record that is late is no error",
    ),
    Mutant(
        "python_keys",
        "core/task.py",
        "return key if type(key) is str else key_id(self.writer.key(key))",
        "return key",
        SEMANTICS,
        "S1: True == 1 == 1.0 for a dict, but not for their bytes",
    ),
    Mutant(
        "numbers_in_order_of_size",
        "core/state.py",
        "        return sorted(found)\n",
        "        return sorted(found, key=lambda key: (len(key), key))\n",
        SEMANTICS,
        "S1: 10 comes before 9",
    ),
    Mutant(
        "results_in_order_of_arrival",
        "core/state.py",
        "taken = [(key, entry) for key in byte_order(found) if",
        "taken = [(key, entry) for key in found if",
        f"{LAW} {SEMANTICS}",
        "S22: due together, in order (end, start, key bytes)",
    ),
    Mutant(
        "committed_state_is_not_seen",
        "core/state.py",
        "return _ABSENT.get if at in self.wiped else self._store.bucket(self.node, self.slot, at).get",
        "return _ABSENT.get",
        LAW,
        "S13, S41: what was folded before a commit counts after it",
    ),
    Mutant(
        "a_dropped_cell_is_still_found_by_key",
        "core/state.py",
        "        course.drop(at)\n",
        "        pass\n",
        "tests/core/test_state.py",
        "S1: an index that says other than the cells",
    ),
    Mutant(
        "writes_through_to_committed_state",
        "core/aggregates.py",
        'copy="{a}.copy()",',
        'copy="{a}",',
        LAW,
        "architecture: a committed entry is never changed in place, or a crash is seen",
    ),
    Mutant(
        "returning_input_holds_again",
        "core/progress.py",
        "                if its < self.watermark:\n                    continue\n"
        "                self.behind.remove(number)",
        "                self.behind.remove(number)",
        SEMANTICS,
        "S16: an input that returns behind W counts only once it is aligned",
    ),
    Mutant(
        "two_rekeys_share_a_topic",
        "core/plan.py",
        "base = _unused(node.name or names[behind[number]], bases)",
        "base = node.name or names[behind[number]]",
        "tests/core/test_mistakes.py",
        "S46: each re-key crosses a topic of its own",
    ),
    Mutant(
        "a_returning_input_waits_for_the_next_step",
        "core/progress.py",
        "        if at <= self.top:\n            return woke\n",
        "        if at <= self.top:\n            return False\n",
        SEMANTICS,
        "S16, S21: an input that wakes counts at once",
    ),
    Mutant(
        "watermark_is_not_restored",
        "core/task.py",
        "time.top, time.watermark, time.idle, time.ended, time.flown = top, watermark, idle, ended, flown",
        "time.top, time.idle, time.ended, time.flown = top, idle, ended, flown",
        f"{SEMANTICS} {LAW}",
        "S14: W is committed, and not only the maximum",
    ),
    Mutant(
        "late_for_one_is_late",
        "core/windowing.py",
        "            if not accepting:\n",
        "            if len(accepting) < len(closes):\n",
        SEMANTICS,
        "S20: late only if all windows refuse",
    ),
    Mutant(
        "late_counts_twice",
        "core/site.py",
        'self.task.noted.append(("late", (name, "late_stream")))',
        'self.task.noted += [("late", (name, "late_stream"))] * 2',
        SEMANTICS,
        "S20: counted once",
    ),
    Mutant(
        "no_mark_without_data",
        "runners/engine.py",
        "if news or after.number in shares:",
        "if after.number in shares:",
        f"{SEMANTICS} {LAW}",
        "S46: marks reach a partition that got no data",
    ),
    Mutant(
        "what_waits_behind_a_crossing_is_not_committed",
        "runners/bench.py",
        'position["waiting"] = waits',
        "pass",
        "tests/embedded/test_crossings.py",
        "S47: records that crossed and wait for another input are part of the commit",
    ),
    Mutant(
        "trailing_is_half_open",
        "core/windowing.py",
        "ctx.scan(key, at - self.window.d + lasts, at + lasts, slot=_HELD)",
        "ctx.scan(key, at - self.window.d + lasts + 1, at + lasts, slot=_HELD)",
        SEMANTICS,
        "S11: both ends are in",
    ),
    Mutant(
        "trailing_forgets_waiting_events",
        "core/windowing.py",
        "if not ctx.scan(key, own + 1, own + d, slot=_WAITING):",
        "if True:",
        SEMANTICS,
        "S11: a record past its own window counts for later events that wait",
    ),
    Mutant(
        "position_is_the_last_record",
        "core/feed.py",
        "behind = next_offset if next_offset is not None else offsets[-1] + 1 if offsets else None",
        "behind = next_offset if next_offset is not None else offsets[-1] if offsets else None",
        LAW,
        "S47: the position is the next offset, or a crash counts a record twice",
    ),
    Mutant(
        "markers_are_read_again",
        "core/feed.py",
        "        if self._gone(head, queue) and head.next_offset is not None:",
        "        if False and head.next_offset is not None:",
        BENCH,
        "S47, S48: a run of markers moves the position, of a merged input too",
    ),
    Mutant(
        "a_lower_incarnation_is_heard",
        "core/feed.py",
        "        if incarnation < incarnations[task]:\n            continue\n",
        "",
        BENCH,
        "S46: marks and records of an incarnation that was replaced are ignored",
    ),
    Mutant(
        "idle_tasks_hold_those_behind_them",
        "core/task.py",
        "            time.marked(mark.watermark, mark.idle)",
        "            time.moves_to(mark.watermark)",
        BENCH,
        "S46: an upstream task that says idle leaves the minimum",
    ),
    Mutant(
        "a_loop_forgets_where_time_has_flown",
        "core/fuse.py",
        'whole.say("top, due, watermark = time.top, task.due() + disorder, combined.watermark")',
        'whole.say("top, due, watermark = time.top, task.due() + disorder, time.watermark")',
        LAW,
        "S18, S19: what the clock has closed accepts nothing, in a generated loop too",
    ),
    Mutant(
        "time_that_flew_is_not_restored",
        "core/task.py",
        "time.top, time.watermark, time.idle, time.ended, time.flown = top, watermark, idle, ended, flown",
        "time.top, time.watermark, time.idle, time.ended, time.flown = top, watermark, idle, ended, START",
        f"{SEMANTICS}/test_conformance.py",
        "S41: a decision that was committed is not revised by a restart",
    ),
    Mutant(
        "idleness_is_not_restored",
        "core/task.py",
        "time.top, time.watermark, time.idle, time.ended, time.flown = top, watermark, idle, ended, flown",
        "time.top, time.watermark, time.idle, time.ended, time.flown = top, watermark, False, ended, flown",
        f"{SEMANTICS}/test_conformance.py",
        "S41: a decision that was committed is not revised by a restart",
    ),
    Mutant(
        "idle_by_the_wall_clock_alone",
        "core/progress.py",
        "        if polled and lag == 0:",
        "        if polled:",
        f"{SEMANTICS}/test_conformance.py",
        "S17: a slow consumer is no quiet producer",
    ),
    Mutant(
        "time_flows_where_it_should_stand",
        "runners/bench.py",
        '        if self.stage.all_idle == "advance":',
        "        if True:",
        "tests/core/test_idleness.py",
        "S18: with `hold`, W stays while all inputs are idle",
    ),
    Mutant(
        "an_idle_input_is_awaited",
        "runners/bench.py",
        "awaited and not (self._watches[topic].ended or all(map(self._silent, self._inputs[topic])))",
        "awaited and not self._watches[topic].ended",
        "tests/core/test_idleness.py",
        "S39: the others go on without an input that is idle",
    ),
    Mutant(
        "silence_while_records_wait",
        "runners/bench.py",
        "both = None if held or lag != self.lag else lag",
        "both = None if lag != self.lag else lag",
        "tests/core/test_idleness.py",
        "S17: an input whose records wait to be taken is not silent",
    ),
    Mutant(
        "an_abort_keeps_what_was_queued",
        "runners/bench.py",
        '        """Nothing is at hand but what waited at the last commit."""\n        self._feed.clear()\n',
        '        """Nothing is at hand but what waited at the last commit."""\n',
        BENCH,
        "S47: after an abort what was read is read again, and not twice",
    ),
    Mutant(
        "sign_bit_in_partitions",
        "core/partition.py",
        "return (murmur2(key) & 0x7FFFFFFF) % partitions",
        "return murmur2(key) % partitions",
        SEMANTICS,
        "S45: the Java default partitioner",
    ),
    Mutant(
        "ties_in_reverse",
        "core/progress.py",
        "heads = [(queue[0], number, 0) for number, queue in enumerate(queues) if queue]",
        "heads = [(queue[0], -number, 0) for number, queue in enumerate(queues) if queue]",
        "tests/core/test_progress.py",
        "S39: equal timestamps by topic, then partition",
    ),
    Mutant(
        "updates_also_at_close",
        "core/windowing.py",
        "return () if self.updates else (self.result(cell.at, cell.value),)",
        "return (self.result(cell.at, cell.value),)",
        SEMANTICS,
        "S23: on_update emits nothing more at close",
    ),
    Mutant(
        "future_is_a_millisecond_early",
        "core/progress.py",
        "    if limit is not None and at > limit:",
        "    if limit is not None and at >= limit:",
        "tests/core/test_progress.py",
        "S15: beyond, not at, ref + max_future",
    ),
    Mutant(
        "series_outlive_their_partition",
        "adapters/prometheus/partitions.py",
        "gone = {(topic, str(number)) for topic, number in before - after}",
        "gone = {(topic, str(number)) for topic, number in after - before}",
        OBSERVABILITY,
        "the lag of a partition that another owns now stands still for ever in the worker that had it",
    ),
    Mutant(
        "a_late_word_brings_series_back",
        "adapters/prometheus/partitions.py",
        "return self._owned is None or (topic, number) in self._owned",
        "return True",
        OBSERVABILITY,
        "what is told of a partition after it has gone makes two workers look like its owners",
    ),
    Mutant(
        "what_is_left_is_taken_off_twice",
        "adapters/prometheus/group.py",
        "self._left.pop(task, 0)",
        "self._left.get(task, 0)",
        OBSERVABILITY,
        "records left to restore go below nothing when a restored task goes",
    ),
    Mutant(
        "sums_keep_tasks_that_went",
        "adapters/prometheus/observer.py",
        'if change.how != "assigned":',
        'if change.how == "lost":',
        OBSERVABILITY,
        "open windows of a task that was given up are counted by two workers",
    ),
    Mutant(
        "an_outage_restarts_workers",
        "adapters/http.py",
        "if pulse.reachable is False:",
        "if pulse.reachable is None:",
        OBSERVABILITY,
        "a worker that cannot reach brokers does not poll, and must not be restarted for it",
    ),
    Mutant(
        "a_result_on_the_bound_is_late",
        "adapters/prometheus/instruments.py",
        "bisect_left(rising, now - bound)",
        "bisect_right(rising, now - bound)",
        OBSERVABILITY,
        "a bucket counts what is no greater than its bound, the bound itself too",
    ),
    Mutant(
        "sleeps_through_what_was_handed_on",
        "core/fuse.py",
        'self.text.say("due = task.due() + disorder")',
        'self.text.say("pass")',
        LAW,
        "S21: what a node outside the loop waits for closes in its turn",
    ),
    Mutant(
        "pads_one_too_soon",
        "core/joins.py",
        "lasts = max(self.after, 0) + 1 + self.grace, max(self.before, 0) + 1 + self.grace",
        "lasts = max(self.after, 0) + self.grace, max(self.before, 0) + self.grace",
        JOINS,
        "S28: a record at t + after may still come while W = t + after",
    ),
    Mutant(
        "closes_by_the_wrong_bound",
        "core/joins.py",
        "lasts = max(self.after, 0) + 1 + self.grace, max(self.before, 0) + 1 + self.grace",
        "lasts = max(self.before, 0) + 1 + self.grace, max(self.after, 0) + 1 + self.grace",
        JOINS,
        "S28: left closes by after, right by before",
    ),
    Mutant(
        "pads_what_has_met",
        "core/joins.py",
        "if self.pads(1 - side) and not all(known for _, known in cell.value):",
        "if False:",
        JOINS,
        "S28: only what never met anybody is padded",
    ),
    Mutant(
        "looks_to_the_left_only",
        "core/joins.py",
        "back, ahead = (self.before, self.after) if side == LEFT else (self.after, self.before)",
        "back, ahead = self.before, self.after",
        JOINS,
        "S27: the interval of a right record is the left one's turned round",
    ),
    Mutant(
        "joins_the_late",
        "core/joins.py",
        "if closes <= ctx.watermark:",
        "if at < ctx.watermark - self.hold - 1_000_000:",
        JOINS,
        "S29: what has closed when it arrives meets nobody",
    ),
    Mutant(
        "join_says_its_own_watermark",
        "core/joins.py",
        "return max(self.before, self.after, 0) + self.grace",
        "return 0",
        JOINS,
        "S26: the watermark behind a join stays behind its results",
    ),
    Mutant(
        "left_always_first",
        "core/joins.py",
        "slots = (0, 1) if lasts[LEFT] >= lasts[RIGHT] else (1, 0)",
        "slots = (0, 1)",
        JOINS,
        "S28: of those that close together the older come first",
    ),
)


def _plant(mutant: Mutant, copy: Path) -> None:
    """Put a bug into a copy of the repository."""
    path = copy / "streamproc" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"mutant {mutant.name}: its text occurs {text.count(mutant.old)} times in {mutant.file}")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def _copied(to: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", ".venv", ".git", ".hypothesis", "*.sqlite*")
    for name in ("streamproc", "tests", "topologies", "pyproject.toml", "README.md"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=ignored)
        else:
            shutil.copy(source, to / name)


def judge(mutant: Mutant) -> Verdict:
    """Run the tests of a mutant on a copy that has it; caught if one of them fails."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        _copied(copy)
        _plant(mutant, copy)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests.split()]
        here = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": folder, "HYPOTHESIS_PROFILE": "mutants"}
        done = subprocess.run(
            command, cwd=copy, env={**os.environ, **here}, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["nothing"]
        named = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        return Verdict(mutant, done.returncode == 1, (named or lines)[-1][:150])


def _judged(mutants: list[Mutant], jobs: int) -> Iterator[Verdict]:
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(judge, mutants)


def main() -> int:
    """Judge all mutants, or those named; 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    if unknown := set(given.names) - {mutant.name for mutant in MUTANTS}:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in MUTANTS if not given.names or mutant.name in given.names]
    survivors = 0
    for verdict in _judged(chosen, given.jobs):
        survivors += not verdict.caught
        print(f"{'caught  ' if verdict.caught else 'SURVIVED'} {verdict.mutant.name}: {verdict.said}", flush=True)  # noqa: T201
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants caught")  # noqa: T201
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
