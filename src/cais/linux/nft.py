"""nf_tables over nfnetlink: tables, chains, rules, sets and maps, as messages of one all-or-nothing transaction.

Numbers are those of linux/netfilter/nf_tables.h; the words are nft(8)'s.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from cais.linux.netlink import (
    ACK,
    APPEND,
    CREATE,
    DUMP,
    Message,
    Netlink,
    attribute,
    be32,
    iterate_attributes,
    nest,
    parse_attributes,
    parse_text,
    text,
)

INET, IP = 1, 2
"""Families of a table: NFPROTO_INET, NFPROTO_IPV4."""

PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING = 0, 1, 2, 3, 4
ACCEPT, DROP, RETURN = 1, 0, -5
"""Verdicts; the first two are chain policies too."""

EQUAL, NOT_EQUAL = 0, 1
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2
META_IIFNAME, META_OIFNAME, META_L4PROTO = 6, 7, 16
CT_STATE, CT_STATUS = 0, 2
STATE_ESTABLISHED, STATE_RELATED = 2, 4
STATUS_DNAT = 0x20
LOCAL = 2
"""fib address type RTN_LOCAL: an address of this host, 127.0.0.0/8 included."""

_SUBSYSTEM = 10 << 8
_NEW_TABLE, _GET_TABLE, _DELETE_TABLE, _NEW_CHAIN, _GET_CHAIN, _NEW_RULE = 0, 1, 2, 3, 4, 6
_NEW_SET, _NEW_ELEMENT, _GET_ELEMENT, _DELETE_ELEMENT = 9, 12, 13, 14
_BATCH_BEGIN, _BATCH_END = 16, 17

_REGISTER_VERDICT, _REGISTER = 0, 8
"""Register numbers: the verdict, and the first of the sixteen that hold four bytes."""

_SET_IS_MAP = 0x8
_HOST_ORDER = struct.pack("=BBI", 0, 4, 1)
"""What nft keeps with a set, in its own type-length-value form: the key's byte order is the machine's."""

_ELEMENTS_IN_MESSAGE = 500
"""An attribute holds less than 64 kB; an element takes about 70 bytes."""


class Type(Enum):
    """What a set's key or data is made of: nft's number for it (used by its listing only) and its bytes."""

    ADDRESS = (7, 4)
    PROTOCOL = (12, 1)
    PORT = (13, 2)
    INTERFACE = (41, 16)


@dataclass(frozen=True, slots=True)
class Table:
    """A table's family and name."""

    family: int
    name: str


@dataclass(frozen=True, slots=True)
class Set:
    """A set; with ``data`` a map. More than one type is a concatenation."""

    table: Table
    name: str
    key: tuple[Type, ...]
    data: tuple[Type, ...] = ()


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain; ``kind`` is filter or nat. ``policy`` ACCEPT or DROP."""

    table: Table
    name: str
    kind: str
    hook: int
    priority: int
    policy: int = ACCEPT


Element = tuple[bytes, bytes]
"""Key and data of a set's element, as ``pack`` makes them; the data of a plain set is empty."""


def pack(*parts: bytes) -> bytes:
    """A concatenation: every part fills whole registers of four bytes."""
    return b"".join(part + b"\0" * (-len(part) & 3) for part in parts)


def pack_name(name: str) -> bytes:
    """An interface name as the kernel compares it."""
    return name.encode().ljust(16, b"\0")


# Messages


def new_table(table: Table) -> Message:
    """Make the table unless it is there."""
    return _message(_NEW_TABLE, CREATE, table, text(1, table.name))


def delete_table(table: Table) -> Message:
    """Remove the table with all that is in it; ENOENT if it is not there."""
    return _message(_DELETE_TABLE, 0, table, text(1, table.name))


def new_chain(chain: Chain) -> Message:
    """Make a base chain."""
    hook = nest(4, be32(1, chain.hook), attribute(2, struct.pack(">i", chain.priority)))
    parts = text(1, chain.table.name) + text(3, chain.name) + hook + be32(5, chain.policy)
    return _message(_NEW_CHAIN, CREATE, chain.table, parts + text(7, chain.kind), chain.name)


