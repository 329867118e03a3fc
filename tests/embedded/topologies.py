"""Topologies for the tests beside this file, and a load with everything that can be wrong with a record.

Run in child processes as `tests.embedded.topologies:...`, so that what is tested is what users have.
"""

import random
import signal
import sys
from pathlib import Path

import msgspec

from streamproc import Count, Max, Topology, Trailing, Tumbling


class Click(msgspec.Struct, frozen=True):
    """A click of a user."""

    user: str
    ts: int
    n: int = 0


def _checked(click: Click) -> Click:
    if click.n < 0:
        raise ValueError("negative")
    return click


def counting(*, trailing: bool = False) -> Topology:
    """Counts per user and second, late clicks apart, the rest that cannot be processed in a dead-letter topic.

    With `trailing`, also the clicks of the last two seconds at each click of two users.
    """
    topology = Topology("counting", dead_letters="dead")
    clicks = topology.source("clicks", Click, event_time=lambda c: c.ts, disorder="2s").map(_checked)
    by_user = clicks.filter(lambda c: c.user != "bot").key_by(lambda c: c.user or None)
    windows = by_user.window(Tumbling("1s", grace="1s"), late="late")
    windows.agg(n=Count(), last=Max(of=lambda c: c.n), name="counts").to("counts")
    if trailing:
        few = clicks.filter(lambda c: c.user in ("u0", "u1")).key_by(lambda c: c.user)
        few.window(Trailing("2s")).count(name="trailing").to("trailing")
    return topology


def joining() -> Topology:
    """Clicks of even number with those of odd number, of one user and at most 100 ms apart; and who met nobody."""
    topology = Topology("joining", dead_letters="dead")
    clicks = topology.source("clicks", Click, event_time=lambda c: c.ts, disorder="2s").map(_checked)
    even, odd = (
        clicks.filter(lambda c, rest=rest: c.n % 2 == rest).key_by(lambda c: c.user or None) for rest in (0, 1)
    )
    pairs = even.join(
        odd,
        lambda left, right: [left and left.n, right and right.n],
        how="outer",
        before="100ms",
        after="50ms",
        grace="1s",
        name="pairs",
        late="late",
    )
    pairs.to("counts")
    return topology


def strict() -> Topology:
    """Stops at the first click that it cannot process."""
    topology = Topology("strict")
    clicks = topology.source("clicks", Click, event_time=lambda c: c.ts)
    clicks.map(_checked).key_by(lambda c: c.user).window(Tumbling("1s")).count(name="counts").to("counts")
    return topology


topology = counting()


def load(seed: int, count: int, users: int = 20) -> bytes:
    """Lines of clicks: a millisecond apart, in disorder, some late by a minute, some bad in each way there is."""
    chance = random.Random(seed)
    lines = []
    for number in range(count):
        ts = 1_700_000_000_000 + number - chance.randrange(1500)
        user = f"u{chance.randrange(users)}"
        match chance.randrange(1000):
            case 0:
                lines.append(b'{"user": "u1", "ts":')
            case 1:
                lines.append(b'{"user":"u1","ts":%d,"n":-1}' % ts)
            case 2:
                lines.append(b'{"user":"","ts":%d}' % ts)
            case 3:
                lines.append(b'{"user":"u2","ts":%d,"n":7}' % (ts - 60_000))
            case 4:
                lines.append(b'{"user":"u3","ts":4000000000000}')
            case 5:
                lines.append(b"")
            case _:
                lines.append(b'{"user":"%s","ts":%d,"n":%d}' % (user.encode(), ts, number))
    return b"\n".join(lines) + b"\n"


def write_load(path: Path, seed: int, count: int) -> Path:
    """The same as a file."""
    path.write_bytes(load(seed, count))
    return path


def _waiting(click: Click) -> Click:
    sys.stderr.write("stuck\n")
    sys.stderr.flush()
    while click.n >= 0:
        signal.pause()
    return click


def stuck() -> Topology:
    """Never comes back from its first click."""
    topology = Topology("stuck")
    topology.source("clicks", Click, event_time=lambda c: c.ts).map(_waiting).to("counts")
    return topology
