"""Kafka's records and connections without a broker: bytes in, lists out; what is refused; what is never logged."""

import asyncio
import inspect
import logging
import re
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiokafka.conn
import pytest
from aiokafka import codec
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.protocol import admin, coordination, fetch, group, metadata, offset, produce, transaction
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import example, given
from hypothesis import strategies as st

from streamproc.adapters.kafka import Access, KafkaBroker, records, requests
from streamproc.adapters.kafka.records import CODECS, inflate, packed, prove_bounds, unpacked
from streamproc.core.batch import Headers
from streamproc.ports.broker import (
    NOBODY,
    Appending,
    BrokerError,
    Code,
    Fetched,
    Outgoing,
    TopicPartition,
    Unauthenticated,
    Unsent,
    Writer,
)

LIMIT = 1 << 20
COMMITTED, ABORTED = b"\x00\x00\x00\x01", b"\x00\x00\x00\x00"


def placed(batch: bytearray, base: int, *, control: bool = False, appended: bool = False) -> bytes:
    """A batch as the broker puts it into its log."""
    struct.pack_into(">q", batch, 0, base)
    batch[22] |= (0x20 if control else 0) | (0x08 if appended else 0)
    struct.pack_into(">I", batch, 17, calc_crc32c(bytes(batch[21:])))
    return bytes(batch)


def batch(base: int, *values: bytes, writer: Writer = NOBODY, compression: str = "none", at: int = 0) -> bytes:
    """A batch of values at an offset."""
    rows = [Outgoing(None, value, at) for value in values]
    return placed(packed(writer, Appending("t", 0, 0, rows), CODECS[compression]), base)  # type: ignore[index]


def marker(base: int, writer: Writer, outcome: bytes) -> bytes:
    """The end of a transaction, as the broker writes it."""
    row = Outgoing(outcome, b"\x00\x00\x00\x00\x00\x00", 0)
    return placed(packed(writer, Appending("t", 0, 0, [row]), 0), base, control=True)


def compacted(base: int, last: int, *rows: tuple[int, bytes]) -> bytes:
    """What compaction has left of a batch: some offsets, and where it ended."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, LIMIT)
    for number, value in rows:
        builder.append(number - base, 0, None, value, [])
    raw = builder.build()
    struct.pack_into(">i", raw, 23, last - base)
    return placed(raw, base)


def read(raw: bytes, start: int = 0, aborted: Iterable[tuple[int, int]] = (), limit: int = LIMIT) -> Fetched:
    """What comes of bytes."""
    found = Fetched("t", 0, next_offset=start)
    unpacked(found, raw, aborted, limit)
    return found


TEXTS = st.text(max_size=3)
BYTES = st.binary(max_size=5)
ROWS = st.lists(
    st.builds(
        Outgoing,
        st.none() | BYTES,
        st.none() | BYTES,
        st.integers(0, 2**53),
        st.lists(st.tuples(TEXTS, BYTES), max_size=2).map(tuple),
    ),
    min_size=1,
    max_size=5,
)


@given(batches=st.lists(ROWS, max_size=4), start=st.integers(0, 12), gzip=st.booleans())
def test_what_is_packed_is_unpacked(batches: list[list[Outgoing]], start: int, gzip: bool) -> None:  # noqa: FBT001
    """From any offset on, whatever the batches; the headers are None if there are none."""
    raw = b""
    rows: list[Outgoing] = []
    for each in batches:
        raw += placed(packed(NOBODY, Appending("t", 0, 0, each), int(gzip)), len(rows))
        rows += each
    found, kept = read(raw, start), rows[start:]
    assert list(found.offsets) == list(range(start, start + len(kept)))
    assert list(found.keys) == [row.key for row in kept]
    assert list(found.values) == [row.value for row in kept]
    assert list(found.stamps) == [row.at for row in kept]
    headers: list[Headers] | None = [row.headers for row in kept]
    assert found.headers == (headers if any(row.headers for row in kept) else None)
    assert found.next_offset == max(start, len(rows))
    assert (found.code, found.why, found.appended) == (Code.NONE, "", False)


@dataclass
class Log:
    """A partition's log, and what of it is committed; of its writers the third has no transactions."""

    batches: list[bytes] = field(default_factory=list)
    end: int = 0
    visible: list[tuple[int, bytes]] = field(default_factory=list)
    aborted: list[tuple[int, int, int]] = field(default_factory=list)
    opened: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)

    def act(self, writer: int, act: str) -> None:
        """One thing that a writer does."""
        who = Writer("w" if writer < 2 else None, writer, 0)
        if act == "write":
            rows = [(self.end + n, b"%d" % (self.end + n)) for n in range(1 + writer % 2)]
            self.batches.append(batch(self.end, *(value for _, value in rows), writer=who))
            (self.opened.setdefault(writer, []) if writer < 2 else self.visible).extend(rows)
            self.end += len(rows)
        elif (rows := self.opened.pop(writer, [])) or (act == "abort" and writer < 2):
            if act == "commit":
                self.visible += rows
            elif rows:
                self.aborted.append((writer, rows[0][0], self.end))
            self.batches.append(marker(self.end, who, COMMITTED if act == "commit" else ABORTED))
            self.end += 1

    def fetched(self, start: int) -> bytes:
        """What a broker gives from an offset on: it begins with the batch that the offset is in."""
        return b"".join(raw for raw in self.batches if DefaultRecordBatch(raw).next_offset > start)

    def gone(self, start: int) -> list[tuple[int, int]]:
        """The aborted transactions that a broker names with it: those that end at that offset or behind."""
        return [(writer, first) for writer, first, marker in self.aborted if marker >= start]


