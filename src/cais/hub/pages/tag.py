"""A tag or digest: its layers as a picture, the instructions behind them, its configuration, and what is attached."""

import msgspec
from aiohttp import web

from cais.errors import CaisError, NotFound
from cais.hub.attachments import Attachment, Package, Signature
from cais.hub.images import Image, Tagged
from cais.hub.pages.charts import place_crates
from cais.hub.pages.site import Site
from cais.hub.pages.visit import Visit
from cais.hub.pages.words import repository_url
from cais.registry.catalog import namespace_of
from cais.spec.digest import Digest, parse_digest
from cais.spec.reference import is_tag

SHOWN_PACKAGES = 500


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """An attachment with what a page says of it."""

    attachment: Attachment
    signature: Signature | None = None
    packages: tuple[Package, ...] = ()
    problem: str = ""


def parse_ref(text: str) -> Digest | str:
    """A tag or digest of a path. Raises NotFound for what never was one."""
    if ":" in text:
        return parse_digest(text)
    if not is_tag(text):
        raise NotFound("no such tag")
    return text


async def find_tagged(site: Site, visit: Visit, name: str, ref: str) -> Tagged:
    """What the path means, for the platform that the query wants. Raises NotFound."""
    site.need_repository(visit, name)
    return await site.images.find(name, parse_ref(ref), visit.get("platform")[:100])


def need_image(tagged: Tagged) -> Image:
    """Raises NotFound for an index without images."""
    if tagged.image is None:
        raise NotFound("there is no image in this index")
    return tagged.image


async def show_tag(site: Site, visit: Visit, name: str, ref: str) -> web.Response:
    """GET ``/r/<name>:<tag>`` and ``/r/<name>@<digest>``."""
    tagged = await find_tagged(site, visit, name, ref)
    image = tagged.image
    subjects = [tagged.root.digest] + ([image.digest] if image else [])
    attached = await site.attachments.find(name, subjects, tagged.members)
    others = await site.images.list_tags(name, count=50)
    return site.page(
        visit,
        "tag.html",
        repository=name,
        namespace=namespace_of(name),
        ref=ref,
        tagged=tagged,
        image=image,
        crates=place_crates(image.layers) if image else (),
        shown=[await _show(site, each) for each in attached],
        most=SHOWN_PACKAGES,
        tags=site.images.tags_of(name, tagged.root.digest),
        others=[tag.name for tag in others if tag.name != ref],
        may_delete=site.may(visit.caller, name, "delete"),
    )


async def _show(site: Site, attachment: Attachment) -> Shown:
    try:
        if attachment.kind == "signature":
            return Shown(attachment=attachment, signature=await site.attachments.signature(attachment))
        if attachment.kind == "sbom":
            return Shown(attachment=attachment, packages=tuple(await site.attachments.packages(attachment)))
    except CaisError as error:
        return Shown(attachment=attachment, problem=str(error))
    return Shown(attachment=attachment)


async def show_attachment(site: Site, visit: Visit, name: str, ref: str) -> web.Response:
    """GET ``/r/<name>:<tag>/-/attachment?blob=…``: the document, as a file."""
    tagged = await find_tagged(site, visit, name, ref)
    subjects = [tagged.root.digest] + ([tagged.image.digest] if tagged.image else [])
    for each in await site.attachments.find(name, subjects, tagged.members):
        if each.blob == visit.get("blob"):
            data = await site.attachments.read(each)
            return site.download(data, f"{each.kind}-{each.blob.hex[:12]}.json")
    raise NotFound("no such attachment")


async def delete_tag(site: Site, visit: Visit, name: str, ref: str) -> web.Response:
    """POST ``/r/<name>:<tag>/-/delete``: the name only; of a digest the manifest with all its names."""
    site.need_repository(visit, name, "delete")
    await site.registry.delete_manifest(name, parse_ref(ref), visit.caller)
    return site.go(repository_url(name))
