"""The sketches keep their error, and are functions of what they have seen and of nothing else."""

import math
import random as chance
import statistics
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.core import sketches
from streamproc.core.sketches import Buckets, Registers, canonical_bytes

ERRORS = st.sampled_from([0.001, 0.01, 0.1, 0.5, 0.9])
SMALL = st.integers(-3, 3)
# A subnormal float has too few digits to be near anything.
NUMBERS = st.one_of(
    SMALL,
    st.integers(-(10**400), 10**400),
    st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False),
    st.decimals(-1000, 1000, places=3),
    st.fractions(-5, 5, max_denominator=50),
)


def exact(x: object) -> Fraction:
    """The number itself, so that nothing is rounded when errors are measured."""
    assert isinstance(x, int | float | Decimal | Fraction)
    return Fraction(x)


def nearest_rank(xs: list[object], q: Fraction) -> Fraction:
    """The definition: the ceil(q * n)-th smallest."""
    ranked = sorted(map(exact, xs))
    return ranked[max(1, math.ceil(q * len(ranked))) - 1]


@given(NUMBERS, ERRORS)
def test_a_bucket_stands_for_its_numbers_within_the_error(x: float, error: float) -> None:
    """Any number is as near to the value of its bucket as was asked for, whatever its size and sign."""
    buckets = Buckets(error)
    assert abs(exact(buckets.value(buckets.index(x))) - exact(x)) <= abs(exact(x)) * exact(error)


@given(st.lists(NUMBERS, max_size=20), ERRORS)
def test_buckets_keep_the_order_of_numbers(xs: list[float], error: float) -> None:
    """A greater number never has a smaller index; zero is index 0 and negatives are below it."""
    buckets = Buckets(error)
    indices = [buckets.index(x) for x in sorted(xs)]
    assert indices == sorted(indices)
    assert [i > 0 for i in indices] == [x > 0 for x in sorted(xs)]
    assert [buckets.index(-x) for x in xs] == [-buckets.index(x) for x in xs]


@given(
    st.lists(st.one_of(SMALL, NUMBERS), min_size=1, max_size=30),
    st.integers(1, 99),
    ERRORS,
)
def test_a_quantile_is_near_the_nearest_rank(xs: list[object], percent: int, error: float) -> None:
    """The histogram loses the digits of a number, never its rank."""
    buckets = Buckets(error)
    counts: dict[int, int] = {}
    for x in xs:
        index = buckets.index(x)  # type: ignore[arg-type]
        counts[index] = counts.get(index, 0) + 1
    got = buckets.quantile(counts, percent / 100)
    want = nearest_rank(xs, Fraction(percent, 100))
    assert got is not None
    assert abs(exact(got) - want) <= abs(want) * exact(error)


def test_a_quantile_is_read_as_the_decimal_it_is_written_as() -> None:
    """0.07 of 100 records is the seventh, though the float 0.07 times 100 is a little more than 7."""
    buckets = Buckets(1e-6)
    counts = {buckets.index(x): 1 for x in range(1, 101)}
    got = [buckets.quantile(counts, percent / 100) for percent in range(1, 100)]
    assert got == pytest.approx(list(range(1, 100)), rel=1e-6)
    assert buckets.quantile({}, 0.5) is None


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf, Decimal("1e999"), Fraction(1, 10**400)])
def test_what_is_no_finite_number_has_no_bucket(x: float) -> None:
    """NaN, the infinities and what no float comes near are refused, with the number in the message."""
    with pytest.raises(ValueError, match="takes finite numbers"):
        Buckets(0.01).index(x)


@pytest.mark.parametrize("error", [0.0, -0.1, 1.0, 2.0, 1e-10, math.nan])
def test_an_error_outside_its_range_is_refused(error: float) -> None:
    """A relative error is above nothing and below everything."""
    with pytest.raises(ValueError, match=r"0\.01 is one percent"):
        Buckets(error)


@pytest.mark.parametrize("precision", [4, 8, 12])
@pytest.mark.parametrize("n", [0, 1, 2, 10, 100, 1_000, 10_000, 50_000])
def test_the_estimate_is_within_three_standard_errors(n: int, precision: int) -> None:
    """Across the sparse form, the dense form and the change between them."""
    registers = Registers(precision)
    seen: list[int] = []
    for i in range(n):
        registers.note(seen, registers.code(f"user-{i}"))
    assert abs(registers.estimate(seen) - n) <= max(0.5, 3 * n * 1.04 / math.sqrt(1 << precision))


def test_a_few_values_are_counted_to_within_one() -> None:
    """At the default precision, and only because two of a hundred may meet in one register."""
    registers = Registers(12)
    seen: list[int] = []
    estimates = []
    for i in range(100):
        registers.note(seen, registers.code(i))
        estimates.append(registers.estimate(seen))
    assert {got - n for n, got in enumerate(estimates, 1)} <= {-1, 0, 1}


