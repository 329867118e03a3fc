"""The worker in worlds where everything goes wrong: what is committed equals a batch program's answer."""

from __future__ import annotations

from typing import Literal

import pytest

from streamproc.testing.simulation.world import CALM
from tests.simulation.workers import Scene


@pytest.mark.parametrize("topology", ["keyed", "rekeyed"])
def test_a_calm_world(topology: Literal["keyed", "rekeyed"]) -> None:
    """Without faults two workers share the work, and the answer is right."""
    with Scene(1, topology, CALM) as scene:
        scene.run()


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("topology", ["keyed", "rekeyed"])
def test_whatever_dies(topology: Literal["keyed", "rekeyed"], seed: int) -> None:
    """Kills at any await, freezes, rebalances, lost and late messages, outages: the same answer, and nothing twice."""
    with Scene(seed, topology) as scene:
        scene.run()
