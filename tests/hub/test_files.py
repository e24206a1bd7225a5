"""hub/files: what a layer has, layers on top of each other, and what two trees differ in."""

import asyncio
import io
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cais.errors import NotFound
from cais.hub.files import (
    FileEntry,
    Files,
    Listing,
    Node,
    build_tree,
    compare_trees,
    list_layer,
)
from cais.registry.registry import Registry
from cais.spec.digest import digest_bytes
from cais.store.layers.limits import Limits
from harness.cargo import make_layer, pack


def listed(files: dict[str, bytes | str], compress: str = "gzip") -> Listing:
    """A layer with these files, read."""
    data = make_layer(files)
    match compress:
        case "gzip":
            data = pack(data)
        case "zstd":
            data = zstandard.ZstdCompressor().compress(data)
    return list_layer(io.BytesIO(data))


def tree(*layers: dict[str, bytes | str]) -> Node:
    """These layers on top of each other."""
    return build_tree(map(listed, layers)).root


def paths(node: Node) -> set[str]:
    """All paths below."""
    found = {child.entry.path for child in node.children.values()}
    return found.union(*(paths(child) for child in node.children.values()))


@pytest.mark.parametrize("compress", ["gzip", "zstd", "none"])
def test_a_layer_is_read_whatever_it_is_compressed_with(compress: str) -> None:
    """Files, folders and links, with sizes and modes."""
    listing = listed({"bin/": b"", "bin/sh": b"#!", "bin/ash": "-> sh"}, compress)
    assert not listing.broken
    assert [(e.path, e.kind, e.size, e.link) for e in listing.entries] == [
        ("bin", "folder", 0, ""),
        ("bin/sh", "file", 2, ""),
        ("bin/ash", "link", 0, "sh"),
    ]
    assert listing.entries[1].mode == 0o755 and len(listing.entries[1].content) == 32


def test_names_that_are_no_text_are_shown_escaped() -> None:
    """A name of any bytes, with dots and slashes too many, is a path of text."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("./etc//caf\xe9"))
    (entry,) = list_layer(io.BytesIO(out.getvalue())).entries
    assert entry.path == "etc/caf\\xe9"


def test_what_is_no_tar_says_so() -> None:
    """An artifact's blob is not taken for an empty layer."""
    assert list_layer(io.BytesIO(b"{" * 1000)).broken
    cut = pack(make_layer({"a": b"x" * 100_000}))[:-20]
    assert list_layer(io.BytesIO(cut)).broken


def test_a_bomb_is_not_read_to_its_end() -> None:
    """A kilobyte that says it is many megabytes stops at the bound, and says why."""
    squeeze = zlib.compressobj(9, wbits=31)
    info = tarfile.TarInfo("zeros")
    info.size = 1 << 30
    bomb = squeeze.compress(info.tobuf()) + b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(64))
    bomb += squeeze.flush()
    assert len(bomb) < 100_000
    listing = list_layer(io.BytesIO(bomb), Limits(max_entries=10, max_ratio=200, ratio_floor=8 << 20))
    assert "200 times" in listing.broken and not listing.entries


def test_too_many_files_are_cut_off() -> None:
    """The list ends at the bound and says so."""
    data = pack(make_layer({f"f{n}": b"" for n in range(20)}))
    listing = list_layer(io.BytesIO(data), Limits(max_entries=5))
    assert len(listing.entries) == 5 and listing.broken == "more than 5 files"


def test_a_layer_that_takes_too_long_is_given_up() -> None:
    """Patience is a bound too."""
    assert "too long" in list_layer(io.BytesIO(pack(make_layer({"a": b"x"}))), patience=-1.0).broken


def test_whiteouts_remove_what_lies_below_them() -> None:
    """A file, a folder with all in it, and everything that was in a folder before."""
    lower = {"a": b"", "d/x": b"", "d/y": b"", "e/old": b"", "keep": b""}
    upper = {".wh.a": b"", ".wh.d": b"", "e/.wh..wh..opq": b"", "e/new": b""}
    assert paths(tree(lower, upper)) == {"keep", "e", "e/new"}


def test_a_whiteout_does_not_remove_what_its_own_layer_brings() -> None:
    """Whatever their order in the tar: whiteouts are for lower layers."""
    assert paths(tree({"d/x": b""}, {"d/x": b"2", ".wh.d": b""})) == {"d", "d/x"}


def test_a_file_replaces_a_folder_and_the_other_way_round() -> None:
    """What was in the folder goes with it."""
    assert paths(tree({"d/x": b""}, {"d": b"file"})) == {"d"}
    assert paths(tree({"d": b"file"}, {"d/x": b""})) == {"d", "d/x"}


