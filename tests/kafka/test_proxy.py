"""The proxy: what becomes of a message at a real broker under each fault, by requests written by hand.

A topic that exists shows that a request arrived; that one exists is asked of the controller, behind the proxy's back.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.kafka.brokers import HOST, Kafka, OwnKafka, ask, free_port
from tests.kafka.proxy import Api, Proxy

CREATED, EXISTS = 0, 36


class Client:
    """One connection that asks by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
        self._reader, self._writer, self._name = reader, writer, name.encode()
        self._last = 0

    def send(self, api: Api, version: int, body: bytes = b"") -> int:
        """A request is on its way; its correlation id."""
        self._last += 1
        head = struct.pack(">hhih", api, version, self._last, len(self._name)) + self._name
        self._writer.write(struct.pack(">i", len(head) + len(body)) + head + body)
        return self._last

    async def receive(self) -> tuple[int, bytes]:
        """The next answer, with the correlation id it is for."""
        async with asyncio.timeout(10):
            (size,) = struct.unpack(">i", await self._reader.readexactly(4))
            frame = await self._reader.readexactly(size)
        return struct.unpack_from(">i", frame)[0], frame[4:]

    async def create(self, topic: str) -> int:
        """Create a topic and wait for the error code."""
        self.send(Api.CREATE_TOPICS, 2, creation(topic))
        _, body = await self.receive()
        return code(body)

    async def closed(self) -> None:
        """Wait for the other end of the connection to end it."""
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await self.receive()

    async def close(self) -> None:
        """Go away."""
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


def creation(topic: str, *, only_ask: bool = False) -> bytes:
    """The body of CreateTopics v2: one partition, one replica, ten seconds."""
    name = topic.encode()
    return struct.pack(f">ih{len(name)}sihiii?", 1, len(name), name, 1, 1, 0, 0, 10_000, only_ask)


def code(answer: bytes) -> int:
    """The error code in the answer to a creation."""
    (size,) = struct.unpack_from(">h", answer, 8)
    return int(struct.unpack_from(">h", answer, 10 + size)[0])


def exists(kafka: Kafka, topic: str) -> bool:
    """Whether there is such a topic."""
    with socket.create_connection((HOST, port(kafka)), 10) as connection:
        return code(ask(connection, Api.CREATE_TOPICS, 2, creation(topic, only_ask=True))) == EXISTS


def port(kafka: Kafka) -> int:
    """Of the broker."""
    return int(kafka.bootstrap.rpartition(":")[2])


@asynccontextmanager
async def connected(proxy: Proxy, name: str = "by-hand") -> AsyncIterator[Client]:
    """A client that has connected to the proxy."""
    client = Client(*await asyncio.open_connection(HOST, proxy.port), name)
    try:
        yield client
    finally:
        await client.close()


async def test_without_faults_it_only_counts(kafka: Kafka, prefix: str) -> None:
    """Requests and answers pass as they are, in order."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        sent = [client.send(Api.API_VERSIONS, 0) for _ in range(3)]
        got = [await client.receive() for _ in sent]
        assert [number for number, _ in got] == sent
        assert len({body for _, body in got}) == 1
        assert await client.create(prefix) == CREATED
        assert proxy.counts == {
            ("request", Api.API_VERSIONS): 3,
            ("answer", Api.API_VERSIONS): 3,
            ("request", Api.CREATE_TOPICS): 1,
            ("answer", Api.CREATE_TOPICS): 1,
        }


async def test_a_held_request_reaches_the_broker_after_its_client_has_gone(kafka: Kafka, prefix: str) -> None:
    """Late by as much as the test likes: meanwhile others are served, and the answer is the test's."""
    async with Proxy(port(kafka)) as proxy:
        held = proxy.hold(Api.CREATE_TOPICS)
        async with connected(proxy, "early") as early:
            early.send(Api.CREATE_TOPICS, 2, creation(f"{prefix}-early"))
            assert (await held.happened()).client_id == "early"
        async with connected(proxy) as other:
            assert await other.create(f"{prefix}-other") == CREATED
            assert not exists(kafka, f"{prefix}-early")
            assert code(await held.release()) == CREATED
        assert exists(kafka, f"{prefix}-early")


