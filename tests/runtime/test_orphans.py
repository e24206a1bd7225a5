"""Whose children are collected, and when: with real ones, in a process of their own."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.kernel

SCRIPT = """
import os, socket
from cais.linux.cgroups.detect import detect
from cais.runtime.keeper import Keeper
from cais.runtime.processes import Process

def ended():
    pid = os.fork()
    if not pid:
        os._exit(3)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid

def is_there(pid):
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
    except ChildProcessError:
        return False

listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
keeper = Keeper(".", listener, detect())
first = os.fork()
if not first:
    os.execvp("sleep", ["sleep", "60"])
process = Process("c", "e", "/none")
process.pid, process.pidfd, process.changes_pid = first, os.pidfd_open(first), True
keeper.processes[process.key] = process
second, orphan = ended(), ended()
keeper.on_child_signal()
print(is_there(second), is_there(orphan))
os.kill(first, 9)
process.sync, far = socket.socketpair()
keeper.make_ready = lambda process: None
keeper.replace_pid(process, second)
print(is_there(second), is_there(orphan), process.pid == second, process.changes_pid)
process.state = 2
os.waitpid(second, 0)
keeper.on_child_signal()
print(is_there(orphan))
"""


def test_the_other_half_of_an_exec_is_no_orphan() -> None:
    """It may end before its first half has told us of it; collected then, the exec would have no process, and its
    start no answer."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines() == ["True True", "True True True False", "False"], ran.stderr