def new_rule(chain: Chain, *expressions: bytes) -> Message:
    """Append a rule: ``expressions`` run in order until one does not match."""
    parts = text(1, chain.table.name) + text(2, chain.name) + nest(4, *expressions)
    return _message(_NEW_RULE, CREATE | APPEND, chain.table, parts, chain.name)


def new_set(made: Set) -> Message:
    """Make an empty set or map unless it is there."""
    parts = text(1, made.table.name) + text(2, made.name)
    parts += be32(3, _SET_IS_MAP if made.data else 0)
    parts += be32(4, _type_number(made.key)) + be32(5, _type_size(made.key))
    if made.data:
        parts += be32(6, _type_number(made.data)) + be32(7, _type_size(made.data))
    if made.key == (Type.INTERFACE,):
        # For nft's listing only: without it the name is shown as a number of the other byte order, reversed.
        parts += attribute(13, _HOST_ORDER)
    # The kernel wants a number for the set within its transaction; nothing here refers to it.
    return _message(_NEW_SET, CREATE, made.table, parts + be32(10, 1), made.name)


def add_elements(to: Set, elements: Sequence[Element]) -> list[Message]:
    """Put elements in; EEXIST if a key is there with other data."""
    return _element_messages(_NEW_ELEMENT, CREATE, to, elements)


def delete_elements(of: Set, elements: Sequence[Element]) -> list[Message]:
    """Take elements out; ENOENT if one is not there."""
    return _element_messages(_DELETE_ELEMENT, 0, of, elements)


def commit(netlink: Netlink, messages: Sequence[Message]) -> None:
    """Carry out all ``messages`` or none."""
    subject = messages[0].subject
    frame = struct.pack(">BBH", 0, 0, _SUBSYSTEM >> 8)
    *others, last = messages
    netlink.transact(
        [
            Message(_BATCH_BEGIN, 0, frame, subject),
            *others,
            replace(last, flags=last.flags | ACK),
            Message(_BATCH_END, 0, frame, subject),
        ]
    )


# Expressions


def payload(base: int, offset: int, size: int, slot: int = 0) -> bytes:
    """Load ``size`` bytes of a header."""
    return _expression("payload", be32(1, _REGISTER + slot), be32(2, base), be32(3, offset), be32(4, size))


def meta(key: int, slot: int = 0) -> bytes:
    """Load what the kernel knows of the packet."""
    return _expression("meta", be32(2, key), be32(1, _REGISTER + slot))


def conntrack(key: int) -> bytes:
    """Load what is known of the packet's connection."""
    return _expression("ct", be32(2, key), be32(1, _REGISTER))


def destination_type() -> bytes:
    """Load the kind of the destination address: ``LOCAL`` or another."""
    return _expression("fib", be32(1, _REGISTER), be32(2, 3), be32(3, 2))


def compare(operator: int, value: bytes) -> bytes:
    """Go on only if the loaded value compares so."""
    return _expression("cmp", be32(1, _REGISTER), be32(2, operator), _value(3, value))


def mask(bits: bytes) -> bytes:
    """Keep only ``bits`` of the loaded value."""
    size = len(bits)
    kept = (_value(4, bits), _value(5, bytes(size)))
    return _expression("bitwise", be32(1, _REGISTER), be32(2, _REGISTER), be32(3, size), *kept)


def lookup(where: Set) -> bytes:
    """Go on only if the loaded key is in the set; of a map, load what it is mapped to."""
    loaded = be32(3, _REGISTER) if where.data else b""
    return _expression("lookup", text(1, where.name), be32(2, _REGISTER), loaded)


def dnat() -> bytes:
    """Send the connection to the loaded address and port."""
    return _expression("nat", be32(1, 1), be32(2, IP), be32(3, _REGISTER), be32(5, _REGISTER + 1))


def masquerade() -> bytes:
    """Let the connection come from the outgoing interface's address."""
    return _expression("masq")


def verdict(code: int) -> bytes:
    """The end of the rule."""
    decision = nest(2, nest(2, attribute(1, struct.pack(">i", code))))
    return _expression("immediate", be32(1, _REGISTER_VERDICT), decision)


