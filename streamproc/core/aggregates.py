"""Aggregates: folds as data, with a merge law.

    value --item--> item --add--> accumulator --result--> what the window shows
                                  accumulator + accumulator --merge--> accumulator

The law: `merge(fold(xs), fold(ys)) == fold(xs + ys)`, `zero` is neutral, nothing changes its arguments, and
built-in folds do not depend on the order of arrival.  Excepted are the last bits of float sums (`Sum`,
`Mean`) and `Reduce`, which is as its function is.

The accumulator of an empty fold is `zero()`.  A window exists with its first record, so that nobody sees the
result of an empty fold; it is None where there is no natural one, whatever the annotation says.
"""

from __future__ import annotations

import math
from bisect import insort_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from functools import reduce
from operator import add, itemgetter
from typing import Any, Final, Generic, Protocol, TypeVar, overload, runtime_checkable

from streamproc.core import sketches
from streamproc.core.batch import NOWHERE, Position

A = TypeVar("A")
T = TypeVar("T")
V = TypeVar("V")
X = TypeVar("X")
V_contra = TypeVar("V_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class Addable(Protocol):
    """What has a sum: int, float, Decimal, Fraction, complex; not text."""

    def __add__(self, other: Any, /) -> Any: ...
    def __radd__(self, other: int, /) -> Any: ...


class Comparable(Protocol):
    """What `<` orders, totally."""

    def __lt__(self, other: Any, /) -> bool: ...


N = TypeVar("N", bound=Addable)
C = TypeVar("C", bound=Comparable)


@runtime_checkable
class Aggregate(Protocol[V_contra, A, R_co]):
    """A fold of values V through accumulators A to a result R.  An own one needs these four methods only.

    Every method is pure and returns something new: an argument that is changed in place corrupts what is
    committed.  Accumulators consist of None, bool, int, float, str, bytes, lists, tuples and dicts, so that
    they can be stored.  `merge` is associative with `zero` as its neutral element; over sliding, trailing and
    session windows, which promise no order, it must be commutative too.
    """

    def zero(self) -> A:
        """The accumulator of nothing."""
        ...

    def add(self, acc: A, value: V_contra, /) -> A:
        """The accumulator with one more value.  May raise: the record is then refused and `acc` stays."""
        ...

    def merge(self, left: A, right: A, /) -> A:
        """The accumulator of all that went into `left` and then `right`."""
        ...

    def result(self, acc: A, /) -> R_co:
        """What the window shows; shares nothing that can change with `acc`."""
        ...


@dataclass(frozen=True, slots=True)
class Code:
    """How a generated loop folds an aggregate inline: Python source with placeholders in braces.

    Placeholders are `{v}` the value's name, `{x}` the item's name, `{a}` an expression for the present
    accumulator, `{at}` and `{pos}` the record's time and position, and every key of `names`; no other brace
    occurs.  The law: `first`, then `step` or `mutate`, with copies taken anywhere, is exactly `add` from
    `zero` on.
    """

    take: str
    """Expression for the item, which may raise; empty if there is none."""
    first: str
    """Expression for the accumulator of one item; may raise."""
    step: str
    """Expression for a new accumulator, which may raise; empty if `mutate` is used."""
    mutate: str
    """Statement that changes `{a}` in place and cannot raise; empty if `step` is used."""
    copy: str
    """Expression for a copy of `{a}` that `mutate` may change; `{a}` itself where `step` is used."""
    names: Mapping[str, object]
    """What the placeholders besides the fixed ones stand for; `f` is the user's function."""


def _same(acc: Any) -> Any:
    return acc


@dataclass(frozen=True, slots=True)
class Folding:
    """How the engine folds with an aggregate, built in or not: taking the item apart from adding it.

    What a value can make a built-in raise is raised by `item` or, if values do not go together, by `add` and
    `merge`; never by `result` or `canonical`.
    """

    ordered: bool
    """Whether `item` looks at the time and the position."""
    item: Callable[[Any, int, Position], Any]
    """(value, at, position) -> item; calls the user's function."""
    zero: Callable[[], Any]
    add: Callable[[Any, Any], Any]
    """(accumulator, item) -> new accumulator."""
    merge: Callable[[Any, Any], Any]
    result: Callable[[Any], Any]
    code: Code | None
    """None: call `item` and `add`."""
    canonical: Callable[[Any], Any] = _same
    """An equal accumulator whose repr does not depend on order and grouping."""
    many: Callable[[Sequence[Any]], Any] | None = None
    """Items -> the accumulator that `add` gives from `zero` on, faster; None: by `add`."""

    def whole(self, items: Sequence[Any]) -> Any:
        """The accumulator of all these items, in their order."""
        return reduce(self.add, items, self.zero()) if self.many is None else self.many(items)


def folding(aggregate: Aggregate[Any, Any, Any]) -> Folding:
    """How to fold with any aggregate.  TypeError for what is none, with what it lacks."""
    if isinstance(aggregate, type):
        raise TypeError(f"{aggregate.__name__} is a class: write {aggregate.__name__}(...)")
    if isinstance(aggregate, BUILT_IN):
        return aggregate.folding()
    verbs = ("zero", "add", "merge", "result")
    lacks = [verb for verb in verbs if not callable(getattr(aggregate, verb, None))]
    if lacks:
        raise TypeError(f"{type(aggregate).__name__} is no aggregate: it lacks {', '.join(lacks)}")
    return _folding(aggregate, _value, aggregate.add, None)


def _folding(
    aggregate: Aggregate[Any, Any, Any],
    item: Callable[[Any, int, Position], Any],
    add_item: Callable[[Any, Any], Any],
    code: Code | None,
) -> Folding:
    """Not ordered, with the aggregate's own `zero`, `merge` and `result`."""
    return Folding(
        ordered=False,
        item=item,
        zero=aggregate.zero,
        add=add_item,
        merge=aggregate.merge,
        result=aggregate.result,
        code=code,
    )


def _value(value: Any, _at: int, _position: Position) -> Any:
    return value


def _nothing(_value: Any, _at: int, _position: Position) -> None:
    """The item of an aggregate that looks at no value."""


def identity(value: X) -> X:
    """The value itself: the `of` of `First()`, `Last()`, `Collect()` and `Distinct()`."""
    return value


def _taking(of: Callable[[V], X]) -> Callable[[V, int, Position], X]:
    """The item of an aggregate that asks for neither time nor position."""
    return lambda value, _at, _position: of(value)


# --- numbers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Count:
    """The number of records; a null counts."""

    def zero(self) -> int:
        """0."""
        return 0

    def add(self, acc: int, _value: object, /) -> int:
        """One more."""
        return acc + 1

    def merge(self, left: int, right: int, /) -> int:
        """The sum."""
        return left + right

    def result(self, acc: int, /) -> int:
        """The number itself."""
        return acc

    def folding(self) -> Folding:
        """Inline: `1` and `a + 1`; there is no item."""
        code = Code(take="", first="1", step="{a} + 1", mutate="", copy="{a}", names={})
        return replace(_folding(self, _nothing, self.add, code), many=len)


@dataclass(frozen=True, slots=True)
class Sum(Generic[V, N]):
    """The sum of `of(value)`, added in order of arrival from 0 on: exact for int, Decimal and Fraction.

    A value that cannot be added is refused with the TypeError of `+`.
    """

    of: Callable[[V], N]

    def zero(self) -> Any:
        """0."""
        return 0

    def add(self, acc: Any, value: V, /) -> Any:
        """The sum with `of(value)`."""
        return acc + self.of(value)

    def merge(self, left: Any, right: Any, /) -> Any:
        """The sum of both sums."""
        return left + right

    def result(self, acc: Any, /) -> N:
        """The sum itself."""
        return acc  # type: ignore[no-any-return]

    def folding(self) -> Folding:
        """Inline: `a + x`."""
        code = Code("{f}({v})", "0 + {x}", "{a} + {x}", "", "{a}", {"f": self.of})
        return _folding(self, _taking(self.of), add, code)


@dataclass(frozen=True, slots=True)
class Mean(Generic[V]):
    """The arithmetic mean of `of(value)`, from `[count, sum]`.

    It is rounded once for ints, infinite where their sum is beyond float; floats are added as in `Sum`.
    """

    of: Callable[[V], float]

    def zero(self) -> list[Any]:
        """No values."""
        return [0, 0]

    def add(self, acc: list[Any], value: V, /) -> list[Any]:
        """One more value."""
        return _counted(acc, self.of(value))

    def merge(self, left: list[Any], right: list[Any], /) -> list[Any]:
        """Counts and sums added."""
        return [left[0] + right[0], left[1] + right[1]]

    def result(self, acc: list[Any], /) -> float:
        """The sum divided by the count."""
        n, total = acc
        if n == 0:
            return None  # type: ignore[return-value]  # nobody sees it
        try:
            return total / n  # type: ignore[no-any-return]
        except OverflowError:
            return math.inf if total > 0 else -math.inf

    def folding(self) -> Folding:
        """Inline: a new pair."""
        code = Code(
            take="{f}({v})",
            first="[1, 0 + {x}]",
            step="[{a}[0] + 1, {a}[1] + {x}]",
            mutate="",
            copy="{a}",
            names={"f": self.of},
        )
        return replace(_folding(self, _taking(self.of), _counted, code), many=_all_counted)


def _all_counted(items: Sequence[Any]) -> list[Any]:
    return [len(items), reduce(add, items, 0)]


def _counted(acc: list[Any], x: Any) -> list[Any]:
    return [acc[0] + 1, acc[1] + x]


@dataclass(frozen=True, slots=True)
class Variance(Generic[V]):
    """The variance of a sample, sum of (x - mean)**2 / (n - 1), of `of(value)`; None for one value.

    It is computed from exact moments and rounded once, so it is the same for every order and grouping,
    exactly 0.0 for a constant, and as `statistics.variance` has it.  NaN if a value is infinite or NaN.
    """

    of: Callable[[V], float]

    def zero(self) -> list[int]:
        """No values."""
        return list(sketches.NOTHING)

    def add(self, acc: list[int], value: V, /) -> list[int]:
        """One more value."""
        return sketches.moments_with(acc, sketches.ratio(self.of(value)))

    def merge(self, left: list[int], right: list[int], /) -> list[int]:
        """Moments added."""
        return sketches.moments_merged(left, right)

    def result(self, acc: list[int], /) -> float | None:
        """The variance, rounded once."""
        return sketches.variance(acc)

    def folding(self) -> Folding:
        """Inline: a call per value."""
        return _folding_moments(self, self.of)


@dataclass(frozen=True, slots=True)
class StdDev(Generic[V]):
    """The standard deviation of a sample: the root of `Variance`, with the same promises."""

    of: Callable[[V], float]

    def zero(self) -> list[int]:
        """No values."""
        return list(sketches.NOTHING)

    def add(self, acc: list[int], value: V, /) -> list[int]:
        """One more value."""
        return sketches.moments_with(acc, sketches.ratio(self.of(value)))

    def merge(self, left: list[int], right: list[int], /) -> list[int]:
        """Moments added."""
        return sketches.moments_merged(left, right)

    def result(self, acc: list[int], /) -> float | None:
        """The root of the variance, rounded once."""
        return sketches.deviation(acc)

    def folding(self) -> Folding:
        """Inline: a call per value."""
        return _folding_moments(self, self.of)


def _folding_moments(aggregate: Aggregate[Any, Any, Any], of: Callable[[Any], float]) -> Folding:
    ratio, once, more = sketches.ratio, sketches.moments_of, sketches.moments_with
    names = {"f": of, "ratio": ratio, "once": once, "more": more}
    code = Code("{ratio}({f}({v}))", "{once}({x})", "{more}({a}, {x})", "", "{a}", names)
    return _folding(aggregate, lambda value, _at, _position: ratio(of(value)), more, code)


# --- order of values ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Min(Generic[V, C]):
    """The least `of(value)`.  NaN if one is NaN.

    Of equal numbers that look different (1, 1.0, True) it is always the same one.  What `<` cannot compare
    with itself (None, an object) or with what came before is refused with the TypeError of `<`.
    """

    of: Callable[[V], C]

    def zero(self) -> Any:
        """None: nothing yet."""
        return None

    def add(self, acc: Any, value: V, /) -> Any:
        """The lesser of both."""
        return _lesser(acc, self.of(value))

    def merge(self, left: Any, right: Any, /) -> Any:
        """The lesser of both."""
        return left if right is None else _lesser(left, right)

    def result(self, acc: Any, /) -> C:
        """The least value itself."""
        return acc  # type: ignore[no-any-return]

    def folding(self) -> Folding:
        """Inline: two comparisons."""
        step = "{a} if {a} < {x} else {x} if {x} < {a} else {even}({a}, {x})"
        names = {"f": self.of, "single": _single, "even": _even}
        code = Code("{f}({v})", "{single}({x})", step, "", "{a}", names)
        return _folding(self, _taking(self.of), _lesser, code)


@dataclass(frozen=True, slots=True)
class Max(Generic[V, C]):
    """The greatest `of(value)`; all else as in `Min`."""

    of: Callable[[V], C]

    def zero(self) -> Any:
        """None: nothing yet."""
        return None

    def add(self, acc: Any, value: V, /) -> Any:
        """The greater of both."""
        return _greater(acc, self.of(value))

    def merge(self, left: Any, right: Any, /) -> Any:
        """The greater of both."""
        return left if right is None else _greater(left, right)

    def result(self, acc: Any, /) -> C:
        """The greatest value itself."""
        return acc  # type: ignore[no-any-return]

    def folding(self) -> Folding:
        """Inline: two comparisons."""
        step = "{a} if {x} < {a} else {x} if {a} < {x} else {even}({a}, {x})"
        names = {"f": self.of, "single": _single, "even": _even}
        code = Code("{f}({v})", "{single}({x})", step, "", "{a}", names)
        return _folding(self, _taking(self.of), _greater, code)


def _lesser(a: Any, x: Any) -> Any:
    if a is None:
        return _single(x)
    return a if a < x else x if x < a else _even(a, x)


def _greater(a: Any, x: Any) -> Any:
    if a is None:
        return _single(x)
    return a if x < a else x if a < x else _even(a, x)


def _single(x: Any) -> Any:
    """`x`, if it can be compared at all."""
    _ = x < x  # noqa: PLR0124  # raises TypeError for None and other things without an order
    return x


def _even(a: Any, x: Any) -> Any:
    """One of two values of which neither is less, the same one for either order where they are numbers."""
    if a != a or x != x:  # noqa: PLR0124  # NaN, which wins
        return a if a != a else x  # noqa: PLR0124
    if isinstance(a, _NUMBERS) and isinstance(x, _NUMBERS):
        return min(a, x, key=_look)
    return a


_NUMBERS: Final = (int, float, Decimal, Fraction)


def _look(x: Any) -> tuple[str, str]:
    return type(x).__name__, repr(x)


@dataclass(frozen=True, slots=True)
class TopK(Generic[V, C]):
    """The k greatest `of(value)`, greatest first; equal ones by (timestamp, position), earlier first.

    An accumulator is the list of their items in that order.  NaN is refused with ValueError, what `<` cannot
    compare with itself or with the others with TypeError.  ValueError for k < 1.
    """

    k: int
    of: Callable[[V], C]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"TopK keeps at least 1 value, not {self.k!r}: give k=1 or more")

    def zero(self) -> list[Any]:
        """No values."""
        return []

    def add(self, acc: list[Any], value: V, /, at: int = 0, position: Position = NOWHERE) -> list[Any]:
        """One more value, where it belongs."""
        return self._place(acc, ((at, position), self.of(value)))

    def merge(self, left: list[Any], right: list[Any], /) -> list[Any]:
        """The k greatest of both."""
        merged = left
        for item in right:
            merged = self._place(merged, item)
        return merged

    def result(self, acc: list[Any], /) -> list[C]:
        """The values, greatest first."""
        return [x for _, x in acc]

    def folding(self) -> Folding:
        """Inline: a call per value, which copies only when the value is among the greatest."""
        code = Code(
            take="(({at}, {pos}), {f}({v}))",
            first="{place}([], {x})",
            step="{place}({a}, {x})",
            mutate="",
            copy="{a}",
            names={"f": self.of, "place": self._place},
        )
        return replace(_folding(self, _dated(self.of), self._place, code), ordered=True)

    def _place(self, acc: list[Any], item: Any) -> list[Any]:
        key, x = item
        if x != x:  # noqa: PLR0124
            raise ValueError("TopK orders its values, and NaN has no place among them: filter it out before")
        _single(x)
        low, high = 0, len(acc)
        while low < high:
            middle = (low + high) // 2
            other_key, other = acc[middle]
            if x < other or (not other < x and other_key <= key):
                low = middle + 1
            else:
                high = middle
        return acc if low == self.k else [*acc[:low], item, *acc[low : self.k - 1]]


