"""Hostile layers: nothing outside the target is ever made, changed or removed."""

import io
import os
import stat
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cais.errors import CaisError, Invalid
from cais.store.layers.apply import apply_layer
from cais.store.layers.lower import LowerView
from cais.store.layers.writer import NeedsLower

pytestmark = pytest.mark.kernel
EXAMPLES = int(os.environ.get("CAIS_TEST_EXAMPLES", "150"))
"""Of hostile layers; by hand it may be thousands."""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the layer that must stay as it is."""
    return make_outside(tmp_path)


def make_outside(base: Path) -> Path:
    folder = base / "outside"
    (folder / "sub").mkdir(parents=True)
    (folder / "secret").write_text("secret")
    (folder / "sub" / "file").write_text("file")
    return folder


def snapshot(base: Path, target: Path) -> dict[str, object]:
    """Everything below ``base`` but the target's inside, with all that a layer could change."""
    found: dict[str, object] = {}
    for folder, folders, files in os.walk(base):
        if Path(folder) == target:
            folders.clear()
            continue
        for name in [".", *folders, *files]:
            path = Path(folder) / name
            status = path.lstat()
            if path != target:
                found[str(path)] = (
                    status.st_mode,
                    status.st_uid,
                    status.st_nlink if stat.S_ISREG(status.st_mode) else 0,
                    status.st_mtime_ns,
                    status.st_size,
                    tuple(os.listxattr(path, follow_symlinks=False)),
                )
    return found


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/../x", "..", "./../x", "a/b/../../../x"])
@pytest.mark.parametrize("kind", ["file", "folder", "symlink", "fifo"])
def test_names_that_climb_out_are_refused(tar: Any, layer: Any, name: str, kind: str) -> None:
    """A name that leads above the root is Invalid, for every kind of entry."""
    with pytest.raises(Invalid, match="leads out of the layer"):
        layer(tar.member(kind, name, linkname="t"))


def test_absolute_names_count_from_the_root(tar: Any, layer: Any, tree: Any) -> None:
    """/x is x."""
    path, _ = layer(tar.file("/etc/x", b"1"), tar.folder("//d//"), tar.link("/h", "/etc/x"))
    assert tree(path) == {"etc": "folder", "etc/x": "= 1", "d": "folder", "h": "= 1"}


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh..", "d/.wh..."])
def test_whiteouts_of_no_name_are_refused(tar: Any, layer: Any, name: str) -> None:
    """`.wh..` and `.wh...` would be `.` and `..`."""
    with pytest.raises(Invalid, match="whiteout without a proper name"):
        layer(tar.folder("d"), tar.file(name))


@pytest.mark.parametrize("to", ["{outside}", "../../outside", "../outside", "/../../../{outside}"])
def test_a_planted_symlink_is_not_walked_out(tar: Any, tmp_path: Path, outside: Path, to: str) -> None:
    """Files, folders, links, nodes and whiteouts through a symlink land in the layer."""
    target = tmp_path / "layer"
    target.mkdir()
    before = snapshot(tmp_path, target)
    blob = tar.make(
        tar.symlink("s", to.format(outside=outside)),
        tar.file("s/new", b"x"),
        tar.file("s/secret", b"x"),
        tar.folder("s/sub", mode=0o777, uid=5),
        tar.file("s/sub/file", b"x"),
        tar.file("s/.wh.secret"),
        tar.file("s/.wh..wh..opq"),
        tar.member("fifo", "s/pipe"),
        tar.symlink("s/link", "secret"),
        tar.link("h", "s/new"),
    )
    apply_layer(io.BytesIO(blob), target)
    assert snapshot(tmp_path, target) == before
    assert (target / "h").read_bytes() == b"x"