@given(st.lists(st.integers(0, 60), max_size=60), st.integers(0, 60), st.randoms())
def test_registers_follow_from_the_set_alone(values: list[int], cut: int, random: chance.Random) -> None:
    """Order, repetition and grouping leave no trace, on both sides of the change of form (4 of 16)."""
    registers = Registers(4)

    def fold(part: list[int]) -> list[int]:
        seen: list[int] = []
        for value in part:
            registers.note(seen, registers.code(value))
        return seen

    shuffled = random.sample(values, len(values))
    union = registers.union(fold(shuffled[:cut]), fold(shuffled[cut:] + shuffled[:5]))
    assert union == fold(values) == fold(sorted(set(values)))
    assert len(union) < 4 or len(union) == 16


@pytest.mark.parametrize("precision", [3, 19, -1])
def test_a_precision_outside_its_range_is_refused(precision: int) -> None:
    """Fewer registers mean nothing, more do not fit."""
    with pytest.raises(ValueError, match="precision must be 4 to 18"):
        Registers(precision)


class Colour(Enum):
    """An enum with text."""

    RED = "red"


class Level(IntEnum):
    """An enum with numbers."""

    LOW = 1


@dataclass
class Point:
    """A dataclass as a value."""

    x: int
    y: int


class Place(msgspec.Struct):
    """A struct with the fields of `Point`, in another order."""

    y: int
    x: int


def test_values_are_the_same_iff_their_json_texts_are() -> None:
    """One group a line: equal within it, different from all others."""
    groups: list[list[object]] = [
        [1, Level.LOW],
        [1.0],
        [True],
        ["1", Decimal(1), Fraction(1)],
        [b"1", bytearray(b"1")],
        [None],
        [0.0],
        [-0.0],
        [math.nan, -math.nan, float("nan")],
        ["red", Colour.RED],
        [(1, 2), [1, 2]],
        [{"x": 1, "y": 2}, {"y": 2, "x": 1}, Point(1, 2), Place(2, 1)],
        [{1, "1"}, frozenset(["1", 1])],
        [date(2026, 1, 2), "2026-01-02"],
        [datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"],
        [UUID(int=7), str(UUID(int=7))],
        ['a"', 'a"'],
        ['"a'],
        ["\ud800"],
        [""],
    ]
    texts = [{canonical_bytes(value) for value in group} for group in groups]
    assert [len(text) for text in texts] == [1] * len(groups)
    assert len(set.union(*texts)) == len(groups)


@pytest.mark.parametrize("value", [object(), Point, Registers(4).code])
def test_what_has_no_text_cannot_be_told_apart(value: object) -> None:
    """An object without fields would be told apart by its address, which no restart keeps."""
    with pytest.raises(TypeError, match="let of= give text"):
        canonical_bytes(value)


def moments(xs: list[float]) -> list[int]:
    """All values folded."""
    folded = list(sketches.NOTHING)
    for x in xs:
        folded = sketches.moments_with(folded, sketches.ratio(x))
    return folded


FINITE = st.one_of(SMALL, st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers())


@given(st.lists(FINITE, min_size=2, max_size=12))
def test_variance_is_the_exact_one_rounded_once(xs: list[float]) -> None:
    """No cancellation and no order: what fractions give, as the nearest float."""
    mean = sum(map(Fraction, xs)) / len(xs)
    squares = sum(((Fraction(x) - mean) ** 2 for x in xs), Fraction())
    assert sketches.variance(moments(xs)) == float(squares / (len(xs) - 1))
    assert sketches.deviation(moments(xs)) == statistics.stdev([Fraction(x) for x in xs])


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(2, 20))
def test_a_constant_does_not_vary(x: float, n: int) -> None:
    """Exactly 0.0, for 0.1 and 1e308 too."""
    assert sketches.variance(moments([x] * n)) == 0.0
    assert sketches.deviation(moments([x] * n)) == 0.0


def test_a_root_just_above_the_middle_of_two_floats_is_rounded_up() -> None:
    """Digits beyond those that are computed are not forgotten."""
    a = 1 + Fraction(1, 2**53) + Fraction(1, 2**90)
    assert sketches.deviation(moments([-a, 0, a])) == 1 + 2.0**-52  # type: ignore[list-item]


def test_moments_at_the_edges_of_float() -> None:
    """A variance beyond float is infinite, its root need not be; infinities make NaN; one value has none."""
    huge = moments([1e200, -1e200])
    assert sketches.variance(huge) == math.inf
    assert sketches.deviation(huge) == pytest.approx(math.sqrt(2) * 1e200, rel=1e-15)
    assert sketches.deviation(moments([1e-200, -1e-200])) == pytest.approx(math.sqrt(2) * 1e-200, rel=1e-15)
    for odd in (math.nan, math.inf, -math.inf):
        poisoned = moments([1.0, odd, 2.0])
        assert poisoned == moments([odd, 0.5, 2.0]) == [3, 0, 0, 0]
        assert math.isnan(sketches.variance(poisoned) or 0.0)
        assert math.isnan(sketches.deviation(poisoned) or 0.0)
        assert sketches.variance(moments([odd])) is None
    assert sketches.variance(moments([1.0])) is None
    assert sketches.deviation(moments([])) is None


def test_text_is_no_number() -> None:
    """The message says what to change."""
    with pytest.raises(TypeError, match="not str: convert it in of="):
        sketches.ratio("1")  # type: ignore[arg-type]
