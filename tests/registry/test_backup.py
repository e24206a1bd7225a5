"""Backups: whole and consistent whatever goes on meanwhile, and what is restored is what was backed up."""

import errno
import fcntl
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cais.errors import Conflict, Corrupt, Invalid, NotFound
from cais.registry.backup import backup, restore
from cais.registry.collect import Collected, Collector
from cais.registry.leases import COLLECT_LOCK, collecting, holding_root, keeping_blobs
from harness.serving import Served, serving
from harness.wire import Repository, Wire, sha256


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A registry with one image of two layers."""
    with serving(tmp_path / "root") as served:
        with closing(Wire(served.port)) as wire:
            Repository(wire, "team/app").push_image("1", [b"one", b"two"])
        yield served


def read_all(root: Path) -> dict[str, bytes]:
    """Everything that a registry on ``root`` serves, by path."""
    with serving(root) as served, closing(Wire(served.port)) as wire:
        found = {}
        for name in wire.ask("GET", "/v2/_catalog").json["repositories"]:
            for tag in wire.ask("GET", f"/v2/{name}/tags/list").json["tags"]:
                manifest = wire.ask("GET", f"/v2/{name}/manifests/{tag}")
                found[f"{name}:{tag}"] = manifest.body
                for part in (manifest.json["config"], *manifest.json["layers"]):
                    blob = wire.ask("GET", f"/v2/{name}/blobs/{part['digest']}")
                    assert sha256(blob.body) == part["digest"], blob
                    found[part["digest"]] = blob.body
        return found


def damage(path: Path) -> None:
    """Change a byte, in a file of its own: a backup's may be the same file as the registry's."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def blob(root: Path, data: bytes) -> Path:
    """Where it is in a registry or backup."""
    return root / "content" / "blobs" / "sha256" / sha256(data).partition(":")[2]


@pytest.mark.parametrize("copies", [False, True])
def test_what_is_restored_is_what_was_there(served: Served, tmp_path: Path, copies: bool) -> None:
    """Images, tags and the other files of the folder, from a registry in use; links or files of their own."""
    (served.root / "hub.key").write_bytes(b"secret")
    (served.root / "hub.key").chmod(0o600)
    (served.root / "tls").mkdir()
    (served.root / "tls" / "hub.crt").write_text("certificate")
    done = backup(served.root, tmp_path / "copy", copies=copies)
    assert (done.blobs, done.linked, done.copied, done.missing) == (
        4,
        0 if copies else 4,
        4 if copies else 0,
        {},
    )
    again = restore(tmp_path / "copy", tmp_path / "new", copies=copies)
    assert (again.blobs, again.size, again.missing) == (4, done.size, {})
    assert blob(served.root, b"one").samefile(blob(tmp_path / "new", b"one")) is not copies
    assert read_all(tmp_path / "new") == read_all(served.root)
    assert (tmp_path / "new" / "hub.key").read_bytes() == b"secret"
    assert (tmp_path / "new" / "hub.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new" / "tls" / "hub.crt").read_text() == "certificate"
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o700


def test_a_second_backup_takes_the_place_of_the_first(served: Served, tmp_path: Path) -> None:
    """Only what is new is copied, and what is gone goes, after the database that named it."""
    target = tmp_path / "copy"
    backup(served.root, target)
    with closing(Wire(served.port)) as wire:
        repository = Repository(wire, "team/app")
        repository.push_image("1", [b"two", b"three"])
        old = repository.ask("GET", "tags/list").json
        assert old["tags"] == ["1"]
    served.run(_drop(served, b"one"))
    done = backup(served.root, target)
    assert (done.kept, done.linked, done.removed) == (3, 2, 1)
    assert not blob(target, b"one").exists()
    restore(target, tmp_path / "new")
    assert read_all(tmp_path / "new") == read_all(served.root)


