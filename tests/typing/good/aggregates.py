"""Aggregates: one gives its value, up to eight a tuple with the type of each, named ones a record."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, assert_type

from streamproc import (
    Aggregate,
    Collect,
    Count,
    Distinct,
    First,
    Keyed,
    Last,
    Max,
    Mean,
    Min,
    Quantile,
    Reduce,
    StdDev,
    Sum,
    TopK,
    Topology,
    Tumbling,
    Variance,
    Windowed,
    WindowResult,
)
from tests.typing.good.events import Order

topology = Topology("aggregates")
hour = topology.source("orders", Order, event_time=lambda o: o.ts).key_by(lambda o: o.user_id).window(Tumbling("1h"))
assert_type(hour, Windowed[str, Order, None])


@dataclass(frozen=True, slots=True)
class Spread:
    """An own aggregate: how far the amounts are apart."""

    def zero(self) -> list[float]:
        """Nothing yet."""
        return []

    def add(self, acc: list[float], value: Order, /) -> list[float]:
        """Least and greatest."""
        return [min([*acc, value.amount]), max([*acc, value.amount])]

    def merge(self, left: list[float], right: list[float], /) -> list[float]:
        """Least and greatest of both."""
        both = left + right
        return [min(both), max(both)] if both else []

    def result(self, acc: list[float], /) -> float:
        """The difference."""
        return acc[1] - acc[0]


a1 = hour.agg(Sum(of=lambda o: o.items), name="a1")
assert_type(a1, Keyed[str, WindowResult[str, int]])
a2 = hour.agg(Sum(of=lambda o: o.amount), Count(), name="a2")
assert_type(a2, Keyed[str, WindowResult[str, tuple[float, int]]])
a3 = hour.agg(Min(of=lambda o: o.ts), Max(of=lambda o: o.order_id), Mean(of=lambda o: o.items), name="a3")
assert_type(a3, Keyed[str, WindowResult[str, tuple[datetime, str, float]]])
a4 = hour.agg(First(), Last(of=lambda o: o.ts), Collect(), Distinct(of=lambda o: o.items), name="a4")
assert_type(a4, Keyed[str, WindowResult[str, tuple[Order, datetime, list[Order], int]]])
a5 = hour.agg(
    Variance(of=lambda o: o.amount),
    StdDev(of=lambda o: o.amount),
    Quantile(0.5, of=lambda o: o.amount, error=0.02),
    TopK(3, of=lambda o: (o.amount, o.order_id)),
    Reduce(lambda a, b: a if a.amount > b.amount else b),
    name="a5",
)
assert_type(a5, Keyed[str, WindowResult[str, tuple[float | None, float | None, float, list[tuple[float, str]], Order]]])
a6 = hour.agg(Count(), Count(), Count(), Count(), Last(), Spread(), name="a6")
assert_type(a6, Keyed[str, WindowResult[str, tuple[int, int, int, int, Order, float]]])
a7 = hour.agg(Count(), Count(), Count(), Count(), Count(), Distinct(), Collect(of=lambda o: o.items), name="a7")
assert_type(a7, Keyed[str, WindowResult[str, tuple[int, int, int, int, int, int, list[int]]]])
a8 = hour.agg(
    Count(),
    Count(),
    Count(),
    Count(),
    Count(),
    Count(),
    First(of=lambda o: o.items),
    Spread(),
    name="a8",
    emit="on_update",
)
assert_type(a8, Keyed[str, WindowResult[str, tuple[int, int, int, int, int, int, int, float]]])

spread: Aggregate[Order, list[float], float] = Spread()
assert_type(hour.agg(spread, name="own").map(lambda w: w.value), Keyed[str, float])

named = hour.agg(total=Sum(of=lambda o: o.amount), n=Count(), name="named")
assert_type(named, Keyed[str, WindowResult[str, Any]])
named.map(lambda w: {"user": w.key, "mean": w.value.total / w.value.n}).to("means")

dearest = hour.reduce(lambda a, b: a if a.amount > b.amount else b, name="dearest", emit="on_close")
assert_type(dearest, Keyed[str, WindowResult[str, Order]])
dearest.map(lambda w: w.value.order_id).to("dearest")

a2.map(lambda w: w.value[0] / w.value[1]).to("mean-again")
a5.map(lambda w: w.value[1] or 0.0).to("deviations")
