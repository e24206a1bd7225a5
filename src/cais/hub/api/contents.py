"""What is inside of images: their files, what two of them differ in, and what is attached to them."""

from collections.abc import Sequence
from typing import TypeVar

from aiohttp import web

from cais.errors import NotFound
from cais.hub.api.answers import (
    Attachment,
    AttachmentList,
    Change,
    Comparison,
    Difference,
    File,
    FileList,
    Package,
    PackageList,
    Signature,
    as_time,
)
from cais.hub.api.services import Ask
from cais.hub.attachments import Attachment as Attached
from cais.hub.compare import compare_images
from cais.hub.files import Change as Changed
from cais.hub.files import Node
from cais.hub.images import Image, Tagged
from cais.registry.naming import parse_digest_text, parse_ref

_SECOND = 1_000_000_000
T = TypeVar("T")


async def list_files(ask: Ask) -> FileList:
    """``GET /repositories/{name}/-/files/{ref}``: a folder, or one file, of the image or of one of its layers."""
    image = await find_image(ask, ask.path["ref"])
    number = ask.query["layer"]
    if number > len(image.layers):
        raise NotFound(f"the image has {len(image.layers)} layers")
    layers = image.layers[number - 1 : number] if number else image.layers
    tree = await ask.services.files.tree([layer.digest for layer in layers], applied=not number)
    path = "/".join(part for part in ask.query["path"].split("/") if part)
    found = tree.root.find(path)
    if found is None:
        raise NotFound(f"no such file in the image: /{path}")
    shown, following = _cut(found.sorted() if found.is_folder else [found], ask)
    return FileList(
        repository=ask.path["name"],
        digest=image.digest,
        layer=number or None,
        path=path,
        size=found.total,
        count=found.count - 1 if found.is_folder else 1,
        broken=tree.broken,
        files=[_describe_file(node, number) for node in shown],
        next=following,
    )


def _describe_file(node: Node, layer: int) -> File:
    entry = node.entry
    return File(
        name=node.name,
        path=entry.path,
        kind=entry.kind,
        size=node.total,
        count=node.count - 1 if node.is_folder else 0,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime=as_time(entry.mtime * _SECOND),
        link=entry.link,
        layer=layer or node.layer,
        content=entry.content,
    )


async def compare(ask: Ask) -> Comparison:
    """``GET /repositories/{name}/-/compare/{old}/{new}``: what must happen to one to become the other."""
    old, new = await find_image(ask, ask.path["old"]), await find_image(ask, ask.path["new"])
    found = await compare_images(ask.services.files, old, new)
    changes, following = _cut(found.changes, ask)
    return Comparison(
        repository=ask.path["name"],
        old=old.digest,
        new=new.digest,
        shared_layers=found.shared,
        settings=[Difference(name=one.name, before=one.before, after=one.after) for one in found.settings],
        added=found.sums.added,
        removed=found.sums.removed,
        changed=found.sums.changed,
        bytes=found.sums.bytes,
        broken=found.broken,
        changes=list(map(_describe_change, changes)),
        next=following,
    )


def _describe_change(change: Changed) -> Change:
    return Change(
        path=change.path,
        how=change.how,
        kind=change.kind,
        before=change.before,
        after=change.after,
        count=change.count,
        details=list(change.details),
    )


async def list_attachments(ask: Ask) -> AttachmentList:
    """``GET /repositories/{name}/-/attachments/{ref}``: signatures, bills of materials, and the like."""
    return AttachmentList(attachments=[await _describe(ask, each) for each in await _find_attached(ask)])


async def get_attachment(ask: Ask) -> web.Response:
    """``GET /repositories/{name}/-/attachments/{ref}/{digest}``: the document. Whoever attached it says what it is: so
    a browser must keep it as a file and never show it."""
    attachment = await _find_attachment(ask)
    name = f"{attachment.kind}-{attachment.blob.hex[:12]}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return web.Response(body=await ask.services.attachments.read(attachment), headers=headers)


async def list_packages(ask: Ask) -> PackageList:
    """``GET /repositories/{name}/-/attachments/{ref}/{digest}/packages``."""
    found = await ask.services.attachments.packages(await _find_attachment(ask))
    shown, following = _cut(found, ask)
    return PackageList(
        packages=[
            Package(name=each.name, version=each.version, license=each.license, purl=each.purl)
            for each in shown
        ],
        next=following,
    )


def _cut(rows: Sequence[T], ask: Ask) -> tuple[Sequence[T], str]:
    """A page of what always has the same order, as digests stand for it; and where the next one begins."""
    start, count = ask.query["last"], ask.query["n"]
    end = start + count
    return rows[start:end], str(end) if len(rows) > end else ""


async def find_image(ask: Ask, ref: str) -> Image:
    """The image for the platform that was asked for. Raises NotFound."""
    tagged = await _find_tagged(ask, ref)
    if tagged.image is None:
        raise NotFound(f"there is no image in {ask.path['name']}: {ref}")
    return tagged.image


async def _find_tagged(ask: Ask, ref: str) -> Tagged:
    row, wanted = ask.get_repository(), ask.query["platform"]
    tagged = await ask.services.images.find(row.name, parse_ref(ref), wanted)
    if wanted and (tagged.image is None or tagged.image.platform != wanted):
        raise NotFound(f"no such platform of {row.name}: {wanted}")
    return tagged


async def _find_attached(ask: Ask) -> list[Attached]:
    tagged = await _find_tagged(ask, ask.path["ref"])
    subjects = [tagged.root.digest, *([tagged.image.digest] if tagged.image else [])]
    return await ask.services.attachments.find(ask.path["name"], subjects, tagged.members)


async def _find_attachment(ask: Ask) -> Attached:
    """Only what is attached: any blob of the repository can be had of the registry, as what it is."""
    wanted = parse_digest_text(ask.path["digest"])
    for each in await _find_attached(ask):
        if each.blob == wanted:
            return each
    raise NotFound(f"no such attachment: {wanted}")


async def _describe(ask: Ask, attachment: Attached) -> Attachment:
    signature = None
    if attachment.kind == "signature":
        found = await ask.services.attachments.signature(attachment)
        signature = Signature(
            signer=found.signer, issuer=found.issuer, reference=found.reference, names=found.names
        )
    return Attachment(
        kind=attachment.kind,
        format=attachment.format,
        manifest=attachment.manifest,
        digest=attachment.blob,
        media_type=attachment.media_type,
        size=attachment.size,
        about=attachment.about,
        pushed=as_time(attachment.pushed_ns),
        predicate=attachment.predicate,
        annotations=dict(attachment.annotations),
        signature=signature,
    )
