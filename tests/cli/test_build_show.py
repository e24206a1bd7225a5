"""How a build is shown: plain lines, a picture that moves, BuildKit's JSON; and that no build can paint elsewhere."""

import io
import json
import sys
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.cli.buildanswer import FailureLog, follow, read_lines
from cais.cli.buildlive import Screen, cut, printable
from cais.cli.buildshow import Plain, Quiet, RawJson, clean, format_stamp
from cais.cli.failure import Failure

SECOND = 1_000_000_000


def started(id: str, name: str, at: float = 0) -> dict[str, Any]:
    """An event."""
    return {"type": "started", "id": id, "name": name, "at": int(at * SECOND)}


def output(id: str, text: bytes, at: float = 0) -> dict[str, Any]:
    """An event."""
    data = b64encode(text).decode()
    return {"type": "output", "id": id, "stream": 1, "data": data, "at": int(at * SECOND)}


def done(id: str, at: float = 0, *, cached: bool = False, error: str = "") -> dict[str, Any]:
    """An event."""
    return {"type": "done", "id": id, "at": int(at * SECOND), "cached": cached, "error": error}


def progress(id: str, item: str, current: int, total: int, at: float, is_done: bool) -> dict[str, Any]:
    """An event."""
    line = {"type": "progress", "id": id, "item": item, "current": current, "total": total}
    return {**line, "started": 0, "at": int(at * SECOND), "done": is_done}


def plain(*events: dict[str, Any]) -> str:
    """What the plain view writes."""
    out, before = io.StringIO(), sys.stderr
    sys.stderr = out
    try:
        view = Plain()
        for event in events:
            view.show(event)
        view.end()
    finally:
        sys.stderr = before
    return out.getvalue()


def test_plain_lines_are_those_people_know() -> None:
    """Numbers, times, CACHED, DONE, ERROR; the name stands again when others were in between."""
    text = plain(
        started("a", "[1/2] RUN one", 1),
        started("b", "[2/2] RUN two", 1),
        output("a", b"first\nhalf ", 1.5),
        output("b", b"other\r\n", 1.75),
        output("a", b"a line\n", 2),
        done("a", 2.5),
        done("b", 3, error="it broke\nfor a reason"),
        started("c", "[3/2] COPY x", 3),
        done("c", 3, cached=True),
        started("c", "[3/2] COPY x", 3),
        done("c", 3, cached=True),
    )
    assert text == (
        "\n#1 [1/2] RUN one\n"
        "\n#2 [2/2] RUN two\n"
        "\n#1 [1/2] RUN one\n#1 0.500 first\n"
        "\n#2 [2/2] RUN two\n#2 0.750 other\n"
        "\n#1 [1/2] RUN one\n#1 1.000 half a line\n#1 DONE 1.5s\n"
        "\n#2 [2/2] RUN two\n#2 ERROR: it broke\n"
        "\n#3 [3/2] COPY x\n#3 CACHED\n"
    )


def test_plain_output_without_a_line_break_is_shown_at_the_end() -> None:
    """And things it does are named when they are done."""
    text = plain(
        started("a", "x"),
        progress("a", "sha256:1", 5, 10, 1, False),
        progress("a", "sha256:1", 10, 10, 2, True),
        output("a", b"no end", 1),
        done("a", 3),
    )
    assert text == "\n#1 x\n#1 sha256:1 10B 2.0s done\n#1 3.000 no end\n#1 DONE 3.0s\n"


def test_a_name_cannot_move_the_cursor() -> None:
    """In no view."""
    evil = "RUN \x1b[2J\r\nx\u202ey"
    assert "\x1b" not in plain(started("a", evil), done("a"))
    screen = Screen(0)
    screen.take(started("a", evil))
    assert all(line.isprintable() for line in screen.lines(SECOND, 20, 80))
    assert clean("plain ü") == "plain ü"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("10%\r20%\r30%", "30%"),
        ("done\r", "done"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hhome", "home"),
        ("\x1b]0;title\x07text", "text"),
        ("a\tb", "a        b"),
        ("bell\x07", "bell\ufffd"),
        ("\x1b[", ""),
        ("\x1b", ""),
    ],
)
def test_output_on_the_screen_is_harmless(raw: str, shown: str) -> None:
    """Of what paints, the text is left."""
    assert printable(raw) == shown


@given(st.text())
def test_no_output_can_paint(raw: str) -> None:
    """Whatever it is."""
    assert printable(raw).isprintable()


