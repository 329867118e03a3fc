"""A proxy for one broker that reads the protocol and does harm to chosen messages.

    port = free_port()
    broker = own_kafka(advertised_port=port)
    async with Proxy(broker.port, port=port) as proxy:
        late = proxy.hold(Api.END_TXN)          the next EndTxn waits here, and all behind it on its connection
        ...                                     the client gives up, goes away, and begins its next transaction
        answer = await late.release()           now the broker gets it, from the connection of the client that is gone

A fault is set for one kind of message: requests of an api, or with `side="answer"` the answers to them; `after` lets
so many pass first, `when` looks at each.  It strikes `times` and is over, or goes on until `lift` if that is None.
The first fault that fits strikes; faults count only what came to them.

    verb      a request                                   an answer
    hold      the broker gets it when it is released      the client gets it when it is released
    drop      nobody ever gets it: a black hole           the same
    cut       both connections end before the broker      both connections end before the client gets it; the
              gets it                                     broker has done what was asked
    delay     so much later; what is behind keeps its     the same
              distance
    watch     nothing happens to it                       the same

Listeners must be plaintext.  Connecting itself always succeeds while the broker is up: a proxy cannot ignore a SYN.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Self

HOST = "127.0.0.1"
LIMIT = 10.0
"""Seconds that a test waits for something to happen at most."""

Side = Literal["request", "answer"]
Verb = Literal["hold", "drop", "cut", "delay", "watch"]

_BEHIND = 1000  # messages of one connection that may queue here; then its sender is not read from
_LARGEST = 128 << 20


class Api(IntEnum):
    """What a request asks for: the key in its first two bytes."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


@dataclass(frozen=True)
class Message:
    """A request, or the answer to one with what that one was; `frame` is without the size in front."""

    side: Side
    api: int
    version: int
    correlation: int
    client_id: str
    connection: int
    """Number of the client's connection, in the order of their coming, from 0."""
    frame: bytes = field(repr=False)


When = Callable[[Message], bool]


@dataclass(frozen=True)
class Aim:
    """Which messages a fault is for; None is for any."""

    api: Api | None
    side: Side | None
    after: int = 0
    times: int | None = None
    when: When | None = None

    def fits(self, message: Message) -> bool:
        """Whether it is one of them, counting apart."""
        return (
            self.side in {None, message.side}
            and self.api in {None, message.api}
            and (self.when is None or self.when(message))
        )


class Fault:
    """What happens to some messages, and what has: `struck` are those it happened to."""

    def __init__(self, verb: Verb, aim: Aim, seconds: float = 0.0) -> None:
        self.verb = verb
        self.seconds = seconds
        self.struck: list[Message] = []
        self.released = asyncio.Event()
        self.answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        """For what is held: what `release` returns, or None if the connection ended."""
        self._aim, self._after, self._times = aim, aim.after, aim.times
        self._news = asyncio.Condition()

    def lift(self) -> None:
        """It strikes no more.  What it holds stays held; `release` that."""
        self._times = 0

    async def happened(self, times: int = 1, limit: float = LIMIT) -> Message:
        """Wait until it has struck so often; the message it struck then.  TimeoutError if it does not."""
        async with asyncio.timeout(limit), self._news:
            await self._news.wait_for(lambda: len(self.struck) >= times)
        return self.struck[times - 1]

    async def release(self, limit: float = LIMIT) -> bytes:
        """Let what is held go on its way, once it has come.

        For a request this returns the broker's answer, without size and correlation id, whether the client is still
        there or not; for an answer that answer.  ConnectionError if the connection ended before that.
        """
        await self.happened(limit=limit)
        self.released.set()
        answer = await asyncio.wait_for(asyncio.shield(self.answer), limit)
        if answer is None:
            raise ConnectionError("the connection ended without an answer to what was held")
        return answer

    async def strike(self, message: Message) -> bool:
        """For the proxy: whether this message is struck; it is then counted."""
        if self._times == 0 or not self._aim.fits(message):
            return False
        if self._after:
            self._after -= 1
            return False
        if self._times is not None:
            self._times -= 1
        async with self._news:
            self.struck.append(message)
            self._news.notify_all()
        return True

    def settle(self, answer: bytes | None) -> None:
        """For the proxy: what came of the message that was held."""
        if not self.answer.done():
            self.answer.set_result(answer)


