"""State as bytes and back: exact, the same in every process, and harmless whatever the bytes say."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
import struct
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.adapters.packing import DEPTH, merge, pack, pack_each, pack_rows, unpack, unpack_each
from streamproc.core.errors import StateError


class Point(msgspec.Struct, frozen=True):
    """A struct, one field with a default."""

    x: Any
    y: Any = 0


class Grown(msgspec.Struct):
    """A struct that changes what it is given, once."""

    n: Any

    def __post_init__(self) -> None:
        self.n += 1


@dataclasses.dataclass(frozen=True, slots=True)
class Classic:
    """A dataclass that counts its own making."""

    x: Any
    y: list[Any] = dataclasses.field(default_factory=list)
    made: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        raise AssertionError("reading state runs no user code")


@attrs.define
class Attrs:
    """An attrs class."""

    x: Any
    _y: Any = attrs.field(factory=list)


class Pair(NamedTuple):
    """A named tuple."""

    left: Any
    right: Any


class Colour(enum.Enum):
    """An enum."""

    RED = object()


class Right(enum.Flag):
    """A flag."""

    READ = 1
    WRITE = 2


class Number(enum.IntEnum):
    """An enum that is an int."""

    ONE = 1


class Slotted:
    """A plain class that names its state."""

    __state_fields__ = ("a", "b")
    __slots__ = ("a", "b")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and same(self.a, other.a) and not hasattr(other, "b")

    __hash__ = None  # type: ignore[assignment]
    a: Any
    b: Any


class Outer:
    """Not a value class itself."""

    class Inner(msgspec.Struct):
        """But what it holds may be one."""

        x: int


def slotted(value: Any) -> Slotted:
    """A Slotted whose second field was never set."""
    made = Slotted()
    made.a = value
    return made


def classic(value: Any) -> Classic:
    """A Classic made without its __init__."""
    made = object.__new__(Classic)
    for name, each in (("x", value), ("y", [1]), ("made", 7)):
        object.__setattr__(made, name, each)
    return made


def same(one: Any, other: Any) -> bool:  # noqa: PLR0911 - one case a kind of value
    """Equal, of equal types, all the way down, in order; NaN equals itself and -0.0 not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, (set, frozenset)):
        return same(sorted(map(pack, one)), sorted(map(pack, other)))
    if isinstance(one, (datetime, time)):
        return (repr(one), one.fold, one.tzinfo) == (repr(other), other.fold, other.tzinfo)
    if isinstance(one, (Decimal, enum.Enum)):
        return repr(one) == repr(other)
    if dataclasses.is_dataclass(one) or isinstance(one, msgspec.Struct) or attrs.has(type(one)):
        names = [*getattr(type(one), "__annotations__", ())]
        return all(same(getattr(one, name), getattr(other, name)) for name in names)
    return bool(one == other)


zones = st.sampled_from(
    [
        None,
        UTC,
        timezone(timedelta(seconds=3661)),
        timezone(timedelta(hours=-5), "X"),
        ZoneInfo("Europe/Berlin"),
    ]
)
hashable = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**63) - 2, max_value=2**64 + 2)
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.text(st.characters(categories=["Cs"]), max_size=2)
    | st.binary(max_size=5)
    | st.datetimes(timezones=zones)
    | st.dates()
    | st.times(timezones=zones)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.just(Decimal("-NaN"))
    | st.uuids()
    | st.sampled_from([Colour.RED, Right.READ, Right.READ | Right.WRITE, Right(0), Number.ONE])
)
tree = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.dictionaries(st.tuples(hashable), inner, max_size=2)
        | st.sets(hashable, max_size=4)
        | st.frozensets(st.tuples(hashable, hashable), max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Pair, inner, inner)
        | st.builds(Attrs, inner, inner)
        | inner.map(classic)
        | inner.map(slotted)
        | st.builds(Outer.Inner, st.integers())
        | st.binary(max_size=3).map(bytearray)
    ),
    max_leaves=12,
)