def test_the_screen_shows_what_runs_and_collapses_what_is_over() -> None:
    """Times go on; the last lines of output stand below; what is over is dropped first when there is no room."""
    screen = Screen(0)
    for number in range(10):
        screen.take(started(f"d{number}", f"done {number}"))
        screen.take(done(f"d{number}", 1, cached=number == 9))
    screen.take(started("r", "[2/2] RUN make", 1))
    screen.take(output("r", b"".join(b"line %d\n" % number for number in range(20)) + b"half"))
    screen.take(progress("r", "layer", 1000, 2000, 1, False))
    lines = screen.lines(3 * SECOND, 14, 60)
    assert lines[0] == "[+] Building 3.0s (10/11)"
    assert lines[-6:] == [f" => => # line {number}" for number in range(14, 20)]
    assert any("=> => layer 1kB / 2kB" in line for line in lines)
    run = next(line for line in lines if "RUN make" in line)
    assert run.endswith(" 2.0s") and len(run) == 60
    assert len(lines) <= 14 and "done 9" in "".join(lines) and "done 0" not in "".join(lines)
    screen.take(done("r", 4, error="no"))
    final = screen.lines(4 * SECOND, 5, 60, last=True)
    assert len(final) == 12 and "FINISHED" in final[0] and "ERROR [2/2] RUN make" in final[-1]
    assert "line 19" not in "".join(final)


@pytest.mark.parametrize("width", [1, 8, 20, 500])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """One that wraps would break the picture."""
    assert len(cut("x" * 100, width)) <= max(width, 1)


@given(st.integers(0, 4_000_000_000 * SECOND))
def test_stamps_are_rfc_3339(at: int) -> None:
    """The calendar is the usual one."""
    expected = datetime.fromtimestamp(at // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    assert format_stamp(at) == f"{expected}.{at % SECOND:09}Z"


def test_raw_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A vertex is told whole each time, as BuildKit's client reads it."""
    view = RawJson()
    for event in (
        {**started("sha256:a", "n", 1), "inputs": ["sha256:b"]},
        output("sha256:a", b"x", 1),
        progress("sha256:a", "l", 1, 2, 1, True),
        {"type": "warning", "id": "sha256:a", "level": 1, "text": "w", "url": "u"},
        done("sha256:a", 2, cached=True),
    ):
        view.show(event)
    view.end()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == {
        "vertexes": [
            {
                "digest": "sha256:a",
                "name": "n",
                "started": "1970-01-01T00:00:01.000000000Z",
                "inputs": ["sha256:b"],
            }
        ]
    }
    assert lines[1]["logs"][0]["data"] == "eA=="
    assert lines[2]["statuses"][0]["completed"] and lines[3]["warnings"][0]["url"] == "u"
    assert lines[4]["vertexes"][0] | {} == {
        **lines[0]["vertexes"][0],
        "completed": "1970-01-01T00:00:02.000000000Z",
        "cached": True,
    }


# The answer


def pack(*parts: dict[str, Any] | bytes) -> bytes:
    """Lines, and raw bytes between them."""
    return b"".join(part if isinstance(part, bytes) else json.dumps(part).encode() + b"\n" for part in parts)


@given(st.integers(1, 40))
def test_lines_and_data_are_told_apart_however_they_are_cut(size: int) -> None:
    """Raw bytes may hold line breaks and braces."""
    raw = b'{"type": "x"}\n\n'
    whole = pack(started("a", "n"), {"type": "data", "output": 0, "size": len(raw)}, raw, {"type": "result"})
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    found = list(read_lines(pieces))
    assert b"".join(data for _, data in found) == raw
    assert [line["type"] for line, data in found if not data] == ["started", "result"]


@pytest.mark.parametrize(
    "answer", [b"", b"{", b"[]\n", b'{"a": 1}\n', pack({"type": "data", "output": 0, "size": 5}, b"abc")]
)
def test_an_answer_that_makes_no_sense_is_a_failure(answer: bytes) -> None:
    """Never a trace."""
    with pytest.raises(Failure, match=r"makes no sense|ended before|not asked for"):
        follow([answer], Quiet(), [])


def test_an_output_that_was_not_asked_for_is_refused() -> None:
    """The engine does not choose where files go."""
    answer = pack({"type": "data", "output": 3, "size": 1}, b"x", {"type": "result"})
    with pytest.raises(Failure, match="not asked for"):
        follow([answer], Quiet(), [])


def test_a_failure_is_explained() -> None:
    """The step with its last lines, the place, the reason."""
    log = FailureLog()
    log.take(started("a", "[2/2] RUN x"))
    log.take(output("a", b"".join(b"%d\n" % number for number in range(30))))
    text = log.explain(
        {
            "message": "it failed",
            "id": "a",
            "file": "ci/Dockerfile",
            "lines": [2, 3],
            "excerpt": [[1, "FROM x", False], [2, "RUN x", True]],
        }
    )
    assert text.splitlines() == [
        "------",
        " > [2/2] RUN x:",
        *map(str, range(20, 30)),
        "------",
        "ci/Dockerfile:2-3",
        "-" * 20,
        "   1 |     FROM x",
        "   2 | >>> RUN x",
        "-" * 20,
        "ERROR: it failed",
    ]
    assert log.explain({"message": "no step"}) == "ERROR: no step"