class Proxy:
    """Listens on a port that the broker advertises, and passes on what comes, but for the faults that are set."""

    def __init__(self, upstream: int, *, port: int = 0) -> None:
        self.upstream = upstream
        """Port of the broker; may change, for connections to come."""
        self.port = port
        self.counts: Counter[tuple[Side, int]] = Counter()
        """Messages that have come, by side and api."""
        self.rate: int | None = None
        """Bytes a second, for each connection and direction; None for as fast as it goes."""
        self._faults: list[Fault] = []
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._connections = 0
        self._failures: list[Exception] = []
        self._server: asyncio.Server | None = None

    @property
    def bootstrap(self) -> str:
        """host:port for clients."""
        return f"{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server
        self._server.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await self._server.wait_closed()
        if self._failures:
            raise ExceptionGroup("the proxy itself failed", self._failures)

    def hold(
        self, api: Api | None = None, *, side: Side = "request", after: int = 0, when: When | None = None
    ) -> Fault:
        """Keep one message, and what comes behind it on its connection, until it is released.

        The broker's side of the connection stays open until then, even if the client goes away.
        """
        return self._set(Fault("hold", Aim(api, side, after=after, times=1, when=when)))

    def drop(
        self,
        api: Api | None = None,
        *,
        side: Side = "request",
        after: int = 0,
        times: int | None = 1,
        when: When | None = None,
    ) -> Fault:
        """Swallow messages; the connection stays."""
        return self._set(Fault("drop", Aim(api, side, after=after, times=times, when=when)))

    def cut(
        self,
        api: Api | None = None,
        *,
        side: Side = "request",
        after: int = 0,
        times: int | None = 1,
        when: When | None = None,
    ) -> Fault:
        """Reset the connection instead of passing a message on."""
        return self._set(Fault("cut", Aim(api, side, after=after, times=times, when=when)))

    def delay(
        self,
        seconds: float,
        api: Api | None = None,
        *,
        side: Side = "request",
        times: int | None = None,
        when: When | None = None,
    ) -> Fault:
        """Pass messages on later."""
        return self._set(Fault("delay", Aim(api, side, times=times, when=when), seconds))

    def watch(self, api: Api | None = None, *, side: Side = "request", when: When | None = None) -> Fault:
        """Only collect messages, whatever else happens to them."""
        return self._set(Fault("watch", Aim(api, side, when=when)))

    def black_hole(self, when: When | None = None) -> Fault:
        """Swallow everything both ways until it is lifted; `drop(times=None, side=...)` does it one way."""
        return self._set(Fault("drop", Aim(None, None, when=when)))

    def sever(self) -> int:
        """Reset all connections that clients have now, with all that is held of them; how many."""
        links = [link for link in self._links.values() if link.client_is_there]
        for link in links:
            link.over.set()
        return len(links)

    async def replay(self, message: Message) -> bytes:
        """Give the broker a request once more, on a connection of its own; its answer as from `release`."""
        reader, writer = await asyncio.open_connection(HOST, self.upstream)
        try:
            async with asyncio.timeout(LIMIT):
                writer.write(_sized(message.frame))
                return (await _frame(reader))[4:]
        finally:
            writer.transport.abort()

    def _set(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    async def struck(self, message: Message) -> Fault | None:
        """For a connection: the fault that a message meets."""
        self.counts[message.side, message.api] += 1
        for watching in self._faults:
            if watching.verb == "watch":
                await watching.strike(message)
        for fault in self._faults:
            if fault.verb != "watch" and await fault.strike(message):
                return fault
        return None

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, self._connections, reader, writer)
        self._connections += 1
        task = asyncio.create_task(link.run())
        self._links[task] = link
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._links[task]
        if not task.cancelled() and isinstance(failure := task.exception(), Exception):
            self._failures.append(failure)


_Item = tuple[Message, Fault | None, float]