@given(tree)
def test_what_is_packed_is_unpacked(value: Any) -> None:
    """Every value comes back with its types, its order, its NaNs and its signed zeros."""
    assert same(unpack(pack(value)), value)


@given(tree)
def test_the_same_value_gives_the_same_bytes(value: Any) -> None:
    """Packing what was unpacked changes nothing."""
    packed = pack(value)
    assert pack(unpack(packed)) == packed


alike = st.sampled_from(
    [st.integers(), st.text(max_size=3), st.builds(Point, st.integers()), st.builds(Point, tree), tree]
)


@given(st.lists(tree, max_size=5))
def test_many_at_once_are_packed_as_one_by_one(values: list[Any]) -> None:
    """Nobody can tell."""
    packed = list(map(pack, values))
    assert pack_each(values) == packed
    assert same(unpack_each(packed), values)


@given(st.lists(alike, min_size=1, max_size=3), st.integers(0, 4), st.data())
def test_rows_are_packed_as_lists(kinds: list[st.SearchStrategy[Any]], count: int, data: st.DataObject) -> None:
    """Whatever their columns hold: plain values, records of one class, or all sorts."""
    columns = [data.draw(st.lists(kind, min_size=count, max_size=count)) for kind in kinds]
    assert pack_rows(columns) == [pack(list(row)) for row in zip(*columns, strict=True)]


def test_what_cannot_be_packed_fails_among_many() -> None:
    """With the same words."""
    endless: list[Any] = []
    endless.append(endless)
    for value, words in ((object(), "use a dataclass"), (endless, "nested")):
        with pytest.raises(StateError, match=words):
            pack_each([1, value])
        with pytest.raises(StateError, match=words):
            pack_rows([[1, 2], ["a", value]])
    with pytest.raises(StateError, match="damaged"):
        unpack_each([pack(1), b""])


def test_a_struct_is_made_from_the_class_that_now_has_its_name() -> None:
    """Also where it was read before that class was defined anew, as in a notebook."""
    module = sys.modules[__name__]
    for field in ("n", "n", "m"):
        made = msgspec.defstruct("Anew", [(field, int)], module=__name__)
        vars(module)["Anew"] = made
        packed = pack(made(1))
        for _ in range(2):
            assert type(unpack(packed)) is made
    vars(module)["Anew"] = msgspec.defstruct("Anew", [("n", int), ("m", int, 2)], module=__name__, kw_only=True)
    old = stored(18, msgspec.msgpack.encode([f"{__name__}:Anew", ["n"]]), 1)
    for _ in range(2):
        back = unpack(old)
        assert (back.n, back.m) == (1, 2)
        with pytest.raises(StateError):
            unpack(stored(18, msgspec.msgpack.encode([f"{__name__}:Anew", ["n"]]), 1, 2))
    del vars(module)["Anew"]
    with pytest.raises(StateError, match="Anew"):
        unpack(packed)


cells = st.dictionaries(st.text(max_size=3) | st.binary(max_size=3), st.none() | st.lists(tree, max_size=4), max_size=6)


@given(cells)
def test_a_block_of_cells_is_kept(block: dict[str | bytes, list[Any] | None]) -> None:
    """Canonical keys of both kinds, removed cells and entries of all sorts, in order."""
    assert same(unpack(pack(block)), block)


@given(st.lists(cells, max_size=4), st.booleans())
def test_merged_blocks_hold_the_newest_entries(blocks: list[Any], keep_removals: bool) -> None:  # noqa: FBT001 - Hypothesis gives it
    """As dicts do, with removals kept only where something older may follow."""
    newest: dict[Any, Any] = {}
    for block in blocks:
        newest.update(block)
    if not keep_removals:
        newest = {key: entry for key, entry in newest.items() if entry is not None}
    assert merge(map(pack, blocks), keep_removals=keep_removals) == (pack(newest) if newest else None)