async def test_a_client_that_waits_gets_the_answer_to_a_held_request(kafka: Kafka, prefix: str) -> None:
    """What it sent after that has waited behind it."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        held = proxy.hold(Api.CREATE_TOPICS)
        sent = [client.send(Api.CREATE_TOPICS, 2, creation(prefix)), client.send(Api.API_VERSIONS, 0)]
        await held.happened()
        assert not exists(kafka, prefix)
        answer = await held.release()
        got = [await client.receive() for _ in sent]
        assert [number for number, _ in got] == sent
        assert got[0][1] == answer


async def test_a_held_answer_waits_while_the_deed_is_done(kafka: Kafka, prefix: str) -> None:
    """The broker has acted and the client does not know."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        held = proxy.hold(Api.CREATE_TOPICS, side="answer")
        client.send(Api.CREATE_TOPICS, 2, creation(prefix))
        await held.happened()
        assert exists(kafka, prefix)
        assert code(await held.release()) == CREATED
        assert code((await client.receive())[1]) == CREATED


async def test_a_dropped_request_never_arrives(kafka: Kafka, prefix: str) -> None:
    """Only the first is swallowed; on the same connection the next one passes."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        proxy.drop(Api.CREATE_TOPICS)
        client.send(Api.CREATE_TOPICS, 2, creation(f"{prefix}-lost"))
        assert await client.create(f"{prefix}-next") == CREATED
        assert not exists(kafka, f"{prefix}-lost")


async def test_a_dropped_answer_hides_what_was_done(kafka: Kafka, prefix: str) -> None:
    """The next answer on the connection is for the next request."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        proxy.drop(Api.CREATE_TOPICS, side="answer")
        client.send(Api.CREATE_TOPICS, 2, creation(prefix))
        sent = client.send(Api.API_VERSIONS, 0)
        assert (await client.receive())[0] == sent
        assert exists(kafka, prefix)


async def test_a_cut_request_never_arrives_and_the_client_notices(kafka: Kafka, prefix: str) -> None:
    """Only that connection ends, and the client may come again."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client, connected(proxy) as bystander:
        cut = proxy.cut(Api.CREATE_TOPICS, when=lambda request: request.connection == 0)
        assert await bystander.create(f"{prefix}-bystander") == CREATED
        client.send(Api.CREATE_TOPICS, 2, creation(prefix))
        await client.closed()
        assert [message.connection for message in cut.struck] == [0]
        assert not exists(kafka, prefix)
        async with connected(proxy) as again:
            assert await again.create(prefix) == CREATED


async def test_a_cut_answer_leaves_the_outcome_unknown(kafka: Kafka, prefix: str) -> None:
    """The connection broke, and it was done."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        proxy.cut(Api.CREATE_TOPICS, side="answer")
        client.send(Api.CREATE_TOPICS, 2, creation(prefix))
        await client.closed()
        assert exists(kafka, prefix)


async def test_a_fault_counts_what_comes_to_it(kafka: Kafka, prefix: str) -> None:
    """With `after=1` and `times=2` it strikes the second and the third."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        lost = proxy.drop(Api.CREATE_TOPICS, after=1, times=2)
        seen = proxy.watch(Api.CREATE_TOPICS)
        sent = [client.send(Api.CREATE_TOPICS, 2, creation(f"{prefix}-{n}")) for n in range(4)]
        assert [(await client.receive())[0] for _ in range(2)] == [sent[0], sent[3]]
        assert [message.correlation for message in lost.struck] == sent[1:3]
        assert [message.correlation for message in seen.struck] == sent


async def test_a_black_hole_swallows_both_ways_until_it_is_lifted(kafka: Kafka, prefix: str) -> None:
    """New connections too; after that the world is as before."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        underway = proxy.hold(Api.CREATE_TOPICS)
        client.send(Api.CREATE_TOPICS, 2, creation(f"{prefix}-underway"))
        await underway.happened()
        hole = proxy.black_hole()
        assert code(await underway.release()) == CREATED
        assert (await hole.happened()).side == "answer"
        async with connected(proxy) as late:
            late.send(Api.CREATE_TOPICS, 2, creation(f"{prefix}-late"))
            assert (await hole.happened(2)).side == "request"
        hole.lift()
        assert await client.create(f"{prefix}-late") == CREATED


