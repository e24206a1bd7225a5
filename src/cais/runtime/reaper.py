"""The process 1 of ``--init``: no binary in the image, the init itself stays."""

import os
import signal
import socket


def become_reaper(sync: socket.socket, *, terminal: bool) -> None:
    """``--init``: stay as process 1 with the program as only child, pass signals on, collect orphans, end as
    it ends.

    Returns in the child. The parent never returns; it has the container's own rights by now.
    """
    pid = os.fork()
    if not pid:
        if terminal:
            os.setpgid(0, 0)
            signal.signal(
                signal.SIGTTOU, signal.SIG_IGN
            )  # or the next call would stop us: we are in the background yet
            os.tcsetpgrp(0, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        return
    sync.close()
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
