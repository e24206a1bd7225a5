"""`cais hub attachments`: what others have attached to an image in a hub, and the documents themselves."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.hubclient import FORMAT_ROW, HUB_ROWS, choose_image
from cais.cli.hubcontents import PLATFORM_ROW
from cais.cli.hubshow import ago, clean_text, show_rows, size
from cais.cli.session import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session
    from cais.cli.table import Columns


def attachments(session: Session, flags: Flags) -> int:
    """All of them, or of one the document or what it lists."""
    packages, (text, *rest) = flags.on("packages"), flags.args
    if packages and not rest:
        raise Failure("--packages needs the DIGEST of a bill of materials", 1, "help")
    if rest and not packages and flags.given("format"):
        raise Failure("--format is for lists; a document is printed as it is", 1, "help")
    hub, repository, ref = choose_image(flags, text)
    path = f"{repository}/attachments/{escape(ref)}"
    platform = {"platform": flags.text("platform")}
    if not rest:
        found = hub.call("GET", path, platform.items())["attachments"]
        show_rows(found, ATTACHMENTS, flags, ("Kind", "Format", "Size", "Claims", "Digest"))
    elif packages:
        found = hub.pages(f"{path}/{escape(rest[0])}/packages", "packages", {"n": 1000, **platform})
        show_rows(found, PACKAGES, flags, ("Name", "Version", "License"))
    else:
        _write(hub.read(f"{path}/{escape(rest[0])}", platform.items()))
    return 0


def _write(document: bytes) -> None:
    """As it is, into a file or pipe: its digest is that of the attachment. On a terminal it must not act."""
    if is_terminal(1):
        sys.stdout.write(clean_text(document.decode("utf-8", "replace")))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(document)


def _format_claims(one: Any) -> str:
    """What it says of itself; the hub verifies nothing."""
    signature = one["signature"]
    if not signature:
        return str(one["predicate"])
    says = [signature["signer"], signature["issuer"] and f"known to {signature['issuer']}"]
    says += [signature["reference"] and f"as {signature['reference']}"]
    says += ["about ANOTHER image" if signature["names"] is False else ""]
    return ", ".join(filter(None, says))


ATTACHMENTS: Columns = {
    "Kind": ("KIND", lambda one: one["kind"]),
    "Format": ("FORMAT", lambda one: one["format"]),
    "Size": ("SIZE", lambda one: size(one["size"])),
    "Claims": ("UNVERIFIED CLAIMS", _format_claims),
    "Digest": ("DIGEST", lambda one: one["digest"]),
    "Manifest": ("MANIFEST", lambda one: one["manifest"]),
    "About": ("ABOUT", lambda one: one["about"]),
    "MediaType": ("MEDIA TYPE", lambda one: one["media_type"]),
    "Pushed": ("PUSHED", lambda one: ago(one["pushed"])),
}
PACKAGES: Columns = {
    "Name": ("NAME", lambda one: one["name"]),
    "Version": ("VERSION", lambda one: one["version"]),
    "License": ("LICENSE", lambda one: one["license"]),
    "Purl": ("PURL", lambda one: one["purl"]),
}

HUB_ATTACHMENTS = Command(
    "hub attachments [OPTIONS] [HUB/]REPOSITORY:TAG|@DIGEST [DIGEST]",
    "List what is attached to an image in a hub, or print one document",
    attachments,
    flags=(
        *HUB_ROWS,
        FORMAT_ROW,
        ("packages", "", "bool", "List the packages of the bill of materials DIGEST"),
        PLATFORM_ROW,
    ),
    least=1,
    most=2,
    example='cais hub attachments team/app:1\ncais hub attachments --packages team/app:1 "$DIGEST"',
)
