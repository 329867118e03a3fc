"""Everything that can be done with a stream, keyed or not, and what type it then has."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypedDict, assert_type

from streamproc import Keyed, Record, Stream, Topology
from tests.typing.good.events import Click, Order

# sources, of every type that events have

topology = Topology("streams", dead_letters="streams.dead")


@dataclass(frozen=True)
class Tick:
    """A dataclass."""

    ts: int


class Point(NamedTuple):
    """A named tuple."""

    ts: int


class Row(TypedDict):
    """A dictionary with known fields."""

    ts: int


orders = topology.source("orders", Order, event_time=lambda o: o.ts, disorder="5s", idle_timeout=None, max_future="1d")
assert_type(orders, Stream[Order])
by_user = topology.source("clicks", Click, key=str, event_time=lambda c: c.ts, start="latest")
assert_type(by_user, Keyed[str, Click])
assert_type(topology.source("ticks", Tick, event_time=lambda t: t.ts), Stream[Tick])
assert_type(topology.source("points", Point, event_time=lambda p: p.ts), Stream[Point])
assert_type(topology.source("rows", Row, event_time=lambda r: r["ts"]), Stream[Row])
assert_type(topology.source("objects", dict[str, Any], event_time=lambda o: o.get("ts")), Stream[dict[str, Any]])
assert_type(topology.source("raw", bytes, start=datetime(2024, 1, 1, tzinfo=UTC), max_future=None), Stream[bytes])

# streams without a key

assert_type(orders.map(lambda o: o.amount * 2), Stream[float])
assert_type(orders.filter(lambda o: o.items > 1), Stream[Order])
assert_type(orders.flat_map(lambda o: [o.order_id] * o.items), Stream[str])
assert_type(orders.key_by(lambda o: o.user_id), Keyed[str, Order])
assert_type(orders.key_by(lambda o: (o.user_id, o.items), name="by_two"), Keyed[tuple[str, int], Order])
assert_type(orders.key_by(lambda o: o.user_id or None), Keyed[str, Order])
assert_type(orders.merge(orders.filter(lambda o: o.items > 1), orders.map(lambda o: o)), Stream[Order])
assert_type(orders.records(), Stream[Record[bytes | None, Order]])
assert_type(
    orders.records().map(lambda r: (r.key, r.value.amount, r.at, r.offset)),
    Stream[tuple[bytes | None, float, int, int]],
)
assert_type(orders.on_error("late", "processing_error", then="skip", retry=3), Stream[Order])

# branches, with a dead-letter topic for what cannot be decoded; the first that matches wins

routes = (
    topology.source("orders-raw", Order, event_time=lambda o: o.ts)
    .on_error(then="dead_letter", topic="orders.dlq")
    .split(big=lambda o: o.amount >= 1000, rest=lambda _: True)
)
assert_type(routes, Mapping[str, Stream[Order]])
routes["big"].to("orders.big")
routes["rest"].to("orders.rest")

# streams with a key

assert_type(by_user.map(lambda c: c.ad), Keyed[str, str])
assert_type(by_user.filter(lambda c: c.ad), Keyed[str, Click])
assert_type(by_user.flat_map(lambda c: c.ad.split()), Keyed[str, str])
assert_type(by_user.key_by(lambda c: len(c.ad)), Keyed[int, Click])
assert_type(by_user.key_by(lambda c: c.ad, name="by_ad"), Keyed[str, Click])
assert_type(by_user.merge(by_user.filter(lambda c: c.user)), Keyed[str, Click])
assert_type(by_user.records(), Keyed[str, Record[str, Click]])
assert_type(by_user.on_error(then="fail"), Keyed[str, Click])
assert_type(by_user.split(a=lambda c: c.ad == "a"), Mapping[str, Keyed[str, Click]])

# joins

orders_by_user = orders.key_by(lambda o: o.user_id)
pairs = by_user.join(orders_by_user, lambda c, o: (c.ad, o.amount), before="0s", after="10m", name="bought")
assert_type(pairs, Keyed[str, tuple[str, float]])
left = by_user.join(
    orders_by_user,
    lambda c, o: (c.ad, o.amount if o else None),
    how="left",
    before="1m",
    after="10m",
    grace="30s",
    name="left",
)
assert_type(left, Keyed[str, tuple[str, float | None]])
outer = by_user.join(
    orders_by_user,
    lambda c, o: (c.ad if c else None, o.amount if o else None),
    how="outer",
    before="1m",
    after="1m",
    name="outer",
    late="l",
)
assert_type(outer, Keyed[str, tuple[str | None, float | None]])
pairs.to("pairs")
left.to("left")
outer.to("outer")

# outputs

orders.to("copies", key=lambda o: o.user_id, headers=lambda o: {"id": o.order_id.encode()}, timestamp=lambda o: o.ts)
orders.to(lambda o: "many" if o.items > 1 else "one", topics=["many", "one"])
by_user.to("clicks-again", key=lambda c: [c.user, c.ad], headers=lambda _: {}, timestamp=lambda _: 0)
by_user.to(lambda c: c.ad, topics=("a", "b"))
