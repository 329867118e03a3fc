"""Bad input: each kind is a clear error or a dead letter with its reason and a count, and disturbs nothing else."""

from __future__ import annotations

import json
import resource
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamproc import Count, Topology, TopologyError, Tumbling
from streamproc.core.plan import build

TOPOLOGY = """
import msgspec
from streamproc import Count, Sum, Topology, Tumbling

class Event(msgspec.Struct, frozen=True):
    key: str | None
    x: int
    ts: int
    text: str = ""

def checked(event: Event) -> Event:
    if event.x == 7:
        raise ValueError("seven is refused")
    return event

topology = Topology("bad", dead_letters="bad.dead")
(
    topology.source("in", Event, event_time=lambda e: e.ts)
    .map(checked)
    .key_by(lambda e: e.key)
    .window(Tumbling("1m"))
    .agg(Count(), Sum(of=lambda e: e.x), name="per_minute")
    .to("out")
)
"""
GOOD = [{"key": "a", "x": 1, "ts": 1_000}, {"key": "b", "x": 2, "ts": 2_000}, {"key": "a", "x": 3, "ts": 3_000}]
EXPECTED = [
    {"key": "a", "start": 0, "end": 60_000, "value": [2, 4]},
    {"key": "b", "start": 0, "end": 60_000, "value": [1, 2]},
]


@dataclass(frozen=True)
class Ran:
    """What a run left behind."""

    code: int
    said: str
    out: list[Any]
    dead: list[Any]
    reasons: list[str]


