"""Where the engine listens, and a socket to it."""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

from cais.cli.failure import Unreachable, wrong_usage
from cais.cli.late import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_HOST = "unix:///run/cais/cais.sock"
"""As `cais.config` has it (a test compares them); `config` needs dataclasses, which a fast start cannot afford."""


class Host:
    """``text`` as given, ``kind`` unix or tcp, ``address`` a path or host:port, ``given`` unless it is the default."""

    __slots__ = ("address", "given", "kind", "text", "tls")

    def __init__(self, text: str, kind: str, address: str, *, given: bool, tls: Tls | None = None) -> None:
        self.text = text
        self.kind = kind
        self.address = address
        self.given = given
        self.tls = tls


class Tls:
    """Paths of PEM files (empty: none), and whether the engine's certificate is checked."""

    __slots__ = ("ca", "cert", "key", "verify")

    def __init__(self, ca: str, cert: str, key: str, *, verify: bool) -> None:
        self.ca = ca
        self.cert = cert
        self.key = key
        self.verify = verify


def parse_host(text: str, tls: Tls | None = None) -> Host:
    """``unix:///path``, ``tcp://host[:port]`` or empty for the default. Raises Failure for anything else."""
    given = bool(text)
    text = text or DEFAULT_HOST
    kind, separator, address = text.partition("://")
    if not separator:
        kind, address = ("unix", text) if text.startswith("/") else ("tcp", text)
    if kind == "unix" and address:
        return Host(text, "unix", address, given=given)
    if kind in ("tcp", "http", "https") and address:
        if kind == "https" and tls is None:
            tls = Tls("", "", "", verify=True)
        address = address.rstrip("/")
        if ":" not in address.rpartition("]")[2]:
            address += ":2376" if tls else ":2375"
        return Host(text, "tcp", address, given=given, tls=tls)
    raise wrong_usage(f"unable to parse docker host `{text}`")


def open_socket(host: Host) -> Any:
    """A connected stream socket: `_socket.socket` for a path, `socket` or `ssl` ones for TCP.

    Starts an engine when the default socket is absent and no host was given. Raises Unreachable.
    """
    if host.kind == "tcp":
        return load("cais.cli.tcp:open_tcp")(host)
    try:
        return _open_unix(host.address)
    except PermissionError as error:
        raise Unreachable(
            f"permission denied while trying to connect to the engine at {host.text}: "
            "become root or a member of the group 'cais'"
        ) from error
    except OSError as error:
        if not host.given and isinstance(error, FileNotFoundError | ConnectionRefusedError):
            load("cais.cli.autostart:start_engine")(host.address)
            return _open_unix(host.address)
        raise Unreachable(
            f"Cannot connect to the Cais engine at {host.text}. Is the engine running?"
        ) from error


def _open_unix(path: str) -> Any:
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        sock.connect(os.fsencode(path))
    except OSError:
        sock.close()
        raise
    return sock
