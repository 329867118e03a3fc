"""A real Prometheus scrapes a worker, and answers every query of every board and rule."""

import json
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.registry import Collector

from streamproc.adapters.http import HttpServer
from streamproc.adapters.prometheus import PrometheusObserver, Worker
from streamproc.core.batch import Emit, Step
from streamproc.ports import Commit
from streamproc.ports.worker import (
    Changelog,
    Delays,
    Failure,
    Ownership,
    Pulse,
    Reachability,
    Rebalanced,
    Restored,
    Restoring,
    Standing,
    Uncommitted,
)
from tests.deploy.files import PROMTOOL, RULES, boards, filled, rules, tool
from tests.observability.plans import PLAN, busy_step, letter

pytestmark = pytest.mark.slow  # Prometheus takes five seconds before its first scrape

PANELS = [
    (f"{name}: {panel['title']}", filled(target["expr"]))
    for name, board in boards().items()
    for panel in board["panels"]
    for target in panel["targets"]
]
SCRAPES = 6
"""Enough for rates, and for a rule that looks at what another has recorded."""
AT_MOST = 60


@dataclass(eq=False)
class Life(Collector):
    """A worker that goes on a little with each scrape: reads, fails at some records, commits, restores, rebalances."""

    observer: PrometheusObserver
    scraped: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    turns: Iterator[int] = field(default_factory=count)

    def begin(self) -> None:
        """Join the group, and restore."""
        self.observer.planned(PLAN)
        self.observer.happened(Reachability(reachable=True))
        self.observer.happened(Ownership("assigned", ["clicks/0", "clicks/1"], {"clicks": [0, 1]}))
        self.observer.state("running")

    def collect(self) -> Iterator[Any]:
        """Go on; this itself has nothing to show."""
        self._go_on(next(self.turns))
        self.scraped.release()
        return iter(())

    def _go_on(self, turn: int) -> None:
        tell, at = self.observer, 10 * turn
        now = int(time.time() * 1000)
        step = busy_step()
        tell.read("clicks", 0, 10, 100, at)
        tell.stepped("clicks/0", Step(counts=step.counts, watermarks=dict.fromkeys(step.watermarks, now)), 10, 0.01)
        tell.counted("clicks/0", {"per_user": 3}, {"per_user": 4})
        tell.progressed({("clicks", 0): now, ("clicks", 1): now - 5000}, ("clicks", 1))
        tell.committed(Commit(emits={("totals", 0): [Emit(None, b"1", now, (), None)]}), [letter()], 0.02)
        tell.happened(Changelog("clicks/0", 3, 70))
        tell.happened(Restoring("clicks/1", 10, 1000 - at))
        tell.happened(Restored("clicks/0", 100, 2.0))
        tell.happened(Rebalanced(1.5))
        tell.happened(Uncommitted("clicks/1", "aborted", 0.5))
        tell.happened(Failure("timeout"))
        tell.happened(Delays("clicks", [3, 40, 900]))
        tell.answered("fetch", 0.1)
        tell.lagged({("clicks", 0): Standing(at, 5000, 3.0), ("clicks", 1): Standing(0, 7, 9.0, paused=True)})
        tell.polled({"fetch": 0.05, "commit": 0.02})
        tell.ticked(0.004)


@dataclass(frozen=True)
class Asking:
    """How to ask a Prometheus."""

    port: int

    def query(self, expression: str) -> list[Any]:
        """The result of an expression now; an error is an error."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(url, timeout=30) as answer:
            body = json.load(answer)
        assert body["status"] == "success"
        found: list[Any] = body["data"]["result"]
        return found


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asking]:
    """A Prometheus with our rules that has scraped a worker a few times, until every rule has recorded something."""
    program = tool("prometheus", PROMTOOL)
    folder = tmp_path_factory.mktemp("prometheus")
    observer = PrometheusObserver("requests", worker=Worker(client="kafka", kafka=True))
    life = Life(observer)
    life.begin()
    observer.registry.register(life)
    server = HttpServer("127.0.0.1", 0, observer.registry, lambda: Pulse("running", 0.0, 0.0))
    _, worker = server.start()
    port = free_port()
    command = [
        program,
        f"--config.file={_configured(folder, worker)}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
    try:
        for _ in range(SCRAPES):
            assert life.scraped.acquire(timeout=AT_MOST), (folder / "log").read_text()
        ask = Asking(port)
        waited_for = [rule["record"] for rule in rules() if "record" in rule] + ['ALERTS{alertstate="firing"}']
        for _ in range(AT_MOST):
            if all(map(ask.query, waited_for)):
                break
            assert life.scraped.acquire(timeout=AT_MOST)
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=30)
        server.stop()


def _configured(folder: Path, worker: int) -> Path:
    path = folder / "prometheus.yml"
    job = {"job_name": "streamproc", "static_configs": [{"targets": [f"127.0.0.1:{worker}"]}]}
    often = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    path.write_text(yaml.safe_dump({"global": often, "rule_files": list(map(str, RULES)), "scrape_configs": [job]}))
    return path


def test_every_panel_shows_something(asking: Asking) -> None:
    """Each query of each board is answered, and by something, as the worker does everything there is to be seen."""
    assert [where for where, expression in PANELS if not asking.query(expression)] == []


def test_every_rule_can_be_evaluated(asking: Asking) -> None:
    """Each expression of a rule is answered; what is recorded has been, by topology and nothing else."""
    for rule in rules():
        asking.query(rule["expr"])
        if "record" in rule:
            assert [list(found["metric"]) for found in asking.query(rule["record"])] == [["__name__", "topology"]]


def test_an_alert_fires_with_its_texts(asking: Asking) -> None:
    """Dead letters raise an alert that names topology and topic, and whose texts have their values in them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{asking.port}/api/v1/alerts", timeout=30) as answer:
        found = {alert["labels"]["alertname"]: alert for alert in json.load(answer)["data"]["alerts"]}
    alert = found["StreamprocDLQNonZero"]
    assert alert["labels"] == {
        "alertname": "StreamprocDLQNonZero",
        "severity": "ticket",
        "topology": "requests",
        "topic": "poison",
    }
    assert alert["annotations"]["summary"] == "requests has written dead letters"
    assert alert["annotations"]["description"].endswith("in 15 minutes, in poison.")
