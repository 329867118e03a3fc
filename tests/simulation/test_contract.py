"""The model answers every script of the contract, and the same in every schedule.

That a real broker gives the same answers is what tests/kafka/test_contract.py shows.
"""

import pytest

from streamproc.testing.simulation.habits import Habits
from tests.simulation.contract import SCRIPTS, SLOW
from tests.simulation.stages import simulated

NEW, OLD = Habits(), Habits(bumps=False, forgetful=True)


@pytest.mark.parametrize("habits", [NEW, OLD], ids=["new", "old"])
@pytest.mark.parametrize("name", [*SCRIPTS, *SLOW])
def test_what_the_model_answers_does_not_depend_on_the_schedule(name: str, habits: Habits) -> None:
    """One answer for all seeds."""
    script = {**SCRIPTS, **SLOW}[name]
    answers = [simulated(script, seed, habits) for seed in range(20)]
    assert answers == answers[:1] * 20


@pytest.mark.parametrize("name", SCRIPTS)
def test_several_nodes_answer_as_one_does(name: str) -> None:
    """Who leads and who coordinates makes no difference."""
    one, three = (simulated(SCRIPTS[name], 0, Habits(nodes=nodes)) for nodes in (1, 3))
    if name != "a_fetch_of_several":  # it asks one node for all, which leads only some
        assert three == one