# --- order of records ---------------------------------------------------------------------------------------


def _dated(of: Callable[[V], X]) -> Callable[[V, int, Position], tuple[tuple[int, Position], X]]:
    """The item of an aggregate that orders by (timestamp, position)."""
    return lambda value, at, position: ((at, position), of(value))


_KEY: Final = itemgetter(0)


def _dated_take(of: object) -> str:
    return "(({at}, {pos}), {v})" if of is identity else "(({at}, {pos}), {f}({v}))"


@dataclass(frozen=True, slots=True, init=False)
class First(Generic[V, X]):
    """`of(value)` of the record with the least (timestamp, position); among equals, the first to arrive."""

    of: Callable[[V], X]

    @overload
    def __init__(self: First[T, T]) -> None: ...
    @overload
    def __init__(self, of: Callable[[V], X]) -> None: ...
    def __init__(self, of: Callable[[Any], Any] = identity) -> None:
        object.__setattr__(self, "of", of)

    def zero(self) -> Any:
        """None: nothing yet."""
        return None

    def add(self, acc: Any, value: V, /, at: int = 0, position: Position = NOWHERE) -> Any:
        """The earlier of both."""
        return _earlier(acc, ((at, position), self.of(value)))

    def merge(self, left: Any, right: Any, /) -> Any:
        """The earlier of both."""
        return left if right is None else _earlier(left, right)

    def result(self, acc: Any, /) -> X:
        """The value itself."""
        return None if acc is None else acc[1]  # type: ignore[return-value]  # nobody sees None

    def folding(self) -> Folding:
        """Inline: one comparison."""
        step = "{a} if {a}[0] <= {x}[0] else {x}"
        code = Code(_dated_take(self.of), "{x}", step, "", "{a}", {"f": self.of})
        return replace(_folding(self, _dated(self.of), _earlier, code), ordered=True)


