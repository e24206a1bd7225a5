"""Many clients push, move, delete and pull while garbage is collected; and the hub is killed under them.

CAIS_TEST_STORM: seconds of storm, half of them in each mode (15). CAIS_TEST_KILLS: how often it is killed (12).
CAIS_TEST_SEED: repeats a run. ``pytest -rP`` shows the figures.
"""

import http.client
import json
import os
import random
import re
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.hub import LiveHub, running_hub, wait_until
from harness.wire import Repository, Wire, format_image, sha256

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("CAIS_TEST_STORM", "15")) / 2
KILLS = int(os.environ.get("CAIS_TEST_KILLS", "12"))
SEED = int(os.environ.get("CAIS_TEST_SEED", "0")) or random.randrange(1 << 30)
CLIENTS = 6
REPOSITORIES = ("alpha/one", "alpha/two", "beta/one", "beta/two", "gamma", "delta/deep/er")
GRACE = 2.0
UPLOAD_AGE = 4.0
Gone = (OSError, http.client.HTTPException)
"""What a client sees when the hub dies."""


class Layers:
    """The layers that all clients draw from, so that they share them."""

    def __init__(self, rng: random.Random) -> None:
        sizes = [rng.choice((500, 5_000, 40_000, 150_000)) for _ in range(150)]
        self.all = [rng.randbytes(size) for size in sizes]
        self.by_digest = {sha256(data): data for data in self.all}


@dataclass
class Image:
    """A manifest, and where it was pushed."""

    repository: str
    data: bytes
    config: bytes
    layers: list[bytes]

    @property
    def digest(self) -> str:
        """Of the manifest."""
        return sha256(self.data)


