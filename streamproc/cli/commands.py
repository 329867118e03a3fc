"""The commands, and how every one of them ends: with a code that says what happened, and one clear paragraph if badly.

0 done   1 crash or a task that stopped   2 usage or configuration   3 topology or state that does not fit
75 no drain before the deadline   130 second Ctrl-C
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from streamproc import __version__
from streamproc.config import SETTINGS, load, shown
from streamproc.core.errors import ConfigError, StateError, StreamprocError, TopologyError

DONE, CRASH, USAGE, UNFIT, SECOND = 0, 1, 2, 3, 130

app = App(
    name="streamproc",
    help="Stream processing with windowed aggregations.",
    version=__version__,
    help_format="plaintext",
)
topics = App(name="topics", help="Look at the topics in a state file.")
config = App(name="config", help="Look at the settings.")
app.command(topics)
app.command(config)

_VARIABLES = {setting.option: setting.variable for setting in SETTINGS}


def _option(name: str, text: str) -> Parameter:
    """A flag that is a setting too, with its variable in the help."""
    return Parameter(name=name, help=f"{text} [{_VARIABLES[name]}]", negative="", show_default=False)


def _switch(text: str) -> Parameter:
    """A flag that is there or not."""
    return Parameter(help=text, negative="", show_default=False)


Spec = Annotated[str, Parameter(help="MODULE:VAR; VAR is 'topology' unless said, or a factory, or factory('arg').")]
Inputs = Annotated[
    list[str] | None,
    Parameter(name="--input", help="TOPIC[:KEYFIELD]=PATH: a file, a directory, or - for standard input.", negative=""),
]
Outputs = Annotated[
    list[str] | None, Parameter(name="--output", help="TOPIC=PATH: a file, or - for standard output.", negative="")
]
Partitions = Annotated[int, Parameter(help="How many partitions each topic has.")]
Follow = Annotated[bool, _switch("Go on reading what is appended to the inputs.")]
KeepOpen = Annotated[bool, _switch("Stop when all is read, and close no window.")]
State = Annotated[str | None, _option("--state", "The state file.")]
Port = Annotated[int | None, _option("--port", "The port of metrics and health.")]
NoHttp = Annotated[bool | None, _option("--no-http", "Serve neither metrics nor health.")]
Interval = Annotated[str | None, _option("--commit-interval", "Time between commits.")]
Drain = Annotated[str | None, _option("--drain-timeout", "How long a stop may take.")]
Level = Annotated[str | None, _option("--log-level", "The least level that is logged.")]
Format = Annotated[str | None, _option("--log-format", "auto, json or pretty.")]
Debug = Annotated[bool, _switch("Show where in the program an error came from.")]
Shape = Literal["tree", "mermaid", "dot", "json", "code"]


@app.command
def run(  # noqa: PLR0913 - one parameter a flag
    spec: Spec,
    /,
    *,
    input: Inputs = None,  # noqa: A002 - the flag's name
    output: Outputs = None,
    partitions: Partitions = 1,
    follow: Follow = False,
    keep_open: KeepOpen = False,
    state: State = None,
    port: Port = None,
    no_http: NoHttp = None,
    commit_interval: Interval = None,
    drain_timeout: Drain = None,
    log_level: Level = None,
    log_format: Format = None,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Run a topology over its inputs, until they end."""
    from streamproc.cli.running import Asked, execute

    flags = {
        "embedded.file": state,
        "http.port": port,
        "http.enabled": False if no_http else None,
        "commit.interval": commit_interval,
        "drain.timeout": drain_timeout,
        "log.level": log_level,
        "log.format": log_format,
    }
    settings = load(flags, os.environ, Path.cwd())
    return execute(spec, settings, Asked(tuple(input or ()), tuple(output or ()), partitions, follow, keep_open))


