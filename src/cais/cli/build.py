"""`cais build` and `cais builder prune`."""

from __future__ import annotations

import os
import stat
import sys

from cais.cli.buildrequest import (
    STDOUT,
    find_agents,
    is_remote,
    make_fields,
    parse_outputs,
    read_secrets,
    split_contexts,
)
from cais.cli.contexttar import check_folder, find_dockerfile
from cais.cli.failure import Failure, Refused, wrong_option
from cais.cli.flags import KINDS, Command, parse_text
from cais.cli.late import load
from cais.cli.session import is_terminal
from cais.cli.units import format_size, parse_bytes, parse_swap, parse_ulimit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from cais.cli.buildrequest import Output
    from cais.cli.buildshow import View
    from cais.cli.flags import Flags
    from cais.cli.http import Response
    from cais.cli.session import Session

MISDIRECTED = 421
"""The engine cannot take descriptors from here: tars are sent instead."""
_PROGRESS = ("auto", "plain", "tty", "rawjson", "quiet")
_CALLS = ("build", "check", "lint", "outline", "targets")


class Given:
    """What this build gives: the request's ``fields``, ``folders`` by name (paths; the main one is ``context``), and
    ``stream``, the pieces of an archive that is the context. ``dockerfile`` and ``ignore`` as `contexttar.Context` has
    them."""

    __slots__ = ("agents", "dockerfile", "fields", "folders", "ignore", "stream")

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.folders: dict[str, str] = {}
        self.agents: dict[str, str] = {}
        self.stream: Iterator[bytes] | None = None
        self.dockerfile = ""
        self.ignore: bytes | None = None


def build(session: Session, flags: Flags) -> int:
    """Build an image from a Dockerfile and a context."""
    for name in flags.many("tag"):
        load("cais.cli.images:check_reference")(name)
    call = _choose_call(flags)
    outputs = parse_outputs(flags)
    given = Given(make_fields(flags, outputs))
    if call != "build":
        given.fields["call"] = call
    _add_context(given, flags.args[0], flags.text("file"))
    folders, others = split_contexts(flags.many("build-context"))
    given.folders |= folders
    given.agents = find_agents(flags.many("ssh"))
    if others:
        given.fields["contexts"] = others
    if secrets := read_secrets(flags.many("secret")):
        given.fields["secrets"] = {id: _base64(data) for id, data in secrets.items()}
    view = choose_view(flags, is_quiet=call != "build" or flags.on("quiet"))
    if flags.given("debug") and call == "build":
        view = load("cais.cli.builddebug:Debugging")(view, session, flags.text("debug"))
        given.fields["debug"] = True
    if flags.given("explain") and call == "build":
        view = _explain(given, view, flags, outputs)
    if flags.given("verify") and call == "build":
        load("cais.cli.buildverify:check_flags")(flags)
        given.fields["verify"] = flags.text("verify")
    if flags.given("graph") and call == "build":
        view = load("cais.cli.buildpicture:Picturing")(view, flags.text("graph"))
    answer = _send(session, given)
    return _follow(answer, view, flags, outputs)


def _explain(given: Given, view: View, flags: Flags, outputs: list[Output]) -> View:
    """Ask for reasons, and show them behind all else. Raises Failure."""
    as_json = load("cais.cli.buildexplain:wants_json")(flags.text("explain"))
    if any(output.dest == STDOUT for output in outputs):
        raise wrong_option("--explain writes to standard output: an output cannot go there, too")
    given.fields["explain"] = True
    explaining: View = load("cais.cli.buildexplain:Explaining")(view, as_json=as_json)
    return explaining


def _choose_call(flags: Flags) -> str:
    call = flags.text("call", "build").partition(",")[0]
    if flags.on("check"):
        call = "check"
    if call not in _CALLS:
        raise wrong_option(f'invalid value "{call}" for --call: want one of {", ".join(_CALLS)}')
    return "check" if call == "lint" else call


