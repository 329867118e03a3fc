"""The commands of those who operate a topology, as far as they need no broker: mistakes, health, and what is pure."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from streamproc.adapters.http import HttpServer
from streamproc.adapters.kafka import Topic
from streamproc.cli import main
from streamproc.cli.brokers import access, broker_of, told
from streamproc.cli.dlq import Filter, Letter
from streamproc.cli.kafka import Crash, Engine
from streamproc.cli.offsets import Reset, Scope, target
from streamproc.cli.outcomes import Unreachable
from streamproc.cli.provisioning import needed
from streamproc.cli.reading import Row
from streamproc.config import load
from streamproc.core.errors import ConfigError
from streamproc.core.plan import build
from streamproc.ports.broker import Code, Outgoing, Refused, TopicPartition, Unanswered, Unauthenticated
from streamproc.ports.worker import Pulse
from tests.embedded.kills import environment
from tests.embedded.topologies import counting

COUNTING = "tests.embedded.topologies:counting"
NOBODY = ("--bootstrap-servers", "127.0.0.1:1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and no more than a moment for brokers that are not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMPROC_CONNECT__TIMEOUT", "50ms")
    return tmp_path


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The code of a command that fails, and the one line it says."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return code, err.removeprefix("streamproc: ").rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lag", COUNTING], "no brokers are named: --bootstrap-servers HOST:PORT, or STREAMPROC_KAFKA__BOOTSTRAP_SERV"),
        (["dlq", "ls", "dead"], "no brokers are named"),
        (["lag", COUNTING, "--bootstrap-servers", "kafka"], "use host:port, several with commas between them"),
        (["offsets", "reset", COUNTING, "--to", "yesterday"], "--to yesterday: use earliest, latest, an offset, or a"),
        (["offsets", "reset", COUNTING, "--to", "2026-03-01T12:00:00"], "or a time with its zone such as 2026-03-01T"),
        (["offsets", "reset", COUNTING, "--to", "1", "--topic", "clicks"], "--topic and --partition need --keep-state"),
        (["dlq", "replay", "dead", "--rate", "0"], "--rate 0: more than 0"),
        (["status", "--at", "localhost"], "--at localhost: use HOST:PORT"),
        (["status", "--at", "localhost:x"], "--at localhost:x: use HOST:PORT"),
        (["run", COUNTING, *NOBODY, "--partitions", "2"], "--partitions is for runs over files, and this one is on"),
        (["run", COUNTING, *NOBODY, "--output", "counts=x"], "--output is for runs over files"),
        (["run", COUNTING, "--workers", "2", "--input", "clicks=-"], "workers is 2, and one process reads --input"),
        (["run", COUNTING, "--workers", "0"], "use a number from 1 to 256"),
        (["run", "flights.py", *NOBODY, "--workers", "2"], "'flights.py' is a path: name the module"),
    ],
)
def test_a_mistake_exits_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """Usage and configuration: one line says what is wrong and what there is."""
    code, said = failing(capsys, *arguments)
    assert code == 2
    assert message in said


def test_the_runner_follows_from_what_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brokers mean Kafka, an input means files, and the setting is stronger than both."""
    quiet = ("--no-http", "--log-level", "critical")
    assert failing(capsys, "run", COUNTING, *NOBODY, *quiet)[0] == 4
    code, said = failing(capsys, "run", COUNTING, *NOBODY, "--input", "clicks=gone")
    assert (code, said) == (2, "--input 'clicks=gone': there is no gone")
    monkeypatch.setenv("STREAMPROC_RUNNER", "embedded")
    assert "there is no input for clicks" in failing(capsys, "run", COUNTING, *NOBODY)[1]
    monkeypatch.setenv("STREAMPROC_RUNNER", "kafka")
    assert failing(capsys, "run", COUNTING, *NOBODY, "--input", "clicks=gone")[1].startswith("--input is for runs over")
    assert failing(capsys, "run", COUNTING)[1].startswith("runner is kafka, and no brokers are named")


def test_brokers_that_do_not_answer_exit_with_4(capsys: pytest.CaptureFixture[str]) -> None:
    """Their addresses are named, and where those come from."""
    code, said = failing(capsys, "lag", COUNTING, *NOBODY)
    assert code == 4
    assert said.startswith("no broker answers at 127.0.0.1:1: ")
    assert said.endswith("They are named by kafka.bootstrap_servers (--bootstrap-servers)")


