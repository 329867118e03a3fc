"""Kafka, spoken over aiokafka's connections."""

from streamproc.adapters.kafka.admin import Group, GroupMember, KafkaAdmin, Topic
from streamproc.adapters.kafka.broker import KafkaBroker
from streamproc.adapters.kafka.connections import Access

__all__ = ["Access", "Group", "GroupMember", "KafkaAdmin", "KafkaBroker", "Topic"]
