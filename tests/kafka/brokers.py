"""Real Apache Kafka for tests: a broker as a child process, and what keeps it from outliving whoever started it.

    python tests/kafka/brokers.py --port 9092      a broker by hand, in the foreground (`make broker`)

Java 17 runs it; Maven fetches its jars, once for each version, into a folder outside of the repository.

Between the one who starts a broker and the broker stands a guard, a small process that reads from a named pipe, the
lifeline.  A byte in it is an order.  Its end means that nobody holds it any more, however they went, by SIGKILL too:
then the guard kills the broker and removes its files.

    test process --- lifeline (named pipe) --> guard --- parent of --> java
    another one  ---^

Nothing but the standard library is used, so that this file runs in a bare Python.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from types import FrameType
from typing import Protocol, Self

VERSIONS = ("3.9.1", "4.1.2", "4.4.0")
"""Versions that are known to start this way; others may."""

HOST = "127.0.0.1"
START_LIMIT = 60.0
"""Seconds until a broker must answer.  After a kill, on a busy machine, it takes up to twenty."""

_CLUSTER = "streamproc-test-broker"  # 22 characters of base64, as a cluster's id must be
_JVM = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
_LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
)
_POM = """<?xml version="1.0" encoding="UTF-8"?>
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>streamproc</groupId>
  <artifactId>test-broker</artifactId>
  <version>{version}</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{version}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""
_STOP, _KILL = b"T", b"K"


class BrokerError(Exception):
    """A broker could not be had; the text says why."""


def default_version() -> str:
    """The version that tests run against: STREAMPROC_TEST_KAFKA_VERSION, or the newest known one."""
    return os.environ.get("STREAMPROC_TEST_KAFKA_VERSION") or VERSIONS[-1]


# ---------------------------------------------------------------------------------------------------------- the jars


