"""Mistakes with aggregates and operators: each line marked is refused by every type checker, and no other."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from streamproc import (
    Aggregate,
    Cell,
    Collect,
    Context,
    Count,
    Distinct,
    First,
    Last,
    Max,
    Mean,
    Min,
    Quantile,
    Record,
    Reduce,
    StdDev,
    Sum,
    TopK,
    Topology,
    Trailing,
    Tumbling,
    Variance,
)
from tests.typing.good.aggregates import Spread
from tests.typing.good.events import Click, Order
from tests.typing.good.operators import FirstPerKey

topology = Topology("aggregates")
clicks = topology.source("clicks", Click, event_time=lambda c: c.ts)
orders = topology.source("orders", Order, event_time=lambda o: o.ts).key_by(lambda o: o.user_id)
hour = orders.window(Tumbling("1h"))
last_hour = orders.window(Trailing("1h"))

# a field that the event does not have

hour.agg(Sum(of=lambda o: o.price), name="n1")  # error
hour.agg(Mean(of=lambda o: o.price), name="n2")  # error
hour.agg(Min(of=lambda o: o.price), name="n3")  # error
hour.agg(Max(of=lambda o: o.price), name="n4")  # error
hour.agg(Variance(of=lambda o: o.price), name="n5")  # error
hour.agg(StdDev(of=lambda o: o.price), name="n6")  # error
hour.agg(First(of=lambda o: o.price), name="n7")  # error
hour.agg(Last(of=lambda o: o.price), name="n8")  # error
hour.agg(Collect(of=lambda o: o.price), name="n9")  # error
hour.agg(Distinct(of=lambda o: o.price), name="n10")  # error
hour.agg(TopK(3, of=lambda o: o.price), name="n11")  # error
hour.agg(Quantile(0.9, of=lambda o: o.price), name="n12")  # error
hour.agg(Reduce(lambda a, b: a if a.price > b.price else b), name="n13")  # error
hour.reduce(lambda a, b: a if a.price > b.price else b, name="n14")  # error
hour.agg(Count(), Count(), Sum(of=lambda o: o.price), name="n15")  # error
hour.agg(Count(), Count(), Count(), Count(), Count(), Count(), Count(), Sum(of=lambda o: o.price), name="n16")  # error
hour.agg(total=Sum(of=lambda o: o.price), name="n17")  # error
last_hour.agg(Sum(of=lambda o: o.price), Count(), name="n18")  # error

# what cannot be folded so

hour.agg(Sum(of=lambda o: o.order_id), name="m1")  # error
hour.agg(Mean(of=lambda o: o.order_id), name="m2")  # error
hour.agg(Quantile(0.9, of=lambda o: o.ts), name="m3")  # error
hour.agg(StdDev(of=lambda o: o.order_id), name="m4")  # error
hour.agg(Max(of=lambda o: None), name="m5")  # error
hour.agg(TopK(of=lambda o: o.amount), name="m6")  # error
hour.agg(TopK("3", of=lambda o: o.amount), name="m7")  # error
hour.agg(Quantile("p90", of=lambda o: o.amount), name="m8")  # error
hour.agg(Quantile(of=lambda o: o.amount), name="m9")  # error
hour.agg(Sum(), name="m10")  # error
hour.agg(Sum("amount"), name="m11")  # error
hour.agg(Count, name="m12")  # error
hour.agg("count", name="m13")  # error
hour.agg(len, name="m14")  # error
hour.agg(n="count", name="m15")  # error
hour.reduce(lambda a, b: a.amount + b.amount, name="m16")  # error
hour.reduce(lambda a: a, name="m17")  # error
hour.reduce(Sum(of=lambda o: o.amount), name="m18")  # error
hour.agg(Count(), Count(), Count(), Count(), Count(), Count(), Count(), Count(), Count(), name="m19")  # error
clicks.key_by(lambda c: c.user).window(Tumbling("1h")).agg(Spread(), name="m20")  # error


@dataclass(frozen=True)
class NoMerge:
    """An aggregate that lacks `merge`."""

    def zero(self) -> int:
        """Nothing."""
        return 0

    def add(self, acc: int, _value: Order, /) -> int:
        """One more."""
        return acc + 1

    def result(self, acc: int, /) -> int:
        """The number."""
        return acc


hour.agg(NoMerge(), name="m21")  # error
hour.agg(n=NoMerge(), name="m22")  # error
counted: Aggregate[Order, int, int] = NoMerge()  # error

# operators


@dataclass(frozen=True)
class NoDue:
    """An operator that lacks `on_due`."""

    def on_run(self, run: Iterable[Record[Any, Order]], ctx: Context) -> Iterable[Record[Any, Order]]:
        """All as it is."""
        return run


@dataclass(frozen=True)
class Plain:
    """An operator that yields values, not records."""

    def on_run(self, run: Iterable[Record[Any, Order]], ctx: Context) -> Iterable[Order]:
        """The bare values."""
        return [record.value for record in run]

    def on_due(self, cell: Cell, ctx: Context) -> Iterable[Order]:
        """Nothing."""
        return ()


orders.via(FirstPerKey(ttl=1))  # error
orders.via(FirstPerKey(ttl=1), "first")  # error
orders.via(FirstPerKey, name="v1")  # error
orders.via(lambda o: o, name="v2")  # error
orders.via(NoDue(), name="v3")  # error
orders.via(Plain(), name="v4")  # error
clicks.via(FirstPerKey(ttl=1), name="v5")  # error
clicks.key_by(lambda c: c.user).via(FirstPerKey(ttl=1), name="v6")  # error
orders.via(FirstPerKey(ttl=1), name="v7").map(lambda o: o.price)  # error
