"""The detach keys: found whatever the pieces they come in, and never eaten when they are not meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.api.detach import DEFAULT_KEYS, DetachScanner, parse_detach_keys
from cais.errors import Invalid


@pytest.mark.parametrize(
    ("text", "keys"),
    [("", b"\x10\x11"), ("ctrl-p,ctrl-q", b"\x10\x11"), ("a,b", b"ab"), ("ctrl-@,ctrl-_", b"\0\x1f")],
)
def test_parse(text: str, keys: bytes) -> None:
    """Docker's spellings give the terminal's bytes."""
    assert parse_detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "a,,b", "é"])
def test_parse_refuses(text: str) -> None:
    """What is no key is refused."""
    with pytest.raises(Invalid, match="Invalid escape keys"):
        parse_detach_keys(text)


@given(st.lists(st.binary(max_size=8)), st.lists(st.binary(max_size=8)))
def test_found_in_any_pieces(before: list[bytes], after: list[bytes]) -> None:
    """The keys end the stream, what came before them is passed on, what comes behind is not."""
    clean = [part.replace(b"\x10", b"p").replace(b"\x11", b"q") for part in before]
    scanner, out = DetachScanner(DEFAULT_KEYS), b""
    for part in [*clean, b"\x10", b"\x11", *after]:
        passed, found = scanner.feed(part)
        out += passed
        if found:
            break
    assert found and out == b"".join(clean)


@given(st.lists(st.binary(max_size=6)), st.sampled_from([b"\x10\x11", b"aab", b"x"]))
def test_nothing_is_lost(parts: list[bytes], keys: bytes) -> None:
    """Without the whole sequence, all bytes come through in order, but for a held-back beginning at the
    end."""
    scanner, out = DetachScanner(keys), b""
    for part in parts:
        passed, found = scanner.feed(part)
        if found:
            return
        out += passed
    whole = b"".join(parts)
    assert whole.startswith(out) and keys.startswith(whole[len(out) :])


def test_keys_after_a_repeated_first_key() -> None:
    """ctrl-p ctrl-p ctrl-q detaches, and the first ctrl-p was typed for the program."""
    assert DetachScanner(DEFAULT_KEYS).feed(b"\x10\x10\x11") == (b"\x10", True)
