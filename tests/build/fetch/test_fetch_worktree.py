"""What git makes of a blob: line ends and ids."""

import pytest

from cais.build.fetch.worktree import needs_change, write_out

BLOB = "ab" * 20


@pytest.mark.parametrize(
    ("attributes", "before", "after"),
    [
        ({"eol": "crlf"}, b"a\nb\r\nc", b"a\r\nb\r\nc"),
        ({"eol": "crlf", "text": "set"}, b"\n", b"\r\n"),
        ({"eol": "crlf", "text": "auto"}, b"a\n", b"a\r\n"),
        ({"eol": "crlf", "text": "auto"}, b"a\nb\r\n", b"a\nb\r\n"),
        ({"eol": "crlf", "text": "auto"}, b"\0\n", b"\0\n"),
        ({"eol": "crlf", "text": "auto"}, b"\1\2\n", b"\1\2\n"),
        (
            {"eol": "crlf", "text": "auto"},
            b"\x1b[1m" + b"a" * 200 + b"\1\n",
            b"\x1b[1m" + b"a" * 200 + b"\1\r\n",
        ),
        ({"ident": "set"}, b"$Id$ $Id: old $ $Idx$", f"$Id: {BLOB} $ $Id: {BLOB} $ $Idx$".encode()),
        ({"ident": "set"}, b"$Id: a b $ $Id: a\n$", b"$Id: a b $ $Id: a\n$"),
        ({"ident": "unset"}, b"$Id$", b"$Id$"),
    ],
)
def test_contents(attributes: dict[str, str], before: bytes, after: bytes) -> None:
    """As the attributes say, and only for text."""
    assert write_out(before, attributes, BLOB) == after
    assert needs_change(attributes) or before == after


def test_most_files_stay_what_they_are() -> None:
    """Without attributes, with those of other line ends, and with filters that nobody has."""
    for attributes in (
        {},
        {"eol": "lf"},
        {"text": "auto"},
        {"text": "unset", "eol": "crlf"},
        {"filter": "lfs"},
    ):
        assert not needs_change(attributes)
