"""Requests and answers of the client, without an engine."""

from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais import errors
from cais.client import calls
from cais.client.protocol import Call, Exchange, make_error, make_start_error, segment


def exchange(call: Call[object], wire: bytes, size: int = 1 << 16) -> tuple[Exchange, bytes]:
    reading = Exchange(call)
    content = b""
    for at in range(0, len(wire), size):
        content += b"".join(reading.feed(wire[at : at + size]))
    return reading, content


@given(st.integers(1, 60))
def test_answer_in_any_pieces(size: int) -> None:
    """An answer is read however it is cut; the connection can then be used again."""
    wire = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
    reading, content = exchange(calls.ping(), wire, size)
    assert content == b"OK" and reading.done and reading.reusable and not reading.refused()


def test_connection_close() -> None:
    """A connection the engine closes is not used again."""
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    assert not exchange(calls.ping(), wire)[0].reusable


def test_hijack_keeps_the_first_bytes() -> None:
    """What comes with the head of a hijacked connection belongs to the stream."""
    wire = b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nstream"
    reading, _ = exchange(calls.attach("a", stdin=False), wire)
    assert reading.done and reading.rest == b"stream"


def test_refused_hijack_is_an_answer() -> None:
    """A refusal of a hijack is read as an answer, with its reason."""
    wire = b'HTTP/1.1 404 Not Found\r\nContent-Length: 17\r\n\r\n{"message":"who"}'
    reading, content = exchange(calls.attach("a", stdin=False), wire)
    failure = reading.failure(content)
    assert reading.refused() and isinstance(failure, errors.NotFound) and str(failure) == "who"


@pytest.mark.parametrize("wire", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
def test_not_an_engine(wire: bytes) -> None:
    """Anything but HTTP is Unavailable, not a crash."""
    with pytest.raises(errors.Unavailable):
        exchange(calls.ping(), wire)


def test_early_end() -> None:
    """A connection that ends too early is Unavailable."""
    for wire in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"):
        with pytest.raises(errors.Unavailable):
            exchange(calls.ping(), wire)[0].end()


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "x", errors.Invalid),
        (403, "x", errors.Denied),
        (404, "No such container: x", errors.NotFound),
        (409, "container is running", errors.Conflict),
        (409, 'The container name "/x" is already in use by container "y"', errors.AlreadyExists),
        (500, "x", errors.Unavailable),
        (501, "x", errors.Unsupported),
        (418, "x", errors.Unavailable),
    ],
)
def test_errors(status: int, message: str, kind: type[Exception]) -> None:
    """Every status is an error of the tree, with the engine's words."""
    error = make_error(status, message)
    assert type(error) is kind and str(error) == message


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("exec: x: executable file not found in $PATH", 127),
        ("permission denied", 126),
        ("is a directory", 126),
        ("boom", 128),
    ],
)
def test_start_errors(message: str, code: int) -> None:
    """A program that cannot be run is TaskFailed with the shell's code."""
    error = make_start_error(500, message)
    assert isinstance(error, errors.TaskFailed) and error.exit_code == code


def test_no_such_container_is_not_a_failed_task() -> None:
    """Starting what does not exist is NotFound."""
    assert type(make_start_error(404, "No such container: x")) is errors.NotFound


@given(st.text(min_size=1).filter(lambda text: text not in (".", "..")))
def test_names_stay_in_their_segment(name: str) -> None:
    """No name ends the path, the request line or the request."""
    try:
        head = calls.inspect_container(name).head()
    except UnicodeEncodeError:
        return  # a lone surrogate is no name
    line, _, _ = head.partition(b"\r\n")
    assert line.count(b" ") == 2 and b"?" not in line and line.startswith(b"GET /containers/")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_no_name(name: str) -> None:
    """An empty name would ask for another resource: Invalid."""
    with pytest.raises(errors.Invalid):
        segment(name)


def test_query() -> None:
    """Empty values are left out, True is 1, lists repeat, filters are JSON of lists."""
    call = calls.list_containers(all=True, filters={"label": ["a=b", "c"], "status": "x"}, size=False)
    path, _, query = call.target().partition("?")
    filters = '{"label":["a=b","c"],"status":["x"]}'
    assert path == "/containers/json" and parse_qs(query) == {"all": ["1"], "filters": [filters]}
    assert calls.save(["a", "b"]).target() == "/images/get?names=a&names=b"


def test_progress() -> None:
    """The texts of a progress stream; an error in it is raised."""
    assert calls.parse_progress(b'{"stream":"Loaded a\\n"}\r\n\r\n{"status":"x"}') == ["Loaded a", "x"]
    with pytest.raises(errors.Unavailable, match="broken"):
        calls.parse_progress(b'{"errorDetail":{"message":"broken"},"error":"broken"}')


@pytest.mark.parametrize(
    ("name", "parts"), [("a", ("a", "")), ("a:1", ("a", "1")), ("h:5000/a", ("h:5000/a", ""))]
)
def test_split_name(name: str, parts: tuple[str, str]) -> None:
    """A registry's port is no tag."""
    assert calls.split_name(name) == parts


def test_log_lines() -> None:
    """Half lines of the two streams are not mixed."""
    lines = calls.LogLines(tty=False)
    frame = b"\x01\0\0\0\0\0\0\2oa\x02\0\0\0\0\0\0\3e\nf\x01\0\0\0\0\0\0\2b\n"
    assert lines.feed(frame) == [b"e", b"oab"] and lines.end() == [b"f"]
    assert calls.LogLines(tty=True).feed(b"a\nb") == [b"a"]


def test_answer_of_another_shape() -> None:
    """JSON of the wrong shape is Corrupt."""
    with pytest.raises(errors.Corrupt):
        calls.version().parse(b'{"Version": 1}')


def test_null_list() -> None:
    """Go's null for an empty list is one."""
    assert calls.list_images(all=False, filters={}).parse(b"null") == []