def cache() -> Path:
    """Where jars are kept between runs: $XDG_CACHE_HOME/streamproc, else ~/.cache/streamproc."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamproc"


def missing(version: str | None = None) -> str | None:
    """What this machine lacks for starting a broker, as a sentence; None if it lacks nothing."""
    absent = [] if shutil.which("java") else ["java (17 or newer)"]
    if not _jars(version or default_version()).is_dir() and not shutil.which("mvn"):
        absent.append("mvn")
    return f"no {' and no '.join(absent)} here to start a Kafka broker with" if absent else None


def jars(version: str) -> Path:
    """The folder with the jars of a version, fetched by Maven unless it is there.

    It appears in one rename, complete; of several processes that want it one fetches and the others wait.
    """
    folder = _jars(version)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
                fetched = Path(scratch) / "jars"
                _fetch(version, Path(scratch) / "pom.xml", fetched)
                fetched.rename(folder)
    return folder


def _jars(version: str) -> Path:
    return cache() / f"kafka-{version}"


def _fetch(version: str, pom: Path, into: Path) -> None:
    pom.write_text(_POM.format(version=version), encoding="utf-8")
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={into}", "-DincludeScope=runtime"]
    try:
        done = subprocess.run(
            ["mvn", "--batch-mode", "--quiet", "--strict-checksums", "--file", str(pom), *goal],
            check=False,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise BrokerError("mvn is needed to fetch Kafka's jars, and is not here") from None
    if done.returncode or not into.is_dir():
        raise BrokerError(f"Maven could not fetch Kafka {version}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, against other processes; the system frees it if this one dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --------------------------------------------------------------------------------------------------------- the broker


def free_port() -> int:
    """A port that nobody listens on, outside of the range from which the system gives ports to clients.

    A client that calls again and again at a dead broker's port of that range ends up connected to itself, and then
    the broker cannot come back.  The system's own randomness, since tests of all workers seed Python's alike.
    """
    low = 20_000
    try:
        high = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        high = 32_768
    candidates = range(low, high) if high > low + 1_000 else [0] * 100
    for _ in range(100):
        with socket.socket() as trial, suppress(OSError):
            trial.bind((HOST, SystemRandom().choice(candidates)))
            return int(trial.getsockname()[1])
    raise BrokerError(f"no free port between {low} and {high}")


class KafkaProcess:
    """One broker of Apache Kafka, controller and broker in one, on loopback, with a directory of its own.

    It is stopped, killed and started again on the same port and with what it had stored.  The directory goes with
    `close`, at the latest with this process; one that is given is left.  `properties` are further settings of the
    server; they and `advertised_port`, where clients are told to connect, are read at each start.
    """

    def __init__(
        self,
        version: str | None = None,
        *,
        port: int | None = None,
        advertised_port: int | None = None,
        properties: Mapping[str, object] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.version = version or default_version()
        self.port = port or free_port()
        self.advertised_port = advertised_port or self.port
        self.properties: dict[str, object] = dict(properties or {})
        self._keep = folder is not None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="streamproc-kafka-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pid = 0
        """Of the broker itself, for signals; 0 when it does not run."""
        self._internal, self._controller = free_port(), free_port()
        self._guard: subprocess.Popen[str] | None = None
        self._lifeline = -1
        self._forget = weakref.finalize(self, _nothing if self._keep else _remove, self.folder)

    @property
    def bootstrap(self) -> str:
        """host:port of the broker itself, whatever it advertises."""
        return f"{HOST}:{self.port}"

    def runs(self) -> bool:
        """Whether the process is there; it need not answer."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def log(self) -> Path:
        """What the server says, all starts one after the other."""
        return self.folder / "server.log"

    def start(self, limit: float = START_LIMIT) -> Self:
        """Start it and wait until it answers; a BrokerError with the end of its log if it does not."""
        if self.runs():
            raise BrokerError(f"the broker at {self.bootstrap} runs already")
        self._end()
        deadline = time.monotonic() + limit
        classpath = f"{jars(self.version)}/*"
        settings = self.folder / "server.properties"
        settings.write_text("".join(f"{name}={value}\n" for name, value in self._settings().items()), encoding="utf-8")
        java = ["java", *_JVM, *_LOGGING, f"-Dkafka.logs.dir={self.folder}", "-cp", classpath]
        if not (self.folder / "log" / "meta.properties").exists():
            self._format([*java, "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(settings)])
        self._launch([*java, "kafka.Kafka", str(settings)])
        while not _answers(self._internal):
            if not self.runs() or time.monotonic() > deadline:
                what = "does not answer" if self.runs() else "ended by itself"
                self.kill()
                raise BrokerError(f"Kafka {self.version} {what}; the end of its log:\n{self._tail()}")
            time.sleep(0.05)
        return self

    def stop(self, limit: float = 15.0) -> None:
        """Shut it down as one does before an upgrade; by force if that takes longer than the limit."""
        self._order(_STOP)
        if self._guard is not None:
            with suppress(subprocess.TimeoutExpired):
                self._guard.wait(limit)
        self.kill()

    def kill(self) -> None:
        """SIGKILL: no goodbye, nothing flushed that was not."""
        self._order(_KILL)
        if self._guard is not None:
            self._guard.wait()
        self._end()

    def close(self) -> None:
        """Kill it and remove its directory, unless that was given."""
        self.kill()
        self._forget()

    def abandon(self) -> None:
        """Let go of it: it lives on as long as others hold its lifeline, and its guard cleans up."""
        self._forget.detach()
        if self._guard is not None:
            _ABANDONED.append(self._guard)  # else Python would warn of a child that was not waited for
            self._guard = None
        self._end()

    def __enter__(self) -> Self:
        return self if self.runs() else self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _settings(self) -> dict[str, object]:
        # Clients have a listener of their own: what the broker says to itself must not go through a proxy, nor need
        # whatever security a test asks of clients.
        listeners = {"CLIENT": self.port, "INTERNAL": self._internal, "CONTROLLER": self._controller}
        advertised = {"CLIENT": self.advertised_port, "INTERNAL": self._internal}
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{self._controller}",
            "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in advertised.items()),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in listeners),
            "inter.broker.listener.name": "INTERNAL",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.folder / "log",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "offsets.topic.num.partitions": 5,
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.num.partitions": 5,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "log.cleaner.dedupe.buffer.size": 16 << 20,  # the default is half of the heap
            **self.properties,
        }

    def _format(self, command: list[str]) -> None:
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError:
            raise BrokerError("java (17 or newer) is needed to run Kafka, and is not here") from None
        if done.returncode:
            raise BrokerError(
                f"Kafka {self.version} could not format its storage:\n{(done.stdout + done.stderr)[-3000:]}"
            )

    def _launch(self, command: list[str]) -> None:
        with suppress(OSError):
            os.close(hold(self.folder))
            raise BrokerError(f"a broker runs already in {self.folder}")
        pipe = self.folder / "lifeline"
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe, 0o600)
        reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # so that the other end may be opened
        try:
            self._lifeline = hold(self.folder)
            os.set_blocking(reading, True)
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, "--guard", "keep" if self._keep else "remove", *command],
                cwd=self.folder,
                stdin=reading,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for us; what becomes of the broker is ours to say
            )
        finally:
            os.close(reading)
        assert self._guard.stdout
        with self._guard.stdout as told:
            self.pid = int(told.readline() or 0)

    def _order(self, order: bytes) -> None:
        if self.runs():
            with suppress(BrokenPipeError):
                os.write(self._lifeline, order)

    def _end(self) -> None:
        self.pid = 0
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def _tail(self, size: int = 4000) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-size:] if self.log.exists() else "(none)"


_ABANDONED: list[subprocess.Popen[str]] = []


def _nothing(_: Path) -> None:
    pass


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _answers(port: int) -> bool:
    """Whether a broker answers ApiVersions, and Metadata with at least itself in it: before that it is of no use."""
    try:
        with socket.create_connection((HOST, port), 1.0) as connection:
            connection.settimeout(5.0)
            code, _ = struct.unpack_from(">hi", ask(connection, 18, 0))
            brokers, *_ = struct.unpack_from(">i", ask(connection, 3, 1, struct.pack(">i", 0)))
    except (OSError, struct.error):
        return False
    return not code and brokers > 0