def choose_view(flags: Flags, *, is_quiet: bool) -> View:
    """By ``--progress``, ``--quiet`` and whether there is a terminal. Raises Failure."""
    progress = flags.text("progress", os.environ.get("BUILDKIT_PROGRESS", "") or "auto")
    if progress not in _PROGRESS:
        raise wrong_option(f'invalid value "{progress}" for --progress: want one of {", ".join(_PROGRESS)}')
    if is_quiet or progress == "quiet":
        name = "buildshow:Quiet"
    elif progress == "rawjson":
        name = "buildshow:RawJson"
    elif progress == "tty" or (progress == "auto" and is_terminal(2)):
        name = "buildlive:Live"
    else:
        name = "buildshow:Plain"
    view: View = load(f"cais.cli.{name}")()
    return view


def _base64(data: bytes) -> str:
    text: bytes = load("binascii:b2a_base64")(data, newline=False)
    return text.decode("ascii")


def _add_context(given: Given, path: str, dockerfile: str) -> None:
    """The context and the Dockerfile. Raises Failure."""
    fields = given.fields
    if is_remote(path):
        fields["context"] = {"type": "remote", "url": path}
        if dockerfile == "-":
            fields["text"] = _base64(find_dockerfile(".", dockerfile).text or b"")
        elif dockerfile:
            fields["dockerfile"] = dockerfile
    elif path == "-":
        if dockerfile == "-":
            raise Failure("invalid argument: can't use stdin for both build context and dockerfile")
        text, pieces = load("cais.cli.contexttar:read_stream")()
        fields["dockerfile"] = dockerfile or "Dockerfile"
        if text is None:
            fields["context"] = {"type": "tar"}
            given.stream = pieces
        else:
            fields["context"] = {"type": "empty"}
            fields["text"] = _base64(text)
    else:
        check_folder(path)
        given.folders["context"] = path
        found = find_dockerfile(path, dockerfile)
        fields["dockerfile"] = found.name
        if found.text is None:
            given.dockerfile = found.name
        else:
            fields["text"] = _base64(found.text)
        if found.ignore is not None:
            fields["ignore"] = _base64(found.ignore)
            given.ignore = found.ignore


def _send(session: Session, given: Given) -> Response:
    """The answer. Folders go by descriptor where the engine can take them, else as tars."""
    fields = load("cais.cli.credentials:make_config_fields")()
    if session.host.kind == "unix":
        opened: list[int] = []
        try:
            body: Any = _with_descriptors(given, opened)
            if given.stream is not None:
                # Read once alone: it cannot be sent again, so the folders beside it go as tars at once.
                body = _with_tars(given) if opened else _framed(body, [given.stream])
            return session.connect().send("POST", "/cais/build", body, fields)
        except Refused as refused:
            if refused.status != MISDIRECTED:
                raise
        finally:
            # The engine has its own by the time that it answers.
            for number in opened:
                os.close(number)
    if given.agents:
        raise Failure(
            "--ssh needs an engine on this machine, at a unix socket: agents are reached by descriptor"
        )
    return session.connect().send("POST", "/cais/build", _with_tars(given), fields)


def _with_descriptors(given: Given, opened: list[int]) -> dict[str, Any]:
    body = dict(given.fields)
    folders = {}
    for name, path in given.folders.items():
        number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.append(number)
        folders[name] = {"type": "folder", **_describe(number)}
    if "context" in folders:
        body["context"] = folders.pop("context")
    if folders:
        body["folders"] = folders
    agents = {}
    for id, path in given.agents.items():
        try:
            number = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise Failure(f"--ssh {id}: cannot open {path}: {(error.strerror or '').lower()}") from None
        opened.append(number)
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise Failure(f"--ssh {id}: {path} is no agent's socket: add the key to an agent (ssh-add)")
        agents[id] = _describe(number)
    if agents:
        body["agents"] = agents
    return body


def _describe(number: int) -> dict[str, int]:
    """What the engine compares with what it took."""
    status = os.fstat(number)
    return {"fd": number, "device": status.st_dev, "inode": status.st_ino}


