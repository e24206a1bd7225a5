"""Netlink messages are built and read as the kernel does."""

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.linux.netlink import (
    ACK,
    DUMP,
    ROUTE,
    Message,
    Netlink,
    attribute,
    be32,
    format_message,
    iterate_attributes,
    nest,
    parse_attributes,
    parse_replies,
    parse_text,
    text,
    u32,
)

GET_LINK = 18
NO_LINK = struct.pack("=BxHiII", 0, 0, 0, 0, 0)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_attributes_come_back(values: list[tuple[int, bytes]]) -> None:
    """Attributes of any length are read as they were written, padding left out."""
    data = b"".join(attribute(kind, value) for kind, value in values)
    assert len(data) % 4 == 0
    assert list(iterate_attributes(data)) == values


@given(st.binary(max_size=200))
def test_any_bytes_are_read(data: bytes) -> None:
    """No answer, however broken, raises anything or is read past its end."""
    assert all(len(value) <= len(data) for value in parse_attributes(data).values())
    assert all(len(reply.body) <= len(data) for reply in parse_replies(data))


def test_nested() -> None:
    """A nested attribute holds attributes; the mark of nesting is not part of its kind."""
    data = nest(5, text(1, "eth0"), u32(2, 7), be32(3, 7))
    inner = parse_attributes(parse_attributes(data)[5])
    assert parse_text(inner[1]) == "eth0"
    assert inner[2] == struct.pack("=I", 7)
    assert inner[3] == b"\0\0\0\7"


def test_message() -> None:
    """A message has its length, type, flags with REQUEST, sequence and no port."""
    data = format_message(Message(16, ACK, b"body", "x"), 9)
    assert struct.unpack("=IHHII", data[:16]) == (20, 16, ACK | 1, 9, 0)
    assert data[16:] == b"body"


@pytest.mark.kernel
def test_dump() -> None:
    """A dump has an answer for each object."""
    with Netlink(ROUTE) as netlink:
        assert len(netlink.ask(Message(GET_LINK, DUMP, NO_LINK, "links"))) >= 1


@pytest.mark.kernel
def test_refusal_names_the_object() -> None:
    """A refusal is an OSError with the kernel's reason and our name for the object."""
    request = Message(GET_LINK, ACK, NO_LINK + text(3, "nonesuch0"), "nonesuch0")
    with Netlink(ROUTE) as netlink, pytest.raises(OSError, match="nonesuch0") as caught:
        netlink.ask(request)
    assert caught.value.errno == 19


@pytest.mark.kernel
def test_refusal_has_the_kernels_words() -> None:
    """What the kernel says about a wrong request is in the error."""
    with Netlink(ROUTE) as netlink, pytest.raises(OSError, match=r"Invalid argument: .+") as caught:
        netlink.ask(Message(GET_LINK, DUMP, struct.pack("=BxHiII", 0, 0, 1, 0, 0), "links"))
    assert caught.value.filename == "links"


@pytest.mark.kernel
def test_socket_is_usable_after_a_refusal() -> None:
    """Refused and forgotten: the next request gets its own answer."""
    wrong = Message(GET_LINK, ACK, NO_LINK + text(3, "nonesuch0"), "nonesuch0")
    with Netlink(ROUTE) as netlink:
        for _ in range(3):
            with pytest.raises(OSError, match="nonesuch0"):
                netlink.transact([wrong, wrong])
            assert netlink.ask(Message(GET_LINK, ACK, NO_LINK + text(3, "lo"), "lo"))


@pytest.mark.kernel
def test_close() -> None:
    """A closed socket leaves no descriptor, however often it is closed."""
    before = os.listdir("/proc/self/fd")
    with Netlink(ROUTE) as netlink:
        netlink.close()
    assert os.listdir("/proc/self/fd") == before
