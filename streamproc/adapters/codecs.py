"""JSON: bytes to values a slice at a time, values and keys to bytes.

    [b'{"n":1}', None, b'{"n":']  --decode-->  values [X(1), None, None], failed [(2, DecodeError)]

Every message is decoded by itself, driven by one C loop.  Joining a slice to one document is no faster once
the checks are added that make it exact: JSON allows a value to go on after a line end, so `[b"1 2", b""]` and
`[b"[1", b"2] 3"]` have the right number of values and of newlines, in the wrong places.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NewType, TypeAlias, Union, get_args, get_origin

import msgspec

from streamproc.ports import Codec, Decoded

_Decode: TypeAlias = Callable[[bytes], Any]

_MESSAGE_LIMIT = 200


class JsonSerde:
    """Implements `ports.Serde` with JSON, as S51 has it."""

    __slots__ = ("_keys", "_values")

    def __init__(self) -> None:
        self._values = msgspec.json.Encoder(enc_hook=_plain)
        self._keys = msgspec.json.Encoder(enc_hook=_plain, order="deterministic")

    def encode(self, value: Any) -> bytes:
        """A value as compact JSON; bytes stay as they are; None is `null` (a tombstone is the caller's to know).

        Takes what JSON has, msgspec Structs, dataclasses, attrs classes, named tuples, enums, dates, UUIDs,
        decimals (as strings), pydantic models, and whatever has a method `as_json`.  NaN and the infinities
        become null, for JSON has none; bytes inside a value become base64; the members of a set come in no
        particular order, so give a list where the same bytes are wanted in every run.  Raises TypeError or
        ValueError for all else: an unknown class, a lone surrogate, a value that holds itself.
        """
        if isinstance(value, (bytes, bytearray)):
            return bytes(value)
        if hasattr(value, "as_json"):  # msgspec has its own idea of a dataclass, and would not ask the hook
            value = value.as_json()
        return _encode(self._values, value)

    def encode_key(self, key: Any) -> bytes:
        """Text as UTF-8, bytes as they are, everything else as compact JSON with sorted dict keys and sets.

        Equal bytes are equal keys (S1): so text "1" and the number 1 are the same key, 1 and 1.0 are not.
        Raises TypeError or ValueError where there is no such key, also for NaN and the infinities, which
        would all be null.
        """
        if type(key) is str:
            return key.encode()
        if isinstance(key, (bytes, bytearray)):
            return bytes(key)
        if isinstance(key, str):
            return str.encode(key)
        if isinstance(key, float) and not math.isfinite(key):
            raise ValueError(f"{key} cannot be a key: JSON has no such number")
        return _encode(self._keys, key)

    def decoder(self, type_: Any) -> Codec:
        """The codec of JSON values of this type; bytes are passed through, and Any and object take every value.

        Types are taken at their word: "1" is no int, 1.5 is no int, a missing field is a failure; an int does
        for a float.  Of a name given twice the last counts.  Raises TypeError for a type that cannot be
        decoded to.
        """
        if type_ is bytes:
            return _Raw()
        return _Each(_json(type_))

    def key_decoder(self, type_: Any) -> Codec:
        """The codec of record keys of this type, the inverse of `encode_key`.

        str, string enums and literals are read as UTF-8, bytes passed through, all others read as JSON.
        Raises TypeError for a type that cannot be decoded to, among them unions of text with anything but
        None.
        """
        if type_ is bytes:
            return _Raw()
        if _is_text(type_):
            return _Each(_utf8 if type_ is str else _text(type_))
        return _Each(_json(type_))


def field_of(raw: bytes, name: str) -> Any:
    """One field of a JSON object; None where it is missing or null.  Raises ValueError for all else."""
    try:
        return _one_field(name)(raw).value
    except RecursionError:
        raise ValueError("nested too deeply") from None


@lru_cache(maxsize=128)
def _one_field(name: str) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(
        msgspec.defstruct("OneField", [("value", Any, None)], rename={"value": name}, gc=False)
    ).decode


class _Raw:
    """Bytes as they are."""

    __slots__ = ()

    def decode(self, raws: Sequence[bytes | None]) -> Decoded:
        return Decoded(list(raws), [])


class _Each:
    """One function over a slice; a value never moves from its index."""

    __slots__ = ("_decode",)

    def __init__(self, decode: _Decode) -> None:
        self._decode = decode

    def decode(self, raws: Sequence[bytes | None]) -> Decoded:
        values: list[Any] = []
        failed: list[tuple[int, Exception]] = []
        rest: Iterator[Any] = iter(raws)
        while True:
            try:
                values.extend(map(self._decode, rest))  # what came before a failure has been appended
                return Decoded(values, failed)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - validators of user types run here
                index = len(values)
                if raws[index] is not None:
                    failed.append((index, _brief(error)))
                values.append(None)


def _encode(encoder: msgspec.json.Encoder, value: Any) -> bytes:
    try:
        return encoder.encode(value)
    except RecursionError:
        raise ValueError(f"this {type(value).__name__} is nested too deeply, or holds itself") from None


def _plain(value: Any) -> Any:
    """What msgspec asks for an object that it does not know."""
    if hasattr(value, "as_json"):
        return value.as_json()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int):
        return int(value)
    raise TypeError(
        f"a {type(value).__module__}.{type(value).__qualname__} cannot be written as JSON: map it to one "
        "that can, or to bytes"
    )


def _model(type_: type, value: Any) -> Any:
    """What msgspec asks for a field whose type it does not know."""
    if hasattr(type_, "model_validate"):
        try:
            return type_.model_validate(value)
        except ValueError as error:
            raise _brief(error) from None
    raise NotImplementedError(f"{type_!r} cannot be read from JSON")


def _json(type_: Any) -> _Decode:
    if hasattr(type_, "model_validate_json"):
        validate: _Decode = type_.model_validate_json
        return validate
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Any if type_ is object else type_, dec_hook=_model)
    return decoder.decode


def _utf8(raw: bytes) -> str:
    return raw.decode()


def _text(type_: Any) -> _Decode:
    def decode(raw: bytes) -> Any:
        return msgspec.convert(raw.decode(), type_)

    return decode


def _is_text(type_: Any) -> bool:
    """Whether all values of this type are text, so that their keys have no quotes.  Raises TypeError if only some."""
    if isinstance(type_, NewType):
        return _is_text(type_.__supertype__)
    origin, args = get_origin(type_), get_args(type_)
    if origin is Annotated:
        return _is_text(args[0])
    if origin is Literal:
        kinds = {isinstance(arg, str) for arg in args if arg is not None}
    elif origin in (Union, types.UnionType):
        kinds = {_is_text(arg) for arg in args if arg is not types.NoneType}
    else:
        return isinstance(type_, type) and issubclass(type_, str)
    if len(kinds) > 1:
        raise TypeError(f"{type_} cannot be a key type: text is written as it is, everything else as JSON")
    return kinds == {True}


def _brief(error: Exception) -> Exception:
    """The error, or one of its kind whose text and attributes show nothing of the message."""
    if isinstance(error, UnicodeDecodeError):
        return ValueError(f"not UTF-8 at byte {error.start}")
    if isinstance(error, RecursionError):
        return ValueError("nested too deeply")
    if isinstance(error, msgspec.DecodeError):
        text = str(error)
        if text.startswith("Invalid enum value"):
            path = text.rfind(" - at `$")
            text = "Invalid enum value" + (text[path:] if path >= 0 else "")
        elif text.startswith("Object contains unknown field"):
            text = "Object contains an unknown field"
        elif len(text) <= _MESSAGE_LIMIT:
            return error
        return type(error)(text[:_MESSAGE_LIMIT])
    if hasattr(error, "error_count") and hasattr(error, "errors"):  # pydantic: its text quotes the input
        found = error.errors(include_url=False, include_context=False, include_input=False)
        places = (f"{each['type']} at `{'.'.join(['$', *map(str, each['loc'])])}`" for each in found)
        return ValueError("; ".join(places)[:_MESSAGE_LIMIT])
    return error
