"""What topics take, as their brokers have it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from streamproc.adapters.kafka import Topic
from streamproc.cli.brokers import administered
from streamproc.config import Config
from streamproc.ports.broker import Code, Refused
from streamproc.runners.worker.producing import patient
from streamproc.runners.worker.topic_limits import LARGEST, Takes, TopicLimits

AHEAD = ("message.timestamp.after.max.ms", "message.timestamp.difference.max.ms")
"""How far ahead a timestamp may be; brokers before 3.6 have but the second, and from 4.0 on but the first."""
FAR = 2**62
"""Ms beyond which no timestamp is."""
DENIED = frozenset({Code.TOPIC_AUTHORIZATION_FAILED, Code.CLUSTER_AUTHORIZATION_FAILED})


def topic_limits_of(config: Config, tell: Callable[[str], object]) -> TopicLimits:
    """Asks the brokers of the settings; who may not ask takes the usual for granted, and says so by `tell`."""

    async def limits(topics: Collection[str]) -> Mapping[str, Takes]:
        found: dict[str, Takes] = {}
        async with administered(config) as admin:
            for topic in topics:
                try:
                    described = await patient(lambda topic=topic: admin.describe_topics([topic]))  # type: ignore[misc]
                except Refused as refused:
                    if refused.code not in DENIED:
                        raise
                    tell(
                        f"what topic {topic!r} takes is not known, for this principal may not describe its configs "
                        f"(DESCRIBE_CONFIGS): taken to be batches of {LARGEST} bytes and timestamps an hour ahead"
                    )
                else:
                    found |= {name: takes(one) for name, one in described.items()}
        return found

    return limits


def takes(topic: Topic) -> Takes:
    """What a topic takes by its configs."""
    size = int(topic.configs.get("max.message.bytes") or LARGEST)
    ahead = min(int(topic.configs.get(name) or FAR) for name in AHEAD)
    free = ahead >= FAR or topic.configs.get("message.timestamp.type") == "LogAppendTime"
    return Takes(size, None if free else ahead)
