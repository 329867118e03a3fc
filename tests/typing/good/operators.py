"""An own operator, with state: a frozen value with two hooks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, assert_type

from streamproc import NEVER, Cell, Context, Keyed, Operator, Record, Topology
from tests.typing.good.events import Order


@dataclass(frozen=True, slots=True)
class FirstPerKey:
    """The first record of a key passes; the key is forgotten `ttl` ms later."""

    ttl: int

    def on_run(self, run: Iterable[Record[Any, Order]], ctx: Context) -> Iterable[Record[Any, Order]]:
        """Pass on a record whose key is new."""
        for record in run:
            if ctx.get(NEVER, record.key) is None:
                ctx.put(NEVER, record.key, True)  # noqa: FBT003 - seen
                ctx.put(record.at + self.ttl, record.key, True)  # noqa: FBT003 - a timer is a cell with a time
                yield record

    def on_due(self, cell: Cell, ctx: Context) -> Iterable[Record[Any, Order]]:
        """Forget a key."""
        ctx.drop(NEVER, cell.key)
        return ()


@dataclass(frozen=True, slots=True)
class Pause:
    """For each record the time in ms since the one before of its key."""

    by_key = True

    def on_run(self, run: Iterable[Record[Any, object]], ctx: Context) -> Iterable[Record[Any, int]]:
        """Look back, and remember."""
        for record in run:
            before = ctx.scan(record.key, record.at - 60_000, record.at)
            ctx.put(record.at, record.key, 1)
            yield Record(record.key, record.at - before[-1].at if before else -1, record.at)

    def on_due(self, cell: Cell, ctx: Context) -> Iterable[Record[Any, int]]:  # noqa: ARG002
        """Nothing more."""
        return ()


topology = Topology("operators")
orders = topology.source("orders", Order, event_time=lambda o: o.ts)

firsts = orders.key_by(lambda o: o.user_id).via(FirstPerKey(ttl=3_600_000), name="first_order")
assert_type(firsts, Keyed[str, Order])
firsts.map(lambda o: o.order_id).to("first-orders")

operator: Operator[Order, Order] = FirstPerKey(ttl=1)
assert_type(orders.key_by(lambda o: o.user_id).via(operator, name="again").records(), Keyed[str, Record[str, Order]])

pauses = orders.map(lambda o: o.order_id).key_by(lambda name: name).via(Pause(), name="pauses")
assert_type(pauses, Keyed[str, int])
pauses.filter(lambda pause: pause > 1000).to("pauses")
