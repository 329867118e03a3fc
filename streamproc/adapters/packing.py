"""State as bytes: MessagePack, with tags for what it has no notation for.

    unpack(pack(x)) is x again, of the same types:  [1, (2,), {3: nan}, Decimal("1.0"), Point(1, 2)]

Same value, same bytes: nothing depends on hash seeds or memory.  Nothing is ever imported or called because
stored bytes name it: a class is looked up in the modules that are loaded already, must be a plain value
class, and is filled field by field, past its __init__ (only the __post_init__ of a Struct cannot be passed
by).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from functools import lru_cache, partial
from itertools import chain
from types import ModuleType
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Ext
from msgspec.structs import astuple

from streamproc.core.errors import StateError

DEPTH = 64
"""How deeply values may be nested."""

_BIG, _TEXT, _TUPLE, _DICT, _SET, _FROZENSET = range(1, 7)
_DATETIME, _DATE, _TIME, _TIMEDELTA, _DECIMAL, _UUID = range(7, 13)
_ENUM, _NAMED, _FIELDS, _MODEL, _BYTEARRAY, _STRUCT = range(13, 19)

_SCALARS = frozenset((type(None), bool, int, float, str, bytes))
_PLAIN = _SCALARS | {list, dict}
_KEYS = frozenset((str, int, bytes))
_BOUNDLESS = _SCALARS - {int, str}
"""Scalars that MessagePack takes whatever their value."""
_LEAST, _GREATEST = -(2**63), 2**64 - 1

_BUILT_IN = (list, dict, tuple, set, frozenset, str, bytes, bytearray, int, float, BaseException)
_MARKS = ("__attrs_attrs__", "__pydantic_fields__", "__state_fields__")

_encode = msgspec.msgpack.Encoder().encode


def pack(value: Any) -> bytes:
    """A value as bytes, from which `unpack` makes it again.

    Takes None, bool, int and float of any size, str, bytes, list, dict, tuple, set, frozenset, dates and
    times (with no zone, a fixed offset or a ZoneInfo), Decimal, UUID, and instances of enums, named tuples,
    msgspec Structs, dataclasses, attrs classes, pydantic models and classes with `__state_fields__` (names),
    defined at the top of a module or in another class.  Raises StateError for everything else, and for what
    is nested deeper than DEPTH.
    """
    if _is_plain(value):
        try:
            return _encode(value)
        except (OverflowError, UnicodeEncodeError):
            pass
    return _packed(value)


def pack_each(values: Sequence[Any]) -> list[bytes]:
    """Each value as `pack` gives it, at a fraction of the cost where they are alike."""
    if _is_plain(values if type(values) is list else list(values)):
        try:
            return list(map(_encode, values))
        except (OverflowError, UnicodeEncodeError):
            pass
    return list(map(_packed, values))


def pack_rows(columns: Sequence[Sequence[Any]]) -> list[bytes]:
    """Each row of parallel columns as `pack` gives the list of its values."""
    try:
        return list(map(_encode, zip(*map(_tagged_column, columns), strict=True)))
    except (OverflowError, UnicodeEncodeError, RecursionError):
        return [_packed(list(row)) for row in zip(*columns, strict=True)]


def unpack(packed: bytes) -> Any:
    """The value that was packed.

    Raises StateError where the bytes are damaged, or name a class that is no longer there or has changed its fields; a
    new field takes its default.
    """
    try:
        return _decode(packed)
    except _DAMAGE as error:
        raise _damaged(error) from None


def unpack_each(packed: Iterable[bytes]) -> list[Any]:
    """What `unpack` gives for each."""
    try:
        return list(map(_decode, packed))
    except _DAMAGE as error:
        raise _damaged(error) from None


_DAMAGE = (ValueError, TypeError, OverflowError, ArithmeticError, LookupError, RecursionError, msgspec.MsgspecError)


def _damaged(error: Exception) -> StateError:
    if isinstance(error, RecursionError):
        return StateError(f"stored state is nested deeper than {DEPTH}: the state is damaged")
    return StateError(f"stored state cannot be read, it is damaged ({type(error).__name__})")


def merge(blocks: Iterable[bytes], *, keep_removals: bool) -> bytes | None:
    """Packed dicts from old to new as one packed dict with the newest entry of each key; None if that is empty.

    An entry None is a removal: it stays if there may be still older blocks, and otherwise goes.  Entries are
    not unpacked.  Raises StateError where a block is damaged.
    """
    newest: dict[Any, Any] = {}
    for block in blocks:
        try:
            newest.update(_decode_block(block))
        except (msgspec.MsgspecError, TypeError):  # damaged, or with keys that are no plain MessagePack
            cells = unpack(block)
            if type(cells) is not dict:
                raise StateError("a block of stored state is no block: the state is damaged") from None
            newest.update((key, msgspec.Raw(pack(entry))) for key, entry in cells.items())
    if not keep_removals:
        newest = {key: entry for key, entry in newest.items() if bytes(entry) != _NONE}
    if not newest:
        return None
    try:
        return _encode(newest)
    except (OverflowError, UnicodeEncodeError):
        return pack({key: unpack(bytes(entry)) for key, entry in newest.items()})


def _is_plain(value: Any) -> bool:
    """Whether MessagePack alone keeps all of it: asked of whole levels, for a state block has 100,000 values."""
    lists: list[list[Any]] = [[value]]
    dicts: list[dict[Any, Any]] = []
    for _ in range(9):
        types = set(map(type, _beneath(lists, dicts)))
        if types <= _SCALARS:
            return True
        if not types <= _PLAIN:
            return False
        level = list(_beneath(lists, dicts))
        dicts = [each for each in level if type(each) is dict] if dict in types else []
        if not set(map(type, chain.from_iterable(dicts))) <= _KEYS:
            return False
        lists = level if types == {list} else [each for each in level if type(each) is list]
    return False


def _beneath(lists: list[list[Any]], dicts: list[dict[Any, Any]]) -> Iterator[Any]:
    """What is in lists and dicts: in one of them, gone through as fast as can be, if all are of one kind."""
    if not dicts:
        return chain.from_iterable(lists)
    values = chain.from_iterable(map(dict.values, dicts))
    return chain(chain.from_iterable(lists), values) if lists else values


def _packed(value: Any) -> bytes:
    """A value that is not plain; numbers and text are looked at one by one only if MessagePack refuses one."""
    try:
        try:
            return _encode(_tagged(value, 0, _SCALARS))
        except (OverflowError, UnicodeEncodeError):
            return _encode(_tagged(value, 0, _BOUNDLESS))
    except RecursionError:
        raise StateError(f"state nested deeper than {DEPTH} cannot be kept: flatten it") from None


def _tagged(value: Any, depth: int, easy: frozenset[type]) -> Any:  # noqa: C901, PLR0911, PLR0912 - one case a kind of value
    """The value with everything beyond MessagePack in an Ext; scalars of `easy` types are taken as they are."""
    kind = type(value)
    if kind in _SCALARS:
        if kind in easy:
            return value
        if kind is int and not _LEAST <= value <= _GREATEST:
            return Ext(_BIG, value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True))
        if kind is str and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return Ext(_TEXT, value.encode("utf-8", "surrogatepass"))
        return value
    if depth >= DEPTH:
        raise StateError(f"state nested deeper than {DEPTH} cannot be kept: flatten it")
    depth += 1
    if kind is list:
        return _tagged_each(value, depth, easy)
    if kind is dict:
        if set(map(type, value)) <= _KEYS:
            keys = _tagged_each(value, depth, easy)
            if Ext not in map(type, keys):
                return dict(zip(keys, _tagged_each(value.values(), depth, easy), strict=True))
        return _ext(_DICT, chain.from_iterable(value.items()), depth, easy)
    if kind is tuple:
        return _ext(_TUPLE, value, depth, easy)
    if kind is set or kind is frozenset:
        members = sorted(_encode(_tagged(each, depth, easy)) for each in value)
        return Ext(_SET if kind is set else _FROZENSET, _encode([msgspec.Raw(each) for each in members]))
    known = _KNOWN.get(kind)
    if known is not None:
        code, parts = known
        return Ext(code, _encode(parts(value)))
    return _instance(value, kind, depth, easy)


def _tagged_column(column: Sequence[Any]) -> Sequence[Any]:
    """A column of a table, tagged; whole at once where it is plain, or Structs of one class that are."""
    if _is_plain(column if type(column) is list else list(column)):
        return column
    kinds = set(map(type, column))
    schema = _schema(kinds.pop()) if len(kinds) == 1 else None
    if schema is not None:
        with suppress(AttributeError):  # a field was never set
            rows = list(map(astuple, column))
            if _SCALARS.issuperset(map(type, chain.from_iterable(rows))):
                return [Ext(_STRUCT, _encode((schema, *row))) for row in rows]
    return [_tagged(each, 1, _SCALARS) for each in column]


def _tagged_each(parts: Iterable[Any], depth: int, easy: frozenset[type]) -> list[Any]:
    return [each if type(each) in easy else _tagged(each, depth, easy) for each in parts]


def _ext(code: int, parts: Iterable[Any], depth: int, easy: frozenset[type]) -> Ext:
    return Ext(code, _encode(_tagged_each(parts, depth, easy)))


def _instance(value: Any, kind: type, depth: int, easy: frozenset[type]) -> Ext:
    schema = _schema(kind)
    if schema is not None:
        try:
            return _ext(_STRUCT, (schema, *astuple(value)), depth, easy)
        except AttributeError:  # a field was never set
            pass
    name = _reference(kind)
    if isinstance(value, Enum):
        return _ext(_ENUM, [name, value.value if isinstance(value, Flag) else value.name], depth, easy)
    if issubclass(kind, tuple):
        return _ext(_NAMED, [name, *value], depth, easy)
    if hasattr(kind, "__pydantic_fields__"):
        state = value.__getstate__()
        state["__pydantic_fields_set__"] = sorted(state["__pydantic_fields_set__"])
        return _ext(_MODEL, [name, state], depth, easy)
    names = [field for field in _fields(kind) if hasattr(value, field)]
    return _ext(_FIELDS, [name, names, *(getattr(value, field) for field in names)], depth, easy)


@lru_cache(maxsize=1024)
def _reference(kind: type) -> str:
    """The name by which the class is found again."""
    name = f"{kind.__module__}:{kind.__qualname__}"
    if _is_value_class(kind):
        if _look_up(name) is kind:
            return name
        raise StateError(
            f"a {name} cannot be kept in state: define the class at the top of its module, so that it "
            "is found again by its name"
        )
    raise StateError(
        f"a {name} cannot be kept in state: use a dataclass, msgspec Struct, attrs class, named tuple, "
        "enum or pydantic model, or plain lists, dicts, numbers and text"
    )


@lru_cache(maxsize=1024)
def _schema(kind: type) -> bytes | None:
    """Name and fields of a Struct, as bytes that are made once and looked up when read; None of other classes."""
    if not issubclass(kind, msgspec.Struct):
        return None
    return _encode([_reference(kind), list(kind.__struct_fields__)])


def _is_value_class(kind: Any) -> bool:
    """Whether the fields of a class are all there is to its instances."""
    if not isinstance(kind, type):
        return False
    if issubclass(kind, (msgspec.Struct, Enum)) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        return True
    if issubclass(kind, _BUILT_IN):
        return False
    return is_dataclass(kind) or any(map(partial(hasattr, kind), _MARKS))


def _look_up(name: str) -> Any:
    """What a loaded module has under this name, without running anything; None if nothing."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        try:
            found = vars(found).get(part)
        except TypeError:
            return None
    return found


