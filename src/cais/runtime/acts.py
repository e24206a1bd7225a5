"""Requests that act on running processes: signals, freezing, limits, a terminal's size."""

import contextlib
from collections.abc import Callable
from typing import Any

from cais.linux import pty
from cais.linux.cgroups.base import Cgroups
from cais.runtime.processes import ENDED, STARTING, Failure, Process


class Acts:
    """One method per request (named ``op_…``), as the keeper's own; ``processes`` is the keeper's table."""

    def __init__(self, processes: dict[tuple[str, str], Process], cgroups: Cgroups) -> None:
        self.processes, self.cgroups = processes, cgroups

    def find(self, message: dict[str, Any]) -> Process:
        """The process a request names."""
        process = self.processes.get((message["id"], message.get("exec_id", "")))
        if process is None or process.state == STARTING:
            raise Failure("NotFound", f"no such task: {message['id']} {message.get('exec_id', '')}".rstrip())
        return process

    def op_kill(self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]) -> dict[str, Any]:
        """One signal to one process."""
        try:
            self.find(message).signal(message["signal"])
        except ProcessLookupError:
            raise Failure("NotFound", f"task has ended: {message['id']}") from None
        return {}

    def op_kill_all(
        self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]
    ) -> dict[str, Any]:
        """SIGKILL to the whole group."""
        process = self.processes.get((message["id"], ""))
        if process is not None and process.state < ENDED:
            process.kill()
            self.cgroups.kill(process.cgroup)
        return {}

    def op_pause(self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]) -> dict[str, Any]:
        """Freeze."""
        process = self.find(message)
        if process.paused:
            raise Failure("Conflict", f"Container {message['id']} is already paused")
        self.cgroups.freeze(process.cgroup)
        process.paused = True
        return {}

    def op_resume(
        self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]
    ) -> dict[str, Any]:
        """Thaw."""
        process = self.find(message)
        if not process.paused:
            raise Failure("Conflict", f"Container {message['id']} is not paused")
        self.cgroups.thaw(process.cgroup)
        process.paused = False
        return {}

    def op_pids(self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]) -> dict[str, Any]:
        """Every process of the group."""
        return {"pids": self.cgroups.pids(self.find(message).cgroup)}

    def op_update(
        self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]
    ) -> dict[str, Any]:
        """New limits."""
        self.cgroups.update(self.find(message).cgroup, message["resources"])
        return {}

    def op_resize(
        self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]
    ) -> dict[str, Any]:
        """A terminal's size."""
        process = self.find(message)
        if process.io is None or not process.io.terminal or process.io.stdin < 0:
            raise Failure("Conflict", f"no terminal: {message['id']}")
        pty.set_size(process.io.stdin, message["height"], message["width"])
        return {}

    def op_sweep(self, message: dict[str, Any], fds: list[int], reply: Callable[..., None]) -> dict[str, Any]:
        """Kill what runs in these groups without a task, and remove them."""
        known = {process.cgroup for process in self.processes.values()}
        for path in set(message["paths"]) - known:
            self.cgroups.kill(path)
            with contextlib.suppress(OSError):  # what is slow to die is out of the way of a new start by then
                self.cgroups.remove(path)
        return {}