class _Link:
    """A client's connection and the one to the broker that was made for it."""

    def __init__(self, proxy: Proxy, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.client_is_there = True
        self.over = asyncio.Event()
        """Set to reset both connections."""
        self._proxy = proxy
        self._number = number
        self._reader, self._writer = reader, writer
        self._asked: dict[int, Message] = {}
        self._held: list[Fault] = []
        self._late: dict[int, Fault] = {}  # requests that a fault makes late, until they are answered
        self._late_are_answered = asyncio.Event()

    async def run(self) -> None:
        """Until either side has closed its end, and all that it sent before was passed on."""
        try:
            reader, writer = await asyncio.open_connection(HOST, self._proxy.upstream)
        except OSError:  # no broker: the client sees what it would see without a proxy, a little later
            _reset(self._writer)
            return
        ways = [
            asyncio.create_task(self._carry("request", self._reader, writer)),
            asyncio.create_task(self._carry("answer", reader, self._writer)),
            asyncio.create_task(self._wait_for_the_end()),
        ]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
            self._writer.close()
            writer.close()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for fault in self._held:
                fault.settle(None)  # unless more has come of it
            if self.over.is_set() or not (self._writer.is_closing() and writer.is_closing()):
                _reset(self._writer)
                writer.transport.abort()

    async def _wait_for_the_end(self) -> None:
        await self.over.wait()

    async def _carry(self, side: Side, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        lane: asyncio.Queue[_Item | None] = asyncio.Queue(_BEHIND)
        async with asyncio.TaskGroup() as both:
            both.create_task(self._read(side, source, lane))
            both.create_task(self._send(sink, lane))
        if side == "request" and self._late:
            self._late_are_answered.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._late_are_answered.wait(), LIMIT)

    async def _read(self, side: Side, source: asyncio.StreamReader, lane: asyncio.Queue[_Item | None]) -> None:
        while True:
            try:
                frame = await _frame(source)
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            message = self._request(frame) if side == "request" else self._answer(frame)
            fault = await self._proxy.struck(message)
            if fault and fault.verb == "hold":
                self._held.append(fault)
            if fault and fault.verb in {"hold", "delay"} and side == "request":
                self._late[message.correlation] = fault
            await lane.put((message, fault, asyncio.get_running_loop().time()))
        if side == "request":
            self.client_is_there = False
        await lane.put(None)

    def _request(self, frame: bytes) -> Message:
        api, version, correlation, size = struct.unpack_from(">hhih", frame)
        client_id = frame[10 : 10 + max(size, 0)].decode(errors="replace")
        message = Message("request", api, version, correlation, client_id, self._number, frame)
        self._asked[correlation] = message
        return message

    def _answer(self, frame: bytes) -> Message:
        (correlation,) = struct.unpack_from(">i", frame)
        asked = self._asked.pop(correlation)
        if fault := self._late.pop(correlation, None):
            fault.settle(frame[4:])
        if not self._late:
            self._late_are_answered.set()
        return Message("answer", asked.api, asked.version, correlation, asked.client_id, self._number, frame)

    async def _send(self, sink: asyncio.StreamWriter, lane: asyncio.Queue[_Item | None]) -> None:
        loop = asyncio.get_running_loop()
        while (item := await lane.get()) is not None:
            message, fault, came = item
            match fault.verb if fault else None:
                case "drop":
                    continue
                case "cut":
                    self.over.set()
                    return
                case "delay":
                    assert fault
                    await asyncio.sleep(came + fault.seconds - loop.time())
                case "hold":
                    assert fault
                    await fault.released.wait()
            if self._proxy.rate:
                await asyncio.sleep(len(message.frame) / self._proxy.rate)
            if not sink.is_closing():
                sink.write(_sized(message.frame))
                with suppress(ConnectionError):
                    await sink.drain()
            if fault and message.side == "answer":
                fault.settle(message.frame[4:])


def _sized(frame: bytes) -> bytes:
    return struct.pack(">i", len(frame)) + frame


async def _frame(source: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await source.readexactly(4))
    if not 4 <= size <= _LARGEST:
        raise ConnectionError(f"a frame of {size} bytes: this is not Kafka's protocol in the clear")
    return await source.readexactly(size)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST, as a machine does that knows nothing of it any more."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