@dataclass(frozen=True, slots=True, init=False)
class Last(Generic[V, X]):
    """`of(value)` of the record with the greatest (timestamp, position); among equals, the last to arrive."""

    of: Callable[[V], X]

    @overload
    def __init__(self: Last[T, T]) -> None: ...
    @overload
    def __init__(self, of: Callable[[V], X]) -> None: ...
    def __init__(self, of: Callable[[Any], Any] = identity) -> None:
        object.__setattr__(self, "of", of)

    def zero(self) -> Any:
        """None: nothing yet."""
        return None

    def add(self, acc: Any, value: V, /, at: int = 0, position: Position = NOWHERE) -> Any:
        """The later of both."""
        return _later(acc, ((at, position), self.of(value)))

    def merge(self, left: Any, right: Any, /) -> Any:
        """The later of both."""
        return left if right is None else _later(left, right)

    def result(self, acc: Any, /) -> X:
        """The value itself."""
        return None if acc is None else acc[1]  # type: ignore[return-value]  # nobody sees None

    def folding(self) -> Folding:
        """Inline: one comparison."""
        step = "{x} if {a}[0] <= {x}[0] else {a}"
        code = Code(_dated_take(self.of), "{x}", step, "", "{a}", {"f": self.of})
        return replace(_folding(self, _dated(self.of), _later, code), ordered=True)


