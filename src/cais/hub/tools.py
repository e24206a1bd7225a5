"""``cais hub backup``, ``cais hub restore`` and ``cais hub import``: what is done with a hub's folder from outside."""

import argparse
import asyncio
import logging
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from cais.errors import CaisError
from cais.hub import schema as hub_schema
from cais.hub.search import Labels
from cais.registry import schema as registry_schema
from cais.registry.backup import DATABASE, backup, restore
from cais.registry.catalog import SqliteCatalog
from cais.registry.database import Database
from cais.registry.distribution import Folder, Imported, Importer
from cais.registry.files import FileBlobs
from cais.registry.leases import holding_root
from cais.registry.registry import Registry

_COPIES = "copy every blob instead of linking it: needs the room, and survives what spoils the first disk"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it. The exit status: 0; 1 after a message on standard error, or when something could not be saved."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    words = make_parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    try:
        match words.act:
            case "backup":
                return run_backup(Path(words.root), Path(words.target), copies=words.copy)
            case "restore":
                return run_restore(Path(words.target), Path(words.root), copies=words.copy)
            case _:
                return run_import(Path(words.root), Path(words.folder), copies=words.copy)
    except (CaisError, OSError, sqlite3.Error) as error:
        sys.stderr.write(f"cais hub {words.act}: {error}\n")
        return 1


def make_parser() -> argparse.ArgumentParser:
    """The words of all three."""
    parser = argparse.ArgumentParser(prog="cais hub", description="Work on a hub's folder.")
    acts = parser.add_subparsers(dest="act", required=True)
    act = acts.add_parser("backup", help="copy a hub, which may be running, to another folder")
    act.add_argument("root", help="the hub's folder")
    act.add_argument("target", help="where the copy goes; an earlier one there becomes this one")
    act.add_argument("--copy", action="store_true", help=_COPIES)
    act = acts.add_parser("restore", help="make a hub's folder of a backup, and verify every blob")
    act.add_argument("target", help="the backup")
    act.add_argument("root", help="the hub's new folder: empty, or not there")
    act.add_argument("--copy", action="store_true", help=_COPIES)
    act = acts.add_parser("import", help="take over the folder of a docker-registry (registry:2, registry:3)")
    act.add_argument("root", help="the hub's folder; the hub must not be running")
    act.add_argument("folder", help="the other registry's storage folder; nothing in it is changed")
    act.add_argument("--copy", action="store_true", help=_COPIES)
    return parser


def run_backup(root: Path, target: Path, *, copies: bool = False) -> int:
    """``cais hub backup``. 1 if the hub has lost blobs, which are named."""
    done = backup(root, target, copies=copies)
    _say(
        f"backed up {done.blobs} blobs ({done.size} bytes) to {target}: {done.linked} linked, {done.copied} copied, "
        f"{done.kept} from earlier; {done.removed} removed that are no longer in the hub"
    )
    return _say_missing(done.missing)


def run_restore(target: Path, root: Path, *, copies: bool = False) -> int:
    """``cais hub restore``. 1 if blobs of the backup are damaged, which are named."""
    done = restore(target, root, copies=copies)
    _say(f"restored {done.blobs} blobs ({done.size} bytes) to {root}, all verified")
    return _say_missing(done.missing)


def run_import(root: Path, folder: Path, *, copies: bool = False) -> int:
    """``cais hub import``. 1 if anything was skipped, which is named with its reason."""
    found = Folder(folder)
    with holding_root(root):
        schemas = {"registry": registry_schema.STEPS, "hub": hub_schema.STEPS}
        with closing(Database(root / DATABASE, schemas)) as database:
            done = asyncio.run(_import(database, root, found, copies))
    _say(
        f"imported {done.manifests} manifests and {done.tags} tags in {done.repositories} repositories, "
        f"{done.blobs} blobs ({done.size} bytes: {done.linked} linked, {done.copied} copied); "
        f"{done.kept} manifests were here already"
    )
    for line in done.skipped:
        sys.stderr.write(f"skipped {line}\n")
    return 1 if done.skipped else 0


async def _import(database: Database, root: Path, folder: Folder, copies: bool) -> Imported:
    registry = Registry(FileBlobs(root), SqliteCatalog(database))
    registry.after_push.append(Labels(database, registry).learn)
    return await Importer(registry, database, root, copies=copies, tell=_say).bring(folder)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _say_missing(missing: Mapping[str, str]) -> int:
    for digest, reason in missing.items():
        sys.stderr.write(f"missing {digest}: {reason}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
