"""The keeper's main function."""

import contextlib
import gc
import os
import select
import signal
import socket

from cais.linux import syscalls
from cais.linux.cgroups.detect import detect
from cais.runtime.keeper import Keeper


def main(run: str, listener_fd: int) -> None:
    """Become the keeper: ``listener_fd`` is a listening unix socket."""
    syscalls.keep_only({listener_fd})
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends when told to, or when it has nothing to keep
    # without CAP_SYS_RESOURCE it is as likely a victim as anybody
    with (
        contextlib.suppress(PermissionError),
        open("/proc/self/oom_score_adj", "w", encoding="ascii") as file,
    ):
        file.write("-999")
    listener = socket.socket(fileno=listener_fd)
    listener.setblocking(False)
    keeper = Keeper(run, listener, detect())
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def on_signal(_: int) -> None:
        os.read(read, 4096)
        keeper.on_child_signal()

    keeper.watch(read, select.EPOLLIN, on_signal)
    gc.collect()
    gc.freeze()
    gc.disable()
    keeper.loop.run()
