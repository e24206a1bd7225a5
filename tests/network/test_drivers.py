"""What every network driver promises, whichever it is."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cais.config import Config
from cais.network.base import Driver, EndpointRequest, Identity
from cais.network.bridge import open_bridge_network
from cais.network.plain import Plain

pytestmark = pytest.mark.kernel

REQUEST = EndpointRequest("c" * 64)


@pytest.fixture(params=["bridge", "host", "none"])
async def driver(request: pytest.FixtureRequest, host: int, tmp_path: Path) -> AsyncIterator[Driver]:
    """Each driver in turn, open and restored to nothing."""
    identity = Identity("ab" * 32, "2026-01-01T00:00:00Z")
    made: Driver = Plain(request.param, request.param, identity)
    if request.param == "bridge":
        made = await open_bridge_network(Config(root=tmp_path, netns_pool=0), identity)
    await made.restore(())
    yield made
    await made.stop()


async def test_endpoint_lives_until_detached(driver: Driver) -> None:
    """An endpoint is shown from ``attach`` to ``detach``, which may come twice."""
    endpoint, fd = await driver.attach(REQUEST)
    assert driver.info().endpoints == (endpoint,)
    assert endpoint.network_id == driver.info().id
    if fd >= 0:
        os.close(fd)
    await driver.detach(endpoint)
    await driver.detach(endpoint)
    assert driver.info().endpoints == ()


async def test_endpoints_differ(driver: Driver) -> None:
    """Two endpoints never share an id, even of one container."""
    made = [await driver.attach(REQUEST) for _ in range(2)]
    assert made[0][0].endpoint_id != made[1][0].endpoint_id
    for endpoint, fd in made:
        if fd >= 0:
            os.close(fd)
        await driver.detach(endpoint)


async def test_stop_twice(driver: Driver) -> None:
    """A driver may be stopped again."""
    await driver.stop()
    await driver.stop()
