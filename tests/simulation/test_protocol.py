"""The simulation finds what is wrong with a client, and finds nothing wrong with one that is right.

STREAMPROC_SEED=n plays that seed alone, STREAMPROC_SEEDS=n so many fresh ones.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamproc.testing.simulation.habits import Habits
from streamproc.testing.simulation.world import CALM, FAR, FROZEN, LATE, LOSSY, ROUGH, Failed, Faults
from tests.simulation.clients import Bug, play

NEW = Habits()
OLD = Habits(bumps=False)
UNSTABLE = Habits(stable_reads=False)
OLDER = Habits(bumps=False, stable_reads=False, forgetful=True)
WORN = Habits(last_epoch=3)
THREE = Habits(nodes=3, rebalance_delay=3.0)
QUIET = replace(CALM, heal=40.0)
SHORT, CLOSE, WIDE, LOST, STIFF = (replace(faults, heal=40.0) for faults in (ROUGH, LATE, FAR, LOSSY, FROZEN))


def seeds(usual: int) -> Iterator[int]:
    """The seeds to be played."""
    if "STREAMPROC_SEED" in os.environ:
        yield int(os.environ["STREAMPROC_SEED"])
    else:
        yield from range(int(os.environ.get("STREAMPROC_SEEDS", usual)))


@pytest.mark.parametrize("habits", [NEW, OLD, OLDER, WORN, THREE], ids=["new", "old", "older", "worn", "three"])
@pytest.mark.parametrize(
    "faults", [QUIET, SHORT, STIFF, LOST, CLOSE, WIDE], ids=["calm", "rough", "frozen", "lossy", "late", "far"]
)
def test_a_client_that_keeps_the_rules_is_right_whatever_befalls_it(faults: Faults, habits: Habits) -> None:
    """Every output is a prefix of the right one at every second, and all of it in the end."""
    for seed in seeds(1 if faults is QUIET else 20):
        play(seed, faults, habits)


def test_a_seed_gives_the_same_world_again() -> None:
    """Trace, time and all that happened are functions of the seed."""

    def tell(seed: int) -> tuple[int, float, dict[str, int]]:
        world = play(seed, SHORT, NEW)
        return world.loop.trace, world.loop.time(), dict(world.happened)

    told = [tell(seed) for seed in range(10)]
    assert told == [tell(seed) for seed in range(10)]
    assert len({trace for trace, _, _ in told}) == 10


def test_the_seed_of_hashes_makes_no_difference() -> None:
    """The same world comes of the same seed in an interpreter that hashes text in another way."""
    tell = "from tests.simulation.test_protocol import *; print([play(n, SHORT, NEW).loop.trace for n in range(3)])"
    told = [
        subprocess.run(
            [sys.executable, "-c", tell],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1] == f"{[play(seed, SHORT, NEW).loop.trace for seed in range(3)]}\n"


PLANTED = [
    (Bug.EARLY_STATE, SHORT, NEW, 50),
    (Bug.FAILED_RECORD, SHORT, NEW, 50),
    (Bug.ID_OF_WORKER, SHORT, NEW, 200),
    (Bug.ID_OF_WORKER | Bug.STABLE_RESTORE, SHORT, NEW, 200),
    (Bug.GO_ON, LOST, NEW, 2_000),
    (Bug.NO_CROSS_CHECK, CLOSE, OLDER, 2_000),
    (Bug.WRITER_AGAIN, CLOSE, NEW, 1_000),
    (Bug.END_AGAIN, CLOSE, OLD, 1_000),
    (Bug.OFFSETS_BEFORE_INIT | Bug.NO_CROSS_CHECK, WIDE, UNSTABLE, 5_000),  # the cross-check would hide it
]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("bug", "faults", "habits", "limit"), PLANTED, ids=[str(planted[0]) for planted in PLANTED])
def test_a_planted_bug_is_found(bug: Bug, faults: Faults, habits: Habits, limit: int) -> None:
    """Within so many seeds one fails."""
    for seed in seeds(limit):
        try:
            play(seed, faults, habits, bug)
        except Failed as failed:
            assert f"seed {seed}," in str(failed)  # noqa: PT017  # which seed it is, is not known before
            assert f"STREAMPROC_SEED={seed} " in str(failed)  # noqa: PT017
            return
    pytest.fail(f"{bug} was not found within {limit} seeds")


def test_an_end_of_a_transaction_that_is_sent_again_is_harmless_where_each_end_raises_the_epoch() -> None:
    """What tears transactions with the old protocol is refused with the new one."""
    for seed in seeds(25):
        play(seed, SHORT, NEW, Bug.END_AGAIN)
