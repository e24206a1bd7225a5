"""Folders that come again: what is kept, what has to come, and what a crash leaves."""

import hashlib
import os
from pathlib import Path

import pytest

from cais.build.context import Context, Index
from cais.build.synced import SyncedStore, merge_pieces
from cais.build.tree import Node
from cais.errors import Corrupt, Invalid
from cais.store.layers import tar

Files = dict[str, tuple[bytes, int]]


async def send(
    store: SyncedStore, folder: Path, files: Files, key: str = "k", *, part: bool = False
) -> tuple[Index, list[str]]:
    """A transfer of ``files`` (contents and times): what a build gets, and what had to come."""
    came = []
    async with store.receive(key, folder, part=part) as receiving:
        incoming = []
        for path, (data, mtime) in files.items():
            node = Node(tar.REGULAR, 0o644, size=len(data), mtime=mtime)
            if file := receiving.add(path, node, mtime * 10**9):
                came.append(path)
                incoming.append((file, data))
        # Pieces of all of them, one after the other, as clients send them.
        for at in range(0, max((len(data) for _, data in incoming), default=0), 1000):
            for file, data in incoming:
                if piece := data[at : at + 1000]:
                    await receiving.write(file, piece)
        for file, _ in incoming:
            receiving.finish(file)
        await receiving.flush()
        return receiving.index(folder), came


def contents(index: Index) -> Files:
    """What a build reads."""
    context = Context(index)
    try:
        found = {}
        for path, item in index.items.items():
            data = b"".join(context.read(path))
            assert item.digest == hashlib.sha256(data).digest()
            found[path.decode()] = (data, item.node.mtime)
        return found
    finally:
        context.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A build's own."""
    made = tmp_path / "build"
    made.mkdir()
    return made


async def test_only_what_changed_has_to_come(tmp_path: Path, folder: Path) -> None:
    """By name, mode, size and time; also for another store over the same root."""
    files: Files = {"a": (b"A" * 5000, 1), "b": (b"B" * 3500, 1), "c": (b"", 1)}
    index, came = await send(SyncedStore(tmp_path), folder, files)
    assert came == ["a", "b", "c"] and contents(index) == files
    files["b"] = (b"b" * 3500, 2)
    again, came = await send(SyncedStore(tmp_path), folder, files)
    assert came == ["b"] and contents(again) == files
    assert contents(index)["b"][0] == b"B" * 3500, "an earlier build lost its files"
    del files["a"]
    last, came = await send(SyncedStore(tmp_path), folder, files)
    assert came == [] and contents(last) == files


async def test_a_part_does_not_make_the_rest_unknown(tmp_path: Path, folder: Path) -> None:
    """A walk of some paths leaves what is known of others."""
    store = SyncedStore(tmp_path)
    files: Files = {"a": (b"A", 1), "b": (b"B", 1)}
    await send(store, folder, files)
    await send(store, folder, {"a": files["a"]}, part=True)
    assert (await send(store, folder, files))[1] == []


async def test_nothing_is_kept_for_clients_without_a_key(tmp_path: Path, folder: Path) -> None:
    """Everything comes each time."""
    store = SyncedStore(tmp_path)
    for _ in range(2):
        index, came = await send(store, folder, {"a": (b"A", 1)}, key="")
        assert came == ["a"] and contents(index) == {"a": (b"A", 1)}
    assert store.size() == 0


@pytest.mark.parametrize("damage", ["cut the pack", "cut the index", "no pack", "no index"])
async def test_what_a_crash_leaves_is_not_believed(tmp_path: Path, folder: Path, damage: str) -> None:
    """Then everything comes again."""
    files: Files = {"a": (b"A" * 9000, 1), "b": (b"B" * 100, 1)}
    await send(SyncedStore(tmp_path), folder, files)
    (place,) = (tmp_path / "build/synced").iterdir()
    path = place / damage.rpartition(" ")[2]
    if damage.startswith("cut"):
        path.write_bytes(path.read_bytes()[:-60])
    else:
        path.unlink()
    index, came = await send(SyncedStore(tmp_path), folder, files)
    assert came == ["a", "b"] and contents(index) == files


