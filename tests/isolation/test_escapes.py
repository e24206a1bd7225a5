"""Images and options made to reach the host through links: whatever comes of the container, the host
stays out of reach.

Each image has a link where the engine mounts, makes, opens or enters something; the link leads,
absolutely and by climbing up, to a folder of the host with a secret. The start may be refused; the folder
must stay as it was and the secret unread.
"""

import contextlib
import hashlib
import os
import sys
from pathlib import Path

import docker
import pytest

from harness import probe

pytestmark = [pytest.mark.e2e, pytest.mark.kernel]

SH = ["/bin/busybox", "sh", "-c"]
LOOK = "for f in {0} ../../../../../../../..{0} .; do /bin/busybox cat $f/secret; /bin/busybox touch $f/written; done"


@pytest.fixture
def canary(tmp_path):
    """A folder of the host with a secret in it."""
    folder = tmp_path / "canary"
    folder.mkdir()
    (folder / "secret").write_text("the-hosts-secret")
    return folder


@pytest.fixture
def make_image(client, probe_files):
    """``make_image(links)`` imports a root with these links beside the probe's files."""
    names = []

    def make(links, files=None):
        name = f"cais-escape-{len(names)}"
        every = probe_files | (files or {})
        kept = {path: data for path, data in every.items() if not {path, path.split("/")[0]} & links.keys()}
        probe.add_image(client, name, probe.pack(kept, links))
        names.append(name)
        return name

    yield make
    for name in names:
        with contextlib.suppress(docker.errors.APIError):
            client.images.remove(name, force=True)


def run(client, image, command, **options):
    """What the container printed, or the refusal."""
    container = None
    try:
        container = client.containers.create(image, command, **options)
        container.start()
        container.wait(timeout=60)
        return container.logs().decode()
    except docker.errors.APIError as error:
        return f"refused: {error.explanation}"
    finally:
        if container is not None:
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True, v=True)


def is_untouched(canary):
    """Nothing but the unchanged secret is there."""
    return [path.name for path in canary.iterdir()] == ["secret"] and (canary / "secret").stat().st_nlink == 1


CLIMB = "../../../../../../../../../.."

PLACES = {
    "proc": ("proc", {}),
    "sys": ("sys", {}),
    "dev": ("dev", {}),
    "etc": ("etc", {}),
    "hosts": ("etc/hosts", {}),
    "resolv.conf": ("etc/resolv.conf", {}),
    "hostname": ("etc/hostname", {}),
    "workdir": ("work", {"working_dir": "/work/new"}),
    "tmpfs": ("place", {"tmpfs": {"/place/new": ""}}),
    "tmpfs-on-the-link": ("place", {"tmpfs": {"/place": ""}}),
    "volume": ("place", {"volumes": ["/place/new"]}),
    "volume-on-the-link": ("place", {"volumes": ["/place"]}),
    "init": ("sbin", {"init": True}),
}


@pytest.mark.parametrize("way", ["absolute", "climbing"])
@pytest.mark.parametrize("place", PLACES)
def test_a_link_where_the_engine_works_stays_inside(client, make_image, canary, place, way):
    """Mount targets, working folders and the engine's own files resolve inside the container's root."""
    path, options = PLACES[place]
    image = make_image({path: (CLIMB if way == "climbing" else "") + str(canary)})
    output = run(client, image, [*SH, LOOK.format(canary)], **options)
    assert "the-hosts-secret" not in output
    assert is_untouched(canary)


@pytest.mark.parametrize("file", ["hosts", "hostname", "resolv.conf"])
@pytest.mark.parametrize("target", ["/run/none/x", "../run/none/x", "../../../../x"])
def test_a_dangling_link_of_an_ordinary_image_works(client, make_image, file, target):
    """/etc/resolv.conf is a dangling link in many images: the container starts and finds our file behind it."""
    image = make_image({f"etc/{file}": target})
    assert len(run(client, image, ["/bin/busybox", "cat", f"/etc/{file}"])) > 5


@pytest.mark.parametrize("way", ["absolute", "climbing"])
def test_a_bind_below_a_link_stays_inside(client, make_image, canary, tmp_path, way):
    """The target of -v is made inside, whatever links are on its way."""
    source = tmp_path / "source"
    source.mkdir()
    image = make_image({"place": (CLIMB if way == "climbing" else "") + str(canary)})
    output = run(client, image, [*SH, LOOK.format(canary)], volumes=[f"{source}:/place/new"])
    assert "the-hosts-secret" not in output
    assert is_untouched(canary)


@pytest.mark.parametrize("number", range(3, 14))
def test_no_descriptor_of_the_engine_is_a_working_folder(client, canary, number):
    """-w /proc/self/fd/N finds no folder that was left open (CVE-2024-21626)."""
    output = run(client, probe.IMAGE, [*SH, LOOK.format(canary)], working_dir=f"/proc/self/fd/{number}")
    assert "the-hosts-secret" not in output
    assert is_untouched(canary)


