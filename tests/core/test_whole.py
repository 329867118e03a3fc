"""Folding all items at once is folding them one by one."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc import Aggregate, Count, Distinct, Max, Mean, Min, Quantile, StdDev, Sum, Variance
from streamproc.core.aggregates import folding

AGGREGATES: list[Aggregate[float, object, object]] = [
    Count(),
    Sum(of=lambda x: x),
    Mean(of=lambda x: x),
    Min(of=lambda x: x),
    Max(of=lambda x: x),
    Quantile(0.9, of=lambda x: x),
    Distinct(of=lambda x: x),
    Variance(of=lambda x: x),
    StdDev(of=lambda x: x),
]


@pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda aggregate: type(aggregate).__name__)
@given(values=st.lists(st.floats(-1e6, 1e6) | st.integers(-5, 5), min_size=1, max_size=20))
def test_all_at_once_is_one_by_one(aggregate: Aggregate[float, object, object], values: list[float]) -> None:
    """The accumulator of many items is, to the last bit and in the order of its parts, that of adding each in turn."""
    fold = folding(aggregate)
    items = [fold.item(value, 0, ("", 0, 0)) for value in values]
    assert repr(fold.whole(items)) == repr(reduce(fold.add, items, fold.zero()))
