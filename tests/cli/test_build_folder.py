"""Folders that are filled from what an image holds: nothing gets out of them."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from cais.cli.buildfolder import FolderWriter, open_file
from cais.cli.failure import Failure

Member = tuple[str, bytes, str | bytes, int]
"""Name, type, content or link, mode."""


def pack(*members: Member) -> bytes:
    """A tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, content, mode in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = kind, mode, 1_600_000_000
            info.uid = info.gid = 12345
            if isinstance(content, bytes):
                info.size = len(content)
            else:
                info.linkname = content
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def unpack(path: Path, data: bytes, size: int = 7000) -> None:
    """As it comes, in pieces."""
    writer = FolderWriter(str(path))
    try:
        for at in range(0, len(data), size):
            writer.write(data[at : at + size])
        writer.finish()
    finally:
        writer.abandon()


REG, DIR, SYM, LNK, CHR, FIFO = (
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
)


def test_everything_arrives(tmp_path: Path) -> None:
    """Files, folders that are read only, links of both kinds; times and modes, without setuid; owners are ours."""
    out = tmp_path / "out"
    unpack(
        out,
        pack(
            ("ro", DIR, "", 0o555),
            ("ro/f", REG, b"x" * 20_000, 0o4755),
            ("ro/hard", LNK, "ro/f", 0o755),
            ("sym", SYM, "/etc/passwd", 0o777),
            ("null", CHR, "", 0o666),
            ("pipe", FIFO, "", 0o600),
            ("new/deep/f", REG, b"y", 0o640),
        ),
    )
    found = (out / "ro/f").stat()
    assert found.st_size == 20_000 and found.st_mode & 0o7777 == 0o755 and found.st_nlink == 2
    assert found.st_uid == os.geteuid() and found.st_mtime == 1_600_000_000
    assert (out / "ro").stat().st_mode & 0o777 == 0o555
    assert os.readlink(out / "sym") == "/etc/passwd" and not (out / "null").exists()
    assert stat.S_ISFIFO((out / "pipe").lstat().st_mode) and (out / "new/deep/f").read_text() == "y"


def test_what_is_there_stays_or_is_replaced(tmp_path: Path) -> None:
    """A link of that name is replaced, never written through."""
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("mine")
    (out / "f").symlink_to(victim)
    (out / "kept").write_text("kept")
    unpack(out, pack(("f", REG, b"new", 0o644)))
    assert victim.read_text() == "mine" and (out / "f").read_text() == "new" and not (out / "f").is_symlink()
    assert (out / "kept").read_text() == "kept"


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", REG, b"x", 0o644)],
        [("a/../../evil", REG, b"x", 0o644)],
        [("l", SYM, "..", 0o777), ("l/evil", REG, b"x", 0o644)],
        [("l", SYM, "/", 0o777), ("l/tmp/evil", REG, b"x", 0o644)],
        [("h", LNK, "../secret", 0o644)],
        [("l", SYM, "..", 0o777), ("h", LNK, "l/secret", 0o644)],
        [("d", DIR, "", 0o755), ("d", SYM, "..", 0o777), ("d/evil", REG, b"x", 0o644)],
        [("l", SYM, "../secret", 0o777), ("h", LNK, "l", 0o644), ("h", REG, b"changed", 0o644)],
    ],
)
def test_nothing_gets_out(members: list[Member], tmp_path: Path) -> None:
    """Whatever names and links say (CVE-2019-14271 and its kind)."""
    out = tmp_path / "out"
    (tmp_path / "secret").write_text("secret")
    try:
        unpack(out, pack(*members))
    except Failure as failure:
        assert str(out) in str(failure)
    assert not (tmp_path / "evil").exists() and not Path("/tmp/evil").exists()
    assert (tmp_path / "secret").read_text() == "secret"
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_a_tar_that_is_cut_is_a_failure(tmp_path: Path) -> None:
    """And a folder that cannot be made, too."""
    with pytest.raises(Failure, match="cannot write to"):
        unpack(tmp_path / "out", pack(("f", REG, b"x" * 50_000, 0o644))[:20_000])
    (tmp_path / "file").touch()
    with pytest.raises(Failure, match=r"file exists|not a directory"):
        FolderWriter(str(tmp_path / "file"))


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    """And is not there at all if it never is."""
    dest = tmp_path / "x.tar"
    dest.write_text("old")
    file = open_file(str(dest))
    file.write(b"new")
    assert dest.read_text() == "old"
    file.abandon()
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"] and dest.read_text() == "old"
    file = open_file(str(dest))
    file.write(b"new")
    file.finish()
    assert dest.read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(Failure, match="no such file"):
        open_file(str(tmp_path / "none" / "x"))
