"""The words of a verdict."""

from typing import Any

from cais.cli.buildverify import format_verdict

SAME: dict[str, Any] = {"same": True, "count": 1, "more": False, "fields": [], "layers": [], "files": []}


def test_agreement_is_one_line() -> None:
    """With what was compared."""
    line = "x is what this builds: the configuration and 1 layer agree"
    assert format_verdict(SAME, "x") == [line]


def test_times_alone_get_a_hint() -> None:
    """It is said how they can be the same."""
    layers = [{"index": 0, "first": "sha256:a", "second": "sha256:b"}]
    found = {**SAME, "same": False, "layers": layers, "files": [{"path": "/a", "what": "time"}]}
    assert "SOURCE_DATE_EPOCH" in format_verdict(found, "x")[-1]
    found["files"] = [{"path": "/a", "what": "content, time"}]
    assert "SOURCE_DATE_EPOCH" not in format_verdict(found, "x")[-1]


def test_differences_are_limited_and_clean() -> None:
    """Twenty of each; names of files may hold anything."""
    fields = [{"name": f"config.{n}", "first": "", "second": "y" * 500} for n in range(30)]
    files = [{"path": f"/a\x1b[31m{n}", "what": "only in the first"} for n in range(30)]
    layers = [{"index": 0, "first": "sha256:a", "second": ""}]
    lines = format_verdict({**SAME, "same": False, "fields": fields, "layers": layers, "files": files}, "x")
    assert lines[0] == "x is not what this builds:" and lines[1].startswith("  config.0: nothing → yyy")
    assert len(lines[1]) < 240 and lines[21] == "  … and 11 more" and lines[-1] == "  … and more files"
    assert lines[22] == "  /a\ufffd[31m0: only in x" and "\x1b" not in "".join(lines)