def test_files_of_certificates_must_be_there(folder: Path) -> None:
    """A file that is named and is not there, or holds none, is an error of the settings."""
    variables = {
        "STREAMPROC_KAFKA__BOOTSTRAP_SERVERS": "a:9092",
        "STREAMPROC_KAFKA__SECURITY_PROTOCOL": "SSL",
        "STREAMPROC_KAFKA__SSL_CAFILE": "ca.pem",
    }
    config = load({}, variables, folder)
    with pytest.raises(ConfigError, match=r"kafka.ssl_cafile is ca.pem, and there is no such file"):
        access(config)
    (folder / "ca.pem").write_text("none of that")
    with pytest.raises(ConfigError, match=r"the files of kafka.ssl_\* cannot be used: "):
        broker_of(config)


def test_refusals_of_brokers_say_what_to_do() -> None:
    """What only permissions or settings can mend is an error of configuration; silence is no answer."""
    refused = told(Refused(Code.GROUP_AUTHORIZATION_FAILED, "join group 'flights'"))
    assert (type(refused), "give it READ on it" in str(refused)) == (ConfigError, True)
    assert type(told(Unauthenticated("a:9092: no"))) is ConfigError
    assert type(told(Unanswered("a:9092 did not answer in time"))) is Unreachable
    other = Refused(Code.INVALID_TOPIC, "create topic 'x y'")
    assert told(other) is other