def _fields(kind: type) -> tuple[str, ...]:
    """The names of the fields of a class that is filled field by field."""
    if issubclass(kind, msgspec.Struct):
        return kind.__struct_fields__
    if is_dataclass(kind):
        return tuple(field.name for field in fields(kind))
    if hasattr(kind, "__attrs_attrs__"):
        return tuple(field.name for field in kind.__attrs_attrs__)
    names: tuple[str, ...] = getattr(kind, "__state_fields__", ())
    return names


def _zone(zone: tzinfo | None) -> Any:
    if zone is None:
        return None
    if zone is UTC:
        return 0
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [_micros(offset), *name]
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    raise StateError(
        f"a time zone of class {type(zone).__qualname__} cannot be kept in state: use datetime.UTC or ZoneInfo"
    )


def _zone_of(packed: Any) -> tzinfo | None:
    if packed is None:
        return None
    if packed == 0:
        return UTC
    if isinstance(packed, str):
        try:
            return ZoneInfo(packed)
        except (ValueError, OSError, LookupError):
            raise StateError(f"the time zone {packed!r} in stored state is not known here: install tzdata") from None
    return timezone(timedelta(microseconds=packed[0]), *packed[1:])


def _micros(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


def _clock(value: Any) -> list[Any]:
    return [value.hour, value.minute, value.second, value.microsecond, value.fold, _zone(value.tzinfo)]


_KNOWN: Mapping[type, tuple[int, Callable[[Any], Any]]] = {
    datetime: (_DATETIME, lambda value: [value.year, value.month, value.day, *_clock(value)]),
    date: (_DATE, lambda value: [value.year, value.month, value.day]),
    time: (_TIME, _clock),
    timedelta: (_TIMEDELTA, lambda value: [value.days, value.seconds, value.microseconds]),
    Decimal: (_DECIMAL, str),
    UUID: (_UUID, lambda value: value.bytes),
    bytearray: (_BYTEARRAY, bytes),
}


def _pairs(parts: list[Any]) -> dict[Any, Any]:
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _datetime(parts: list[Any]) -> datetime:
    year, month, day, hour, minute, second, micro, fold, zone = parts
    return datetime(year, month, day, hour, minute, second, micro, _zone_of(zone), fold=fold)


def _time(parts: list[Any]) -> time:
    hour, minute, second, micro, fold, zone = parts
    return time(hour, minute, second, micro, _zone_of(zone), fold=fold)


def _found(name: Any) -> Any:
    """The value class of this name; raises StateError if there is none."""
    kind = _look_up(name) if isinstance(name, str) else None
    if not _is_value_class(kind):
        raise StateError(
            f"stored state holds a {name}, and there is no such value class now: load its module before "
            "the state is read, or give the class back its name, or start with another state"
        )
    return kind


def _enum(parts: list[Any]) -> Any:
    name, member = parts
    kind = _found(name)
    if not issubclass(kind, Enum):
        raise _changed(name, "it is no enum")
    try:
        return kind(member) if issubclass(kind, Flag) else kind[member]
    except (ValueError, LookupError):
        raise _changed(name, f"it has no member {member!r}") from None


def _named(parts: list[Any]) -> Any:
    name, *values = parts
    kind = _found(name)
    if not issubclass(kind, tuple) or len(kind._fields) != len(values):
        raise _changed(name, f"it had {len(values)} fields")
    return tuple.__new__(kind, values)


def _filled(parts: list[Any]) -> Any:
    name, names, *values = parts
    kind = _found(name)
    known = dict(zip(names, values, strict=True))
    expected = _fields(kind)
    gone = known.keys() - set(expected)
    if gone:
        raise _changed(name, f"it has no field {min(gone)}")
    for field, default in _defaults(kind).items():
        if field not in known:
            known[field] = default()
    missing = [field for field in expected if field not in known]
    if issubclass(kind, msgspec.Struct):
        if missing:
            raise _changed(name, f"its field {missing[0]} has no default")
        struct = kind(**known)
        for field, value in known.items():
            if getattr(struct, field) is not value:
                msgspec.structs.force_setattr(struct, field, value)
        return struct
    if missing and not hasattr(kind, "__state_fields__"):
        raise _changed(name, f"its field {missing[0]} has no default")
    instance = object.__new__(kind)
    for field, value in known.items():
        object.__setattr__(instance, field, value)
    return instance


class _Positional(NamedTuple):
    """A Struct that its fields in order make again, as long as its module has it under that name."""

    kind: type
    fields: int
    module: str
    loaded: ModuleType
    name: str
    names: Mapping[str, Any]


_positional: dict[bytes, _Positional] = {}


def _struct(schema: bytes, *parts: Any) -> Any:
    known = _positional.get(schema)
    if known is not None:
        kind, count, module, loaded, name, names = known
        if len(parts) == count and names.get(name) is kind and sys.modules.get(module) is loaded:
            return kind(*parts)
    name, fields = _decode(schema)
    struct = _filled([name, fields, *parts])
    _remember(schema, name, struct, parts)
    return struct


def _remember(schema: bytes, name: str, struct: Any, parts: Sequence[Any]) -> None:
    """Keep how to make a Struct quickly, if that is so simple that nothing can go another way."""
    module, _, path = name.partition(":")
    kind = type(struct)
    if "." in path or not issubclass(kind, msgspec.Struct) or hasattr(kind, "__post_init__"):
        return
    if schema != _schema(kind):  # it has other fields now
        return
    with suppress(TypeError):  # a field must be given by name
        kind(*parts)
        loaded = sys.modules[module]
        _positional[schema] = _Positional(kind, len(parts), module, loaded, path, vars(loaded))


def _defaults(kind: type) -> dict[str, Callable[[], Any]]:  # noqa: C901, PLR0912 - one case a kind of class
    """What makes the default of each field that has one."""
    found: dict[str, Callable[[], Any]] = {}
    if issubclass(kind, msgspec.Struct):
        for own in msgspec.structs.fields(kind):
            if own.default_factory is not msgspec.NODEFAULT:
                found[own.name] = own.default_factory
            elif own.default is not msgspec.NODEFAULT:
                found[own.name] = partial(_same, own.default)
    elif is_dataclass(kind):
        for each in fields(kind):
            if each.default_factory is not MISSING:
                found[each.name] = each.default_factory
            elif each.default is not MISSING:
                found[each.name] = partial(_same, each.default)
    elif hasattr(kind, "__attrs_attrs__"):
        for attribute in kind.__attrs_attrs__:
            default = attribute.default
            if hasattr(default, "factory"):
                if not default.takes_self:
                    found[attribute.name] = default.factory
            elif type(default).__name__ != "_Nothing":
                found[attribute.name] = partial(_same, default)
    return found


def _same(value: Any) -> Any:
    return value


def _model(parts: list[Any]) -> Any:
    name, state = parts
    kind = _found(name)
    if not hasattr(kind, "__pydantic_fields__"):
        raise _changed(name, "it is no pydantic model")
    if state.keys() != _MODEL_STATE:
        raise ValueError("not the state of a model")
    state["__pydantic_fields_set__"] = set(state["__pydantic_fields_set__"])
    values = state["__dict__"]
    for field, description in kind.model_fields.items():
        if field not in values:
            if description.is_required():
                raise _changed(name, f"its field {field} has no default")
            values[field] = description.get_default(call_default_factory=True)
    gone = values.keys() - set(kind.model_fields)
    if gone:
        raise _changed(name, f"it has no field {min(gone)}")
    instance = kind.__new__(kind)
    instance.__setstate__(state)
    return instance


_MODEL_STATE = {"__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__"}


def _changed(name: str, how: str) -> StateError:
    return StateError(
        f"stored state holds a {name} as it was before that class changed ({how}): change it back, or "
        "start with another state"
    )


_MADE: Mapping[int, tuple[type, Callable[[Any], Any]]] = {
    _TUPLE: (list, tuple),
    _DICT: (list, _pairs),
    _SET: (list, set),
    _FROZENSET: (list, frozenset),
    _DATETIME: (list, _datetime),
    _DATE: (list, lambda parts: date(*parts)),
    _TIME: (list, _time),
    _TIMEDELTA: (list, lambda parts: timedelta(*parts)),
    _DECIMAL: (str, Decimal),
    _UUID: (bytes, lambda parts: UUID(bytes=parts)),
    _BYTEARRAY: (bytes, bytearray),
    _ENUM: (list, _enum),
    _NAMED: (list, _named),
    _FIELDS: (list, _filled),
    _MODEL: (list, _model),
}


def _untagged(code: int, packed: memoryview) -> Any:
    """What an Ext stands for."""
    if code == _STRUCT:
        return _struct(*_decode(packed))
    made = _MADE.get(code)
    if made is not None:
        expected, make = made
        parts = _decode(packed)
        if type(parts) is not expected:
            raise ValueError("a part of another kind than its tag says")
        return make(parts)
    if code == _BIG:
        return int.from_bytes(packed, "big", signed=True)
    if code == _TEXT:
        return bytes(packed).decode("utf-8", "surrogatepass")
    raise StateError(f"stored state has a part of unknown kind {code}: it is damaged, or of a newer streamproc")


_decode = msgspec.msgpack.Decoder(ext_hook=_untagged).decode
_decode_block = msgspec.msgpack.Decoder(dict[Any, msgspec.Raw]).decode
_NONE = _encode(None)