class Place:
    """A folder with a topology, to run it on lines."""

    def __init__(self, folder: Path, topology: str = TOPOLOGY) -> None:
        self.folder = folder
        (folder / "bad.py").write_text(topology, encoding="utf-8")

    def command(self, *arguments: str, limit: int | None = None) -> subprocess.CompletedProcess[str]:
        """The command line, as a user would type it; `limit` bounds the size of a file in bytes."""

        def bound() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        return subprocess.run(
            [sys.executable, "-m", "streamproc", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            preexec_fn=bound,
        )

    def lines(self, lines: Iterable[bytes]) -> None:
        """The input file."""
        (self.folder / "in.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))

    def run(self, lines: Iterable[bytes]) -> Ran:
        """Run the topology over lines to their end, and read what it wrote."""
        self.lines(lines)
        done = self.command(
            "run", "bad:topology", "--input", "in=in.jsonl", "--output", "out=out.jsonl", "--state", "s.sqlite",
            "--no-http",
        )  # fmt: skip
        written = self.folder / "out.jsonl"
        out = [json.loads(line) for line in written.read_bytes().splitlines()] if written.exists() else []
        letters = self.command("topics", "read", "bad.dead", "--state", "s.sqlite").stdout.splitlines()
        dead = [json.loads(letter) for letter in letters]
        reasons = [letter["headers"]["streamproc.errors.reason"] for letter in dead]
        return Ran(done.returncode, done.stderr + done.stdout, out, dead, reasons)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A folder with the usual topology."""
    return Place(tmp_path)


def encoded(events: Iterable[Any]) -> list[bytes]:
    """Events as lines."""
    return [msgspec.json.encode(event) for event in events]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"key": "a", "x": ', "deserialization_error"),
        (b'{"key":"a","x":1,"ts":1000} {"key":"a","x":1,"ts":1000}', "deserialization_error"),
        (b'{"key":"a","x":"one","ts":1000}', "deserialization_error"),
        (b'{"key":"a","x":1}', "deserialization_error"),
        (b"\xff\xfe", "deserialization_error"),
        (b'{"key":"a","x":1,"ts":99999999999999999999}', "invalid_timestamp"),
        (b'{"key":"a","x":1,"ts":4611686018427387905}', "invalid_timestamp"),
        (b'{"key":"a","x":1,"ts":4102444800000}', "future_timestamp"),
        (b'{"key":null,"x":1,"ts":1000}', "null_key"),
    ],
    ids=[
        "poison",
        "two_documents",
        "wrong_type",
        "no_timestamp",
        "no_utf8",
        "huge",
        "beyond",
        "years_ahead",
        "null_key",
    ],
)
def test_a_bad_line_is_one_dead_letter(place: Place, bad: bytes, reason: str) -> None:
    """A bad line among good ones is a dead letter with its reason, byte for byte, and the others count as if alone."""
    good = encoded(GOOD)
    ran = place.run([good[0], bad, *good[1:]])
    assert (ran.code, ran.out, ran.reasons) == (0, EXPECTED, [reason])
    assert "dead-lettered 1" in ran.said
    headers = ran.dead[0]["headers"]
    assert (headers["__streams.errors.topic"], headers["__streams.errors.offset"]) == ("in", "1")


def test_a_record_of_ten_megabytes_is_a_record(place: Place) -> None:
    """Size alone is no error: ten megabytes are read, decoded and counted."""
    big = {"key": "a", "x": 1, "ts": 1_000, "text": "x" * 10_000_000}
    ran = place.run(encoded([big, *GOOD[1:]]))
    assert (ran.code, ran.out, ran.reasons) == (0, EXPECTED, [])


def test_a_function_that_raises_on_the_seventh_record(place: Place) -> None:
    """A user function that raises costs its record, which is told with node, exception and place; no more."""
    ran = place.run(encoded([*GOOD, *({"key": "c", "x": x, "ts": 4_000} for x in (4, 5, 6, 7, 8))]))
    assert ran.code == 0
    assert ran.out == [*EXPECTED, {"key": "c", "start": 0, "end": 60_000, "value": [4, 23]}]
    assert ran.reasons == ["processing_error"]
    headers = ran.dead[0]["headers"]
    assert headers["streamproc.errors.node"] == "map"
    assert headers["__streams.errors.exception"] == "ValueError"
    assert headers["__streams.errors.message"] == "seven is refused"
    assert headers["__streams.errors.offset"] == "6"


def test_without_a_dead_letter_topic_poison_stops_the_run(tmp_path: Path) -> None:
    """Without a topic for them, a bad line stops the task before it, and the error says where, why and what to do."""
    place = Place(tmp_path, TOPOLOGY.replace(', dead_letters="bad.dead"', ""))
    place.lines([*encoded(GOOD), b"{bad"])
    done = place.command("run", "bad:topology", "--input", "in=in.jsonl", "--state", "s.sqlite", "--no-http")
    assert done.returncode == 1
    assert "deserialization_error" in done.stderr
    assert "in partition 0 offset 3" in done.stderr
    assert "dead_letters=" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_skipped_is_told(tmp_path: Path) -> None:
    """Without a dead-letter topic a null key is passed over, and the summary says how many and why."""
    place = Place(tmp_path, TOPOLOGY.replace(', dead_letters="bad.dead"', ""))
    place.lines([*encoded(GOOD), b'{"key":null,"x":1,"ts":1000}'])
    done = place.command("run", "bad:topology", "--input", "in=in.jsonl", "--state", "s.sqlite", "--no-http")
    assert done.returncode == 0
    assert "skipped 1 (null_key 1)" in done.stdout


def test_two_nodes_of_one_name() -> None:
    """A name is the identity of state: a second node of the same name is refused when it is made."""
    topology = Topology("twice")
    keyed = topology.source("in", dict, event_time=lambda e: e["ts"]).key_by(lambda e: e["key"])
    keyed.window(Tumbling("1m")).count(name="n")
    with pytest.raises(TopologyError, match="two nodes are named 'n'"):
        keyed.window(Tumbling("1h")).agg(Count(), name="n")


def test_one_topic_declared_twice() -> None:
    """The same source declared twice is shared if all arguments agree, and refused otherwise."""
    topology = Topology("shared")
    stamp = lambda e: e["ts"]  # noqa: E731 - one function, so that the arguments agree
    first = topology.source("in", dict, event_time=stamp)
    again = topology.source("in", dict, event_time=stamp)
    assert first.node == again.node
    with pytest.raises(TopologyError, match="'in' is declared twice"):
        topology.source("in", dict, event_time=stamp, disorder="1s")


def test_a_topology_without_a_source() -> None:
    """An empty topology is refused with how to begin."""
    with pytest.raises(TopologyError, match=r"topology\.source"):
        build(Topology("empty").graph())


@pytest.mark.parametrize(
    ("change", "arguments", "code", "says"),
    [
        (("event_time=lambda e: e.ts", "disorder='1s'"), ("in=in.jsonl",), 3, "has no event_time"),
        (("", ""), ("in=missing.jsonl",), 2, "missing.jsonl"),
        (("", ""), ("other=in.jsonl",), 2, "no source 'other'; it has in"),
        (('Tumbling("1m")', "Tumbling(60)"), ("in=in.jsonl",), 3, "a bare number has no unit"),
        (("event_time=lambda", "key=str, event_time=lambda"), ("in=in.jsonl",), 2, "--input in:FIELD=in.jsonl"),
    ],
    ids=["no_event_time", "missing_file", "unknown_topic", "bare_number", "keyed_without_field"],
)
def test_what_cannot_run_says_what_to_do(
    tmp_path: Path, change: tuple[str, str], arguments: tuple[str, ...], code: int, says: str
) -> None:
    """A mistake in topology or arguments is found before anything is read, in one paragraph and with its exit code."""
    place = Place(tmp_path, TOPOLOGY.replace(*change) if change[0] else TOPOLOGY)
    place.lines(encoded(GOOD))
    inputs = [part for argument in arguments for part in ("--input", argument)]
    done = place.command("run", "bad:topology", *inputs, "--state", "s.sqlite", "--no-http")
    assert (done.returncode, says in done.stderr, "Traceback" in done.stderr) == (code, True, False)


def test_a_state_file_of_another_topology(place: Place) -> None:
    """State of another topology, or of another layout, is refused and left as it is."""
    assert place.run(encoded(GOOD)).code == 0
    before = (place.folder / "s.sqlite").read_bytes()
    for old, new in (('Topology("bad"', 'Topology("other"'), ('Tumbling("1m")', 'Tumbling("2m")')):
        (place.folder / "bad.py").write_text(TOPOLOGY.replace(old, new), encoding="utf-8")
        done = place.command("run", "bad:topology", "--input", "in=in.jsonl", "--state", "s.sqlite", "--no-http")
        assert done.returncode == 3
        assert "another state file" in done.stderr
        assert (place.folder / "s.sqlite").read_bytes() == before


def test_a_state_file_of_a_newer_version(place: Place) -> None:
    """A file written by a newer streamproc is refused with the advice to upgrade."""
    assert place.run(encoded(GOOD)).code == 0
    with closing(sqlite3.connect(place.folder / "s.sqlite", isolation_level=None)) as file:
        file.execute("UPDATE meta SET value = 1000000 WHERE name = 'format'")
    done = place.command("run", "bad:topology", "--input", "in=in.jsonl", "--state", "s.sqlite", "--no-http")
    assert done.returncode == 3
    assert "has format 1000000, and this streamproc knows format" in done.stderr


def test_a_full_disk(place: Place) -> None:
    """A disk that fills up ends the run with a clear error; with room again it goes on and the result is exact."""
    events = [{"key": f"k{n}", "x": 1, "ts": n * 10} for n in range(30_000)]
    place.lines(encoded(events))
    arguments = ("run", "bad:topology", "--input", "in=in.jsonl", "--output", "out=out.jsonl", "--state", "s.sqlite")
    stopped = place.command(*arguments, "--no-http", limit=300_000)
    assert stopped.returncode != 0
    assert "disk is full" in stopped.stderr or "File too large" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert place.command(*arguments, "--no-http").returncode == 0
    results = [json.loads(line) for line in (place.folder / "out.jsonl").read_bytes().splitlines()]
    assert sorted((r["key"], *r["value"]) for r in results) == sorted((e["key"], 1, 1) for e in events)


def test_the_help_is_there() -> None:
    """The examples above are what `streamproc run --help` speaks of."""
    done = subprocess.run(
        [sys.executable, "-m", "streamproc", "run", "--help"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert "--input" in textwrap.dedent(done.stdout)