def _earlier(a: Any, item: Any) -> Any:
    return a if a is not None and a[0] <= item[0] else item


def _later(a: Any, item: Any) -> Any:
    return item if a is None or a[0] <= item[0] else a


@dataclass(frozen=True, slots=True, init=False)
class Collect(Generic[V, X]):
    """The list of all `of(value)` by (timestamp, position), equals by arrival.  It grows with the records."""

    of: Callable[[V], X]

    @overload
    def __init__(self: Collect[T, T]) -> None: ...
    @overload
    def __init__(self, of: Callable[[V], X]) -> None: ...
    def __init__(self, of: Callable[[Any], Any] = identity) -> None:
        object.__setattr__(self, "of", of)

    def zero(self) -> list[Any]:
        """No values."""
        return []

    def add(self, acc: list[Any], value: V, /, at: int = 0, position: Position = NOWHERE) -> list[Any]:
        """One more value, where it belongs."""
        return _filed(acc, ((at, position), self.of(value)))

    def merge(self, left: list[Any], right: list[Any], /) -> list[Any]:
        """All items of both, in order."""
        return sorted(left + right, key=_KEY)

    def result(self, acc: list[Any], /) -> list[X]:
        """A new list of the values."""
        return [x for _, x in acc]

    def folding(self) -> Folding:
        """Inline: items are put into the list in place."""
        names = {"f": self.of, "file": _file}
        code = Code(_dated_take(self.of), "[{x}]", "", "{file}({a}, {x})", "{a}[:]", names)
        return replace(_folding(self, _dated(self.of), _filed, code), ordered=True)


