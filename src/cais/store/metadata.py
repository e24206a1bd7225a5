"""The engine's only database: image names, what was pushed, container records and volume records, in SQLite."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cais.errors import AlreadyExists, Conflict, Corrupt, NotFound, Unsupported
from cais.spec.digest import Digest, parse_digest

SCHEMA = 2
"""Raised by every change of the tables; a step per version goes into ``_STEPS``."""

_STEPS = (
    """
    CREATE TABLE image_names (
        name TEXT PRIMARY KEY, digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
        created_ns INTEGER NOT NULL, updated_ns INTEGER NOT NULL, used_ns INTEGER NOT NULL,
        parent TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX image_names_digest ON image_names (digest);
    CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, data BLOB NOT NULL);
    CREATE TABLE volumes (name TEXT PRIMARY KEY, data BLOB NOT NULL);
    """,
    """
    CREATE TABLE image_forms (
        image TEXT NOT NULL, digest TEXT NOT NULL, repository TEXT NOT NULL, made_ns INTEGER NOT NULL,
        PRIMARY KEY (image, digest, repository)
    ) WITHOUT ROWID;
    CREATE TABLE packed_layers (
        plain TEXT NOT NULL, codec TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
        PRIMARY KEY (plain, codec)
    ) WITHOUT ROWID;
    CREATE TABLE blob_places (
        digest TEXT NOT NULL, repository TEXT NOT NULL, seen_ns INTEGER NOT NULL,
        PRIMARY KEY (digest, repository)
    ) WITHOUT ROWID;
    CREATE INDEX blob_places_seen ON blob_places (seen_ns);
    """,
)

PLACES = 20_000
"""Rows of ``blob_places`` that are kept: the newest."""


class ImageName(msgspec.Struct, frozen=True):
    """One name and the manifest or index it stands for.

    ``name`` is a canonical reference, or ``@`` and the digest for an image that is kept without a name.
    ``size`` is that of the target document in bytes; times are nanoseconds since the epoch: when the image
    came here, when the name last moved, when a container was last made from it. ``parent`` is the image
    this one was committed from.
    """

    name: str
    digest: Digest
    media_type: str
    size: int
    created_ns: int
    updated_ns: int
    used_ns: int = 0
    parent: str = ""


class ImageForm(msgspec.Struct, frozen=True):
    """``digest`` was made of ``image`` to push it, and is kept as long as the image is; ``repository`` (a full name,
    may be empty) has it in the image's place."""

    image: Digest
    digest: Digest
    repository: str


