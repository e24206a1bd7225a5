"""What pruning takes and frees, as decisions about data."""

from typing import Any

import pytest
from msgspec.structs import replace

from cais.images.prune import freed_size, order_for_removal, plan_prune
from cais.images.sizes import Share, shared_sizes, split, total_size
from cais.spec.digest import Digest

A, B, C = (Digest(f"sha256:{letter * 64}") for letter in "abc")


@pytest.fixture
async def family(store: Any, archives: Any) -> list[Any]:
    """A child, and the image it was committed from."""
    await store.load(archives.docker({"base": ["base:1"]}))
    parent = await store.images.resolve("base:1")
    return [replace(parent, id=C, parent=parent.id), parent]


async def test_a_parent_stays_with_its_child(family: list[Any]) -> None:
    """An image that another one was made of goes only together with that."""
    child, parent = family
    assert plan_prune([parent], family) == []
    assert plan_prune([parent, child], family) == [parent, child]
    assert order_for_removal([parent, child]) == [child, parent]


def test_freed_bytes() -> None:
    """Only what nothing else needs comes free, and once however many of the removed had it."""
    sizes = {A: {"own a": 1, "ab": 10, "abc": 100}, B: {"own b": 2, "ab": 10, "abc": 100}, C: {"abc": 100}}
    assert freed_size([A], sizes) == 1
    assert freed_size([A, B], sizes) == 13
    assert freed_size([A, B, C], sizes) == 113
    assert freed_size([A, B, C], sizes, {"abc"}) == 13


def test_shares() -> None:
    """Unique parts and the shared ones, each once, are all there is."""
    sizes = {"own a": 1, "ab": 10, "nobody": 1000}
    shares, shared = split({A: ["own a", "ab"], B: ["ab", "gone"]}, sizes)
    assert shares == {A: Share(1, 10), B: Share(0, 10)} and shared == 10


def test_dockers_sizes() -> None:
    """SharedSize is what other images have too; LayersSize counts each layer once."""
    stacks = {A: {B: 10, C: 1}, B: {B: 10}}
    assert shared_sizes(stacks) == {A: 10, B: 10} and total_size(stacks) == 11
