"""JSON in and out: a value never moves from its index, and a failure says nothing of the message."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import math
import uuid
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NewType

import attrs
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamproc.adapters.codecs import JsonSerde

SERDE = JsonSerde()


class Point(msgspec.Struct, frozen=True):
    """A typed event."""

    x: int
    y: float = 0.0


@dataclasses.dataclass(frozen=True)
class Classic:
    """An event as a dataclass."""

    x: int


@attrs.frozen
class Attrs:
    """An event as an attrs class."""

    x: int


class Pair(NamedTuple):
    """A named tuple."""

    left: int
    right: str


class Colour(enum.Enum):
    """An enum of texts that is no text itself."""

    RED = "red"


class Tone(enum.StrEnum):
    """An enum that is text."""

    LOW = "low"


class Modelled:
    """Looks like a pydantic model to those who only ask for its methods."""

    def __init__(self, n: int) -> None:
        self.n = n

    @classmethod
    def model_validate_json(cls, raw: bytes) -> Modelled:
        """As of pydantic."""
        return cls.model_validate(msgspec.json.decode(raw))

    @classmethod
    def model_validate(cls, value: Any) -> Modelled:
        """As of pydantic."""
        if not isinstance(value, dict) or not isinstance(value.get("n"), int):
            raise ValueError("n is no int")  # noqa: TRY004 - as pydantic does
        return cls(value["n"])

    def model_dump(self, mode: str = "python") -> dict[str, Any]:
        """As of pydantic."""
        return {"n": self.n, "mode": mode}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Modelled) and other.n == self.n

    def __hash__(self) -> int:
        return self.n


class Holder(msgspec.Struct):
    """A struct with a model in it."""

    inner: Modelled


@dataclasses.dataclass
class Result:
    """Has its own idea of itself as JSON."""

    key: str

    def as_json(self) -> dict[str, Any]:
        """What is written of it."""
        return {"key": self.key, "start": 0}


NASTY = [
    b"{}\n{}",
    b"",
    b" ",
    b"\n",
    b"1 2",
    b"1\n2",
    b"[1",
    b"2] 3",
    b'{"a":',
    b'1} {"a":2}',
    b"},{",
    b'"a',
    b'b"',
    b'{\n  "a": 1\n}',
    b"\xef\xbb\xbf1",
    b"[" * 100_000,
    b"9" * 400,
    b"9" * 5_000,
    b"1e999",
    b"NaN",
    b"Infinity",
    b"-0.0",
    b'{"a":1,"a":2}',
    b'"\\ud800"',
    b'"\xff"',
    b'"\x00"',
    b"\x00",
    b"null",
    b'{"x":1}',
    b'{"x":1,"y":2}',
    b'{"x":"1"}',
    b'{"x":1}{"x":2}',
    b"7",
    b'"text"',
]


def seen(raws: list[bytes | None], type_: Any) -> list[Any]:
    """Value or kind of failure of each message."""
    values, failed = SERDE.decoder(type_).decode(raws)
    found: list[Any] = [("value", repr(value)) for value in values]
    for index, error in failed:
        assert values[index] is None
        found[index] = ("failure", type(error), str(error))
    return found


@given(
    st.lists(st.none() | st.sampled_from(NASTY) | st.binary(max_size=6), max_size=12),
    st.sampled_from([Any, dict, Point, Classic, list, int, str, float, Point | None, Modelled]),
)
@example(raws=[b"{}\n{}", b""], type_=Any)
@example(raws=[b"{} {}", b""], type_=dict)
@example(raws=[b"[1", b",2] 3"], type_=Any)
@example(raws=[b"1 2", b" "], type_=int)
def test_a_slice_decodes_as_its_messages_do_one_by_one(raws: list[bytes | None], type_: Any) -> None:
    """Whatever stands around a message, it gives the same value or the same failure."""
    assert seen(raws, type_) == [one for raw in raws for one in seen([raw], type_)]


def test_two_documents_and_a_blank() -> None:
    """Two values in one message and none in the next are two failures, not two values."""
    for two in (b"{}\n{}", b"{} {}", b"{}{}"):
        values, failed = SERDE.decoder(dict).decode([two, b""])
        assert values == [None, None]
        assert [index for index, _ in failed] == [0, 1]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"\n",
        b"1 2",
        b"\xef\xbb\xbf1",
        b"[" * 100_000,
        b"1e999",
        b"9" * 5_000,
        b"NaN",
        b"Infinity",
        b'"\\ud800"',
        b'"\xff"',
        b'"\x00"',
        b"01",
        b"+1",
        b"'a'",
        b"[1,]",
    ],
)
def test_what_is_no_json_is_a_failure(raw: bytes) -> None:
    """Nothing that JSON does not have is read as something, and neighbours are untouched."""
    values, failed = SERDE.decoder(Any).decode([b"1", raw, b"3"])
    assert values == [1, None, 3]
    assert [index for index, _ in failed] == [1]


def test_what_json_has_is_read_exactly() -> None:
    """Pretty-printing is no failure, the last of equal names counts, and integers have any size."""
    raws = [b'{\n "a": 1\n}\n', b'{"a":1,"a":2}', b"123456789012345678901234567890", b"null", None, b"-0.0"]
    values, failed = SERDE.decoder(Any).decode(raws)
    assert values == [{"a": 1}, {"a": 2}, 123456789012345678901234567890, None, None, 0.0]
    assert math.copysign(1, values[-1]) == -1
    assert failed == []


def test_a_tombstone_is_no_failure() -> None:
    """None stays None for every type."""
    for type_ in (bytes, Any, Point, Modelled):
        assert SERDE.decoder(type_).decode([None, None]) == ([None, None], [])


def test_types_are_taken_at_their_word() -> None:
    """Nothing is coerced: text is no number, a list no dict, a missing field no default."""
    values, failed = SERDE.decoder(Point).decode(
        [b'{"x":1}', b'{"x":"1"}', b'{"x":1.5}', b"{}", b"[1,2]", b'{"x":1,"y":2}']
    )
    assert values == [Point(1), None, None, None, None, Point(1, 2.0)]
    assert [index for index, _ in failed] == [1, 2, 3, 4]
    assert SERDE.decoder(dict).decode([b"[]"]).values == [None]
    assert SERDE.decoder(Classic).decode([b'{"x":1}']) == ([Classic(1)], [])
    assert SERDE.decoder(Attrs).decode([b'{"x":1}']) == ([Attrs(1)], [])
    assert SERDE.decoder(object).decode([b"[1]"]) == ([[1]], [])
    assert SERDE.decoder(bytes).decode([b"\xff", None]) == ([b"\xff", None], [])


def test_a_type_that_cannot_be_read_is_told_when_the_codec_is_made() -> None:
    """No message is needed to find out."""
    with pytest.raises(TypeError):
        SERDE.decoder(Holder | Point | Classic)


def test_models_are_read_and_written_by_their_own_methods() -> None:
    """Pydantic's methods are enough, at the top and inside."""
    assert SERDE.decoder(Modelled).decode([b'{"n":1}', b'{"n":"x"}']).values == [Modelled(1), None]
    values, failed = SERDE.decoder(Holder).decode([b'{"inner":{"n":1}}', b'{"inner":{}}'])
    assert values == [Holder(Modelled(1)), None]
    assert "n is no int" in str(failed[0][1])
    assert SERDE.encode(Modelled(1)) == b'{"n":1,"mode":"json"}'
    assert SERDE.encode([Modelled(1)]) == b'[{"n":1,"mode":"json"}]'