@dataclass
class Client:
    """One that behaves as Docker does, and knows what it was promised."""

    number: int
    port: int
    layers: Layers
    stop: threading.Event
    rng: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    images: dict[tuple[str, str], Image] = field(default_factory=dict)
    """By repository and digest: acknowledged and not deleted."""
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    """The tags that only this client uses."""
    unsure: list[Image] = field(default_factory=list)
    """Those of which no answer came."""
    cut: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Uploads that were under way: repository, location and bytes."""
    error: BaseException | None = None

    def run(self) -> None:
        """Until told to stop, or the hub goes."""
        try:
            with closing(Wire(self.port)) as wire:
                while not self.stop.is_set():
                    self._act(wire)
        except Gone as error:
            if not self.stop.is_set():
                self.error = error
        except BaseException as error:
            self.error = error
            self.stop.set()

    def _act(self, wire: Wire) -> None:
        name = self.rng.choice(REPOSITORIES)
        act = self.rng.choices(
            (self.push, self.pull, self.untag, self.delete, self.abandon, self.linger), (60, 12, 8, 12, 3, 5)
        )[0]
        act(Repository(wire, name))
        self.counts[act.__name__] += 1

    def push(self, repository: Repository) -> None:
        """Look what is there, mount or send the rest, then the manifest, under a tag of its own or a shared one."""
        layers = self.rng.sample(self.layers.all, self.rng.randint(1, 4))
        config = json.dumps({"by": self.number, "n": self.rng.getrandbits(64)}).encode()
        image = Image(repository.name, format_image(config, layers), config, layers)
        shared = self.rng.random() < 0.3
        tag = f"shared{self.rng.randrange(3)}" if shared else f"c{self.number}-{self.rng.randrange(4)}"
        for _ in range(3):
            began = time.monotonic()
            for data in (*layers, config):
                self._ensure(repository, data)
            self.unsure.append(image)
            reply = repository.put_manifest(image.data, tag)
            took = time.monotonic() - began
            if reply.code != "MANIFEST_BLOB_UNKNOWN" or took < GRACE:
                break
            self.unsure.pop()
            self.counts["too slow"] += 1  # the machine stood still for longer than what was promised
        assert reply.status == 201, (took, reply)
        self.unsure.pop()
        self.images[repository.name, image.digest] = image
        if not shared:
            self.tags[repository.name, tag] = image.digest

    def _ensure(self, repository: Repository, data: bytes) -> None:
        digest = sha256(data)
        if repository.ask("HEAD", f"blobs/{digest}").status == 200:
            self.counts["there"] += 1
            return
        source = self.rng.choice(REPOSITORIES)
        reply = repository.ask("POST", f"blobs/uploads/?mount={digest}&from={source}", b"")
        if reply.status == 201:
            self.counts["mounted"] += 1
            return
        assert reply.status == 202, reply
        self._send(repository, reply.headers["location"], data)

    def _send(self, repository: Repository, location: str, data: bytes) -> None:
        self.cut.append((repository.name, location, data))
        half = len(data) // 2 if self.rng.random() < 0.5 else 0
        if half:
            reply = repository.wire.ask("PATCH", location, data[:half])
            assert reply.status == 202, reply
        reply = repository.wire.ask("PUT", f"{location}?digest={sha256(data)}", data[half:])
        assert reply.status == 201, reply
        self.cut.pop()
        self.counts["sent"] += 1

    def pull(self, repository: Repository) -> None:
        """One of its own tags, all of it."""
        mine = [tag for name, tag in self.tags if name == repository.name]
        if mine:
            tag = self.rng.choice(mine)
            assert check_image(repository, tag, self.layers) == self.tags[repository.name, tag]

    def untag(self, repository: Repository) -> None:
        """Remove one of its own tags."""
        mine = [tag for name, tag in self.tags if name == repository.name]
        if mine:
            tag = self.rng.choice(mine)
            self.tags.pop((repository.name, tag))
            reply = repository.ask("DELETE", f"manifests/{tag}")
            assert reply.status == 202, reply

    def delete(self, repository: Repository) -> None:
        """Remove one of its own manifests, whatever tags it has."""
        mine = [digest for name, digest in self.images if name == repository.name]
        if mine:
            digest = self.rng.choice(mine)
            image = self.images.pop((repository.name, digest))
            for key in [
                key for key, value in self.tags.items() if key[0] == repository.name and value == digest
            ]:
                del self.tags[key]
            self.unsure.append(image)
            reply = repository.ask("DELETE", f"manifests/{digest}")
            assert reply.status in (202, 404), reply  # 404: untagged, and collected
            self.unsure.pop()

    def abandon(self, repository: Repository) -> None:
        """Begin an upload and forget it."""
        assert repository.wire.ask("PATCH", repository.start(), b"x" * 1000).status == 202

    def linger(self, repository: Repository) -> None:
        """An upload with other work between its parts."""
        data = self.rng.randbytes(3000)
        location, began = repository.start(), time.monotonic()
        assert repository.wire.ask("PATCH", location, data[:1000]).status == 202
        self.push(repository)
        reply = repository.wire.ask("PUT", f"{location}?digest={sha256(data)}", data[1000:])
        assert reply.status == 201 or time.monotonic() - began > UPLOAD_AGE, reply


def check_image(
    repository: Repository, ref: str, layers: Layers, seen: set[tuple[str, str]] | None = None
) -> str:
    """Pull it: every byte is what its digest says; the manifest's digest. ``seen``: blobs that need no second look."""
    reply = repository.ask("GET", f"manifests/{ref}")
    assert reply.status == 200, (repository.name, ref, reply)
    digest = reply.headers["docker-content-digest"]
    assert sha256(reply.body) == digest, (repository.name, ref)
    document = reply.json
    for part in (document["config"], *document["layers"]):
        key = (repository.name, part["digest"])
        if seen is not None and key in seen:
            continue
        blob = repository.ask("GET", f"blobs/{part['digest']}")
        assert blob.status == 200, (repository.name, ref, part, blob)
        known = layers.by_digest.get(part["digest"])
        assert blob.body == known if known else sha256(blob.body) == part["digest"]
        assert len(blob.body) == part["size"]
        if seen is not None:
            seen.add(key)
    return digest


@contextmanager
def clients(hub: LiveHub, layers: Layers, rng: random.Random, count: int) -> Iterator[list[Client]]:
    """So many at work; at the end of the block they stop, and none may have failed."""
    stop = threading.Event()
    made = [Client(n, hub.port, layers, stop, random.Random(rng.getrandbits(32))) for n in range(count)]
    threads = [threading.Thread(target=client.run) for client in made]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    for client in made:
        if client.error is not None:
            raise AssertionError(f"client {client.number}, seed {SEED}") from client.error


