"""`cais inspect` and its siblings for one kind of object."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure, Refused
from cais.cli.filters import SHORT_FORMAT_ROW
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.late import load
from cais.cli.wirejson import format_pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session

_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}


def inspect(session: Session, flags: Flags) -> int:
    """Show objects of any kind, or of the one --type names."""
    kind = flags.text("type")
    if flags.given("type") and kind not in _PATHS:
        raise Failure(f'unknown type: "{kind}": must be one of "container", "image", "network", "volume"')
    return _inspect(session, flags, (kind,) if kind else tuple(_PATHS))


def inspect_containers(session: Session, flags: Flags) -> int:
    """Show containers."""
    return _inspect(session, flags, ("container",))


def inspect_images(session: Session, flags: Flags) -> int:
    """Show images."""
    return _inspect(session, flags, ("image",))


def inspect_networks(session: Session, flags: Flags) -> int:
    """Show networks."""
    return _inspect(session, flags, ("network",))


def inspect_volumes(session: Session, flags: Flags) -> int:
    """Show volumes."""
    return _inspect(session, flags, ("volume",))


def _inspect(session: Session, flags: Flags, kinds: tuple[str, ...]) -> int:
    found, missing = [], []
    for name in flags.args:
        try:
            found.append(find(session, name, kinds, sized=flags.on("size")))
        except Refused as error:
            missing.append(str(error))
    template = flags.text("format")
    if template:
        load("cais.cli.template:print_each")(template, found)
    else:
        sys.stdout.write(format_pretty(found) + "\n")
    sys.stdout.flush()
    if missing:
        raise Failure("\n".join(missing))
    return 0


def find(session: Session, name: str, kinds: tuple[str, ...], *, sized: bool) -> Any:
    """The object's JSON, of the first kind that has one of that name. Raises Refused."""
    for kind in kinds:
        query = (("size", sized),) if kind == "container" else ()
        try:
            return session.call("GET", _PATHS[kind].format(escape(name)), query)
        except Refused as error:
            if error.status != 404 or len(kinds) == 1:
                raise
    # Docker's words, which scripts look for
    refused = Refused(404, name)
    refused.args = (f"Error: No such object: {name}",)
    raise refused


_SIZE_ROW = ("size", "s", "bool", "Sizes on disk, of containers")

INSPECT = Command(
    "inspect [OPTIONS] NAME|ID [NAME|ID...]",
    "Show everything about containers, images, networks or volumes",
    inspect,
    flags=(SHORT_FORMAT_ROW, _SIZE_ROW, ("type", "", "string", "Only objects of this kind")),
    least=1,
    example="cais inspect -f '{{.State.Status}}' web",
)
CONTAINER_INSPECT = Command(
    "container inspect [OPTIONS] CONTAINER [CONTAINER...]",
    "Show everything about containers",
    inspect_containers,
    flags=(SHORT_FORMAT_ROW, _SIZE_ROW),
    least=1,
    example="cais container inspect web",
)
IMAGE_INSPECT = Command(
    "image inspect [OPTIONS] IMAGE [IMAGE...]",
    "Show everything about images",
    inspect_images,
    flags=(SHORT_FORMAT_ROW,),
    least=1,
    example="cais image inspect -f '{{json .Config}}' busybox",
)
NETWORK_INSPECT = Command(
    "network inspect [OPTIONS] NETWORK [NETWORK...]",
    "Show everything about networks",
    inspect_networks,
    flags=(SHORT_FORMAT_ROW,),
    least=1,
    example="cais network inspect bridge",
)
VOLUME_INSPECT = Command(
    "volume inspect [OPTIONS] VOLUME [VOLUME...]",
    "Show everything about volumes",
    inspect_volumes,
    flags=(SHORT_FORMAT_ROW,),
    least=1,
    example="cais volume inspect -f '{{.Mountpoint}}' data",
)
