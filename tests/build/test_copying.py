"""Contexts, and what COPY makes of them, without a kernel: the members of the layer that comes out."""

import gzip
import io
import subprocess
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.build.chmod import parse_chmod
from cais.build.context import Context, Index, clean_member, index_context, narrow
from cais.build.copying import Copying, Manner
from cais.build.keys import fingerprint
from cais.build.layering import guard_start
from cais.build.owner import find_owner
from cais.build.tree import LayersTree, MemoryTree, Node, Tree, resolve
from cais.errors import CaisError, Invalid, NotFound
from cais.spec.ignore import make_ignore
from cais.store.layers import tar as format
from cais.store.layers.codec import sniff

Entries = Sequence[tuple[str, str]]
"""Names and contents; ``-> x`` is a symlink, ``= x`` a hard link, a slash at the end a folder."""


def pack(entries: Entries, **fields: int) -> bytes:
    """A tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.mtime = fields.get("mode", 0o644), 77, fields.get("mtime", 5)
            data = b""
            if name.endswith("/"):
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif content.startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, content[3:]
            elif content.startswith("= "):
                info.type, info.linkname = tarfile.LNKTYPE, content[2:]
            else:
                data = content.encode()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def index_of(data: bytes, folder: Path) -> Index:
    """The index of a context."""
    source = folder / f"context{len(list(folder.iterdir()))}"
    source.write_bytes(data)
    return index_context(str(source), f"{source}.plain")


def context_of(entries: Entries, folder: Path, **fields: int) -> Context:
    """A context."""
    return Context(index_of(pack(entries, **fields), folder))


def copied(copying: Copying) -> dict[str, tarfile.TarInfo]:
    """The members that come out, by name."""
    data = b"".join(copying.members()) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: info for info in archive}


def copy(
    source: Tree, text: str, destination: str, manner: Manner | None = None
) -> dict[str, tarfile.TarInfo]:
    """One COPY onto nothing."""
    copying = Copying(MemoryTree({}), manner or Manner())
    copying.copy(source, text.encode(), destination.encode())
    return copied(copying)


# Contexts


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_context_is_read_compressed_or_not(compress: type[bytes], tmp_path: Path) -> None:
    """Contents, kinds, folders that no member lists; owners are root's."""
    data = pack([("./a", "one"), ("d/e/f", "x" * 5000), ("l", "-> a"), ("h", "= a")])
    context = Context(index_of(compress(data), tmp_path))
    assert b"".join(context.read(b"d/e/f")) == b"x" * 5000 and b"".join(context.read(b"h")) == b"one"
    assert context.names(b"") == [b"a", b"d", b"h", b"l"] and context.names(b"d") == [b"e"]
    node = context.look(b"d/e")
    assert node is not None and node.is_folder and context.look(b"a").uid == 0  # type: ignore[union-attr]
    assert context.look(b"a").identity == context.look(b"h").identity  # type: ignore[union-attr]
    assert context.digest(b"a") == context.digest(b"h") != context.digest(b"d/e/f")
    context.close()


def test_the_last_member_of_a_name_holds(tmp_path: Path) -> None:
    """A file in a folder's place hides what was in it, and the other way round."""
    context = context_of(
        [("x/y", "1"), ("x", "file"), ("z", "file"), ("z/y", "2"), ("a", "1"), ("a", "2")], tmp_path
    )
    assert context.look(b"x/y") is None and b"".join(context.read(b"x")) == b"file"
    assert context.look(b"z").is_folder and b"".join(context.read(b"a")) == b"2"  # type: ignore[union-attr]
    context.close()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/../x", "a/" * 300 + "x"])
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    """As are endless ones."""
    with pytest.raises(Invalid):
        clean_member(name.encode())


@pytest.mark.parametrize(
    "data", [b"x" * 600, pack([("a", "b")])[:700], b"\x1f\x8b" + b"x" * 600, pack([("h", "= no")])]
)
def test_broken_contexts_are_refused(data: bytes, tmp_path: Path) -> None:
    """No tar, cut off, broken compression, hard links to nothing."""
    with pytest.raises(CaisError):
        index_of(data, tmp_path)


