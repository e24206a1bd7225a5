"""Whether two images are the same, and if not, in what: for ``--verify``."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

import msgspec

from cais.build.tree import LayersTree, Node, Tree, join, show
from cais.images.image import Image
from cais.images.images import Images
from cais.images.unpack import Unpacker
from cais.spec.image import ImageConfig
from cais.store.layers.tar import REGULAR

MOST = 20
"""Files that are named."""


class FieldDifference(msgspec.Struct, frozen=True):
    """A field of the configuration, e.g. ``config.Env``, and what each image says, as JSON; empty: nothing."""

    name: str
    first: str
    second: str


class LayerDifference(msgspec.Struct, frozen=True):
    """A layer by its place from the bottom, and what each image has there; empty: nothing."""

    index: int
    first: str
    second: str


class FileDifference(msgspec.Struct, frozen=True):
    """A file that differs; ``what``: ``only in the first``, ``only in the second``, or which of kind, mode, owner,
    size, content, link, device, attributes and time."""

    path: str
    what: str


class Differences(msgspec.Struct, frozen=True):
    """Nothing in it: the images are the same but for the times that did not count. ``more``: files that differ beyond
    those that are named."""

    fields: Sequence[FieldDifference] = ()
    layers: Sequence[LayerDifference] = ()
    files: Sequence[FileDifference] = ()
    more: bool = False

    @property
    def is_same(self) -> bool:
        """Whether there are none."""
        return not (self.fields or self.layers)


class _Files(msgspec.Struct):
    named: list[FileDifference] = msgspec.field(default_factory=list)
    more: bool = False


async def compare_images(
    images: Images, unpacker: Unpacker, first: Image, second: Image, *, times: bool = False
) -> Differences:
    """Compare configurations, layers and, if those differ, the files. ``times``: those of the configuration count, too
    (what is built with SOURCE_DATE_EPOCH has the same ones). Raises NotFound, Corrupt."""
    fields = compare_configs(first.config, second.config, times=times)
    layers = compare_layers(first, second)
    if not layers:
        return Differences(fields)
    lowers = [await images.root_lowers(image) for image in (first, second)]
    found = await unpacker.workers.run(compare_files, *lowers)
    return Differences(fields, layers, tuple(found.named), found.more)


def compare_configs(first: ImageConfig, second: ImageConfig, *, times: bool) -> list[FieldDifference]:
    """Every field that differs but the layers. Pure."""
    sides = [_flatten("", _plain(config, times=times)) for config in (first, second)]
    names = sorted(sides[0].keys() | sides[1].keys())
    return [
        FieldDifference(name, sides[0].get(name, ""), sides[1].get(name, ""))
        for name in names
        if sides[0].get(name) != sides[1].get(name)
    ]


def _plain(config: ImageConfig, *, times: bool) -> dict[str, Any]:
    raw: dict[str, Any] = msgspec.to_builtins(config, enc_hook=str)
    raw.pop("rootfs", None)
    if not times:
        raw.pop("created", None)
        for step in raw.get("history", ()):
            step.pop("created", None)
    return raw


def _flatten(name: str, value: Any) -> dict[str, str]:
    """Objects become dotted names, and what is in lists of objects numbered ones; the rest stays together."""
    if isinstance(value, dict) and value:
        pairs = [(f"{name}.{key}" if name else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple) and value and all(isinstance(each, dict) for each in value):
        pairs = [(f"{name}[{index}]", inner) for index, inner in enumerate(value)]
    else:
        return {name: msgspec.json.encode(value, order="sorted").decode()}
    found: dict[str, str] = {}
    for inner_name, inner in pairs:
        found |= _flatten(inner_name, inner)
    return found


def compare_layers(first: Image, second: Image) -> list[LayerDifference]:
    """Where the diff_ids differ. Pure."""
    pairs = enumerate(zip_longest(first.diff_ids, second.diff_ids, fillvalue=""))
    return [LayerDifference(index, str(one), str(two)) for index, (one, two) in pairs if one != two]


def compare_files(first: tuple[str, ...], second: tuple[str, ...]) -> _Files:
    """The files that differ in the merged layers of both (folders, top first); for a worker. Raises OSError."""
    found = _Files()
    for difference in _differences(LayersTree(first), LayersTree(second)):
        if len(found.named) == MOST:
            found.more = True
            break
        found.named.append(difference)
    return found


def _differences(first: Tree, second: Tree) -> Iterator[FileDifference]:
    """In the order of paths. What is only in one is named once, not with all that is below it."""
    waiting = [b""]
    while waiting:
        folder = waiting.pop()
        sides = [
            {name: tree.look(join(folder, name)) for name in tree.names(folder)} for tree in (first, second)
        ]
        below = []
        for name in sorted(sides[0].keys() | sides[1].keys()):
            path = join(folder, name)
            one, two = sides[0].get(name), sides[1].get(name)
            if one is None or two is None:
                if one is not None or two is not None:
                    yield FileDifference(show(path), f"only in the {'second' if one is None else 'first'}")
                continue
            words = _compare_nodes(one, two)
            if not words and one.kind == REGULAR and not _same_content(first, second, path):
                words = ["content"]
            if one.mtime != two.mtime:
                words.append("time")
            if words:
                yield FileDifference(show(path), ", ".join(words))
            if one.is_folder and two.is_folder:
                below.append(path)
        waiting += reversed(below)


def _compare_nodes(one: Node, two: Node) -> list[str]:
    if one.kind != two.kind:
        return ["kind"]
    pairs = {
        "mode": (one.mode, two.mode),
        "owner": ((one.uid, one.gid), (two.uid, two.gid)),
        "size": (one.size, two.size),
        "link": (one.link, two.link),
        "device": (one.device, two.device),
        "attributes": (one.xattrs, two.xattrs),
    }
    return [name for name, (left, right) in pairs.items() if left != right]


def _same_content(first: Tree, second: Tree, path: bytes) -> bool:
    return all(one == two for one, two in zip_longest(first.read(path), second.read(path)))