ACTS = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(("write", "write", "commit", "abort"))), max_size=25)


@given(acts=ACTS, start=st.integers(0, 10))
@example(acts=[(0, "write"), (0, "abort"), (0, "write"), (0, "commit")], start=0)
@example(acts=[(1, "write"), (1, "abort"), (1, "write"), (1, "commit")], start=3)
def test_only_what_is_committed_comes_out(acts: list[tuple[int, str]], start: int) -> None:
    """Markers and aborted records are passed over, and the answer is that of aiokafka's consumer."""
    log = Log()
    for act in acts:
        log.act(*act)
    for writer in list(log.opened):
        log.act(writer, "abort")
    raw = log.fetched(start)
    found = read(raw, start, log.gone(start))
    assert list(zip(found.offsets, found.values, strict=True)) == [
        row for row in sorted(log.visible) if row[0] >= start
    ]
    assert found.next_offset == max(start, log.end)

    theirs = PartitionRecords(None, MemoryRecords(raw), log.gone(start), start, None, None, True, READ_COMMITTED)  # noqa: FBT003
    theirs._consumer_record = lambda _, record: (record.offset, record.value)  # noqa: SLF001
    assert list(zip(found.offsets, found.values, strict=True)) == list(theirs)


def test_offsets_have_gaps_after_compaction() -> None:
    """What is left keeps its offset, and reading goes on behind where the batch once ended."""
    raw = compacted(0, 9, (1, b"b"), (7, b"h")) + compacted(10, 12) + batch(13, b"n", b"o")
    found = read(raw)
    assert (found.offsets, found.values, found.next_offset) == ([1, 7, 13, 14], [b"b", b"h", b"n", b"o"], 15)
    found = read(raw, 5)
    assert (found.offsets, found.values) == ([7, 13, 14], [b"h", b"n", b"o"])
    found = read(raw[: len(compacted(0, 9, (1, b"b"), (7, b"h")))], 8)
    assert (found.offsets, found.values, found.next_offset) == ((), (), 10)


def test_a_batch_that_the_limit_has_cut_off_is_left_for_the_next_read() -> None:
    """Whatever of it is there."""
    whole, cut = batch(0, b"a"), batch(1, b"b")
    for length in range(len(cut)):
        found = read(whole + cut[:length])
        assert (found.values, found.next_offset, found.code) == ([b"a"], 1, Code.NONE)


def test_times_of_one_kind_come_in_one_answer() -> None:
    """Where a topic changed to the broker's timestamps the answer ends, and the next begins there."""
    raw = batch(0, b"a", at=5) + placed(
        packed(NOBODY, Appending("t", 0, 0, [Outgoing(None, b"b", 7)]), 0), 1, appended=True
    )
    first = read(raw)
    assert (first.values, first.stamps, first.appended, first.next_offset) == ([b"a"], [5], False, 1)
    second = read(raw, first.next_offset)
    assert (second.values, second.stamps, second.appended, second.next_offset) == ([b"b"], [7], True, 2)


