"""Requests of Kafka's protocol in the versions that are needed, where aiokafka's own are older.

Each is defined with aiokafka's types, field by field as Kafka's message definitions have it.  A request is made in one
version, or in several, and goes out in the first of them that the broker speaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.api import RequestStruct, Response, ResponseHeader_v0
from aiokafka.protocol.types import (
    Array,
    Boolean,
    Bytes,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

_TEXT = String("utf-8")
_SHORT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)

NO_TAGS: Mapping[int, bytes] = {}
"""The end of every part of a flexible request."""

Field = tuple[str, Any]


def _request(  # noqa: PLR0913 - what Kafka's message definitions say of a request
    name: str, key: int, version: int, asked: tuple[Field, ...], answered: tuple[Field, ...], *, flexible: bool = False
) -> Any:
    """The class of a request in one version, its answer's with it."""
    identity = {"API_KEY": key, "API_VERSION": version}
    answer = type(f"{name}Response_v{version}", (Response,), {**identity, "SCHEMA": Schema(*answered)})
    return type(
        f"{name}Request_v{version}",
        (RequestStruct,),
        {**identity, "FLEXIBLE_VERSION": flexible, "RESPONSE_TYPE": answer, "SCHEMA": Schema(*asked)},
    )


Heartbeat = _request(
    "Heartbeat",
    12,
    3,
    (("group", _TEXT), ("generation", Int32), ("member", _TEXT), ("instance", _TEXT)),
    (("throttle", Int32), ("error_code", Int16)),
)

LeaveGroup = _request(
    "LeaveGroup",
    13,
    3,
    (("group", _TEXT), ("members", Array(("member", _TEXT), ("instance", _TEXT)))),
    (
        ("throttle", Int32),
        ("error_code", Int16),
        ("members", Array(("member", _TEXT), ("instance", _TEXT), ("error_code", Int16))),
    ),
)

OffsetCommit = _request(
    "OffsetCommit",
    8,
    7,
    (
        ("group", _TEXT),
        ("generation", Int32),
        ("member", _TEXT),
        ("instance", _TEXT),
        (
            "topics",
            Array(
                ("topic", _TEXT),
                (
                    "partitions",
                    Array(("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", _TEXT)),
                ),
            ),
        ),
    ),
    (
        ("throttle", Int32),
        ("topics", Array(("topic", _TEXT), ("partitions", Array(("partition", Int32), ("error_code", Int16))))),
    ),
)

OffsetFetch = _request(
    "OffsetFetch",
    9,
    7,
    (
        ("group", _SHORT),
        ("topics", CompactArray(("topic", _SHORT), ("partitions", CompactArray(Int32)), _TAGS)),
        ("require_stable", Boolean),
        _TAGS,
    ),
    (
        ("throttle", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _SHORT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _SHORT),
                        ("error_code", Int16),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        ("error_code", Int16),
        _TAGS,
    ),
    flexible=True,
)

EndTxn = _request(
    "EndTxn",
    26,
    5,
    (("transactional_id", _SHORT), ("producer_id", Int64), ("epoch", Int16), ("committed", Boolean), _TAGS),
    (("throttle", Int32), ("error_code", Int16), ("producer_id", Int64), ("epoch", Int16), _TAGS),
    flexible=True,
)

CreateTopics = _request(  # from version 4 on the brokers' own number of partitions and of replicas can be asked for
    "CreateTopics",
    19,
    4,
    (
        (
            "topics",
            Array(
                ("topic", _TEXT),
                ("partitions", Int32),
                ("replication", Int16),
                ("assignments", Array(("partition", Int32), ("replicas", Array(Int32)))),
                ("configs", Array(("name", _TEXT), ("value", _TEXT))),
            ),
        ),
        ("timeout", Int32),
        ("only_checked", Boolean),
    ),
    (("throttle", Int32), ("topics", Array(("topic", _TEXT), ("error_code", Int16), ("message", _TEXT)))),
)

DescribeGroups = _request(  # from version 4 on members have their instance
    "DescribeGroups",
    15,
    4,
    (("groups", Array(_TEXT)), ("with_operations", Boolean)),
    (
        ("throttle", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", _TEXT),
                ("state", _TEXT),
                ("kind", _TEXT),
                ("protocol", _TEXT),
                (
                    "members",
                    Array(
                        ("member", _TEXT),
                        ("instance", _TEXT),
                        ("client", _TEXT),
                        ("host", _TEXT),
                        ("metadata", Bytes),
                        ("assignment", Bytes),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
    ),
)

OffsetDelete = _request(
    "OffsetDelete",
    47,
    0,
    (("group", _TEXT), ("topics", Array(("topic", _TEXT), ("partitions", Array(Int32))))),
    (
        ("error_code", Int16),
        ("throttle", Int32),
        ("topics", Array(("topic", _TEXT), ("partitions", Array(("partition", Int32), ("error_code", Int16))))),
    ),
)

ApiVersions = _request(
    "ApiVersions",
    18,
    3,
    (("software", _SHORT), ("version", _SHORT), _TAGS),
    (
        ("error_code", Int16),
        ("keys", CompactArray(("key", Int16), ("least", Int16), ("most", Int16), _TAGS)),
        ("throttle", Int32),
        _TAGS,
    ),
    flexible=True,
)
# The answer to this one alone has the old header, since a client must be able to read it whatever the broker is.
ApiVersions.parse_response_header = lambda _, read: ResponseHeader_v0.decode(read)

_FINALIZED = CompactArray(("name", _SHORT), ("most", Int16), ("least", Int16), _TAGS)
_FINALIZED_TAG = 2


def finalized(tags: Mapping[int, bytes]) -> dict[str, int]:
    """The features of the cluster and their levels, out of the tags of an ApiVersions answer."""
    if (raw := tags.get(_FINALIZED_TAG)) is None:
        return {}
    return {name: most for name, most, *_ in _FINALIZED.decode(BytesIO(raw)) or ()}


class Spoken:
    """A request in the first of several versions that a broker speaks."""

    def __init__(self, *versions: Any) -> None:
        self._versions = versions

    @property
    def api(self) -> int:
        """Which request it is, by Kafka's number."""
        key: int = self._versions[0].API_KEY
        return key

    def prepare(self, spoken: Mapping[int, tuple[int, int]]) -> Any:
        """The request as it goes out; aiokafka's connection asks for it, with what its broker speaks."""
        least, most = spoken.get(self._versions[0].API_KEY, (0, -1))
        for version in self._versions:
            if least <= version.API_VERSION <= most:
                return version
        wanted = ", ".join(type(version).__name__ for version in self._versions)
        raise IncompatibleBrokerVersion(f"{wanted}: the broker speaks {least} to {most}")


__all__ = [
    "NO_TAGS",
    "ApiVersions",
    "CreateTopics",
    "DescribeGroups",
    "EndTxn",
    "Heartbeat",
    "LeaveGroup",
    "OffsetCommit",
    "OffsetDelete",
    "OffsetFetch",
    "Spoken",
    "finalized",
]
