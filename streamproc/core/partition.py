"""Which partition a key belongs to: Java's default partitioner, murmur2 of the key bytes (S45).

Source: org.apache.kafka.common.utils.Utils.murmur2, seed 0x9747b28c.
"""

from __future__ import annotations

from collections.abc import Iterable

_M, _SEED, _MASK = 0x5BD1E995, 0x9747B28C, 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """The 32-bit hash of some bytes, unsigned."""
    length = len(key)
    h = _SEED ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i : i + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if length & 3:
        h = (h ^ int.from_bytes(key[whole:], "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


def partition(key: bytes, partitions: int) -> int:
    """The partition of a key: `(murmur2(key) & 0x7fffffff) mod partitions`."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def strays(keys: Iterable[bytes | None], number: int, partitions: int) -> list[int]:
    """The places of the keys that do not belong to partition `number`, where they stand; a null key may be anywhere."""
    return [place for place, key in enumerate(keys) if key is not None and partition(key, partitions) != number]
