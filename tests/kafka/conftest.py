"""Brokers for the tests against Kafka.

One broker serves all tests of a run, on all workers of pytest-xdist, so every test names its topics and groups with
its own `prefix`.  STREAMPROC_TEST_BROKER=host:port names one that runs already.  What kills or configures a broker
gets its `own_kafka`.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.kafka.brokers import Kafka, KafkaProcess, OwnKafka, default_version, missing, shared


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that is in this folder is marked `kafka`."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("kafka")


def _java_or_skip() -> None:
    """Skip where no broker can be started; but in CI that is a failure, else nobody would notice."""
    if lack := missing():
        if os.environ.get("CI"):
            pytest.fail(f"{lack}, and CI may not go without", pytrace=False)
        pytest.skip(f"{lack}, and STREAMPROC_TEST_BROKER=host:port names none")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """The broker that all tests of this run share."""
    version = default_version()
    if given := os.environ.get("STREAMPROC_TEST_BROKER"):
        yield Kafka(given, os.environ.get("STREAMPROC_TEST_KAFKA_VERSION", ""))
        return
    _java_or_skip()
    base = tmp_path_factory.getbasetemp()
    meeting = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with shared(meeting, version) as bootstrap:
        yield Kafka(bootstrap, version)


@pytest.fixture
def own_kafka() -> Iterator[OwnKafka]:
    """Makes brokers that belong to this test alone: to kill, to configure, to put behind a proxy."""
    _java_or_skip()
    made: list[KafkaProcess] = []

    def make(
        version: str | None = None,
        *,
        port: int | None = None,
        advertised_port: int | None = None,
        properties: Mapping[str, object] | None = None,
        start: bool = True,
    ) -> KafkaProcess:
        broker = KafkaProcess(version, port=port, advertised_port=advertised_port, properties=properties)
        made.append(broker)
        return broker.start() if start else broker

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Begins the names of this test's topics, groups and transactional ids: no other test or run has it."""
    words = re.sub(r"[^a-z0-9]+", "-", str(request.node.name).removeprefix("test_").lower()).strip("-")
    return f"{words[:40]}-{secrets.token_hex(4)}"