def test_a_block_that_is_none_is_damage() -> None:
    """Merging finds it."""
    for raw in (b"", pack(1), pack([]), b"\xff"):
        with pytest.raises(StateError, match="damaged"):
            merge([raw], keep_removals=True)


@given(st.lists(st.lists(st.integers() | st.floats() | st.text(), max_size=3), max_size=3))
def test_plain_values_are_plain_messagepack(value: Any) -> None:
    """Where MessagePack has it all, another reader of it can read state."""
    for each in value:
        each[:] = [one for one in each if type(one) is not int or -(2**63) <= one < 2**64]
    assert same(msgspec.msgpack.decode(pack(value)), value)


def test_bytes_do_not_depend_on_hash_seeds() -> None:
    """Sets are written in the order of their members' bytes."""
    code = (
        "from streamproc.adapters.packing import pack;"
        "print(pack({'a', 'b', 'c', 'dd', (1, 'x'), frozenset('xyz')}).hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd())},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


@given(st.binary(max_size=40))
def test_any_bytes_give_a_value_or_a_state_error(raw: bytes) -> None:
    """Damage is one kind of error."""
    with suppress(StateError):
        unpack(raw)


@given(tree, st.data())
def test_a_changed_byte_gives_a_value_or_a_state_error(value: Any, data: st.DataObject) -> None:
    """Also close to real state."""
    packed = bytearray(pack(value))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] = data.draw(st.integers(0, 255))
    with suppress(StateError):
        unpack(bytes(packed))


@pytest.mark.parametrize("code", range(-3, 20))
@given(packed=st.one_of(st.binary(max_size=9), tree.map(pack)))
def test_a_tag_before_anything_gives_a_value_or_a_state_error(code: int, packed: bytes) -> None:
    """A part of another kind than its tag says is damage."""
    with suppress(StateError):
        unpack(msgspec.msgpack.encode(msgspec.msgpack.Ext(code, packed)))


def test_depth_is_bounded() -> None:
    """State nested beyond the bound is refused when written, and no stored bytes overflow the stack."""
    value: Any = 1
    for _ in range(DEPTH):
        value = [value]
    assert unpack(pack(value)) == value
    for deeper in ([value], (value,), {"a": value}, Point(value)):
        with pytest.raises(StateError, match="nested"):
            pack(deeper)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(StateError, match="nested"):
        pack(endless)
    packed = b"\x00"
    for _ in range(2_000):
        packed = msgspec.msgpack.encode(msgspec.msgpack.Ext(3, packed))
    for raw in (b"\x91" * 100_000, packed):
        with pytest.raises(StateError):
            unpack(raw)


class Zone(tzinfo):
    """A time zone of the user's own."""

    def utcoffset(self, _: datetime | None, /) -> timedelta:
        """Never asked for."""
        return timedelta(0)

    def dst(self, _: datetime | None, /) -> timedelta:
        """Never asked for."""
        return timedelta(0)

    def tzname(self, _: datetime | None, /) -> str:
        """Never asked for."""
        return "own"


class Listed(list[int]):
    """A list with a name."""


@dataclasses.dataclass
class Counting(dict[str, int]):
    """A dataclass that is more than its fields."""

    n: int = 0


def test_what_cannot_be_kept_says_what_to_do() -> None:
    """Classes that are not found again, or are more than their fields, are refused when written."""

    @dataclasses.dataclass
    class Local:
        x: int

    for value, words in [
        (object(), "use a dataclass"),
        (Listed(), "use a dataclass"),
        (Counting(), "use a dataclass"),
        (len, "use a dataclass"),
        (Local(1), "top of its module"),
        (datetime(2026, 1, 1, tzinfo=Zone()), "use datetime.UTC"),
    ]:
        with pytest.raises(StateError, match=words):
            pack([value])


