"""The database keeps what it was told, through kills, and refuses what it must."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from cais.errors import AlreadyExists, Conflict, Corrupt, NotFound, Unsupported
from cais.spec.digest import digest_bytes
from cais.store.metadata import _STEPS, SCHEMA, ImageName, Metadata

IMAGE = ImageName("docker.io/library/a:latest", digest_bytes(b"a"), "application/x", 3, 10, 20)

WRITER = """
import sys
from pathlib import Path
from cais.store.metadata import Metadata
metadata = Metadata(Path(sys.argv[1]))
number = 0
while True:
    with metadata.transaction():
        metadata.put_container(f"id{number}", f"name{number}", b"{}")
        metadata.put_volume(f"volume{number}", b"{}")
    print(number, flush=True)
    number += 1
"""


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[Metadata]:
    """A fresh database."""
    opened = Metadata(tmp_path / "cais.db")
    yield opened
    opened.close()


def test_image_names_are_kept_and_moved(metadata: Metadata) -> None:
    """Setting a name twice moves it; the last target wins and other names stay."""
    metadata.set_image(IMAGE)
    other = replace(IMAGE, name="docker.io/library/b:1")
    metadata.set_image(other)
    moved = replace(IMAGE, digest=digest_bytes(b"b"), updated_ns=30)
    metadata.set_image(moved)
    assert metadata.list_images() == [moved, other]
    assert metadata.find_image(IMAGE.name) == moved


def test_deleting_an_image_name_is_idempotent(metadata: Metadata) -> None:
    """A name can be deleted twice and is gone."""
    metadata.set_image(IMAGE)
    metadata.delete_image(IMAGE.name)
    metadata.delete_image(IMAGE.name)
    assert metadata.find_image(IMAGE.name) is None


def test_touching_marks_every_name_of_the_image(metadata: Metadata) -> None:
    """The time of last use reaches all names of one digest and no other."""
    metadata.set_image(IMAGE)
    metadata.set_image(replace(IMAGE, name="docker.io/library/b:1"))
    metadata.set_image(replace(IMAGE, name="docker.io/library/c:1", digest=digest_bytes(b"c")))
    metadata.touch_image(IMAGE.digest, 99)
    assert [image.used_ns for image in metadata.list_images()] == [99, 99, 0]


def test_a_taken_container_name_is_refused_with_its_owner(metadata: Metadata) -> None:
    """A second container cannot take a name, and the message says who has it, in Docker's words."""
    metadata.put_container("1" * 64, "web", b"one")
    with pytest.raises(AlreadyExists, match=f'name "/web" is already in use by container "{"1" * 64}"'):
        metadata.put_container("2" * 64, "web", b"two")
    assert metadata.list_containers() == [("1" * 64, "web", b"one")]


def test_a_container_record_is_rewritten_in_place(metadata: Metadata) -> None:
    """Writing a known id replaces its data and keeps its place in the list."""
    metadata.put_container("a", "one", b"1")
    metadata.put_container("b", "two", b"2")
    metadata.put_container("a", "one", b"3")
    assert metadata.list_containers() == [("a", "one", b"3"), ("b", "two", b"2")]


def test_renaming_frees_the_old_name(metadata: Metadata) -> None:
    """After a rename the old name can be taken; renaming to a taken one or of nobody is refused."""
    metadata.put_container("a", "one", b"1")
    metadata.rename_container("a", "two")
    metadata.put_container("b", "one", b"2")
    with pytest.raises(AlreadyExists):
        metadata.rename_container("b", "two")
    with pytest.raises(NotFound):
        metadata.rename_container("c", "three")


def test_a_deleted_container_leaves_its_name_free(metadata: Metadata) -> None:
    """Delete is idempotent and frees the name at once."""
    metadata.put_container("a", "one", b"1")
    metadata.delete_container("a")
    metadata.delete_container("a")
    metadata.put_container("b", "one", b"2")
    assert [name for _, name, _ in metadata.list_containers()] == ["one"]


def test_volumes_are_kept(metadata: Metadata) -> None:
    """Volume records are written, replaced and deleted by name."""
    metadata.put_volume("b", b"1")
    metadata.put_volume("a", b"2")
    metadata.put_volume("b", b"3")
    assert metadata.list_volumes() == [("a", b"2"), ("b", b"3")]
    metadata.delete_volume("a")
    metadata.delete_volume("a")
    assert metadata.list_volumes() == [("b", b"3")]


