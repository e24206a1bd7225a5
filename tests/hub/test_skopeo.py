"""skopeo against a hub with accounts: what it may after a login, and what it is refused; podman the same where
CAIS_RIVALS names a root that has it."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.accounts import PASSWORD, copy_people, open_desk
from harness.hub import LiveHub, running_hub
from harness.wire import MANIFEST, describe, format_image, sha256

RIVALS = os.environ.get("CAIS_RIVALS", "")
TOOL = os.environ.get("CAIS_RIVALS_TOOL", "rivals")
WRONG = "wrong horse 7"
pytestmark = [pytest.mark.slow, pytest.mark.e2e]
needs_skopeo = pytest.mark.skipif(not shutil.which("skopeo"), reason="no skopeo: install the package skopeo")


@dataclass(frozen=True)
class Town:
    """A hub whose ``alice`` has a private namespace, and what its people keep."""

    hub: LiveHub
    robot: str
    secret: str
    """The robot's, which may pull from alice's namespace."""
    limited: str
    """A token of alice's that is good for one repository."""


async def prepare(root: Path) -> tuple[str, str, str]:
    """The robot, its secret, and the token."""
    copy_people(root)
    async with open_desk(root) as desk:
        alice = await desk.login("alice")
        await desk.people.namespaces.change("alice", alice, {"private": True})
        robot, secret = await desk.people.robots.add("alice", "ci", ["pull"], 0, alice)
        return robot, secret, await desk.token("alice", "alice/one:pull,push")


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    """On this machine's loopback."""
    robot, secret, limited = asyncio.run(prepare(tmp_path / "hub"))
    with running_hub(tmp_path / "hub", "--no-open") as hub:
        yield Town(hub, robot, secret, limited)


