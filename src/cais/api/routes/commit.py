"""The route that makes an image of a container."""

import msgspec
from aiohttp import web

from cais.api.call import Call
from cais.api.replies import json_reply
from cais.api.router import Route
from cais.api.services import Services
from cais.containers.commit import CommitWish
from cais.errors import Invalid
from cais.spec.container import ContainerConfig, parse_body


class CommitRoutes:
    """``/commit``."""

    def __init__(self, services: Services) -> None:
        self._containers = services.containers
        self._images = services.images

    def routes(self) -> list[Route]:
        """The table's part."""
        return [Route("POST", "/commit", self.commit)]

    async def commit(self, call: Call) -> web.Response:
        """A new image of a container's files and configuration; its id."""
        wish = CommitWish(
            repo=call.text("repo"),
            tag=call.text("tag"),
            author=call.text("author"),
            comment=call.text("comment"),
            changes=tuple(call.texts("changes")),
            pause=call.flag("pause", True),
            config=await _read_config(call),
        )
        image = await self._containers.commit(call.text("container"), wish, self._images)
        return json_reply({"Id": image.id}, status=201)


async def _read_config(call: Call) -> ContainerConfig | None:
    """The body, if there is one: clients send null, or nothing, for the container's own."""
    data = await call.json()
    if data.strip() in (b"", b"null"):
        return None
    try:
        return parse_body(data, ContainerConfig)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"invalid JSON: {error}") from error
