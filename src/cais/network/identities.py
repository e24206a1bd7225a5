"""The file that keeps the predefined networks' ids and ages over restarts: ``<root>/network/identities.json``."""

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cais.errors import Corrupt
from cais.network.base import Identity

PREDEFINED = ("bridge", "host", "none")


def ensure_identities(root: Path) -> dict[str, Identity]:
    """The identities of this engine root, made and written the first time. ``Corrupt``: the file is not ours."""
    path = root / "network" / "identities.json"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        found = {name: Identity(secrets.token_hex(32), now) for name in PREDEFINED}
        _write(path, msgspec.json.encode(found))
        return found
    try:
        found = msgspec.json.decode(data, type=dict[str, Identity])
    except (msgspec.MsgspecError, ValueError) as error:
        raise Corrupt(f"{path}: {error}") from error
    if set(found) != set(PREDEFINED):
        raise Corrupt(f"{path}: not the networks {', '.join(PREDEFINED)}")
    return found


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o710, parents=True, exist_ok=True)
    draft = path.with_suffix(".new")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        # Before the rename: else a crash may leave the name with nothing in it.
        os.fsync(file.fileno())
    draft.replace(path)
