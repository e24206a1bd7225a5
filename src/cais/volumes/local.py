"""Named volumes on the local disk: ``<root>/volumes/<name>/_data`` and a record of each."""

import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
import msgspec.structs

from cais.errors import Conflict, Invalid, NotFound
from cais.events import Bus, Event
from cais.spec.runtimespec import RootMount
from cais.store.metadata import Metadata
from cais.store.snapshots.base import Trash
from cais.store.snapshots.tree import measure
from cais.volumes.copyup import copy_up

DRIVER = "local"
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
"""Docker's mark of a volume that nobody named; ``volume prune`` takes only those unless told otherwise."""

FILLING = "_filling"
"""Beside ``_data``: what is copied up, until it is whole."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)


class Volume(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One volume. ``options`` is what ``--opt`` said."""

    name: str
    created_ns: int
    driver: str = DRIVER
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    owner: str = ""
    """The container that an anonymous volume was made for and goes with."""


Names = list[str]


class Volumes:
    """Makes, shows and removes volumes. ``users`` of a volume are the ids of the containers that mount it, as the
    caller knows them from its records."""

    def __init__(self, root: Path, metadata: Metadata, trash: Trash, bus: Bus) -> None:
        self._root = root / "volumes"
        self._metadata = metadata
        self._trash = trash
        self._bus = bus
        self._root.mkdir(mode=0o701, parents=True, exist_ok=True)
        self._volumes = {
            name: msgspec.json.decode(data, type=Volume) for name, data in metadata.list_volumes()
        }
        # A folder without a record is a half-made or half-removed volume: nobody can have written to it.
        for entry in list(self._root.iterdir()):
            if entry.name not in self._volumes:
                trash.put(entry)

    def path(self, name: str) -> Path:
        """The folder that is mounted."""
        return self._root / name / "_data"

    def create(
        self,
        name: str = "",
        *,
        driver: str = "",
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        owner: str = "",
    ) -> Volume:
        """The volume ``name``, made unless it is there; an empty name makes one with a random name.

        ``owner``: id of the container it is made for. Raises Invalid for a bad name, an unknown driver or
        options; Conflict when it exists with another driver.
        """
        check_volume(name, driver, options or {})
        found = self._volumes.get(name) if name else None
        if found:
            return found
        marks = dict(labels or {}) | ({} if name else {ANONYMOUS_LABEL: ""})
        volume = Volume(
            name=name or secrets.token_hex(32),
            created_ns=time.time_ns(),
            labels=marks,
            options=dict(options or {}),
            owner=owner,
        )
        folder = self._root / volume.name
        # Left by a call that was killed before its record was written.
        self._trash.put(folder)
        folder.mkdir(mode=0o701)
        (folder / "_data").mkdir(mode=0o755)
        os.chmod(folder / "_data", 0o755)  # noqa: PTH101  mkdir obeys the umask, a volume must not
        self._save(volume)
        self._publish("create", volume)
        return volume

    def _save(self, volume: Volume) -> None:
        self._metadata.put_volume(volume.name, msgspec.json.encode(volume))
        self._volumes[volume.name] = volume

    def disown(self, name: str) -> None:
        """The volume outlives its container. Idempotent."""
        volume = self._volumes.get(name)
        if volume and volume.owner:
            self._save(msgspec.structs.replace(volume, owner=""))

    def sweep(self, exists: Callable[[str], bool]) -> None:
        """After an engine's restart: remove volumes whose container was never made, and half-done fillings."""
        for volume in self.list():
            if volume.owner and not exists(volume.owner):
                self.remove(volume.name, (), force=True)
            else:
                self._trash.put(self._root / volume.name / FILLING)

    def inspect(self, name: str) -> Volume:
        """Raises NotFound in Docker's words."""
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def find(self, name: str) -> Volume | None:
        """The volume, if there is one."""
        return self._volumes.get(name)

    def list(self) -> list[Volume]:
        """Every volume, sorted by name."""
        return [self._volumes[name] for name in sorted(self._volumes)]

    def remove(self, name: str, users: Iterable[str], *, force: bool = False) -> None:
        """Remove the volume and all it holds. Raises NotFound (unless ``force``), Conflict when in use."""
        volume = self._volumes.get(name)
        if volume is None:
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        ids = list(users)
        if ids:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(ids)}]")
        # The record first: without it the folder is rubbish that the next engine sweeps up.
        self._metadata.delete_volume(name)
        del self._volumes[name]
        self._trash.put(self._root / name)
        self._publish("destroy", volume)

    def find_unused(
        self,
        users: Callable[[str], Iterable[str]],
        *,
        everything: bool = False,
        wanted: Callable[[Volume], bool] = lambda volume: True,
    ) -> Names:
        """What ``prune`` takes: volumes without users, the anonymous ones or ``everything``."""
        return [
            volume.name
            for volume in self.list()
            if (everything or ANONYMOUS_LABEL in volume.labels)
            and wanted(volume)
            and not list(users(volume.name))
        ]

    def usage(self, name: str) -> int:
        """Bytes the volume holds. Slow, it looks at every file: the one method that may run in a thread."""
        return measure(str(self.path(name)))

    def is_empty(self, name: str) -> bool:
        """Nothing is in it yet."""
        with os.scandir(self.path(name)) as entries:
            return next(entries, None) is None

    def prepare_fill(self, name: str, image: RootMount, destination: str) -> None:
        """Copy what the image has at ``destination`` beside the empty volume. May take long: call it from a thread.
        A failed or killed call leaves the volume empty."""
        place = self._root / name / FILLING
        self._trash.put(place)
        # What the volume is, if the image has nothing at that place.
        place.mkdir(mode=0o755)
        try:
            copy_up(image.lower, destination, str(place))
        except BaseException:
            self._trash.put(place)
            raise

    def commit_fill(self, name: str) -> None:
        """Make what was prepared the volume's content, in one step, if it is still empty. Nobody may have it mounted:
        its folder is replaced."""
        place = self._root / name / FILLING
        if self.is_empty(name):
            place.rename(self.path(name))
        else:
            self._trash.put(place)

    def fill_in_place(self, name: str, image: RootMount, destination: str) -> None:
        """The same for an empty volume that somebody may have mounted; a kill in the middle leaves a part of it. May
        take long: call it from a thread."""
        self._trash.put(self._root / name / FILLING)
        if self.is_empty(name):
            copy_up(image.lower, destination, str(self.path(name)))

    def _publish(self, action: str, volume: Volume) -> None:
        self._bus.publish(Event("volume", action, volume.name, time.time_ns(), {"driver": volume.driver}))


def check_volume(name: str, driver: str, options: Mapping[str, str]) -> None:
    """Raises Invalid, in Docker's words, for what no local volume can be."""
    if name:
        check_name(name)
    if driver not in ("", DRIVER):
        raise NotFound(f'error looking up volume plugin {driver}: plugin "{driver}" not found')
    if options:
        raise Invalid(f"create {name}: options {', '.join(sorted(options))} are not supported")


def check_name(name: str) -> None:
    """Raises Invalid. The name becomes a folder: the grammar leaves no way out of the volumes' own."""
    if len(name) == 1:
        raise Invalid(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not _NAME.fullmatch(name) or len(name) > 255:
        raise Invalid(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
