"""What two images differ in: layers, settings of the configuration, files."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from cais.hub.files import Change, Files, compare_trees
from cais.hub.images import Image, Layer
from cais.spec.image import ImageConfig

_PLAIN = ("user", "working_dir", "stop_signal", "stop_timeout")
_LISTS = ("entrypoint", "cmd", "shell", "on_build")


class Difference(msgspec.Struct, frozen=True):
    """A setting of the configuration that is not the same; empty: it is not there."""

    name: str
    before: str
    after: str


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of files and folders, and by how many bytes the new image's files are more."""

    added: int = 0
    removed: int = 0
    changed: int = 0
    bytes: int = 0


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """``shared``: layers at the bottom that are the same; ``broken``: why files may be absent on either side."""

    shared: int
    settings: list[Difference]
    changes: list[Change]
    sums: Sums
    broken: str


async def compare_images(files: Files, old: Image, new: Image) -> Comparison:
    """What must happen to ``old`` to become ``new``."""
    before = await files.tree([layer.digest for layer in old.layers])
    after = await files.tree([layer.digest for layer in new.layers])
    # Two trees of 200,000 files take half a second, in which nobody else would be answered.
    changes = await asyncio.to_thread(compare_trees, before.root, after.root)
    return Comparison(
        shared=_count_shared(old.layers, new.layers),
        settings=compare_configs(old.config, new.config),
        changes=changes,
        sums=_sum_up(changes),
        broken=before.broken or after.broken,
    )


def _count_shared(old: Sequence[Layer], new: Sequence[Layer]) -> int:
    shared = 0
    for one, other in zip(old, new, strict=False):
        if one.digest != other.digest:
            break
        shared += 1
    return shared


def _sum_up(changes: Sequence[Change]) -> Sums:
    counts = {"added": 0, "removed": 0, "changed": 0}
    for change in changes:
        counts[change.how] += change.count
    return Sums(**counts, bytes=sum(change.after - change.before for change in changes))


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
