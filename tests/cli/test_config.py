"""Settings: where each comes from, which one wins, and what is said of those that cannot be used."""

from collections.abc import Callable
from pathlib import Path

import pytest

from streamproc import ConfigError
from streamproc.config import DEFAULT, REDACTED, SETTINGS, Config, Given, Setting, gather, load, shown

SASL = {
    "STREAMPROC_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
    "STREAMPROC_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
    "STREAMPROC_KAFKA__SASL_USERNAME": "flights",
    "STREAMPROC_KAFKA__SASL_PASSWORD": "hush",
}
SECRET = Setting("vault.token", str, None, "a secret", secret=True)


def test_defaults_need_nothing(tmp_path: Path) -> None:
    """Without any source every setting has its default, and says so."""
    config = load({}, {}, tmp_path)
    assert config == Config(
        runner="auto",
        guarantee="exactly_once",
        workers=1,
        kafka_bootstrap_servers=None,
        kafka_security_protocol="PLAINTEXT",
        kafka_sasl_mechanism=None,
        kafka_sasl_username=None,
        kafka_sasl_password=None,
        kafka_ssl_cafile=None,
        kafka_ssl_certfile=None,
        kafka_ssl_keyfile=None,
        kafka_client_id="streamproc",
        kafka_request_timeout=8_000,
        kafka_compression="none",
        group_instance_id=None,
        group_session_timeout=6_000,
        group_rebalance_timeout=30_000,
        group_heartbeat_interval=500,
        transaction_timeout=10_000,
        stall_after=60_000,
        connect_timeout=30_000,
        embedded_file=None,
        commit_interval=100,
        drain_timeout=30_000,
        http_enabled=True,
        http_host="127.0.0.1",
        http_port=9400,
        log_level="info",
        log_format="auto",
        origins={setting.name: DEFAULT for setting in SETTINGS},
    )


def sources(folder: Path) -> list[tuple[str, str, Callable[[], Config]]]:
    """Every source, the strongest first, as (level it sets, origin it is called, how it is read)."""
    flags: dict[str, object] = {}
    environment: dict[str, str] = {}

    def read() -> Config:
        return load(flags, environment, folder, dev=True)

    def flag() -> Config:
        flags["log.level"] = "debug"
        return read()

    def variable() -> Config:
        environment["STREAMPROC_LOG__LEVEL"] = "warning"
        return read()

    def dotenv() -> Config:
        (folder / ".env").write_text('# mine\nexport STREAMPROC_LOG__LEVEL="error"\nOTHER=1\n')
        return read()

    def own() -> Config:
        (folder / "streamproc.toml").write_text('[log]\nlevel = "critical"\n')
        return read()

    def project() -> Config:
        (folder / "pyproject.toml").write_text('[tool.streamproc.log]\nlevel = "info"\n')
        return read()

    return [
        ("debug", "--log-level", flag),
        ("warning", "environment STREAMPROC_LOG__LEVEL", variable),
        ("error", ".env STREAMPROC_LOG__LEVEL", dotenv),
        ("critical", "streamproc.toml", own),
        ("info", "pyproject.toml [tool.streamproc]", project),
    ]


def test_the_nearer_source_wins(tmp_path: Path) -> None:
    """Command line over environment over .env over streamproc.toml over pyproject.toml over defaults."""
    for level, origin, read in reversed(sources(tmp_path)):
        config = read()
        assert (config.log_level, config.origins["log.level"]) == (level, origin)


def test_dotenv_is_for_development_only(tmp_path: Path) -> None:
    """Outside `dev` no .env is read."""
    (tmp_path / ".env").write_text("STREAMPROC_LOG__LEVEL=error\n")
    assert load({}, {}, tmp_path).log_level == "info"


