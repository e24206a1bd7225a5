"""The process 1 of ``--init``: no binary in the image, a program made on the spot."""

import ctypes
import os
import signal
import socket
from contextlib import suppress

from cais.linux.initprogram import make_program, open_program


def become_reaper(sync: socket.socket, *, terminal: bool) -> None:
    """``--init``: stay as process 1 with the program as only child, pass signals on, collect orphans, end as
    it ends.

    Returns in the child. The parent never returns; it has the container's own rights by now.
    """
    # Before the fork: a program that ends at once must not be missed.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        if terminal:
            os.setpgid(0, 0)
            # SIGTTOU is blocked, or this would stop us: we are in the background yet
            os.tcsetpgrp(0, os.getpid())
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # The program must not find the interpreter as its parent, not even for a moment: the pipe ends with that.
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        return
    sync.close()
    hide_arguments(b"cais-init")
    program = make_program(pid, os.uname().machine)
    if program is not None:
        # Not this interpreter any longer: its memory holds what the keeper knew of other containers, and a container
        # with CAP_SYS_PTRACE may read that of its process 1.
        with suppress(OSError):
            os.execve(open_program(program), ["cais-init"], {})
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(reader)
    os.close(writer)
    stay(pid)


def stay(pid: int) -> None:
    """The same in Python, for a machine that there is no program for, or where memory files may not be executed."""
    kept = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGTTIN, signal.SIGTTOU}
    for number in signal.valid_signals() - kept:
        signal.signal(number, lambda n, _: os.kill(pid, n))
    while True:
        try:
            ended, status = os.waitpid(-1, 0)
        except ChildProcessError:
            os._exit(0)
        if ended == pid:
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


def hide_arguments(name: bytes) -> None:
    """Show ``name`` for a command line: ours names folders of the host (proc_pid_stat(5), arg_start and arg_end)."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, name, min(len(name), end - start))
