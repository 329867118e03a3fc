"""Each aggregate keeps the laws of a fold, and its inline code is the fold."""

import copy
import math
import os
import random as chance
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.core.aggregates import (
    BUILT_IN,
    Aggregate,
    Code,
    Collect,
    Count,
    Distinct,
    First,
    Folding,
    Last,
    Max,
    Mean,
    Min,
    Position,
    Quantile,
    Reduce,
    StdDev,
    Sum,
    TopK,
    Variance,
    folding,
    identity,
)


def of(value: Any) -> Any:
    """A user's function: the value itself, and an error for one of them."""
    if value == "raise":
        raise LookupError(value)
    return value


def plus(a: Any, b: Any) -> Any:
    """A user's function of two: associative, commutative, and not for every value."""
    return a + b


AGGREGATES: list[Aggregate[Any, Any, Any]] = [
    Count(),
    Sum(of),
    Mean(of),
    Variance(of),
    StdDev(of),
    Min(of),
    Max(of),
    TopK(1, of),
    TopK(3, of),
    First(),
    First(of),
    Last(),
    Last(of),
    Collect(),
    Collect(of),
    Quantile(0.5, of),
    Quantile(0.99, of, error=0.2),
    Distinct(),
    Distinct(of, precision=4),
    Reduce(plus),
]
EVERY = pytest.mark.parametrize("aggregate", AGGREGATES, ids=lambda a: str(a).partition(" at ")[0])

Event = tuple[Any, int, Position]  # value, timestamp, position

# Numbers whose sums are exact in any order, and among them equal ones that look different.
NUMBERS = st.one_of(st.integers(-3, 3), st.sampled_from([True, 1.0, -0.0, 0.0, 0.5, 2**20, -0.25]))
ODD: list[Any] = ["raise", "text", None, math.nan, math.inf, Decimal("0.5"), (1,), {}]
HOSTILE = st.one_of(NUMBERS, st.sampled_from(ODD))


def events(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Event]]:
    """Few values at fewer times; positions are unique, and independent of the order of arrival."""
    pairs = st.lists(st.tuples(values, st.integers(0, 2)), max_size=25)
    return pairs.flatmap(
        lambda pairs: st.permutations(range(len(pairs))).map(
            lambda order: [(value, at, ("t", 0, n)) for (value, at), n in zip(pairs, order, strict=True)]
        )
    )


