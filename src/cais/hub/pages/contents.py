"""Files: those of an image or of one layer, to browse; and what two images differ in."""

from collections.abc import Mapping, Sequence

import msgspec
from aiohttp import web

from cais.errors import Invalid, NotFound
from cais.hub.files import Change, Tree, compare_trees
from cais.hub.images import Image, Layer
from cais.hub.pages.site import Site
from cais.hub.pages.tag import find_tagged, need_image
from cais.hub.pages.visit import Visit
from cais.registry.catalog import namespace_of
from cais.spec.image import ImageConfig

SHOWN = 1000
"""Files of a folder, and changes, that one page shows."""
_PLAIN = ("user", "working_dir", "stop_signal", "stop_timeout")
_LISTS = ("entrypoint", "cmd", "shell", "on_build")


class Difference(msgspec.Struct, frozen=True):
    """A setting of the configuration that is not the same; empty: it is not there."""

    name: str
    before: str
    after: str


async def show_files(site: Site, visit: Visit, name: str, ref: str) -> web.Response:
    """GET ``/r/<name>:<tag>/-/files?layer=…&path=…``; without ``layer`` those of the whole image."""
    tagged = await find_tagged(site, visit, name, ref)
    image = need_image(tagged)
    layer = _find_layer(image, visit.number("layer"))
    chosen = [layer] if layer else image.layers
    tree = await site.files.tree([each.digest for each in chosen], applied=layer is None)
    path = "/".join(part for part in visit.get("path").split("/") if part)
    folder = tree.root.find(path)
    if folder is None:
        raise NotFound(f"no such folder in the image: /{path}")
    rows = folder.sorted()
    return site.page(
        visit,
        "files.html",
        repository=name,
        namespace=namespace_of(name),
        ref=ref,
        tagged=tagged,
        image=image,
        layer=layer,
        tree=tree,
        folder=folder,
        path=path,
        parents=_parents(path),
        rows=rows[:SHOWN],
        hidden=max(len(rows) - SHOWN, 0),
    )


def _find_layer(image: Image, number: int) -> Layer | None:
    if not number:
        return None
    if number > len(image.layers):
        raise NotFound(f"the image has {len(image.layers)} layers")
    return image.layers[number - 1]


def _parents(path: str) -> list[tuple[str, str]]:
    """Name and path of each folder above, and of itself."""
    parts = [part for part in path.split("/") if part]
    return [(part, "/".join(parts[: index + 1])) for index, part in enumerate(parts)]


async def show_comparison(site: Site, visit: Visit, name: str) -> web.Response:
    """GET ``/r/<name>/-/compare?tag=…&tag=…``, or with ``from`` and ``to``."""
    site.need_repository(visit, name)
    tags = [text for text in visit.query.get("tag", ()) if text]
    first, second = (visit.get("from"), visit.get("to")) if not tags else (tags[0], tags[-1])
    if not first or not second or (tags and len(tags) != 2):
        raise Invalid("choose two tags to compare")
    old = need_image(await find_tagged(site, visit, name, first))
    new = need_image(await find_tagged(site, visit, name, second))
    before, after = await _tree(site, old), await _tree(site, new)
    changes = compare_trees(before.root, after.root)
    return site.page(
        visit,
        "compare.html",
        repository=name,
        namespace=namespace_of(name),
        first=first,
        second=second,
        old=old,
        new=new,
        shared=_count_shared(old.layers, new.layers),
        settings=compare_configs(old.config, new.config),
        changes=changes[:SHOWN],
        hidden=max(len(changes) - SHOWN, 0),
        sums=_sum_up(changes),
        broken=before.broken or after.broken,
        tags=[tag.name for tag in await site.images.list_tags(name, count=50)],
    )


async def _tree(site: Site, image: Image) -> Tree:
    return await site.files.tree([layer.digest for layer in image.layers])


def _count_shared(old: Sequence[Layer], new: Sequence[Layer]) -> int:
    """Layers at the bottom that are the same."""
    shared = 0
    for one, other in zip(old, new, strict=False):
        if one.digest != other.digest:
            break
        shared += 1
    return shared


def _sum_up(changes: Sequence[Change]) -> dict[str, int]:
    sums = {"added": 0, "removed": 0, "changed": 0, "bytes": 0}
    for change in changes:
        sums[change.how] += change.count
        sums["bytes"] += change.after - change.before
    return sums


def compare_configs(old: ImageConfig | None, new: ImageConfig | None) -> list[Difference]:
    """Settings that differ, by name; variables and labels each by itself."""
    before, after = flatten_config(old), flatten_config(new)
    return [
        Difference(key, before.get(key, ""), after.get(key, ""))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def flatten_config(config: ImageConfig | None) -> dict[str, str]:
    """A configuration as lines of name and value: what a container made from it starts with."""
    if config is None:
        return {}
    flat: dict[str, str] = {
        "platform": str(config.platform),
        "created": config.created,
        "author": config.author,
    }
    inner = config.config
    for name in _PLAIN:
        value = getattr(inner, name)
        flat[name.replace("_", " ")] = "" if value is None else str(value)
    for name in _LISTS:
        flat[name.replace("_", " ")] = _words(getattr(inner, name))
    for kind, values in (("port", inner.exposed_ports), ("volume", inner.volumes)):
        flat |= {f"{kind} {key}": "yes" for key in values}
    flat |= {f"variable {key}": value for key, _, value in (each.partition("=") for each in inner.env)}
    flat |= _label_lines(inner.labels)
    if inner.healthcheck:
        flat["healthcheck"] = _words(inner.healthcheck.test)
    return {key: value for key, value in flat.items() if value}


def _label_lines(labels: Mapping[str, str]) -> dict[str, str]:
    return {f"label {key}": value for key, value in labels.items()}


def _words(values: Sequence[str]) -> str:
    return msgspec.json.encode(list(values)).decode() if values else ""
