"""The worker in worlds where everything goes wrong: what is committed equals a batch program's answer."""

from __future__ import annotations

import pytest

from streamproc.testing.simulation.world import CALM, ROUGH, Faults
from tests.simulation import jobs
from tests.simulation.workers import Scene


@pytest.mark.parametrize("topology", ["keyed", "rekeyed"])
def test_a_calm_world(topology: jobs.Kind) -> None:
    """Without faults two workers share the work, and the answer is right."""
    with Scene(1, topology, CALM) as scene:
        scene.run()


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("topology", ["keyed", "rekeyed"])
def test_whatever_dies(topology: jobs.Kind, seed: int) -> None:
    """Kills at any await, freezes, rebalances, lost and late messages, outages: the same answer, and nothing twice."""
    with Scene(seed, topology) as scene:
        scene.run()


@pytest.mark.parametrize("faults", [CALM, ROUGH], ids=["calm", "rough"])
@pytest.mark.parametrize("seed", range(6))
def test_a_partition_that_stays_silent_holds_nothing_back(seed: int, faults: Faults) -> None:
    """Where one partition never gets a record, its task says so, and windows behind the repartition topic close."""
    with Scene(seed, "rekeyed", faults, silent=frozenset({seed % 3})) as scene:
        scene.run()
