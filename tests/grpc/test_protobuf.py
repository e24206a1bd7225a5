"""Protocol Buffers by the specification's own examples, by properties, and by bytes that mean nothing."""

from contextlib import suppress
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.errors import Invalid
from cais.grpc.protobuf import Message, decode, encode


class Inner(Message, frozen=True, kw_only=True):
    """A part of the others."""

    number: Annotated[int, 1] = 0


class Whole(Message, frozen=True, kw_only=True):
    """Every kind of field."""

    number: Annotated[int, 1] = 0
    text: Annotated[str, 2] = ""
    inner: Annotated[Inner | None, 3] = None
    numbers: Annotated[tuple[int, ...], 4] = ()
    data: Annotated[bytes, 5] = b""
    inners: Annotated[tuple[Inner, ...], 6] = ()
    names: Annotated[dict[str, str], 7] = {}
    things: Annotated[dict[str, Inner], 8] = {}
    flag: Annotated[bool, 9] = False
    real: Annotated[float, 10] = 0.0
    by_number: Annotated[dict[int, bytes], 1000] = {}


@pytest.mark.parametrize(
    ("message", "data"),
    [
        # protobuf.dev, "Encoding"
        (Whole(number=150), "089601"),
        (Whole(text="testing"), "120774657374696e67"),
        (Whole(inner=Inner(number=150)), "1a03089601"),
        (Whole(number=-2), "08feffffffffffffffff01"),
        (Whole(names={"a": "b"}), "3a060a0161120162"),
        (Whole(flag=True), "4801"),
        (Whole(real=1.0), "51000000000000f03f"),
        (Whole(by_number={3: b"x"}), "c23e0508031201" + "78"),
        (Whole(), ""),
    ],
)
def test_bytes_are_those_of_the_specification(message: Whole, data: str) -> None:
    """Both ways."""
    assert encode(message).hex() == data
    assert decode(bytes.fromhex(data), Whole) == message


def test_numbers_may_be_packed_or_not() -> None:
    """Readers take both; the example is the specification's."""
    packed = bytes.fromhex("2206038e029ea705")
    assert decode(packed, Whole).numbers == (3, 270, 86942)
    assert decode(bytes.fromhex("2003208e02209ea705"), Whole).numbers == (3, 270, 86942)


def test_unknown_fields_are_skipped_and_the_last_one_holds() -> None:
    """Of every wire type."""
    unknown = bytes.fromhex("f80105f90100000000000000" + "00fa010161fd0100000000")
    assert decode(unknown + b"\x08\x01" + unknown + b"\x08\x02", Whole).number == 2


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
INNER = st.builds(Inner, number=st.integers(-(1 << 63), (1 << 63) - 1))


@given(
    st.builds(
        Whole,
        number=st.integers(-(1 << 63), (1 << 63) - 1),
        text=TEXT,
        inner=st.none() | INNER,
        numbers=st.lists(st.integers(0, 1 << 40), max_size=5).map(tuple),
        data=st.binary(max_size=30),
        inners=st.lists(INNER, max_size=3).map(tuple),
        names=st.dictionaries(TEXT, TEXT, max_size=3),
        things=st.dictionaries(TEXT, INNER, max_size=3),
        flag=st.booleans(),
        real=st.floats(allow_nan=False),
        by_number=st.dictionaries(st.integers(0, 1 << 31), st.binary(max_size=5), max_size=3),
    )
)
def test_what_is_encoded_comes_back(message: Whole) -> None:
    """Any message."""
    assert decode(encode(message), Whole) == message


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_invalid(data: bytes) -> None:
    """Nothing else happens."""
    with suppress(Invalid):
        decode(data, Whole)


@pytest.mark.parametrize(
    "data",
    [
        "08",  # cut off in a number
        "1205616263",  # a text longer than what is left
        "0b",  # a group, which nobody has any more
        "08ffffffffffffffffffff01",  # a number of more than 64 bits
        "0a0101",  # bytes where a number stands
        "1001",  # a number where a text stands
        "3801",  # a number where a map stands
    ],
)
def test_what_is_no_message_is_refused(data: str) -> None:
    """With a word."""
    with pytest.raises(Invalid, match="protobuf"):
        decode(bytes.fromhex(data), Whole)


class Nested(Message, frozen=True, kw_only=True):
    """As deep as somebody likes."""

    inside: Annotated["Nested | None", 1] = None


def test_depth_is_bounded() -> None:
    """Not by the interpreter's stack."""
    data = b""
    for _ in range(5000):
        size = len(data)
        head = bytearray(b"\x0a")
        while size > 0x7F:
            head.append(size & 0x7F | 0x80)
            size >>= 7
        data = bytes(head) + bytes([size]) + data
    with pytest.raises(Invalid, match="too deep"):
        decode(data, Nested)