def say(counts: Counter[str]) -> None:
    """The figures of a run, for ``pytest -rP``."""
    sys.stdout.write(f"seed {SEED}: " + ", ".join(f"{name} {counts[name]}" for name in sorted(counts)) + "\n")


def on_disk(hub: LiveHub) -> set[str]:
    """Digests of the blobs' files."""
    folder = hub.root / "content" / "blobs"
    return {f"{path.parent.name}:{path.name}" for path in folder.glob("*/*")}


def check_records(hub: LiveHub) -> None:
    """The database by itself: whole, without loose ends, and its sums right."""
    with closing(sqlite3.connect(hub.root / "hub.db")) as db:

        def ask(sql: str) -> list[Any]:
            return db.execute(sql).fetchall()

        assert ask("PRAGMA integrity_check") == [("ok",)] and ask("PRAGMA foreign_key_check") == []
        assert not ask(
            "SELECT name FROM repositories r WHERE size <> COALESCE((SELECT SUM(b.size) FROM links l "
            "JOIN blobs b USING (digest) WHERE l.repository = r.id), 0)"
        )
        names = {row[0] for row in ask("SELECT digest FROM blobs")}
        assert {row[0] for row in ask("SELECT digest FROM edges")} <= names


@pytest.mark.parametrize("untagged", [False, True], ids=["keep", "collect"])
def test_storm(tmp_path: Path, untagged: bool) -> None:
    """While garbage is collected five times a second no push fails and no image loses a byte; what the clients were
    promised is there at the end, and on the disk is exactly what it needs."""
    rng = random.Random(SEED)
    layers = Layers(rng)
    words = ["--open", "--grace", str(GRACE), "--collect-every", "0.2", "--upload-age", str(UPLOAD_AGE)]
    words += ["--scrub-every", "5", *(["--collect-untagged"] if untagged else [])]
    with running_hub(tmp_path / "hub", *words) as hub:
        with clients(hub, layers, rng, CLIENTS) as made:
            made[0].stop.wait(SECONDS)
        with closing(Wire(hub.port)) as wire:
            wanted = _check_promises(wire, made, layers, untagged=untagged)
            wait_until(
                lambda: on_disk(hub) == wanted and not list((hub.root / "uploads").iterdir()), "clean", 30
            )
            assert _check_promises(wire, made, layers, untagged=untagged) == wanted
        assert hub.stop() == 0
        assert not (hub.root / "damaged").exists()
        check_records(hub)
        log = (tmp_path / "hub.log").read_text()
        freed = sum(int(size) for size in re.findall(r"freed=(\d+)", log))
        assert freed and "Traceback" not in log, log[-3000:]
    counts = sum((client.counts for client in made), Counter())
    counts |= Counter(collections=log.count("collected"), freed=freed, blobs=len(wanted))
    say(counts)
    assert counts["push"] > 10 and counts["mounted"] and counts["there"]


def _check_promises(wire: Wire, made: list[Client], layers: Layers, *, untagged: bool) -> set[str]:
    """Every image is there, byte for byte; digests of all that they need. ``untagged``: only those with a tag."""
    tags = {key: digest for client in made for key, digest in client.tags.items()}
    found: dict[tuple[str, str], str] = {}
    seen: set[tuple[str, str]] = set()
    for name in REPOSITORIES:
        repository = Repository(wire, name)
        reply = repository.ask("GET", "tags/list")
        for tag in reply.json["tags"] if reply.status == 200 else ():
            found[name, tag] = check_image(repository, tag, layers, seen)
    assert {key: value for key, value in found.items() if not key[1].startswith("shared")} == tags
    images = {key: image for client in made for key, image in client.images.items()}
    tagged = {(name, digest) for (name, _), digest in found.items()}
    assert tagged <= set(images)
    needed = set()
    for name, digest in tagged if untagged else images:
        assert check_image(Repository(wire, name), digest, layers, seen) == digest
        image = images[name, digest]
        needed |= {digest, *map(sha256, (image.config, *image.layers))}
    return needed


