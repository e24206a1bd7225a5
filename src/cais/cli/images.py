"""`cais images`, `cais rmi`, `cais tag`."""

from __future__ import annotations

import sys
from time import time

from cais.cli.failure import Failure
from cais.cli.filters import FILTER_ROW, FORMAT_ROW, format_filters
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.late import load
from cais.cli.lifecycle import for_each
from cais.cli.table import print_rows
from cais.cli.times import format_ago, format_go
from cais.cli.units import format_size
from cais.errors import CaisError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cais.cli.flags import Flags
    from cais.cli.session import Session
    from cais.cli.table import Columns

NONE = "<none>"


def check_reference(text: str) -> None:
    """Raises Failure, exit code 1, in Docker's words when ``text`` can name no image."""
    parse = load("cais.spec.reference:parse_reference")
    try:
        parse(text)
    except CaisError:
        raise Failure(f"invalid reference format{_explain_case(text, parse)}") from None


def _explain_case(text: str, parse: Any) -> str:
    """The one mistake Docker explains: capitals in the repository's name."""
    name, colon, tag = text.partition(":")
    try:
        parse(f"{name.lower()}{colon}{tag}")
    except CaisError:
        return ""
    return f": repository name ({name if '/' in name else f'library/{name}'}) must be lowercase"


def images(session: Session, flags: Flags) -> int:
    """List images, one row a tag."""
    filters = list(flags.many("filter"))
    if flags.args:
        filters.append(f"reference={flags.args[0]}")
    whole, template, tree = flags.on("no-trunc"), flags.text("format"), flags.on("tree")
    if tree and (flags.on("quiet") or template or flags.on("digests")):
        raise Failure("--tree cannot be combined with --quiet, --format or --digests")
    query = (
        ("all", flags.on("all")),
        ("filters", format_filters(filters)),
        ("manifests", tree),
        # Looking what is shared takes a moment: only where it is shown.
        ("shared-size", "SharedSize" in template or "UniqueSize" in template),
    )
    found = session.call("GET", "/images/json", query) or []
    if tree:
        load("cais.cli.imagetree:print_tree")(found, whole=whole)
        return 0
    rows = [row for image in found for row in split_names(image, digests=flags.on("digests"))]
    columns = make_columns(time(), whole=whole)
    if flags.on("quiet") and template in ("", "table"):
        sys.stdout.write("".join(f"{columns['ID'][1](row)}\n" for row in rows))
        return 0
    digest = ("Digest",) if flags.on("digests") else ()
    print_rows(rows, columns, ("Repository", "Tag", *digest, "ID", "CreatedSince", "Size"), template)
    return 0


def split_names(image: dict[str, Any], *, digests: bool) -> list[dict[str, Any]]:
    """One row for each tag of an image; an image without a tag has one row with its repository, or ``<none>``."""
    by_repository: dict[str, str] = {}
    for name in image.get("RepoDigests") or ():
        repository, _, digest = name.partition("@")
        by_repository.setdefault(repository, digest)
    rows = []
    for name in image.get("RepoTags") or ():
        repository, _, tag = name.rpartition(":")
        if (repository, tag) != (NONE, NONE):
            rows.append(
                {**image, "Repository": repository, "Tag": tag, "Digest": by_repository.get(repository, NONE)}
            )
    tagged = {row["Repository"] for row in rows}
    for repository, digest in by_repository.items():
        if repository not in tagged and repository != NONE and (digests or not rows):
            rows.append({**image, "Repository": repository, "Tag": NONE, "Digest": digest})
    return rows or [{**image, "Repository": NONE, "Tag": NONE, "Digest": NONE}]


def make_columns(now: float, *, whole: bool) -> Columns:
    """What a template may name, and the table's headings."""
    return {
        "ID": ("IMAGE ID", lambda i: i["Id"] if whole else i["Id"].rpartition(":")[2][:12]),
        "Repository": ("REPOSITORY", lambda i: i["Repository"]),
        "Tag": ("TAG", lambda i: i["Tag"]),
        "Digest": ("DIGEST", lambda i: i["Digest"]),
        "CreatedSince": ("CREATED", lambda i: format_ago(i["Created"], now) if i["Created"] > 0 else "N/A"),
        "CreatedAt": ("CREATED AT", lambda i: format_go(i["Created"])),
        "Size": ("SIZE", lambda i: format_size(i["Size"])),
        "Containers": ("CONTAINERS", lambda i: _count(i.get("Containers"))),
        "SharedSize": ("SHARED SIZE", lambda i: _size(i.get("SharedSize"))),
        "UniqueSize": ("UNIQUE SIZE", lambda i: _size(_unique(i))),
        "LastUsed": ("LAST USED", lambda i: format_ago(i["LastUsed"], now) if i.get("LastUsed") else "never"),
        "VirtualSize": ("SIZE", lambda i: format_size(i["Size"], 4)),
    }


def _count(value: int | None) -> str:
    return "N/A" if value is None or value < 0 else str(value)


def _size(value: int | None) -> str:
    return "N/A" if value is None or value < 0 else format_size(value)


def _unique(image: dict[str, Any]) -> int | None:
    shared = image.get("SharedSize")
    return None if shared is None or shared < 0 else image["Size"] - shared


def remove_images(session: Session, flags: Flags) -> int:
    """Remove names and, with the last name, images."""
    query = (("force", flags.on("force")), ("noprune", flags.on("no-prune")))

    def act(name: str) -> str:
        answer = session.call("DELETE", f"/images/{escape(name)}", query) or []
        lines = [f"{kind}: {text}" for item in answer for kind, text in item.items()]
        return "\n".join(lines)

    return for_each(flags.args, act)


def tag(session: Session, flags: Flags) -> int:
    """Give an image a further name."""
    source, target = flags.args
    try:
        check_reference(target)
    except Failure as failure:
        text = f'Error parsing reference: "{target}" is not a valid repository/tag: {failure.message}'
        raise Failure(text) from None
    repository, _, name = target.rpartition(":") if ":" in target.rpartition("/")[2] else (target, "", "")
    session.call("POST", f"/images/{escape(source)}/tag", (("repo", repository), ("tag", name)))
    return 0


IMAGES = Command(
    "images [OPTIONS] [REPOSITORY[:TAG]]",
    "List images",
    images,
    flags=(
        ("all", "a", "bool", "Also intermediate images"),
        ("digests", "", "bool", "Show digests"),
        FILTER_ROW,
        FORMAT_ROW,
        ("no-trunc", "", "bool", "Whole ids"),
        ("quiet", "q", "bool", "Only ids"),
        ("tree", "", "bool", "Every platform of each image"),
    ),
    most=1,
    example="cais images --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
)
RMI = Command(
    "rmi [OPTIONS] IMAGE [IMAGE...]",
    "Remove images",
    remove_images,
    flags=(
        ("force", "f", "bool", "Also if containers or several names use it"),
        ("no-prune", "", "bool", "Keep parents without a name"),
    ),
    least=1,
    example="cais rmi busybox:old",
)
TAG = Command(
    "tag SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    "Give an image a further name",
    tag,
    least=2,
    most=2,
    example="cais tag busybox:latest my/busybox:1",
)