def test_sparse_files_are_whole(tmp_path: Path) -> None:
    """Holes are zeros."""
    with (tmp_path / "s").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(600_000)
        file.write(b"data")
    made = subprocess.run(["tar", "-S", "-cf", "-", "s"], cwd=tmp_path, capture_output=True, check=True)
    assert len(made.stdout) < 1 << 19
    context = Context(index_of(made.stdout, tmp_path))
    assert b"".join(context.read(b"s")) == (tmp_path / "s").read_bytes()
    context.close()


# Links


def look_in(links: dict[str, str], folders: Sequence[str] = ()) -> Tree:
    """A tree of links and folders."""

    class Links(MemoryTree):
        def look(self, path: bytes) -> Node | None:
            text = path.decode()
            if text in links:
                return Node(format.SYMLINK, 0o777, link=links[text].encode())
            return Node(format.FOLDER, 0o755) if text in folders or not text else None

    return Links({})


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("/a/b", "a/b"),
        ("abs/x", "etc/x"),
        ("rel/x", "d/x"),
        ("up/x", "x"),
        ("far/x", "x"),
        ("d/in/x", "d/e/x"),
        ("d/abs/x", "etc/x"),
        ("abs", "etc"),
        ("../../x", "x"),
        ("a/./b//c/..", "a/b"),
        ("chain", "etc"),
    ],
)
def test_links_are_followed_inside_the_tree(path: str, want: str) -> None:
    """Absolute ones begin at its root, and dots end there."""
    links = {
        "abs": "/etc",
        "rel": "d",
        "up": "..",
        "far": "../../../..",
        "d/in": "e",
        "d/abs": "/etc",
        "chain": "abs",
    }
    assert resolve(look_in(links, ["d"]).look, path.encode()).decode() == want


def test_links_that_go_round_are_refused() -> None:
    """Instead of hanging."""
    for links in ({"a": "a"}, {"a": "b", "b": "a"}, {"a": "a/a/a/a/a"}):
        with pytest.raises(Invalid, match="too many symbolic links"):
            resolve(look_in(links).look, b"a/x")


NAMES = st.sampled_from(["a", "b", "..", ".", "/", "a/b", "../..", "/a"])


@given(st.dictionaries(st.sampled_from(["a", "b", "a/b"]), st.lists(NAMES, max_size=4).map("/".join)), NAMES)
def test_no_links_lead_out(links: dict[str, str], path: str) -> None:
    """Whatever they say, the result is below the root."""
    try:
        found = resolve(look_in(links).look, path.encode()).decode()
    except Invalid:
        return
    assert not found.startswith("/") and ".." not in found.split("/")


# Copying


def test_hard_links_stay_links_and_copies_do_not(tmp_path: Path) -> None:
    """Two names of one file are one file in the image; the second copy of it is another."""
    source = context_of([("d/a", "x"), ("d/b", "= d/a"), ("c", "y")], tmp_path)
    found = copy(source, "d", "/x")
    assert found["x/b"].islnk() and found["x/b"].linkname == "x/a"
    source.close()


@pytest.mark.parametrize("name", [".wh.x", "d/.wh.x", ".wh..wh..opq"])
def test_names_that_would_delete_in_a_layer_are_refused(name: str, tmp_path: Path) -> None:
    """A context cannot make holes in an image."""
    with pytest.raises(Invalid, match="would delete a file in a layer"):
        copy(context_of([(name, "x")], tmp_path), ".", "/x/")


def test_archives_cannot_make_holes_or_climb(tmp_path: Path) -> None:
    """ADD of an archive stays below its destination."""
    for bad in ([(".wh.x", "x")], [("../x", "x")], [("a", "x"), ("h", "= ../../x")]):
        inner = pack(bad)
        context = Context(index_of(pack_binary("a.tar", inner), tmp_path))
        with pytest.raises(Invalid):
            copy(context, "a.tar", "/d/", Manner(unpack=True))
        context.close()


