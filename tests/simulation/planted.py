"""Bugs of the protocol, planted one at a time: simulated worlds must find each of them.

    python -m tests.simulation.planted [--seeds N] [--jobs N] [NAME ...]

Each is put into a copy of the package, and seeds are tried on the copy until a world goes wrong.  A real bug is added
here before its fix.  The text to be replaced must occur exactly once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import monotonic
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
SEEDS = 5_000
HOSTING, TAKEOVER = "runners/worker/hosting.py", "runners/worker/takeover.py"
PRODUCING, MEMBERSHIP, WORKER = (
    "runners/worker/producing.py",
    "runners/worker/membership.py",
    "runners/worker/worker.py",
)


class Edit(NamedTuple):
    """In a file of the package, what becomes what."""

    file: str
    old: str
    new: str


class Planted(NamedTuple):
    """One bug: the topology that shows it, what is edited, and what it stands for."""

    name: str
    topology: str
    edits: tuple[Edit, ...]
    slip: str


class Verdict(NamedTuple):
    """The first seed that shows a bug, None if none does, and how that was said."""

    planted: Planted
    seed: int | None
    said: str
    seconds: float


PLANTED = (
    Planted(
        "state_before_the_commit",
        "keyed",
        (
            Edit(
                HOSTING,
                "        done = await self._send(outbox.records, offsets)\n",
                '        bench.committed(changes, position["task"])\n'
                "        done = await self._send(outbox.records, offsets)\n",
            ),
        ),
        "an aborted transaction leaves its state behind",
    ),
    Planted(
        "restore_to_the_last_stable_offset",
        "keyed",
        (
            Edit(
                TAKEOVER,
                'list_offsets([changelog], which, "read_uncommitted")',
                'list_offsets([changelog], which, "read_committed")',
            ),
            Edit(
                HOSTING,
                "house.committer(transactional_id(house.plan.app, task), self._changelog)",
                'house.committer(f"{id(house)}-{transactional_id(house.plan.app, task)}", self._changelog)',
            ),
        ),
        "state in a transaction that is still open is missed, where ids do not follow the task",
    ),
    Planted(
        "the_id_is_the_worker's",
        "keyed",
        (
            Edit(
                HOSTING,
                "house.committer(transactional_id(house.plan.app, task), self._changelog)",
                'house.committer(f"{id(house)}-{transactional_id(house.plan.app, task)}", self._changelog)',
            ),
        ),
        "a zombie is not fenced by who has its partition now",
    ),
    Planted(
        "end_txn_again_on_the_same_epoch",
        "keyed",
        (
            Edit(
                PRODUCING,
                "following = await _ready(lambda: self.broker.end_txn(writer, commit=True))",
                "following = await patient(lambda: self.broker.end_txn(writer, commit=True))",
            ),
        ),
        "a late copy ends the next transaction in the middle",
    ),
    Planted(
        "offsets_before_fencing",
        "keyed",
        (
            Edit(
                HOSTING,
                "        await self._committer.open()\n"
                '        house.crash("after_init_pid")\n'
                "        taking = TakeOver(self.name, self.stage, self._changelog, self._inputs, house)\n"
                "        await taking.ask()\n",
                "        taking = TakeOver(self.name, self.stage, self._changelog, self._inputs, house)\n"
                "        await taking.ask()\n"
                "        await self._committer.open()\n",
            ),
        ),
        "the last owner commits once more in between",
    ),
    Planted(
        "the_group's_offset_is_believed",
        "keyed",
        (
            Edit(
                TAKEOVER,
                "starts[topic] = known[topic] if topic in known else await self._first(topic)",
                "starts[topic] = self.committed[topic] if topic in self.committed else await self._first(topic)",
            ),
        ),
        "a broker may answer an older offset than was committed, or none",
    ),
    Planted(
        "commits_without_a_record",
        "keyed",
        (
            Edit(
                PRODUCING,
                "for partition, offset in (await self.broker.produce(writer, batches)).items():",
                "for partition, offset in getattr(\n"
                "                        (await asyncio.gather(self.broker.produce(writer, batches),\n"
                "                                              return_exceptions=True))[0],\n"
                '                        "items", {}.items)():',
            ),
        ),
        "a record that failed does not fail the transaction",
    ),
    Planted(
        "the_writer_is_used_again",
        "keyed",
        (
            Edit(
                PRODUCING,
                "        self.discard()\n        writer =",
                "        if self._writer is not None:\n            return\n        writer =",
            ),
            Edit(PRODUCING, "        writer, self._writer = self._writer, None", "        writer = self._writer"),
            Edit(
                PRODUCING, "        self._writer = None\n        self.broker.discard(", "        self.broker.discard("
            ),
        ),
        "after an error the old transaction is still open, and the next commit commits it too",
    ),
    Planted(
        "works_before_the_restore_ends",
        "keyed",
        (
            Edit(TAKEOVER, "        while at < self._end:\n", "        while at < self._end and not self.records:\n"),
            Edit(TAKEOVER, "BYTES = 8_388_608", "BYTES = 300"),
        ),
        "records meet half of their state",
    ),
    Planted(
        "restores_instead_of_heartbeats",
        "keyed",
        (
            Edit(
                HOSTING,
                '        self.state = "restoring"\n',
                '        self.state = "restoring"\n        await asyncio.sleep(8.0)\n',  # which alone does no harm
            ),
            Edit(
                MEMBERSHIP,
                "        self._settle(claim, decode_share(share))\n",
                "        self._settle(claim, decode_share(share))\n        await asyncio.sleep(8.0)\n",
            ),
        ),
        "a restore longer than the session loses the membership, and begins again",
    ),
    Planted(
        "a_fenced_task_comes_back_at_once",
        "keyed",
        (
            Edit(
                HOSTING,
                "                except Undone as undone:\n                    self._undo(undone)\n",
                "                except Undone as undone:\n                    self._undo(undone)\n"
                "                except Lost:\n"
                "                    self._let_go()\n"
                "                    self._bench, self._outbox = None, self._emptied()\n",
            ),
        ),
        "two owners fence each other in turns",
    ),
    Planted(
        "waits_for_the_record_before_the_end",
        "keyed",
        (
            Edit(
                TAKEOVER, "        while at < self._end:\n", "        last = -1\n        while last < self._end - 1:\n"
            ),
            Edit(
                TAKEOVER,
                "                at = fetched.next_offset\n",
                "                at = fetched.next_offset\n"
                "                last = fetched.offsets[-1] if fetched.offsets else last\n",
            ),
        ),
        "what stands there is a marker, or was compacted away",
    ),
    Planted(
        "goes_on_after_it_was_revoked",
        "keyed",
        (
            Edit(
                WORKER,
                "        await self._close(tasks, self._settings.group.rebalance_timeout / 2000)\n",
                "        for task in tasks:\n            self._hosted.pop(task, None)\n",
            ),
        ),
        "a task that was given away is still worked on",
    ),
    Planted(
        "a_zombie_takes_what_was_read_for_lost",
        "rekeyed",
        (Edit(HOSTING, "            if await self._is_elsewhere():\n", "            if self._bench is None:\n"),),
        "who has lost a task unknowingly finds its records deleted, and must not stop for it",
    ),
    Planted(
        "marks_before_their_data",
        "rekeyed",
        (
            Edit(
                "runners/worker/outbox.py",
                "                self.add(topic, number, Outgoing(None, value, now))\n",
                "                rows = self.records.setdefault(TopicPartition(topic, number), [])\n"
                "                rows.insert(0, Outgoing(None, value, now))\n",
            ),
        ),
        "what was on time is late behind the repartition topic",
    ),
    Planted(
        "closes_without_a_tombstone",
        "keyed",
        (
            Edit(
                "runners/worker/changelog.py",
                "                draft.records += "
                "[ChangelogRecord(head + _NUMBER.pack(each), None) for each in numbers]\n",
                "                del numbers\n",
            ),
        ),
        "closed windows come back with a restore",
    ),
    Planted(
        "the_watermark_is_not_restored",
        "keyed",
        (
            Edit("core/task.py", "= top, watermark, idle, ended, flown", "= START, START, idle, ended, flown"),
            Edit(
                "core/task.py",
                "combined.watermark, combined.behind = watermark, set(behind)",
                "combined.watermark, combined.behind = START, set(behind)",
            ),
        ),
        "late records are on time after a restart, and closed windows open again",
    ),
)


def _plant(planted: Planted, copy: Path) -> None:
    """Put a bug into a copy of the repository."""
    for edit in planted.edits:
        path = copy / "streamproc" / edit.file
        text = path.read_text(encoding="utf-8")
        if text.count(edit.old) != 1:
            raise SystemExit(
                f"{planted.name}: its text occurs {text.count(edit.old)} times in {edit.file}:\n{edit.old}"
            )
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def judge(planted: Planted, seeds: int) -> Verdict:
    """Try seeds on a copy that has the bug, until one shows it."""
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder)
        for name in ("streamproc", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        _plant(planted, copy)
        command = [sys.executable, "-m", "tests.simulation.workers", planted.topology, "0", str(seeds)]
        here = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": folder}
        done = subprocess.run(
            command, cwd=copy, env={**os.environ, **here}, capture_output=True, text=True, check=False
        )
    passed = len(done.stdout.strip().splitlines())
    said = [line for line in done.stderr.splitlines() if "Failed: " in line or "Error" in line]
    seed = None if done.returncode == 0 else passed
    return Verdict(planted, seed, (said or ["nothing"])[-1][:160], monotonic() - began)


def main() -> int:
    """Judge all bugs, or those named; 1 if one is not found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    chosen = [planted for planted in PLANTED if not given.names or planted.name in given.names]
    missed = 0
    show = partial(print, flush=True)
    with ThreadPoolExecutor(given.jobs) as pool:
        for verdict in pool.map(lambda planted: judge(planted, given.seeds), chosen):
            missed += verdict.seed is None
            found = "SURVIVED" if verdict.seed is None else f"seed {verdict.seed:>4}"
            show(f"{found}  {verdict.planted.name} ({verdict.seconds:.0f} s): {verdict.said}")
    show(f"{len(chosen) - missed} of {len(chosen)} planted bugs found within {given.seeds} seeds")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
