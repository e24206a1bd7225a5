"""Protocol Buffers' wire format for typed structs, without generated code.

A message is a ``msgspec.Struct`` whose fields carry their numbers: ``size: Annotated[int, 5] = 0``. Every field has
proto3's default and is left out when it has that. Source: protobuf.dev, "Encoding". Kinds: int (int32, int64, uint32,
uint64, enum: all plain varints), bool, str, bytes, float (double), messages, tuples of these, and maps as dicts.
Unknown fields are skipped. Text that is no UTF-8 is kept with surrogates: Go's fast encoders do not check file names.
"""

import struct
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from cais.errors import Invalid

M = TypeVar("M", bound="Message")

MAX_DEPTH = 64
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MASK = (1 << 64) - 1


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The base of all messages."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field: ``kind`` is a scalar's type, a message's class, or for maps the kinds of key and value."""

    name: str
    number: int
    kind: Any
    default: Any
    is_many: bool = False
    pair: tuple[Any, Any] | None = None


@cache
def fields_of(kind: type[Message]) -> tuple[Field, ...]:
    """The fields of a message, as its annotations say."""
    hints = get_type_hints(kind, include_extras=True)
    defaults = {info.name: info for info in msgspec.structs.fields(kind)}
    found = []
    for name, hint in hints.items():
        if get_origin(hint) is not Annotated:
            raise TypeError(f"{kind.__name__}.{name} has no field number")
        inner, number = get_args(hint)[:2]
        default = defaults[name].default
        if default is msgspec.NODEFAULT:
            default = defaults[name].default_factory()
        found.append(_field(name, number, inner, default))
    return tuple(found)


def _field(name: str, number: int, inner: Any, default: Any) -> Field:
    origin = get_origin(inner)
    if origin is tuple:
        return Field(name, number, get_args(inner)[0], default, is_many=True)
    if origin is dict:
        key, value = get_args(inner)
        return Field(name, number, dict, default, pair=(key, value))
    if origin in (types.UnionType, Union):
        inner = next(arg for arg in get_args(inner) if arg is not type(None))
    return Field(name, number, inner, default)


# Out


def encode(message: Message) -> bytes:
    """The message's bytes; fields in the order of the class."""
    out = bytearray()
    for field in fields_of(type(message)):
        value = getattr(message, field.name)
        if field.pair:
            for item in value.items():
                _put_bytes(out, field.number, _encode_pair(field.pair, item))
        elif field.is_many:
            for item in value:
                _put(out, field.number, field.kind, item)
        elif value != field.default:
            _put(out, field.number, field.kind, value)
    return bytes(out)


def _encode_pair(kinds: tuple[Any, Any], item: tuple[Any, Any]) -> bytes:
    out = bytearray()
    for number, (kind, value) in enumerate(zip(kinds, item, strict=True), 1):
        _put(out, number, kind, value)
    return bytes(out)


def _put(out: bytearray, number: int, kind: Any, value: Any) -> None:
    if kind is int or kind is bool:
        put_varint(out, number << 3)
        put_varint(out, int(value) & _MASK)
    elif kind is float:
        put_varint(out, number << 3 | _FIXED64)
        out += struct.pack("<d", value)
    elif kind is str:
        _put_bytes(out, number, value.encode("utf-8", "surrogateescape"))
    elif kind is bytes:
        _put_bytes(out, number, value)
    else:
        _put_bytes(out, number, encode(value))


def _put_bytes(out: bytearray, number: int, data: bytes) -> None:
    put_varint(out, number << 3 | _BYTES)
    put_varint(out, len(data))
    out += data


def put_varint(out: bytearray, value: int) -> None:
    """Append an unsigned number."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


# In


def decode(data: bytes, kind: type[M]) -> M:
    """Raises Invalid for bytes that are no such message."""
    return _decode(data, kind, 0)


@cache
def _plan(kind: type[Message]) -> dict[int, Field]:
    return {field.number: field for field in fields_of(kind)}


def _decode(data: bytes, kind: type[M], depth: int) -> M:
    if depth > MAX_DEPTH:
        raise Invalid("protobuf: nested too deep")
    plan = _plan(kind)
    values: dict[str, Any] = {}
    try:
        for number, wire, value in read_fields(data):
            field = plan.get(number)
            if field is not None:
                _take(values, field, wire, value, depth)
    except (IndexError, struct.error):
        raise Invalid(f"protobuf: {kind.__name__} is cut off") from None
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
    return kind(**values)


def _take(values: dict[str, Any], field: Field, wire: int, value: Any, depth: int) -> None:
    if field.pair:
        key, item = _decode_pair(value, field.pair, depth)
        values.setdefault(field.name, {})[key] = item
    elif not field.is_many:
        values[field.name] = _convert(field.kind, wire, value, depth)
    elif wire == _BYTES and field.kind in (int, bool):
        values.setdefault(field.name, []).extend(_unpack(value, field.kind))
    else:
        values.setdefault(field.name, []).append(_convert(field.kind, wire, value, depth))


def read_fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """Number, wire type and value of each field: an int, or bytes. Raises IndexError, Invalid."""
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        at += 1
        if tag > 0x7F:
            tag, at = _varint(data, at - 1)
        wire = tag & 7
        if wire == _VARINT:
            value = data[at]
            at += 1
            if value > 0x7F:
                value, at = _varint(data, at - 1)
            yield tag >> 3, wire, value
            continue
        if wire == _BYTES:
            size = data[at]
            at += 1
            if size > 0x7F:
                size, at = _varint(data, at - 1)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise Invalid(f"protobuf: wire type {wire} is not known")
        if at + size > end:
            raise IndexError(size)
        yield tag >> 3, wire, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & _MASK, at
        shift += 7
        if shift > 63:
            raise Invalid("protobuf: a number is too long")


def _convert(kind: Any, wire: int, value: Any, depth: int) -> Any:
    convert = _SCALARS.get(kind)
    if convert is None:
        if wire != _BYTES:
            raise Invalid(f"protobuf: {kind.__name__} wants bytes")
        return _decode(value, kind, depth + 1)
    wanted = _VARINT if kind in (int, bool) else _FIXED64 if kind is float else _BYTES
    if wire != wanted:
        raise Invalid(f"protobuf: wire type {wire} where {kind.__name__} stands")
    return convert(value)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _double(value: bytes) -> float:
    return float(struct.unpack("<d", value)[0])


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    int: _signed,
    bool: bool,
    str: _text,
    bytes: bytes,
    float: _double,
}


def _unpack(data: bytes, kind: Any) -> Iterator[Any]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield _SCALARS[kind](value)


def _decode_pair(data: Any, kinds: tuple[Any, Any], depth: int) -> tuple[Any, Any]:
    if not isinstance(data, bytes):
        raise Invalid("protobuf: a map's entry is no message")
    found = [_empty(kind) for kind in kinds]
    for number, wire, value in read_fields(data):
        if number in (1, 2):
            found[number - 1] = _convert(kinds[number - 1], wire, value, depth + 1)
    return found[0], found[1]


def _empty(kind: Any) -> Any:
    return kind()
