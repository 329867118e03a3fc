"""The commands of those who operate a topology, each against a real broker and, where it matters, real workers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from streamproc.adapters.kafka import Access, KafkaAdmin, Topic
from streamproc.cli import main
from streamproc.cli.supervisor import free_port
from streamproc.core.partition import partition
from tests.kafka.brokers import Kafka, OwnKafka

T = TypeVar("T")
ROOT = Path(__file__).parent.parent.parent
PARTITIONS = 3
START = 1_700_000_000_000
LATER = START + 3_600_000


class Tools:
    """The commands as somebody types them, on one broker and with a topology whose topics begin with a prefix."""

    def __init__(self, bootstrap: str, prefix: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.bootstrap = bootstrap
        self.prefix = prefix
        self._folder = folder
        self._capsys = capsys

    def topology(self, *arguments: str, name: str = "counting") -> str:
        """MODULE:VAR of the topology, with more arguments for its factory."""
        return f"tests.kafka.small:{name}({', '.join([repr(self.prefix), *arguments])})"

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Code, stdout and stderr of a command."""
        code = main(arguments)
        out, err = self._capsys.readouterr()
        return code, out, err

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        """The rows of a command that goes well."""
        code, out, err = self.run(*arguments, "--json")
        assert code == 0, err
        return [json.loads(line) for line in out.splitlines()]

    def failing(self, *arguments: str) -> tuple[int, str]:
        """The code of a command that fails, and its last line on stderr."""
        code, _, err = self.run(*arguments)
        return code, err.splitlines()[-1].removeprefix("streamproc: ")

    def apply(self, *arguments: str, name: str = "counting") -> None:
        """Create all topics."""
        code, _, err = self.run(
            "topics", "apply", self.topology(*arguments, name=name), "--partitions", str(PARTITIONS), "--yes"
        )
        assert code == 0, err

    def send(self, *users: str, at: int = START, last: bool = False, numbers: Sequence[int] | None = None) -> None:
        """Somebody was seen, one a second, in the partitions of their names or others; `last` closes all windows."""

        async def work() -> None:
            async with AIOKafkaProducer(bootstrap_servers=self.bootstrap) as producer:
                for number, user in enumerate(users):
                    value = json.dumps({"ts": at + 1000 * number, "user": user}).encode()
                    where = partition(user.encode(), PARTITIONS) if numbers is None else numbers[number]
                    await producer.send_and_wait(f"{self.prefix}-seen", value, user.encode(), partition=where)
                for where in range(PARTITIONS if last else 0):
                    value = json.dumps({"ts": LATER, "user": "end"}).encode()
                    await producer.send_and_wait(f"{self.prefix}-seen", value, b"end", partition=where)

        asyncio.run(work())

    def read(self, topic: str) -> list[Any]:
        """All committed records of a topic."""

        async def work() -> list[Any]:
            consumer = AIOKafkaConsumer(
                f"{self.prefix}-{topic}",
                bootstrap_servers=self.bootstrap,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                enable_auto_commit=False,
            )
            async with consumer:
                places = consumer.assignment()
                ends = await consumer.end_offsets(places)
                found: list[Any] = []
                while any([await consumer.position(place) < ends[place] for place in places]):
                    for records in (await consumer.getmany(timeout_ms=100)).values():
                        found += records
                return found

        return asyncio.run(work())

    def counts(self) -> list[tuple[str, int]]:
        """The results so far, as users and counts in order."""
        values = [json.loads(record.value) for record in self.read("counts")]
        return sorted((value["key"], value["value"]) for value in values)

    def administer(self, question: Callable[[KafkaAdmin], Awaitable[T]]) -> T:
        """What comes of a question to the broker."""

        async def work() -> T:
            admin = KafkaAdmin(Access(self.bootstrap))
            try:
                return await question(admin)
            finally:
                await admin.close()

        return asyncio.run(work())

    def create(self, topic: str, partitions: int, **configs: str) -> None:
        """A topic that somebody else made."""
        made = Topic(topic, partitions, 1, {name.replace("_", "."): value for name, value in configs.items()})
        self.administer(lambda admin: admin.create_topics([made]))

    @contextmanager
    def worker(self, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker, or several, that is gone at the end."""
        with (self._folder / "worker.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "streamproc", "run", *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def worked_off(self, topology: str) -> None:
        """Run a worker until it has committed all there is, and stop it in good order."""
        with self.worker(topology, "--no-http") as process:
            while any(row["lag"] or row["committed"] is None for row in self.rows("lag", topology)):
                self.lives(process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, self.log()

    def log(self) -> str:
        """What the last worker has said."""
        return (self._folder / "worker.log").read_text()

    def lives(self, process: subprocess.Popen[bytes]) -> None:
        """Give a worker a moment in which it should not end."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
        assert process.poll() is None, self.log()

    def heard(self, process: subprocess.Popen[bytes], words: str) -> None:
        """Wait until a worker has said something."""
        while words not in self.log():
            self.lives(process)

    def workers(self, count: int, port: int, process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
        """What the workers of a supervisor say, once all of them are at work."""
        while True:
            self.lives(process)
            code, out, _ = self.run("status", "--at", f"127.0.0.1:{port}", "--json")
            found = [json.loads(line) for line in out.splitlines()]
            if not code and len(found) == count and all(row["partitions"] for row in found):
                return found


@pytest.fixture
def tools(
    kafka: Kafka,
    prefix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Tools:
    """The commands, on the shared broker, in an empty folder."""
    monkeypatch.setenv("STREAMPROC_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    monkeypatch.chdir(tmp_path)
    return Tools(kafka.bootstrap, prefix, tmp_path, capsys)


# topics


def test_topics_are_created_once_and_as_they_must_be(tools: Tools) -> None:
    """What is missing is created with its configs; what is there is left alone; nothing is done without being asked."""
    topology, prefix = tools.topology(name="rekeyed"), tools.prefix
    code, said = tools.failing("topics", "plan", topology)
    assert (code, said.partition(",")[0]) == (3, f"topic '{prefix}-seen'")
    assert "--partitions N" in said

    tools.create(f"{prefix}-seen", 4)
    assert {row["topic"]: row["state"] for row in tools.rows("topics", "plan", topology)} == {
        f"{prefix}-seen": "exists",
        f"{prefix}-counts": "create",
        f"{prefix}-rekeyed-counts-repartition": "create",
        f"{prefix}-rekeyed-{prefix.replace('-', '_')}_seen-changelog": "create",
        f"{prefix}-rekeyed-counts-changelog": "create",
    }
    assert tools.failing("topics", "apply", topology)[0] == 2, "nobody can be asked here"
    assert tools.run("topics", "apply", topology, "--dry-run")[0] == 0
    assert {row["state"] for row in tools.rows("topics", "plan", topology)} == {"exists", "create"}

    code, _, err = tools.run("topics", "apply", topology, "--yes")
    assert (code, err.startswith("created ")) == (0, True)
    assert {row["state"] for row in tools.rows("topics", "plan", topology)} == {"exists"}
    assert tools.run("topics", "apply", topology, "--yes")[::2] == (0, "")
    found = tools.administer(lambda admin: admin.describe_topics([f"{prefix}-rekeyed-counts-changelog"]))
    (changelog,) = found.values()
    assert changelog.partitions == 4
    assert changelog.configs["cleanup.policy"] == "compact"
    assert changelog.configs["message.timestamp.type"] == "CreateTime"
    assert changelog.configs["message.timestamp.after.max.ms"] == str(2**63 - 1)


def test_a_topic_of_its_own_that_is_wrong_is_not_worked_with(tools: Tools) -> None:
    """Another number of partitions and another policy are named with what to do, by topics, check and run."""
    tools.create(f"{tools.prefix}-seen", 4)
    changelog = f"{tools.prefix}-counting-{tools.prefix.replace('-', '_')}_seen-changelog"
    tools.create(changelog, 3, cleanup_policy="delete")
    code, out, _ = tools.run("topics", "apply", tools.topology(), "--yes")
    assert code == 3
    assert f"{changelog}  3 partitions" in out
    assert "it has 3 partitions and the plan needs 4, because the number of partitions of a source has changed" in out
    assert f"--entity-name {changelog} --add-config cleanup.policy=compact" in out

    code, out, _ = tools.run("check", tools.topology())
    assert code == 3
    assert [line[:12] for line in out.splitlines()] == ["SP201 error:", "SP201 error:", "SP202 error:", "SP204 error:"]

    for topic in ("dead", "counts"):
        tools.create(f"{tools.prefix}-{topic}", 1)
    code, said = tools.failing("run", tools.topology(), "--no-http", "--log-level", "critical")
    assert code == 3
    assert f"topic '{changelog}' has 3 partitions and the plan needs 4" in said


# check


def test_check_asks_brokers(tools: Tools) -> None:
    """A missing source, keys that are not where they belong, and nothing if all is well; offline nobody is asked."""
    topology = tools.topology()
    code, out, _ = tools.run("check", topology)
    assert (code, out) == (3, f"SP201 error: topic '{tools.prefix}-seen' is read and does not exist: create it\n")
    assert tools.run("check", topology, "--offline")[0] == 0

    tools.apply()
    tools.send("ann", "bob", "cid")
    assert tools.run("check", topology) == (0, "nothing found\n", "")

    wrong = (partition(b"ann", PARTITIONS) + 1) % PARTITIONS
    tools.send("ann", numbers=[wrong])
    code, out, _ = tools.run("check", topology)
    assert code == 3
    assert out.startswith(
        f"SP203 error: topic '{tools.prefix}-seen' is read as keyed, and 1 of 4 of its newest records"
    )


def test_check_knows_what_brokers_allow(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts that they would refuse when a worker begins are named with the brokers' own setting."""
    tools.apply()
    monkeypatch.setenv("STREAMPROC_TRANSACTION__TIMEOUT", "1h")
    monkeypatch.setenv("STREAMPROC_GROUP__SESSION_TIMEOUT", "2h")
    code, out, _ = tools.run("check", tools.topology())
    assert code == 3
    assert out.splitlines()[:2] == [
        f"SP206 error: {name} is {value} ms, and brokers allow at most {limit}"
        for name, value, limit in (
            ("transaction.timeout", 3_600_000, "transaction.max.timeout.ms=900000"),
            ("group.session_timeout", 7_200_000, "group.max.session.timeout.ms=1800000"),
        )
    ]


@pytest.mark.slow
def test_check_finds_state_of_another_plan(tools: Tools) -> None:
    """State of a node with another window cannot be read, that of a node that is gone is kept; run refuses too."""
    tools.apply()
    tools.send("ann", "bob", "cid")
    tools.worked_off(tools.topology())
    assert tools.run("check", tools.topology()) == (0, "nothing found\n", "")

    code, out, _ = tools.run("check", tools.topology("'20s'"))
    assert code == 3
    assert out.startswith("SP103 error: the state of node 'counts' was written by WindowAggregate(")
    with tools.worker(tools.topology("'20s'"), "--no-http") as process:
        assert process.wait(30) == 3
    assert "streamproc: task " in tools.log()

    code, out, _ = tools.run("check", tools.topology("node='other'"))
    assert code == 0
    assert out.startswith("SP104 warning: there is state of node 'counts'")


# lag, offsets, state


@pytest.mark.slow
def test_lag_and_state_are_read_from_brokers(tools: Tools) -> None:
    """Whether or not a worker runs: how far it is, and what it holds by task, node, time and key."""
    tools.apply()
    tools.send("ann", "bob", "ann")
    topology = tools.topology()
    lag = tools.rows("lag", topology)
    assert (sum(row["lag"] for row in lag), {row["committed"] for row in lag}) == (3, {None})

    tools.worked_off(topology)

    assert [(row["topic"], row["lag"]) for row in tools.rows("lag", topology)] == [(f"{tools.prefix}-seen", 0)] * 3
    shown = tools.rows("offsets", "show", topology)
    assert sum(row["committed"] for row in shown) == 3
    assert sum(row["cells"] for row in tools.rows("state", "ls", topology)) == 2
    cells = tools.rows("state", "get", topology, "counts")
    assert sorted((cell["key"], cell["at"], cell["value"]) for cell in cells) == [
        ("ann", START + 10_000, 2),
        ("bob", START + 10_000, 1),
    ]
    assert [cell["value"] for cell in tools.rows("state", "get", topology, "counts", "ann")] == [2]
    assert tools.rows("state", "get", topology, "counts", "nobody") == []
    code, said = tools.failing("state", "get", topology, "nope")
    assert (code, said) == (2, f"{tools.prefix}-counting has no node 'nope' with state; it has counts")


@pytest.mark.slow
def test_a_reset_begins_anew_without_state(tools: Tools) -> None:
    """Offsets, position and state go together: what is read again is counted as if it had never been."""
    tools.apply()
    tools.send("ann", "bob", "ann")
    topology = tools.topology()
    tools.worked_off(topology)
    before = tools.rows("state", "ls", topology)

    planned = tools.rows("offsets", "reset", topology, "--to", "earliest", "--dry-run")
    assert sum(row["from"] for row in planned) == 3
    assert {row["to"] for row in planned} == {0}
    assert tools.rows("state", "ls", topology) == before
    assert tools.failing("offsets", "reset", topology, "--to", "earliest")[0] == 2, "nobody can be asked here"

    code, _, err = tools.run("offsets", "reset", topology, "--to", "earliest", "--yes")
    assert (code, err) == (0, "reset 3 tasks\n")
    assert sum(row["cells"] for row in tools.rows("state", "ls", topology)) == 0
    assert {row["committed"] for row in tools.rows("offsets", "show", topology)} == {0}
    tools.send(last=True)
    tools.worked_off(topology)
    assert tools.counts() == [("ann", 2), ("bob", 1)]

    code, _, err = tools.run("offsets", "reset", topology, "--to", "earliest", "--yes")
    assert (code, err) == (0, "reset 3 tasks\n")
    tools.worked_off(topology)
    assert tools.counts() == [("ann", 2), ("ann", 2), ("bob", 1), ("bob", 1)]


@pytest.mark.slow
def test_a_reset_may_keep_state_and_move_one_partition(tools: Tools) -> None:
    """Records are passed over in one partition, and what was counted before stays counted."""
    tools.apply()
    tools.send("ann", "ann")
    topology, number = tools.topology(), partition(b"ann", PARTITIONS)
    tools.worked_off(topology)
    tools.send("ann", "ann", "ann", at=START + 2000)
    where = ("--keep-state", "--partition", str(number))
    code, said = tools.failing("offsets", "reset", topology, "--to", "9", *where, "--yes")
    assert (code, said) == (2, f"--to 9: topic '{tools.prefix}-seen' partition {number} has offsets 0 to 5")
    code, _, err = tools.run("offsets", "reset", topology, "--to", "4", *where, "--yes")
    assert (code, err) == (0, "reset 3 tasks\n")
    tools.send(last=True)
    tools.worked_off(topology)
    assert tools.counts() == [("ann", 3)]
    code, said = tools.failing("offsets", "reset", topology, "--to", "latest", "--partition", "1")
    assert (code, said[:44]) == (2, "--topic and --partition need --keep-state: s")


def test_a_reset_is_refused_while_somebody_is_at_work(tools: Tools) -> None:
    """Workers would go on from where they are: they are named, and nothing is done."""
    tools.apply()
    topology = tools.topology()
    with tools.worker(topology, "--no-http") as process:
        while any(row["committed"] is None for row in tools.rows("lag", topology)):
            tools.lives(process)
        code, said = tools.failing("offsets", "reset", topology, "--to", "latest", "--yes")
    assert code == 3
    assert f"group '{tools.prefix}-counting' is Stable with streamproc at " in said
    assert said.endswith("stop all workers first")


@pytest.mark.slow
def test_a_reset_passes_over_what_was_on_its_way(tools: Tools) -> None:
    """Behind a re-key nothing is counted twice: what crossed before the reset is not read again."""
    tools.apply(name="rekeyed")
    topology = tools.topology(name="rekeyed")
    tools.send("ann", "bob", "ann", last=True)
    tools.worked_off(topology)
    code, _, err = tools.run("offsets", "reset", topology, "--to", "earliest", "--yes")
    assert (code, err) == (0, "reset 6 tasks\n")
    tools.worked_off(topology)
    assert tools.counts() == [("ann", 2), ("ann", 2), ("bob", 1), ("bob", 1)]


# dead letters


@pytest.mark.slow
def test_dead_letters_are_shown_and_sent_back(tools: Tools) -> None:
    """Once each, byte for byte, to where they came from; one that fails again comes back, three times at most."""
    tools.apply()
    tools.send("xa", "ann", "xb")
    topology, dead = tools.topology(), f"{tools.prefix}-dead"
    tools.worked_off(tools.topology("faulty=True"))

    letters = tools.rows("dlq", "ls", dead)
    assert sorted(letter["source"]["topic"] for letter in letters) == [f"{tools.prefix}-seen"] * 2
    assert {(letter["reason"], letter["node"], letter["redriven"]) for letter in letters} == {
        ("processing_error", "map", 0)
    }
    assert tools.rows("dlq", "ls", dead, "--reason", "late") == []
    first = letters[0]
    (shown,) = tools.rows("dlq", "show", dead, str(first["partition"]), str(first["offset"]))
    assert json.loads(shown["value"])["user"] == shown["key"]
    assert ["__streams.errors.exception", "ValueError"] in shown["headers"]
    assert tools.failing("dlq", "show", dead, "0", "999")[0] == 2

    assert tools.rows("dlq", "replay", dead, "--dry-run") == [{"topic": f"{tools.prefix}-seen", "records": 2}]
    assert len(tools.read("seen")) == 3
    assert tools.rows("dlq", "replay", dead, "--node", "nope", "--yes") == []
    assert tools.rows("dlq", "replay", dead, "--yes") == [{"topic": f"{tools.prefix}-seen", "records": 2}]
    assert tools.rows("dlq", "replay", dead, "--yes") == []
    sent = [record for record in tools.read("seen") if record.headers]
    assert sorted(record.key for record in sent) == [b"xa", b"xb"]
    assert {record.headers for record in sent} == {(("streamproc.redriven", b"1"),)}
    assert {record.partition for record in sent} == {partition(record.key, PARTITIONS) for record in sent}

    for times in (2, 3):
        tools.worked_off(tools.topology("faulty=True"))
        assert tools.rows("dlq", "replay", dead, "--yes") == [{"topic": f"{tools.prefix}-seen", "records": 2}]
        assert times in {letter["redriven"] + 1 for letter in tools.rows("dlq", "ls", dead)}
    tools.worked_off(tools.topology("faulty=True"))
    assert tools.rows("dlq", "replay", dead, "--yes") == [{"stays": 2, "why": "redriven 3 times already"}]

    tools.run("dlq", "replay", dead, "--all", "--rate", "1000", "--yes")
    tools.send(last=True)
    tools.worked_off(topology)
    assert {user for user, _ in tools.counts()} >= {"xa", "xb"}


# workers


def test_a_worker_that_finds_no_brokers_says_which(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 4 once the time for connecting is over, with the addresses; so do tools."""
    monkeypatch.setenv("STREAMPROC_CONNECT__TIMEOUT", "300ms")
    nobody = ("--bootstrap-servers", "127.0.0.1:1")
    for command in (("run", tools.topology(), "--no-http", "--log-level", "critical"), ("lag", tools.topology())):
        code, said = tools.failing(*command, *nobody)
        assert code == 4
        assert "no broker answers at 127.0.0.1:1" in said
        assert "kafka.bootstrap_servers (--bootstrap-servers)" in said


@pytest.mark.slow
def test_a_worker_may_be_killed_at_a_step(tools: Tools) -> None:
    """As tests ask it to be: at the nth time of a step, and as if its machine had gone; nothing is counted twice."""
    tools.apply()
    tools.send("ann", "bob", "ann", last=True)
    topology = tools.topology()
    for step in ("after_init_pid:2", "before_endtxn", "after_endtxn:2"):
        with tools.worker(topology, "--no-http", STREAMPROC_CRASH_AT=step) as process:
            assert process.wait(60) == -signal.SIGKILL, tools.log()
    tools.worked_off(topology)
    assert tools.counts() == [("ann", 2), ("bob", 1)]
    with tools.worker(topology, "--no-http", STREAMPROC_CRASH_AT="nowhere") as process:
        assert process.wait(30) == 2
    assert "STREAMPROC_CRASH_AT is 'nowhere': use STEP or STEP:N with a step of after_init_pid, " in tools.log()


@pytest.mark.slow
def test_several_workers_share_the_work(tools: Tools) -> None:
    """Each is listed by the supervisor and says how it is, and all drain together."""
    tools.apply()
    topology, port = tools.topology(), free_port("127.0.0.1")
    with tools.worker(topology, "--workers", "2", "--port", str(port)) as process:
        tools.heard(process, f"workers at http://127.0.0.1:{port}/sd")
        found = tools.workers(2, port, process)
        assert [row["worker"] for row in found] == [f"127.0.0.1:{port + 1}", f"127.0.0.1:{port + 2}"]
        for at in (port, port + 1, port + 2):
            assert tools.run("healthcheck", "--at", f"127.0.0.1:{at}") == (0, "ok\n", "")
        tools.send("ann", "bob", "ann", last=True)
        while any(row["lag"] for row in tools.rows("lag", topology)):
            tools.lives(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, tools.log()
    assert tools.counts() == [("ann", 2), ("bob", 1)]
    code, out, _ = tools.run("status", "--at", f"127.0.0.1:{port}")
    assert (code, out.split()[:2]) == (1, [f"127.0.0.1:{port}", "down"])


def test_workers_do_not_outlive_their_supervisor(tools: Tools) -> None:
    """One that is killed cannot tell its workers anything, and they drain all the same."""
    tools.apply()
    topology, port = tools.topology(), free_port("127.0.0.1")
    with tools.worker(topology, "--workers", "2", "--port", str(port)) as process:
        tools.workers(2, port, process)
        process.kill()
        process.wait()
    while tools.run("offsets", "reset", topology, "--to", "latest", "--dry-run")[0] != 0:
        pass
    assert [words for words in tools.log().splitlines() if '"event":"draining"' in words] != []


def test_a_worker_is_stopped_step_by_step(tools: Tools) -> None:
    """A step that does not end: once for a drain that comes to its deadline, twice for leaving at once."""
    tools.apply(name="stuck")
    tools.send("ann")
    topology = tools.topology(name="stuck")
    with tools.worker(topology, "--no-http", "--drain-timeout", "100ms") as process:
        tools.heard(process, "stuck\n")
        process.send_signal(signal.SIGUSR1)
        tools.heard(process, "in wait\n")
        tools.heard(process, '"event":"stacks"')
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 75
    assert "what was not committed will be read again" in tools.log()
    with tools.worker(topology, "--no-http") as process:
        tools.heard(process, "stuck\n")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130


def test_a_worker_can_be_stopped_while_it_looks_for_brokers(tools: Tools) -> None:
    """Nothing has begun, so nothing has to be committed: exit 0 at once."""
    nobody = ("--bootstrap-servers", "127.0.0.1:1", "--port", "0")
    with tools.worker(tools.topology(), *nobody) as process:
        tools.heard(process, "metrics at http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_what_a_worker_cannot_mend_ends_it(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that may not be passed over: 1, with which; a setting that the broker refuses: 2, with which."""
    tools.apply(name="strict")
    topology = tools.topology(name="strict")
    quiet = ("--no-http", "--log-level", "critical")
    monkeypatch.setenv("STREAMPROC_TRANSACTION__TIMEOUT", "20m")
    code, said = tools.failing("run", topology, *quiet)
    assert (code, "transaction" in said.lower()) == (2, True)
    monkeypatch.delenv("STREAMPROC_TRANSACTION__TIMEOUT")

    async def broken() -> None:
        async with AIOKafkaProducer(bootstrap_servers=tools.bootstrap) as producer:
            await producer.send_and_wait(f"{tools.prefix}-seen", b"{", partition=0)

    asyncio.run(broken())
    code, said = tools.failing("run", topology, *quiet)
    assert code == 1
    assert f"on {tools.prefix}-seen partition 0 offset 0" in said


@pytest.mark.slow
def test_what_is_not_allowed_is_a_matter_of_configuration(
    own_kafka: OwnKafka,
    prefix: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong password and a missing permission end with 2, a worker and tools alike, and say which."""
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    users = 'user_boss="boss-word" user_me="my-word"'
    broker = own_kafka(
        properties={
            "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.client.plain.sasl.jaas.config": f"{module} required {users};",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:boss",
        }
    )
    monkeypatch.chdir(tmp_path)
    tools = Tools(broker.bootstrap, prefix, tmp_path, capsys)
    secret = tmp_path / "secret"
    for name, value in {
        "KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap,
        "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA__SASL_MECHANISM": "PLAIN",
        "KAFKA__SASL_USERNAME": "boss",
        "KAFKA__SASL_PASSWORD_FILE": str(secret),
        "CONNECT__TIMEOUT": "5s",
    }.items():
        monkeypatch.setenv(f"STREAMPROC_{name}", value)
    secret.write_text("boss-word\n")
    tools.apply()
    worker = ("run", tools.topology(), "--no-http", "--log-level", "critical")

    secret.write_text("guessed\n")
    for command in (worker, ("lag", tools.topology())):
        code, said = tools.failing(*command)
        assert (code, "see kafka.security_protocol, kafka.sasl_*" in said) == (2, True), said
        assert "guessed" not in said

    secret.write_text("my-word\n")
    monkeypatch.setenv("STREAMPROC_KAFKA__SASL_USERNAME", "me")
    shown = (("lag", tools.topology()), ("topics", "plan", tools.topology()), ("dlq", "ls", f"{prefix}-dead"))
    for command in (worker, *shown):
        code, said = tools.failing(*command)
        assert (code, prefix in said) == (2, True), said
