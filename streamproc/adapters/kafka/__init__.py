"""Kafka, spoken over aiokafka's connections."""

from streamproc.adapters.kafka.broker import KafkaBroker
from streamproc.adapters.kafka.connections import Access

__all__ = ["Access", "KafkaBroker"]