def crowded(some: list[Event]) -> list[Event]:
    """The same with three records at each position, as when one record is made into several."""
    return [(value, at, (*position[:2], n // 3)) for n, (value, at, position) in enumerate(some)]


def fold(f: Folding, some: list[Event]) -> Any:
    """The accumulator of events that are all accepted."""
    acc = f.zero()
    for event in some:
        acc = f.add(acc, f.item(*event))
    return acc


def text(f: Folding, acc: Any) -> str:
    """All there is to see of an accumulator: types, signs of zeros and NaN, which `==` cannot tell."""
    return repr(f.canonical(acc))


def test_all_built_ins_are_examined() -> None:
    """No aggregate is added without its laws."""
    assert {type(a) for a in AGGREGATES} == set(BUILT_IN)
    assert all(isinstance(a, Aggregate) for a in AGGREGATES)


@EVERY
@given(events(NUMBERS), st.integers(0, 25))
def test_the_merge_of_folds_is_the_fold_of_all(
    aggregate: Aggregate[Any, Any, Any], some: list[Event], cut: int
) -> None:
    """In every detail of the accumulator, for any cut."""
    f = folding(aggregate)
    merged = f.merge(fold(f, some[:cut]), fold(f, some[cut:]))
    assert text(f, merged) == text(f, fold(f, some))


@EVERY
@given(events(NUMBERS))
def test_zero_is_neutral(aggregate: Aggregate[Any, Any, Any], some: list[Event]) -> None:
    """On both sides, and with itself."""
    f = folding(aggregate)
    acc = fold(f, some)
    assert text(f, f.merge(f.zero(), acc)) == text(f, f.merge(acc, f.zero())) == text(f, acc)


@EVERY
@given(events(NUMBERS), st.randoms())
def test_order_and_grouping_leave_no_trace(
    aggregate: Aggregate[Any, Any, Any], some: list[Event], random: chance.Random
) -> None:
    """Shuffled, folded in parts, merged as it comes: accumulator and result are the same text."""
    f = folding(aggregate)
    shuffled = random.sample(some, len(some))
    parts = [fold(f, shuffled[i : i + 3]) for i in range(0, len(shuffled), 3)] or [f.zero()]
    while len(parts) > 1:
        left = parts.pop(random.randrange(len(parts)))
        right = parts.pop(random.randrange(len(parts)))
        parts.append(f.merge(left, right))
    straight = fold(f, some)
    assert text(f, parts[0]) == text(f, straight) == text(f, fold(f, shuffled))
    assert repr(f.result(parts[0])) == repr(f.result(straight))


@EVERY
@given(events(NUMBERS), events(NUMBERS))
def test_nothing_changes_its_arguments(
    aggregate: Aggregate[Any, Any, Any], some: list[Event], more: list[Event]
) -> None:
    """Accumulators that are committed stay as they are, whatever is made from them and done to a result."""
    f = folding(aggregate)
    left, right = fold(f, some), fold(f, more)
    before = copy.deepcopy((left, right))
    for event in more:
        f.add(left, f.item(*event))
    f.merge(left, right)
    f.canonical(left)
    result = f.result(left)
    if isinstance(result, list):
        result.clear()
    assert repr((left, right)) == repr(before)


@EVERY
@given(events(NUMBERS))
def test_the_four_methods_alone_fold_the_same(aggregate: Aggregate[Any, Any, Any], some: list[Event]) -> None:
    """`add` takes the value itself; what asks for time and position takes them after it."""
    f = folding(aggregate)
    acc = aggregate.zero()
    for value, at, position in some:
        acc = aggregate.add(acc, value, at, position) if f.ordered else aggregate.add(acc, value)  # type: ignore[call-arg]
    assert text(f, acc) == text(f, fold(f, some))
    if not f.ordered:
        assert text(f, fold(f, [(value, 0, ()) for value, _, _ in some])) == text(f, acc)


@dataclass
class Inline:
    """The program that a generator would write for one aggregate of one key, with copies after commits."""

    code: Code
    program: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = {name: f"{name}_7" for name in self.code.names}
        fixed = {"v": "v", "x": "x", "a": "cell[2]", "at": "at", "pos": "pos"}

        def line(template: str) -> str:
            return template.format_map(names | fixed) or "None"

        source = f"""
def first(v, at, pos):
    x = {line(self.code.take)}
    return [0, 0, {line(self.code.first)}]

def touch(cell):
    return [0, 0, {line(self.code.copy)}]

def more(cell, v, at, pos):
    x = {line(self.code.take)}
    {"cell[2] = " + line(self.code.step) if self.code.step else line(self.code.mutate)}
"""
        self.program = {names[name]: value for name, value in self.code.names.items()}
        exec(compile(source, "inline", "exec"), self.program)  # noqa: S102  # as the generated loop is run

    def fold(self, some: list[Event], commits: set[int]) -> tuple[Any, list[str]]:
        """The accumulator (a list of it, empty if there is none) and what was refused."""
        cell: list[Any] | None = None
        refused: list[str] = []
        committed = True
        frozen: list[tuple[Any, str]] = []
        for n, event in enumerate(some):
            if n in commits and cell is not None:
                committed = True
                frozen.append((cell, repr(cell)))
            try:
                if cell is None:
                    cell = self.program["first"](*event)
                    committed = False
                else:
                    if committed:
                        cell, committed = self.program["touch"](cell), False
                    self.program["more"](cell, *event)
            except Exception as error:  # noqa: BLE001  # whatever a user's function or an odd value raises
                refused.append(repr(error))
        assert [repr(was) for was, _ in frozen] == [then for _, then in frozen]
        return cell and cell[2:], refused


@EVERY
@given(st.one_of(events(HOSTILE), events(HOSTILE).map(crowded)), st.sets(st.integers(0, 25)))
def test_the_inline_code_is_the_fold(aggregate: Aggregate[Any, Any, Any], some: list[Event], commits: set[int]) -> None:
    """Same accumulator, same refusals for the same reason, and no committed cell is written to."""
    f = folding(aggregate)
    assert f.code is not None
    acc: list[Any] | None = None
    refused = []
    for event in some:
        try:
            acc = [f.add(f.zero() if acc is None else acc[0], f.item(*event))]
        except Exception as error:  # noqa: BLE001  # whatever a user's function or an odd value raises
            refused.append(repr(error))
    inline, inline_refused = Inline(f.code).fold(some, commits)
    assert inline_refused == refused
    assert repr(inline) == repr(acc)


@EVERY
def test_inline_code_either_steps_or_mutates(aggregate: Aggregate[Any, Any, Any]) -> None:
    """What is replaced needs no copy; what is changed in place does; user code is called in one way only."""
    code = folding(aggregate).code
    assert code is not None
    assert bool(code.step) != bool(code.mutate)
    assert (code.copy == "{a}") == bool(code.step)
    assert "\n" not in code.mutate
    assert code.names.get("f", of) in {of, identity, plus}
    assert "{f}" not in code.take.replace("{f}({v})", "")


HASHING = """
from streamproc.core.aggregates import Distinct, Quantile, TopK, folding
values = [f"user-{i % 700}" for i in range(3000)] + [("a", i) for i in range(9)] + [frozenset({"x", "y"})]
for aggregate, xs in (
    (Distinct(), values), (Quantile(0.9, lambda v: v), range(-50, 99)), (TopK(3, lambda v: v), values[:99])
):
    f = folding(aggregate)
    acc = f.zero()
    for n, x in enumerate(xs):
        acc = f.add(acc, f.item(x, n % 3, ("t", 0, n)))
    print(f.canonical(acc), f.result(acc))
"""


def test_hash_seeds_change_nothing() -> None:
    """Processes with other seeds have the same accumulators and results."""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", HASHING],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "31337")
    }
    assert len(outputs) == 1


def result(aggregate: Aggregate[Any, Any, Any], values: list[Any]) -> Any:
    """The result over values that arrive at times 0, 1, 2, ..."""
    f = folding(aggregate)
    return f.result(fold(f, [(value, n, ("t", 0, n)) for n, value in enumerate(values)]))


def test_sum_and_count() -> None:
    """A null counts; ints, decimals and fractions are exact; floats are added as they come."""
    assert result(Count(), [None, 0, "x"]) == 3
    assert result(Sum(of), [1, 10**30, -2]) == 10**30 - 1
    assert result(Sum(of), [Decimal("0.1")] * 3) == Decimal("0.3")
    assert result(Sum(of), [0.1, 0.2, 0.3]) == 0.0 + 0.1 + 0.2 + 0.3
    assert repr(result(Sum(of), [-0.0])) == "0.0"
    with pytest.raises(TypeError):
        result(Sum(of), ["a"])


def test_mean() -> None:
    """Ints are rounded once, and beyond float the mean is infinite rather than an error at close."""
    assert result(Mean(of), [1, 2, 2]) == 5 / 3
    assert result(Mean(of), [2**53, 2**53 + 2]) == 2.0**53 + 1
    assert result(Mean(of), [10**400]) == math.inf
    assert result(Mean(of), [-(10**400)]) == -math.inf


@given(st.lists(st.one_of(st.integers(), st.floats(-1e9, 1e9)), min_size=2, max_size=10))
def test_variance_and_deviation_are_those_of_the_statistics_module(xs: list[float]) -> None:
    """Those of a sample, exact and rounded once, for ints and floats together."""
    exact = [Fraction(x) for x in xs]
    assert result(Variance(of), xs) == float(statistics.variance(exact))
    assert result(StdDev(of), xs) == statistics.stdev(exact)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 9), st.integers(1, 9))