@app.command
def dev(  # noqa: PLR0913 - one parameter a flag
    spec: Spec,
    /,
    *,
    reload: Annotated[bool, _switch("Start anew when a .py file changes.")] = False,
    input: Inputs = None,  # noqa: A002 - the flag's name
    output: Outputs = None,
    partitions: Partitions = 1,
    follow: Follow = False,
    keep_open: KeepOpen = False,
    state: State = None,
    port: Port = None,
    no_http: NoHttp = None,
    log_level: Level = None,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Run a topology while it is being written: settings from .env too, logs for people."""
    from streamproc.cli.running import Asked, execute, reloading

    if reload:
        return reloading()
    flags = {
        "embedded.file": state,
        "http.port": port,
        "http.enabled": False if no_http else None,
        "log.level": log_level,
        "log.format": "pretty",
    }
    settings = load(flags, os.environ, Path.cwd(), dev=True)
    return execute(spec, settings, Asked(tuple(input or ()), tuple(output or ()), partitions, follow, keep_open))


@app.command
def describe(
    spec: Spec,
    /,
    *,
    format: Annotated[Shape, Parameter(help="How it is drawn; code is the generated loops.")] = "tree",  # noqa: A002
    partitions: Partitions = 1,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Show what a topology does, without running it."""
    from streamproc.cli.loading import load as load_topology
    from streamproc.core import describe as drawn
    from streamproc.core.plan import build

    plan = build(load_topology(spec).graph(), _counted(partitions))
    if format == "json":
        print(json.dumps(drawn.outline(plan), indent=2, ensure_ascii=False))
    elif format == "code":
        from streamproc.core import fuse

        print(fuse.code(plan), end="")
    else:
        shapes = {"tree": drawn.tree, "mermaid": drawn.mermaid, "dot": drawn.dot}
        print(shapes[format](plan), end="")
    return DONE


@app.command
def check(
    spec: Spec,
    /,
    *,
    offline: Annotated[bool, _switch("Ask nobody: the plan alone.")] = False,  # noqa: ARG001
    format: Annotated[Literal["text", "json", "github"], Parameter(help="How findings are written.")] = "text",  # noqa: A002
    partitions: Partitions = 1,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Find mistakes in a topology before it runs; exit 3 if there is an error among them."""
    from streamproc.cli.checks import findings, written
    from streamproc.cli.loading import load as load_topology

    found = findings(lambda: load_topology(spec), _counted(partitions))
    for line in written(found, format):
        print(line)
    return UNFIT if any(one.severity == "error" for one in found) else DONE


@topics.command
def ls(
    *,
    state: Annotated[Path, Parameter(help="The state file.")],
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """The topics of a state file, with how many records each partition has, as JSON lines."""
    from streamproc.cli.topics import counts

    for row in counts(state):
        print(json.dumps(row))
    return DONE


@topics.command
def read(
    topic: str,
    /,
    *,
    state: Annotated[Path, Parameter(help="The state file.")],
    partition: Annotated[int | None, Parameter(help="Only this partition.")] = None,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """The records of a topic in a state file, as JSON lines."""
    from streamproc.cli.topics import records

    for row in records(state, topic, partition):
        print(json.dumps(row, ensure_ascii=False))
    return DONE


@config.command
def show(
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="One JSON object a line.", negative="")] = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Every setting, its value, and where that came from."""
    for row in shown(load({}, os.environ, Path.cwd())):
        if as_json:
            print(json.dumps(row))
        else:
            value = (
                "-"
                if row["value"] is None
                else str(row["value"]).lower()
                if row["value"] in (True, False)
                else row["value"]
            )
            print(f"{row['name']:24} {value!s:16} {row['origin']:24} {row['variable']}")
    return DONE


def _counted(partitions: int) -> int:
    if partitions < 1:
        raise ConfigError(f"--partitions {partitions}: at least 1")
    return partitions


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line; every error has become a paragraph on stderr and a code."""
    try:
        answer: Any = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_gone()
    except KeyboardInterrupt:
        return SECOND
    except Exception as error:  # noqa: BLE001 - the edge: what nobody expected is said, with where it happened
        return _said(error, _code(error), debug="--debug" in arguments)
    return answer if isinstance(answer, int) else DONE


def _code(error: Exception) -> int:
    if isinstance(error, CycloptsError | ConfigError):
        return USAGE
    return UNFIT if isinstance(error, TopologyError | StateError) else CRASH


def _said(error: BaseException, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    words = str(error) if isinstance(error, StreamprocError | CycloptsError) else _unexpected(error)
    print(f"streamproc: {words}", file=sys.stderr)
    return code


def _unexpected(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name} line {last.lineno}"
    return f"{type(error).__name__}: {error} ({where}; --debug shows the whole way there)"


def _reader_gone() -> int:
    """Whoever read our output has seen enough; nothing more may be written to it, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE
