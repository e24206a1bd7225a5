"""Connection tracking entries: finding and deleting those of a published port or a container (ctnetlink)."""

import socket
import struct
from dataclasses import dataclass

from cais.linux.netlink import ACK, DUMP, Message, Netlink, attribute, nest, parse_attributes

_SUBSYSTEM = 1 << 8
_GET, _DELETE = 1, 2
_TUPLE_ORIGINAL, _TUPLE_REPLY, _ID, _FILTER = 1, 2, 12, 25
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_SOURCE, _NUMBER, _DESTINATION_PORT = 1, 1, 3
_FILTER_ORIGINAL, _FILTER_REPLY = 1, 2
_MATCH_SOURCE, _MATCH_NUMBER, _MATCH_DESTINATION_PORT = 1, 8, 32

_FAMILY = struct.pack("=BBH", socket.AF_INET, 0, 0)


@dataclass(frozen=True, slots=True)
class Flow:
    """One entry, as raw as deleting it needs: the attributes of its original direction, and its id."""

    original: bytes
    identity: bytes


def list_to_port(netlink: Netlink, protocol: int, port: int) -> list[Flow]:
    """Connections whose first packet went to ``port`` of ``protocol`` (IPPROTO number), wherever it was."""
    wanted = nest(
        _TUPLE_ORIGINAL,
        nest(
            _TUPLE_PROTOCOL,
            attribute(_NUMBER, bytes([protocol])),
            attribute(_DESTINATION_PORT, struct.pack(">H", port)),
        ),
    )
    return _list(netlink, wanted, _FILTER_ORIGINAL, _MATCH_NUMBER | _MATCH_DESTINATION_PORT)


def list_answered_by(netlink: Netlink, address: bytes) -> list[Flow]:
    """Connections that ``address`` (four bytes) answers, published ports' included."""
    wanted = nest(_TUPLE_REPLY, nest(_TUPLE_IP, attribute(_SOURCE, address)))
    return _list(netlink, wanted, _FILTER_REPLY, _MATCH_SOURCE)


def delete(netlink: Netlink, flow: Flow) -> None:
    """Forget a connection: its next packet is judged anew. Idempotent; the id spares a younger one like it."""
    body = _FAMILY + nest(_TUPLE_ORIGINAL, flow.original) + attribute(_ID, flow.identity)
    try:
        netlink.transact([Message(_SUBSYSTEM | _DELETE, ACK, body, "connection")])
    except FileNotFoundError:
        return


def _list(netlink: Netlink, wanted: bytes, direction: int, flags: int) -> list[Flow]:
    # The kernel picks them out (Linux 5.8): a busy host has 100,000 entries, too many to read here.
    matched = nest(
        _FILTER, _native32(_FILTER_ORIGINAL, direction, flags), _native32(_FILTER_REPLY, direction, flags)
    )
    flows = []
    for reply in netlink.ask(Message(_SUBSYSTEM | _GET, DUMP, _FAMILY + wanted + matched, "connections")):
        values = parse_attributes(reply.body[len(_FAMILY) :])
        flows.append(Flow(values[_TUPLE_ORIGINAL], values[_ID]))
    return flows


def _native32(kind: int, direction: int, flags: int) -> bytes:
    return attribute(kind, struct.pack("=I", flags if kind == direction else 0))