def test_a_constant_has_no_variance(x: float, n: int, m: int) -> None:
    """Exactly 0.0, merged or not; None for a single value."""
    for aggregate in (Variance(of), StdDev(of)):
        f = folding(aggregate)
        merged = f.merge(fold(f, [(x, 0, ())] * n), fold(f, [(x, 0, ())] * m))
        assert f.result(merged) == 0.0
        assert f.result(fold(f, [(x, 0, ())])) is None


@given(st.permutations([1, math.nan, -1.5, 7, math.inf]))
def test_nan_wins_in_min_and_max(values: list[float]) -> None:
    """Wherever it arrives: a fold that forgot it would depend on the order."""
    assert math.isnan(result(Min(of), values))
    assert math.isnan(result(Max(of), values))


@given(st.permutations([1, 1.0, True, Decimal(1), Decimal("1.0"), Fraction(1)]))
def test_of_equal_numbers_min_and_max_show_the_same(values: list[Any]) -> None:
    """The results are bytes in the end, and bytes may not depend on who came first."""
    assert repr(result(Min(of), values)) == repr(result(Max(of), values)) == "Decimal('1')"


def test_min_and_max_of_text() -> None:
    """Whatever `<` orders has a least and a greatest; what it does not is refused, a lone null too."""
    assert result(Min(of), ["b", "a", "c"]) == "a"
    assert result(Max(of), ["b", "a", "c"]) == "c"
    for odd in ([None], [1, "a"], [object()]):
        with pytest.raises(TypeError):
            result(Min(of), odd)


@given(events(st.integers(0, 3)).filter(bool))
def test_ordered_aggregates_go_by_time_and_position(some: list[Event]) -> None:
    """Not by arrival: they are functions of the set of records."""
    ranked = [value for value, _, _ in sorted(some, key=lambda event: event[1:])]

    def of_all(aggregate: Aggregate[Any, Any, Any]) -> Any:
        f = folding(aggregate)
        assert f.ordered
        return f.result(fold(f, some))

    assert of_all(First()) == ranked[0]
    assert of_all(Last()) == ranked[-1]
    assert of_all(Collect()) == ranked
    assert of_all(TopK(2, of)) == sorted(ranked, reverse=True)[:2]