def _file(acc: list[Any], item: Any) -> None:
    if not acc or acc[-1][0] <= item[0]:
        acc.append(item)
    else:
        insort_right(acc, item, key=_KEY)


def _filed(acc: list[Any], item: Any) -> list[Any]:
    filed = acc[:]
    _file(filed, item)
    return filed


# --- sketches -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quantile(Generic[V]):
    """The q-quantile of `of(value)` by nearest rank, the ceil(q * n)-th smallest, within a relative `error`.

    An accumulator is a dict of counts by logarithmic bucket (`sketches.Buckets`); its size grows with the
    logarithm of the values' range, not with their number.  The result is an int where it is beyond float.
    What is no finite number is refused with ValueError or TypeError.  ValueError for a q outside (0, 1) or
    an error that `Buckets` refuses.
    """

    q: float
    of: Callable[[V], float]
    error: float = 0.01
    _buckets: sketches.Buckets = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.q < 1:
            raise ValueError(f"q must be above 0 and below 1, not {self.q!r}: 0.99 is the 99th percentile")
        object.__setattr__(self, "_buckets", sketches.Buckets(self.error))

    def zero(self) -> dict[int, int]:
        """No counts."""
        return {}

    def add(self, acc: dict[int, int], value: V, /) -> dict[int, int]:
        """One more in the bucket of `of(value)`."""
        return _tallied(acc, self._buckets.index(self.of(value)))

    def merge(self, left: dict[int, int], right: dict[int, int], /) -> dict[int, int]:
        """Counts added bucket by bucket."""
        merged = dict(left)
        for index, n in right.items():
            merged[index] = merged.get(index, 0) + n
        return merged

    def result(self, acc: dict[int, int], /) -> float:
        """The middle of the bucket in which the rank falls."""
        return self._buckets.quantile(acc, self.q)  # type: ignore[return-value]  # None for no counts: nobody sees it

    def folding(self) -> Folding:
        """Inline: counts change in place."""
        index, of = self._buckets.index, self.of
        code = Code(
            take="{index}({f}({v}))",
            first="{once}({x})",
            step="",
            mutate="{a}[{x}] = {a}.get({x}, 0) + 1",
            copy="{a}.copy()",
            names={"f": of, "index": index, "once": _once},
        )
        inline = _folding(self, lambda value, _at, _position: index(of(value)), _tallied, code)
        return replace(inline, canonical=_sorted, many=_all_tallied)