def ask(connection: socket.socket, api: int, version: int, body: bytes = b"", correlation: int = 1) -> bytes:
    """One request of Kafka's protocol with a plain header, and the body of its answer."""
    head = struct.pack(">hhih", api, version, correlation, -1)
    connection.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
    (size,) = struct.unpack(">i", _exactly(connection, 4))
    return _exactly(connection, size)[4:]


def _exactly(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        part = connection.recv(size - len(got))
        if not part:
            raise ConnectionResetError("closed in the middle of an answer")
        got += part
    return got


# ---------------------------------------------------------------------------------------------------------- the guard


def hold(folder: Path) -> int:
    """A hand on the lifeline of the broker in a folder: it lives until this is closed.  OSError if it is gone."""
    return os.open(folder / "lifeline", os.O_WRONLY | os.O_NONBLOCK)


def _guard(leaving: str, command: list[str]) -> int:
    """Run a command in this directory until it ends, an order comes, or nobody holds the lifeline: standard input."""
    with Path("server.log").open("ab") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.close()
    alone = threading.Event()

    def obey() -> None:
        while order := os.read(0, 1):
            child.send_signal(signal.SIGTERM if order == _STOP else signal.SIGKILL)
        alone.set()
        child.kill()

    threading.Thread(target=obey, daemon=True).start()
    code = child.wait()
    if alone.is_set() and leaving == "remove":
        _remove(Path.cwd())
    return abs(code)


# ---------------------------------------------------------------------------------------------------------- sharing it


@contextmanager
def shared(meeting: Path, version: str) -> Iterator[str]:
    """The address of one broker for all processes that name the same folder to meet in.

    The first one starts it; it ends with the last one, however that goes.
    """
    note = meeting / "kafka.json"
    with (meeting / "kafka.users").open("a") as users:
        with locked(meeting / "kafka.lock"):
            fcntl.flock(users, fcntl.LOCK_SH)
            try:
                known = json.loads(note.read_text(encoding="utf-8"))
                bootstrap, lifeline = known["bootstrap"], hold(Path(known["folder"]))
            except (FileNotFoundError, OSError):  # nobody came before, or those who did were killed
                broker = KafkaProcess(version).start()
                bootstrap, lifeline = broker.bootstrap, hold(broker.folder)
                note.write_text(json.dumps({"bootstrap": bootstrap, "folder": str(broker.folder)}), encoding="utf-8")
                broker.abandon()
        try:
            yield bootstrap
        finally:
            with locked(meeting / "kafka.lock"):
                with suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    note.unlink(missing_ok=True)  # the last one: whoever comes now starts another
                os.close(lifeline)


# -------------------------------------------------------------------------------------------------- what fixtures give


@dataclass(frozen=True)
class Kafka:
    """Where the broker of this run is, and its version as far as it is known."""

    bootstrap: str
    version: str


class OwnKafka(Protocol):
    """Makes a broker for one test, with the arguments of `KafkaProcess`; it is started unless `start` is false."""

    def __call__(
        self,
        version: str | None = None,
        *,
        port: int | None = None,
        advertised_port: int | None = None,
        properties: Mapping[str, object] | None = None,
        start: bool = True,
    ) -> KafkaProcess: ...


# ------------------------------------------------------------------------------------------------------------ by hand


def main(arguments: list[str] | None = None) -> int:
    """A broker in the foreground."""
    parser = argparse.ArgumentParser(description="An Apache Kafka broker on this machine, until Ctrl-C.")
    parser.add_argument("--port", type=int, default=9092)
    parser.add_argument("--version", default=default_version(), help="of Kafka (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where it keeps its data, also from run to run")
    parser.add_argument("--property", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    asked = parser.parse_args(arguments)
    folder = (asked.folder or cache() / f"broker-{asked.version}-{asked.port}").resolve()
    say = sys.stdout.write
    say(f"Kafka {asked.version} is starting ...\n")
    sys.stdout.flush()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _interrupt)
    properties = dict(setting.split("=", 1) for setting in asked.property)
    broker = KafkaProcess(asked.version, port=asked.port, properties=properties, folder=folder)
    try:
        broker.start()
        say(f"address  {broker.bootstrap}\ndata     {broker.folder} (stays; its log is {broker.log.name} in it)\n")
        say("stop     Ctrl-C\n")
        sys.stdout.flush()
        while broker.runs():
            time.sleep(0.2)
    except KeyboardInterrupt:
        say("stopping\n")
        broker.stop()
        return 0
    except BrokerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stderr.write(f"the broker ended by itself: see {broker.log}\n")
    return 1


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    if sys.argv[1:2] == ["--guard"]:
        sys.exit(_guard(sys.argv[2], sys.argv[3:]))
    sys.exit(main())