async def _drop(served: Served, layer: bytes) -> None:
    """Forget a blob and everything that names it."""
    digest = sha256(layer)

    def act(db: sqlite3.Connection) -> None:
        db.execute(
            "DELETE FROM manifests WHERE digest IN (SELECT manifest FROM edges WHERE digest = ?)", (digest,)
        )
        db.execute("DELETE FROM links WHERE digest = ?", (digest,))
        db.execute("DELETE FROM blobs WHERE digest = ?", (digest,))

    await served.database.write(act)
    served.registry.forget("team/app")


@pytest.mark.slow
def test_a_backup_during_pushes_and_collections_is_whole(served: Served, tmp_path: Path) -> None:
    """Images come and go, and garbage is collected without any grace, all the time: every blob that a backup's
    database names is in it, right to the last byte."""
    stop = threading.Event()
    rounds: list[int] = []

    def churn() -> None:
        collector = Collector(served.registry, 0.0, 3600.0, lease=lambda: collecting(served.root))
        with closing(Wire(served.port)) as wire:
            while not stop.is_set():
                repository = Repository(wire, f"churn/r{len(rounds) % 3}")
                digest = repository.push_image("1", [os.urandom(2000) for _ in range(3)])
                if len(rounds) % 3 == 2:
                    repository.ask("DELETE", f"manifests/{digest}")
                served.run(collector.collect())
                rounds.append(1)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for number in range(4):
            before = len(rounds)
            done = backup(served.root, tmp_path / f"copy{number % 2}")
            assert not done.missing
            while len(rounds) < before + 3:
                stop.wait(0.001)
    finally:
        stop.set()
        thread.join()
    for number in range(2):
        assert not restore(tmp_path / f"copy{number}", tmp_path / f"new{number}").missing
        assert "team/app:1" in read_all(tmp_path / f"new{number}")


