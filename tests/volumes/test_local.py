"""Named volumes: made, shown, removed; names that cannot leave their folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cais.errors import Conflict, Invalid, NotFound
from cais.events import Bus
from cais.store.metadata import Metadata
from cais.store.snapshots.base import Trash
from cais.volumes.local import Volumes


class Place:
    """A root folder and the volumes of the engine that has it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bus = Bus()
        self.open()

    def open(self) -> None:
        """As a new engine."""
        self.metadata = Metadata(self.root / "cais.db")
        self.volumes = Volumes(self.root, self.metadata, Trash(self.root / "trash"), self.bus)

    def reopen(self) -> Volumes:
        """The next engine's."""
        self.metadata.close()
        self.open()
        return self.volumes


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty root."""
    place = Place(tmp_path)
    yield place
    place.metadata.close()


def test_a_volume_survives_its_engine(place: Place) -> None:
    """With its labels and its data; creating it again finds it."""
    place.volumes.create("data", labels={"a": "1"})
    (place.volumes.path("data") / "file").write_text("kept")
    volumes = place.reopen()
    assert volumes.create("data").labels == {"a": "1"}
    assert (volumes.path("data") / "file").read_text() == "kept"


def test_an_anonymous_volume_gets_a_name_and_a_mark(place: Place) -> None:
    """Docker's label, by which prune knows it."""
    volume = place.volumes.create()
    assert len(volume.name) == 64
    assert "com.docker.volume.anonymous" in volume.labels


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "/abs", "-ab", "a b", "ab\n", "x" * 256])
def test_names_that_are_no_folder_names_are_refused(place: Place, name: str) -> None:
    """Nothing is made outside, whatever the client sends."""
    with pytest.raises(Invalid, match="includes invalid characters for a local volume name"):
        place.volumes.create(name)
    assert list((place.root / "volumes").iterdir()) == []


def test_a_short_name_is_refused(place: Place) -> None:
    """As Docker does."""
    with pytest.raises(Invalid, match="volume name is too short"):
        place.volumes.create("a")


def test_foreign_drivers_and_options_are_refused(place: Place) -> None:
    """An option of the local driver would be a mount of the client's choice."""
    with pytest.raises(NotFound, match="nfs"):
        place.volumes.create("data", driver="nfs")
    with pytest.raises(Invalid, match="not supported"):
        place.volumes.create("data", options={"type": "none", "o": "bind", "device": "/"})


def test_a_volume_in_use_stays(place: Place) -> None:
    """The message names the containers."""
    place.volumes.create("data")
    with pytest.raises(Conflict, match=r"remove data: volume is in use - \[abc\]"):
        place.volumes.remove("data", ["abc"])
    place.volumes.remove("data", [])
    with pytest.raises(NotFound, match="get data: no such volume"):
        place.volumes.remove("data", [])
    place.volumes.remove("data", [], force=True)
    assert [event.action for event in place.bus.history(0)] == ["create", "destroy"]


def test_unused_volumes_are_the_anonymous_ones(place: Place) -> None:
    """The named ones only when asked; never those in use."""
    used, unused = place.volumes.create().name, place.volumes.create().name
    place.volumes.create("named")
    (place.volumes.path(unused) / "file").write_bytes(b"12345")
    users = {used: ["abc"]}
    assert place.volumes.find_unused(lambda name: users.get(name, [])) == [unused]
    everything = place.volumes.find_unused(lambda name: users.get(name, []), everything=True)
    assert sorted(everything) == sorted([unused, "named"])
    assert place.volumes.usage(unused) == 5


def test_half_made_volumes_are_swept(place: Place) -> None:
    """A folder without a record: the engine was killed in the middle of create or remove."""
    place.volumes.create("kept")
    (place.root / "volumes" / "half" / "_data").mkdir(parents=True)
    place.reopen()
    assert [folder.name for folder in (place.root / "volumes").iterdir()] == ["kept"]
