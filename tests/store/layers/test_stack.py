"""Layers that were unpacked side by side look, stacked by overlayfs, as if unpacked on top of each other.

``Model`` is that: one tree in memory, to which the entries of all layers are applied in turn.
"""

import shutil
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cais.errors import Invalid
from cais.spec.digest import digest_bytes
from cais.store.layers.layers import Layers
from cais.store.layers.lower import LowerView

pytestmark = pytest.mark.kernel


@dataclass(eq=False)
class Node:
    """One object; ``layer`` is the number of the layer that listed or made it."""

    kind: str
    layer: int
    text: str = ""
    mode: int = 0o755
    children: dict[str, "Node"] = field(default_factory=dict)


class Refused(Exception):
    """The entry makes no sense on this tree."""


class Model:
    """A tree in memory, by the words of image-spec layer.md."""

    def __init__(self) -> None:
        self.root = Node("folder", 0)

    def apply(self, layer: int, kind: str, name: str, text: str) -> None:
        """One entry of layer number ``layer``."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts:
            raise Refused
        parent = self.walk(layer, parts[:-1])
        last = parts[-1]
        if last == ".wh..wh..opq":
            self.strip(parent, layer)
        elif last.startswith(".wh."):
            self.whiteout(parent, last[4:], layer)
        elif kind == "link":
            self.link(layer, parent, last, text)
        elif kind == "folder" and last in parent.children and parent.children[last].kind == "folder":
            parent.children[last].layer, parent.children[last].mode = layer, int(text, 8)
        else:
            made = Node(kind, layer, text)
            if kind == "folder":
                made.text, made.mode = "", int(text, 8)
            parent.children[last] = made
        parent.layer = max(parent.layer, layer)

    def link(self, layer: int, parent: Node, name: str, to: str) -> None:
        parts = [part for part in to.split("/") if part not in ("", ".")]
        if not parts:
            raise Refused
        holder = self.walk(layer, parts[:-1], make=False)
        target = holder.children.get(parts[-1])
        if target is None:
            raise Refused
        if target.kind == "folder":
            raise Refused
        parent.children[name] = target

    def whiteout(self, parent: Node, name: str, layer: int) -> None:
        node = parent.children.get(name)
        if node is None:
            return
        if node.layer < layer:
            del parent.children[name]
        elif node.kind == "folder":
            self.strip(node, layer)

    def strip(self, folder: Node, layer: int) -> None:
        """Remove what lower layers have in the folder."""
        for name, node in list(folder.children.items()):
            if node.layer < layer:
                del folder.children[name]
            else:
                self.strip(node, layer)

    def walk(self, layer: int, parts: list[str], make: bool = True) -> Node:
        """The folder at ``parts``, through symlinks; missing ones are made."""
        trail, pending, links = [self.root], list(reversed(parts)), 0
        while pending:
            name = pending.pop()
            if name == "..":
                trail = trail[:-1] or trail
                continue
            node = trail[-1].children.get(name)
            if node is None:
                if not make:
                    raise Refused
                node = trail[-1].children[name] = Node("folder", layer)
            if node.kind == "symlink":
                links += 1
                if links > 40:
                    raise Refused
                trail = [self.root] if node.text.startswith("/") else trail
                pending += reversed([part for part in node.text.split("/") if part not in ("", ".")])
                continue
            if node.kind != "folder":
                raise Refused
            trail.append(node)
        if make:
            for node in trail:
                node.layer = max(node.layer, layer)
        return trail[-1]

    def list(self, node: Node | None = None, prefix: str = "") -> dict[str, str]:
        """Path to a word for what it is."""
        found = {}
        for name, child in (node or self.root).children.items():
            found[prefix + name] = (
                f"folder {child.mode:o}" if child.kind == "folder" else f"{child.kind} {child.text}"
            )
            found |= self.list(child, f"{prefix}{name}/") if child.children else {}
        return found


def list_folder(root: Path, prefix: str = "") -> dict[str, str]:
    """The same for a real folder."""
    found = {}
    for path in root.iterdir():
        try:
            status = path.lstat()
        except FileNotFoundError:
            found[prefix + path.name] = "listed but not there"
            continue
        if stat.S_ISDIR(status.st_mode):
            found[prefix + path.name] = f"folder {stat.S_IMODE(status.st_mode):o}"
            found |= list_folder(path, f"{prefix}{path.name}/")
        elif stat.S_ISLNK(status.st_mode):
            found[prefix + path.name] = f"symlink {path.readlink()}"
        elif stat.S_ISREG(status.st_mode):
            found[prefix + path.name] = f"file {path.read_text()}"
        else:
            found[prefix + path.name] = "node"
    return found


def unpack(root: Path, tar: Any, layers: list[list[tuple[str, str, str]]]) -> tuple[str, ...]:
    """Unpack the layers and return their folders, top first."""
    store = Layers(root)
    diff_ids: list[Any] = []
    for number, entries in enumerate(layers):
        data = tar.make(*(member(tar, *entry) for entry in entries))
        blob = root / f"blob{number}"
        blob.write_bytes(data)
        store.ensure(blob, digest_bytes(data), diff_ids)
        diff_ids.append(digest_bytes(data))
    return store.lower_paths(diff_ids)


def member(tar: Any, kind: str, name: str, text: str) -> Any:
    """The tar member for an entry; text is content, target or mode."""
    if kind == "file":
        return tar.file(name, text.encode())
    if kind == "folder":
        return tar.folder(name, mode=int(text, 8))
    return tar.member(kind, name, linkname=text)


def check(tar: Any, layers: list[list[tuple[str, str, str]]], merged: Any) -> None:
    """Real stack, model and our own view of the stack show the same, or all refuse."""
    model = Model()
    try:
        for number, entries in enumerate(layers, 1):
            for entry in entries:
                model.apply(number, *entry)
        wanted: dict[str, str] | None = model.list()
    except Refused:
        wanted = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            lowers = unpack(Path(folder), tar, layers)
        except Invalid as error:
            assert wanted is None, error
            return
        assert wanted is not None, "should have been refused"
        with merged(*lowers) as path:
            assert list_folder(path) == wanted
        view = LowerView(lowers)
        paths = {path for lower in lowers for path in list_folder(Path(lower))} | {"absent", "a/absent"}
        assert {path for path in paths if view.find(path.encode())} == set(wanted)


def file(name: str, text: str = "") -> tuple[str, str, str]:
    return ("file", name, text)


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([[file("a")], [file(".wh.a")]], id="whiteout"),
        pytest.param([[file("a")], [file(".wh.a"), file("a", "2")]], id="whiteout and new file"),
        pytest.param([[file("a")], [file("a", "2"), file(".wh.a")]], id="whiteout after the new file"),
        pytest.param([[file("d/x")], [file(".wh.d"), file("d/y")]], id="whiteout, then a folder"),
        pytest.param([[file("d/x")], [file("d/y"), file(".wh.d")]], id="a folder, then its whiteout"),
        pytest.param([[file("d/x"), file("d/s/x")], [file("d/y"), file("d/.wh..wh..opq")]], id="opaque"),
        pytest.param(
            [[file("d/x")], [file("d/.wh..wh..opq"), file("d/.wh.z"), file("d/s/.wh.z")]],
            id="whiteouts in an opaque folder",
        ),
        pytest.param([[file("a")], [file("new/.wh.x"), file("new/y")]], id="whiteout in a new folder"),
        pytest.param([[file(".wh.x"), file("d/.wh.y"), file("d/z")]], id="whiteouts in the bottom layer"),
        pytest.param([[file("a")], [file(".wh.gone")]], id="whiteout of nothing"),
        pytest.param([[("folder", "d", "700"), file("d/x")], [file("d/y")]], id="implied folder"),
        pytest.param(
            [[("folder", "d", "700"), ("folder", "d/e", "1777")], [("folder", "d", "711"), file("d/e/y")]],
            id="implied folder below a listed one",
        ),
        pytest.param([[("folder", "d", "700")], [file("d/x")], [file("d/y")]], id="implied twice"),
        pytest.param([[("folder", "d", "700")], [file("d/x"), ("folder", "d", "711")]], id="listed late"),
        pytest.param([[("folder", "d", "700")], [file(".wh.d"), file("d/x")]], id="implied after a whiteout"),
        pytest.param(
            [[("symlink", "lib", "usr/lib"), file("usr/lib/a")], [file("lib/b")]], id="symlink below"
        ),
        pytest.param(
            [[("symlink", "lib", "/usr/lib")], [file("lib/b"), file("lib/.wh.a")]], id="dangling below"
        ),
        pytest.param(
            [[("symlink", "s", "d"), file("d/x")], [file("s/.wh.x"), file("s/y")]],
            id="whiteout through a symlink below",
        ),
        pytest.param(
            [[("symlink", "lib", "u")], [("symlink", "l", "lib/../v"), file("l/x")]],
            id="symlink through a symlink below",
        ),
        pytest.param([[file("a", "1")], [("link", "b", "a")]], id="hard link to a file below"),
        pytest.param(
            [[("symlink", "s", "d"), file("d/a", "1")], [("link", "b", "s/a")]],
            id="hard link through a symlink below",
        ),
        pytest.param([[("symlink", "s", "d")], [("link", "t", "s")]], id="hard link to a symlink below"),
        pytest.param([[file("a")], [file(".wh.a"), ("link", "b", "a")]], id="hard link to a deleted file"),
        pytest.param([[file("a/x")], [file("a", "2")], [file("a/y")]], id="file in the way"),
        pytest.param(
            [[file("a/x")], [file("a", "2"), ("folder", "a", "755"), file("a/y")]],
            id="a folder that became a file that became a folder",
        ),
        pytest.param(
            [[("symlink", "a", "b")], [file("a/x"), ("folder", "a", "755"), file("a/y")]],
            id="listed after it was implied through a symlink below",
        ),
        pytest.param(
            [[("symlink", "a", "b")], [file("a/s/x"), ("folder", "a", "755"), file("a/s/y")]],
            id="a folder takes the place of a symlink below that was walked before",
        ),
        pytest.param([[file("a")], [file("b")], [file("a")]], id="one layer twice"),
        pytest.param([[file("a")], [file(".wh..wh..opq"), file("b")], [file("c")]], id="opaque root"),
        pytest.param(
            [[file("a"), file("d/x")], [file(".wh.a"), file("d/.wh..wh..opq")], [file("a"), file("d/x")]],
            id="one layer twice with deletions between",
        ),
        pytest.param([[file("a/x")], [("symlink", "a", "b")], [file("a/y")]], id="folder became a symlink"),
        pytest.param(
            [[("symlink", "a", "b"), file("b/x")], [("folder", "a", "755"), file("a/y")]],
            id="symlink became a folder",
        ),
    ],
)
def test_cases(tar: Any, merged: Any, layers: list[list[tuple[str, str, str]]]) -> None:
    """Each rule of layer.md that a layer alone cannot know."""
    check(tar, layers, merged)


NAMES = st.lists(
    st.sampled_from(["a", "b", "s", ".", ".wh.a", ".wh.s", ".wh..wh..opq"]), min_size=1, max_size=3
)
TARGETS = st.sampled_from(["a", "b", "a/b", "/b", "../a", "s", "b/../a", "a/a"])
ENTRY = st.one_of(
    st.tuples(st.just("file"), NAMES.map("/".join), st.sampled_from(["1", "2"])),
    st.tuples(st.just("folder"), NAMES.map("/".join), st.sampled_from(["700", "755", "1777"])),
    st.tuples(st.just("symlink"), NAMES.map("/".join), TARGETS),
    st.tuples(st.just("link"), NAMES.map("/".join), TARGETS.filter(lambda to: ".." not in to)),
)


def is_tidy(entries: list[tuple[str, str, str]]) -> bool:
    """Without folders named like whiteouts, and whiteouts as files only: the specification knows no others."""
    return all(
        not any(part.startswith(".wh.") for part in name.split("/")[:-1])
        and (kind == "file" or not name.split("/")[-1].startswith(".wh."))
        and name.split("/")[-1] != "."
        for kind, name, _ in entries
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(ENTRY, min_size=1, max_size=5).filter(is_tidy), min_size=1, max_size=3))
def test_any_stack(tar: Any, tmp_path: Path, merged: Any, layers: list[list[tuple[str, str, str]]]) -> None:
    """Any entries in any order, up to three layers."""
    for name in ("upper", "work"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    check(tar, layers, merged)
