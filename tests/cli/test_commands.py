"""The commands, run in this process: what they write, and the code they end with."""

import json
import socket
import sys
from pathlib import Path

import pytest

import streamproc.cli
from streamproc.cli import main
from tests.embedded.topologies import write_load

COUNTING, STRICT = "tests.embedded.topologies:counting", "tests.embedded.topologies:strict"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a load."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    write_load(tmp_path / "clicks.jsonl", seed=1, count=2000)
    return tmp_path


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The code of a command that fails, and the one line it says."""
    code = main(arguments)
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return code, err.removeprefix("streamproc: ").rstrip("\n")


RUN = ("run", COUNTING, "--input", "clicks=clicks.jsonl", "--no-http", "--log-level", "critical")


def test_a_run_writes_its_outputs_and_a_summary(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an output to stdout the summary stands there, and results are in files and in the state file."""
    assert main([*RUN, "--output", "counts=counts.jsonl", "--output", "dead=dead.jsonl"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("done: read 1,9")
    assert (folder / "counting.sqlite").exists()
    lines = (folder / "counts.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) == {"key", "start", "end", "value"}
    assert (folder / "dead.jsonl").read_text().splitlines()[:1] != []

    assert main(["topics", "ls", "--state", "counting.sqlite"]) == 0
    counted = {row["topic"]: row["records"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert counted["counts"] == len(lines)
    assert main(["topics", "read", "counts", "--state", "counting.sqlite", "--partition", "0"]) == 0
    rows = list(map(json.loads, capsys.readouterr().out.splitlines()))
    assert [row["value"] for row in rows] == list(map(json.loads, lines))
    assert main(["topics", "read", "dead", "--state", "counting.sqlite"]) == 0
    dead = json.loads(capsys.readouterr().out.splitlines()[0])
    assert dead["headers"]["__streams.errors.topic"] == "clicks"


def test_a_second_run_says_why_it_does_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Inputs that have been read are not read again; those that have grown since are named with what may be done."""
    main(RUN)
    capsys.readouterr()
    assert main(RUN) == 0
    assert capsys.readouterr().out.startswith("nothing to do: counting.sqlite says that these inputs have been read")
    with (folder / "clicks.jsonl").open("a") as file:
        file.write('{"user":"u","ts":1800000000000}\n')
    assert main(RUN) == 0
    said = capsys.readouterr().out
    assert said.startswith("nothing done: clicks has grown since it was read to its end")
    assert "--follow" in said
    assert "--state" in said


def test_state_of_another_topology_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """State is bound to its topology, partitions and stateful nodes: exit 3, for a restart cannot help."""
    main([*RUN, "--state", "x.sqlite"])
    capsys.readouterr()
    code, said = failing(capsys, "run", STRICT, "--input", "clicks=clicks.jsonl", "--state", "x.sqlite")
    assert (code, said[:66]) == (3, "x.sqlite was written for topology counting, and this run has topol")
    code, said = failing(capsys, *RUN, "--state", "x.sqlite", "--partitions", "2")
    assert (code, said[:63]) == (3, "x.sqlite was written for partitions 1, and this run has partiti")
    code, said = failing(
        capsys, "run", f"{COUNTING}(trailing=True)", "--input", "clicks=clicks.jsonl", "--state", "x.sqlite"
    )
    assert code == 3
    assert "node trailing None, and this run has node trailing TrailingAggregate(" in said


def test_a_task_that_fails_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    """A record that may not be passed over stops the run with one paragraph that says which and what to do."""
    code, said = failing(
        capsys, "run", STRICT, "--input", "clicks=clicks.jsonl", "--no-http", "--log-level", "critical"
    )
    assert code == 1
    assert "at node 'source_clicks' on clicks partition 0 offset" in said
    assert "set dead_letters=TOPIC on the topology" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], 'Command "run" parameter SPEC requires an argument.'),
        (["run", COUNTING], "counting reads clicks, and there is no input for clicks: --input clicks=PATH"),
        (["run", COUNTING, "--input", "x=clicks.jsonl"], "counting has no source 'x'; it has clicks"),
        (["run", COUNTING, "--input", "clicks"], "write TOPIC=PATH, TOPIC:KEYFIELD=PATH, or - for standard input"),
        (["run", COUNTING, "--input", "clicks=gone.jsonl"], "there is no gone.jsonl"),
        ([*RUN, "--input", "clicks=clicks.jsonl"], "clicks has an input already"),
        ([*RUN, "--output", "nope=x"], "counting does not write to nope; it writes to counts, dead, late"),
        ([*RUN, "--output", "counts"], "write TOPIC=PATH, or TOPIC=- for standard output"),
        ([*RUN, "--output", "counts=x", "--output", "late=x"], "a topic has one output, and an output one topic"),
        ([*RUN, "--partitions", "0"], "--partitions 0: at least 1"),
        ([*RUN, "--follow", "--keep-open"], "take one"),
        ([*RUN, "--commit-interval", "fast"], "commit.interval is 'fast' (--commit-interval), which cannot be"),
        ([*RUN, "--state", "nowhere/x.sqlite"], "no state can be kept in nowhere/x.sqlite"),
        (["run", "nothing_there"], "there is no module 'nothing_there'"),
        (["describe", COUNTING, "--format", "png"], 'Invalid value "png" for --format'),
        (["topics", "ls", "--state", "gone.sqlite"], "there is no state file gone.sqlite"),
        (["topics", "ls", "--state", "clicks.jsonl"], "clicks.jsonl cannot be read as a state file"),
        (["nonsense"], "nonsense"),
    ],
)
def test_a_mistake_exits_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    """Usage and configuration: one line says what is wrong and what there is."""
    code, said = failing(capsys, *arguments)
    assert code == 2
    assert message in said


def test_an_output_that_is_not_ours_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file with lines that no state knows of is not written to."""
    (folder / "mine.jsonl").write_text("{}\n")
    code, said = failing(capsys, *RUN, "--output", "counts=mine.jsonl")
    assert code == 2
    assert "mine.jsonl already has lines" in said
    assert (folder / "mine.jsonl").read_text() == "{}\n"


def test_the_web_server_takes_another_port_unless_one_was_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The default port is a suggestion; a named one is an order."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = [argument for argument in RUN if argument != "--no-http"]
        code, said = failing(capsys, *arguments, "--port", port)
        assert code == 2
        assert f"127.0.0.1 port {port} is in use" in said
    assert main([*arguments, "--port", "0"]) == 0
    assert capsys.readouterr().err.startswith("metrics at http://127.0.0.1:")


@pytest.mark.parametrize("form", ["tree", "mermaid", "dot", "json", "code"])
def test_describe_draws(capsys: pytest.CaptureFixture[str], form: str) -> None:
    """Every form is written to stdout, and nothing runs."""
    assert main(["describe", COUNTING, "--format", form, "--partitions", "2"]) == 0
    out, err = capsys.readouterr()
    assert ("counts" in out, err) == (True, "")
    assert [each.name for each in Path.cwd().iterdir()] == ["clicks.jsonl"]


def test_check_exits_with_3_on_errors(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sound topology passes; one with an error does not, and says so on stdout, where tools read it."""
    assert main(["check", COUNTING, "--offline"]) == 0
    assert capsys.readouterr().out == "nothing found\n"
    (folder / "timeless.py").write_text(
        "from streamproc import Topology\ntopology = Topology('t')\ntopology.source('s', dict).to('all')\n"
    )
    assert main(["check", "timeless", "--format", "json"]) == 3
    assert json.loads(capsys.readouterr().out)["code"] == "SP401"


def test_config_show_says_where_values_come_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a table and as JSON lines."""
    monkeypatch.setenv("STREAMPROC_HTTP__PORT", "1")
    assert main(["config", "show", "--json"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (rows["http.port"]["value"], rows["http.port"]["origin"]) == (1, "environment STREAMPROC_HTTP__PORT")
    assert main(["config", "show"]) == 0
    assert "http.port                1                environment STREAMPROC_HTTP__PORT" in capsys.readouterr().out


def test_help_names_the_variable_of_each_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that is a setting shows its name in the environment."""
    assert main(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("EMBEDDED__FILE", "HTTP__PORT", "HTTP__ENABLED", "LOG__LEVEL", "COMMIT__INTERVAL"):
        assert f"[STREAMPROC_{name}]" in shown


def test_an_unexpected_error_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What nobody thought of is said with its place; the stack only with --debug."""

    def broken(_: object) -> list[object]:
        raise RuntimeError("odd")

    monkeypatch.setattr("streamproc.cli.commands.shown", broken)
    code, said = failing(capsys, "config", "show")
    assert code == 1
    assert said.startswith("RuntimeError: odd (test_commands.py line ")
    assert main(["config", "show", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command is there without its libraries, and names the pip install that brings them."""
    monkeypatch.setattr(streamproc.cli, "find_spec", lambda name: None if name == "cyclopts" else object())
    code, said = failing(capsys, "run")
    assert (code, said) == (2, 'cyclopts is not installed: pip install "streamproc[cli]"')


def test_a_field_may_be_the_key_of_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With TOPIC:FIELD=PATH a source that is keyed has keys, and each key one partition; without, it is refused."""
    (folder / "keyed.py").write_text(
        "from streamproc import Topology, Tumbling\n"
        "topology = Topology('keyed', dead_letters='dead')\n"
        "clicks = topology.source('clicks', dict, event_time=lambda c: c['ts'], key=str, max_future=None)\n"
        "clicks.window(Tumbling('1d')).count(name='counts').to('counts')\n"
    )
    lines = [{"user": f"u{number % 5}", "ts": number} for number in range(100)]
    (folder / "keyed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shared = ["run", "keyed", "--partitions", "3", "--no-http", "--log-level", "critical"]
    assert main([*shared, "--input", "clicks:user=keyed.jsonl", "--output", "counts=counts.jsonl"]) == 0
    counted = {row["key"]: row["value"] for row in map(json.loads, (folder / "counts.jsonl").read_text().splitlines())}
    assert counted == {f"u{number}": 20 for number in range(5)}
    capsys.readouterr()
    assert main([*shared, "--input", "clicks=keyed.jsonl", "--state", "other.sqlite"]) == 2
    assert "name the field that holds it, as in --input clicks:FIELD=keyed.jsonl" in capsys.readouterr().err
