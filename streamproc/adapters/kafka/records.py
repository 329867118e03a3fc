"""Records and their bytes: batches as the log holds them, read and written by aiokafka's compiled code.

Reading is where foreign bytes come in.  Sizes and checksums are verified before anything is believed, and a batch is
decompressed here, into a buffer of bounded size, before the compiled code sees it: a few kilobytes of zstd can stand
for hundreds of megabytes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, Literal, TypeAlias

from aiokafka import codec
from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from streamproc.core.batch import Headers
from streamproc.ports.broker import Appending, Code, Fetched, Writer

Compression: TypeAlias = Literal["none", "gzip", "snappy", "lz4", "zstd"]

CODECS: dict[Compression, int] = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
"""The compressions and their numbers in a batch."""

_OVERHEAD = struct.Struct(">qi")  # base offset, length of what follows
_HEADER = 61
_MAGIC, _ATTRIBUTES, _COUNT = 16, 21, 57  # where these stand in a batch
_NO_HEADERS: list[tuple[str, bytes]] = []
_XERIAL = b"\x82SNAPPY\x00"
_UNBOUNDED = 2**31 - 1
_ABORT = b"\x00\x00"
_ROOM = 65_536


class _Corrupt(Exception):
    """A batch that is not what a batch must be."""


def codec_of(compression: Compression) -> int:
    """The number of a compression that can be used; ValueError, with what is to be installed, if it cannot."""
    if compression not in CODECS:
        raise ValueError(f"compression {compression!r}: one of {', '.join(CODECS)}")
    if CODECS[compression] > CODECS["gzip"] and codec.cramjam is None:
        raise ValueError(f'compression {compression!r} needs a library: pip install "streamproc[codecs]"')
    return CODECS[compression]


def packed(writer: Writer, batch: Appending, compression: int) -> bytearray:
    """Records as one batch."""
    builder = DefaultRecordBatchBuilder(
        2,
        compression,
        writer.transactional_id is not None,
        writer.producer_id,
        writer.epoch,
        batch.sequence & 0x7FFFFFFF if writer.producer_id >= 0 else -1,
        _UNBOUNDED,
    )
    append = builder.append
    for number, (key, value, at, headers) in enumerate(batch.records):
        append(number, at, key, value, list(headers) if headers else _NO_HEADERS)
    built: bytearray = builder.build()
    return built


def unpacked(into: Fetched, raw: bytes, aborted: Iterable[tuple[int, int]], limit: int) -> None:
    """Read batches into lists, from `into.next_offset` on.

    `aborted` are producers and the first offset of what they aborted; nothing of them and no marker comes out.  What
    is corrupt counts only where it stands first, so that the batches before it are not lost and its place is known.
    """
    first = into.next_offset
    runs: list[Sequence[int]] = []
    try:
        _read(into, raw, sorted(aborted, key=lambda entry: entry[1], reverse=True), limit, runs)
    except (_Corrupt, KafkaError, ValueError, LookupError, OverflowError, struct.error) as error:
        if into.next_offset == first:
            into.code, into.why = Code.CORRUPT_MESSAGE, f"batch at offset {first} or behind: {error}"
            into.offsets, into.keys, into.values, into.stamps, into.headers = (), (), (), (), None
            return
    into.offsets = _joined(runs)


def _read(into: Fetched, raw: bytes, aborted: list[tuple[int, int]], limit: int, runs: list[Sequence[int]]) -> None:
    gone: set[int] = set()
    first = into.next_offset
    for body in _batches(raw):
        batch = DefaultRecordBatch(body)
        if not batch.validate_crc():
            raise _Corrupt(f"the checksum of the batch at {batch.base_offset} is wrong")
        while aborted and aborted[-1][1] <= batch.base_offset:
            gone.add(aborted.pop()[0])
        if batch.is_control_batch:
            marker = next(batch, None)  # compaction may have left nothing of it
            if marker is not None and (marker.key or b"")[2:4] == _ABORT:
                gone.discard(batch.producer_id)
        elif not (batch.is_transactional and batch.producer_id in gone) and batch.next_offset > first:
            if into.values and into.appended != bool(batch.timestamp_type):
                return  # one kind of timestamp in one answer
            plain = _inflated(body, batch.compression_type, limit) if batch.compression_type else body
            _take(into, plain, first, runs)
        into.next_offset = max(first, batch.next_offset)


def _batches(raw: bytes) -> Iterator[memoryview]:
    """The bytes of each batch, but for the last where the limit of the read has cut it off."""
    view, size, at = memoryview(raw), len(raw), 0
    while size - at >= _HEADER:
        _, length = _OVERHEAD.unpack_from(raw, at)
        end = at + _OVERHEAD.size + length
        if length < _HEADER - _OVERHEAD.size:
            raise _Corrupt(f"{length} bytes are no batch")
        if end > size:
            return
        if raw[at + _MAGIC] != 2:  # noqa: PLR2004 - the format since Kafka 0.11
            raise _Corrupt(f"message format {raw[at + _MAGIC]}, from before Kafka 0.11, is not read")
        yield view[at:end]
        at = end


def _take(into: Fetched, body: Any, first: int, runs: list[Sequence[int]]) -> None:
    """Append the records of a batch, all or none of them."""
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    stamps: list[int] = []
    add_key, add_value, add_stamp = keys.append, values.append, stamps.append
    some = False
    batch = DefaultRecordBatch(body)
    for record in batch:
        add_value(record.value)
        add_key(record.key)
        add_stamp(record.timestamp)
        if record.headers:
            some = True
    count = len(values)
    base, following = batch.base_offset, batch.next_offset
    offsets: Sequence[int]
    if following - base == count:
        offsets = range(base, following)
        skip = max(0, first - base)
    else:  # compacted
        offsets = [record.offset for record in DefaultRecordBatch(body)]
        skip = sum(offset < first for offset in offsets)
    headers = _headers(body) if some else None
    if skip:
        keys, values, stamps, offsets = keys[skip:], values[skip:], stamps[skip:], offsets[skip:]
        headers = headers[skip:] if headers and any(headers[skip:]) else None
    if not values:
        return
    if not into.values:
        into.appended = bool(batch.timestamp_type)
        into.keys, into.values, into.stamps = [], [], []
    elif headers is None and into.headers is not None:
        headers = [()] * len(values)
    if headers is not None:
        into.headers = [*(into.headers or [()] * len(into.values)), *headers]
    into.keys += keys  # type: ignore[operator]
    into.values += values
    into.stamps += stamps  # type: ignore[operator]
    runs.append(offsets)


def _headers(body: Any) -> list[Headers]:
    return [tuple((name, value or b"") for name, value in record.headers) for record in DefaultRecordBatch(body)]


def _joined(runs: list[Sequence[int]]) -> Sequence[int]:
    """Offsets as a range if there is no gap in them."""
    if not runs:
        return ()
    if all(isinstance(run, range) for run in runs) and all(a[-1] + 1 == b[0] for a, b in pairwise(runs)):
        return range(runs[0][0], runs[-1][-1] + 1)
    return list(chain.from_iterable(runs))


def _inflated(body: memoryview, compression: int, limit: int) -> bytearray:
    """A compressed batch as one that is not."""
    plain = bytearray(body[:_HEADER])
    plain[_ATTRIBUTES + 1] &= ~0x07
    plain += inflate(body[_HEADER:], compression, limit)
    return plain


def inflate(raw: memoryview, compression: int, limit: int) -> bytes | bytearray | memoryview:
    """Decompress at most `limit` bytes; more than that is corrupt, and so is what cannot be decompressed."""
    if compression == CODECS["gzip"]:
        return _gunzip(raw, limit)
    if (cramjam := codec.cramjam) is None:
        name = next((name for name, number in CODECS.items() if number == compression), str(compression))
        raise _Corrupt(f'it is compressed with {name}, which needs a library: pip install "streamproc[codecs]"')
    try:
        match compression:
            case 2:
                return _unsnap(cramjam.snappy, bytes(raw), limit)
            case 3:
                return _grown(cramjam.lz4.decompress_into, bytes(raw), limit)
            case 4:
                return _grown(cramjam.zstd.decompress_into, bytes(raw), limit)
            case _:
                raise _Corrupt(f"compression {compression} is not known")
    except cramjam.DecompressionError as error:
        raise _Corrupt(f"it does not decompress: {error}") from error


def _gunzip(raw: memoryview, limit: int) -> bytes:
    found = b""
    rest: Any = raw
    while rest:
        stream = zlib.decompressobj(wbits=31)
        try:
            found += stream.decompress(rest, limit + 1 - len(found))
        except zlib.error as error:
            raise _Corrupt(f"it does not decompress: {error}") from error
        if len(found) > limit:
            raise _too_large(limit)
        if not stream.eof:
            raise _Corrupt("it does not decompress: it ends too early")
        rest = stream.unused_data
    return found


def _unsnap(snappy: Any, raw: bytes, limit: int) -> bytes:
    """Plain, or in the blocks that Java's library makes; each says how large it is, and cannot become larger."""
    blocks = [raw]
    if raw.startswith(_XERIAL):
        blocks, at = [], 16
        while at < len(raw):
            (length,) = struct.unpack_from(">i", raw, at)
            if length < 0:
                raise _Corrupt(f"a block of {length} bytes")
            blocks.append(raw[at + 4 : at + 4 + length])
            at += 4 + length
    if sum(snappy.decompress_raw_len(block) for block in blocks) > limit:
        raise _too_large(limit)
    return b"".join(bytes(snappy.decompress_raw(block)) for block in blocks)