def test_a_corrupt_batch_is_met_at_its_place() -> None:
    """What lies before it is read, and then it stands first: its offset is known, and nothing comes out of it."""
    good, bad = batch(0, b"a"), bytearray(batch(1, b"secret"))
    bad[-3] ^= 1
    raw = good + bytes(bad) + batch(2, b"c")
    first = read(raw)
    assert (first.code, first.values, first.next_offset) == (Code.NONE, [b"a"], 1)
    second = read(raw[len(good) :], 1)
    assert (second.code, second.values, second.next_offset) == (Code.CORRUPT_MESSAGE, (), 1)
    assert second.why == "batch at offset 1 or behind: the checksum of the batch at 1 is wrong"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (struct.pack(">qi", 0, 10) + bytes(80), "10 bytes are no batch"),
        (struct.pack(">qi", 0, -1) + bytes(80), "-1 bytes are no batch"),
        (struct.pack(">qiib", 0, 80, 0, 1) + bytes(80), "message format 1, from before Kafka 0.11, is not read"),
    ],
)
def test_what_is_no_batch_is_corrupt(raw: bytes, why: str) -> None:
    """Sizes and formats are looked at first."""
    found = read(raw)
    assert (found.code, why in found.why) == (Code.CORRUPT_MESSAGE, True)


@given(rows=ROWS, at=st.integers(43, 120), byte=st.integers(0, 255), gzip=st.booleans())
def test_foreign_bytes_under_a_right_checksum_do_no_harm(rows: list[Outgoing], at: int, byte: int, gzip: bool) -> None:  # noqa: FBT001
    """Whoever may write to a topic may write nonsense: it is corrupt, or it is read as what it says."""
    raw = packed(NOBODY, Appending("t", 0, 0, rows), int(gzip))
    raw[at % len(raw)] = byte
    raw[16] = 2
    struct.pack_into(">i", raw, 8, len(raw) - 12)
    found = read(placed(raw, 0))
    assert found.code in {Code.NONE, Code.CORRUPT_MESSAGE}
    assert len(found.values) == len(found.keys) == len(found.stamps) == len(found.offsets)


COMPRESSIONS = ["gzip", "snappy", "lz4", "zstd"]


def needs(compression: str) -> None:
    """Leave out what needs a library that is not there."""
    if compression != "gzip":
        pytest.importorskip("cramjam")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_bomb_is_corrupt(compression: str) -> None:
    """What becomes larger than the limit is not decompressed; exactly as much as that is."""
    needs(compression)
    raw = batch(0, bytes(3_000_000), compression=compression)
    found = read(raw, limit=2_000_000)
    assert (found.code, "2000000" in found.why) == (Code.CORRUPT_MESSAGE, True)
    size = len(batch(0, bytes(3_000_000))) - 61
    assert read(raw, limit=size).values == [bytes(3_000_000)]
    assert read(raw, limit=size - 1).code == Code.CORRUPT_MESSAGE


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(cut=st.integers(1, 30))
def test_what_does_not_decompress_is_corrupt(compression: str, cut: int) -> None:
    """A right checksum says nothing of what is inside."""
    needs(compression)
    raw = bytearray(batch(0, b"the same " * 50, compression=compression)[:-cut])
    struct.pack_into(">i", raw, 8, len(raw) - 12)
    assert read(placed(raw, 0)).code == Code.CORRUPT_MESSAGE


def test_what_the_library_cannot_be_had_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cramjam a batch that needs it says so."""
    pytest.importorskip("cramjam")
    raw = batch(0, b"the same " * 50, compression="zstd")
    monkeypatch.setattr(codec, "cramjam", None)
    assert "compressed with zstd, which needs a library: pip install" in read(raw).why
    with pytest.raises(ValueError, match="pip install"):
        KafkaBroker(Access("localhost"), compression="zstd")


def test_snappy_is_read_in_blocks_and_whole() -> None:
    """Java's library writes blocks; others do not."""
    needs("snappy")
    plain = bytes(range(256)) * 300
    for encoded in (codec.snappy_encode(plain), codec.snappy_encode(plain, xerial_compatible=False)):
        assert inflate(memoryview(encoded), CODECS["snappy"], LIMIT) == plain