def _with_tars(given: Given) -> Iterator[bytes]:
    """The request and all contexts behind it."""
    body = dict(given.fields)
    make = load("cais.cli.contexttar:Context")
    tars = [] if given.stream is None else [given.stream]
    names = sorted(given.folders, key=lambda name: name != "context")
    for name in names:
        if name == "context":
            body["context"] = {"type": "tar"}
            tars.append(make(given.folders[name], given.dockerfile, given.ignore).pieces())
        else:
            tars.append(make(given.folders[name]).pieces())
    if others := [name for name in names if name != "context"]:
        body["folders"] = {name: {"type": "tar"} for name in others}
    return _framed(body, tars)


def _framed(body: dict[str, Any], tars: list[Iterator[bytes]]) -> Iterator[bytes]:
    yield load("cais.cli.wirejson:format_json")(body).encode() + b"\n"
    for pieces in tars:
        for piece in pieces:
            yield len(piece).to_bytes(4, "big") + piece
        yield bytes(4)


def _follow(answer: Response, view: View, flags: Flags, outputs: list[Output]) -> int:
    """Show the build to its end; the exit code. Raises Failure."""
    receive = load("cais.cli.buildanswer:follow")
    result: dict[str, Any] = receive(answer.pieces(), view, outputs)
    if _choose_call(flags) != "build":
        as_json = "format=json" in flags.text("call").split(",")
        return int(load("cais.cli.buildanswer:show_look")(result, as_json=as_json))
    if flags.given("verify"):
        return int(load("cais.cli.buildverify:show")(result, flags.text("verify")))
    if path := flags.text("iidfile"):
        with open(path, "w", encoding="ascii") as file:
            file.write(result.get("digest", ""))
    if path := flags.text("metadata-file"):
        load("cais.cli.buildanswer:write_metadata")(path, result)
    if flags.on("quiet") or flags.text("progress") == "quiet":
        sys.stdout.write(f"{result['digest']}\n" if result.get("digest") else "")
    return 0


def _parse_host(text: str) -> str:
    entry: str = load("cais.cli.runflags:parse_host_entry")(text)
    return entry


