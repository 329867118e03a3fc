"""Settings: the one place where the environment and files are read, once, into one frozen value.

    command line > environment STREAMPROC_* > .env (dev only) > streamproc.toml or [tool.streamproc] > defaults

`embedded.file` is STREAMPROC_EMBEDDED__FILE in the environment and `file` of the table [embedded] in a file.  Any
variable may instead be NAME_FILE, the path of a file that holds the value; a secret is looked for in /run/secrets too.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from streamproc.core.errors import ConfigError, TopologyError
from streamproc.core.instants import duration, text

PREFIX = "STREAMPROC_"
SECRETS = Path("/run/secrets")
REDACTED = "[redacted]"
NO_SETTINGS = ("STREAMPROC_TEST_", "STREAMPROC_CRASH_AT", "STREAMPROC_SUPERVISED")
"""How variables begin that are no settings: those of tests, and what a supervisor says to its workers."""

LAST_PORT = 65535
MOST_WORKERS = 256


class Unusable(Exception):
    """A value is not among what is allowed; the text says what is."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its dotted name, how text or a TOML value becomes its value, and what it is otherwise."""

    name: str
    parse: Callable[[Any], Any]
    default: Any
    help: str
    secret: bool = False
    flag: str = ""

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return PREFIX + _upper(self.name)

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return self.flag or "--" + self.name.replace(".", "-")


class Given(NamedTuple):
    """A value of a setting and where it came from."""

    value: Any
    origin: str


def _choice(*allowed: str) -> Callable[[Any], str]:
    def parse(given: Any) -> str:
        if given not in allowed:
            raise Unusable(f"one of {', '.join(allowed)}")
        return str(given)

    return parse


def _milliseconds(given: Any) -> int:
    try:
        return duration("duration", given, least=1)
    except TopologyError:
        raise Unusable('a duration such as "100ms", "30s" or "5m"') from None


def _port(given: Any) -> int:
    if isinstance(given, str) and given.isdecimal():
        given = int(given)
    if type(given) is not int or not 0 <= given <= LAST_PORT:
        raise Unusable(f"a port from 0 to {LAST_PORT}, 0 for any that is free")
    return given


def _workers(given: Any) -> int:
    if isinstance(given, str) and given.isdecimal():
        given = int(given)
    if type(given) is not int or not 1 <= given <= MOST_WORKERS:
        raise Unusable(f"a number from 1 to {MOST_WORKERS}")
    return given


def _addresses(given: Any) -> str:
    """host:port, several with commas between; a list in a file is the same."""
    parts = given if isinstance(given, list) else str(given).split(",")
    found = [part.strip() for part in map(str, parts) if part.strip()]
    for part in found:
        host, _, port = part.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) <= LAST_PORT:
            raise Unusable("host:port, several with commas between them")
    if not found:
        raise Unusable("host:port, several with commas between them")
    return ",".join(found)


def _switch(given: Any) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if isinstance(given, bool):
        return given
    if not isinstance(given, str) or given.lower() not in words:
        raise Unusable("true or false")
    return words[given.lower()]


def _text(given: Any) -> str:
    if not isinstance(given, str) or not given:
        raise Unusable("a text that is not empty")
    return given


