"""Starting a process in the sight of programs that may trace it: in an interpreter of its own.

Whoever has CAP_SYS_PTRACE in our user namespace may read the memory of every process it sees, whatever that has done
to forbid it. A fork of the keeper holds what is left of other containers' environments there. So where such a
program would see it, the child first becomes a new interpreter (out of sight still), which is told its own request
and nothing else. It stays the keeper's child, with the same recipe and the same reports, and costs some 20 ms."""

import marshal
import os
import socket
import sys

from cais.linux import syscalls
from cais.linux.cgroups.detect import detect
from cais.runtime.init import Child, leave_keeper
from cais.runtime.reaper import hide_arguments
from cais.runtime.recipes import find_recipe, run

BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from cais.runtime.fresh import main; main(int(sys.argv[2]))"
)
FIELDS = (
    "spec", "stdio", "cgroup", "joins", "netns", "pidfd", "traced", "seccomp", "rootfs", "place", "empty",
)  # fmt: skip
_MFD_NOEXEC_SEAL = 8  # Linux 6.3; where vm.memfd_noexec is 2, nothing else is to be had


def pack(child: Child) -> bytes:
    """The request as the new interpreter gets it; the same interpreter, so its own format will do."""
    values = {name: getattr(child, name) for name in FIELDS}
    return marshal.dumps(values | {"sync": child.sync.fileno()})


def unpack(data: bytes) -> Child:
    """The request, by whom it was made for."""
    values = marshal.loads(data)
    child = Child(values["spec"], socket.socket(fileno=values["sync"]), values["stdio"], detect())
    for name in FIELDS[2:]:
        setattr(child, name, values[name])
    return child


def open_request(data: bytes) -> int:
    """A descriptor to read ``data`` from."""
    try:
        fd = os.memfd_create("request", _MFD_NOEXEC_SEAL)
    except OSError:
        fd = os.memfd_create("request", 0)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def become_fresh(child: Child) -> None:
    """Become the new interpreter. /proc/self/exe is the file as it was sealed, whatever its path leads to."""
    wanted = [child.sync.fileno(), child.netns, child.pidfd, *child.stdio, *(fd for fd, _ in child.joins)]
    for fd in wanted:
        if fd >= 0:
            os.set_inheritable(fd, True)
    interpreter = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    request = open_request(pack(child))
    arguments = [sys.executable, "-I", "-S", "-OO", "-c", BOOT, package, str(request)]
    os.execve(interpreter, arguments, os.environ)


LEAVE = (leave_keeper, become_fresh)


def main(request: int) -> None:
    """Go on as the child that ``request`` describes."""
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    hide_arguments(b"cais")  # they name folders of the host, and anybody may read them
    with open(request, "rb") as file:
        child = unpack(file.read())
    run(child, find_recipe(child))