def test_a_folder_that_comes_again_keeps_what_is_in_it() -> None:
    """Its own mode is the new one's."""
    root = tree({"d/": b"", "d/x": b"abc"}, {"d/": b""})
    found = root.find("d")
    assert found and set(found.children) == {"x"} and found.layer == 2
    assert (root.total, root.count) == (3, 3)


def test_whiteouts_of_a_single_layer_are_shown() -> None:
    """They are what the layer does."""
    assert ".wh.a" in build_tree([listed({".wh.a": b""})], applied=False).root.children


def test_many_layers_of_many_files_are_cut_off() -> None:
    """Each is within its bounds, and all together would fill the memory; what is written again counts once."""
    again = listed({f"same{number}": "x" for number in range(50)})
    tree = build_tree([again] * 20, most=50)
    assert (tree.broken, tree.root.count) == ("", 51)
    layers = [listed({f"{layer}/{number}": "x" for number in range(9)}) for layer in range(20)]
    tree = build_tree(layers, most=50)
    assert tree.broken == "layer 6: the image has more than 50 files"
    assert tree.root.count == 1 + 50 + 2
    deep = build_tree([listed({f"{number}/" * 900 + "x": "x" for number in range(9)})], most=50)
    assert deep.broken.startswith("layer 1: ") and deep.root.count == 1 + 901


def test_a_broken_layer_is_told_by_its_number() -> None:
    """What can be shown is shown."""
    found = build_tree([listed({"a": b""}), Listing((), "truncated")])
    assert found.broken == "layer 2: truncated" and paths(found.root) == {"a"}


def test_layers_are_kept_and_what_is_absent_is_asked_for_again(tmp_path: Path) -> None:
    """A layer is read once; one that was not here is, as soon as it has come."""
    data = pack(make_layer({"a": b"x"}))
    digest, other = digest_bytes(data), digest_bytes(b"other")
    opened: list[str] = []

    class Store:
        def open_blob(self, wanted: str) -> BinaryIO:
            opened.append(wanted)
            if wanted == other and not (tmp_path / "other").exists():
                raise NotFound("no")
            return io.BytesIO(data)

    async def act() -> None:
        files = Files(cast(Registry, Store()))
        found = await files.tree([digest, other])
        assert found.broken == "layer 2: it is not in this registry" and paths(found.root) == {"a"}
        (tmp_path / "other").touch()
        assert not (await files.tree([digest, other])).broken
        await files.tree([digest], applied=False)
        await files.tree([digest, other])
        assert opened == [digest, other, other]

    asyncio.run(act())


def test_comparing_says_what_changed_and_how() -> None:
    """Added, removed and changed; a folder that is new or gone is one line, with its sum."""
    old = tree({"a": b"1", "b": b"1", "gone/x": b"123", "gone/y": b"45", "same": b"s", "l": "-> a"})
    new = tree({"a": b"2", "b": b"1", "new/z": b"1234", "same": b"s", "l": "-> b"})
    found = {change.path: change for change in compare_trees(old, new)}
    assert {path: change.how for path, change in found.items()} == {
        "a": "changed",
        "gone": "removed",
        "l": "changed",
        "new": "added",
    }
    assert (found["gone"].count, found["gone"].before) == (3, 5)
    assert (found["new"].count, found["new"].after) == (2, 4)
    assert found["l"].details == ("target a became b",)


def test_a_change_that_keeps_size_and_time_is_seen() -> None:
    """The content is what is compared."""
    assert [c.path for c in compare_trees(tree({"a": b"12"}), tree({"a": b"21"}))] == ["a"]


NAMES = st.lists(st.sampled_from(["a", "b", ".wh.a", ".wh..wh..opq", "c"]), min_size=1, max_size=4)


@given(
    st.lists(st.lists(st.tuples(NAMES, st.sampled_from(["file", "folder", "link"])), max_size=12), max_size=4)
)
def test_any_layers_make_a_tree_whose_sums_are_right(layers: list[list[tuple[list[str], str]]]) -> None:
    """Whatever is put on what: no whiteout is left, every path leads to its node, counts are those of the tree."""
    listings = [
        Listing(
            tuple(
                FileEntry("/".join(parts), kind, 1 if kind == "file" else 0, 0, 0, 0, 0, "", "")
                for parts, kind in entries
            )
        )
        for entries in layers
    ]
    root = build_tree(listings).root
    found = paths(root)
    assert root.count == len(found) + 1
    assert not [path for path in found if path.rpartition("/")[2].startswith(".wh.")]
    for path in found:
        node = root.find(path)
        assert node and node.entry.path == path
    assert compare_trees(root, root) == []
