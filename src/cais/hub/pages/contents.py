"""Files: those of an image or of one layer, to browse; and what two images differ in."""

from aiohttp import web

from cais.errors import Invalid, NotFound
from cais.hub.compare import compare_images
from cais.hub.images import Image, Layer
from cais.hub.pages.site import Site
from cais.hub.pages.tag import find_tagged, need_image
from cais.hub.pages.visit import Visit
from cais.registry.catalog import namespace_of

SHOWN = 1000
"""Files of a folder, and changes, that one page shows."""


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
    found = await compare_images(site.files, old, new)
    return site.page(
        visit,
        "compare.html",
        repository=name,
        namespace=namespace_of(name),
        first=first,
        second=second,
        old=old,
        new=new,
        found=found,
        changes=found.changes[:SHOWN],
        hidden=max(len(found.changes) - SHOWN, 0),
        tags=[tag.name for tag in await site.images.list_tags(name, count=50)],
    )