def test_a_collection_in_the_middle_takes_nothing(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the database and the blobs it names: what is garbage by then is still in the backup."""
    collector = Collector(served.registry, 0.0, 3600.0, lease=lambda: collecting(served.root))
    with closing(Wire(served.port)) as wire:
        Repository(wire, "team/loose").push_blob(b"loose")
    link = os.link

    def collect_first(*names: object, **more: object) -> None:
        for _ in range(3):
            served.run(collector.collect())
        link(*names, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", collect_first)
        assert backup(served.root, tmp_path / "copy").missing == {}
    assert blob(tmp_path / "copy", b"loose").read_bytes() == b"loose"


def test_a_blob_that_is_replaced_while_it_is_linked(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a push of what is here already: Linux finds the old file without a name left, and links nothing."""

    def replaced(source: Path, *_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", replaced)
        done = backup(served.root, tmp_path / "copy")
    assert not done.missing and done.copied == done.blobs == 4
    assert read_all(tmp_path / "copy") == read_all(served.root)


def test_no_blob_goes_while_a_backup_reads(served: Served) -> None:
    """The collector waits for its next turn, and a backup waits for a collection that has begun."""
    collector = Collector(served.registry, 0.0, 3600.0, lease=lambda: collecting(served.root))
    with closing(Wire(served.port)) as wire:
        Repository(wire, "team/loose").push_blob(b"loose")

    def collect() -> Collected:
        for _ in range(3):
            done = served.run(collector.collect())
        return done

    with keeping_blobs(served.root), keeping_blobs(served.root):
        collect()
        assert blob(served.root, b"loose").exists()
    collect()
    assert not blob(served.root, b"loose").exists()
    with collecting(served.root) as may, (served.root / COLLECT_LOCK).open() as file:
        assert may
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_a_cut_backup_leaves_the_one_before(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up in the middle: what was backed up before can still be restored, and the next one succeeds."""
    backup(served.root, tmp_path / "copy")
    before = read_all(served.root)
    with closing(Wire(served.port)) as wire:
        Repository(wire, "team/app").push_image("2", [b"three"])

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "link", fail)
        patch.setattr(shutil, "copyfile", fail)
        backup(served.root, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "new")
    assert read_all(tmp_path / "new") == before
    backup(served.root, tmp_path / "copy")
    restore(tmp_path / "copy", tmp_path / "newer")
    assert read_all(tmp_path / "newer") == read_all(served.root)


def test_damaged_blobs_are_found_and_can_be_pushed_again(served: Served, tmp_path: Path) -> None:
    """By name, with the reason; the others are restored, and the damaged ones are not served."""
    backup(served.root, tmp_path / "copy", copies=True)
    damage(blob(tmp_path / "copy", b"one"))
    blob(tmp_path / "copy", b"two").unlink()
    done = restore(tmp_path / "copy", tmp_path / "new")
    assert {digest: why.partition(":")[0] for digest, why in done.missing.items()} == {
        sha256(b"one"): "its digest is sha256",
        sha256(b"two"): "absent",
    }
    with serving(tmp_path / "new") as again, closing(Wire(again.port)) as wire:
        repository = Repository(wire, "team/app")
        assert repository.ask("GET", f"blobs/{sha256(b'one')}").brief == (404, "BLOB_UNKNOWN")
        assert repository.ask("HEAD", f"blobs/{sha256(b'one')}").status == 404
        assert repository.ask("GET", f"blobs/{sha256(b'two')}").brief == (404, "BLOB_UNKNOWN")
        assert repository.ask("GET", f"blobs/{sha256(b'{}')}").status == 200
        repository.push_blob(b"one")
        assert repository.ask("GET", f"blobs/{sha256(b'one')}").body == b"one"


def test_a_backup_says_what_the_registry_has_lost(served: Served, tmp_path: Path) -> None:
    """Absent bytes and bytes of another length."""
    blob(served.root, b"one").unlink()
    blob(served.root, b"two").write_bytes(b"too long")
    done = backup(served.root, tmp_path / "copy")
    assert done.missing == {sha256(b"one"): "absent", sha256(b"two"): "has 8 bytes instead of 3"}
    assert done.blobs == 2


def test_a_restore_can_be_done_again(served: Served, tmp_path: Path) -> None:
    """One that was cut (here: its mark is there) goes on where it stopped, and does not trust what is there."""
    backup(served.root, tmp_path / "copy", copies=True)
    new = tmp_path / "new"
    blob(new, b"one").parent.mkdir(parents=True)
    (new / "restoring").touch()
    blob(new, b"one").write_bytes(b"ono")
    restore(tmp_path / "copy", new)
    assert read_all(new) == read_all(served.root)
    assert not (new / "restoring").exists()


def test_a_damaged_database_is_refused(served: Served, tmp_path: Path) -> None:
    """Rather than served."""
    backup(served.root, tmp_path / "copy")
    path = tmp_path / "copy" / "hub.db"
    data = bytearray(path.read_bytes())
    data[4096:12288] = os.urandom(8192)
    path.write_bytes(data)
    with pytest.raises(Corrupt):
        restore(tmp_path / "copy", tmp_path / "new")
    assert not (tmp_path / "new" / "hub.db").exists()


def _into_itself(root: Path, tmp_path: Path) -> None:
    backup(root, root / "backups")


def _of_nothing(root: Path, tmp_path: Path) -> None:
    backup(tmp_path / "nowhere", tmp_path / "copy")


def _from_nothing(root: Path, tmp_path: Path) -> None:
    restore(tmp_path / "nowhere", tmp_path / "new")


def _over_another(root: Path, tmp_path: Path) -> None:
    backup(root, tmp_path / "copy")
    restore(tmp_path / "copy", root)


def _twice_at_once(root: Path, tmp_path: Path) -> None:
    with holding_root(tmp_path / "copy"):
        backup(root, tmp_path / "copy")


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (_into_itself, Invalid),
        (_of_nothing, NotFound),
        (_from_nothing, NotFound),
        (_over_another, Conflict),
        (_twice_at_once, Conflict),
    ],
)
def test_mistakes_are_refused(
    served: Served, tmp_path: Path, act: Callable[[Path, Path], None], error: type[Exception]
) -> None:
    """Before anything is written, and what is there stays."""
    before = read_all(served.root)
    with pytest.raises(error):
        act(served.root, tmp_path)
    assert read_all(served.root) == before