def test_bounds_are_proven_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that lets a bomb through keeps the adapter from being made."""
    prove_bounds()
    monkeypatch.setattr(records, "_gunzip", lambda raw, _: codec.gzip_decode(raw))
    with pytest.raises(RuntimeError, match="gzip"):
        KafkaBroker(Access("localhost"))


def test_a_sequence_turns_over() -> None:
    """Behind the largest comes 0 again; who has no producer id has no sequence either."""
    counted = DefaultRecordBatch(packed(Writer("w", 1, 0), Appending("t", 0, 2**31, [Outgoing(None, b"", 0)]), 0))
    assert (counted.base_sequence, counted.producer_id, counted.is_transactional) == (0, 1, True)
    free = DefaultRecordBatch(packed(NOBODY, Appending("t", 0, 9, [Outgoing(None, b"", 0)]), 0))
    assert (free.base_sequence, free.producer_id, free.is_transactional) == (-1, -1, False)


def test_features_are_read_out_of_the_tags() -> None:
    """Level by name; no tag, no features."""
    tag = b"\x03" + b"\x14transaction.version" + struct.pack(">hh", 2, 2) + b"\x00"
    tag += b"\x0egroup.version" + struct.pack(">hh", 1, 1) + b"\x00"
    assert requests.finalized({2: tag}) == {"transaction.version": 2, "group.version": 1}
    assert requests.finalized({}) == {}


# connections


Answering = Callable[[int], bytes | None]


@asynccontextmanager
async def serving(answer: Answering, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers each request by its key, or hangs up; and all that it was sent."""
    seen: list[bytes] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                frame = await reader.readexactly(size)
                seen.append(frame)
                key, _, correlation = struct.unpack_from(">hhi", frame)
                if (body := answer(key)) is None:
                    return
                writer.write(struct.pack(">ii", len(body) + 4, correlation) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


VERSIONS, METADATA, HANDSHAKE, AUTHENTICATE = 18, 3, 17, 36
SPOKEN = struct.pack(">hi", 0, 4) + b"".join(
    struct.pack(">hhh", key, 0, most) for key, most in ((METADATA, 5), (HANDSHAKE, 1), (VERSIONS, 3), (AUTHENTICATE, 0))
)


def guarding(mechanism: bytes, code: int) -> Answering:
    """A broker with SASL that knows one mechanism and answers every name with a code."""
    answers = {
        VERSIONS: SPOKEN,
        HANDSHAKE: struct.pack(">hih", 0, 1, len(mechanism)) + mechanism,
        AUTHENTICATE: struct.pack(">hh", code, 4) + b"nope" + struct.pack(">i", 0),
    }
    return answers.get


CANARY = "c4n4ry-p4ssw0rd"


def named(bootstrap: str, mechanism: str = "PLAIN") -> Access:
    """Access by name and password."""
    return Access(bootstrap, "SASL_PLAINTEXT", mechanism, "me", CANARY)


@pytest.mark.parametrize("code", [0, 58])
async def test_a_password_is_never_logged(code: int, caplog: pytest.LogCaptureFixture) -> None:
    """Not at DEBUG, whether it was right or wrong, though it did go over the wire; nor is it shown with the rest."""
    for name in ("", "aiokafka", "aiokafka.conn", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    async with serving(guarding(b"PLAIN", code)) as (bootstrap, seen):
        access = named(bootstrap)
        broker = KafkaBroker(access, request_timeout=1)
        with pytest.raises(BrokerError) as caught:
            await broker.metadata([])
        await broker.close()
    assert any(CANARY.encode() in frame for frame in seen)
    told = [
        caplog.text,
        repr(access),
        repr(broker),
        str(caught.value),
        *(str(record.args) for record in caplog.records),
    ]
    assert not [text for text in told if CANARY in text]
    assert not [
        record for record in caplog.records if record.name.startswith("aiokafka") and record.levelno < logging.INFO
    ]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"security_protocol": "TLS"}, "one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "MD5"}, "one of PLAIN, SCRAM-SHA-256, .*, OAUTHBEARER"),
        ({"security_protocol": "SASL_SSL"}, "PLAIN needs sasl_plain_username and sasl_plain_password"),
    ],
)
def test_access_that_cannot_be_is_no_access(given: dict[str, str], why: str) -> None:
    """Said when it is made, not when it is used."""
    with pytest.raises(ValueError, match=why):
        Access("localhost", **given)  # type: ignore[arg-type]


