"""A large blob on a slow line comes by several connections, in order, and by one where several do not help."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from cais.errors import Corrupt, NotFound
from cais.remotes.client import Patience, Remotes, Repository
from cais.remotes.hosts import Hosts
from cais.remotes.lanes import Lanes, Pace, Watch, fetch_pieces
from cais.spec.descriptor import OCI_LAYER, Descriptor
from cais.spec.digest import digest_bytes
from cais.spec.reference import parse_reference
from harness.registry import Fault

BIG = random.Random(2).randbytes(12 << 20)
LARGE = Descriptor(media_type=OCI_LAYER, digest=digest_bytes(BIG), size=len(BIG))
RATE = 4 << 20
BLOBS = "GET .*/blobs/"
QUICK = Lanes(count=4, large=2 << 20, slow=50e6, look=0.2)


@pytest.fixture
async def repository(proxy: Any, registry: Any) -> AsyncIterator[Repository]:
    """A repository with a large blob behind the proxy, asked by an engine that soon finds a line slow."""
    registry.put_blob("lanes/x", BIG)
    remotes = Remotes(Hosts(), Patience(attempts=4, first=0.001), QUICK)
    async with remotes.open(parse_reference(f"{proxy.address}/lanes/x:1")) as repository:
        yield repository


async def read(repository: Repository, start: int = 0) -> bytes:
    """A whole blob."""
    return b"".join([part async for part in repository.fetch_blob(LARGE, start)])


@pytest.mark.parametrize("start", [0, 3 << 20])
async def test_a_slow_line_is_joined_by_others(proxy: Any, repository: Repository, start: int) -> None:
    """The bytes are the same and in order, come faster than one connection gives them, and hardly one comes twice."""
    proxy.faults = [Fault(BLOBS, times=99, rate=RATE)]
    begun = time.monotonic()
    assert await read(repository, start) == BIG[start:]
    assert time.monotonic() - begun < 0.75 * (len(BIG) - start) / RATE
    assert proxy.count(BLOBS) > 4 and proxy.sent < 1.2 * (len(BIG) - start)


async def test_a_fast_line_is_left_alone(proxy: Any, repository: Repository) -> None:
    """One request, without a range."""
    assert await read(repository) == BIG
    assert [headers.get("Range") for line, headers in proxy.seen if "blobs" in line] == [None]


async def test_a_server_without_ranges_is_asked_once(proxy: Any, repository: Repository) -> None:
    """It says so by what it does not say."""
    proxy.faults = [Fault(BLOBS, times=99, status=200, body=BIG, rate=3 * RATE)]
    assert await read(repository) == BIG
    assert proxy.count(BLOBS) == 1


@pytest.mark.parametrize("status", [200, 429, 503])
async def test_where_several_may_not_one_goes_on(proxy: Any, repository: Repository, status: int) -> None:
    """Pieces that are refused, or answered with the whole blob, are no reason to fail: one connection does the rest."""
    refusals = Fault(BLOBS, times=16, status=status, body=BIG if status == 200 else b"no")
    proxy.faults = [Fault(BLOBS, rate=RATE), refusals]
    assert await read(repository) == BIG


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(Fault(BLOBS, status=404, times=99), NotFound), (Fault(BLOBS, status=416, times=99), Corrupt)],
)
async def test_what_is_wrong_with_a_piece_is_wrong_with_the_blob(
    proxy: Any, repository: Repository, fault: Fault, kind: type[Exception]
) -> None:
    """A blob that is gone, or shorter than announced."""
    proxy.faults = [Fault(BLOBS, rate=RATE), fault]
    with pytest.raises(kind):
        await read(repository)


async def test_cut_pieces_go_on_where_they_were_cut(proxy: Any, repository: Repository) -> None:
    """Each of them by itself."""
    proxy.faults = [Fault(BLOBS, rate=RATE), *(Fault(BLOBS, cut=size) for size in (500_000, 0, 1, 700_000))]
    assert await read(repository) == BIG


async def test_pieces_come_in_order_and_not_too_far_ahead() -> None:
    """However their times differ; an error comes after all that is before it; nothing runs on afterwards."""
    luck, active, most = random.Random(1), 0, 0

    async def fetch(start: int, stop: int) -> AsyncGenerator[bytes]:
        nonlocal active, most
        active += 1
        most = max(most, active)
        try:
            for at in range(start, stop, 1 << 18):
                await asyncio.sleep(luck.uniform(0, 0.002))
                if at >= 9 << 20:
                    raise NotFound("gone")
                yield BIG[at : min(at + (1 << 18), stop)]
        finally:
            active -= 1

    got = b""
    with pytest.raises(NotFound):
        async for part in fetch_pieces(fetch, 5, len(BIG), count=3, rate=0):
            got += part
    assert BIG[5:].startswith(got) and len(got) >= 8 << 20 and most == 3 and active == 0


async def test_a_slow_consumer_is_no_slow_line() -> None:
    """Time that the consumer takes is not held against the line."""

    async def parts() -> AsyncGenerator[bytes]:
        for _ in range(4):
            yield b"x"

    watch = Watch(Lanes(look=0.05), Pace())
    async for _ in watch.parts(parts()):
        await asyncio.sleep(0.03)
    assert not watch.is_slow()
