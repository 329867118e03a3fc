"""What commands have in common: the groups they stand in, and the flags that many of them take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from streamproc import __version__
from streamproc.config import SETTINGS, Config, load
from streamproc.core.errors import ConfigError

app = App(
    name="streamproc",
    help="Stream processing with windowed aggregations.",
    version=__version__,
    help_format="plaintext",
)
topics = App(name="topics", help="The topics of a state file, and those that a topology needs on Kafka.")
config = App(name="config", help="Look at the settings.")
offsets = App(name="offsets", help="How far a topology has read on Kafka, and how to begin elsewhere.")
state = App(name="state", help="Look into the state that a topology keeps on Kafka.")
dlq = App(name="dlq", help="Look at dead letters on Kafka, and send them back.")
for group in (topics, config, offsets, state, dlq):
    app.command(group)

_NAMES = {setting.option: setting for setting in SETTINGS}


def option(name: str, text: str) -> Parameter:
    """A flag that is a setting too, with its variable in the help."""
    return Parameter(name=name, help=f"{text} [{_NAMES[name].variable}]", negative="", show_default=False)


def switch(text: str, *names: str) -> Parameter:
    """A flag that is there or not."""
    return Parameter(name=names or None, help=text, negative="", show_default=False)


def several(name: str, text: str) -> Parameter:
    """A flag that may be given more than once."""
    return Parameter(name=name, help=text, negative="")


Spec = Annotated[str, Parameter(help="MODULE:VAR; VAR is 'topology' unless said, or a factory, or factory('arg').")]
Inputs = Annotated[
    list[str] | None, several("--input", "TOPIC[:KEYFIELD]=PATH: a file, a directory, or - for standard input.")
]
Outputs = Annotated[list[str] | None, several("--output", "TOPIC=PATH: a file, or - for standard output.")]
Partitions = Annotated[int, Parameter(help="How many partitions each topic has.")]
Follow = Annotated[bool, switch("Go on reading what is appended to the inputs.")]
UntilEnd = Annotated[
    bool, switch("On Kafka: read as far as the sources reach now, close all windows, and end.", "--until-end")
]
KeepOpen = Annotated[bool, switch("Stop when all is read, and close no window.")]
State = Annotated[str | None, option("--state", "The state file.")]
Port = Annotated[int | None, option("--port", "The port of metrics and health.")]
NoHttp = Annotated[bool | None, option("--no-http", "Serve neither metrics nor health.")]
Interval = Annotated[str | None, option("--commit-interval", "Time between commits.")]
Drain = Annotated[str | None, option("--drain-timeout", "How long a stop may take.")]
Level = Annotated[str | None, option("--log-level", "The least level that is logged.")]
Format = Annotated[str | None, option("--log-format", "auto, json or pretty.")]
Workers = Annotated[int | None, option("--workers", "How many processes work on it on this machine, on Kafka.")]
Brokers = Annotated[str | None, option("--bootstrap-servers", "Kafka brokers to begin with, as host:port.")]
Json = Annotated[bool, switch("One JSON object a line.", "--json")]
Yes = Annotated[bool, switch("Do not ask.", "--yes")]
DryRun = Annotated[bool, switch("Say what would be done, and do nothing.")]
Debug = Annotated[bool, switch("Show where in the program an error came from.")]
Shape = Literal["tree", "mermaid", "dot", "json", "code"]
Place = Annotated[Path, Parameter(help="The state file.")]


def settings(flags: dict[str, Any], *, dev: bool = False) -> Config:
    """The settings of this process: flags by dotted name over everything else there is."""
    return load(flags, os.environ, Path.cwd(), dev=dev)


def on_kafka(brokers: str | None) -> Config:
    """The settings of a command that asks brokers."""
    return settings({"kafka.bootstrap_servers": brokers})


def counted(partitions: int) -> int:
    """A number of partitions; ConfigError if it is none."""
    if partitions < 1:
        raise ConfigError(f"--partitions {partitions}: at least 1")
    return partitions