async def test_a_wrong_password_is_unauthenticated() -> None:
    """The broker's reason is given."""
    async with serving(guarding(b"PLAIN", 58)) as (bootstrap, _):
        broker = KafkaBroker(named(bootstrap))
        with pytest.raises(Unauthenticated, match="nope"):
            await broker.connect()
        await broker.close()


async def test_a_mechanism_that_the_broker_has_not_is_unauthenticated() -> None:
    """It says which it has."""
    async with serving(guarding(b"GSSAPI", 0)) as (bootstrap, _):
        broker = KafkaBroker(named(bootstrap))
        with pytest.raises(Unauthenticated, match="GSSAPI"):
            await broker.connect()
        await broker.close()


async def test_a_broker_without_tls_is_unauthenticated() -> None:
    """Whoever answers in the clear cannot show who it is."""
    async with serving(lambda *_: None) as (bootstrap, _):
        broker = KafkaBroker(Access(bootstrap, "SSL"), request_timeout=1)
        with pytest.raises((Unauthenticated, Unsent)):
            await broker.metadata([])
        await broker.close()


async def test_what_is_no_broker_is_unsent() -> None:
    """An answer that cannot be read ends the connection before anything was asked of it."""
    async with serving(lambda *_: b"HTTP/1.1 400 Bad Request") as (bootstrap, _):
        broker = KafkaBroker(Access(bootstrap), request_timeout=1)
        with pytest.raises(Unsent):
            await broker.metadata([])
        await broker.close()


async def test_what_has_no_time_left_is_not_sent() -> None:
    """A look-up may have used it up; then the request itself stays unsent."""
    nothing = struct.pack(">ii", 0, 0) + struct.pack(">hi", -1, -1) + struct.pack(">i", 0)
    async with serving({VERSIONS: SPOKEN, METADATA: nothing}.get) as (bootstrap, seen):
        broker = KafkaBroker(Access(bootstrap))
        await broker.metadata([])
        before = len(seen)
        (address,) = Access(bootstrap).endpoints()
        request = requests.Spoken(metadata.MetadataRequest_v5([], False))  # noqa: FBT003
        with pytest.raises(Unsent):
            await broker._connections.send(address, "ask", request, asyncio.get_running_loop().time())  # noqa: SLF001
        await broker.metadata([])
        assert len(seen) == before + 1
        await broker.close()


async def test_a_broker_that_is_too_old_is_refused() -> None:
    """A request in no version that it speaks does not go out, and what would have been needed is said."""
    spoken = struct.pack(">hi", 0, 1) + struct.pack(">hhh", METADATA, 0, 1)
    async with serving(lambda key: spoken if key == VERSIONS else None) as (bootstrap, seen):
        broker = KafkaBroker(Access(bootstrap))
        with pytest.raises(Exception, match=r"MetadataRequest_v5: the broker speaks 0 to 1: error 35"):
            await broker.metadata([])
        await broker.close()
    assert [struct.unpack_from(">h", frame)[0] for frame in seen] == [VERSIONS]


# what is leant upon


