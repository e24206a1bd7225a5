"""The `cais` program: finds the verb, reads its flags, runs it, and says what went wrong."""

from __future__ import annotations

import os
import sys

from cais.cli.commands import GROUPS, SHORT, VERBS
from cais.cli.failure import Failure, Refused, Unreachable
from cais.cli.flags import HELP_ROW, HOST_ROW, KINDS, Flags, check_count, parse_flags
from cais.cli.host import Tls, parse_host
from cais.cli.late import load
from cais.cli.session import Session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Command, Row
    from cais.cli.host import Host

GLOBAL_FLAGS: tuple[Row, ...] = (
    ("config", "", "string", "Accepted for compatibility"),
    ("context", "c", "string", "Accepted for compatibility"),
    ("debug", "D", "bool", "Accepted for compatibility"),
    ("help", "", "bool", "Print usage"),
    ("host", "H", "string", "Engine to talk to: unix:///path or tcp://host:port"),
    ("log-level", "l", "string", "Accepted for compatibility"),
    ("tls", "", "bool", "Use TLS without checking the engine"),
    ("tlscacert", "", "string", "File of the authority that signed the engine's certificate"),
    ("tlscert", "", "string", "File of this client's certificate"),
    ("tlskey", "", "string", "File of this client's key"),
    ("tlsverify", "", "bool", "Use TLS and check the engine"),
    ("version", "v", "bool", "Print the version and quit"),
)


def main() -> None:
    """Run the program with this process's arguments, and end the process."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (BrokenPipeError, ValueError):
        code = code or 1
    # The interpreter's own tear-down takes longer than some verbs and has nothing left to do.
    os._exit(code)


def run(argv: list[str]) -> int:
    """The exit code of ``cais argv…``; messages are on stderr."""
    name, typed, command = "", "", None
    try:
        given, typed, rest = _split_verb(argv)
        name = SHORT.get(typed, typed)
        if not name:
            return _without_verb(given, rest)
        if "help" in rest[:1] and name in GROUPS:
            rest = rest[1:]
        if name in GROUPS:
            return _group(name, rest)
        command = load(VERBS[name])
        if command.raw:
            with Session(choose_host(given, ""), name) as session:
                return int(command.act(session, Flags({}, rest)))
        rows = (*command.flags, HELP_ROW, HOST_ROW)
        flags = parse_flags(rows, rest, kinds=command.kinds, interspersed=command.interspersed)
        if flags.on("help"):
            sys.stdout.write(load("cais.cli.help:format_command")(name, command))
            return 0
        check_count(command, flags.args, typed)
        with Session(choose_host(given, flags.text("host")), name) as session:
            return int(command.act(session, flags))
    except Failure as failure:
        return _report(failure, typed, command)
    except (Refused, Unreachable) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except BrokenPipeError:
        _forget_stdout()
        return 1
    except KeyboardInterrupt:
        return 130


def _split_verb(argv: list[str]) -> tuple[Flags, str, list[str]]:
    """Global flags, the verb as typed ("run", "image ls"), and what follows. Raises Failure."""
    given = parse_flags(GLOBAL_FLAGS, argv, interspersed=False)
    words = given.args
    if not words:
        return given, "", []
    name = words[0]
    if name in GROUPS:
        if len(words) < 2 or words[1].startswith("-") or words[1] == "help":
            return given, name, words[1:]
        inner = f"{name} {words[1]}"
        if SHORT.get(inner, inner) not in VERBS:
            raise Failure(f"unknown command: cais {name} {words[1]}", 1, f"group {name}")
        return given, inner, words[2:]
    if name == "help":
        return given, "", ["help", *words[1:]]
    if name not in VERBS:
        raise Failure(f"unknown command: cais {words[0]}", 1, "program")
    return given, name, words[1:]


def _without_verb(given: Flags, rest: list[str]) -> int:
    if given.on("version"):
        sys.stdout.write(f"Cais version {load('cais:__version__')}\n")
        return 0
    if rest[1:]:
        return run([*rest[1:], "--help"])
    sys.stdout.write(load("cais.cli.help:format_program")(GLOBAL_FLAGS))
    return 0


def _group(name: str, rest: list[str]) -> int:
    flags = parse_flags((HELP_ROW, HOST_ROW), rest, kinds=KINDS)
    text = load("cais.cli.help:format_group")(name)
    if flags.args:
        return run([name, *flags.args, "--help"])
    sys.stdout.write(text)
    return 0


def choose_host(given: Flags, late: str) -> Host:
    """The host of the flags, else of CAIS_HOST, else the default; TLS by flags or CAIS_TLS_VERIFY."""
    environ = os.environ
    folder = environ.get("CAIS_CERT_PATH", "")
    verify = given.on("tlsverify", bool(environ.get("CAIS_TLS_VERIFY")))
    tls = None
    if verify or given.on("tls") or given.given("tlscacert"):

        def file(flag: str, name: str) -> str:
            return given.text(flag) or (f"{folder}/{name}" if folder else "")

        tls = Tls(
            file("tlscacert", "ca.pem"), file("tlscert", "cert.pem"), file("tlskey", "key.pem"), verify=verify
        )
    return parse_host(late or given.text("host") or environ.get("CAIS_HOST", ""), tls)


def _report(failure: Failure, name: str, command: Command | None) -> int:
    """Print the failure as Docker would: what was wrong, and where to read on."""
    message, show = failure.message, failure.show
    if not show:
        sys.stderr.write(f"{message}\n")
    elif show == "program":
        sys.stderr.write(f"cais: {message}\n\nRun 'cais --help' for more information\n")
    elif show.startswith("group "):
        group = show.removeprefix("group ")
        sys.stderr.write(
            f"cais: {message}\n\nUsage:  cais {group}\n\nRun 'cais {group} --help' for more information\n"
        )
    elif show == "help":
        sys.stderr.write(f"cais: {message}\n\nRun 'cais {name} --help' for more information\n")
    else:
        usage = "cais [OPTIONS] COMMAND [ARG...]"
        if command:
            usage = f"cais {name}{command.usage.removeprefix(SHORT.get(name, name))}"
        start = "cais: " if show == "count" else ""
        verb = "See" if show == "count" and command and command.most is None else "Run"
        place = f"cais {name}" if name else "cais"
        sys.stderr.write(
            f"{start}{message}\n\nUsage:  {usage}\n\n{verb} '{place} --help' for more information\n"
        )
    return failure.code


def _forget_stdout() -> None:
    """Whoever read our output is gone: let the last flush go nowhere instead of failing."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