def pack_binary(name: str, data: bytes) -> bytes:
    """A context of one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    """Wildcards may match nothing."""
    source = context_of([("a", "x")], tmp_path)
    with pytest.raises(NotFound, match="stat b/c: file does not exist"):
        copy(source, "/b/./c", "/x")
    assert copy(source, "b*", "/x/") == {}


NARROWED = [
    ("a/", ""),
    ("a/one", "1"),
    ("a/deep/", ""),
    ("a/deep/two", "2"),
    ("a/deep/up", "-> ../one"),
    ("ab", "beside"),
    ("b/", ""),
    ("b/three", "3"),
    ("b/same", "= a/one"),
    ("link", "-> a/deep"),
]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a", 5),
        ("/a/./deep/", 4),
        ("a/deep/two", 3),
        ("ab", 1),
        ("b/../ab", 1),
        (".", 10),
        ("a*", 10),
        ("link", 10),
        ("link/two", 10),
        ("a/missing", 10),
        ("ab/one", 10),
    ],
)
def test_a_worker_gets_no_more_than_it_needs_and_makes_the_same(
    text: str, count: int, tmp_path: Path
) -> None:
    """What is copied, or the error, does not depend on it."""
    index = index_of(pack(NARROWED), tmp_path)
    part = narrow(index, [text])
    assert len(part.items) == count

    def outcome(each: Index) -> object:
        copying = Copying(MemoryTree({}), Manner())
        try:
            copying.copy(Context(each), text.encode(), b"/x/")
            return b"".join(copying.members())
        except CaisError as error:
            return str(error)

    assert outcome(part) == outcome(index)


def test_several_sources_are_all_there(tmp_path: Path) -> None:
    """None of them hides another."""
    index = index_of(pack(NARROWED), tmp_path)
    assert set(narrow(index, ["b/three", "ab"]).items) == {b"b", b"b/three", b"ab"}
    assert narrow(index, ["ab", "link"]) is index and narrow(index, []) is index


def test_layers_are_looked_at_in_any_order(tmp_path: Path) -> None:
    """That a folder is not there is remembered of that folder alone."""
    low, top = tmp_path / "low", tmp_path / "top"
    (low / "a/b").mkdir(parents=True)
    (low / "a/b/file").write_text("x")
    (top / "a").mkdir(parents=True)
    (top / "a/link").symlink_to("b")
    deep = b"/".join([b"d"] * 2000)
    paths = [
        deep,
        b"n/x",
        b"n",
        b"a/b/file/x",
        b"a/link/file",
        b"a/b/file",
        b"a/b",
        b"a/link",
        b"a",
        b"",
        b"ab",
    ]
    there = {b"a/b/file", b"a/b", b"a/link", b"a", b""}
    for order in (paths, paths[::-1]):
        tree = LayersTree((str(top), str(low)))
        assert {path for path in order if tree.look(path)} == there


def test_a_new_owner_does_not_inherit_capabilities(tmp_path: Path) -> None:
    """What root's file may do, another's may not."""
    manner = Manner(owner=(5, 6))

    class Capable(MemoryTree):
        def look(self, path: bytes) -> Node | None:
            node = super().look(path)
            return node if not path or node is None else Node(format.REGULAR, 0o755, size=1, xattrs=CAPABLE)

    assert "SCHILY.xattr.security.capability" in copy(Capable({b"f": b"x"}), "f", "/f")["f"].pax_headers
    found = copy(Capable({b"f": b"x"}), "f", "/f", manner)["f"]
    assert (found.uid, found.gid) == (5, 6) and not found.pax_headers


CAPABLE = {"security.capability": b"\x01"}


def test_a_name_that_looks_like_compression_is_no_harm() -> None:
    """The layer's tar begins with the root then."""
    copying = Copying(MemoryTree({}), Manner())
    copying.copy(MemoryTree({b"BZhello": b"x"}), b"BZhello", b"/BZhello")
    first = next(iter(guard_start(copying.members(), ())))
    assert not sniff(first[:6])


