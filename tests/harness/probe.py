"""The isolation probe: built from its C source, packed into an image, run in every scenario, read."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import docker

SOURCE = Path(__file__).parents[1] / "isolation/probe/probe.c"
IMAGE = "cais-probe"
COMPILE = ("gcc", "-std=gnu17", "-O1", "-Wall", "-Wextra", "-Werror", "-static")

# Ways to run it, as docker-py's arguments. "exec" runs it beside the container's first process.
SCENARIOS: dict[str, dict[str, Any]] = {
    "default": {},
    "exec": {},
    "tty": {"tty": True},
    "user": {"user": "1000:1000"},
    "drop_all": {"cap_drop": ["ALL"]},
    "add_net_admin": {"cap_add": ["NET_ADMIN"]},
    "add_sys_admin": {"cap_add": ["SYS_ADMIN"]},
    "read_only": {"read_only": True},
    "no_new_privileges": {"security_opt": ["no-new-privileges"], "user": "1000:1000"},
    "unconfined": {"security_opt": ["seccomp=unconfined"]},
    "privileged": {"privileged": True},
    "init": {"init": True},
    "host_names": {"network_mode": "host", "ipc_mode": "host", "uts_mode": "host"},
}
# What is another thing on every run or machine and says nothing about isolation.
NOISE = ("env.HOSTNAME", "limit.", "mount./sys/fs/cgroup/hugetlb")
MASKED = tuple(
    f"mount.{path}"
    for path in (
        *(
            "/proc/acpi",
            "/proc/asound",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
        ),
        *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
        *("/sys/devices/virtual/powercap", "/sys/devices/system/cpu"),
    )
)
LAST = "act.bind_port_8080"
BOUND = ("mount./etc/hosts", "mount./etc/hostname", "mount./etc/resolv.conf", "mount./sbin/docker-init")


def build(folder: Path) -> Path:
    """The probe as a static program: CAIS_PROBE, or compiled; FileNotFoundError without a C compiler."""
    if os.environ.get("CAIS_PROBE"):
        return Path(os.environ["CAIS_PROBE"])
    target = folder / "probe"
    subprocess.run([*COMPILE, "-o", str(target), str(SOURCE)], check=True, capture_output=True)
    return target


def pack(files: dict[str, bytes | str], links: dict[str, str] | None = None) -> bytes:
    """A root file system as a tar: usual folders, ``files`` by path (all executable), symbolic ``links``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        folders = {"bin": 0o755, "etc": 0o755, "tmp": 0o1777, "root": 0o700}
        for name, mode in folders.items():
            if name in (links or {}):
                continue
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return out.getvalue()


def probe_root(folder: Path) -> dict[str, bytes | str]:
    """The files of the probe's image: the probe and a busybox."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    return {
        "probe": build(folder).read_bytes(),
        "bin/busybox": busybox.read_bytes(),
        "etc/passwd": passwd,
        "etc/group": "root:x:0:\n",
    }


def add_image(client: docker.DockerClient, name: str, root: bytes) -> None:
    """Import a root file system."""
    client.api.import_image_from_data(root, repository=name, tag="latest")


def observe(client: docker.DockerClient, scenario: str, image: str = IMAGE) -> dict[str, str]:
    """Run the probe in the scenario; its facts and verdicts by name, in comparable words."""
    command = ["/bin/busybox", "sleep", "1000"] if scenario == "exec" else ["/probe"]
    container = client.containers.create(image, command, **SCENARIOS[scenario])
    try:
        container.start()
        if scenario == "exec":
            # Into the container's log: what comes with the answer's head, docker-py's exec_run loses.
            container.exec_run(["/bin/busybox", "sh", "-c", "exec /probe >/proc/1/fd/1"])
        found = _read(container)
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            container.remove(force=True)
    if scenario == "privileged":
        # All of the machine's devices: another list on every machine.
        found = {name: value for name, value in found.items() if not name.startswith("dev.")}
    return found


def _read(container: Any) -> dict[str, str]:
    """The words in the container's log, once the last is there."""
    end = time.monotonic() + 120
    while True:
        found = digest(container.logs(stdout=True, stderr=True).decode())
        if LAST in found:
            return found
        assert time.monotonic() < end, f"the probe did not come to its end: {list(found.items())[-3:]}"
        time.sleep(0.05)


def digest(output: str) -> dict[str, str]:
    """The probe's lines as one value by name. Namespaces become "own" or "the host's", descriptors their number, the
    list of cgroups "own root" or "visible path"."""
    found: dict[str, str] = {}
    for line in output.splitlines():
        if not line.endswith("}"):
            continue
        row = json.loads(line)
        if "act" in row:
            found[f"act.{row['act']}"] = row["verdict"]
            continue
        name, value = row["fact"], row["value"]
        if name.startswith(NOISE):
            continue
        if name in BOUND:
            # A file of the engine's own, on whatever file system its folder is.
            value = "bound" + (" ro" if " ro" in value else "")
        if name.startswith(MASKED):
            # An empty read-only folder or the null device, whatever it is made from.
            value = "masked"
        if name.startswith("ns."):
            host = os.readlink(f"/proc/self/ns/{name[3:]}")
            value = "the host's" if value == host else "own"
        elif name.startswith("fd."):
            value = "open"
        elif name.startswith("cgroup."):
            hidden = value.endswith(":/") and found.get("cgroup") != "visible path"
            name, value = "cgroup", "own root" if hidden else "visible path"
        found[name] = value.strip()
    return found
