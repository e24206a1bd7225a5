"""The engine's doors: unix sockets with the right owner from the first moment, TCP with client
certificates."""

import errno
import grp
import os
import socket
import ssl
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from cais.config import GROUP, Config, TlsFiles
from cais.daemon.notify import inherited_sockets
from cais.errors import Conflict, Invalid

BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket. ``address`` as shown to people; ``tls`` is None for plain ones; ``path`` of a unix
    socket we made, to be removed in the end."""

    address: str
    socket: socket.socket
    tls: ssl.SSLContext | None = None
    path: Path | None = None
    made: tuple[int, int] | None = None
    """Device and inode of ``path`` as we made it."""

    @property
    def is_tcp(self) -> bool:
        """Reachable by a web browser."""
        return self.socket.family != socket.AF_UNIX

    def close(self) -> None:
        """Stop listening; the path goes too, if it is still ours."""
        self.socket.close()
        if self.path is not None and self.made is not None and _inode(self.path) == self.made:
            self.path.unlink(missing_ok=True)


def open_doors(config: Config, environ: MutableMapping[str, str]) -> list[Door]:
    """Listen on every address of the configuration. Raises ``Invalid`` or ``Conflict``; then none is open."""
    doors: list[Door] = []
    try:
        for host in config.hosts:
            doors += _open(host, config, environ)
    except BaseException:
        for door in doors:
            door.close()
        raise
    return doors


def _open(host: str, config: Config, environ: MutableMapping[str, str]) -> list[Door]:
    scheme, _, rest = host.partition("://")
    if scheme == "unix":
        return [_open_unix(Path(rest), config.group)]
    tls = make_tls(config.tls) if config.tls is not None else None
    if scheme == "tcp":
        return [Door(host, _listen_tcp(rest), tls)]
    doors = [Door(host, listener) for listener in inherited_sockets(rest, environ)]
    if any(door.is_tcp for door in doors) and tls is None and not config.insecure_tcp:
        raise Invalid(f"{host}: a TCP socket needs --tlsverify")
    return [Door(door.address, door.socket, tls if door.is_tcp else None) for door in doors]


def _open_unix(path: Path, group: str) -> Door:
    """Nobody but root can connect before owner and mode are right; an old socket of a killed engine is replaced."""
    if _answers(path):
        raise Conflict(f"unix://{path} is in use by another process")
    gid = find_group(group)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    # bind(2) makes the file with what the mask leaves of 0777, so 0600: a chmod afterwards would leave a gap.
    mask = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        os.chown(path, os.getuid(), gid)
        path.chmod(0o660)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Invalid(f"cannot listen on unix://{path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    return Door(f"unix://{path}", listener, path=path, made=_inode(path))


def _answers(path: Path) -> bool:
    """Does somebody listen at ``path``? Raises ``Conflict`` when it is no socket at all."""
    if not path.exists():
        return False
    if not path.is_socket():
        raise Conflict(f"{path} exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        return probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)


def find_group(group: str) -> int:
    """The id of ``group`` by name or number. Without the default group only root gets in; ``Invalid`` for any
    other that does not exist."""
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if group in ("", GROUP):
            return 0
        raise Invalid(f"group {group} not found") from None


def _listen_tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        raise Invalid(f"cannot listen on tcp://{address}: {error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(target)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Invalid(f"cannot listen on tcp://{address}: {error.strerror or error}") from error
    return listener


def make_tls(files: TlsFiles) -> ssl.SSLContext:
    """A server context that lets in only clients whose certificate ``files.ca`` signed. Raises
    ``Invalid``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(files.cert, files.key)
        context.load_verify_locations(files.ca)
    except (OSError, ssl.SSLError) as error:
        raise Invalid(
            f"could not load the TLS files {files.ca}, {files.cert}, {files.key}: {error}"
        ) from error
    return context


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
