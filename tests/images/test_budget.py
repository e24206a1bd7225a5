"""Which images a budget removes, what it spares, and what it tells."""

import asyncio
from typing import Any

import pytest

from cais.config import Budget
from cais.images.budget import Budgeter, Candidate, plan_budget, total_of
from cais.spec.digest import Digest

DAY = 86_400 * 10**9
NOW = 1000 * DAY


def digest(number: int) -> Digest:
    """Some image's ID."""
    return Digest(f"sha256:{number:064x}")


def candidate(number: int, age_days: float, size: int = 100, kept: bool = False, base: int = 0) -> Candidate:
    """Image ``number``, last used ``age_days`` ago; ``base``: bytes of a layer that all such images share."""
    places = {f"own{number}": size, **({"base": base} if base else {})}
    return Candidate(digest(number), str(number), NOW - int(age_days * DAY), places, kept)


def gone(candidates: list[Candidate], **limits: int) -> list[str]:
    """Names of what goes, in its order."""
    return [verdict.name for verdict in plan_budget(candidates, Budget(**limits), NOW)]


def test_no_limit_removes_nothing() -> None:
    """Without a budget everything stays, however old."""
    assert gone([candidate(1, 900)]) == []


def test_unused_for() -> None:
    """What was not used for that long goes, the oldest first."""
    images = [candidate(1, 10), candidate(2, 40), candidate(3, 31), candidate(4, 29)]
    assert gone(images, unused_for_ns=30 * DAY) == ["2", "3"]


def test_max_size() -> None:
    """The longest unused go until the rest fits, no more."""
    images = [candidate(number, number) for number in range(1, 6)]
    assert gone(images, max_size=300) == ["5", "4"]
    assert gone(images, max_size=500) == []


def test_shared_bytes_count_once() -> None:
    """Removing one of two images that share a layer frees only what it has alone."""
    images = [candidate(1, 1, 10, base=1000), candidate(2, 2, 10, base=1000), candidate(3, 3, 500)]
    assert total_of(images) == 1520
    assert gone(images, max_size=1020) == ["3"]
    assert gone(images, max_size=1015) == ["3", "2"]


def test_what_is_kept_stays() -> None:
    """In use, labelled, a parent: never, even if the budget cannot be met without."""
    images = [candidate(1, 90, kept=True), candidate(2, 50)]
    assert gone(images, max_size=1) == ["2"]
    assert gone(images, unused_for_ns=DAY) == ["2"]


def test_the_newest_are_spared() -> None:
    """keep-newest is a floor for the other rules, and a rule by itself when it is alone."""
    images = [candidate(number, number * 10) for number in range(1, 6)]
    assert gone(images, keep_newest=2) == ["5", "4", "3"]
    assert gone(images, keep_newest=2, max_size=1) == ["5", "4", "3"]
    assert gone(images, keep_newest=4, unused_for_ns=25 * DAY) == ["5"]


def test_grace() -> None:
    """What has just come stays: somebody may be about to use it."""
    images = [candidate(1, 0.001), candidate(2, 1)]
    assert gone(images, max_size=1) == ["2"]
    assert gone(images, max_size=1, grace_ns=0) == ["2", "1"]


@pytest.fixture
async def five(store: Any, archives: Any) -> list[str]:
    """Images app:0 to app:4 that share a layer; app:0 was used last, app:4 is labelled."""
    names = [f"base+own{number}" for number in range(4)]
    await store.load(archives.docker({name: [f"app:{at}"] for at, name in enumerate(names)}, size=1 << 20))
    labelled = archives.manifest("base", "own4", size=1 << 20, config={"Labels": {"cais.keep": "1"}})
    await store.load(archives.oci((labelled, "docker.io/library/app:4")))
    for number in (4, 3, 2, 1, 0):
        store.images.note_used((await store.images.resolve(f"app:{number}")).id)
    return [f"docker.io/library/app:{number}" for number in range(5)]


def names_of(images: Any) -> list[str]:
    """Their names, sorted."""
    return sorted(name for image in images for name in image.names)


async def test_a_run(store: Any, five: list[str]) -> None:
    """Dry first: the same verdicts, and nothing happens. Then the longest unused go with their own layers, the label
    and the shared layer stay; an event says how much came free."""
    budget = Budget(max_size=9 << 20, grace_ns=0)
    budgeter = Budgeter(store.images, budget, lambda _: (), store.bus)
    dry = await budgeter.run(dry_run=True)
    assert names_of(await store.images.list()) == five
    report = await budgeter.run()
    assert [verdict.name for verdict in report.verdicts] == [verdict.name for verdict in dry.verdicts]
    assert [verdict.name for verdict in report.verdicts] == ["app:3", "app:2"]
    assert names_of(await store.images.list()) == [five[0], five[1], five[4]]
    # A layer's blob and its unpacked folder, and a few documents, of each of the two.
    assert report.freed == dry.freed and 4 << 20 < report.freed < (4 << 20) + 20_000
    event = store.bus.history(0)[-1]
    assert (event.kind, event.action, event.attributes["reclaimed"]) == ("image", "prune", str(report.freed))
    assert event.attributes["images"] == "app:3,app:2"
    for name in ("app:0", "app:1", "app:4"):
        assert await store.images.root_lowers(await store.images.resolve(name))


async def test_images_in_use_stay(store: Any, five: list[str]) -> None:
    """A container keeps its image, whatever the budget; so it does if it appears between plan and act."""
    keep = (await store.images.resolve("app:3")).id
    budgeter = Budgeter(
        store.images, Budget(max_size=1, grace_ns=0), lambda id: ("c",) if id == keep else (), store.bus
    )
    await budgeter.run()
    assert names_of(await store.images.list()) == [five[3], five[4]]


async def test_it_runs_when_images_come(store: Any, archives: Any, five: list[str]) -> None:
    """A load that goes beyond the budget is followed by a collection, without anybody asking."""
    budgeter = Budgeter(store.images, Budget(keep_newest=2, grace_ns=0), lambda _: (), store.bus)
    watching = asyncio.create_task(budgeter.watch())
    try:
        with store.bus.subscribe() as events:
            await store.load(archives.docker({"new": ["new:1"]}))
            async with asyncio.timeout(10):
                async for event in events:
                    if event.action == "prune":
                        break
        assert names_of(await store.images.list()) == [five[0], five[4], "docker.io/library/new:1"]
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_uses_survive_the_engine(make_store: Any, store: Any, five: list[str], tmp_path: Any) -> None:
    """Notes are written at the end, and not for every use: the next engine knows the order."""
    image = await store.images.resolve("app:2")
    assert image.used_ns > 0
    await store.images.close()
    rows = [row for row in store.metadata.list_images() if row.digest == image.id]
    assert [row.used_ns for row in rows] == [image.used_ns]
