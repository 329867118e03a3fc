"""The headline: kill -9 at fifty random instants, and whole outputs equal those of a batch program over the log."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing, suppress
from pathlib import Path

import pytest

from streamproc.adapters.packing import unpack
from tests.embedded.kills import environment

KILLS = 50
COUNT = 800_000
TOPOLOGY = """
    import msgspec
    from streamproc import Count, Max, Sum, Topology, Tumbling

    class Click(msgspec.Struct, frozen=True):
        user: str
        ts: int
        n: int

    def weighed(click: Click) -> Click:
        hash(tuple(range(click.n % 7 + 60)))   # some work, so that there is something to kill
        return click

    topology = Topology("killed", dead_letters="dead")
    (
        topology.source("clicks", Click, event_time=lambda c: c.ts, disorder="500ms")
        .map(weighed)
        .key_by(lambda c: c.user)
        .window(Tumbling("1s"), late="late")
        .agg(Count(), Sum(of=lambda c: c.n), Max(of=lambda c: c.ts), name="per_second")
        .to("out")
    )
"""


def load(seed: int) -> list[tuple[str, int, int]]:
    """Clicks in disorder, some of them late."""
    chance = random.Random(seed)
    return [(f"u{chance.randrange(50)}", number - chance.randrange(700), number) for number in range(COUNT)]


def oracle(clicks: list[tuple[str, int, int]]) -> tuple[bytes, bytes]:
    """What a batch program makes of the log: the lines of `out` and of `late`."""
    windows: dict[tuple[int, str], list[int]] = {}
    late: list[bytes] = []
    watermark = -(10**18)
    for user, ts, n in clicks:
        watermark = max(watermark, ts - 500)
        end = ts // 1000 * 1000 + 1000
        if end <= watermark:
            late.append(b'{"user":"%s","ts":%d,"n":%d}\n' % (user.encode(), ts, n))
            continue
        count, total, last = windows.get((end, user), [0, 0, ts])
        windows[end, user] = [count + 1, total + n, max(last, ts)]
    lines = (
        {"key": user, "start": end - 1000, "end": end, "value": windows[end, user]} for end, user in sorted(windows)
    )
    out = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
    return out, b"".join(late)


def killed_after(command: list[str], folder: Path, seconds: float) -> bool:
    """Start a run, let it work so long from when it is ready, and kill it; False if it had ended before."""
    with subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if b"plan_built" in line:
                break
        with suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
        child.kill()
        return child.wait() == -9


def committed(state: Path) -> int:
    """How many clicks have been committed."""
    if not state.exists():
        return 0
    with closing(sqlite3.connect(state)) as file:
        found = file.execute("SELECT position FROM positions").fetchone()
    return 0 if found is None else int(unpack(found[0])["inputs"]["clicks/0"][0])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_kills_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    """After fifty kills and one run that is let through, output files and topics equal the oracle, byte for byte."""
    clicks = load(7)
    (tmp_path / "killed.py").write_text(textwrap.dedent(TOPOLOGY), encoding="utf-8")
    (tmp_path / "clicks.jsonl").write_bytes(
        b"".join(b'{"user":"%s","ts":%d,"n":%d}\n' % (user.encode(), ts, n) for user, ts, n in clicks)
    )
    command = [
        sys.executable, "-m", "streamproc", "run", "killed:topology", "--input=clicks=clicks.jsonl", "--no-http",
        "--output=out=out.jsonl", "--output=late=late.jsonl", "--state=state.sqlite", "--commit-interval=1ms",
        "--log-format=json",
    ]  # fmt: skip
    chance, patience, moved, before = random.Random(3), 0.08, 0, 0
    for _ in range(KILLS):
        seconds = max(0.0, patience + chance.uniform(-0.04, 0.04))
        assert killed_after(command, tmp_path, seconds), "a run must not end before its kill"
        after = committed(tmp_path / "state.sqlite")
        moved += after > before
        patience += -0.01 if after > before else 0.01  # a busy machine needs longer to come to its first commit
        before = after
    assert moved > KILLS // 5, "the kills were to fall within the work"
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    out, late = oracle(clicks)
    assert (tmp_path / "out.jsonl").read_bytes() == out
    assert (tmp_path / "late.jsonl").read_bytes() == late
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as file:
        topic = file.execute('SELECT value FROM records WHERE topic = ? ORDER BY "offset"', ("out",)).fetchall()
        cells = file.execute("SELECT (SELECT count(*) FROM blocks) + (SELECT count(*) FROM cells)").fetchone()
    assert b"".join(value + b"\n" for (value,) in topic) == out
    assert cells == (0,)
