"""Mistakes with streams: each line marked is refused by every type checker, and no other."""

from datetime import datetime

from streamproc import Topology
from tests.typing.good.events import Click, Latency, Order

topology = Topology("streams")
orders = topology.source("orders", Order, event_time=lambda o: o.ts)
clicks = topology.source("clicks", Click, event_time=lambda c: c.ts)
by_user = clicks.key_by(lambda c: c.user)

# a field that the event does not have

topology.source("a", Click, event_time=lambda c: c.time)  # error
topology.source("b", Click, key=str, event_time=lambda c: c.time)  # error
orders.map(lambda o: o.price)  # error
orders.filter(lambda o: o.price > 1)  # error
orders.flat_map(lambda o: o.lines)  # error
orders.key_by(lambda o: o.user)  # error
orders.split(big=lambda o: o.amount > 1000, cheap=lambda o: o.price < 1)  # error
orders.map(lambda o: o.amount).filter(lambda a: a.amount)  # error
orders.records().map(lambda r: r.value.price)  # error
orders.records().map(lambda r: r.time)  # error
orders.split(big=lambda o: o.amount > 1000)["big"].map(lambda o: o.price)  # error
by_user.map(lambda c: c.name)  # error
by_user.filter(lambda c: c.name)  # error
by_user.flat_map(lambda c: c.name)  # error
by_user.key_by(lambda c: c.name)  # error
by_user.split(a=lambda c: c.name)  # error
by_user.records().map(lambda r: r.key.user)  # error
orders.to("a", key=lambda o: o.price)  # error
orders.to("a", timestamp=lambda o: o.time)  # error
orders.to(lambda o: o.topic, topics=["a", "b"])  # error
by_user.to("a", headers=lambda c: {"name": c.name})  # error

# what is not of the right type

topology.source("c", Click, event_time=lambda c: c.user)  # error
topology.source("d", Latency, event_time=lambda r: r.ms)  # error
topology.source("e", Click, lambda c: c.ts)  # error
topology.source("f")  # error
topology.source("g", "Click")  # error
topology.source("h", Click, key="user")  # error
topology.source("i", Click, disorder=5)  # error
topology.source("j", Click, idle_timeout=60_000)  # error
topology.source("k", Click, max_future=3.5)  # error
topology.source("l", Click, start="newest")  # error
topology.source("m", Click, start=0)  # error
topology.source("n", Click, key=str, disorder=5)  # error
topology.source("o", Click, grace="5s")  # error
Topology(name=1)  # error
Topology("name", "app")  # error
orders.flat_map(lambda o: o.amount)  # error
orders.filter("amount > 1000")  # error
orders.map(lambda: 1)  # error
orders.map(lambda a, b: a)  # error
orders.to(lambda o: o.amount, topics=["a"])  # error
orders.to("a", headers=lambda o: {"id": o.order_id})  # error
orders.to("a", timestamp=lambda o: o.amount)  # error
orders.to(5)  # error
orders.key_by(lambda o: o.user_id, "by_user")  # error
orders.on_error(then="dlq")  # error
by_user.on_error(then="dlq")  # error
orders.on_error("too_late", then="skip")  # error
by_user.on_error("late", "skip")  # error
orders.on_error(then="skip", retry="3")  # error
orders.to("a").map(lambda o: o)  # error

# streams that do not go together, or cannot do this

orders.merge(clicks)  # error
orders.merge(orders.map(lambda o: o.amount))  # error
by_user.merge(clicks)  # error
clicks.merge(by_user)  # error
by_user.merge(clicks.key_by(lambda c: len(c.ad)))  # error
orders.window  # error
orders.count(name="orders")  # error
by_user.count(name="clicks")  # error
by_user.agg  # error
orders.split(big=lambda o: o.amount > 1000).map(lambda o: o)  # error
clicks.key_by(lambda c: c.user).map(lambda c: c.ts).filter(lambda t: t > 5)  # error
moment: datetime = clicks.map(lambda c: c.ts)  # error

# joins

by_order = orders.key_by(lambda o: o.user_id)
by_count = orders.key_by(lambda o: o.items)
by_user.join(by_order, lambda c, o: (c, o), name="unbounded")  # error
by_user.join(by_order, lambda c, o: (c, o), before="1s", after="1s")  # error
by_user.join(by_order, lambda c, o: c.price, before="1s", after="1s", name="field")  # error
by_user.join(by_order, lambda c, o: o.amount, how="left", before="1s", after="1s", name="none")  # error
by_user.join(by_order, lambda c, o: (c, o), how="right", before="1s", after="1s", name="right")  # error
by_user.join(by_count, lambda c, o: (c, o), before="1s", after="1s", name="keys")  # error
by_user.join(orders, lambda c, o: (c, o), before="1s", after="1s", name="unkeyed")  # error
clicks.join  # error
