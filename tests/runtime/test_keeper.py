"""Real containers, started by a real keeper on the real kernel."""

import asyncio
import itertools
import json
import os
import resource
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from cais.errors import CaisError, Conflict, NotFound, TaskFailed, Unavailable
from cais.linux.cgroups.detect import detect
from cais.runtime.base import ExecStart, LogOptions
from cais.spec.runtimespec import Box as Size
from cais.spec.runtimespec import CpuLimits, Mount, Process, Resources, Rlimit, User
from harness.boxes import DEADLINE, Box, frames, read_all, wait_readable

pytestmark = pytest.mark.kernel
TRIES = 40


async def test_a_program_runs_isolated_and_its_exit_code_arrives(box: Box) -> None:
    """Own pid, host name and root; output of both streams; the code as given."""
    code, text = await box.run("sh", "-c", "echo $$; hostname; ls /; echo err >&2; exit 7")
    assert code == 7
    assert (
        text.split() == ["1", "box", *["bin", "dev", "etc", "proc", "root", "sys", "tmp"], "err"]
        or "err" in text
    )


async def test_only_the_three_standard_descriptors_are_open(box: Box) -> None:
    """Nothing of the keeper or of other containers leaks into the program (CVE-2024-21626)."""
    await box.start_loop("other")
    _, text = await box.run("sh", "-c", "exec ls /proc/self/fd")
    assert text.split() == ["0", "1", "2", "3"]  # 3 is the folder that ls reads


async def test_the_environment_is_only_what_was_asked_for(box: Box) -> None:
    """Nothing of the engine's environment leaks; HOME comes from the user's entry."""
    _, text = await box.run("env", env=("PATH=/bin", "A=b=c"), user=User(username="app"))
    assert sorted(text.split()) == ["A=b=c", "HOME=/app", "PATH=/bin"]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (User(), "uid=0(root) gid=0(root) groups=0(root)"),
        (User(username="app"), "uid=7(app) gid=8(app) groups=8(app),9(extra)"),
        (User(username="12:34"), "uid=12 gid=34 groups=34"),
        (
            User(username="app:root", group_add=("extra", "77")),
            "uid=7(app) gid=0(root) groups=0(root),9(extra),77",
        ),
    ],
)
async def test_users_are_looked_up_in_the_image(box: Box, user: User, expected: str) -> None:
    """Names, numbers, groups and --group-add, as Docker resolves them."""
    assert (await box.run("id", user=user))[1].strip() == expected


async def test_an_unknown_user_is_refused(box: Box) -> None:
    """The error is Docker's, however early the child fails, and nothing of the task stays."""
    for number in range(10):
        with pytest.raises(TaskFailed, match="unable to find user who: no matching entries in passwd file"):
            await box.start(f"run{number}", "true", user=User(username="who"))
    assert not await box.driver.list()