BUILD = Command(
    "build [OPTIONS] PATH | URL | -",
    "Build an image from a Dockerfile",
    build,
    flags=(
        ("add-host", "", "host...", "Line for /etc/hosts of RUN steps: name:ip"),
        ("allow", "", "list...", "Let the build have network.host or security.insecure"),
        ("annotation", "", "list...", "Annotation of the image: [manifest|index:]KEY=VALUE"),
        ("attest", "", "list...", "Statement about the image: type=sbom or type=provenance[,mode=max]"),
        ("build-arg", "", "list...", "Value of an ARG: NAME=VALUE, or NAME from the environment"),
        ("build-context", "", "list...", "Further context: NAME=FOLDER, or NAME=docker-image://REF"),
        ("cache-from", "", "list...", "Where steps may be taken from: REF, or type=local,src=FOLDER"),
        ("cache-to", "", "list...", "Where steps are kept for others: type=registry,ref=REF[,mode=max]"),
        ("call", "", "string", "What to do: build, check, outline, targets[,format=json]"),
        ("cgroup-parent", "", "string", "Control group of RUN steps"),
        ("check", "", "bool", "Look for mistakes, and build nothing"),
        ("cpu-period", "", "int", "Length of a CFS period of RUN steps in microseconds"),
        ("cpu-quota", "", "int", "CPU time a period for RUN steps in microseconds"),
        ("cpu-shares", "c", "int", "Relative share of CPU time of RUN steps"),
        ("cpuset-cpus", "", "string", "CPUs for RUN steps: 0-3, 0,1"),
        ("cpuset-mems", "", "string", "Memory nodes for RUN steps"),
        ("debug", "", "[=command]", "Open a shell in a step that fails, or run a command there"),
        ("explain", "", "[=json]", "Say for each step why it is made, or is not"),
        ("file", "f", "string", "Dockerfile (default PATH/Dockerfile; - is stdin)"),
        ("force-rm", "", "bool", "Accepted for compatibility"),
        ("graph", "", "string", "Draw the steps into this file, an SVG picture with times"),
        ("iidfile", "", "string", "Write the image's id into this file"),
        ("label", "", "list...", "Label of the image: NAME=VALUE"),
        ("load", "", "bool", "Make an image in the engine, besides other outputs"),
        ("memory", "m", "bytes", "Memory limit of RUN steps, e.g. 64m"),
        ("memory-swap", "", "swap", "Memory and swap together; -1 is unlimited"),
        ("metadata-file", "", "string", "Write what was made into this file, as JSON"),
        ("network", "", "string", "Network of RUN steps: default, none, host"),
        ("no-cache", "", "bool", "Make every step anew"),
        ("no-cache-filter", "", "list...", "Make every step of these stages anew"),
        (
            "output",
            "o",
            "list...",
            "Where results go: FOLDER, -, or type=local|tar|oci|docker|image,dest=PATH",
        ),
        ("platform", "", "list...", "Platforms to build for: os/arch[/variant]"),
        ("progress", "", "string", "How to show it: auto, plain, tty, rawjson, quiet"),
        ("provenance", "", "string", "Say how the image was made: true, false, mode=max"),
        ("pull", "", "bool", "Fetch base images even if they are here"),
        ("push", "", "bool", "Push the image to its registry"),
        ("quiet", "q", "bool", "Print the image's id only"),
        ("rm", "", "bool", "Accepted for compatibility"),
        ("sbom", "", "string", "List the packages in the image: true, false"),
        ("secret", "", "list...", "Secret for RUN --mount=type=secret: id=ID[,src=FILE|,env=NAME]"),
        ("shm-size", "", "bytes", "Size of /dev/shm in RUN steps"),
        ("ssh", "", "list...", "Agent for RUN --mount=type=ssh: default, or ID=SOCKET"),
        ("tag", "t", "list...", "Name of the image; may be given several times"),
        ("target", "", "string", "Stage to build (default the last)"),
        ("ulimit", "", "ulimit...", "Resource limit of RUN steps: name=soft[:hard]"),
        ("verify", "", "string", "Make no image, but compare what is built with this one"),
    ),
    kinds={
        **KINDS,
        "bytes": parse_bytes,
        "swap": parse_swap,
        "host...": _parse_host,
        "ulimit...": parse_ulimit,
        "[=json]": parse_text,
        "[=command]": parse_text,
    },
    least=1,
    most=1,
    example=(
        "cais build -t my/web:2 .\n"
        "cais build --target test --build-arg VERSION=3 -f ci/Dockerfile .\n"
        "cais build --secret id=token,env=TOKEN --ssh default -o out ."
    ),
)


def prune(session: Session, flags: Flags) -> int:
    """Forget what builds made before."""
    warning = "This will remove all build cache that is not in use."
    if not load("cais.cli.prune:confirm")(flags, warning):
        return 0
    query = (
        ("filters", load("cais.cli.filters:format_filters")(flags.many("filter"))),
        ("keep-storage", flags.number("keep-storage") or ""),
    )
    answer: dict[str, Any] = session.call("POST", "/build/prune", query) or {}
    for id in answer.get("CachesDeleted") or ():
        sys.stdout.write(f"{id}\n")
    sys.stdout.write(f"Total:\t{format_size(answer.get('SpaceReclaimed') or 0)}\n")
    return 0


BUILDER_PRUNE = Command(
    "builder prune [OPTIONS]",
    "Remove build cache",
    prune,
    flags=(
        ("all", "a", "bool", "Accepted for compatibility: all of it is removed anyway"),
        ("filter", "", "filter...", "Only what was not used for so long: until=24h"),
        ("force", "f", "bool", "Do not ask"),
        ("keep-storage", "", "bytes", "Leave so much, what was used last"),
    ),
    kinds={**KINDS, "bytes": parse_bytes},
    most=0,
    example="cais builder prune -f --filter until=72h",
)
