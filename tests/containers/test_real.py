"""Whole containers on the real kernel: what was asked for is what the process sees."""

import asyncio
from pathlib import Path

import pytest

from cais.containers.logs import LogsWanted
from cais.errors import TaskFailed
from cais.spec.container import ExecConfig, HostConfig, Ulimit
from cais.spec.multiplex import Demultiplexer
from harness.boxes import read_all
from harness.engines import Engine, until

pytestmark = pytest.mark.kernel


async def output(
    engine: Engine, script: str, host: HostConfig | None = None, **config: object
) -> tuple[int, str]:
    """Exit code and output of a shell script in a container without a network."""
    host = host or HostConfig(network_mode="none")
    id = await engine.create("", host, cmd=("sh", "-c", script), **config)
    sock = await engine.containers.attach(id, stdout=True, stderr=True)
    ended = engine.containers.wait(id, "next-exit")
    with sock:
        await engine.containers.start(id)
        data = await read_all(sock)
    text = b"".join(piece for _, piece in Demultiplexer().feed(data)).decode()
    return (await asyncio.wait_for(ended, 20))[0], text


async def test_code_streams_and_log_agree(real: Engine) -> None:
    """What was attached is what is in the log, under its stream."""
    code, text = await output(real, "echo out; echo err >&2; exit 4")
    assert (code, sorted(text.split())) == (4, ["err", "out"])
    id = real.containers.records()[0].id
    parts = [part async for part in await real.containers.logs(id, LogsWanted(stdout=False))]
    assert Demultiplexer().feed(b"".join(parts)) == [(2, b"err\n")]


async def test_identity_folder_and_variables(real: Engine) -> None:
    """The user's name and groups are the image's, the working folder is made."""
    code, text = await output(
        real, "id; pwd; echo $A $HOSTNAME $HOME", user="app", working_dir="/new/dir", hostname="box"
    )
    assert code == 0
    assert text.splitlines() == ["uid=7(app) gid=8(app) groups=8(app),9(extra)", "/new/dir", "image box /app"]


async def test_limits_reach_the_kernel(real: Engine) -> None:
    """Memory, pids, open files, size of /dev/shm and of a tmpfs."""
    host = HostConfig(
        network_mode="none",
        memory=64 << 20,
        pids_limit=33,
        shm_size=2 << 20,
        tmpfs={"/t": "size=1m"},
        ulimits=(Ulimit(name="nofile", soft=77, hard=88),),
    )
    code, text = await output(
        real,
        "ulimit -n; ulimit -Hn; df -k /dev/shm /t | awk 'NR>1{print $2}';"
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max 2>/dev/null"
        " || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max",
        host,
    )
    assert (code, text.split()) == (0, ["77", "88", "2048", "1024", str(64 << 20), "33"])


async def test_the_default_container_is_tight(real: Engine) -> None:
    """Fourteen capabilities, none inheritable, a filter, no device of the host, nothing of /proc/sys writable."""
    code, text = await output(
        real,
        "grep -E 'Cap(Inh|Eff|Bnd)|Seccomp:' /proc/self/status; mknod /tmp/d b 8 0; head -c1 /tmp/d;"
        "mknod /tmp/k c 1 2; head -c1 /tmp/k; echo 1 > /proc/sys/vm/swappiness; mount -t tmpfs x /tmp",
    )
    lines = text.splitlines()
    assert lines[0].split() == ["CapInh:", "0" * 16]
    assert lines[1].split()[1] == lines[2].split()[1] == "00000000a80425fb"
    assert "Seccomp:\t2" in lines
    assert text.count("Operation not permitted") >= 2
    assert "Read-only file system" in text
    assert "ermission denied" in text
    assert code != 0