def _once(index: int) -> dict[int, int]:
    return {index: 1}


def _all_tallied(indexes: Sequence[int]) -> dict[int, int]:
    return dict(Counter(indexes))


def _tallied(acc: dict[int, int], index: int) -> dict[int, int]:
    return {**acc, index: acc.get(index, 0) + 1}


def _sorted(acc: dict[int, int]) -> dict[int, int]:
    return dict(sorted(acc.items()))


@dataclass(frozen=True, slots=True)
class Distinct(Generic[V]):
    """About how many different `of(value)` there are: HyperLogLog, standard error 1.04 / sqrt(2**precision).

    That is 1.6% at the default precision of 12, and next to nothing for a few hundred values.  Values are the
    same iff their JSON texts are (`sketches.canonical_bytes`): 1, 1.0, True and "1" are four.  The
    accumulator has at most 2**precision numbers.  A value without such a text is refused with TypeError;
    ValueError for a precision outside 4 to 18.
    """

    of: Callable[[V], object] = identity
    precision: int = 12
    _registers: sketches.Registers = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_registers", sketches.Registers(self.precision))

    def zero(self) -> list[int]:
        """No registers in use."""
        return []

    def add(self, acc: list[int], value: V, /) -> list[int]:
        """The registers with `of(value)`."""
        return self._noted(acc, self._registers.code(self.of(value)))

    def merge(self, left: list[int], right: list[int], /) -> list[int]:
        """The greater rank of every register."""
        return self._registers.union(left, right)

    def result(self, acc: list[int], /) -> int:
        """The estimate."""
        return self._registers.estimate(acc)

    def folding(self) -> Folding:
        """Inline: registers change in place."""
        of, code_of = self.of, self._registers.code
        code = Code(
            take="{code}({v})" if of is identity else "{code}({f}({v}))",
            first="[{x}]",
            step="",
            mutate="{note}({a}, {x})",
            copy="{a}[:]",
            names={"f": of, "code": code_of, "note": self._registers.note},
        )
        return _folding(self, lambda value, _at, _position: code_of(of(value)), self._noted, code)

    def _noted(self, acc: list[int], code: int) -> list[int]:
        noted = acc[:]
        self._registers.note(noted, code)
        return noted