def test_of_equal_values_the_earlier_is_kept() -> None:
    """TopK shows 1 and 1.0 in the order of their records, and drops the last."""
    f = folding(TopK(2, of))
    some: list[Event] = [(1.0, 5, ("t", 0, 0)), (True, 5, ("t", 0, 1)), (1, 4, ("t", 0, 2))]
    assert repr(f.result(fold(f, some))) == "[1, 1.0]"


def test_of_equal_times_and_positions_arrival_decides() -> None:
    """The results of one record that was made into several keep their order."""
    some: list[Event] = [(1, 1, ("t", 0, 0)), (1.0, 1, ("t", 0, 0)), (True, 1, ("t", 0, 0))]
    aggregates: list[Aggregate[Any, Any, Any]] = [First(), Last(), Collect(), TopK(2, of)]
    shown = [repr(f.result(fold(f, some))) for f in map(folding, aggregates)]
    assert shown == ["1", "True", "[1, 1.0, True]", "[1, 1.0]"]


def test_a_null_is_a_value() -> None:
    """First, last and collect show it, distinct counts it, and reduce starts with it."""
    assert result(First(), [None, 1]) is None
    assert result(Last(), [1, None]) is None
    assert result(Collect(), [None, 1]) == [None, 1]
    assert result(Distinct(), [None, None, 0]) == 2
    assert result(Reduce(lambda a, b: (a, b)), [None, 1]) == (None, 1)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=40), st.sampled_from([0.01, 0.5, 0.9, 0.99]))
def test_a_quantile_is_within_its_error(values: list[int], q: float) -> None:
    """Of the nearest rank, relative to it; zero is exact."""
    want = sorted(values)[max(1, math.ceil(Fraction(str(q)) * len(values))) - 1]
    assert abs(result(Quantile(q, of), values) - want) <= abs(want) * 0.01
    assert abs(result(Quantile(q, of, error=0.2), values) - want) <= abs(want) * 0.2


def test_distinct_is_within_its_error() -> None:
    """On a fixed set, repeated: 2% at the default precision."""
    values = [f"user-{i * i % 20_011}" for i in range(20_011)]
    assert result(Distinct(of), values) == pytest.approx(len(set(values)), rel=0.02)
    assert result(Distinct(), [True, 1, 1.0, "1", 1, True]) == 4


def test_reduce_goes_by_arrival() -> None:
    """The first value is the start."""
    assert result(Reduce(lambda a, b: f"({a}{b})"), ["a", "b", "c"]) == "((ab)c)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Quantile(0.0, of), "q must be above 0 and below 1"),
        (lambda: Quantile(1.0, of), "q must be above 0 and below 1"),
        (lambda: Quantile(99, of), "q must be above 0 and below 1"),
        (lambda: Quantile(0.5, of, error=0.0), "error must be"),
        (lambda: Quantile(0.5, of, error=1.0), "error must be"),
        (lambda: TopK(0, of), "give k=1 or more"),
        (lambda: Distinct(of, precision=2), "precision must be"),
    ],
)
def test_a_wrong_parameter_is_refused_when_it_is_written(make: Callable[[], object], message: str) -> None:
    """When the topology is built, with what to write instead."""
    with pytest.raises(ValueError, match=message):
        make()


class Longest:
    """A user's aggregate: nothing but the four methods."""

    def zero(self) -> str:
        """Nothing."""
        return ""

    def add(self, acc: str, value: str) -> str:
        """The longer one."""
        return max(acc, value, key=len)

    def merge(self, left: str, right: str) -> str:
        """The longer one."""
        return max(left, right, key=len)

    def result(self, acc: str) -> int:
        """Its length."""
        return len(acc)


def test_an_own_aggregate_needs_four_methods() -> None:
    """It gets the value itself, is called as it is, and nothing is assumed about its accumulators."""
    f = folding(Longest())
    assert (f.ordered, f.code) == (False, None)
    assert result(Longest(), ["a", "ccc", "bb"]) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(Count, r"write Count\(...\)"), (len, "lacks zero, add, merge, result"), ("sum", "str is no aggregate")],
)
def test_what_is_no_aggregate_is_refused(wrong: Any, message: str) -> None:
    """With what it lacks."""
    with pytest.raises(TypeError, match=message):
        folding(wrong)


def test_aggregates_are_values() -> None:
    """Equal parameters make equal aggregates, and nobody changes one."""
    assert Quantile(0.5, of) == Quantile(0.5, of)
    assert Quantile(0.5, of) != Quantile(0.5, of, error=0.02)
    assert First() == First(identity)
    assert hash(Distinct(of)) == hash(Distinct(of))
    with pytest.raises(AttributeError):
        TopK(1, of).k = 2  # type: ignore[misc]
