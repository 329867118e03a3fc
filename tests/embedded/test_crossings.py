"""What crosses a repartition topic survives a restart like everything else."""

import json
from pathlib import Path

from streamproc import Topology, Tumbling
from tests.embedded.machine import Item, Machine, Script
from tests.embedded.topologies import Click

BASE = 1_700_000_000_000


def click(ms: int, partition: int) -> tuple[int, bytes]:
    """A click so many ms after BASE."""
    return partition, json.dumps({"user": "a", "ts": BASE + ms}).encode()


def both() -> Topology:
    """Counts over clicks that cross a repartition topic and views that do not, which are awaited (S39)."""
    topology = Topology("both")
    clicks = topology.source("clicks", Click, event_time=lambda c: c.ts)
    views = topology.source("views", Click, event_time=lambda c: c.ts, key=str)
    clicks.key_by(lambda c: c.user).merge(views).window(Tumbling("1s")).count(name="counts").to("counts")
    return topology


CLICKS: list[list[Item]] = [[click(100, 0), click(200, 1)], [click(300, 0), click(1400, 1)], [click(5000, 0)]]


def test_records_that_wait_behind_a_crossing_are_not_lost(tmp_path: Path) -> None:
    """A stage with a source that has nothing yet holds what has crossed to it; a restart does not drop that."""
    calm, rough = (Machine(tmp_path / name, both(), partitions=2) for name in ("calm", "rough"))
    for machine in (calm, rough):
        machine.folder.mkdir()
    calm.run(Script("clicks", CLICKS), Script("views", []))

    for count in (1, 2):
        views = Script("views", [[], [rough.ask]], endless=True)
        rough.run(Script("clicks", CLICKS[:count], endless=True), views, keep_open=True)
    rough.run(Script("clicks", CLICKS), Script("views", []))

    assert rough.rows("counts") == calm.rows("counts")
