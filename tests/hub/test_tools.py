"""`cais hub backup`, `restore` and `import` as programs, beside a hub that runs."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harness.hub import LiveHub, running_hub
from harness.storage import Storage
from harness.wire import Repository, Wire, sha256

pytestmark = pytest.mark.slow


def run(*words: object) -> tuple[int, str, str]:
    """The command: status, standard output, standard error."""
    command = [sys.executable, "-m", "cais.hub.tools", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LiveHub]:
    """A hub that collects garbage all the time, and soon."""
    words = ("--open", "--collect-every", "0.02", "--grace", "0.5")
    with running_hub(tmp_path / "hub", *words) as hub:
        yield hub


def check(hub: LiveHub, name: str, tag: str) -> None:
    """Every byte of an image is there and right."""
    with closing(Wire(hub.port)) as wire:
        manifest = wire.ask("GET", f"/v2/{name}/manifests/{tag}")
        assert manifest.status == 200, manifest
        for part in (manifest.json["config"], *manifest.json["layers"]):
            assert sha256(wire.ask("GET", f"/v2/{name}/blobs/{part['digest']}").body) == part["digest"]


def test_a_running_hub_is_backed_up_and_restored(hub: LiveHub, tmp_path: Path) -> None:
    """While images are pushed, replaced and collected: the copy is whole, and a hub that starts on what was restored
    serves every image that was there before the backup began."""
    with closing(Wire(hub.port)) as wire:
        Repository(wire, "team/app").push_image("1", [os.urandom(300_000)])
    stop, rounds = threading.Event(), []

    def churn() -> None:
        with closing(Wire(hub.port)) as wire:
            while not stop.is_set():
                repository = Repository(wire, "team/churn")
                digest = repository.push_image("1", [os.urandom(20_000)])
                repository.ask("DELETE", f"manifests/{digest}")
                rounds.append(digest)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(3):
            status, out, err = run("backup", hub.root, tmp_path / "copy")
            assert (status, err) == (0, "") and "backed up" in out
    finally:
        stop.set()
        thread.join()
    assert rounds
    status, out, err = run("restore", tmp_path / "copy", tmp_path / "new", "--copy")
    assert (status, err) == (0, "") and "all verified" in out
    with running_hub(tmp_path / "new", "--open") as again:
        check(again, "team/app", "1")


def test_damage_is_told_by_the_status(hub: LiveHub, tmp_path: Path) -> None:
    """With the blob's name: whoever runs this by a timer must notice."""
    with closing(Wire(hub.port)) as wire:
        Repository(wire, "team/app").push_image("1", [b"layer"])
    path = hub.root / "content" / "blobs" / "sha256" / sha256(b"layer").partition(":")[2]
    path.unlink()
    status, _, err = run("backup", hub.root, tmp_path / "copy")
    assert (status, err) == (1, f"missing {sha256(b'layer')}: absent\n")
    status, _, err = run("restore", tmp_path / "copy", tmp_path / "new")
    assert (status, err) == (1, f"missing {sha256(b'layer')}: absent\n")


def test_a_running_hub_is_not_imported_into(hub: LiveHub, tmp_path: Path) -> None:
    """Nor restored over; when it has stopped, it can be."""
    storage = Storage(tmp_path / "docker")
    storage.put_image("team/app", ["1"], [b"imported"])
    status, _, err = run("import", hub.root, storage.root)
    assert status == 1 and "in use by another hub" in err
    assert hub.stop() == 0
    status, out, err = run("import", hub.root, storage.root)
    assert (status, err) == (0, "") and "imported 1 manifests and 1 tags in 1 repositories" in out
    hub.start()
    check(hub, "team/app", "1")


def test_what_was_skipped_is_told_by_the_status(tmp_path: Path) -> None:
    """And by name; all else was done. Into a root that is not there yet."""
    storage = Storage(tmp_path / "docker")
    storage.put_image("team/app", ["1"], [b"good"])
    storage.put_image("team/app", ["2"], [b"bad"])
    storage.blob(sha256(b"bad")).write_bytes(b"Bad")
    status, out, err = run("import", tmp_path / "new", storage.root)
    assert status == 1 and "imported 1 manifests" in out and f"blob {sha256(b'bad')} is damaged" in err
    with running_hub(tmp_path / "new", "--open") as hub:
        check(hub, "team/app", "1")


@pytest.mark.parametrize(
    "words", [["backup", "nowhere", "copy"], ["restore", "nowhere", "new"], ["import", "new", "."]]
)
def test_mistakes_are_messages(tmp_path: Path, words: list[str]) -> None:
    """One line, no traceback, nothing made."""
    status, out, err = run(words[0], *(tmp_path / word for word in words[1:]))
    assert (status, out) == (1, "")
    assert err.startswith(f"cais hub {words[0]}: ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
