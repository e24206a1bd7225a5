"""`cais hub search`, `ls`, `tags`, `inspect` and `rm`: what is in a hub."""

from __future__ import annotations

import sys

from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.http import escape
from cais.cli.hubclient import FORMAT_ROW, HUB_ROWS, choose_hub, choose_repository, split_reference
from cais.cli.hubshow import ago, show_rows, show_values, size, yes
from cais.cli.late import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session
    from cais.cli.table import Columns

_WIDTH = 45
_SHORT = len("sha256:") + 12


def _shorten(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def search(session: Session, flags: Flags) -> int:
    """Find repositories by words; without any, the most pulled."""
    hub = choose_hub(flags)
    query = (("q", " ".join(flags.args)), ("n", flags.number("limit", 25)))
    found = hub.call("GET", "/search" if flags.args else "/popular", query)["repositories"]
    show_rows(found, REPOSITORIES, flags, ("Name", "Description", "Pulls", "Updated"))
    return 0


def list_repositories(session: Session, flags: Flags) -> int:
    """All repositories, or those of a namespace."""
    hub = choose_hub(flags)
    path = f"/namespaces/{escape(flags.args[0])}/repositories" if flags.args else "/repositories"
    shown = ("Name", "Private", "Size", "Pulls", "Updated")
    show_rows(hub.pages(path, "repositories"), REPOSITORIES, flags, shown)
    return 0


def list_tags(session: Session, flags: Flags) -> int:
    """A repository's tags."""
    hub, name = choose_repository(flags, flags.args[0])
    whole = flags.on("no-trunc")
    columns: Columns = {
        "Name": ("TAG", lambda tag: tag["name"]),
        "Digest": ("DIGEST", lambda tag: tag["digest"] if whole else tag["digest"][:_SHORT]),
        "Size": ("SIZE", lambda tag: size(tag["size"])),
        "Platforms": ("PLATFORMS", lambda tag: ", ".join(tag["platforms"])),
        "Pushed": ("PUSHED", lambda tag: ago(tag["pushed"])),
        "Pulled": ("PULLED", lambda tag: ago(tag["pulled"])),
    }
    show_rows(hub.pages(f"/repositories/{escape(name)}/-/tags", "tags"), columns, flags)
    return 0


def inspect(session: Session, flags: Flags) -> int:
    """Repositories, or what tags and digests stand for."""
    found = []
    for text in flags.args:
        hub, name = choose_repository(flags, text)
        path, query = _path(name), (("platform", flags.text("platform")),)
        found.append(hub.call("GET", path, query if "/-/" in path else ()))
        hub.close()
    show_values(found, flags)
    return 0


def remove(session: Session, flags: Flags) -> int:
    """Delete tags, manifests, or whole repositories."""
    for text in flags.args:
        hub, name = choose_repository(flags, text)
        path = _path(name)
        warning = f"This will delete {name} with all its tags."
        if "/-/" not in path and not load("cais.cli.prune:confirm")(flags, warning):
            raise Failure(f"{text} was not deleted")
        hub.call("DELETE", path)
        sys.stdout.write(f"Deleted: {text}\n")
        hub.close()
    return 0


def _path(text: str) -> str:
    """Of a repository, a tag or a manifest."""
    name, tag, digest = split_reference(text)
    rest = f"/-/tags/{escape(tag)}" if tag else f"/-/manifests/{escape(digest)}" if digest else ""
    return f"/repositories/{escape(name)}{rest}"


REPOSITORIES: Columns = {
    "Name": ("NAME", lambda one: one["name"]),
    "Description": ("DESCRIPTION", lambda one: _shorten(one["description"])),
    "Private": ("PRIVATE", lambda one: yes(one["private"])),
    "Size": ("SIZE", lambda one: size(one["size"])),
    "Pulls": ("PULLS", lambda one: str(one["pulls"])),
    "Updated": ("UPDATED", lambda one: ago(one["updated"])),
}

HUB_SEARCH = Command(
    "hub search [OPTIONS] [WORD...]",
    "Find repositories in a hub, or list the most pulled",
    search,
    flags=(*HUB_ROWS, FORMAT_ROW, ("limit", "", "int", "Results at most (25)")),
    example="cais hub search web server\ncais hub search --hub https://hub.example.com --format json redis",
)
HUB_LS = Command(
    "hub ls [OPTIONS] [NAMESPACE]",
    "List repositories of a hub",
    list_repositories,
    flags=(*HUB_ROWS, FORMAT_ROW),
    most=1,
    example="cais hub ls team",
)
HUB_TAGS = Command(
    "hub tags [OPTIONS] [HUB/]REPOSITORY",
    "List a repository's tags",
    list_tags,
    flags=(*HUB_ROWS, FORMAT_ROW, ("no-trunc", "", "bool", "Whole digests")),
    least=1,
    most=1,
    example="cais hub tags team/app\ncais hub tags localhost:5000/team/app",
)
HUB_INSPECT = Command(
    "hub inspect [OPTIONS] [HUB/]REPOSITORY[:TAG|@DIGEST]...",
    "Show repositories of a hub, or images with their layers",
    inspect,
    flags=(*HUB_ROWS, FORMAT_ROW, ("platform", "", "string", "Of several, the image for this platform")),
    least=1,
    example="cais hub inspect team/app:1",
)
HUB_RM = Command(
    "hub rm [OPTIONS] [HUB/]REPOSITORY[:TAG|@DIGEST]...",
    "Delete tags, images or whole repositories of a hub",
    remove,
    flags=(*HUB_ROWS, ("force", "f", "bool", "Do not ask before whole repositories")),
    least=1,
    example="cais hub rm team/app:old\ncais hub rm --force team/app",
)
