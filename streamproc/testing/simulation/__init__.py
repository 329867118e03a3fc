"""A world in one thread: brokers, network and processes, whose every step comes from a seed.

    World --> processes --> SimBroker --> Network --> Cluster

The processes run the code that runs in production; what they meet is a model of Kafka with its habits, and of networks
with theirs.  The model is checked against real brokers by scripts that must be answered alike.
"""
