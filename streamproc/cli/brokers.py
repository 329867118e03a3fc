"""From settings to brokers: who we are to them, a connection within a limit, and what their refusals mean to a user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from streamproc.adapters.kafka import Access, KafkaAdmin, KafkaBroker
from streamproc.cli.outcomes import Unreachable
from streamproc.config import Config
from streamproc.core.errors import ConfigError
from streamproc.ports.broker import BrokerError, Code, Refused, Unanswered, Unauthenticated, Unsent

T = TypeVar("T")

NOT_ALLOWED = {
    Code.TOPIC_AUTHORIZATION_FAILED: "this principal may not do that to the topic: give it the permission",
    Code.GROUP_AUTHORIZATION_FAILED: "this principal may not use the group: give it READ on it",
    Code.CLUSTER_AUTHORIZATION_FAILED: "this principal may not do that to the cluster: give it the permission",
    Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (
        "this principal may not use the transactional id: give it WRITE and DESCRIBE on the prefix of the app's name"
    ),
    Code.INVALID_TRANSACTION_TIMEOUT: (
        "transaction.timeout is longer than the brokers' transaction.max.timeout.ms: make one of them fit"
    ),
}
"""Refusals that only somebody who changes permissions or settings can mend, with what to do."""


NO_BROKERS = "no brokers are named: --bootstrap-servers HOST:PORT, or STREAMPROC_KAFKA__BOOTSTRAP_SERVERS"


def access(config: Config) -> Access:
    """Where the brokers are and who we are, as the settings have it; ConfigError where a file is not there."""
    for name, path in (
        ("kafka.ssl_cafile", config.kafka_ssl_cafile),
        ("kafka.ssl_certfile", config.kafka_ssl_certfile),
        ("kafka.ssl_keyfile", config.kafka_ssl_keyfile),
    ):
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"{name} is {path}, and there is no such file")
    if config.kafka_bootstrap_servers is None:
        raise ConfigError(NO_BROKERS)
    return Access(
        config.kafka_bootstrap_servers,
        security_protocol=config.kafka_security_protocol,
        sasl_mechanism=config.kafka_sasl_mechanism or "PLAIN",
        sasl_plain_username=config.kafka_sasl_username,
        sasl_plain_password=config.kafka_sasl_password,
        cafile=config.kafka_ssl_cafile,
        certfile=config.kafka_ssl_certfile,
        keyfile=config.kafka_ssl_keyfile,
        client_id=config.kafka_client_id,
    )


def broker_of(config: Config, answered: Callable[[str, float], None] = lambda _, __: None) -> KafkaBroker:
    """A client of the brokers, which is not connected yet; in an event loop.  `answered` is told of every answer."""
    compression: Any = config.kafka_compression
    try:
        return KafkaBroker(
            access(config),
            request_timeout=config.kafka_request_timeout / 1000,
            compression=compression,
            answered=answered,
        )
    except OSError as error:  # certificates
        raise ConfigError(f"the files of kafka.ssl_* cannot be used: {error}") from error
    except ValueError as error:
        raise ConfigError(f"settings of kafka.*: {error}") from error


async def connect(broker: KafkaBroker, config: Config) -> None:
    """Wait until a broker answers; Unreachable, which names the addresses, if none does within `connect.timeout`."""
    try:
        await broker.connect(config.connect_timeout / 1000)
    except (Unsent, Unanswered) as error:
        raise Unreachable(f"{error}. They are named by kafka.bootstrap_servers ({_origin(config)})") from error
    except Unauthenticated as error:
        raise ConfigError(f"{error}: see kafka.security_protocol, kafka.sasl_* and kafka.ssl_*") from error


def _origin(config: Config) -> str:
    return config.origins.get("kafka.bootstrap_servers", "")


@asynccontextmanager
async def connected(config: Config) -> AsyncIterator[KafkaBroker]:
    """A client whose brokers answer, closed at the end."""
    broker = broker_of(config)
    try:
        await connect(broker, config)
        yield broker
    finally:
        await broker.close()


@asynccontextmanager
async def administered(config: Config) -> AsyncIterator[KafkaAdmin]:
    """A client for administration, closed at the end; brokers are known to answer."""
    admin = KafkaAdmin(access(config), request_timeout=config.kafka_request_timeout / 1000)
    try:
        yield admin
    finally:
        await admin.close()


def ask(config: Config, question: Callable[[KafkaBroker], Awaitable[T]]) -> T:
    """What comes of a question to brokers; their refusals as errors that say what to do."""

    async def asked() -> T:
        async with connected(config) as broker:
            return await question(broker)

    try:
        return asyncio.run(asked())
    except BrokerError as error:
        raise told(error) from error


def told(error: BrokerError) -> Exception:
    """An error of a broker as one for a user."""
    match error:
        case Refused(code=code) if code in NOT_ALLOWED:
            return ConfigError(f"{error}: {NOT_ALLOWED[Code(code)]}")
        case Unauthenticated():
            return ConfigError(f"{error}: see kafka.security_protocol, kafka.sasl_* and kafka.ssl_*")
        case Unsent() | Unanswered():
            return Unreachable(str(error))
    return error