@dataclass(frozen=True)
class Skopeo:
    """The command, with a file of its own for what it keeps of logins. ``{hub}`` is the hub's address."""

    folder: Path
    address: str

    def run(self, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """One command to its end."""
        environment = {
            **os.environ,
            "HOME": str(self.folder),
            "REGISTRY_AUTH_FILE": str(self.folder / "auth"),
        }
        command = ["skopeo", "--insecure-policy", *(word.replace("{hub}", self.address) for word in words)]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, cwd=self.folder, timeout=60
        )

    def say(self, *words: str, stdin: str = "") -> str:
        """What it prints; it must succeed."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def fail(self, *words: str, stdin: str = "") -> str:
        """Why it does not; it must fail."""
        done = self.run(*words, stdin=stdin)
        assert done.returncode != 0, (words, done.stdout)
        return done.stderr

    def login(self, name: str, secret: str = PASSWORD) -> str:
        """What it says when it must succeed."""
        words = ("login", "--tls-verify=false", "-u", name, "--password-stdin", "{hub}")
        return self.say(*words, stdin=secret)

    def copy(self, *words: str) -> tuple[str, ...]:
        """The words of a copy that changes nothing."""
        plain = ("--src-tls-verify=false", "--dest-tls-verify=false")
        return ("copy", "-q", *plain, *words)


@pytest.fixture
def skopeo(town: Town, tmp_path: Path) -> Skopeo:
    """With the image ``oci:image:1`` in its folder."""
    folder = tmp_path / "skopeo"
    folder.mkdir()
    write_layout(folder / "image")
    return Skopeo(folder, town.hub.address)


def write_layout(folder: Path) -> str:
    """An OCI layout with one image, ``1``; its digest."""
    layer = bytes(10240)  # a tar without files
    diffs = {"type": "layers", "diff_ids": [sha256(layer)]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": diffs}).encode()
    manifest = format_image(config, [layer])
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for data in (layer, config, manifest):
        (blobs / sha256(data).partition(":")[2]).write_bytes(data)
    entry = describe(manifest, MANIFEST, annotations={"org.opencontainers.image.ref.name": "1"})
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return sha256(manifest)


@needs_skopeo
def test_a_day_with_skopeo(skopeo: Skopeo, town: Town) -> None:
    """It logs in, pushes from a layout and from an archive, looks, lists, pulls and deletes; then it logs out."""
    inspect = ("inspect", "--tls-verify=false")
    layout = json.loads((skopeo.folder / "image" / "index.json").read_text())
    assert "Login Succeeded" in skopeo.login("alice")
    skopeo.say(*skopeo.copy("--preserve-digests", "oci:image:1", "docker://{hub}/alice/app:1"))
    seen = json.loads(skopeo.say(*inspect, "docker://{hub}/alice/app:1"))
    assert (seen["Digest"], seen["RepoTags"]) == (layout["manifests"][0]["digest"], ["1"])

    skopeo.say(*skopeo.copy("docker://{hub}/alice/app:1", "docker-archive:app.tar:app:2"))
    skopeo.say(*skopeo.copy("docker-archive:app.tar:app:2", "docker://{hub}/alice/app:2"))
    one, two = (
        json.loads(skopeo.say(*inspect, "--config", f"docker://{{hub}}/alice/app:{tag}")) for tag in "12"
    )
    assert one["rootfs"] == two["rootfs"]
    tags = json.loads(skopeo.say("list-tags", "--tls-verify=false", "docker://{hub}/alice/app"))["Tags"]
    assert tags == ["1", "2"]

    skopeo.say(*skopeo.copy("--preserve-digests", "docker://{hub}/alice/app:1", "oci:back:1"))
    assert (
        json.loads((skopeo.folder / "back" / "index.json").read_text())["manifests"][0]["digest"]
        == (seen["Digest"])
    )
    skopeo.say("delete", "--tls-verify=false", "docker://{hub}/alice/app:1")
    assert "manifest unknown" in skopeo.fail(*inspect, "docker://{hub}/alice/app:1").lower()
    skopeo.say(*inspect, "docker://{hub}/alice/app:2")
    skopeo.say("logout", "{hub}")
    assert is_refused(skopeo.fail(*inspect, "docker://{hub}/alice/app:2"))


def is_refused(error: str) -> bool:
    """Whether it was for want of a right, and of nothing else."""
    return any(
        word in error.lower()
        for word in ("unauthorized", "denied", "invalid username/password", "authentication required")
    )


@needs_skopeo
def test_skopeo_with_a_wrong_password(skopeo: Skopeo, town: Town) -> None:
    """Is told so, keeps nothing, and what it tries with it is refused."""
    words = ("login", "--tls-verify=false", "--password-stdin", "{hub}", "-u")
    for name, secret in (
        ("alice", WRONG),
        ("nobody", PASSWORD),
        (town.robot, PASSWORD),
        ("bob", town.secret),
    ):
        assert "invalid username/password" in skopeo.fail(*words, name, stdin=secret)
    auth = skopeo.folder / "auth"
    assert not auth.exists() or not json.loads(auth.read_text()).get("auths")
    push = skopeo.copy("--dest-creds", f"alice:{WRONG}", "oci:image:1", "docker://{hub}/alice/app:1")
    assert is_refused(skopeo.fail(*push))
    assert "Login Succeeded" in skopeo.login("alice")


@needs_skopeo
def test_skopeo_without_the_right(skopeo: Skopeo, town: Town) -> None:
    """Others, a robot that only pulls, and a token for another repository get no further than they may."""
    alice, robot = f"alice:{PASSWORD}", f"{town.robot}:{town.secret}"
    skopeo.say(*skopeo.copy("--dest-creds", alice, "oci:image:1", "docker://{hub}/alice/app:1"))
    skopeo.say(*skopeo.copy("--src-creds", robot, "docker://{hub}/alice/app:1", "dir:pulled"))
    limited = f"alice:{town.limited}"
    skopeo.say(*skopeo.copy("--dest-creds", limited, "oci:image:1", "docker://{hub}/alice/one:1"))
    for who in (f"bob:{PASSWORD}", robot, limited):
        for name in ("alice/app:2", "carol/app:1"):
            assert is_refused(
                skopeo.fail(*skopeo.copy("--dest-creds", who, "oci:image:1", f"docker://{{hub}}/{name}"))
            )
    for who in (f"bob:{PASSWORD}", limited):
        assert is_refused(
            skopeo.fail("inspect", "--tls-verify=false", "--creds", who, "docker://{hub}/alice/app:1")
        )
    for who in (f"bob:{PASSWORD}", robot, limited):
        skopeo.fail("delete", "--tls-verify=false", "--creds", who, "docker://{hub}/alice/app:1")
    skopeo.say("inspect", "--tls-verify=false", "--creds", alice, "docker://{hub}/alice/app:1")


# podman, in a root of its own on this machine's network


@pytest.fixture
def podman(town: Town) -> Iterator[Callable[[str], "subprocess.CompletedProcess[str]"]]:
    """Runs a shell script in the rivals' root with the hub's address as $HUB; ``podman`` is a function there."""
    share = Path(RIVALS, "share", f"podman-{os.getpid()}")
    share.mkdir()
    write_layout(share / "image")
    start = (
        f"cd /share/{share.name}; export HUB={town.hub.address} HOME=$PWD REGISTRY_AUTH_FILE=$PWD/auth; "
        'podman() { command podman --root $PWD/st --runroot $PWD/run --storage-driver vfs "$@"; }; '
    )

    def run(script: str) -> "subprocess.CompletedProcess[str]":
        command = [TOOL, "sh", RIVALS, "sh", "-ec", start + script]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, share)
        yield run


@pytest.mark.skipif(not RIVALS, reason="needs CAIS_RIVALS")
@pytest.mark.rival
@pytest.mark.kernel
def test_podman(podman: Callable[[str], "subprocess.CompletedProcess[str]"]) -> None:
    """As skopeo: it logs in, pushes and pulls; a wrong password, another's namespace and who logged out are refused."""
    login = "printf %s '{secret}' | podman login --tls-verify=false -u {name} --password-stdin $HUB; "
    wrong = podman(login.format(name="alice", secret=WRONG))
    assert wrong.returncode != 0, wrong.stdout
    done = podman(
        login.format(name="alice", secret=PASSWORD)
        + "id=$(podman pull -q oci:image:1); podman tag $id $HUB/alice/app:1; "
        "podman push -q --tls-verify=false $HUB/alice/app:1; podman rmi -a -f >/dev/null; "
        "podman pull -q --tls-verify=false $HUB/alice/app:1; podman logout $HUB"
    )
    assert done.returncode == 0, done.stderr
    for name in ("", login.format(name="bob", secret=PASSWORD)):
        done = podman(
            f"{name}podman rmi -a -f >/dev/null; podman pull -q --tls-verify=false $HUB/alice/app:1"
        )
        assert done.returncode != 0 and is_refused(done.stderr), done