async def test_volumes_binds_and_read_only(real: Engine, tmp_path: Path) -> None:
    """A volume is filled and kept, a bind is the host's folder, ro is obeyed, the root too."""
    (tmp_path / "host").mkdir()
    host = HostConfig(
        network_mode="none",
        readonly_rootfs=True,
        binds=("vol:/data", f"{tmp_path}/host:/h", f"{tmp_path}/host:/r:ro"),
    )
    code, text = await output(
        real, "cat /data/file; echo new >/data/new; echo x >/h/x; touch /r/y; touch /z", host
    )
    assert text.startswith("of the image\n")
    assert text.count("Read-only file system") == 2
    assert code == 1
    assert (real.volumes.path("vol") / "new").read_text() == "new\n"
    assert (tmp_path / "host" / "x").read_text() == "x\n"


async def test_stop_and_top_and_exec(real: Engine) -> None:
    """A container with --init ends on SIGTERM at once; exec runs inside; top shows its processes."""
    host = HostConfig(network_mode="none", init=True)
    id = await real.run("busy", host, cmd=("sleep", "1000"))
    titles, rows = await real.containers.top("busy", "-o pid,args")
    assert titles == ["PID", "COMMAND"] and any(row[1] == "sleep 1000" for row in rows)
    exec_id = real.containers.exec_create(
        id, ExecConfig(cmd=("sh", "-c", "hostname; exit 9"), attach_stdout=True)
    )
    sock = await real.containers.exec_start(exec_id)
    assert sock is not None
    with sock:
        data = await read_all(sock)
    assert Demultiplexer().feed(data) == [(1, f"{id[:12]}\n".encode())]
    await until(lambda: real.containers.exec_inspect(exec_id).exit_code == 9)
    await real.containers.stop("busy", grace=20)
    assert real.containers.record(id).state.exit_code == 143


async def test_shared_namespaces(real: Engine) -> None:
    """container:NAME is the same network and, with IPC, the same shared memory."""
    host = HostConfig(network_mode="none", ipc_mode="shareable")
    donor = await real.run("donor", host, cmd=("sh", "-c", "echo hi >/dev/shm/x; sleep 1000"))
    pid = real.containers.record(donor).state.pid
    await until(lambda: Path(f"/proc/{pid}/root/dev/shm/x").exists())
    guest = HostConfig(network_mode="container:donor", ipc_mode="container:donor", pid_mode="container:donor")
    _, text = await output(
        real, "readlink /proc/self/ns/net; cat /etc/hostname /dev/shm/x; echo $(cat /proc/1/comm)", guest
    )
    assert text.split() == [str(Path(f"/proc/{pid}/ns/net").readlink()), donor[:12], "hi", "sleep"]


async def test_codes_of_what_cannot_start(real: Engine) -> None:
    """127 not found, 126 not executable; and the container can be removed."""
    for command, code in (("nope", 127), ("/etc/passwd", 126)):
        id = await real.create("", HostConfig(network_mode="none"), cmd=(command,))
        with pytest.raises(TaskFailed) as caught:
            await real.containers.start(id)
        assert caught.value.exit_code == code
        await real.containers.remove(id)


async def test_out_of_memory(real: Engine) -> None:
    """The kernel's kill is recognised."""
    host = HostConfig(network_mode="none", memory=8 << 20, memory_swap=8 << 20)
    code, _ = await output(real, "a=xxxxxxxx; while true; do a=$a$a; done", host)
    assert code == 137
    assert real.containers.records()[0].state.oom_killed


async def test_the_next_engine_has_the_container_and_its_end(real: Engine) -> None:
    """kill -9 of the engine: the container writes on, its code and every line arrive."""
    id = await real.run(
        "long",
        HostConfig(network_mode="none"),
        cmd=("sh", "-c", "echo a; read x; echo b; exit 6"),
        open_stdin=True,
    )
    other = await real.again()
    sock = await other.containers.attach("long", stdin=True)
    ended = other.containers.wait(id)
    with sock:
        await asyncio.get_running_loop().sock_sendall(sock, b"go\n")
        assert (await asyncio.wait_for(ended, 20))[0] == 6
    parts = [part async for part in await other.containers.logs(id, LogsWanted())]
    assert b"".join(data for _, data in Demultiplexer().feed(b"".join(parts))) == b"a\nb\n"
    await other.containers.remove(id)
    await other.containers.shutdown()
    other.metadata.close()
    real.deafen()
    await real.open()