# --- your own function --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reduce(Generic[V]):
    """The values combined by `f(acc, value)`; the first value is the start.

    Fixed windows combine in order of arrival.  `f` must be associative where accumulators are merged
    (sessions) and commutative too where no order is promised (sliding, trailing and session windows).  It
    returns something new and changes neither argument.  An accumulator is a list of one value, empty at
    first.
    """

    f: Callable[[V, V], V]

    def zero(self) -> list[Any]:
        """No value."""
        return []

    def add(self, acc: list[Any], value: V, /) -> list[Any]:
        """`f` of what there is and the value."""
        return [self.f(acc[0], value)] if acc else [value]

    def merge(self, left: list[Any], right: list[Any], /) -> list[Any]:
        """`f` of both."""
        return self.add(left, right[0]) if right else left

    def result(self, acc: list[Any], /) -> V:
        """The combined value."""
        return acc[0] if acc else None  # type: ignore[return-value]  # nobody sees None

    def folding(self) -> Folding:
        """Inline: the item is the value."""
        code = Code("{v}", "[{x}]", "[{f}({a}[0], {x})]", "", "{a}", {"f": self.f})
        return _folding(self, _value, self.add, code)


BUILT_IN: Final = (
    Count, Sum, Mean, Variance, StdDev, Min, Max, TopK, First, Last, Collect, Quantile, Distinct, Reduce,
)  # fmt: skip
"""The aggregates with a `folding` of their own."""
