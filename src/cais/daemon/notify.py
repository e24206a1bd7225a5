"""Telling the service manager: sd_notify(3) without libsystemd, and descriptors it passes
(sd_listen_fds(3))."""

import os
import socket
from collections.abc import MutableMapping

from cais.errors import Invalid

FIRST_FD = 3


def notify(state: str, environ: MutableMapping[str, str]) -> None:
    """Send ``READY=1``, ``STOPPING=1`` … to ``NOTIFY_SOCKET``; nothing when there is none or it is deaf."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    # "@" stands for the NUL byte of an abstract socket.
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(target)
            sender.sendall(state.encode())
        except OSError:
            return


def inherited_sockets(name: str, environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Listening sockets from the service manager; ``name`` picks those of one ``FileDescriptorName``, empty
    is all. Raises ``Invalid`` when there are none. The variables are for this process only and are taken
    out."""
    count = 0
    if environ.get("LISTEN_PID") == str(os.getpid()):
        count = int(environ.get("LISTEN_FDS", "0"))
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * (count - len(names))
    wanted = [FIRST_FD + index for index in range(count) if name in ("", "*", names[index], str(index))]
    if not wanted:
        raise Invalid(
            f"no sockets found via socket activation: make sure the service was started by systemd (fd://{name})"
        )
    found = []
    for fd in wanted:
        os.set_inheritable(fd, False)
        found.append(socket.socket(fileno=fd))
    return found