@pytest.mark.parametrize(
    ("program", "code", "text"),
    [
        ("nosuch", 127, "executable file not found in $PATH"),
        ("/nosuch", 127, "no such file or directory"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc", 126, "is a directory"),
    ],
)
async def test_a_program_that_cannot_run_fails_the_start(
    box: Box, program: str, code: int, text: str
) -> None:
    """The cause comes back, with the exit code that Docker's clients derive."""
    with pytest.raises(TaskFailed, match=text.replace("$", r"\$")) as caught:
        await box.start("run", program)
    assert caught.value.exit_code == code


async def test_a_terminal_has_a_size_and_passes_input(box: Box) -> None:
    """A pty of the container's own, resizable, echoing."""
    sock = await box.driver.attach("run", "", stdin=True, stdout=True, stderr=True)
    command = ("sh", "-c", "stty size; tty; read x; stty size; echo got $x")
    await box.start("run", *command, terminal=True, console_size=Size(11, 22))
    await box.driver.resize("run", "", 33, 77)
    await asyncio.get_running_loop().sock_sendall(sock, b"hello\r")
    text = (await read_all(sock)).decode()
    sock.close()
    assert "/dev/pts/0" in text and "33 77" in text and text.endswith("got hello\r\n")
    assert (await box.ended()).code == 0


async def test_the_end_of_input_reaches_the_program(box: Box) -> None:
    """Half-closing the client's side ends the program's standard input, and output still arrives."""
    sock = await box.driver.attach("run", "", stdin=True, stdout=True, stderr=True)
    request = box.request(
        "run", box.spec("run", "sh", "-c", "wc -c; echo end"), open_stdin=True, stdin_once=True
    )
    await box.driver.start(request)
    await asyncio.get_running_loop().sock_sendall(sock, b"x" * 300_000)
    sock.shutdown(socket.SHUT_WR)
    output = b"".join(data for _, data in frames(await read_all(sock)))
    sock.close()
    assert output.split() == [b"300000", b"end"]
    await box.ended()


async def test_streams_are_told_apart(box: Box) -> None:
    """Frames carry 1 for standard output, 2 for standard error."""
    sock = await box.driver.attach("run", "", stdin=False, stdout=False, stderr=True)
    await box.start("run", "sh", "-c", "echo out; echo err >&2")
    assert frames(await read_all(sock)) == [(2, b"err\n")]
    sock.close()
    await box.ended()


async def test_an_exec_joins_the_container(box: Box) -> None:
    """Same namespaces, cgroup and root; its own exit code, user and output."""
    await box.start_loop()
    sock = await box.driver.attach("run", "e1", stdin=False, stdout=True, stderr=True)
    command = (
        "sh",
        "-c",
        "hostname; cat /proc/1/comm; cat /proc/self/cgroup | grep -vc ':/$'; id -u; exit 3",
    )
    process = Process(args=command, env=("PATH=/bin",), user=User(username="nobody"))
    await box.driver.exec(ExecStart("run", "e1", process))
    output = b"".join(data for _, data in frames(await read_all(sock)))
    sock.close()
    assert output.split() == [b"box", b"sh", b"0", b"65534"]
    assert (await box.ended()).code == 3


async def test_an_exec_of_nothing_fails(box: Box) -> None:
    """The task goes on."""
    await box.start_loop()
    with pytest.raises(TaskFailed, match="not found"):
        await box.driver.exec(ExecStart("run", "e1", Process(args=("nosuch",))))
    for number in range(10):
        nobody = Process(args=("true",), user=User(username="who"))
        with pytest.raises(TaskFailed, match="unable to find user who"):
            await box.driver.exec(ExecStart("run", f"u{number}", nobody))
    assert len(await box.driver.list()) == 1


async def test_signals_reach_the_program(box: Box) -> None:
    """A handled SIGTERM ends it in its own way, SIGKILL with 137."""
    await box.start_loop()
    await box.driver.kill("run", signal.SIGTERM)
    assert (await box.ended()).code == 5
    await box.start_loop()
    await box.driver.kill("run", signal.SIGKILL)
    assert (await box.ended()).code == 137
    with pytest.raises(NotFound):
        await box.driver.kill("run", signal.SIGKILL)


async def test_pause_stops_and_resume_goes_on(box: Box) -> None:
    """A paused task refuses execs and a second pause."""
    await box.start_loop()
    await box.driver.pause("run")
    with pytest.raises(Conflict):
        await box.driver.pause("run")
    with pytest.raises(Conflict, match="paused"):
        await box.driver.exec(ExecStart("run", "e1", Process(args=("true",))))
    await box.driver.resume("run")
    await box.driver.kill("run", signal.SIGTERM)
    assert (await box.ended()).code == 5


async def test_init_passes_signals_and_collects_orphans(box: Box) -> None:
    """With --init process 1 is ours, orphans do not stay as zombies, and the exit code is the program's."""
    script = (
        'tr -d "\\0" < /proc/1/cmdline; trap "exit 9" TERM; sh -c "sleep 0.01 &"; '
        'while true; do sleep 0.05; ps | grep -c "[d]efunct"; done'
    )
    spec = box.spec("run", "sh", "-c", script)
    spec = type(spec)(
        **{f: getattr(spec, f) for f in spec.__struct_fields__} | {"annotations": {"cais.init": "true"}}
    )
    sock = await box.driver.attach("run", "", stdin=False, stdout=True, stderr=True)
    await box.driver.start(box.request("run", spec))
    output = b""
    while not output.endswith(b"0\n"):
        output += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 100), 20)
    await box.driver.kill("run", signal.SIGTERM)
    assert (await box.ended()).code == 9
    sock.close()
    assert b"cais-init" in output and b"python" not in output