FIELDS: Sequence[tuple[Any, str]] = [
    (metadata.MetadataRequest_v5, "topics allow_auto_topic_creation"),
    (metadata.MetadataRequest_v5.RESPONSE_TYPE, "throttle_time_ms brokers cluster_id controller_id topics"),
    (coordination.FindCoordinatorRequest_v1, "coordinator_key coordinator_type"),
    (
        coordination.FindCoordinatorRequest_v1.RESPONSE_TYPE,
        "throttle_time_ms error_code error_message coordinator_id host port",
    ),
    (offset.OffsetRequest_v3, "replica_id isolation_level topics"),
    (offset.OffsetRequest_v3.RESPONSE_TYPE, "throttle_time_ms topics"),
    (
        fetch.FetchRequest_v11,
        (
            "replica_id max_wait_time min_bytes max_bytes isolation_level session_id session_epoch topics"
            " forgotten_topics_data rack_id"
        ),
    ),
    (fetch.FetchRequest_v11.RESPONSE_TYPE, "throttle_time_ms error_code session_id topics"),
    (produce.ProduceRequest_v8, "transactional_id required_acks timeout topics"),
    (produce.ProduceRequest_v8.RESPONSE_TYPE, "topics throttle_time_ms"),
    (
        group.JoinGroupRequest_v5,
        "group session_timeout rebalance_timeout member_id group_instance_id protocol_type group_protocols",
    ),
    (
        group.JoinGroupRequest_v5.RESPONSE_TYPE,
        "throttle_time_ms error_code generation_id group_protocol leader_id member_id members",
    ),
    (group.SyncGroupRequest_v3, "group generation_id member_id group_instance_id group_assignment"),
    (group.SyncGroupRequest_v3.RESPONSE_TYPE, "throttle_time_ms error_code member_assignment"),
    (group.ProtocolMetadata, "version subscription user_data"),
    (group.MemberAssignment, "version assignment user_data"),
    (transaction.InitProducerIdRequest_v0, "transactional_id transaction_timeout_ms"),
    (transaction.InitProducerIdRequest_v0.RESPONSE_TYPE, "throttle_time_ms error_code producer_id producer_epoch"),
    (transaction.AddPartitionsToTxnRequest_v0, "transactional_id producer_id producer_epoch topics"),
    (transaction.AddPartitionsToTxnRequest_v0.RESPONSE_TYPE, "throttle_time_ms errors"),
    (transaction.AddOffsetsToTxnRequest_v0, "transactional_id producer_id producer_epoch group_id"),
    (transaction.AddOffsetsToTxnRequest_v0.RESPONSE_TYPE, "throttle_time_ms error_code"),
    (transaction.TxnOffsetCommitRequest_v0, "transactional_id group_id producer_id producer_epoch topics"),
    (transaction.TxnOffsetCommitRequest_v0.RESPONSE_TYPE, "throttle_time_ms errors"),
    (transaction.EndTxnRequest_v0, "transactional_id producer_id producer_epoch transaction_result"),
    (transaction.EndTxnRequest_v0.RESPONSE_TYPE, "throttle_time_ms error_code"),
    (admin.DescribeConfigsRequest_v2, "resources include_synonyms"),
    (admin.DescribeConfigsRequest_v2.RESPONSE_TYPE, "throttle_time_ms resources"),
    (admin.DeleteTopicsRequest_v3, "topics timeout"),
    (admin.DeleteTopicsRequest_v3.RESPONSE_TYPE, "throttle_time_ms topic_error_codes"),
    (admin.DeleteRecordsRequest_v1, "topics timeout_ms"),
    (admin.DeleteRecordsRequest_v1.RESPONSE_TYPE, "throttle_time_ms topics"),
    (admin.DeleteGroupsRequest_v1, "groups_names"),
    (admin.DeleteGroupsRequest_v1.RESPONSE_TYPE, "throttle_time_ms results"),
    (admin.ListGroupsRequest_v1, ""),
    (admin.ListGroupsRequest_v1.RESPONSE_TYPE, "throttle_time_ms error_code groups"),
]
"""The requests and answers of aiokafka that are used, and their fields in order."""


@pytest.mark.parametrize(("shape", "fields"), FIELDS, ids=lambda given: getattr(given, "__name__", ""))
def test_requests_of_aiokafka_are_as_they_were(shape: Any, fields: str) -> None:
    """In name, version and fields."""
    assert " ".join(shape.SCHEMA.names) == fields
    version = re.search(r"_v(\d+)$", shape.__name__)
    assert version is None or int(version[1]) == shape.API_VERSION


async def test_connections_of_aiokafka_are_as_they_were() -> None:
    """Its options, and what is used of it beyond its documentation."""
    options = set(inspect.signature(aiokafka.conn.create_conn).parameters)
    assert set(Access("h").options()) <= options
    conn = aiokafka.conn.AIOKafkaConnection("127.0.0.1", 1)
    assert conn._writer is None  # noqa: SLF001
    assert not conn.connected()
    assert conn.close() is None
    assert list(inspect.signature(conn.send).parameters) == ["request", "expect_response"]
    assert aiokafka.conn.log.name == "aiokafka.conn"
    assert aiokafka.conn.collect_hosts("h:1") == [("h", 1, 0)]


def test_the_reader_of_aiokafka_is_the_compiled_one() -> None:
    """The other is some twenty times slower."""
    assert "_crecords" in DefaultRecordBatch.__module__
    assert "_crecords" in DefaultRecordBatchBuilder.__module__


def test_a_place_is_said_in_short() -> None:
    """Topic and partition, as refusals name them."""
    assert str(TopicPartition("orders", 3)) == "orders/3"