def test_values_are_read_in_each_notation(tmp_path: Path) -> None:
    """Text of the environment and values of TOML become the same settings."""
    environment = {
        "STREAMPROC_COMMIT__INTERVAL": "2s",
        "STREAMPROC_HTTP__PORT": "0",
        "STREAMPROC_HTTP__ENABLED": "no",
        "STREAMPROC_EMBEDDED__FILE": "x.sqlite",
    }
    file = '[commit]\ninterval = "2s"\n[http]\nport = 0\nenabled = false\n[embedded]\nfile = "x.sqlite"\n'
    (tmp_path / "streamproc.toml").write_text(file)
    for config in (load({}, environment, tmp_path / "nowhere"), load({}, {}, tmp_path)):
        found = config.commit_interval, config.http_port, config.http_enabled, config.embedded_file
        assert found == (2000, 0, False, "x.sqlite")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"STREAMPROC_LOG__LEVEL": "loud"},
            (
                "log.level is 'loud' (environment STREAMPROC_LOG__LEVEL), which cannot be: "
                "use one of debug, info, warning, error, critical"
            ),
        ),
        (
            {"STREAMPROC_COMMIT__INTERVAL": "5"},
            (
                "commit.interval is '5' (environment STREAMPROC_COMMIT__INTERVAL), which cannot be: "
                'use a duration such as "100ms", "30s" or "5m"'
            ),
        ),
        (
            {"STREAMPROC_HTTP__PORT": "65536"},
            (
                "http.port is '65536' (environment STREAMPROC_HTTP__PORT), which cannot be: "
                "use a port from 0 to 65535, 0 for any that is free"
            ),
        ),
        (
            {"STREAMPROC_HTTP__ENABLED": "maybe"},
            "http.enabled is 'maybe' (environment STREAMPROC_HTTP__ENABLED), which cannot be: use true or false",
        ),
        (
            {"STREAMPROC_HTTP__HOST": ""},
            "http.host is '' (environment STREAMPROC_HTTP__HOST), which cannot be: use a text that is not empty",
        ),
        (
            {"STREAMPROC_WORKERS": "0"},
            "workers is '0' (environment STREAMPROC_WORKERS), which cannot be: use a number from 1 to 256",
        ),
        (
            {"STREAMPROC_KAFKA__BOOTSTRAP_SERVERS": "broker:9092,other"},
            (
                "kafka.bootstrap_servers is 'broker:9092,other' (environment STREAMPROC_KAFKA__BOOTSTRAP_SERVERS), "
                "which cannot be: use host:port, several with commas between them"
            ),
        ),
        (
            {"STREAMPROC_LOG__LEVLE": "info"},
            "STREAMPROC_LOG__LEVLE in the environment is no setting: did you mean STREAMPROC_LOG__LEVEL?",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, environment: dict[str, str], message: str) -> None:
    """An error says which setting, which value, where it was found, and what is allowed."""
    with pytest.raises(ConfigError) as caught:
        load({}, environment, tmp_path)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"KAFKA__REQUEST_TIMEOUT": "10s"},
            "is 10s (environment STREAMPROC_KAFKA__REQUEST_TIMEOUT), and transaction.timeout 10s (default): the first",
        ),
        ({"TRANSACTION__TIMEOUT": "8s"}, "kafka.request_timeout is 8s (default), and transaction.timeout 8s"),
        (
            {"COMMIT__INTERVAL": "4s"},
            "the first must be less than 1/3 of the second, since a transaction is committed after a third of what",
        ),
        ({"GROUP__HEARTBEAT_INTERVAL": "2s"}, "group.heartbeat_interval is 2s"),
        ({"GROUP__SESSION_TIMEOUT": "1s"}, "and group.session_timeout 1s"),
        ({"GROUP__REBALANCE_TIMEOUT": "16s"}, "and group.rebalance_timeout 16s"),
        ({"KAFKA__SECURITY_PROTOCOL": "SASL_SSL"}, "is SASL_SSL, which needs kafka.sasl_mechanism: set STREAMPROC_"),
        ({"KAFKA__SASL_PASSWORD": "hush"}, "kafka.sasl_password is set (environment STREAMPROC_KAFKA__SASL_PASSWORD)"),
        ({"KAFKA__SSL_CAFILE": "ca.pem"}, "and kafka.security_protocol is PLAINTEXT, which does not use it"),
        ({"KAFKA__SECURITY_PROTOCOL": "SSL", "KAFKA__SSL_KEYFILE": "key.pem"}, "without kafka.ssl_certfile"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path: Path, variables: dict[str, str], message: str) -> None:
    """Both are named, with where they come from; a secret is not said."""
    with pytest.raises(ConfigError) as caught:
        load({}, {f"STREAMPROC_{name}": value for name, value in variables.items()}, tmp_path)
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)


