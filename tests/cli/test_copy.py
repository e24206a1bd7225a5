"""`cais cp` and `cais diff`: which end is which, what goes under which name, and tars that are not to be trusted."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from cais.cli.copy import Found, base_name, parse_end, place
from cais.cli.copytar import pack, unpack
from cais.cli.failure import Failure
from cais.cli.main import run


@pytest.mark.parametrize(
    ("text", "container", "path"),
    [
        ("web:/etc", "web", "/etc"),
        ("web:etc:x", "web", "etc:x"),
        ("/tmp/a:b", "", "/tmp/a:b"),
        ("./a:b", "", "./a:b"),
        ("file", "", "file"),
        ("-", "", "-"),
    ],
)
def test_ends(text: str, container: str, path: str) -> None:
    """A colon makes it a container's, unless it looks like a path before that."""
    end = parse_end(text)
    assert (end.container, end.path) == (container, path)


FOLDER, FILE = Found("src", exists=True, is_folder=True), Found("src", exists=True)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (FOLDER, Found("/there", exists=True, is_folder=True), ("/there", "")),
        (FILE, Found("/there", exists=True, is_folder=True), ("/there", "")),
        (FILE, Found("/a/old", exists=True), ("/a", "old")),
        (FILE, Found("/a/new", exists=False), ("/a", "new")),
        (FOLDER, Found("/a/new/", exists=False), ("/a", "new")),
        (FOLDER, Found("new", exists=False), (".", "new")),
        (FOLDER, Found("/new", exists=False), ("/", "new")),
    ],
)
def test_places(source: Found, target: Found, expected: tuple[str, str]) -> None:
    """Into a folder under its own name; else under the target's, in the folder above."""
    assert place(source, "src", target) == expected


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (FOLDER, Found("/file", exists=True), "cannot copy directory"),
        (FILE, Found("/new/", exists=False), "no such directory"),
    ],
)
def test_places_that_cannot_be(source: Found, target: Found, words: str) -> None:
    """docker's words."""
    with pytest.raises(Failure, match=words):
        place(source, "src", target)


@pytest.mark.parametrize(("path", "name"), [("/a/b/", "b"), ("/a/.", ""), ("/", "")])
def test_base_names(path: str, name: str) -> None:
    """What is in a folder has no name of its own."""
    assert base_name(path) == name


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("a:/x", "b:/y"), "copying between containers is not supported"),
        (("x", "y"), "must specify at least one container source"),
        (("/no/such/file", "a:/x"), "no such file or directory"),
        (("/etc/passwd/", "a:/x"), "lstat /etc/passwd: not a directory"),
        (("", "a:/x"), "source can not be empty"),
        (("a:/x", ""), "destination can not be empty"),
        (("/etc/passwd", "a:"), "no such directory"),
        (("a:/x", "/no/such/x"), 'directory "/no/such" does not exist'),
    ],
)
def test_refusals(engine: Any, words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing was copied, and the reason is told."""
    assert run(["-H", engine.host, "cp", *words]) == 1
    assert text in capsys.readouterr().err
    assert {request.method for request in engine.requests if "archive" in request.path} <= {"HEAD"}


def make_tar(*members: tuple[str, bytes, str]) -> bytes:
    """A tar of names, kinds and texts or targets."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            data = text.encode() if kind == tarfile.REGTYPE else b""
            info.size, info.linkname = len(data), "" if data else text
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "members",
    [
        [("w/../../out", tarfile.REGTYPE, "x")],
        [("w/l", tarfile.SYMTYPE, "../.."), ("w/l/out", tarfile.REGTYPE, "x")],
        [("w/h", tarfile.LNKTYPE, "w/../../secret")],
    ],
)
def test_a_containers_tar_stays_below_the_folder(
    tmp_path: Path, members: list[tuple[str, bytes, str]]
) -> None:
    """Neither names nor links of it lead to other files of this machine (CVE-2018-15664, CVE-2019-14271)."""
    (tmp_path / "secret").write_text("of the host")
    (tmp_path / "to").mkdir()
    with pytest.raises(Failure, match="cannot write to"):
        unpack(iter([make_tar(*members)]), str(tmp_path / "to"), "new")
    assert sorted(os.listdir(tmp_path)) == ["secret", "to"]
    assert not (tmp_path / "to/new/h").exists()


def test_there_and_back(tmp_path: Path) -> None:
    """What is packed is unpacked the same, under another name: contents, modes, times, links of both kinds."""
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "d").mkdir(parents=True)
    target.mkdir()
    (source / "d/x").write_bytes(os.urandom(3_000_001))
    (source / "d/x").chmod(0o751)
    os.utime(source / "d/x", (5, 5))
    os.link(source / "d/x", source / "h")
    (source / "l").symlink_to("d/x")
    unpack(pack(str(source), "source"), str(target), "new")
    found = target / "new"
    assert sorted(os.listdir(found)) == ["d", "h", "l"] and os.readlink(found / "l") == "d/x"
    assert (found / "d/x").read_bytes() == (source / "d/x").read_bytes()
    status = (found / "d/x").stat()
    assert (status.st_mode & 0o7777, status.st_mtime, status.st_nlink) == (0o751, 5, 2)


def test_diff(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a change; null is none."""
    kind = type(engine.answers["HEAD /_ping"])
    changes = [{"Path": f"/{letter}", "Kind": number} for number, letter in enumerate("CAD")]
    for value, text in ((changes, "C /C\nA /A\nD /D\n"), (None, "")):
        engine.answers["GET /containers/web/changes"] = kind(200, b"null" if value is None else value)
        assert run(["-H", engine.host, "diff", "web"]) == 0
        assert capsys.readouterr().out == text