async def test_a_limit_is_set(box: Box) -> None:
    """RLIMIT_NOFILE as asked for."""
    limits = (Rlimit("RLIMIT_NOFILE", 100, 200),)
    assert (await box.run("sh", "-c", "ulimit -n; ulimit -Hn", rlimits=limits))[1].split() == ["100", "200"]


async def test_a_limit_that_the_kernel_refuses_leaves_nothing(box: Box) -> None:
    """The child that waits for its group is gone, and so is the group; the same name starts afterwards."""
    first = (await box.start("first", "sleep", "100")).pid
    spec = box.spec("run", "true")
    limits = Resources(cpu=CpuLimits(cpus="4095"))
    refused = msgspec.structs.replace(spec, linux=msgspec.structs.replace(spec.linux, resources=limits))
    with pytest.raises(OSError, match="4095"):
        await box.driver.start(box.request("run", refused))
    assert detect().children(box.cgroup) == {"first"}
    assert (await box.run("echo", "again"))[1] == "again\n"
    parent = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
    assert Path(f"/proc/{parent}/task/{parent}/children").read_text().split() == [str(first)]


def mounts_held(pid: int) -> list[str]:
    """The mount namespaces that a process has open."""
    links = (os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd"))
    return [link for link in links if link.startswith("mnt:")]


async def test_a_containers_mounts_end_with_it(box: Box) -> None:
    """The keeper holds them until it has told the exit, and no longer; those of a start that fails too."""
    state = await box.start("run", "sleep", "100")
    keeper = int(Path(f"/proc/{state.pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert mounts_held(keeper) == [os.readlink(f"/proc/{state.pid}/ns/mnt")]
    with pytest.raises(TaskFailed):
        await box.start("other", "/nowhere")
    assert len(mounts_held(keeper)) == 1
    await box.driver.kill("run", signal.SIGKILL)
    await box.ended()
    await box.driver.list()  # answered after the keeper has done with the end
    assert mounts_held(keeper) == []


async def test_mount_targets_are_made_and_stay_inside(box: Box) -> None:
    """A bind's target is created; a link in the image that points to the host leads to the image's own path."""
    folder = box.base / "shared"
    folder.mkdir()
    (folder / "file").write_text("from the host")
    upper = box.base / "run" / "upper"
    upper.mkdir(parents=True, exist_ok=True)
    (upper / "escape").symlink_to(str(box.base))
    mount = Mount("/escape/deep/er", str(folder), "bind", ("rbind", "ro"))
    spec = box.spec("run", "sh", "-c", "cat /escape/deep/er/file; touch /escape/deep/er/x", mounts=(mount,))
    code, text = await box.run_spec(box.request("run", spec))
    assert text.startswith("from the host") and code != 0 and "Read-only" in text
    assert not (box.base / "deep").exists()


@pytest.mark.parametrize("target", ["/proc", "/proc/self", "/proc/sys/kernel"])
async def test_nothing_is_mounted_over_proc(box: Box, target: str) -> None:
    """procfs cannot be faked from an image or a volume (CVE-2019-16884, CVE-2023-27561)."""
    folder = box.base / "fake"
    folder.mkdir()
    spec = box.spec("run", "true", mounts=(Mount(target, str(folder), "bind", ("rbind",)),))
    with pytest.raises(TaskFailed, match="cannot be mounted because it is"):
        await box.driver.start(box.request("run", spec))


async def test_an_image_whose_proc_is_a_link_is_refused(box: Box) -> None:
    """Else masks would be put on something else than what the program sees (CVE-2019-19921)."""
    upper = box.base / "run" / "upper"
    (upper / "elsewhere").mkdir(parents=True)
    (upper / "proc").symlink_to("elsewhere")
    with pytest.raises(TaskFailed, match="make mounts"):
        await box.start("run", "true")


async def test_masks_hide_and_readonly_paths_refuse(box: Box) -> None:
    """A masked file is empty, a masked folder too, and /proc/sys cannot be written."""
    script = "wc -c < /proc/keys; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/panic"
    code, text = await box.run("sh", "-c", script)
    assert sorted(text.split()[:2]) == ["0", "0"] and "Read-only" in text and code


async def test_the_interpreter_cannot_be_overwritten_from_inside(box: Box) -> None:
    """The file behind the keeper's /proc/<pid>/exe is this interpreter on a read-only mount (CVE-2019-5736)."""
    path = f"/proc/{box.driver.pid}/exe"
    assert Path(path).stat().st_ino == Path(sys.executable).stat().st_ino
    assert os.statvfs(path).f_flag & os.ST_RDONLY and not os.statvfs(sys.executable).f_flag & os.ST_RDONLY


async def test_a_log_holds_every_line_in_order(box: Box) -> None:
    """A storm of output arrives whole, as Docker's JSON lines."""
    await box.start("run", "sh", "-c", "seq 1 50000; printf end")
    await box.ended()
    lines = [json.loads(line) for line in (box.base / "run" / "log").read_bytes().splitlines()]
    assert "".join(line["log"] for line in lines) == "".join(f"{n}\n" for n in range(1, 50001)) + "end"
    assert {line["stream"] for line in lines} == {"stdout"}


async def test_a_full_disk_does_not_stop_the_container(box: Box) -> None:
    """A log that cannot be written loses lines, not the program."""
    request = box.request(
        "run", box.spec("run", "sh", "-c", "seq 1 1000; exit 4"), log=LogOptions("json-file", "/dev/full")
    )
    await box.driver.start(request)
    assert (await box.ended()).code == 4


async def test_a_slow_client_makes_the_program_wait_and_loses_nothing(box: Box) -> None:
    """Backpressure instead of memory without end."""
    sock = await box.driver.attach("run", "", stdin=False, stdout=True, stderr=True)
    await box.start("run", "seq", "1", "400000")
    output = b"".join(data for _, data in frames(await read_all(sock)))
    sock.close()
    assert output == b"".join(b"%d\n" % n for n in range(1, 400001))
    await box.ended()


async def test_a_killed_keeper_is_replaced_and_nothing_notices(box: Box) -> None:
    """kill -9 of the keeper: containers live on, log on, and their exit codes arrive."""
    await box.start_loop()
    old = box.driver.pid
    keeper = os.pidfd_open(old)
    os.kill(old, signal.SIGKILL)
    await wait_readable(keeper)
    os.close(keeper)
    while box.driver.pid == old or not await tasks_of(box):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    sock = await box.driver.attach("run", "", stdin=False, stdout=True, stderr=True)
    assert b"tick" in await asyncio.get_running_loop().sock_recv(sock, 100)
    sock.close()
    await box.driver.kill("run", signal.SIGTERM)
    assert (await box.ended()).code == 5


async def tasks_of(box: Box) -> bool:
    """Whether the keeper is there and knows a task."""
    try:
        return bool(await box.driver.list())
    except Unavailable:
        return False


async def test_a_keeper_without_descriptors_to_spare_refuses_and_goes_on(box: Box) -> None:
    """Whichever of the many it lacks: an error or a success, nothing is left open, and the next one works."""
    await box.start_loop()
    command = ExecStart("run", "e", Process(args=("true",), env=("PATH=/bin",)))

    async def execute(name: str) -> None:
        await box.driver.exec(replace(command, exec_id=name))

    async def start(name: str) -> None:
        await box.start(name, "true")

    for act in (execute, start):
        await act("first")
        assert (await box.ended()).code == 0
        before = set(map(int, os.listdir(f"/proc/{box.driver.pid}/fd")))
        lowest, refused = next(number for number in itertools.count() if number not in before), 0
        limits = resource.prlimit(box.driver.pid, resource.RLIMIT_NOFILE)
        for limit in range(lowest, lowest + TRIES):
            resource.prlimit(box.driver.pid, resource.RLIMIT_NOFILE, (limit, limits[1]))
            try:
                await asyncio.wait_for(act(f"{act.__name__}{limit}"), DEADLINE)
            except (CaisError, OSError):
                refused += 1
            else:
                await box.ended()
        resource.prlimit(box.driver.pid, resource.RLIMIT_NOFILE, limits)
        assert 3 < refused < TRIES
        await act("last")
        assert (await box.ended()).code == 0
        assert len(os.listdir(f"/proc/{box.driver.pid}/fd")) == len(before)
        assert len(await box.driver.list()) == 1