def _grown(decompress_into: Any, raw: bytes, limit: int) -> memoryview:
    """Into a buffer that becomes larger as long as it may, since these formats need not say how large they are."""
    size = 16 * len(raw) + _ROOM
    while True:
        size = min(size, limit)
        buffer = bytearray(size)
        try:
            return memoryview(buffer)[: decompress_into(raw, buffer)]
        except codec.cramjam.DecompressionError as error:
            if size == limit:
                raise _Corrupt(f"it does not decompress to {limit} bytes at most: {error}") from error
        size *= 8


def _too_large(limit: int) -> _Corrupt:
    return _Corrupt(f"it decompresses to more than {limit} bytes")


def prove_bounds() -> None:
    """Raise RuntimeError if a small bomb gets through, whatever compression is at hand."""
    bomb, limit = bytes(_ROOM), 1024
    made = {"gzip": codec.gzip_encode}
    if codec.cramjam is not None:
        made |= {"snappy": codec.snappy_encode, "lz4": codec.lz4_encode, "zstd": codec.zstd_encode}
    for name, encode in made.items():
        number = CODECS[name]  # type: ignore[index]
        try:
            inflate(memoryview(encode(bomb)), number, limit)
        except _Corrupt:
            if len(inflate(memoryview(encode(bomb)), number, len(bomb))) == len(bomb):
                continue
        raise RuntimeError(f"the limit on what {name} decompresses to does not hold")