@pytest.mark.parametrize("number", range(3, 14))
def test_nor_for_a_later_process(client, canary, number):
    """exec -w /proc/self/fd/N neither, also through a link in the image (CVE-2024-21626)."""
    container = client.containers.create(probe.IMAGE, [*SH, "/bin/busybox sleep 100"])
    try:
        container.start()
        command = [*SH, f"{{ {LOOK.format(canary)}; }} >/proc/1/fd/1 2>&1"]
        with contextlib.suppress(docker.errors.APIError):
            container.exec_run(command, workdir=f"/proc/self/fd/{number}")
        assert "the-hosts-secret" not in container.logs().decode()
        assert is_untouched(canary)
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("file", ["passwd", "group"])
def test_users_are_not_looked_up_on_the_host(client, make_image, canary, tmp_path, file):
    """/etc/passwd and /etc/group that lead to the host's give no names."""
    accounts = tmp_path / "accounts"
    accounts.mkdir()
    (accounts / "passwd").write_text("evil:x:4242:4242::/:/bin/sh\n")
    (accounts / "group").write_text("evil:x:4242:\n")
    image = make_image({f"etc/{file}": CLIMB + str(accounts / file)})
    user = "evil" if file == "passwd" else "0:evil"
    assert "4242" not in run(client, image, ["/bin/busybox", "id"], user=user)


@pytest.mark.parametrize("file", ["passwd", "group"])
def test_an_endless_account_file_does_not_hold_the_start(client, make_image, file):
    """The start of an image whose account file is a device comes to its end."""
    image = make_image({f"etc/{file}": "/dev/zero"})
    assert run(client, image, ["/bin/busybox", "echo", "started"], user="0:0") == "started\n"


def digest_of(path):
    """What a host file holds."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("form", ["link", "script"])
def test_the_interpreter_cannot_be_written_to(client, make_image, form):
    """A program that leads back to /proc/self/exe cannot reach the engine's interpreter (CVE-2019-5736)."""
    interpreter = os.path.realpath(sys.executable)
    before = digest_of(interpreter)
    files = {"bin/back": "#!/proc/self/exe\n"} if form == "script" else {}
    image = make_image({"bin/back": "/proc/self/exe"} if form == "link" else {}, files)
    attack = (
        "for i in 1 2 3 4 5; do /bin/back -c 1 & echo x >/proc/$!/exe; done; echo y >/proc/self/exe; wait"
    )
    run(client, image, [*SH, attack])
    run(client, image, ["/bin/back", "-c", "open('/proc/self/exe', 'r+b').write(b'x')"])
    assert digest_of(interpreter) == before


DUMP = """
/bin/busybox grep rw-p /proc/1/maps | while read range rest; do
  first=$((0x${range%-*})) last=$((0x${range#*-}))
  /bin/busybox dd if=/proc/1/mem bs=4096 skip=$((first / 4096)) count=$(((last - first) / 4096)) 2>/dev/null
done | /bin/busybox tr -c '[:print:]' ' '
"""


def test_process_1_knows_nothing_of_other_containers(client):
    """With --init, who may trace process 1 finds its own container's words there and no others."""
    other = client.containers.create(
        probe.IMAGE, ["/bin/busybox", "sleep", "100"], environment=["PASSWORD=another-containers-secret"]
    )
    try:
        other.start()
        memory = run(client, probe.IMAGE, [*SH, DUMP], init=True, cap_add=["SYS_PTRACE"])
        assert "init" in memory
        assert "another-containers-secret" not in memory
    finally:
        other.remove(force=True)


@pytest.mark.parametrize("options", [{"privileged": True}, {"cap_add": ["SYS_PTRACE"]}])
@pytest.mark.parametrize("tty", [False, True])
def test_a_container_that_may_trace_has_execs_like_any_other(client, options, tty):
    """They start in an interpreter of their own, under the same filter, with output, terminal and exit code."""
    container = client.containers.create(probe.IMAGE, [*SH, "/bin/busybox sleep 100"], **options)
    try:
        container.start()
        grep = "/bin/busybox grep -E 'Seccomp:|CapEff' /proc/1/status /proc/self/status"
        code, output = container.exec_run([*SH, f"{grep}; exit 7"], tty=tty)
        words = [line.split()[-1] for line in output.decode().splitlines()]
        assert code == 7
        assert len(words) == 4 and words[:2] == words[2:]
    finally:
        container.remove(force=True)


@pytest.mark.parametrize("own", [True, False])
def test_a_volume_does_not_stand_for_proc(client, canary, own):
    """Neither a folder of the host nor a volume of an image is taken for procfs (CVE-2019-16884)."""
    output = run(client, probe.IMAGE, [*SH, "exit 0"], volumes=["/proc"] if own else [f"{canary}:/proc"])
    assert output.startswith("refused: ")
    assert is_untouched(canary)


def test_a_group_path_cannot_leave_the_hierarchy(client):
    """--cgroup-parent ../.. is refused."""
    output = run(client, probe.IMAGE, ["/bin/busybox", "true"], cgroup_parent="../../outside")
    assert output.startswith("refused: ")
    assert not list(Path("/sys/fs/cgroup").glob("*/outside"))


@pytest.mark.parametrize("name", ["../outside", "a/b", "..", "/x"])
def test_a_container_cannot_be_named_like_a_path(client, name):
    """Names that would be folders elsewhere are refused."""
    with pytest.raises(docker.errors.APIError, match=r"[Ii]nvalid"):
        client.containers.create(probe.IMAGE, ["/bin/busybox", "true"], name=name)