class Metadata:
    """Short statements on one connection, from one thread (the event loop's).

    Each call is one transaction: after ``kill -9`` it has happened or it has not. The write-ahead log is
    synced by the kernel's own write-back (``synchronous=NORMAL``): a power cut may lose the newest calls,
    never their order. A second engine on the same file is refused, by a lock that ends with the process.
    """

    def __init__(self, path: Path) -> None:
        """Open or make the database. Raises Conflict: in use; Unsupported: newer schema; Corrupt."""
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0.2)
        try:
            self._open(path)
        except BaseException:
            self._db.close()
            raise

    def _open(self, path: Path) -> None:
        try:
            # Exclusive before WAL: then SQLite keeps the index of the log in memory and needs no shared file.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute("BEGIN IMMEDIATE")
            self._migrate(path)
            self._db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise Conflict(f"database {path} is in use by another engine") from error
            raise
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"{path} is not a usable database: {error}") from error

    def _migrate(self, path: Path) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            raise Unsupported(
                f"{path} was written by a newer Cais (schema {version}, this one knows {SCHEMA}): "
                "upgrade Cais"
            )
        for step in _STEPS[version:]:
            # Not executescript: that commits first, and a half-made schema would stay behind.
            for statement in filter(str.strip, step.split(";")):
                self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version={SCHEMA}")

    def close(self) -> None:
        """Write the log back and let go of the file. Idempotent."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All calls in the block happen, or none."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # Images

    def set_image(self, record: ImageName) -> None:
        """Point ``record.name`` at its target, wherever it pointed before. Idempotent."""
        self._db.execute(
            "INSERT OR REPLACE INTO image_names VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                record.name,
                str(record.digest),
                record.media_type,
                record.size,
                record.created_ns,
                record.updated_ns,
                record.used_ns,
                record.parent,
            ),
        )

    def delete_image(self, name: str) -> None:
        """Forget the name. Idempotent."""
        self._db.execute("DELETE FROM image_names WHERE name = ?", (name,))

    def touch_image(self, digest: str, used_ns: int) -> None:
        """Note for all names of ``digest`` when a container was last made from it."""
        self._db.execute("UPDATE image_names SET used_ns = ? WHERE digest = ?", (used_ns, digest))

    def find_image(self, name: str) -> ImageName | None:
        """What ``name`` stands for."""
        rows = self._db.execute("SELECT * FROM image_names WHERE name = ?", (name,)).fetchall()
        return _image(rows[0]) if rows else None

    def list_images(self) -> list[ImageName]:
        """Every name, sorted."""
        return [_image(row) for row in self._db.execute("SELECT * FROM image_names ORDER BY name")]

    def list_names(self, digest: str) -> list[ImageName]:
        """Every name of one image, sorted."""
        rows = self._db.execute("SELECT * FROM image_names WHERE digest = ? ORDER BY name", (digest,))
        return [_image(row) for row in rows]

    # What was pushed

    def put_form(self, image: str, digest: str, repository: str, made_ns: int) -> None:
        """Note that ``digest`` (a manifest, or a layer of it) was made of ``image`` to push it; with ``repository``,
        that it stands for the image there. Idempotent."""
        self._db.execute(
            "INSERT OR REPLACE INTO image_forms VALUES (?, ?, ?, ?)", (image, digest, repository, made_ns)
        )

    def list_forms(self, image: str = "") -> list[ImageForm]:
        """Those of one image, the newest last, or all of them."""
        select = "SELECT image, digest, repository FROM image_forms"
        if image:
            rows = self._db.execute(f"{select} WHERE image = ? ORDER BY made_ns", (image,))
        else:
            rows = self._db.execute(f"{select} ORDER BY made_ns")
        return [ImageForm(parse_digest(image), parse_digest(digest), place) for image, digest, place in rows]

    def delete_forms(self, image: str) -> None:
        """Forget the forms of ``image``. Idempotent."""
        self._db.execute("DELETE FROM image_forms WHERE image = ?", (image,))

    def put_packed(self, plain: str, codec: str, digest: str, size: int) -> None:
        """Note that ``digest`` is the layer ``plain`` compressed."""
        self._db.execute(
            "INSERT OR REPLACE INTO packed_layers VALUES (?, ?, ?, ?)", (plain, codec, digest, size)
        )

    def find_packed(self, plain: str, codec: str) -> tuple[Digest, int] | None:
        """Digest and size of ``plain`` compressed, as it was once; the blob may be gone."""
        rows = self._db.execute(
            "SELECT digest, size FROM packed_layers WHERE plain = ? AND codec = ?", (plain, codec)
        ).fetchall()
        return (parse_digest(rows[0][0]), rows[0][1]) if rows else None

    def put_places(self, digests: Iterable[str], repository: str, seen_ns: int) -> None:
        """Note that the full name ``repository`` has these blobs. The oldest notes make room."""
        with self.transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO blob_places VALUES (?, ?, ?)",
                [(digest, repository, seen_ns) for digest in digests],
            )
            self._db.execute(
                "DELETE FROM blob_places WHERE seen_ns < (SELECT seen_ns FROM blob_places "
                "ORDER BY seen_ns DESC LIMIT 1 OFFSET ?)",
                (PLACES - 1,),
            )

    def list_places(self, digest: str) -> list[str]:
        """Repositories that had the blob, the newest note first."""
        rows = self._db.execute(
            "SELECT repository FROM blob_places WHERE digest = ? ORDER BY seen_ns DESC, repository", (digest,)
        )
        return [name for (name,) in rows]

    def delete_place(self, digest: str, repository: str) -> None:
        """It was not true any more. Idempotent."""
        self._db.execute("DELETE FROM blob_places WHERE digest = ? AND repository = ?", (digest, repository))

    # Containers

    def put_container(self, id: str, name: str, data: bytes) -> None:
        """Write the record of container ``id``, new or known. Raises AlreadyExists: another has the name."""
        try:
            self._db.execute(
                "INSERT INTO containers VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET name = excluded.name, data = excluded.data",
                (id, name, data),
            )
        except sqlite3.IntegrityError as error:
            raise self._name_taken(name) from error

    def rename_container(self, id: str, name: str) -> None:
        """Give container ``id`` another name. Raises AlreadyExists, NotFound."""
        try:
            cursor = self._db.execute("UPDATE containers SET name = ? WHERE id = ?", (name, id))
        except sqlite3.IntegrityError as error:
            raise self._name_taken(name) from error
        if not cursor.rowcount:
            raise NotFound(f"No such container: {id}")

    def delete_container(self, id: str) -> None:
        """Forget the record; the name is free from now on. Idempotent."""
        self._db.execute("DELETE FROM containers WHERE id = ?", (id,))

    def list_containers(self) -> list[tuple[str, str, bytes]]:
        """Every record as (id, name, data), oldest first."""
        return list(self._db.execute("SELECT id, name, data FROM containers ORDER BY rowid"))

    def _name_taken(self, name: str) -> AlreadyExists:
        (owner,) = self._db.execute("SELECT id FROM containers WHERE name = ?", (name,)).fetchone()
        return AlreadyExists(
            f'Conflict. The container name "/{name}" is already in use by container "{owner}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )

    # Volumes

    def put_volume(self, name: str, data: bytes) -> None:
        """Write the record of a volume, new or known."""
        self._db.execute("INSERT OR REPLACE INTO volumes VALUES (?, ?)", (name, data))

    def delete_volume(self, name: str) -> None:
        """Forget the record. Idempotent."""
        self._db.execute("DELETE FROM volumes WHERE name = ?", (name,))

    def list_volumes(self) -> list[tuple[str, bytes]]:
        """Every record as (name, data), sorted by name."""
        return list(self._db.execute("SELECT name, data FROM volumes ORDER BY name"))


def _image(row: tuple[str, str, str, int, int, int, int, str]) -> ImageName:
    return ImageName(row[0], parse_digest(row[1]), *row[2:])