async def test_a_file_that_grew_is_taken_as_it_came(tmp_path: Path, folder: Path) -> None:
    """And asked for again the next time."""
    store = SyncedStore(tmp_path)
    async with store.receive("k", folder) as receiving:
        file = receiving.add("a", Node(tar.REGULAR, 0o644, size=2, mtime=1), 10**9)
        assert file is not None
        await receiving.write(file, b"longer")
        receiving.finish(file)
        await receiving.flush()
        assert contents(receiving.index(folder)) == {"a": (b"longer", 1)}
    assert (await send(store, folder, {"a": (b"xy", 1)}))[1] == ["a"]


async def test_files_that_do_not_come_are_missed(tmp_path: Path, folder: Path) -> None:
    """Nothing is made of half a transfer."""
    store = SyncedStore(tmp_path)
    with pytest.raises(Invalid, match="did not send a"):
        async with store.receive("k", folder) as receiving:
            receiving.add("a", Node(tar.REGULAR, 0o644, size=2), 0)
            await receiving.flush()


async def test_hard_links_are_one_file(tmp_path: Path, folder: Path) -> None:
    """Also if its bytes come after the link was named."""
    store = SyncedStore(tmp_path)
    async with store.receive("k", folder) as receiving:
        file = receiving.add("a", Node(tar.REGULAR, 0o644, size=1), 0)
        receiving.add("b", Node(tar.HARD_LINK, 0o644, link=b"a"), 0)
        assert file is not None
        await receiving.write(file, b"A")
        receiving.finish(file)
        await receiving.flush()
        index = receiving.index(folder)
    assert contents(index) == {"a": (b"A", 0), "b": (b"A", 0)}
    first, second = index.items[b"a"].node.identity, index.items[b"b"].node.identity
    assert first == second != ()


async def test_pruning_frees_what_nobody_uses(tmp_path: Path, folder: Path) -> None:
    """What a build holds stays readable."""
    store = SyncedStore(tmp_path)
    index, _ = await send(store, folder, {"a": (b"A" * 100_000, 1)})
    assert store.prune() >= 100_000 and store.size() == 0
    assert contents(index) == {"a": (b"A" * 100_000, 1)}
    assert (await send(store, folder, {"a": (b"A" * 100_000, 1)}))[1] == ["a"]


def test_neighbours_are_one_piece() -> None:
    """And nothing else is."""
    assert merge_pieces([(0, 10, 5), (5, 15, 5), (10, 30, 1)]) == ((0, 10, 10), (10, 30, 1))


async def walk(store: SyncedStore, folder: Path, messages: list[bytes], data: bytes) -> Index:
    """A transfer that the store may recall, as a client's walk of one file."""
    async with store.receive("k", folder) as receiving:
        before = receiving.memory.messages if receiving.memory else None
        if before == messages:
            receiving.recall()
        else:
            receiving.messages.extend(messages)
            if file := receiving.add("a", Node(tar.REGULAR, 0o644, size=len(data), mtime=1), 10**9):
                await receiving.write(file, data)
                receiving.finish(file)
        await receiving.flush()
        return receiving.index(folder)


async def test_a_walk_that_is_recalled_points_into_the_pack_of_now(tmp_path: Path, folder: Path) -> None:
    """A pack that was removed takes what is remembered of it along, even if the next gets its inode."""
    store = SyncedStore(tmp_path)
    first = await walk(store, folder, [b"m"], b"bytes")
    again = await walk(store, folder, [b"m"], b"bytes")
    assert again.items is first.items and again.memo is first.memo, "the same walk was looked at twice"
    (place,) = (tmp_path / "build/synced").iterdir()
    inode = (place / "pack").stat().st_ino
    for _ in range(3):
        store.prune()
        later = await walk(store, folder, [b"m"], b"bytes")
        assert contents(later) == {"a": (b"bytes", 1)}
    (place / "pack").unlink()
    assert inode and contents(await walk(store, folder, [b"m"], b"bytes")) == {"a": (b"bytes", 1)}


async def test_bytes_that_are_gone_are_no_zeros(tmp_path: Path, folder: Path) -> None:
    """Whatever took them."""
    index, _ = await send(SyncedStore(tmp_path), folder, {"a": (b"A" * 5000, 1)})
    os.truncate(index.path, 100)
    with pytest.raises(Corrupt, match="/a in the build context are gone"):
        contents(index)
