"""Who may trace whom: which processes are not to be started as forks of the keeper (see ``fresh``)."""

import os
from collections.abc import Iterable
from typing import Any

from cais.linux import initprogram
from cais.runtime.processes import ENDED, Process


def may_trace(process: dict[str, Any]) -> bool:
    """Whether CAP_SYS_PTRACE can come into the hands of this process or its children: it is in one of its sets."""
    return any("CAP_SYS_PTRACE" in names for names in process.get("capabilities", {}).values())


def stays_interpreter(spec: dict[str, Any]) -> bool:
    """Whether the container's process 1 is this interpreter for good: with ``--init`` where there is no program for
    it, or where it may not be executed."""
    if spec.get("annotations", {}).get("cais.init") != "true":
        return False
    if os.uname().machine not in initprogram.MACHINES:
        return True
    try:
        with open("/proc/sys/vm/memfd_noexec", "rb") as file:
            return file.read(1) == b"2"
    except FileNotFoundError:
        return False


def find_pid_namespace(path: str) -> int:
    """The number of the pid namespace that ``path`` (/proc/<pid>/ns/pid) names; -1 when it is not there any more."""
    try:
        return os.stat(path).st_ino
    except OSError:
        return -1


def is_traced(namespace: str, processes: Iterable[Process]) -> bool:
    """Whether a task of the pid namespace (a path as above) may trace what it sees there; when in doubt it may."""
    tasks = [p for p in processes if p.record.get("traces") and not p.exec_id and p.state < ENDED]
    number = find_pid_namespace(namespace) if tasks else 0
    return any(find_pid_namespace(f"/proc/{each.pid}/ns/pid") in (number, -1) for each in tasks)
