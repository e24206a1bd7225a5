"""Taking over a distribution server's folder: all that can be served comes, and what cannot is said with its reason."""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cais.errors import NotFound
from cais.registry.distribution import Folder, Imported, Importer
from harness.registry import running_registry
from harness.serving import Served, serving
from harness.storage import Storage, refer
from harness.wire import Repository, Wire, format_image, sha256

OLD = 1_700_000_000


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """The other registry's folder: empty, but one."""
    storage = Storage(tmp_path / "storage")
    (storage.path / "repositories").mkdir(parents=True)
    return storage


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Our registry."""
    with serving(tmp_path / "root") as served:
        yield served


@pytest.fixture
def wire(served: Served) -> Iterator[Wire]:
    """A connection to it."""
    with closing(Wire(served.port)) as wire:
        yield wire


def bring(served: Served, storage: Storage, *, copies: bool = False) -> Imported:
    """Import it."""
    importer = Importer(served.registry, served.database, served.root, copies=copies)
    return served.run(importer.bring(Folder(storage.root)))


@pytest.mark.parametrize("copies", [False, True])
def test_images_come_with_tags_and_blobs(served: Served, wire: Wire, storage: Storage, copies: bool) -> None:
    """Repositories of any depth; a layer that two have is brought once; bytes are links or copies."""
    one = storage.put_image("app", ["1", "latest"], [b"one", b"shared"])
    two = storage.put_image("team/deep/er", ["2"], [b"two", b"shared"])
    done = bring(served, storage, copies=copies)
    assert (done.repositories, done.manifests, done.tags, done.skipped) == (2, 2, 3, [])
    assert (done.blobs, done.linked, done.copied) == (4, 0 if copies else 4, 4 if copies else 0)
    assert done.size == sum(map(len, (b"{}", b"one", b"two", b"shared")))
    for name, tag, digest in (("app", "1", one), ("app", "latest", one), ("team/deep/er", "2", two)):
        found = wire.ask("GET", f"/v2/{name}/manifests/{tag}")
        assert sha256(found.body) == digest
        for part in (found.json["config"], *found.json["layers"]):
            assert sha256(wire.ask("GET", f"/v2/{name}/blobs/{part['digest']}").body) == part["digest"]
    assert storage.blob(sha256(b"one")).samefile(served.blob_path(sha256(b"one"))) is not copies
    assert not list((served.root / "uploads").iterdir())


def test_indexes_and_referrers_come(served: Served, wire: Wire, storage: Storage) -> None:
    """An index behind its manifests, whatever the order in the folder; what refers to an image is found by it."""
    images = [storage.put_image("app", [], [layer]) for layer in (b"one", b"two")]
    inner = storage.put_index("app", [], images)
    outer = storage.put_index("app", ["multi"], [inner, images[0]])
    about = refer(storage.blob(outer).read_bytes())
    signature = storage.put_image("app", [], [b"sig"], artifactType="application/sig", **about)
    done = bring(served, storage)
    assert (done.manifests, done.skipped) == (5, [])
    assert sha256(wire.ask("GET", "/v2/app/manifests/multi").body) == outer
    assert wire.ask("GET", f"/v2/app/manifests/{images[1]}").status == 200
    found = wire.ask("GET", f"/v2/app/referrers/{outer}").json["manifests"]
    assert [(each["digest"], each["artifactType"]) for each in found] == [(signature, "application/sig")]


def test_a_second_import_brings_what_is_new(served: Served, wire: Wire, storage: Storage) -> None:
    """What is here is passed over; a tag that moved there moves here, unless it was pushed here since."""
    storage.put_image("app", ["1", "2"], [b"old"], at=OLD)
    bring(served, storage)
    again = bring(served, storage)
    assert (again.manifests, again.tags, again.blobs, again.kept, again.skipped) == (0, 0, 0, 1, [])
    moved = storage.put_image("app", ["1", "2"], [b"new"], at=OLD + 60)
    ours = Repository(wire, "app").push_image("2", [b"ours"])
    done = bring(served, storage)
    assert (done.manifests, done.tags, done.blobs) == (1, 1, 1)
    assert done.skipped == ["tag app:2: it was pushed here since"]
    digests = [wire.ask("HEAD", f"/v2/app/manifests/{tag}").headers["docker-content-digest"] for tag in "12"]
    assert digests == [moved, ours]


def test_a_cut_import_is_done_again(served: Served, wire: Wire, storage: Storage) -> None:
    """Blobs that came before the cut are not read again, and there is no second copy of anything."""
    digest = storage.put_image("app", ["1"], [b"one", b"two"])
    hidden = storage.blob(sha256(b"two"))
    hidden.rename(hidden.with_name("hidden"))
    first = bring(served, storage)
    assert (first.manifests, first.blobs) == (0, 2)
    hidden.with_name("hidden").rename(hidden)
    second = bring(served, storage)
    assert (second.manifests, second.blobs, second.skipped) == (1, 1, [])
    assert wire.ask("HEAD", "/v2/app/manifests/1").headers["docker-content-digest"] == digest


def test_times_are_those_of_the_other_registry(served: Served, storage: Storage) -> None:
    """Retention would else keep everything for another period."""
    storage.put_image("app", ["1"], [b"one"], at=OLD)
    bring(served, storage)
    rows = served.database.read("SELECT pushed_ns FROM tags UNION ALL SELECT pushed_ns FROM manifests")
    assert rows == [(OLD * 10**9,), (OLD * 10**9,)]


def test_what_was_deleted_there_does_not_come(served: Served, wire: Wire, storage: Storage) -> None:
    """A manifest whose link is gone, and a tag that was removed."""
    gone = storage.put_image("app", [], [b"gone"])
    storage.delete_manifest("app", gone)
    kept = storage.put_image("app", ["1", "2"], [b"kept"])
    storage.delete_tag("app", "2")
    done = bring(served, storage)
    assert (done.manifests, done.tags, done.blobs, done.skipped) == (1, 1, 2, [])
    assert wire.ask("GET", f"/v2/app/manifests/{gone}").status == 404
    assert wire.ask("GET", f"/v2/app/manifests/{kept}").status == 200
    assert wire.ask("GET", f"/v2/app/blobs/{sha256(b'gone')}").status == 404


def test_what_cannot_come_is_said(served: Served, wire: Wire, storage: Storage) -> None:
    """Each with its reason, and all else comes."""
    good = storage.put_image("app", ["good"], [b"good"])
    absent = storage.put_image("app", ["absent"], [b"absent"])
    storage.blob(sha256(b"absent")).unlink()
    flipped = storage.put_image("app", ["flipped"], [b"flipped"])
    storage.blob(sha256(b"flipped")).write_bytes(b"Flipped")
    cut = storage.put_image("app", [], [b"shorter"])
    storage.blob(sha256(b"shorter")).write_bytes(b"short")
    spoiled = storage.put_image("app", ["spoiled"], [b"x"])
    storage.blob(spoiled).write_bytes(b"{}")
    old = storage.put_manifest("app", json.dumps({"schemaVersion": 1, "name": "a"}).encode(), ["v1"])
    lost = storage.put_image("app", ["lost"], [b"lost"])
    storage.delete_manifest("app", lost)
    secret = storage.root.parent / "secret"
    secret.write_bytes(b"link")
    linked = storage.put_image("app", [], [b"link"])
    storage.blob(sha256(b"link")).unlink()
    storage.blob(sha256(b"link")).symlink_to(secret)
    storage.put_image("Bad/Name", ["1"], [b"y"])
    done = bring(served, storage)
    assert set(done.skipped) == {
        f"manifest app@{absent}: {sha256(b'absent')} is not there",
        "tag app:absent: its manifest was skipped",
        f"manifest app@{flipped}: blob {sha256(b'flipped')} is damaged",
        "tag app:flipped: its manifest was skipped",
        f"manifest app@{cut}: blob {sha256(b'shorter')} has 5 bytes instead of 7",
        f"manifest app@{spoiled}: its bytes are damaged",
        f"tag app:spoiled: its manifest {spoiled} is not there, or was skipped",
        f"manifest app@{old}: manifest has schema version 1, which is deprecated: build or push the image again",
        f"tag app:v1: its manifest {old} is not there, or was skipped",
        f"tag app:lost: its manifest {lost} is not there, or was skipped",
        f"manifest app@{linked}: {storage.blob(sha256(b'link'))} is no file",
        "Bad/Name: invalid repository name: 'Bad/Name'",
    }
    assert wire.ask("GET", "/v2/app/tags/list").json["tags"] == ["good"]
    assert wire.ask("GET", f"/v2/app/manifests/{good}").status == 200
    assert not list((served.root / "uploads").iterdir())


def test_an_index_comes_without_what_it_lacks(served: Served, wire: Wire, storage: Storage) -> None:
    """Copies of one platform of an image are common; the tag works for that one, as it did there."""
    here, gone = storage.put_image("app", [], [b"amd64"]), storage.put_image("app", [], [b"arm64"])
    index = storage.put_index("app", ["1"], [here, gone])
    storage.delete_manifest("app", gone)
    done = bring(served, storage)
    assert done.skipped == [f"index app@{index}: brought without 1 manifests that are not there"]
    assert sha256(wire.ask("GET", "/v2/app/manifests/1").body) == index
    assert wire.ask("GET", f"/v2/app/manifests/{here}").status == 200
    assert wire.ask("GET", f"/v2/app/manifests/{gone}").status == 404


def test_a_folder_that_is_none_is_refused(tmp_path: Path, storage: Storage) -> None:
    """And the root as well as the folder within will do."""
    with pytest.raises(NotFound, match="is not a registry's folder"):
        Folder(tmp_path)
    assert Folder(storage.root).path == Folder(storage.path).path


@pytest.mark.slow
def test_dockers_own_registry(served: Served, wire: Wire, tmp_path: Path) -> None:
    """What Docker's registry itself has written: pushed to it over HTTP, imported from its folder while it runs."""
    layer = os.urandom(200_000)
    with running_registry(tmp_path / "docker") as registry:
        for data in (b"{}", layer, b"about"):
            registry.put_blob("team/app", data)
        image = format_image(b"{}", [layer])
        digest = registry.put_manifest("team/app", "1", image)
        registry.put_manifest("team/app", "sig", format_image(b"{}", [b"about"], **refer(image)))
        done = bring(served, Storage(tmp_path / "docker" / "data"))
    assert (done.repositories, done.manifests, done.tags, done.blobs, done.skipped) == (1, 2, 2, 3, [])
    assert wire.ask("GET", "/v2/team/app/manifests/1").body == image
    assert wire.ask("GET", f"/v2/team/app/blobs/{sha256(layer)}").body == layer
    assert len(wire.ask("GET", f"/v2/team/app/referrers/{digest}").json["manifests"]) == 1
