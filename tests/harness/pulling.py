"""One test's repository in a real registry, and pulls from there into a store of its own through a proxy."""

from pathlib import Path
from typing import Any

from cais.images.image import PullEvent
from cais.images.pull import PullRequest
from cais.spec.digest import Digest, parse_digest
from cais.spec.platform import parse_platform
from cais.spec.reference import parse_reference
from harness.registry import Proxy, Registry

BIG = 3 << 20
BLOBS = "GET .*/blobs/"


def digest_of(text: str) -> Digest:
    """A digest of the test's as one of ours."""
    return parse_digest(text)


class Pulling:
    """Pushes into a repository of the test's own, and pulls from there through the proxy."""

    def __init__(self, store: Any, registry: Registry, proxy: Proxy, repository: str) -> None:
        self.store = store
        self.registry = registry
        self.proxy = proxy
        self.repository = repository
        self.name = f"{proxy.address}/{repository}:1"

    def push(self, archives: Any, target: dict[str, Any], tag: str = "1") -> None:
        """Fill the repository."""
        self.registry.push(self.repository, tag, archives.blobs, target)

    def request(self, name: str = "", platform: str = "", *, all_platforms: bool = False) -> PullRequest:
        """What a client asks for."""
        wanted = parse_platform(platform) if platform else None
        reference = parse_reference(name or self.name).tagged()
        return PullRequest(reference, wanted, all_platforms=all_platforms)

    async def pull(
        self, name: str = "", platform: str = "", *, all_platforms: bool = False
    ) -> list[PullEvent]:
        """What the pull said."""
        request = self.request(name, platform, all_platforms=all_platforms)
        return [event async for event in self.store.images.pull(request)]

    async def read(self, name: str = "") -> list[str]:
        """The text of etc/name in each layer, top first."""
        image = await self.store.images.resolve(name or self.name)
        lowers = await self.store.images.root_lowers(image)
        return [Path(lower, "etc/name").read_text() for lower in lowers]