def test_brokers_may_be_a_list_in_a_file(tmp_path: Path) -> None:
    """A file has lists, the environment commas; addresses of IPv6 stand in brackets."""
    (tmp_path / "streamproc.toml").write_text('[kafka]\nbootstrap_servers = ["a:9092", "[::1]:9093"]\n')
    assert load({}, {}, tmp_path).kafka_bootstrap_servers == "a:9092,[::1]:9093"
    spaced = {"STREAMPROC_KAFKA__BOOTSTRAP_SERVERS": "a:9092, [::1]:9093,"}
    assert load({}, spaced, tmp_path).kafka_bootstrap_servers == "a:9092,[::1]:9093"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("[log]\nlevle = 'info'\n", "log.levle in streamproc.toml is no setting: did you mean log.level?"),
        ("[http]\nport = 'x'\n", "http.port is 'x' (streamproc.toml), which cannot be: use a port"),
        ("[http]\nport = true\n", "http.port is True (streamproc.toml), which cannot be: use a port"),
        ("log = 1\n", "log in streamproc.toml is no setting: "),
        ("[log\n", "streamproc.toml cannot be read: "),
    ],
)
def test_a_mistake_in_a_file_is_named_too(tmp_path: Path, file: str, message: str) -> None:
    """As of variables, so of files."""
    (tmp_path / "streamproc.toml").write_text(file)
    with pytest.raises(ConfigError) as caught:
        load({}, {}, tmp_path)
    assert message in str(caught.value)


def test_a_line_that_is_no_assignment_is_refused(tmp_path: Path) -> None:
    """A .env holds nothing but assignments and comments."""
    (tmp_path / ".env").write_text("\nSTREAMPROC\n")
    with pytest.raises(ConfigError, match="line 2 is no NAME=value"):
        load({}, {}, tmp_path, dev=True)


def test_variables_for_tests_are_no_settings(tmp_path: Path) -> None:
    """Those of tests and what a supervisor says to workers are none of them, and other variables are others'."""
    environment = {"STREAMPROC_TEST_DATA": "/data", "STREAMPROC_CRASH_AT": "", "STREAMPROC_SUPERVISED": "7", "PATH": ""}
    assert load({}, environment, tmp_path) == load({}, {}, tmp_path)


def test_a_value_may_be_in_a_file(tmp_path: Path) -> None:
    """NAME_FILE names a file that holds the value; NAME itself is nearer."""
    (tmp_path / "level").write_text("debug\n")
    named = {"STREAMPROC_LOG__LEVEL_FILE": str(tmp_path / "level")}
    config = load({}, named, tmp_path)
    assert (config.log_level, config.origins["log.level"]) == ("debug", f"file {tmp_path / 'level'}")
    assert load({}, named | {"STREAMPROC_LOG__LEVEL": "error"}, tmp_path).log_level == "error"
    with pytest.raises(ConfigError, match="STREAMPROC_LOG__LEVEL_FILE names /nowhere, which cannot be read"):
        load({}, {"STREAMPROC_LOG__LEVEL_FILE": "/nowhere"}, tmp_path)


def test_a_secret_is_found_where_an_orchestrator_puts_it(tmp_path: Path) -> None:
    """A secret may be a file named as its variable in the folder of secrets; the environment is nearer."""
    (tmp_path / "STREAMPROC_VAULT__TOKEN").write_text("hush\n")
    place = f"file {tmp_path / 'STREAMPROC_VAULT__TOKEN'}"
    assert gather([SECRET], {}, {}, tmp_path, secrets=tmp_path) == {"vault.token": Given("hush", place)}
    nearer = gather([SECRET], {}, {"STREAMPROC_VAULT__TOKEN": "mine"}, tmp_path, secrets=tmp_path)
    assert nearer["vault.token"].value == "mine"


def test_a_secret_is_never_said(tmp_path: Path) -> None:
    """Neither `config show` nor an error shows a secret's value."""
    strict = Setting("vault.token", SETTINGS[0].parse, None, "a secret", secret=True)
    with pytest.raises(ConfigError, match=r"vault.token is \[redacted\]"):
        gather([strict], {}, {"STREAMPROC_VAULT__TOKEN": "hush"}, tmp_path)
    assert REDACTED not in str(shown(load({}, {}, tmp_path)))
    config = load({}, SASL, tmp_path)
    assert config.kafka_sasl_password == SASL["STREAMPROC_KAFKA__SASL_PASSWORD"]
    assert "hush" not in repr(config) + str(shown(config))
    assert {row["value"] for row in shown(config) if row["name"] == "kafka.sasl_password"} == {REDACTED}


def test_what_is_shown_is_what_is_used(tmp_path: Path) -> None:
    """Every setting is shown with its value, origin and variable."""
    rows = {row["name"]: row for row in shown(load({"http.port": 1}, {}, tmp_path))}
    assert list(rows) == [setting.name for setting in SETTINGS]
    assert rows["http.port"] == {
        "name": "http.port",
        "value": 1,
        "origin": "--port",
        "variable": "STREAMPROC_HTTP__PORT",
    }
    assert rows["drain.timeout"]["value"] == "30s"
