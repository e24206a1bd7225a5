"""Starts an engine in the background when the default socket is absent."""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket
from time import monotonic, sleep

from cais.cli.failure import Unreachable
from cais.cli.program import MODULE, engine_command, engine_environment

PATIENCE_SECONDS = 15.0
STEP_SECONDS = 0.02
GRACE_SECONDS = 2.0
"""How long the socket of an engine that won the race for the lock is waited for."""


def start_engine(path: str) -> None:
    """Start ``cais daemon`` and return when it answers at ``path``. Raises Unreachable if it does not.

    Two of us may do this at once: the engine's lock lets one win, and both wait for the same socket.
    """
    if os.geteuid() != 0:
        raise Unreachable(
            "no engine is running: start one as root with 'cais daemon', or name one with --host"
        )
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o711, exist_ok=True)
    log = f"{folder}/engine.log"
    pid = _spawn(log)
    end = monotonic() + PATIENCE_SECONDS
    ended = False
    while monotonic() < end:
        if _answers(path):
            return
        if not ended and os.waitpid(pid, os.WNOHANG)[0]:
            # lost the race for the lock: the winner's socket will still appear
            ended, end = True, min(end, monotonic() + GRACE_SECONDS)
        sleep(STEP_SECONDS)
    raise Unreachable(f"the engine did not start; the end of {log}:\n{_tail(log)}")


def _spawn(log: str) -> int:
    """The engine in a session of its own, away from our terminal and our descriptors."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(
        sys.executable, engine_command(MODULE), engine_environment(), file_actions=actions, setsid=True
    )


def _answers(path: str) -> bool:
    sock = socket(AF_UNIX, SOCK_STREAM)
    try:
        sock.connect(os.fsencode(path))
    except OSError:
        return False
    finally:
        sock.close()
    return True


def _tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return b"\n".join(file.read()[-4096:].split(b"\n")[-8:]).decode("utf-8", "replace").rstrip()
    except OSError as error:
        return str(error)