@dataclass
class Promises:
    """What all clients were told, over many deaths of the hub."""

    images: dict[tuple[str, str], Image] = field(default_factory=dict)
    resumed: int = 0
    whole: int = 0
    absent: int = 0

    def take(self, made: list[Client]) -> None:
        """What one life's clients know. An unanswered push or delete may have happened or not."""
        for client in made:
            self.images |= client.images
            for image in client.unsure:
                self.images.pop((image.repository, image.digest), None)

    def check(self, wire: Wire, made: list[Client], layers: Layers) -> None:
        """Everything acknowledged is whole; of the rest, all or nothing is there; uploads go on where they were cut."""
        for client in made:
            for name, digest in client.images:
                assert check_image(Repository(wire, name), digest, layers) == digest
            for image in client.unsure:
                self._check_unsure(Repository(wire, image.repository), image, layers)
            for name, location, data in client.cut:
                self._resume(Repository(wire, name), location, data)
        for reply in Repository(wire, "").pages("/v2/_catalog"):
            for name in reply.json["repositories"]:
                repository = Repository(wire, name)
                for tag in repository.ask("GET", "tags/list").json["tags"]:
                    check_image(repository, tag, layers)

    def _check_unsure(self, repository: Repository, image: Image, layers: Layers) -> None:
        reply = repository.ask("GET", f"manifests/{image.digest}")
        if reply.status == 200:
            check_image(repository, image.digest, layers)
            self.whole += 1
        else:
            assert reply.status == 404, reply
            self.absent += 1

    def _resume(self, repository: Repository, location: str, data: bytes) -> None:
        if repository.ask("HEAD", f"blobs/{sha256(data)}").status == 200:  # who is told so may build upon it
            assert repository.ask("GET", f"blobs/{sha256(data)}").body == data
        reply = repository.wire.ask("GET", location)
        if reply.status == 404:  # it had become the blob
            blob = repository.ask("GET", f"blobs/{sha256(data)}")
            assert (blob.status, blob.body) == (200, data) or blob.status == 404
            return
        assert reply.status == 204, reply
        have = int(reply.headers["range"].partition("-")[2])
        have += have > 0
        assert have <= len(data)
        place = {"Content-Range": f"{have}-{len(data) - 1}"} if have < len(data) else {}
        reply = repository.wire.ask("PUT", f"{location}?digest={sha256(data)}", data[have:], place)
        assert reply.status == 201, (have, len(data), reply)
        assert repository.ask("GET", f"blobs/{sha256(data)}").body == data
        self.resumed += 1


def test_kills(tmp_path: Path) -> None:
    """However often it is killed with -9 under load, every manifest that was answered with 201 can be pulled with every
    byte right, nothing half-made is visible, and uploads are taken up where they were cut."""
    rng = random.Random(SEED)
    layers, promises = Layers(rng), Promises()
    words = ("--open", "--grace", "1", "--collect-every", "0.1", "--upload-age", "600")
    with running_hub(tmp_path / "hub", *words) as hub:
        for _ in range(KILLS):
            with closing(Wire(hub.port)) as wire:
                wire.ask("GET", "/v2/")
                with clients(hub, layers, rng, 4) as made:
                    pushes = rng.randint(1, 60)
                    wait_until(
                        lambda n=pushes, made=made: (
                            sum(c.counts["push"] for c in made) >= n or any(c.error for c in made)
                        ),
                        "pushes",
                        60,
                    )
                    made[0].stop.set()
                    hub.kill()
            hub.start()
            with closing(Wire(hub.port)) as wire:
                promises.take(made)
                promises.check(wire, made, layers)
        with closing(Wire(hub.port)) as wire:
            seen: set[tuple[str, str]] = set()
            for name, digest in promises.images:
                check_image(Repository(wire, name), digest, layers, seen)
        wait_until(lambda: on_disk(hub) == named(hub), "on the disk is what manifests name", 30)
        assert hub.stop() == 0
        check_records(hub)
        assert "Traceback" not in (tmp_path / "hub.log").read_text()
    say(Counter({**vars(promises), "images": len(promises.images)}))


def named(hub: LiveHub) -> set[str]:
    """Digests of the manifests on record and of all that they name."""
    with closing(sqlite3.connect(f"file:{hub.root}/hub.db?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT digest FROM edges UNION SELECT digest FROM manifests").fetchall()
    return {digest for (digest,) in rows}