def test_pydantic_models() -> None:
    """The real ones work too, and what they say of a failure does not quote the message."""
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("model", n=(int, ...))
    values, failed = SERDE.decoder(model).decode([b'{"n":1}', b'{"n":"secret"}', b"[["])
    assert values == [model(n=1), None, None]
    assert [str(error) for _, error in failed] == ["int_parsing at `$.n`", "json_invalid at `$`"]
    assert SERDE.encode({"m": model(n=1)}) == b'{"m":{"n":1}}'


@pytest.mark.parametrize(
    ("type_", "raw"),
    [
        (Colour, b'"secret"'),
        (str, b'"secret \xff"'),
        (Literal["a"], b'"secret"'),
        (Point, b'{"secret":1}'),
        (Any, b'"secret" secret'),
        (int, b'"secret"'),
    ],
)
def test_a_failure_says_nothing_of_the_message(type_: Any, raw: bytes) -> None:
    """Neither the text nor the arguments of an exception hold the payload."""
    ((_, error),) = SERDE.decoder(type_).decode([raw]).failed
    assert "secret" not in str(error) + repr(error.args)
    assert len(str(error)) <= 200


def test_values_are_compact_json() -> None:
    """Every way of writing a class is taken, bytes stay, and what JSON has no number for is null."""
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
    assert SERDE.encode(Point(1, 2.5)) == b'{"x":1,"y":2.5}'
    assert SERDE.encode(Classic(1)) == SERDE.encode(Attrs(1)) == b'{"x":1}'
    assert SERDE.encode({"b": [1, (2, 3)], "a": "ü"}) == '{"b":[1,[2,3]],"a":"ü"}'.encode()
    assert SERDE.encode([moment, Decimal("1.50"), Colour.RED]) == b'["2026-01-02T03:04:05Z","1.50","red"]'
    assert SERDE.encode([math.nan, math.inf, 2**80]) == b"[null,null,1208925819614629174706176]"
    assert SERDE.encode(b"\xff\n") == SERDE.encode(bytearray(b"\xff\n")) == b"\xff\n"
    assert SERDE.encode(None) == b"null"
    assert SERDE.encode(Result("a")) == b'{"key":"a","start":0}'


