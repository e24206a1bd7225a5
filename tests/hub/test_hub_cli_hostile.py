"""A hub that means harm: what it says never moves a cursor, sets a colour, or passes for lines of our own."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cais.cli.hubshow import clean_text, escape_json
from harness.hubcli import Program

pytestmark = pytest.mark.slow
EVIL = "a\x1b[2J\x9b31m\r\n\u202eb\x07"
SHOWN = "a\ufffd[2J\ufffd31m\ufffd\ufffd\ufffdb\ufffd"
ROW = {"name": EVIL, "description": EVIL, "private": False, "size": 1, "pulls": 1, "updated": None}


class _Evil(BaseHTTPRequestHandler):
    """Answers every request for what is known, and refuses the rest; in its own words, both."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0].removeprefix("/api/v1")
        found: Any = {
            "/search": {"repositories": [ROW]},
            "/repositories/team/app": {"readme": f"line\n\t{EVIL}"},
            "/tokens": {"secret": EVIL},
            "/system/collect": {"blobs": EVIL, "manifests": 0, "uploads": 0, "freed": 0},
        }.get(path)
        data = json.dumps(found or {"error": {"message": EVIL}}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: it is nobody's business here."""


@pytest.fixture
def cais(tmp_path: Path) -> Iterator[Program]:
    """The program, which talks to a hostile hub."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Evil) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Program(server.server_port, tmp_path)
        finally:
            server.shutdown()
            thread.join()


def test_tables_and_cells_are_printable(cais: Program) -> None:
    """A row stays a row, whatever a name has in it; by templates, too."""
    heading, row = cais.lines("search", "x")
    assert heading.startswith("NAME") and row.startswith(SHOWN)
    assert cais.lines("search", "--format", "{{.Description}}", "x") == [SHOWN]


def test_json_is_whole_and_printable(cais: Program) -> None:
    """A program reads what the hub said; a terminal has nothing to obey."""
    done = cais("search", "--format", "json", "x")
    assert done.stdout.rstrip("\n").isprintable()
    assert json.loads(done.stdout) == ROW
    shown = cais("inspect", "team/app")
    assert json.loads(shown.stdout) == [{"readme": f"line\n\t{EVIL}"}]
    assert shown.stdout.replace("\n", "").isprintable()


def test_texts_of_several_lines(cais: Program) -> None:
    """A program gets them as they are, a terminal without what it would obey."""
    words = ("inspect", "--format", "{{.readme}}", "team/app")
    assert cais.data(*words).decode() == f"line\n\t{EVIL}\n"
    code, seen = cais.on_terminal(*words)
    assert code == 0 and "line\r\n" in seen and "\ufffd[2J" in seen
    assert seen.replace("\r\n", "").replace("\t", "").isprintable()


def test_refusals_secrets_and_sums(cais: Program) -> None:
    """Also what looks like the program's own words is the hub's."""
    refused = cais("tags", "team/app")
    assert refused.returncode == 1 and refused.stderr == f"http://127.0.0.1:{cais.port}: {SHOWN}\n"
    assert cais.lines("token", "create", "ci") == [SHOWN]
    assert cais.lines("collect")[0] == f"Removed {SHOWN} blobs, 0 manifests and 0 unfinished uploads"


def test_escapes_keep_the_value() -> None:
    """Also of what has no place in the first plane, and of halves that have none at all."""
    for text in ("plain é \U0001f600", "\x7f\x85\xa0\u2028", "\U000e0001", "\udc80"):
        escaped = escape_json(json.dumps(text, ensure_ascii=False))
        assert escaped.isprintable() and json.loads(escaped) == text
    assert escape_json('[\n    "x"\n]') == '[\n    "x"\n]'
    assert clean_text("a\n\tb\x1b\n") == "a\n\tb\ufffd\n"