def test_python_without_assertions_is_refused() -> None:
    """Assertions keep a Kafka client from going on after errors, so nothing runs without them."""
    command = [sys.executable, "-O", "-m", "streamproc", "config", "show"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("streamproc: python -O and PYTHONOPTIMIZE take assertions out")


# health


@contextmanager
def serving(state: str) -> Iterator[str]:
    """The address of a worker in some state, with a supervisor's list of itself and of nobody."""
    pulse = Pulse(state, 0.0, 0.0)
    lag = {
        "partitions": [
            {
                "topic": "clicks",
                "partition": 1,
                "position": 7,
                "end": 9,
                "lag_records": 2,
                "lag_seconds": 1.5,
                **dict.fromkeys(("paused", "idle", "holds"), False),
                "stalled": True,
            }
        ]
    }
    ports: list[int] = []
    server = HttpServer("127.0.0.1", 0, CollectorRegistry(), lambda: pulse, lag=lambda: lag, workers=lambda: ports)
    host, port = server.start()
    ports += [port, 1]
    try:
        yield f"{host}:{port}"
    finally:
        server.stop()


def test_health_is_an_exit_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """0 for a worker that is well, 1 for one that is not or does not answer; where it is follows from the settings."""
    with serving("restoring") as at:
        assert main(["healthcheck", "--at", at]) == 0
        assert main(["healthcheck", "--at", f"http://{at}/", "--ready"]) == 1
        assert capsys.readouterr().err == f"{at}/readyz answers 503: state restoring\n"
        monkeypatch.setenv("STREAMPROC_HTTP__HOST", "0.0.0.0")  # noqa: S104 - where a container listens
        monkeypatch.setenv("STREAMPROC_HTTP__PORT", at.rpartition(":")[2])
        assert main(["healthcheck"]) == 0
    assert main(["healthcheck", "--at", at]) == 1
    assert capsys.readouterr().err.startswith(f"no worker answers at {at}: ")


def test_status_shows_all_workers_of_a_supervisor(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its partitions, for people and as JSON; one that does not answer is shown as well, and is code 1."""
    with serving("running") as at:
        assert main(["status", "--at", at]) == 1
        first, partition, second = capsys.readouterr().out.splitlines()
        assert first == f"{at}  running  1 partitions, lag 2"
        assert partition == "  clicks/1  at 7 of 9  1.5 s  stalled"
        assert second.startswith("127.0.0.1:1  down  no worker answers at 127.0.0.1:1: ")
        assert main(["status", "--at", at, "--json"]) == 1
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(row["worker"], row["live"], row["ready"]) for row in rows] == [
            (at, True, True),
            ("127.0.0.1:1", False, False),
        ]


# what is pure


def test_a_target_is_an_end_an_offset_or_a_time() -> None:
    """What `--to` may be."""
    assert [target(text) for text in ("earliest", "latest", "12", "2026-03-01T13:00:00+01:00")] == [
        "earliest",
        "latest",
        12,
        datetime(2026, 3, 1, 12, tzinfo=UTC),
    ]


def test_a_part_of_the_inputs_may_move_only_if_state_stays() -> None:
    """State comes from all inputs of a task, so it cannot be taken back for one of them."""
    graph = counting().graph()
    assert Reset(graph, 1, keep_state=True, scope=Scope("clicks")).scope.covers(TopicPartition("clicks", 3))
    with pytest.raises(ConfigError, match="need --keep-state"):
        Reset(graph, 1, scope=Scope(partition=0))


def test_a_topology_needs_these_topics() -> None:
    """Its sources and outputs, and its own with configs that keep what must be kept."""
    found = {each.name: each for each in needed(build(counting().graph(), 3))}
    assert {name: (each.kind, each.partitions) for name, each in found.items()} == {
        "clicks": ("source", 3),
        "counts": ("sink", 3),
        "late": ("sink", 3),
        "dead": ("dead letters", 3),
        "counting-counts-repartition": ("repartition", 3),
        "counting-clicks-changelog": ("changelog", 3),
        "counting-counts-changelog": ("changelog", 3),
    }
    changelog = found["counting-counts-changelog"]
    assert changelog.misconfigured(Topic(changelog.name, 3, 1, {"cleanup.policy": "compact"})) == []
    (why,) = changelog.misconfigured(Topic(changelog.name, 3, 1, {"cleanup.policy": "delete"}))
    assert why.startswith("cleanup.policy is delete and must be compact: kafka-configs.sh --alter ")


def letter(**said: str) -> Letter:
    """A dead letter of a click, with what its headers say."""
    headers = {
        "traceparent": "00",
        "streamproc.redriven": "1",
        "__streams.errors.topic": "clicks",
        "__streams.errors.partition": "2",
        "__streams.errors.offset": "40",
        "streamproc.errors.reason": "processing_error",
        "streamproc.errors.node": "map",
        **{f"streamproc.errors.{name}": value for name, value in said.items()},
    }
    encoded = tuple((name, value.encode()) for name, value in headers.items())
    return Letter.of(Row(TopicPartition("dead", 0), 5, 1000, b"ann", b"\xff", encoded))


def test_a_letter_goes_back_as_its_record_was() -> None:
    """Without the headers that made it a letter, with one that counts, and with the time that its record had."""
    now = 2000
    headers = (("traceparent", b"00"), ("streamproc.redriven", b"2"))
    assert letter(timestamp="500").back(now) == Outgoing(b"ann", b"\xff", 500, headers)
    assert {letter(timestamp=text).back(now).at for text in ("9000", "-1", "")} == {now}
    assert letter().summary() == {
        "partition": 0,
        "offset": 5,
        "reason": "processing_error",
        "node": "map",
        "exception": None,
        "source": {"topic": "clicks", "partition": 2, "offset": 40},
        "redriven": 1,
    }
    assert letter().whole()["value"] == "\\xff"
    of_a_result = Letter.of(letter().row._replace(headers=(("__streams.errors.topic", b"clicks"),)))
    assert of_a_result.source is None


def test_letters_are_chosen_by_reason_and_node() -> None:
    """How far they were sent back is remembered for each choice."""
    chosen = [Filter(), Filter("processing_error"), Filter(node="map"), Filter("late", "map")]
    assert [each.takes(letter()) for each in chosen] == [True, True, True, False]
    assert len({each.name("dead") for each in chosen}) == 4


async def test_the_engine_gives_what_its_function_gives() -> None:
    """A result or an error, from a thread of its own, one after the other; nobody need wait for it."""
    engine = Engine(asyncio.get_running_loop())
    assert await asyncio.gather(*(engine(partial(int, number)) for number in range(3))) == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        await engine(lambda: 1 // 0)
    waiting = asyncio.ensure_future(engine(lambda: 1))
    await asyncio.sleep(0)
    waiting.cancel()
    assert await engine(lambda: 2) == 2


def test_a_crash_is_planned_by_step_and_passing() -> None:
    """Nothing happens without a plan, at other steps, and before its time."""
    assert Crash.planned("")("before_fold") is None
    planned = Crash.planned("before_fold:2")
    planned("after_endtxn")
    planned("before_fold")
    for wrong in ("nowhere", "before_fold:x"):
        with pytest.raises(ConfigError, match="use STEP or STEP:N with a step of after_init_pid, mid_restore"):
            Crash.planned(wrong)