def test_what_cannot_be_written_says_so() -> None:
    """Only TypeError and ValueError, whatever is wrong."""
    endless: list[Any] = []
    endless.append(endless)
    for value in (object(), "\ud800", endless, {(1, 2): 3}, {"a": object}):
        with pytest.raises((TypeError, ValueError)):
            SERDE.encode(value)
    for key in ("\ud800", math.nan, -math.inf, object(), endless):
        with pytest.raises((TypeError, ValueError)):
            SERDE.encode_key(key)


def test_keys_are_their_bytes() -> None:
    """Text has no quotes, the order of a dict does not make another key, and 10 comes before 9."""
    assert SERDE.encode_key("ü") == "ü".encode()
    assert SERDE.encode_key(b"\xff") == b"\xff"
    assert SERDE.encode_key(Tone.LOW) == b"low"
    assert SERDE.encode_key(("ann", 0, True)) == b'["ann",0,true]'
    assert SERDE.encode_key({"b": 1, "a": 2}) == SERDE.encode_key({"a": 2, "b": 1}) == b'{"a":2,"b":1}'
    assert SERDE.encode_key(10) < SERDE.encode_key(9)
    assert len({SERDE.encode_key(key) for key in (True, 1, 1.0)}) == 3


UserId = NewType("UserId", str)
KEYS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (str, st.text()),
    (UserId, st.text()),
    (str | None, st.text()),
    (Annotated[str, msgspec.Meta(max_length=3)], st.text(max_size=3)),
    (Tone, st.sampled_from(Tone)),
    (Colour, st.sampled_from(Colour)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (bytes, st.binary()),
    (int, st.integers()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (bool, st.booleans()),
    (tuple[str, int], st.tuples(st.text(), st.integers())),
    (list[str], st.lists(st.text())),
    (Pair, st.builds(Pair, st.integers(), st.text())),
    (Point, st.builds(Point, st.integers(), st.floats(allow_nan=False, allow_infinity=False))),
    (dt.datetime, st.datetimes(timezones=st.just(dt.UTC))),
    (uuid.UUID, st.uuids()),
]


@given(st.sampled_from(KEYS).flatmap(lambda pair: st.tuples(st.just(pair[0]), pair[1])))
def test_keys_are_read_back(case: tuple[Any, Any]) -> None:
    """A key decoder of a type is the inverse of encode_key on its values."""
    type_, key = case
    assert SERDE.key_decoder(type_).decode([SERDE.encode_key(key), None]) == ([key, None], [])


def test_keys_that_do_not_fit_are_failures() -> None:
    """A key of other bytes than its type has stands in `failed`, with nothing of it in the text."""
    values, failed = SERDE.key_decoder(str).decode([b"a", b"\xff", b"", None])
    assert values == ["a", None, "", None]
    assert [(index, str(error)) for index, error in failed] == [(1, "not UTF-8 at byte 0")]
    assert SERDE.key_decoder(int).decode([b"5", b"x"]).values == [5, None]
    assert SERDE.key_decoder(Tone).decode([b"low", b"secret"]).values == ["low", None]
    with pytest.raises(TypeError, match="text"):
        SERDE.key_decoder(str | int)