def interface(key: int, name: str, operator: int = EQUAL) -> bytes:
    """Match the packet's incoming or outgoing interface by name."""
    return meta(key) + compare(operator, pack_name(name))


def network(offset: int, address: bytes, prefix: int, operator: int = EQUAL) -> bytes:
    """Match the IPv4 source (``offset`` 12) or destination (16) against a network."""
    bits = ((1 << 32) - (1 << (32 - prefix))).to_bytes(4, "big")
    return payload(NETWORK_HEADER, offset, 4) + mask(bits) + compare(operator, address)


def any_bit(key: int, bits: int) -> bytes:
    """Match connections with at least one of ``bits`` in ``CT_STATE`` or ``CT_STATUS``."""
    return conntrack(key) + mask(struct.pack("=I", bits)) + compare(NOT_EQUAL, bytes(4))


# Reading


def has_table(netlink: Netlink, table: Table) -> bool:
    """Whether the table is there."""
    try:
        netlink.ask(_message(_GET_TABLE, ACK, table, text(1, table.name)))
    except FileNotFoundError:
        return False
    return True


def list_elements(netlink: Netlink, of: Set) -> list[Element]:
    """Keys and data of a set or map; ENOENT if it is not there."""
    request = _message(_GET_ELEMENT, DUMP, of.table, text(1, of.table.name) + text(2, of.name), of.name)
    found: list[Element] = []
    for reply in netlink.ask(request):
        values = parse_attributes(reply.body[4:])
        for _, element in iterate_attributes(values.get(3, b"")):
            parts = parse_attributes(element)
            key = parse_attributes(parts.get(1, b""))
            data = parse_attributes(parts.get(2, b""))
            found.append((key.get(1, b""), data.get(1, b"")))
    return found


def list_chains(netlink: Netlink, family: int) -> list[Chain]:
    """The base chains of all tables of one family."""
    chains = []
    for reply in netlink.ask(
        Message(_SUBSYSTEM | _GET_CHAIN, DUMP, struct.pack("=BBH", family, 0, 0), "chains")
    ):
        values = parse_attributes(reply.body[4:])
        hook = parse_attributes(values.get(4, b""))
        if not hook:
            continue
        chains.append(
            Chain(
                Table(reply.body[0], parse_text(values[1])),
                parse_text(values[3]),
                parse_text(values.get(7, b"")),
                struct.unpack(">I", hook[1])[0],
                struct.unpack(">i", hook[2])[0],
                struct.unpack(">I", values[5])[0] if 5 in values else ACCEPT,
            )
        )
    return chains


def _message(kind: int, flags: int, table: Table, attributes: bytes, name: str = "") -> Message:
    head = struct.pack("=BBH", table.family, 0, 0)
    subject = f"nft table {table.name}" + (f", {name}" if name else "")
    return Message(_SUBSYSTEM | kind, flags, head + attributes, subject)


def _element_messages(kind: int, flags: int, to: Set, elements: Sequence[Element]) -> list[Message]:
    head = text(1, to.table.name) + text(2, to.name)
    messages = []
    for start in range(0, len(elements), _ELEMENTS_IN_MESSAGE):
        chunk = elements[start : start + _ELEMENTS_IN_MESSAGE]
        items = [nest(1, _value(1, key), _value(2, data) if data else b"") for key, data in chunk]
        messages.append(_message(kind, flags, to.table, head + nest(3, *items), to.name))
    return messages


def _expression(name: str, *attributes: bytes) -> bytes:
    return nest(1, text(1, name), nest(2, *attributes))


def _value(kind: int, data: bytes) -> bytes:
    return nest(kind, attribute(1, data))


def _type_number(types: Iterable[Type]) -> int:
    number = 0
    for each in types:
        number = number << 6 | each.value[0]
    return number


def _type_size(types: tuple[Type, ...]) -> int:
    # A type alone has its own size; within a concatenation each fills whole registers.
    if len(types) == 1:
        return types[0].value[1]
    return sum((each.value[1] + 3) & ~3 for each in types)
