"""Docker's JSON for what goes to registries: push, login, search, distribution."""

from typing import Any

import msgspec

from cais.api.wire.images import ProgressDetail, progress_bar
from cais.images.image import Pushed, PushedInstead, PushEvent
from cais.remotes.search import Found
from cais.spec.descriptor import Descriptor
from cais.spec.platform import Platform


class AuthConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The body of ``POST /auth``; without a ``repr``, for it is full of secrets."""

    username: str = ""
    password: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""
    email: str = ""

    def __repr__(self) -> str:
        return f"AuthConfig({self.serveraddress!r})"


def push_line(event: PushEvent) -> dict[str, Any]:
    """One line of the stream of a push."""
    match event.result:
        case Pushed(tag, digest, size):
            return {"progressDetail": {}, "aux": {"Tag": tag, "Digest": digest, "Size": size}}
        case PushedInstead(index, manifest):
            aux = {
                "manifestPushedInsteadOfIndex": True,
                "originalIndex": descriptor_json(index),
                "selectedManifest": descriptor_json(manifest),
            }
            return {"progressDetail": {}, "aux": aux}
    line: dict[str, Any] = {"status": event.status}
    if event.is_layer:
        line["progressDetail"] = ProgressDetail(current=event.current, total=event.total)
        if event.total:
            line["progress"] = progress_bar(event.current, event.total)
    return line | ({"id": event.id} if event.id else {})


def descriptor_json(descriptor: Descriptor) -> dict[str, Any]:
    """As the image spec writes it."""
    found: dict[str, Any] = msgspec.to_builtins(descriptor, enc_hook=str)
    return found


def platform_json(platform: Platform) -> dict[str, Any]:
    """As the image spec writes it."""
    found: dict[str, Any] = msgspec.to_builtins(platform)
    return found


def found_json(found: Found) -> dict[str, Any]:
    """One result of a search."""
    return {
        "star_count": found.star_count,
        "is_official": found.is_official,
        "name": found.name,
        "is_automated": False,
        "description": found.description,
    }