def test_a_failed_transaction_leaves_nothing(metadata: Metadata) -> None:
    """When a block raises, none of its calls happened."""
    with pytest.raises(RuntimeError), metadata.transaction():
        metadata.put_volume("a", b"1")
        raise RuntimeError
    assert metadata.list_volumes() == []


def test_a_second_writer_is_refused(metadata: Metadata, tmp_path: Path) -> None:
    """Two engines cannot have the same database open."""
    with pytest.raises(Conflict, match="in use by another engine"):
        Metadata(tmp_path / "cais.db")


def test_a_newer_schema_is_refused_untouched(tmp_path: Path) -> None:
    """A database of a newer Cais is not opened, and its version stays."""
    path = tmp_path / "cais.db"
    Metadata(path).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA + 1}")
    db.close()
    with pytest.raises(Unsupported, match="written by a newer Cais"):
        Metadata(path)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA + 1,)
    db.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Other bytes are reported as corrupt and are not overwritten."""
    path = tmp_path / "cais.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(Corrupt):
        Metadata(path)
    assert path.read_bytes().startswith(b"not a database")


def test_a_killed_writer_loses_nothing_it_had_written(tmp_path: Path) -> None:
    """After SIGKILL every finished transaction is there, whole, and the file opens at once."""
    path = tmp_path / "cais.db"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=environment, text=True
    ) as writer:
        assert writer.stdout
        for _ in range(50):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        last = max([last, *map(int, writer.stdout.read().split())])
    metadata = Metadata(path)
    containers, volumes = metadata.list_containers(), metadata.list_volumes()
    metadata.close()
    assert len(containers) == len(volumes) >= last + 1


A, B, C = (f"sha256:{letter * 64}" for letter in "abc")


def test_forms_belong_to_an_image(tmp_path: Path) -> None:
    """Each once, the newest last; they go together."""
    with closing(Metadata(tmp_path / "cais.db")) as db:
        db.put_form(A, B, "", 1)
        db.put_form(A, C, "reg/x", 3)
        db.put_form(A, B, "reg/x", 2)
        db.put_form(A, B, "reg/x", 4)
        db.put_form(B, C, "", 1)
        assert [(form.digest, form.repository) for form in db.list_forms(A)] == [
            (B, ""),
            (C, "reg/x"),
            (B, "reg/x"),
        ]
        assert len(db.list_forms()) == 4
        db.delete_forms(A)
        assert [form.image for form in db.list_forms()] == [B]


def test_a_layer_has_one_compressed_form_a_codec(tmp_path: Path) -> None:
    """The last one that was made."""
    with closing(Metadata(tmp_path / "cais.db")) as db:
        assert db.find_packed(A, "gzip") is None
        db.put_packed(A, "gzip", B, 1)
        db.put_packed(A, "gzip", C, 2)
        db.put_packed(A, "zstd", B, 3)
        assert db.find_packed(A, "gzip") == (C, 2) and db.find_packed(A, "zstd") == (B, 3)


def test_places_are_remembered_newest_first_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest notes make room; a wrong one is forgotten."""
    monkeypatch.setattr("cais.store.metadata.PLACES", 3)
    with closing(Metadata(tmp_path / "cais.db")) as db:
        db.put_places([A], "reg/one", 1)
        db.put_places([A, B], "reg/two", 2)
        assert db.list_places(A) == ["reg/two", "reg/one"] and db.list_places(C) == []
        db.put_places([A], "reg/one", 3)
        assert db.list_places(A) == ["reg/one", "reg/two"]
        db.delete_place(A, "reg/two")
        assert db.list_places(A) == ["reg/one"]
        db.put_places([A], "reg/four", 5)
        db.put_places([A], "reg/five", 6)
        assert db.list_places(A) == ["reg/five", "reg/four", "reg/one"]
        db.put_places([C], "reg/six", 7)
        assert db.list_places(B) == [] and db.list_places(A) == ["reg/five", "reg/four"]


def test_a_database_of_the_first_schema_is_brought_up(tmp_path: Path) -> None:
    """Its names stay, and the new tables are there."""
    path = tmp_path / "cais.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(_STEPS[0])
        old.execute("PRAGMA user_version=1")
        row = ("docker.io/library/x:1", A, "t", 1, 1, 1, 0, "")
        old.execute("INSERT INTO image_names VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        old.commit()
    with closing(Metadata(path)) as db:
        assert [image.name for image in db.list_images()] == ["docker.io/library/x:1"]
        assert db.list_forms() == []
