"""Netlink: building messages, sending them, and reading acknowledgements and dumps (netlink(7))."""

import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

ROUTE = 0
NETFILTER = 12
"""Protocols of an AF_NETLINK socket."""

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCL, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
"""Flags of a request."""

_DUMP_INTERRUPTED, _HAS_TEXT = 0x10, 0x200
_NOOP, _ERROR, _DONE = 1, 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_DUMP_TRIES = 16
_DATAGRAM = 1 << 16
"""More than the kernel puts into one datagram (32 kB, or one large object)."""

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length with this header, type, flags, sequence, port."""

_TEXT = 1
_ENDS = {_ERROR: 4 + _HEADER.size, _DONE: 4}
"""Messages that begin with a negative errno, and where their attributes start: an answer has the request's header in
between. A refused dump ends with ``_DONE``, not with ``_ERROR``."""

_ATTRIBUTE = struct.Struct("=HH")
"""struct nlattr: length with this header and without padding, type."""


@dataclass(frozen=True, slots=True)
class Message:
    """One request: ``body`` is the family's own header and attributes; ``subject`` names the object in errors."""

    kind: int
    flags: int
    body: bytes
    subject: str


def format_message(message: Message, sequence: int) -> bytes:
    """The bytes of a request; the body's length is a multiple of 4 because every attribute's is."""
    size = _HEADER.size + len(message.body)
    return _HEADER.pack(size, message.kind, message.flags | REQUEST, sequence, 0) + message.body


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + b"\0" * (-size & 3)


def text(kind: int, value: str) -> bytes:
    """A string attribute with its closing zero."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """A number in the machine's order, as rtnetlink has them."""
    return attribute(kind, struct.pack("=I", value))


def be32(kind: int, value: int) -> bytes:
    """A number in network order, as netfilter has them."""
    return attribute(kind, struct.pack(">I", value))


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """The attributes in ``data`` by kind; of several of one kind the last. Stops at the first that does not fit."""
    return dict(iterate_attributes(data))


def iterate_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each attribute, in order."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < _ATTRIBUTE.size or offset + size > len(data):
            return
        yield kind & _TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + size]
        offset += size + (-size & 3)


def parse_text(value: bytes) -> str:
    """The text of a string attribute."""
    return value.rstrip(b"\0").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Reply:
    """One message from the kernel without its header."""

    kind: int
    flags: int
    sequence: int
    body: bytes

    @property
    def error(self) -> int | None:
        """The errno of an answer or of a dump's end (0: done well); ``None`` for any other message."""
        if self.kind not in _ENDS:
            return None
        code = int.from_bytes(self.body[:4], sys.byteorder, signed=True)
        return -code

    @property
    def reason(self) -> str:
        """The kernel's own words about a refusal; empty when it has none."""
        if self.kind not in _ENDS or not self.flags & _HAS_TEXT:
            return ""
        return parse_text(parse_attributes(self.body[_ENDS[self.kind] :]).get(_TEXT, b""))


def parse_replies(data: bytes) -> Iterator[Reply]:
    """The messages of one datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size:
            return
        yield Reply(kind, flags, sequence, data[offset + _HEADER.size : offset + size])
        offset += size + (-size & 3)


class Netlink:
    """A netlink socket of the network namespace it was made in; stays with it wherever its thread goes.

    Not safe for two threads at once. Every refusal is an OSError whose ``filename`` is the subject.
    """

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        # Without CAP_ACK a refusal carries the whole request back, and its text stands behind it.
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    def transact(self, messages: Sequence[Message]) -> None:
        """Send all ``messages`` at once, in order, and raise the first refusal.

        rtnetlink carries out what it did not refuse; netfilter's batches are all or nothing. At least the last
        message that can fail must ask for an ``ACK``.
        """
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(b"".join(format_message(each, first + n) for n, each in enumerate(messages)))
        answered = False
        for reply in self._drain():
            if reply.error is None or not first <= reply.sequence <= self._sequence:
                continue
            answered = True
            if reply.error:
                raise _refusal(reply, messages[reply.sequence - first].subject)
        if not answered:
            raise OSError(f"no answer from the kernel about {messages[0].subject}")

    def ask(self, message: Message) -> list[Reply]:
        """The objects a request names: all that match with ``DUMP``, else one, with ``ACK``.

        Asked again while the kernel says that the list changed under it; InterruptedError when that never ends.
        """
        for _ in range(_DUMP_TRIES):
            replies, whole = self._ask_once(message)
            if whole:
                return replies
        raise InterruptedError(f"the list of {message.subject} changes too fast")

    def _ask_once(self, message: Message) -> tuple[list[Reply], bool]:
        self._sequence += 1
        self._socket.send(format_message(message, self._sequence))
        replies: list[Reply] = []
        whole = True
        while True:
            for reply in parse_replies(self._socket.recv(_DATAGRAM)):
                if reply.sequence != self._sequence or reply.kind == _NOOP:
                    continue
                whole = whole and not reply.flags & _DUMP_INTERRUPTED
                if reply.error:
                    raise _refusal(reply, message.subject)
                if reply.error == 0:
                    return replies, whole
                replies.append(reply)

    def _drain(self) -> Iterator[Reply]:
        # The kernel works in the sender's own context: when send returns, all answers are waiting.
        while True:
            try:
                data = self._socket.recv(_DATAGRAM, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            yield from parse_replies(data)


def _refusal(reply: Reply, subject: str) -> OSError:
    code = reply.error or 0
    words = os.strerror(code)
    return OSError(code, f"{words}: {reply.reason}" if reply.reason else words, subject)