# Keys


def test_keys_are_of_content_and_not_of_times(tmp_path: Path) -> None:
    """Bytes, modes, names, links; what is excluded does not count."""
    entries = [("d/a", "x"), ("d/l", "-> a"), ("d/log", "1")]
    manner = Manner(exclude=make_ignore(["log"]))

    def key(entries: Entries, **fields: int) -> str:
        context = context_of(entries, tmp_path, **fields)
        found = fingerprint(context, "d", manner)
        context.close()
        return found

    same = key(entries)
    assert (
        same
        == key(entries, mtime=99)
        == key([*entries[:2], ("d/log", "2")])
        == key([*entries, ("other", "x")])
    )
    others = [
        key([("d/a", "y"), *entries[1:]]),
        key(entries, mode=0o600),
        key([("d/b", "x"), *entries[1:]]),
        key([entries[0], ("d/l", "-> b"), entries[2]]),
        key([*entries, ("d/new/", "")]),
    ]
    assert len({same, *others}) == 6


def test_a_large_context_is_indexed_and_keyed_soon(tmp_path: Path) -> None:
    """Ten thousand files."""
    data = pack([(f"d{i % 100}/f{i}", str(i)) for i in range(10_000)])
    begin = time.monotonic()
    context = Context(index_of(data, tmp_path))
    assert len(context.names(b"d7")) == 100 and fingerprint(context, ".", Manner())
    assert time.monotonic() - begin < 10
    context.close()


# Modes and owners


@pytest.mark.parametrize(
    ("text", "mode", "is_folder", "want"),
    [
        ("755", 0o600, False, 0o755),
        ("4711", 0, False, 0o4711),
        ("u+x", 0o644, False, 0o744),
        ("+x", 0o644, False, 0o755),
        ("go-rwx", 0o777, False, 0o700),
        ("u=rwX,go=rX", 0o600, True, 0o755),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("a+X", 0o744, False, 0o755),
        ("u+s,g+s,+t", 0o755, False, 0o7755),
        ("u=rw,u+x-w", 0o777, False, 0o577),
    ],
)
def test_modes(text: str, mode: int, is_folder: bool, want: int) -> None:
    """Octal, and as chmod(1) has it."""
    assert parse_chmod(text)(mode, is_folder) == want


@pytest.mark.parametrize("text", ["8", "77777", "u~x", "x", "", "u=q", "-1"])
def test_modes_that_cannot_be(text: str) -> None:
    """Are refused."""
    with pytest.raises(Invalid):
        parse_chmod(text)


PASSWD = b"root:x:0:0:root:/root:/bin/sh\napp:x:10:20::/:/bin/sh\n77:x:5:6::/:/bin/sh\n"
GROUP = b"root:x:0:\nstaff:x:50:app\n"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("app", (10, 20)),
        ("app:staff", (10, 50)),
        ("app:7", (10, 7)),
        (":staff", (0, 50)),
        ("12", (12, 12)),
        ("12:staff", (12, 50)),
        ("12:34", (12, 34)),
        ("77", (5, 6)),
    ],
)
def test_owners(text: str, want: tuple[int, int]) -> None:
    """Names of the image's own; a number alone is user and group."""
    assert find_owner(text, MemoryTree({b"etc/passwd": PASSWD, b"etc/group": GROUP})) == want


@pytest.mark.parametrize("text", ["who", "app:who", ":", "4294967296", "1:4294967296"])
def test_owners_that_cannot_be(text: str) -> None:
    """Unknown names, and numbers that would wrap around to root (CVE-2024-40635)."""
    with pytest.raises(Invalid):
        find_owner(text, MemoryTree({b"etc/passwd": PASSWD, b"etc/group": GROUP}))