async def test_a_delay_is_added_to_each_message_and_not_summed_up(kafka: Kafka) -> None:
    """Ten requests sent at once come back after one delay, not before."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        clock = asyncio.get_running_loop().time
        proxy.delay(0.1)
        before = clock()
        sent = [client.send(Api.API_VERSIONS, 0) for _ in range(10)]
        assert [(await client.receive())[0] for _ in sent] == sent
        assert clock() - before >= 0.1


async def test_a_slow_line_passes_so_many_bytes_a_second(kafka: Kafka) -> None:
    """The answer to ApiVersions has some hundred bytes."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        client.send(Api.API_VERSIONS, 0)
        _, body = await client.receive()
        clock = asyncio.get_running_loop().time
        proxy.rate, before = 10_000, clock()
        client.send(Api.API_VERSIONS, 0)
        assert (await client.receive())[1] == body
        assert len(body) / 10_000 <= clock() - before


async def test_severing_ends_every_connection_that_a_client_has(kafka: Kafka, prefix: str) -> None:
    """But what is held of a client that is gone stays held."""
    async with Proxy(port(kafka)) as proxy:
        held = proxy.hold(Api.CREATE_TOPICS)
        async with connected(proxy) as gone:
            gone.send(Api.CREATE_TOPICS, 2, creation(f"{prefix}-gone"))
            await held.happened()
        async with connected(proxy) as first, connected(proxy) as second:
            for client in (first, second):
                client.send(Api.API_VERSIONS, 0)
                await client.receive()
            assert proxy.sever() == 2
            await first.closed()
            await second.closed()
        assert code(await held.release()) == CREATED


async def test_what_is_held_of_a_connection_that_ends_has_no_answer(kafka: Kafka, prefix: str) -> None:
    """It never reaches the broker, and the test is told."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        held = proxy.hold(Api.CREATE_TOPICS)
        client.send(Api.CREATE_TOPICS, 2, creation(prefix))
        await held.happened()
        proxy.sever()
        await client.closed()
        with pytest.raises(ConnectionError, match="without an answer"):
            await held.release()
        assert not exists(kafka, prefix)


async def test_a_request_can_be_replayed(kafka: Kafka, prefix: str) -> None:
    """As a copy that the network kept: the broker does what it does with a second one."""
    async with Proxy(port(kafka)) as proxy, connected(proxy) as client:
        seen = proxy.watch(Api.CREATE_TOPICS)
        assert await client.create(prefix) == CREATED
        assert code(await proxy.replay(seen.struck[0])) == EXISTS


async def test_without_a_broker_connections_are_reset() -> None:
    """As they would be without a proxy, but for the moment in which they seem to be there."""
    async with Proxy(free_port()) as proxy, connected(proxy) as client:
        await client.closed()


@pytest.mark.slow
async def test_clients_stay_behind_a_proxy_whose_port_is_advertised(own_kafka: OwnKafka, prefix: str) -> None:
    """What a broker says to itself does not come by; a producer's EndTxn does, and can be held."""
    advertised = free_port()
    broker = own_kafka(advertised_port=advertised)
    async with Proxy(broker.port, port=advertised) as proxy:
        admin = AIOKafkaAdminClient(bootstrap_servers=proxy.bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(prefix, 1, 1)])
        await admin.close()
        producer = AIOKafkaProducer(bootstrap_servers=proxy.bootstrap, transactional_id=prefix, client_id="writer")
        await producer.start()
        held = proxy.hold(Api.END_TXN, when=lambda request: request.client_id == "writer")
        await producer.begin_transaction()
        await producer.send_and_wait(prefix, b"value")
        committing = asyncio.create_task(producer.commit_transaction())
        assert (await held.happened()).client_id == "writer"
        assert not committing.done()
        assert await held.release() == bytes(6)  # not throttled, no error
        await committing
        await producer.stop()
        assert proxy.counts["request", Api.PRODUCE] == 1
        assert {api for _, api in proxy.counts} <= set(Api), "requests between brokers"
