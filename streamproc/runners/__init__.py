"""What runs a plan: in memory, on one machine, or on Kafka."""
