"""The store of namespaces: filled ahead, handed out once, emptied at the end."""

import asyncio
from ipaddress import IPv4Address

import pytest

from cais.errors import Unavailable
from cais.network.pool import Pool, PoolCounts, Ready


class Workshop:
    """Builds namespaces that are only numbers, one for each ``allow``."""

    def __init__(self, allowed: int = 1000) -> None:
        self.built: list[Ready] = []
        self.discarded: list[Ready] = []
        self.error: Exception | None = None
        self._allowed = asyncio.Semaphore(allowed)

    def allow(self) -> None:
        self._allowed.release()

    async def build(self) -> Ready:
        await self._allowed.acquire()
        if self.error:
            raise self.error
        number = len(self.built)
        self.built.append(Ready(number, IPv4Address(number), "", f"veth{number}"))
        return self.built[-1]


async def turn() -> None:
    """Let everything that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_filled_ahead() -> None:
    """The store holds its size, no more, and hands out the oldest first."""
    shop = Workshop()
    pool = Pool(3, shop.build, shop.discarded.append)
    pool.fill()
    await turn()
    assert pool.counts() == PoolCounts(3, 0, 0)
    assert await pool.take() == shop.built[0]
    assert pool.counts() == PoolCounts(2, 1, 0)


async def test_refilled_after_a_hit() -> None:
    """What was taken is replaced in the background, at once when the store is empty."""
    shop = Workshop()
    pool = Pool(1, shop.build, shop.discarded.append)
    pool.fill()
    await turn()
    await pool.take()
    await turn()
    assert pool.counts() == PoolCounts(1, 1, 0)


async def test_waiting_come_first() -> None:
    """Those who wait are served in order before the store is."""
    shop = Workshop(0)
    pool = Pool(1, shop.build, shop.discarded.append)
    takers = [asyncio.create_task(pool.take()) for _ in range(2)]
    await turn()
    for _ in range(3):
        shop.allow()
    assert await asyncio.gather(*takers) == shop.built[:2]
    await turn()
    assert pool.counts() == PoolCounts(1, 0, 2)


async def test_cancelled_taker_loses_nothing() -> None:
    """What was being built for somebody who went away goes to the next one."""
    shop = Workshop(0)
    pool = Pool(1, shop.build, shop.discarded.append)
    taker = asyncio.create_task(pool.take())
    await turn()
    taker.cancel()
    await turn()
    shop.allow()
    assert await pool.take() == shop.built[0]


async def test_failure_reaches_the_taker() -> None:
    """A failed build is told to who waits, and the next one is tried again."""
    shop = Workshop()
    pool = Pool(0, shop.build, shop.discarded.append)
    shop.error = OSError(28, "full")
    with pytest.raises(OSError, match="full"):
        await pool.take()
    shop.error = None
    assert await pool.take() == shop.built[0]


async def test_failure_in_the_background(caplog: pytest.LogCaptureFixture) -> None:
    """A failed build nobody waits for is logged once, not tried for ever."""
    shop = Workshop()
    shop.error = OSError(28, "full")
    pool = Pool(2, shop.build, shop.discarded.append)
    pool.fill()
    await turn()
    assert [record.getMessage() for record in caplog.records] == [
        "no network namespace built ahead: [Errno 28] full"
    ]


async def test_drain() -> None:
    """Draining waits for the build under way, throws all away, and refuses takers."""
    shop = Workshop(1)
    pool = Pool(2, shop.build, shop.discarded.append)
    pool.fill()
    await turn()
    drain = asyncio.create_task(pool.drain())
    await turn()
    assert not drain.done()
    shop.allow()
    await drain
    assert shop.discarded == shop.built[:2]
    with pytest.raises(Unavailable):
        await pool.take()
    await pool.drain()


async def test_evict() -> None:
    """A stored namespace with a wanted address is thrown away; an address that is not there changes nothing."""
    shop = Workshop()
    pool = Pool(2, shop.build, shop.discarded.append)
    pool.fill()
    await turn()
    pool.evict(IPv4Address(1))
    pool.evict(IPv4Address(9))
    assert shop.discarded == [shop.built[1]]
    assert pool.counts() == PoolCounts(1, 0, 0)