def stored(code: int, *parts: Any) -> bytes:
    """An Ext as a file might hold it."""
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, msgspec.msgpack.encode(parts)))


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "builtins:eval",
        "builtins:dict",
        "subprocess:Popen",
        "nowhere.at.all:Thing",
        "this:s",
        "",
        ":",
        "sys:",
        "os:environ.__class__",
        f"{__name__}:slotted",
        f"{__name__}:Point.x",
        f"{__name__}:Outer",
    ],
)
def test_stored_bytes_import_nothing_and_call_nothing(name: str) -> None:
    """A name leads to a value class of a loaded module, or nowhere; `this` would print, were it imported."""
    shapes: list[tuple[Any, ...]]
    for code in (13, 14, 15, 16, 18):
        shapes = [(name, "x"), (name, ["x"], 1), (name, {"__dict__": {}})]
        if code == 18:
            shapes = [(msgspec.msgpack.encode([name, ["x"]]), 1), (msgspec.msgpack.encode([name, []]),), (name, 1)]
        for parts in shapes:
            with pytest.raises(StateError):
                unpack(stored(code, *parts))
    assert "this" not in sys.modules


def test_a_class_may_gain_fields_with_defaults_and_nothing_else() -> None:
    """What was stored before a class changed is read where that is safe, and else refused with its name."""
    here = __name__
    assert unpack(stored(15, f"{here}:Point", ["x"], 1)) == Point(1, 0)
    assert same(unpack(stored(15, f"{here}:Attrs", ["x"], 1)), Attrs(1, []))
    changed: list[tuple[Any, ...]] = [
        (15, f"{here}:Point", ["y"], 1),
        (15, f"{here}:Point", ["x", "z"], 1, 2),
        (15, f"{here}:Classic", ["y"], 1),
        (14, f"{here}:Pair", 1),
        (13, f"{here}:Number", "TWO"),
        (13, f"{here}:Point", "x"),
    ]
    for code, *parts in changed:
        with pytest.raises(StateError, match=f"{here}:.*changed"):
            unpack(stored(code, *parts))
    assert same(unpack(stored(15, f"{here}:Classic", ["x"], 1)), object_of(Classic, x=1, y=[], made=0))


def object_of(kind: type, **values: Any) -> Any:
    """An instance made field by field."""
    made: Any = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def test_a_struct_comes_back_as_it_was_whatever_its_post_init_does() -> None:
    """The fields stored win over the fields made."""
    value = Grown(1)
    assert value.n == 2
    for _ in range(2):
        assert unpack(pack(value)).n == 2


def test_fields_are_found_by_name_however_often_they_were_read() -> None:
    """Their order when they were written counts, and one that is missing is damage."""
    point = Point(1, 2)
    for names, values in ((["x", "y"], (1, 2)), (["y", "x"], (2, 1))):
        schema = msgspec.msgpack.encode([f"{__name__}:Point", names])
        for _ in range(2):
            assert unpack(stored(18, schema, *values)) == point
        for wrong in (values[:1], (*values, 3), ()):
            with pytest.raises(StateError, match="damaged"):
                unpack(stored(18, schema, *wrong))


def test_pydantic_models_are_kept() -> None:
    """Fields, which of them were set, and extras."""
    pydantic = pytest.importorskip("pydantic")
    module = sys.modules[__name__]
    model = pydantic.create_model("Model", __module__=__name__, n=(int, ...), t=(tuple[int, int], (1, 2)))
    vars(module)["Model"] = model
    back = unpack(pack(model(n=1)))
    assert back == model(n=1)
    assert back.model_fields_set == {"n"}
    assert back.t == (1, 2)
    del vars(module)["Model"]


def test_special_floats_keep_every_bit() -> None:
    """NaN, the infinities and minus zero."""
    value = [math.nan, math.inf, -math.inf, -0.0, 5e-324]
    assert [struct.pack("d", each) for each in unpack(pack(value))] == [struct.pack("d", each) for each in value]
    assert unpack(pack((date.min, datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC), time.min, timedelta.max))) == (
        date.min,
        datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC),
        time.min,
        timedelta.max,
    )
