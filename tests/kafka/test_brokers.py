"""Brokers for tests: they come, they keep what they have, and they never outlive those who want them."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kafka.brokers import (
    HOST,
    VERSIONS,
    BrokerError,
    Kafka,
    KafkaProcess,
    OwnKafka,
    ask,
    default_version,
    free_port,
    jars,
    missing,
    shared,
)

ROOT = Path(__file__).parent.parent.parent
API_VERSIONS, METADATA, CREATE_TOPICS = 18, 3, 19


def answers(bootstrap: str) -> bool:
    """Whether a broker answers there."""
    host, _, port = bootstrap.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 10) as connection:
            return ask(connection, API_VERSIONS, 0)[:2] == bytes(2)
    except OSError:
        return False


def create(broker: KafkaProcess, topic: str) -> int:
    """Create a topic of one partition; the error code, 36 if there is one."""
    name = topic.encode()
    body = struct.pack(f">ih{len(name)}sihiiib", 1, len(name), name, 1, 1, 0, 0, 10_000, 0)
    with socket.create_connection((HOST, broker.port), 10) as connection:
        return int(struct.unpack_from(">h", ask(connection, CREATE_TOPICS, 2, body), 10 + len(name))[0])


def wait_for_end_of(pid: int) -> None:
    """Until a process, child or not, is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone, _, _ = select.select([handle], [], [], 20)
    os.close(handle)
    assert gone, f"{pid} lives"


def python(code: str, **environment: str) -> subprocess.Popen[str]:
    """A Python at work beside this one."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_shared_broker_answers(kafka: Kafka) -> None:
    """On every worker of the run."""
    assert answers(kafka.bootstrap)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_known_versions_start(own_kafka: OwnKafka, version: str) -> None:
    """Each with its own jars, and they answer when `start` returns."""
    assert answers(own_kafka(version).bootstrap)


@pytest.mark.slow
def test_a_broker_comes_back_with_what_it_had(own_kafka: OwnKafka) -> None:
    """On the same port, after a clean stop and after a kill."""
    broker = own_kafka(properties={"broker.session.timeout.ms": 3000, "broker.heartbeat.interval.ms": 500})
    assert create(broker, "kept") == 0
    for end in (broker.stop, broker.kill):
        bootstrap, pid = broker.bootstrap, broker.pid
        end()
        wait_for_end_of(pid)
        assert not broker.runs()
        broker.start()
        assert (broker.bootstrap, answers(bootstrap), create(broker, "kept")) == (bootstrap, True, 36)


@pytest.mark.slow
def test_clients_are_told_the_advertised_port(own_kafka: OwnKafka) -> None:
    """While the broker listens on its own."""
    broker = own_kafka(advertised_port=free_port())
    with socket.create_connection((HOST, broker.port), 10) as connection:
        answer = ask(connection, METADATA, 1, struct.pack(">i", 0))
    brokers, _node, size = struct.unpack_from(">iih", answer)
    assert (brokers, *struct.unpack_from(f">{size}si", answer, 10)) == (1, HOST.encode(), broker.advertised_port)


def test_a_broker_that_cannot_start_says_why(own_kafka: OwnKafka) -> None:
    """A wrong setting is named in the error, be it the tool's that formats or the server's."""
    with pytest.raises(BrokerError, match=r"background\.threads"):
        own_kafka(properties={"background.threads": "many"})


def test_closing_removes_all(own_kafka: OwnKafka) -> None:
    """The process, its guard and its directory."""
    broker = own_kafka()
    pid = broker.pid
    broker.close()
    assert not broker.folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.usefixtures("own_kafka")
def test_a_broker_dies_with_a_starter_that_is_killed() -> None:
    """By SIGKILL, so that nothing of Python's could clean up; its files go too."""
    code = """
from tests.kafka.brokers import KafkaProcess
broker = KafkaProcess().start()
print(broker.pid, broker._guard.pid, broker.folder, flush=True)
input()
"""
    with python(code) as starter:
        assert starter.stdout
        pid, guard, folder = starter.stdout.readline().split()
        assert Path(folder).exists()
        starter.kill()
    wait_for_end_of(int(pid))
    wait_for_end_of(int(guard))
    assert not Path(folder).exists()


@pytest.mark.slow
@pytest.mark.usefixtures("own_kafka")
def test_a_shared_broker_ends_with_the_last_that_wants_it(tmp_path: Path) -> None:
    """It is no matter who started it and how that one ended; whoever comes afterwards starts another."""
    code = f"""
from pathlib import Path
from tests.kafka.brokers import shared
with shared(Path({str(tmp_path)!r}), {default_version()!r}) as bootstrap:
    print(bootstrap, flush=True)
    input()
"""
    with python(code) as first, ExitStack() as second:
        assert first.stdout
        bootstrap = first.stdout.readline().strip()
        assert second.enter_context(shared(tmp_path, default_version())) == bootstrap
        first.kill()
        first.wait()
        with shared(tmp_path, default_version()) as third:
            assert third == bootstrap
        assert answers(bootstrap)
        second.close()
        with shared(tmp_path, default_version()) as another:
            assert another != bootstrap
            assert answers(another)


def test_jars_are_fetched_once(tmp_path: Path) -> None:
    """Two processes that want them at once wait for one Maven, and what it brings appears complete."""
    fetched = tmp_path / "fetched"
    maven = tmp_path / "mvn"
    maven.write_text(
        f"""#!/bin/sh
echo once >> {fetched}
for argument; do case $argument in -DoutputDirectory=*) folder=${{argument#*=}};; esac; done
mkdir "$folder" && touch "$folder/some.jar"
"""
    )
    maven.chmod(0o755)
    code = "from tests.kafka.brokers import jars; print(*[each.name for each in jars('0.0.0').iterdir()])"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    both = [python(code, **environment) for _ in range(2)]
    assert [each.communicate(timeout=60)[0] for each in both] == ["some.jar\n"] * 2
    assert fetched.read_text() == "once\n"
    assert sorted(each.name for each in (tmp_path / "cache/streamproc").iterdir()) == [
        "kafka-0.0.0",
        "kafka-0.0.0.lock",
    ]


def test_jars_that_cannot_be_fetched_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has what Maven said, and the next attempt begins anew."""
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho no such version; exit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(BrokerError, match="no such version"):
        jars("0.0.0")
    assert [each.name for each in (tmp_path / "cache/streamproc").iterdir()] == ["kafka-0.0.0.lock"]


def test_what_a_machine_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Maven is only missed while the jars are."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert missing("0.0.0") == "no java (17 or newer) and no mvn here to start a Kafka broker with"
    (tmp_path / "streamproc" / "kafka-0.0.0").mkdir(parents=True)
    assert missing("0.0.0") == "no java (17 or newer) here to start a Kafka broker with"


@pytest.mark.slow
@pytest.mark.parametrize(("ci", "code", "said"), [("", 0, "1 skipped"), ("true", 1, "CI may not go without")])
def test_without_java_tests_are_skipped_but_not_in_ci(tmp_path: Path, ci: str, code: int, said: str) -> None:
    """A skipped test is not noticed in CI, where somebody relies on it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "STREAMPROC_"))}
    test = f"{Path(__file__)}::test_the_shared_broker_answers"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test],
        check=False,
        cwd=ROOT,
        env=environment | {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "CI": ci},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout
