"""`cais save`, `load`, `import` and `export`: images and root file systems as tar files."""

from __future__ import annotations

import os

from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.http import escape, format_target
from cais.cli.images import check_reference
from cais.cli.progress import Progress
from cais.cli.pump import write_all
from cais.cli.session import is_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cais.cli.flags import Flags
    from cais.cli.http import Response
    from cais.cli.session import Session

PIECE = 1 << 20


def save(session: Session, flags: Flags) -> int:
    """Write images as an archive to a file or stdout."""
    _check_target(flags, "save image")
    form = flags.text("format", "docker")
    if form not in ("docker", "oci"):
        raise Failure(f"unknown format {form}: use docker or oci")
    query = (
        ("names", flags.args),
        ("platform", flags.text("platform")),
        ("format", form if form == "oci" else ""),
    )
    return _write(session.send("GET", "/images/get", query), flags.text("output"))


def export(session: Session, flags: Flags) -> int:
    """Write a container's root file system as a tar to a file or stdout."""
    _check_target(flags, "export container")
    return _write(session.send("GET", f"/containers/{escape(flags.args[0])}/export"), flags.text("output"))


def _check_target(flags: Flags, verb: str) -> None:
    path = flags.text("output")
    if not path and is_terminal(1):
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if path and os.path.isdir(path):
        raise Failure(f"failed to {verb}: {path}: is a directory")
    if path and not os.path.isdir(os.path.dirname(path) or "."):
        folder = os.path.dirname(path)
        raise Failure(f"failed to {verb}: invalid output path: stat {folder}: no such file or directory")


def _write(response: Response, path: str) -> int:
    """The answer's content into ``path`` or stdout; a file appears under its name only when it is complete."""
    if not path:
        for piece in response.pieces():
            write_all(1, piece)
        return 0
    if os.path.exists(path) and not os.path.isfile(path):
        return _write_device(response, path)
    temporary = f"{path}.cais-{os.getpid()}"
    number = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for piece in response.pieces():
            write_all(number, piece)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(number)
    return 0


def _write_device(response: Response, path: str) -> int:
    number = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for piece in response.pieces():
            write_all(number, piece)
    finally:
        os.close(number)
    return 0


def load(session: Session, flags: Flags) -> int:
    """Take images in from an archive (Docker's or OCI's)."""
    path = flags.text("input")
    if not path and is_terminal(0):
        raise Failure("requested load from stdin, but stdin is empty")
    quiet = flags.on("quiet") or not is_terminal(1)
    query = (("quiet", quiet), ("platform", flags.text("platform")))
    connection = session.connect()
    response = connection.send("POST", format_target("/images/load", query), _pieces(path))
    if "json" in response.fields.get("content-type", ""):
        Progress().follow(response.pieces())
    else:
        for piece in response.pieces():
            write_all(1, piece)
    return 0


def import_root(session: Session, flags: Flags) -> int:
    """Make an image of a root file system's tar, from a file, a URL the engine fetches, or stdin (-)."""
    source, name = flags.args[0], flags.args[1] if len(flags.args) > 1 else ""
    if name:
        check_reference(name)
    remote = source.startswith(("http://", "https://"))
    repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "")
    query = (
        ("fromSrc", source if remote else "-"),
        ("repo", repository),
        ("tag", tag),
        ("message", flags.text("message")),
        ("platform", flags.text("platform")),
        ("changes", flags.many("change")),
    )
    body = None if remote else _pieces("" if source == "-" else source)
    Progress().follow(session.connect().send("POST", format_target("/images/create", query), body).pieces())
    return 0


def _pieces(path: str) -> Iterator[bytes]:
    """The content of a file (opened before anything is sent), or of stdin."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if path else 0
    except OSError as error:
        raise Failure(f"open {path}: {(error.strerror or '').lower()}") from None
    return _read(number)


def _read(number: int) -> Iterator[bytes]:
    try:
        while piece := os.read(number, PIECE):
            yield piece
    finally:
        if number:
            os.close(number)


_PLATFORM_ROW = ("platform", "", "string", "Only this platform: os/arch[/variant]")

SAVE = Command(
    "save [OPTIONS] IMAGE [IMAGE...]",
    "Write images as a tar archive",
    save,
    flags=(
        ("format", "", "string", "docker (OCI layout and docker-archive in one), or oci"),
        ("output", "o", "string", "File to write instead of stdout"),
        _PLATFORM_ROW,
    ),
    least=1,
    example="cais save busybox debian -o images.tar",
)
LOAD = Command(
    "load [OPTIONS]",
    "Take images in from a tar archive",
    load,
    flags=(
        ("input", "i", "string", "File to read instead of stdin"),
        _PLATFORM_ROW,
        ("quiet", "q", "bool", "No progress"),
    ),
    most=0,
    example="cais load -i images.tar",
)
IMPORT = Command(
    "import [OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    "Make an image of a root file system's tar",
    import_root,
    flags=(
        ("change", "c", "list...", "Dockerfile instruction for the image's configuration"),
        ("message", "m", "string", "Comment in the image's history"),
        _PLATFORM_ROW,
    ),
    least=1,
    most=2,
    example="cais import -c 'CMD [\"sh\"]' root.tar my/root:1",
)
EXPORT = Command(
    "export [OPTIONS] CONTAINER",
    "Write a container's root file system as a tar",
    export,
    flags=(("output", "o", "string", "File to write instead of stdout"),),
    least=1,
    most=1,
    example="cais export web -o web.tar",
)