def test_a_hard_link_cannot_reach_outside(tar: Any, layer: Any, outside: Path) -> None:
    """Not by name, not through a symlink, not through a symlink's symlink."""
    secret = str(outside / "secret")
    with pytest.raises(Invalid, match="leads out"):
        layer(tar.link("h", "../outside/secret"))
    for members in (
        [tar.link("h", secret)],
        [tar.symlink("s", str(outside)), tar.link("h", "s/secret")],
        [tar.symlink("s", "../.."), tar.symlink("t", "s/outside"), tar.link("h", "t/secret")],
    ):
        with pytest.raises(NeedsLower):  # it is not in the layer: only the layers below can have it
            layer(*members)
        with pytest.raises(Invalid, match="which is no file"):
            layer(*members, below=[])
    assert (outside / "secret").stat().st_nlink == 1


def test_a_hard_link_to_a_symlink_is_a_link_to_the_link(tar: Any, layer: Any, outside: Path) -> None:
    """Writing to it later replaces it; the file that the symlink names is never opened."""
    path, _ = layer(
        tar.symlink("s", str(outside / "secret")),
        tar.link("h", "s"),
        tar.file("h", b"replaced", mode=0o777),
        tar.file("s", b"replaced", mode=0o777),
    )
    assert (outside / "secret").read_text() == "secret"
    assert stat.S_IMODE((outside / "secret").stat().st_mode) == 0o644
    assert (path / "h").read_bytes() == b"replaced"


def test_a_folder_swapped_for_a_symlink_midway(tar: Any, layer: Any, outside: Path, tree: Any) -> None:
    """An open folder is forgotten when another object takes its place."""
    path, _ = layer(
        tar.folder("d"),
        tar.file("d/one", b"1"),
        tar.symlink("d", str(outside)),
        tar.file("d/secret", b"2"),
        tar.folder("d"),
        tar.file("d/three", b"3"),
    )
    assert (outside / "secret").read_text() == "secret"
    assert tree(path)["d/three"] == "= 3" and "d/one" not in tree(path)


def test_a_symlink_swapped_for_another(tar: Any, layer: Any, tree: Any) -> None:
    """Paths that went through the old one are resolved anew."""
    path, _ = layer(tar.symlink("s", "a"), tar.file("s/f"), tar.symlink("s", "b"), tar.file("s/f"))
    assert tree(path) == {"s": "-> b", "a": "folder", "a/f": "= ", "b": "folder", "b/f": "= "}


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ([("a", "a")], "too many symbolic links"),
        ([("a", "b"), ("b", "a")], "too many symbolic links"),
        ([("a", "../a/x")], "too many symbolic links"),
    ],
)
def test_symlink_loops_end(tar: Any, layer: Any, links: list[tuple[str, str]], message: str) -> None:
    """A loop is Invalid, not endless."""
    with pytest.raises(Invalid, match=message):
        layer(*(tar.symlink(name, to) for name, to in links), tar.file("a/f"))


def test_symlinks_cannot_build_endless_depth(tar: Any, layer: Any) -> None:
    """A link that leads deeper each time ends at the limit, before the kernel's PATH_MAX does."""
    deep = "/".join(["d"] * 100)
    with pytest.raises(Invalid, match="too many"):
        layer(
            tar.symlink("s", deep),
            tar.symlink(f"{deep}/s", deep),
            tar.symlink(f"{deep}/{deep}/s", deep),
            tar.file("s/s/s/f"),
        )


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("file", {"name": "n" * 256}, "File name too long"),
        ("file", {"name": "d/" * 300 + "f"}, "too many folders"),
        ("file", {"name": "n/" * 1800}, "longer than 3500 bytes"),
        ("symlink", {"linkname": ""}, "No such file"),
        ("symlink", {"linkname": "t" * 4097}, "File name too long"),
        ("link", {"linkname": ""}, "hard link to the root"),
        ("link", {"linkname": "d"}, "hard link to the folder d"),
        ("file", {"uid": 2**32 - 1}, "owner 4294967295:0 is out of range"),
        ("file", {"gid": 2**40}, "is out of range"),
        ("char", {"devmajor": 4096}, "device number 4096:0 is out of range"),
        ("file", {"name": "f/x"}, "f: not a directory"),
        ("file", {"name": "./"}, "the root must be a folder"),
        ("file", {"pax_headers": {"SCHILY.xattr.user." + "n" * 260: "v"}}, "out of range"),
    ],
)
def test_impossible_entries_are_named(
    tar: Any, layer: Any, kind: str, fields: dict[str, Any], message: str
) -> None:
    """What the kernel or chown(2) would refuse or misread is Invalid."""
    name = fields.pop("name", "entry")
    with pytest.raises(Invalid, match=message):
        layer(tar.folder("d"), tar.file("f"), tar.member(kind, name, **fields))


