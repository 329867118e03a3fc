"""Connections to brokers: one for each broker and purpose, so that what waits in one holds up nothing in another.

aiokafka's connection does the talking: TLS, SASL, the versions a broker speaks, one request behind the other.  What
this adds is what became of a request (see the port), an end to every wait, and a cut that leaves nothing behind.

    no connection could be made, or not in time       Unsent
    written, and no answer in time or at all          Unanswered, and the connection is cut
    the broker refused our name, or we its            Unauthenticated
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    IncompatibleBrokerVersion,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from streamproc.adapters.kafka.requests import NO_TAGS, ApiVersions, Spoken, finalized
from streamproc.ports.broker import BrokerError, Refused, Unanswered, Unauthenticated, Unsent

Endpoint: TypeAlias = tuple[str, int]
Purpose: TypeAlias = Hashable

UNSUPPORTED_VERSION = 35
"""The code of a broker that is too old or too new for a request."""

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_BY_PASSWORD = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_OTHERWISE = ("GSSAPI", "OAUTHBEARER")
_NEVER = 86_400_000
_IDLE = 540_000  # below the ten minutes after which a broker hangs up, so that no request meets that
_AT_ONCE = struct.pack("ii", 1, 0)
_STRANGERS = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    AssertionError,  # how aiokafka's SASL code says that the other side does not keep to the exchange,
    ValueError,  # that its signature is wrong,
    LookupError,  # or that it left something out
)
_LOST = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


Answered: TypeAlias = Callable[[str, float], None]

APIS: Mapping[int, str] = {
    0: "produce",
    1: "fetch",
    2: "list_offsets",
    3: "metadata",
    8: "offset_commit",
    9: "offset_fetch",
    10: "find_coordinator",
    11: "join_group",
    12: "heartbeat",
    13: "leave_group",
    14: "sync_group",
    18: "api_versions",
    21: "delete_records",
    22: "init_producer_id",
    24: "add_partitions_to_txn",
    26: "end_txn",
    28: "txn_offset_commit",
}
"""The requests of a worker by Kafka's numbers."""


class Line:
    """A purpose that comes to an end: after its cut nothing goes out for it, nor is connected to."""

    def __init__(self) -> None:
        self.ended = False


@dataclass(frozen=True, slots=True)
class Access:
    """Where the brokers are, and who we are to them.  The names are aiokafka's."""

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    sasl_plain_username: str | None = None
    sasl_plain_password: str | None = field(default=None, repr=False)
    sasl_kerberos_service_name: str = "kafka"
    sasl_kerberos_domain_name: str | None = None
    sasl_oauth_token_provider: Any = field(default=None, repr=False)
    ssl_context: ssl.SSLContext | None = None
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    client_id: str = "streamproc"

    def __post_init__(self) -> None:
        if self.security_protocol not in _PROTOCOLS:
            raise ValueError(f"security_protocol {self.security_protocol!r}: one of {', '.join(_PROTOCOLS)}")
        if "SASL" not in self.security_protocol:
            return
        if self.sasl_mechanism not in (*_BY_PASSWORD, *_OTHERWISE):
            known = ", ".join((*_BY_PASSWORD, *_OTHERWISE))
            raise ValueError(f"sasl_mechanism {self.sasl_mechanism!r}: one of {known}")
        if self.sasl_mechanism in _BY_PASSWORD and None in {self.sasl_plain_username, self.sasl_plain_password}:
            raise ValueError(f"{self.sasl_mechanism} needs sasl_plain_username and sasl_plain_password")

    def endpoints(self) -> list[Endpoint]:
        """The addresses to begin with, in any order."""
        return [(host, port) for host, port, _ in collect_hosts(self.bootstrap_servers)]

    def options(self) -> dict[str, Any]:
        """What a connection of aiokafka is made with."""
        return {
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "ssl_context": self._tls(),
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_plain_username,
            "sasl_plain_password": self.sasl_plain_password,
            "sasl_kerberos_service_name": self.sasl_kerberos_service_name,
            "sasl_kerberos_domain_name": self.sasl_kerberos_domain_name,
            "sasl_oauth_token_provider": self.sasl_oauth_token_provider,
            "request_timeout_ms": _NEVER,  # each wait has an end of its own
            "max_idle_ms": _IDLE,
        }

    def _tls(self) -> ssl.SSLContext | None:
        if "SSL" not in self.security_protocol or self.ssl_context is not None:
            return self.ssl_context
        context = ssl.create_default_context(cafile=self.cafile)  # certificate and host name are checked
        if self.certfile is not None:
            context.load_cert_chain(self.certfile, self.keyfile)
        return context


