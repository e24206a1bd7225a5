"""HTTP/1.1 answers, however the bytes are cut, and the tricks of hostile ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.spec.http1 import HEAD_LIMIT, Body, Head, HeadReader, format_request, parse_head


def collect(body: Body, data: bytes, cuts: list[int]) -> bytes:
    """Feed ``data`` in pieces that end at ``cuts``."""
    parts: list[bytes] = []
    at = 0
    for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        parts += body.feed(data[at:cut])
        at = max(at, cut)
    return b"".join(parts)


@given(st.lists(st.binary(min_size=1, max_size=50)), st.lists(st.integers(0, 10**6), max_size=8))
def test_chunks_survive_any_cut(chunks: list[bytes], cuts: list[int]) -> None:
    """Chunked content comes out whole however the network cuts it, and what follows is kept."""
    wire = (
        b"".join(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nT: x\r\n\r\nNEXT"
    )
    body = Body(Head(200, "OK", {"transfer-encoding": "chunked"}), "GET")
    assert collect(body, wire, cuts) == b"".join(chunks)
    assert body.done and body.rest == b"NEXT"


@pytest.mark.parametrize("size", ["0x10", "-1", "+5", "1_0", "", " ", "g", "1" * 17])
def test_chunk_size_is_plain_hex(size: str) -> None:
    """Spellings that int() takes but HTTP does not are refused: they let two readers disagree."""
    body = Body(Head(200, "OK", {"transfer-encoding": "chunked"}), "GET")
    with pytest.raises(ValueError, match="chunk size"):
        body.feed(size.encode() + b"\r\nabc\r\n")


def test_chunk_longer_than_its_size() -> None:
    """Bytes between a chunk's end and its line break are an error, not content."""
    body = Body(Head(200, "OK", {"transfer-encoding": "chunked"}), "GET")
    with pytest.raises(ValueError, match="longer"):
        body.feed(b"2\r\nabc\r\n")


def test_endless_chunk_line() -> None:
    """A size line without end does not fill the memory."""
    body = Body(Head(200, "OK", {"transfer-encoding": "chunked"}), "GET")
    with pytest.raises(ValueError, match="too long"):
        for _ in range(100):
            body.feed(b"1" * 1000)


def test_length_bounds_the_content() -> None:
    """Content-Length content ends there; the rest belongs to the next answer."""
    body = Body(Head(200, "OK", {"content-length": "3"}), "GET")
    assert body.feed(b"ab") == [b"ab"] and not body.done
    assert body.feed(b"cNEXT") == [b"c"] and body.done and body.rest == b"NEXT"


@pytest.mark.parametrize("length", ["-1", "1e3", "+3", "0x3", "３"])
def test_length_is_digits(length: str) -> None:
    """A Content-Length that is no plain number is refused."""
    with pytest.raises(ValueError, match="content length"):
        Body(Head(200, "OK", {"content-length": length}), "GET")


@pytest.mark.parametrize(("status", "method"), [(204, "POST"), (304, "POST"), (200, "HEAD")])
def test_answers_without_content(status: int, method: str) -> None:
    """HEAD, 204 and 304 have no content, whatever their fields say."""
    assert Body(Head(status, "", {"content-length": "10"}), method).done


def test_early_end() -> None:
    """A connection that ends inside counted content is an error; without a count it is the end."""
    with pytest.raises(ValueError, match="middle"):
        Body(Head(200, "OK", {"content-length": "3"}), "GET").end()
    open_ended = Body(Head(200, "OK", {}), "GET")
    open_ended.end()
    assert open_ended.done


def test_head_in_pieces() -> None:
    """A head is found byte by byte, its names in lower case."""
    reader = HeadReader()
    data = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: a/b\r\nX:y \r\n\r\n"
    heads = [reader.feed(data[at : at + 1]) for at in range(len(data))]
    head = heads[-1]
    assert head is not None and heads[:-1] == [None] * (len(data) - 1)
    assert (head.status, head.reason, dict(head.fields)) == (
        101,
        "UPGRADED",
        {"content-type": "a/b", "x": "y"},
    )


def test_endless_head() -> None:
    """A head without end is refused at the limit."""
    with pytest.raises(ValueError, match="too long"):
        HeadReader().feed(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * HEAD_LIMIT)


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-x", b"HTTP/1.1 20 OK", b"HTTP/1.1 200 OK\r\nno colon", b"HTTP/1.1 200\r\n a: b"]
)
def test_not_a_head(data: bytes) -> None:
    """Other protocols, short codes, folded and nameless fields are refused."""
    with pytest.raises(ValueError):
        parse_head(data)


@pytest.mark.parametrize("target", ["/a b", "/a\r\nX: y", "/a\n"])
def test_request_cannot_be_split(target: str) -> None:
    """A blank or a line break in the target would start a second request: refused."""
    with pytest.raises(ValueError):
        format_request("GET", target, ())


def test_field_cannot_be_split() -> None:
    """A line break in a field's value is refused."""
    with pytest.raises(ValueError, match="line break"):
        format_request("GET", "/", [("Host", "a\r\nX: y")])