def test_unknown_kinds_are_refused(tmp_path: Path, tar: Any) -> None:
    """A member kind that readers disagree about is Invalid; a volume label is passed over."""
    info = tarfile.TarInfo("f")
    info.type = b"M"
    with pytest.raises(Invalid, match="unknown kind"):
        apply_layer(io.BytesIO(info.tobuf() + bytes(1024)), tmp_path)
    info.type = b"V"
    assert apply_layer(io.BytesIO(info.tobuf() + bytes(1024)), tmp_path).entries == 0


def test_the_working_folder_and_umask_stay(tar: Any, layer: Any) -> None:
    """Neither is used nor changed: both belong to the whole process."""
    old = os.umask(0o077)
    try:
        path, _ = layer(tar.folder("d", mode=0o777), tar.file("d/f", mode=0o666), tar.file("i/f"))
        assert stat.S_IMODE((path / "d/f").stat().st_mode) == 0o666
        assert stat.S_IMODE((path / "i").stat().st_mode) == 0o755
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(old)


NAMES = st.lists(
    st.sampled_from(["a", "b", "s", "..", ".", "", ".wh.a", ".wh.s", ".wh..wh..opq", "secret", "sub"]),
    min_size=1,
    max_size=4,
).map("/".join)
TARGETS = st.sampled_from(
    ["..", "../..", "OUT", "OUT/sub", "/OUT", "a", "/", ".", "s", "../outside", "b/../.."]
)
MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(["file", "folder", "symlink", "symlink", "link", "link", "fifo", "char"]),
        NAMES,
        st.one_of(TARGETS, NAMES),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.slow
@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MEMBERS, st.booleans())
def test_no_sequence_of_entries_touches_anything_outside(
    tar: Any, members: list[tuple[str, str, str]], chained: bool
) -> None:
    """Whatever the entries and their order: applied or refused, the world around the layer is as before."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        outside = make_outside(base)
        lower, target = base / "lower", base / "layer"
        lower.mkdir()
        target.mkdir()
        (lower / "s").symlink_to(outside)
        (lower / "b").mkdir()
        before, here = snapshot(base, target), os.getcwd()
        blob = tar.make(
            *(
                tar.member(kind, name, linkname=to.replace("OUT", str(outside)), mode=0o777, uid=1, mtime=5)
                for kind, name, to in members
            )
        )
        with suppress(CaisError, NeedsLower):
            apply_layer(io.BytesIO(blob), target, below=LowerView([str(lower)]) if chained else None)
        assert snapshot(base, target) == before
        assert os.getcwd() == here


@pytest.mark.slow
@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes_are_refused_or_harmless(tar: Any, data: st.DataObject) -> None:
    """Flipped bytes anywhere give a layer or an error of ours, never another exception."""
    blob = bytearray(
        tar.make(
            tar.file("a/f", b"x" * 700, pax_headers={"SCHILY.xattr.user.a": "b", "mtime": "1.5"}),
            tar.symlink("s", "t" * 120),
            tar.file("n" * 120),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(
            st.sampled_from([0, 10, 32, 48, 55, 61, 128, 255])
        )
    with tempfile.TemporaryDirectory() as folder, suppress(CaisError, NeedsLower):
        apply_layer(io.BytesIO(bytes(blob)), Path(folder))
