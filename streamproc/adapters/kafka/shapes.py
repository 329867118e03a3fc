"""The shape that requests and answers share: topics, and in each of them what is said of its partitions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from streamproc.ports.broker import Refused, TopicPartition

T = TypeVar("T")


def by_topic(entries: Iterable[tuple[TopicPartition, T]]) -> list[tuple[str, list[T]]]:
    """What is said of partitions, as requests have it."""
    found: dict[str, list[T]] = {}
    for place, entry in entries:
        found.setdefault(place.topic, []).append(entry)
    return list(found.items())


def flat(topics: Iterable[tuple[str, Iterable[tuple[Any, ...]]]]) -> Iterable[tuple[Any, ...]]:
    """What answers say of partitions, each with its topic."""
    return ((topic, *entry) for topic, entries in topics for entry in entries)


def check(code: int, what: str) -> None:
    """Refused, if that is what the code says."""
    if code:
        raise Refused(code, what)