SETTINGS = (
    Setting(
        "runner",
        _choice("auto", "kafka", "embedded"),
        "auto",
        "what runs a topology; auto: kafka where kafka.bootstrap_servers is set and no --input given, else embedded",
    ),
    Setting(
        "guarantee",
        _choice("exactly_once", "at_least_once"),
        "exactly_once",
        "what a crash may do to results; embedded is always exactly_once",
    ),
    Setting("workers", _workers, 1, "how many processes work on a topology on this machine"),
    Setting(
        "kafka.bootstrap_servers",
        _addresses,
        None,
        "brokers to begin with: host:port, with commas between",
        flag="--bootstrap-servers",
    ),
    Setting(
        "kafka.security_protocol",
        _choice("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
        "PLAINTEXT",
        "how connections are secured",
    ),
    Setting("kafka.sasl_mechanism", _choice("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"), None, "how we say who we are"),
    Setting("kafka.sasl_username", _text, None, "who we are"),
    Setting("kafka.sasl_password", _text, None, "what proves it", secret=True),
    Setting(
        "kafka.ssl_cafile", _text, None, "certificates that brokers are checked with; those of the system unless set"
    ),
    Setting("kafka.ssl_certfile", _text, None, "our certificate"),
    Setting("kafka.ssl_keyfile", _text, None, "its key"),
    Setting("kafka.client_id", _text, "streamproc", "what brokers call us in their logs and quotas"),
    Setting("kafka.request_timeout", _milliseconds, 8_000, "how long a broker may take to answer"),
    Setting(
        "kafka.compression",
        _choice("none", "gzip", "snappy", "lz4", "zstd"),
        "none",
        "how what is written is compressed",
    ),
    Setting("group.instance_id", _text, None, "a name that outlives a restart, for static membership"),
    Setting("group.session_timeout", _milliseconds, 6_000, "silence after which a worker counts as gone"),
    Setting("group.rebalance_timeout", _milliseconds, 30_000, "how long a rebalance waits for a worker"),
    Setting("group.heartbeat_interval", _milliseconds, 500, "time between two signs of life"),
    Setting("transaction.timeout", _milliseconds, 10_000, "how long a transaction may last"),
    Setting("stall.after", _milliseconds, 60_000, "how long a partition with records may stand still"),
    Setting("connect.timeout", _milliseconds, 30_000, "how long a start waits for brokers"),
    Setting("embedded.file", _text, None, "the state file; ./<app>.sqlite unless set", flag="--state"),
    Setting("commit.interval", _milliseconds, 100, "time between commits; up to ten times that while catching up"),
    Setting("drain.timeout", _milliseconds, 30_000, "how long a stop may take"),
    Setting("http.enabled", _switch, default=True, help="whether metrics and health are served", flag="--no-http"),
    Setting("http.host", _text, "127.0.0.1", "the address they are served on"),
    Setting("http.port", _port, 9400, "the port they are served on", flag="--port"),
    Setting(
        "log.level",
        _choice("debug", "info", "warning", "error", "critical"),
        "info",
        "the least level that is logged",
    ),
    Setting("log.format", _choice("auto", "json", "pretty"), "auto", "how logs are written"),
)
"""All settings there are."""


@dataclass(frozen=True, slots=True)
class Config:
    """What a run needs to know; durations in ms.  `origins` says of each setting where its value came from."""

    runner: str
    guarantee: str
    workers: int
    kafka_bootstrap_servers: str | None
    kafka_security_protocol: str
    kafka_sasl_mechanism: str | None
    kafka_sasl_username: str | None
    kafka_sasl_password: str | None = field(repr=False)
    kafka_ssl_cafile: str | None
    kafka_ssl_certfile: str | None
    kafka_ssl_keyfile: str | None
    kafka_client_id: str
    kafka_request_timeout: int
    kafka_compression: str
    group_instance_id: str | None
    group_session_timeout: int
    group_rebalance_timeout: int
    group_heartbeat_interval: int
    transaction_timeout: int
    stall_after: int
    connect_timeout: int
    embedded_file: str | None
    commit_interval: int
    drain_timeout: int
    http_enabled: bool
    http_host: str
    http_port: int
    log_level: str
    log_format: str
    origins: Mapping[str, str] = field(default_factory=dict)

    def is_default(self, name: str) -> bool:
        """Whether nobody has said anything about a setting."""
        return self.origins.get(name, DEFAULT) == DEFAULT


DEFAULT = "default"


def load(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    folder: Path,
    *,
    dev: bool = False,
) -> Config:
    """The settings from all sources; `flags` are by dotted name, None where a flag was not given.

    Files are looked for in `folder`.  Raises ConfigError for a setting that there is not, and for a value that cannot
    be used; it names both, where it was found, and what is allowed.
    """
    found = gather(SETTINGS, flags, environment, folder, dev=dev)
    _agree(found)
    values = {name.replace(".", "_"): given.value for name, given in found.items()}
    return Config(**values, origins={name: given.origin for name, given in found.items()})


ORDERS = (
    (
        "kafka.request_timeout",
        1,
        "transaction.timeout",
        "a request that gets no answer must be given up before its transaction is",
    ),
    ("commit.interval", 3, "transaction.timeout", "a transaction is committed after a third of what it may last"),
    ("group.heartbeat_interval", 3, "group.session_timeout", "two signs of life may get lost"),
    ("kafka.request_timeout", 2, "group.rebalance_timeout", "a commit must come to its end while a rebalance waits"),
)
"""What must be shorter than which part of what, and why."""


def _agree(found: Mapping[str, Given]) -> None:
    """ConfigError for settings of which each could be, but not both."""
    for short, part, long, why in ORDERS:
        if found[short].value * part >= found[long].value:
            share = f"1/{part} of " if part > 1 else ""
            raise ConfigError(
                f"{short} is {_told(found, short)}, and {long} {_told(found, long)}: the first must be less than "
                f"{share}the second, since {why}"
            )
    _agree_on_security(found)


def _agree_on_security(found: Mapping[str, Given]) -> None:
    protocol = found["kafka.security_protocol"].value
    sasl, tls = protocol.startswith("SASL"), protocol.endswith("SSL")
    for name in ("kafka.sasl_mechanism", "kafka.sasl_username", "kafka.sasl_password"):
        if sasl and found[name].value is None:
            raise ConfigError(f"kafka.security_protocol is {protocol}, which needs {name}: set {PREFIX}{_upper(name)}")
        if not sasl and found[name].value is not None:
            raise ConfigError(
                f"{name} is set ({found[name].origin}), and kafka.security_protocol is {protocol}, which does not use "
                "it: use SASL_SSL, or SASL_PLAINTEXT in a network that is trusted"
            )
    for name in ("kafka.ssl_cafile", "kafka.ssl_certfile", "kafka.ssl_keyfile"):
        if not tls and found[name].value is not None:
            raise ConfigError(
                f"{name} is set ({found[name].origin}), and kafka.security_protocol is {protocol}, which does not use "
                "it: use SSL or SASL_SSL"
            )
    if found["kafka.ssl_keyfile"].value is not None and found["kafka.ssl_certfile"].value is None:
        raise ConfigError("kafka.ssl_keyfile is set without kafka.ssl_certfile: a key belongs to a certificate")


def _told(found: Mapping[str, Given], name: str) -> str:
    return f"{text(found[name].value)} ({found[name].origin})"


def _upper(name: str) -> str:
    return name.upper().replace(".", "__")


def gather(  # noqa: PLR0913 - one parameter a source
    settings: Iterable[Setting],
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    folder: Path,
    *,
    dev: bool = False,
    secrets: Path = SECRETS,
) -> dict[str, Given]:
    """Each setting with its value and where that came from."""
    known = {setting.name: setting for setting in settings}
    layers = [
        {name: Given(value, known[name].option) for name, value in flags.items() if value is not None},
        _variables(known, environment, "environment"),
        _variables(known, _dotenv(folder / ".env"), ".env") if dev else {},
        _secret_files(known, secrets),
        _toml(known, folder),
    ]
    found = {}
    for name, setting in known.items():
        found[name] = next((layer[name] for layer in layers if name in layer), Given(setting.default, DEFAULT))
        if found[name].origin != DEFAULT:
            found[name] = found[name]._replace(value=_parsed(setting, found[name]))
    return found


def _parsed(setting: Setting, given: Given) -> Any:
    try:
        return setting.parse(given.value)
    except Unusable as unusable:
        shown = REDACTED if setting.secret else repr(given.value)
        raise ConfigError(f"{setting.name} is {shown} ({given.origin}), which cannot be: use {unusable}") from None


def _variables(known: Mapping[str, Setting], environment: Mapping[str, str], where: str) -> dict[str, Given]:
    names = {setting.variable: name for name, setting in known.items()}
    found: dict[str, Given] = {}
    for variable, value in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable.startswith(NO_SETTINGS):
            continue
        if variable in names:
            found[names[variable]] = Given(value, f"{where} {variable}")
        elif variable.removesuffix("_FILE") in names:
            found.setdefault(names[variable.removesuffix("_FILE")], Given(_content(variable, value), f"file {value}"))
        else:
            raise _unknown(variable, f"in the {where}" if where == "environment" else f"in {where}", names)
    return found


def _content(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{variable} names {path}, which cannot be read: {error}") from error


def _secret_files(known: Mapping[str, Setting], folder: Path) -> dict[str, Given]:
    """Secrets that an orchestrator has put into files named as their variables."""
    return {
        name: Given(_content(setting.variable, str(path)), f"file {path}")
        for name, setting in known.items()
        if setting.secret and (path := folder / setting.variable).is_file()
    }


def _dotenv(path: Path) -> dict[str, str]:
    """NAME=value lines; quotes around a value are dropped, and so are comments and `export`."""
    if not path.is_file():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        stripped = line.strip().removeprefix("export ")
        if not stripped or stripped.startswith("#"):
            continue
        name, sign, value = stripped.partition("=")
        if not sign:
            raise ConfigError(f"{path} line {number} is no NAME=value")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name.strip()] = value
    return found


def _toml(known: Mapping[str, Setting], folder: Path) -> dict[str, Given]:
    """The settings of streamproc.toml, or else of [tool.streamproc] in pyproject.toml."""
    own, project = folder / "streamproc.toml", folder / "pyproject.toml"
    if own.is_file():
        return _flat(known, _parse(own), own.name)
    if project.is_file():
        return _flat(known, _parse(project).get("tool", {}).get("streamproc", {}), f"{project.name} [tool.streamproc]")
    return {}


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _flat(known: Mapping[str, Setting], table: Mapping[str, Any], where: str, lead: str = "") -> dict[str, Given]:
    found: dict[str, Given] = {}
    for key, value in table.items():
        name = lead + key
        if isinstance(value, dict) and any(setting.startswith(name + ".") for setting in known):
            found |= _flat(known, value, where, name + ".")
        elif name in known:
            found[name] = Given(value, where)
        else:
            raise _unknown(name, f"in {where}", known)
    return found


def _unknown(name: str, where: str, known: Iterable[str]) -> ConfigError:
    names = sorted(known)
    near = get_close_matches(name, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
    return ConfigError(f"{name} {where} is no setting: {hint}")


def shown(config: Config) -> list[dict[str, Any]]:
    """Every setting with its value and origin, secrets redacted, for `config show`."""
    rows = []
    for setting in SETTINGS:
        value = getattr(config, setting.name.replace(".", "_"))
        if setting.parse is _milliseconds:
            value = text(value)
        rows.append(
            {
                "name": setting.name,
                "value": REDACTED if setting.secret and value is not None else value,
                "origin": config.origins.get(setting.name, DEFAULT),
                "variable": setting.variable,
            }
        )
    return rows
