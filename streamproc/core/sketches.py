"""Summaries of many numbers or things in little space.

    Buckets     quantiles from counts in logarithmic buckets        {index: count}
    Registers   number of different values, HyperLogLog             [code, ...] or [rank] * 2**precision
    moments     exact sums of values and squares                    [n, denominator, total, squares]

The law: a summary is a function of the multiset it has seen.  Neither the order, nor the grouping, nor a hash
seed, nor chance can change it, so that a restart, a merge of sessions or a commit is invisible in it.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, time
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from hashlib import blake2b
from typing import Final, cast

LEAST_ERROR = 1e-9
"""The smallest relative error of `Buckets`: below it a float's logarithm cannot tell the buckets apart."""

_LN2 = math.log(2)
_RANK_BITS = 6
_RANK_MASK = (1 << _RANK_BITS) - 1
_HASH_BITS = 64


@dataclass(frozen=True, slots=True)
class Buckets:
    """A map of finite numbers to buckets, and of buckets to one number within `error` of all in them.

    The mapping is that of DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019).  With g = (1 + error) / (1 -
    error), bucket i of the positive numbers is (g**(i-1), g**i].  The indices here are shifted and signed so
    that their order is that of the numbers: 0 holds zero, what is below it the negatives.

        x      -100    -1     0     1    100
        index  -37484 -37254  0   37254 37484          (error 0.01)

    ValueError for an error that is not in [1e-9, 1).
    """

    error: float
    _width: float = field(init=False, repr=False, compare=False)
    _scale: float = field(init=False, repr=False, compare=False)
    _shift: int = field(init=False, repr=False, compare=False)
    _centre: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not LEAST_ERROR <= self.error < 1:
            raise ValueError(f"error must be from {LEAST_ERROR} to below 1, not {self.error!r}: 0.01 is one percent")
        tight = self.error - LEAST_ERROR / 1000  # room for the rounding of log and exp
        width = 2 * math.atanh(tight)
        for name, value in (
            ("_width", width),
            ("_scale", 1 / width),
            ("_shift", math.ceil(745 / width) + 1),  # the logarithm of the least float is above -745
            ("_centre", math.log1p(-tight)),
        ):
            object.__setattr__(self, name, value)

    def index(self, x: float) -> int:
        """The bucket of an int, float, Decimal or Fraction.  ValueError if not finite or beyond float."""
        try:
            if x > 0:
                return math.ceil(math.log(x) * self._scale) + self._shift
            if x < 0:
                return -math.ceil(math.log(-x) * self._scale) - self._shift
            if x == 0:
                return 0
        except (OverflowError, ValueError):  # infinity, or a Decimal that becomes one
            pass
        raise ValueError(f"a quantile takes finite numbers, not {x!r}")

    def value(self, index: int) -> float:
        """The number that stands for bucket `index`: an int where no float is that large."""
        if index == 0:
            return 0.0
        exponent = (abs(index) - self._shift) * self._width + self._centre
        size: float
        try:
            size = math.exp(exponent)
        except OverflowError:
            halvings = int(exponent / _LN2) - _HASH_BITS
            size = int(math.exp(exponent - halvings * _LN2)) << halvings
        return size if index > 0 else -size

    def quantile(self, counts: dict[int, int], q: float) -> float | None:
        """The q-quantile by nearest rank: the ceil(q * n)-th smallest, within `error`.  None for no counts.

        `q` is read as the decimal it is written as, so that 0.07 of 100 is the 7th and not the 8th.
        """
        above, below = Decimal(repr(q)).as_integer_ratio()
        left = max(1, -(-above * sum(counts.values()) // below))
        for index in sorted(counts):
            left -= counts[index]
            if left <= 0:
                return self.value(index)
        return None


@dataclass(frozen=True, slots=True)
class Registers:
    """HyperLogLog: an estimate of the number of different values from 2**precision registers.

    The standard error is 1.04 / sqrt(2**precision): 1.6% at 12; below about 2**precision / 10 values it is
    far less.  A list holds the registers: the few in use as sorted codes (register * 64 + rank) while there
    are fewer than a quarter of them, all ranks from then on.  Which of the two follows from the values, so
    equal sets are equal lists.

    Flajolet et al., "HyperLogLog", 2007; the estimator is Algorithm 6 of Ertl, "New cardinality estimation
    algorithms for HyperLogLog sketches", 2017, which needs neither tables nor a switch between ranges.
    ValueError for a precision outside 4 to 18.
    """

    precision: int

    def __post_init__(self) -> None:
        if not 4 <= self.precision <= 18:  # noqa: PLR2004
            raise ValueError(f"precision must be 4 to 18, not {self.precision!r}: 12 errs by 1.6% in at most 36 KB")

    def code(self, value: object) -> int:
        """Register and rank of a value in one number.  TypeError as in `canonical_bytes`."""
        digest = int.from_bytes(blake2b(canonical_bytes(value), digest_size=8).digest(), "big")
        rest_bits = _HASH_BITS - self.precision
        rank = rest_bits - (digest & ((1 << rest_bits) - 1)).bit_length() + 1
        return digest >> rest_bits << _RANK_BITS | rank

    def note(self, registers: list[int], code: int) -> None:
        """Take a code into the list, in place."""
        size = 1 << self.precision
        register = code >> _RANK_BITS
        if len(registers) == size:
            registers[register] = max(registers[register], code & _RANK_MASK)
            return
        i = bisect_left(registers, register << _RANK_BITS)
        if i < len(registers) and registers[i] >> _RANK_BITS == register:
            registers[i] = max(registers[i], code)
            return
        registers.insert(i, code)
        if len(registers) == size >> 2:
            registers[:] = self._dense(registers)

    def union(self, left: Sequence[int], right: Sequence[int]) -> list[int]:
        """The registers of all that either has seen, as a new list."""
        size = 1 << self.precision
        if len(left) == size == len(right):
            return list(map(max, left, right))
        few, many = sorted((left, right), key=len)
        union = list(many)
        for code in few:
            self.note(union, code)
        return union

    def estimate(self, registers: Sequence[int]) -> int:
        """How many different values were seen, rounded to a whole number."""
        size = 1 << self.precision
        top = _HASH_BITS - self.precision
        tally = [0] * (top + 2)
        for rank in registers if len(registers) == size else self._dense(registers):
            tally[rank] += 1
        z = size * _tau(1 - tally[top + 1] / size)
        for rank in range(top, 0, -1):
            z = (z + tally[rank]) / 2
        z += size * _sigma(tally[0] / size)
        return round(size * size / (2 * _LN2 * z))

    def _dense(self, codes: Iterable[int]) -> list[int]:
        ranks = [0] * (1 << self.precision)
        for code in codes:
            ranks[code >> _RANK_BITS] = code & _RANK_MASK
        return ranks


def _sigma(x: float) -> float:
    """The sum of x and all x**(2**k) * 2**(k-1), k from 1: the empty registers (Ertl, Algorithm 6)."""
    total, weight, before = x, 1.0, -1.0
    while total != before:
        x *= x
        before = total
        total += x * weight
        weight *= 2
    return total


def _tau(x: float) -> float:
    """A third of 1 - x - sum of (1 - x**(2**-k))**2 * 2**-k, k from 1: the full registers (the same)."""
    if x in {0.0, 1.0}:
        return 0.0
    total, weight, before = 1 - x, 1.0, -1.0
    while total != before:
        x = math.sqrt(x)
        before = total
        weight /= 2
        total -= (1 - x) ** 2 * weight
    return total / 3


def canonical_bytes(value: object) -> bytes:
    """Bytes that are equal iff two values have the same JSON text, whatever the process and its hash seed.

    So `True`, `1`, `1.0` and `"1"` are four values, and `(1, 2)` and `[1, 2]` are one; the order of an
    object's fields does not count, all NaN are one value and `-0.0` is not `0.0`.  What JSON lacks is written
    so: dates and times as ISO 8601 text, Decimal, Fraction and UUID as text, an enum as its value,
    dataclasses and structs as their fields, a set as its sorted texts, bytes as an object of their own (no
    text equals them).  TypeError for any other type, ValueError for an int of more digits than Python prints.
    """
    if type(value) is int:
        return b"%d" % value
    return _JSON.encode(value).encode("ascii")


def _jsonable(value: object) -> object:
    """What the json module shall write in place of a value it does not know."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, Decimal | Fraction) or type(value).__name__ == "UUID":  # the uuid module is not pure
        return str(value)
    if isinstance(value, bytes | bytearray):
        return {"\0": value.hex()}
    if isinstance(value, AbstractSet):
        return sorted(_JSON.encode(member) for member in cast("AbstractSet[object]", value))
    return {name: getattr(value, name) for name in _fields(value)}


def _fields(value: object) -> Iterable[str]:
    """The names of the fields of a dataclass or a struct.  TypeError if it is neither."""
    if not isinstance(value, type):
        if is_dataclass(value):
            return [f.name for f in fields(value)]
        names = getattr(value, "__struct_fields__", None)
        if isinstance(names, tuple):
            return cast("tuple[str, ...]", names)
    kind = type(value).__name__
    raise TypeError(f"cannot tell values of type {kind} apart: let of= give text, a number or a tuple of them")


_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_jsonable)


NOTHING: Final = (0, 1, 0, 0)
"""The moments of no values."""


def ratio(x: float) -> tuple[int, int]:
    """A number as a reduced fraction (above, below); (0, 0) if it is not finite.  TypeError for no number."""
    try:
        return x.as_integer_ratio()
    except (OverflowError, ValueError):  # infinity, NaN
        return 0, 0
    except AttributeError:
        raise TypeError(f"a variance takes numbers, not {type(x).__name__}: convert it in of=") from None


def moments_of(x: tuple[int, int]) -> list[int]:
    """The moments `[n, denominator, total, squares]` of one fraction.

    The sum is total / denominator and the sum of squares is squares / denominator**2, both exact: every
    finite float, Decimal and Fraction is a fraction of whole numbers, and nothing is rounded before the
    result is.  The denominator is the least that serves all values, so equal multisets have equal moments.  A
    denominator of 0 says that some value was not finite; it then stays so.
    """
    above, below = x
    return [1, below, above, above * above]


def moments_with(moments: Sequence[int], x: tuple[int, int]) -> list[int]:
    """The moments with one more fraction, as a new list."""
    n, denominator, total, squares = moments
    above, below = x
    if below and denominator % below == 0:
        above *= denominator // below
        return [n + 1, denominator, total + above, squares + above * above]
    return moments_merged(moments, moments_of(x))


def moments_merged(left: Sequence[int], right: Sequence[int]) -> list[int]:
    """The moments of all values of both, as a new list."""
    n, denominator, total, squares = left
    other_n, other_denominator, other_total, other_squares = right
    common = math.lcm(denominator, other_denominator)
    if common == 0:
        return [n + other_n, 0, 0, 0]
    a, b = common // denominator, common // other_denominator
    return [n + other_n, common, total * a + other_total * b, squares * a * a + other_squares * b * b]


def variance(moments: Sequence[int]) -> float | None:
    """The variance of a sample (n - 1), rounded once.  None for one value, NaN if one was not finite."""
    above, below = _variance(moments)
    if below == 0:
        return math.nan if moments[0] > 1 else None
    try:
        return above / below
    except OverflowError:
        return math.inf


def deviation(moments: Sequence[int]) -> float | None:
    """The square root of the variance, rounded once, also where no float holds the variance itself."""
    above, below = _variance(moments)
    if below == 0:
        return math.nan if moments[0] > 1 else None
    # An integer root of at least 64 bits, its last bit set if more would follow, rounds to the right float.
    shift = max(0, 64 - (above.bit_length() - below.bit_length()) // 2)
    square, rest = divmod(above << 2 * shift, below)
    root = math.isqrt(square)
    return math.ldexp(root | (rest > 0 or root * root != square), -shift)


def _variance(moments: Sequence[int]) -> tuple[int, int]:
    """Numerator and denominator; the latter is 0 if there is no variance."""
    n, denominator, total, squares = moments
    return n * squares - total * total, n * (n - 1) * denominator * denominator
