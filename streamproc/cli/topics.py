"""Looking at the topics of a state file, while a run is writing it or later; nothing is changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from streamproc.adapters.packing import unpack
from streamproc.core.errors import ConfigError


def counts(state: Path) -> Iterator[dict[str, Any]]:
    """Each topic and partition with its number of records."""
    query = 'SELECT topic, "partition", count(*) FROM records GROUP BY 1, 2 ORDER BY 1, 2'
    for topic, partition, count in _rows(state, query):
        yield {"topic": topic, "partition": partition, "records": count}


def records(state: Path, topic: str, partition: int | None) -> Iterator[dict[str, Any]]:
    """The records of a topic in order of partition and offset; ConfigError where there is no such topic."""
    known = {row["topic"] for row in counts(state)}
    if topic not in known:
        raise ConfigError(f"{state} has no topic {topic!r}; it has {', '.join(sorted(known)) or 'none'}")
    query = (
        'SELECT "partition", "offset", at, key, value, headers FROM records '
        'WHERE topic = ? AND (? IS NULL OR "partition" = ?) ORDER BY 1, 2'
    )
    for number, offset, at, key, value, headers in _rows(state, query, topic, partition, partition):
        row = {"partition": number, "offset": offset, "at": at, "key": _text(key), "value": _plain(value)}
        if headers:
            row["headers"] = {name: _text(held) for name, held in unpack(headers)}
        yield row


def _rows(state: Path, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
    if not state.is_file():
        raise ConfigError(f"there is no state file {state}")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(state))}?mode=ro", uri=True)) as connection:
            yield from connection.execute(query, values)
    except sqlite3.Error as error:
        raise ConfigError(f"{state} cannot be read as a state file ({error})") from error


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode(errors="backslashreplace")


def _plain(raw: bytes | None) -> Any:
    """JSON as what it stands for, all else as text."""
    try:
        return None if raw is None else json.loads(raw)
    except ValueError:
        return _text(raw)