class _Discreet(logging.Filter):
    """Keeps requests out of the log: at DEBUG aiokafka's connection writes them down whole, passwords included."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.INFO


_DISCREET = _Discreet()


def hush() -> None:
    """Keep credentials out of the log, whatever level is set."""
    for name in ("aiokafka", "aiokafka.conn"):
        logging.getLogger(name).addFilter(_DISCREET)  # a filter that is there already is not added twice


class _Link:
    """One connection, and how many requests wait in it."""

    __slots__ = ("conn", "features", "waiting")

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.waiting = 0
        self.features: Mapping[str, int] | None = None


class Connections:
    """All connections of one client; `timeout` in seconds bounds the making of one.

    `answered` is told the name of each request that was answered, and after how many seconds.
    """

    def __init__(self, access: Access, timeout: float, answered: Answered = lambda _, __: None) -> None:
        hush()
        self._answered = answered
        self._options = access.options()
        self._timeout = timeout
        self._links: dict[tuple[Endpoint, Purpose], _Link] = {}
        self._opening: dict[tuple[Endpoint, Purpose], asyncio.Task[_Link | BrokerError]] = {}
        self._closing: set[asyncio.Future[None]] = set()
        self._closed = False

    async def send(self, to: Endpoint, purpose: Purpose, request: Spoken, deadline: float) -> Any:
        """The answer to a request."""
        link = await self._link(to, purpose, deadline)
        return await self._ask(link, to, purpose, request, deadline)

    async def reach(self, to: Endpoint, purpose: Purpose, deadline: float) -> None:
        """Make the connection if there is none; Unsent if it cannot be made in time."""
        await self._link(to, purpose, deadline)

    async def features(self, to: Endpoint, purpose: Purpose, deadline: float) -> Mapping[str, int]:
        """The finalized features of the cluster, asked once in each connection.

        Changes nothing at the broker: that no answer came is Unsent for whoever needs it for a request.
        """
        link = await self._link(to, purpose, deadline)
        if link.features is None:
            request = Spoken(ApiVersions("streamproc", "0", NO_TAGS))
            try:
                answer = await self._ask(link, to, purpose, request, deadline)
            except Unanswered as error:
                raise Unsent(str(error)) from error
            link.features = finalized(answer.tags)
        return link.features

    def cut(self, purpose: Purpose) -> None:
        """Cut all connections of a purpose; what waits in them is unanswered, what was not written is unsent."""
        if isinstance(purpose, Line):
            purpose.ended = True
        for key in [key for key in self._opening if key[1] == purpose]:
            self._opening.pop(key).cancel()
        for key in [key for key in self._links if key[1] == purpose]:
            self._cut(self._links.pop(key))

    async def close(self, deadline: float) -> None:
        """Cut everything and see it gone."""
        self._closed = True
        for purpose in {purpose for _, purpose in (*self._links, *self._opening)}:
            self.cut(purpose)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while self._closing:
                    await asyncio.wait(set(self._closing))

    async def _link(self, to: Endpoint, purpose: Purpose, deadline: float) -> _Link:
        if isinstance(purpose, Line) and purpose.ended:
            raise Unsent("what it was for is over")
        key = (to, purpose)
        if (link := self._links.get(key)) is not None:
            if link.conn.connected():
                return link
            del self._links[key]
        if self._closed:
            raise Unsent("this client is closed")
        if (opening := self._opening.get(key)) is None:
            opening = self._opening[key] = asyncio.create_task(self._open(to, purpose))
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.wait((opening,))
        except TimeoutError as error:
            raise Unsent(f"no connection to {_said(to)} in time") from error
        if opening.cancelled():
            raise Unsent(f"the connection to {_said(to)} was cut while it was made")
        made = opening.result()
        if isinstance(made, BrokerError):
            raise made
        return made

    async def _open(self, to: Endpoint, purpose: Purpose) -> _Link | BrokerError:
        """A connection, or why there is none: a value, since it may be that nobody waits for it any more."""
        key = (to, purpose)
        try:
            async with asyncio.timeout(self._timeout):
                conn = await create_conn(*to, **self._options)
        except TimeoutError:
            return Unsent(f"no connection to {_said(to)} within {self._timeout:g} s")
        except _STRANGERS as error:
            return Unauthenticated(f"{_said(to)}: {_why(error)}")
        except (OSError, KafkaError) as error:
            if any(isinstance(cause, ssl.SSLError) and not isinstance(cause, _LOST) for cause in _causes(error)):
                return Unauthenticated(f"{_said(to)}: {_why(error)}")
            return Unsent(f"no connection to {_said(to)}: {_why(error)}")
        finally:
            if self._opening.get(key) is asyncio.current_task():
                del self._opening[key]
        link = self._links[key] = _Link(conn)
        return link

    async def _ask(self, link: _Link, to: Endpoint, purpose: Purpose, request: Spoken, deadline: float) -> Any:
        if (asked := asyncio.get_running_loop().time()) >= deadline:
            raise Unsent(f"the time for it was over before {_said(to)} could be asked")
        try:
            answer = link.conn.send(request)  # written here and now; what is awaited is the answer
        except IncompatibleBrokerVersion as error:
            raise Refused(UNSUPPORTED_VERSION, f"{_said(to)}: {error}") from error
        except KafkaError as error:
            raise Unsent(f"the connection to {_said(to)} was lost before the request") from error
        link.waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                found = await answer
        except TimeoutError as error:
            self._drop(link, to, purpose)
            raise Unanswered(f"{_said(to)} did not answer in time") from error
        except KafkaError as error:
            self._drop(link, to, purpose)
            raise Unanswered(f"the connection to {_said(to)} was lost: {_why(error)}") from error
        except asyncio.CancelledError:
            if link.waiting == 1:  # a broker answers in order: whoever asked next would wait for our answer first
                self._drop(link, to, purpose)
            raise
        else:
            self._answered(APIS.get(request.api, "other"), asyncio.get_running_loop().time() - asked)
            return found
        finally:
            link.waiting -= 1

    def _drop(self, link: _Link, to: Endpoint, purpose: Purpose) -> None:
        if self._links.get((to, purpose)) is link:
            del self._links[to, purpose]
        self._cut(link)

    def _cut(self, link: _Link) -> None:
        if (writer := link.conn._writer) is not None:  # noqa: SLF001
            # A transport that is closed sends what it still holds, and so does the system: neither may.
            if (sock := writer.get_extra_info("socket")) is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            writer.transport.abort()
        closing = link.conn.close()
        if closing is not None and not closing.done():
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


def _said(to: Endpoint) -> str:
    return f"{to[0]}:{to[1]}"


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and len(found) < 10:  # noqa: PLR2004 - a chain has an end; a circle has none
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
