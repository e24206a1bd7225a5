"""A real registry with one image of two blobs, and a proxy before it."""

import json
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from harness.registry import Proxy, Registry, running_registry, sha256, start_proxy

BLOB = random.Random(1).randbytes(3 << 20)
CONFIG = b'{"architecture":"amd64","os":"linux"}'
OCI = "application/vnd.oci.image."


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """It holds ``a/b:1``."""
    with running_registry(tmp_path_factory.mktemp("registry") / "r") as registry:
        for blob in (BLOB, CONFIG):
            registry.put_blob("a/b", blob)
        registry.put_manifest("a/b", "1", manifest())
        yield registry


def manifest() -> bytes:
    """The bytes of a/b:1."""
    config = {"mediaType": OCI + "config.v1+json", "digest": sha256(CONFIG), "size": len(CONFIG)}
    layer = {"mediaType": OCI + "layer.v1.tar", "digest": sha256(BLOB), "size": len(BLOB)}
    kind = OCI + "manifest.v1+json"
    return json.dumps({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}).encode()


@pytest.fixture
async def proxy(registry: Registry) -> AsyncIterator[Proxy]:
    """A fresh proxy before the registry."""
    async with AsyncExitStack() as stack:
        yield await start_proxy(registry.address, stack.push_async_callback)
