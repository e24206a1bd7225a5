"""Starting the keeper from an interpreter that no container can write to.

A process that executes inside a container is, for an instant, this interpreter; through /proc/<pid>/exe a
hostile container could open the very file and overwrite it on the host (CVE-2019-5736). So the keeper runs
from a detached read-only mount of the file: opening that for writing is EROFS for everybody, at no cost per
container."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from cais.linux import mounts

BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from cais.runtime.main import main; "
    "main(sys.argv[2], int(sys.argv[3]))"
)


def seal_interpreter() -> int:
    """A descriptor of this interpreter's file through a private read-only mount; OSError where the kernel has
    none."""
    path = os.path.realpath(sys.executable)
    tree = mounts.clone_tree(path, recursive=False)
    try:
        mounts.set_attributes(tree, add=mounts.ATTR_RDONLY, propagation=mounts.MS_PRIVATE)
        # reopen for reading: an O_PATH descriptor of the mount cannot be executed by name from every kernel
        return os.open(f"/proc/self/fd/{tree}", os.O_RDONLY)
    finally:
        os.close(tree)


def spawn_keeper(run: Path, path: Path) -> int:
    """Start a keeper that listens on ``path``; returns its pid. The socket takes connections at once, before
    it is up."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(4)
    package = Path(__file__).resolve().parents[2]
    interpreter = seal_interpreter()
    log = os.open(run / "keeper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        arguments = [
            sys.executable,
            "-I",
            "-S",
            "-OO",  # without docstrings a twentieth less to fork; the bytecode is kept in __pycache__ as usual
            "-c",
            BOOT,
            str(package),
            str(run),
            str(listener.fileno()),
        ]
        process = subprocess.Popen(
            arguments,
            executable=f"/proc/self/fd/{interpreter}",
            pass_fds=(interpreter, listener.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        )
    finally:
        os.close(interpreter)
        os.close(log)
        listener.close()
    # its end is noticed on the socket; without this the destructor would warn about a running child
    process.returncode = 0
    return process.pid
