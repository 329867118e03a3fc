"""What only a process of its own can show: pipes, signals, and two at a time.

Nothing waits for time to pass: each step waits for what the process says.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.embedded.kills import environment
from tests.embedded.topologies import load

COUNTING, STUCK = "tests.embedded.topologies:counting", "tests.embedded.topologies:stuck"


def command(*arguments: str) -> list[str]:
    """The command line of a process."""
    return [sys.executable, "-m", "streamproc", *arguments]


def run(folder: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A process to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment() | {"TMPDIR": str(folder)},
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that goes on, and is gone at the end."""
    with subprocess.Popen(
        command(*arguments),
        cwd=folder,
        env=environment() | {"TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


FILTER = ("run", COUNTING, "--input", "clicks=-", "--output", "counts=-", "--no-http", "--log-level", "error")


def say(process: subprocess.Popen[bytes], *lines: bytes) -> None:
    """Give lines to a process."""
    assert process.stdin is not None
    process.stdin.write(b"".join(line + b"\n" for line in lines))
    process.stdin.flush()


def hear(process: subprocess.Popen[bytes]) -> bytes:
    """The next line that a process writes."""
    assert process.stdout is not None
    return process.stdout.readline()


def hear_of(process: subprocess.Popen[bytes], words: bytes) -> bytes:
    """Wait until a process has said something on stderr, and give that line."""
    assert process.stderr is not None
    return next(line for line in process.stderr if words in line)


def click(seconds: int) -> bytes:
    """A click so many seconds on."""
    return json.dumps({"user": "u", "ts": 1_700_000_000_000 + 1000 * seconds}).encode()


def test_a_filter_gives_results_and_nothing_else(tmp_path: Path) -> None:
    """Lines in, results out, the summary on stderr, and no state left behind."""
    (tmp_path / "clicks.jsonl").write_bytes(lines := load(seed=1, count=5000))
    calm = run(tmp_path, *FILTER, "--input", "clicks=clicks.jsonl")
    assert calm.returncode == 2, "standard input is the input of clicks already"

    done = run(tmp_path, *FILTER, stdin=lines)

    assert done.returncode == 0
    assert {type(json.loads(line)) for line in done.stdout.splitlines()} == {dict}
    assert done.stderr.startswith(b"done: read 4,9")
    assert [each.name for each in tmp_path.iterdir()] == ["clicks.jsonl"]
    file = [each if each != "clicks=-" else "clicks=clicks.jsonl" for each in FILTER]
    assert run(tmp_path, *file).stdout == done.stdout


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """`| head -1` ends the run quietly."""
    with started(tmp_path, *FILTER) as process:
        say(process, click(0), click(10))
        assert json.loads(hear(process))["key"] == "u"
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        say(process, click(20), click(30))
        assert (process.wait(30), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(tmp_path: Path, number: int) -> None:
    """SIGTERM and SIGINT commit what was read and exit 0; a later run goes on behind it."""
    arguments = (*FILTER, "--state", "state.sqlite")
    with started(tmp_path, *arguments) as process:
        say(process, click(0), click(10), click(11))
        first = hear(process)
        process.send_signal(number)
        assert hear_of(process, b"stopped, to go on from here").startswith(b"stopped")
        assert process.wait(30) == 0
    lines = b"\n".join([click(0), click(10), click(11), click(20)]) + b"\n"
    later = run(tmp_path, *arguments, stdin=lines)
    starts = [json.loads(line)["start"] // 1000 - 1_700_000_000 for line in (first + later.stdout).splitlines()]
    assert starts == [0, 10, 11, 20]


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    """Who asks twice does not wait for the step under way: exit 130, and no temporary state is left."""
    with started(tmp_path, "run", STUCK, *FILTER[2:]) as process:
        say(process, click(0))
        hear_of(process, b"stuck")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    assert list(tmp_path.iterdir()) == []


def test_a_drain_has_a_deadline(tmp_path: Path) -> None:
    """A step that does not end in time is left behind with exit 75; nothing of it is committed."""
    with started(tmp_path, "run", STUCK, *FILTER[2:], "--drain-timeout", "20ms") as process:
        say(process, click(0))
        hear_of(process, b"stuck")
        process.send_signal(signal.SIGTERM)
        assert hear_of(process, b"no drain within 0.02 s")
        assert process.wait(30) == 75
    assert list(tmp_path.iterdir()) == []


def test_a_signal_shows_what_every_thread_does(tmp_path: Path) -> None:
    """SIGUSR1 writes all stacks to stderr, and the run goes on."""
    with started(tmp_path, *FILTER) as process:
        say(process, click(0), click(10))
        hear(process)
        process.send_signal(signal.SIGUSR1)
        assert hear_of(process, b"embedded.py")
        say(process, click(20))
        assert json.loads(hear(process))["start"] == 1_700_000_010_000


def test_a_file_that_is_followed_goes_on(tmp_path: Path) -> None:
    """With --follow lines that are appended give results, until somebody stops the run."""
    file = tmp_path / "clicks.jsonl"
    file.write_bytes(click(0) + b"\n" + click(10) + b"\n")
    arguments = [each if each != "clicks=-" else "clicks=clicks.jsonl" for each in FILTER]
    with started(tmp_path, *arguments, "--follow") as process:
        assert json.loads(hear(process))["start"] == 1_700_000_000_000
        with file.open("ab") as more:
            more.write(click(20) + b"\n")
        assert json.loads(hear(process))["start"] == 1_700_000_010_000
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_state_file_has_one_process(tmp_path: Path) -> None:
    """A second process on the same state file is told who has it, and exits 3."""
    arguments = (*FILTER, "--state", "state.sqlite")
    with started(tmp_path, *arguments) as process:
        say(process, click(0), click(10))
        hear(process)
        second = run(tmp_path, *arguments)
        assert second.returncode == 3
        assert f"state.sqlite is used by process {process.pid}".encode() in second.stderr


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """Files that may not grow stop the run with exit 1; with space again it goes on, and nothing is lost or twice."""
    (tmp_path / "clicks.jsonl").write_bytes(load(seed=1, count=20_000))
    arguments = command("run", COUNTING, "--input=clicks=clicks.jsonl", "--output=counts=counts.jsonl", "--no-http")
    arguments += ["--log-level=critical", "--commit-interval=1ms"]

    def limited(blocks: str) -> subprocess.CompletedProcess[bytes]:
        limit = ["bash", "-c", f'ulimit -f {blocks}; exec "$@"', "bash"]
        return subprocess.run([*limit, *arguments], cwd=tmp_path, env=environment(), capture_output=True, check=False)

    full = limited("120")
    assert (full.returncode, full.stdout, full.stderr.count(b"\n")) == (1, b"", 1)
    assert b"counting.sqlite" in full.stderr
    assert limited("unlimited").returncode == 0
    found = (tmp_path / "counts.jsonl").read_bytes()
    calm = run(tmp_path, *FILTER, stdin=(tmp_path / "clicks.jsonl").read_bytes())
    assert found == calm.stdout


def test_a_run_can_be_watched(tmp_path: Path) -> None:
    """While it lasts a run answers for its metrics, its health and its plan, at the address it has said."""
    arguments = [each for each in FILTER if each != "--no-http"]
    with started(tmp_path, *arguments, "--port", "0") as process:
        address = hear_of(process, b"metrics at ").split()[-1].decode().removesuffix("/metrics")
        say(process, click(0), click(10))
        hear(process)

        def page(path: str) -> bytes:
            with urlopen(address + path, timeout=30) as answer:  # noqa: S310 - this machine's own
                return bytes(answer.read())

        assert b'streamproc_consumed_records_total{topic="clicks",topology="counting"} 2.0' in page("/metrics")
        assert {json.loads(page(path))["status"] for path in ("/healthz", "/readyz")} == {"ok"}
        assert json.loads(page("/topology"))["sinks"] == ["counts", "late"]
