"""Tags of a repository, and what stands behind them."""

import msgspec

from cais.errors import NotFound
from cais.hub.api.answers import Image, ImageDetail, Layer, Platform, Step, Tag, TagList, as_time
from cais.hub.api.services import Ask
from cais.hub.images import Image as Found
from cais.registry.naming import parse_digest_text, parse_tag
from cais.spec.digest import Digest


async def list_tags(ask: Ask) -> TagList:
    """``GET /repositories/{name}/-/tags``."""
    row, count = ask.get_repository(), ask.query["n"]
    catalog = ask.services.registry.catalog
    records = await catalog.list_tags(row.name, ask.query["last"], count + 1)
    images, tags = ask.services.images, []
    pulled = images.pulled_times(row.name, [record.digest for record in records[:count]])
    for record in records[:count]:
        manifest = await catalog.find_manifest(row.name, record.digest)
        if manifest is not None:
            tags.append(
                Tag(
                    name=record.name,
                    digest=record.digest,
                    media_type=manifest.media_type,
                    artifact_type=manifest.artifact_type,
                    size=manifest.total,
                    pushed=as_time(record.pushed_ns),
                    pulled=as_time(pulled.get(record.digest, 0)),
                    platforms=list(await images.list_platforms(row.name, record.digest)),
                )
            )
    return TagList(tags=tags, next=records[count - 1].name if len(records) > count else "")


async def get_tag(ask: Ask) -> Image:
    """``GET /repositories/{name}/-/tags/{tag}``."""
    return await _get(ask, parse_tag(ask.path["tag"]))


async def get_manifest(ask: Ask) -> Image:
    """``GET /repositories/{name}/-/manifests/{digest}``."""
    return await _get(ask, parse_digest_text(ask.path["digest"]))


async def delete_tag(ask: Ask) -> None:
    """``DELETE /repositories/{name}/-/tags/{tag}``: the tag, not what it stands for."""
    row = ask.get_repository("delete")
    await ask.services.registry.delete_manifest(row.name, parse_tag(ask.path["tag"]), ask.caller)


async def delete_manifest(ask: Ask) -> None:
    """``DELETE /repositories/{name}/-/manifests/{digest}``: with all its tags."""
    row = ask.get_repository("delete")
    await ask.services.registry.delete_manifest(row.name, parse_digest_text(ask.path["digest"]), ask.caller)


async def _get(ask: Ask, ref: Digest | str) -> Image:
    row = ask.get_repository()
    images, registry = ask.services.images, ask.services.registry
    tagged = await images.find(row.name, ref, ask.query["platform"])
    root = tagged.root
    if ask.query["platform"] and tagged.image and tagged.image.platform != ask.query["platform"]:
        raise NotFound(f"no such platform of {row.name}: {ask.query['platform']}")
    document = await registry.find_manifest(row.name, root.digest)
    return Image(
        repository=row.name,
        digest=root.digest,
        media_type=root.media_type,
        artifact_type=root.artifact_type,
        size=root.total,
        pushed=as_time(root.pushed_ns),
        tags=images.tags_of(row.name, root.digest),
        annotations=root.annotations,
        manifest=msgspec.Raw(document.data),
        platforms=[
            Platform(digest=member.digest, platform=member.platform, size=member.size, about=member.about)
            for member in tagged.members
        ],
        image=_describe(tagged.image) if tagged.image else None,
    )


def _describe(image: Found) -> ImageDetail:
    layers = [
        Layer(
            number=layer.number,
            digest=layer.digest,
            media_type=layer.media_type,
            size=layer.size,
            diff_id=layer.diff_id,
        )
        for layer in image.layers
    ]
    steps = [
        Step(
            instruction=step.verb,
            text=step.text,
            created=step.created,
            comment=step.comment,
            layer=step.layer.number if step.layer else None,
        )
        for step in image.steps
    ]
    return ImageDetail(
        digest=image.digest,
        media_type=image.media_type,
        platform=image.platform,
        size=image.size,
        config=msgspec.Raw(image.config_text.encode()) if image.config else None,
        layers=layers,
        steps=steps,
    )
