"""Committing: the configuration by Docker's rules, the layer by overlayfs's, and nothing half-made."""

import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from cais.errors import Conflict, Invalid, NotFound
from cais.images.commit import CommitRequest, make_defaults, parse_target
from cais.spec.image import ContainerDefaults, Healthcheck
from cais.spec.platform import parse_platform
from cais.spec.runtimespec import RootMount
from cais.store.layers.diff import DiffSource

pytestmark = pytest.mark.kernel

OWN = ContainerDefaults(
    env=("PATH=/bin", "A=b"), entrypoint=("/e",), cmd=("c",), labels={"x": "y"}, user="u", working_dir="/w"
)


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ([], {}),
        (["CMD new"], {"cmd": ("/bin/sh", "-c", "new")}),
        # Recorded from dockerd 28.5.2: a new entry point drops the command.
        (['ENTRYPOINT ["e"]'], {"entrypoint": ("e",), "cmd": ()}),
        (["CMD []"], {"cmd": ()}),
        (["ENV A=c D=e"], {"env": ("PATH=/bin", "A=c", "D=e")}),
        (["LABEL x=z"], {"labels": {"x": "z"}}),
        (["USER root", "WORKDIR sub"], {"user": "root", "working_dir": "/w/sub"}),
    ],
)
def test_changes_over_the_containers_own(changes: list[str], want: dict[str, Any]) -> None:
    """The container's configuration, changed as asked, and its own again where nothing is left."""
    made = make_defaults(OWN, None, changes)
    assert {key: getattr(made, key) for key in want} == want
    assert all(
        getattr(made, key) == getattr(OWN, key)
        for key in ("env", "entrypoint", "cmd", "labels", "user", "working_dir")
        if key not in want
    )


def test_an_empty_command_without_an_entry_point() -> None:
    """Recorded from dockerd 28.5.2: with nothing left to run the container's own command comes back."""
    own = ContainerDefaults(cmd=("sleep", "9"))
    assert make_defaults(own, None, ["CMD []"]).cmd == ("sleep", "9")


def test_a_configuration_of_the_clients() -> None:
    """Docker's rule: what the client leaves empty comes from the container; environment and labels are joined."""
    asked = ContainerDefaults(env=("A=z", "N=1"), entrypoint=("n",), healthcheck=Healthcheck(retries=3))
    own = ContainerDefaults(env=OWN.env, cmd=("c",), healthcheck=Healthcheck(test=("CMD", "t"), retries=1))
    made = make_defaults(own, asked, [])
    assert made.env == ("A=z", "N=1", "PATH=/bin")
    assert (made.entrypoint, made.cmd) == (("n",), ())
    assert made.healthcheck == Healthcheck(test=("CMD", "t"), retries=3)


@pytest.mark.parametrize("repo", ["Upper", "a@sha256:" + "1" * 64, "a b"])
def test_names_that_cannot_be(repo: str) -> None:
    """Refused before anything is read; a tag may come apart from its repository."""
    with pytest.raises(Invalid):
        parse_target(repo, "")
    with pytest.raises(Invalid):
        parse_target("a", "b:c")
    assert parse_target("a", "") == ("docker.io/library/a:latest",) and parse_target("", "x") == ()


@pytest.fixture
async def request_of(store: Any, archives: Any, tmp_path: Path) -> Any:
    """Makes requests for a container of a two-layer image, whose writable folder is ``upper``."""
    await store.load(
        archives.oci((archives.manifest("low", "high", codec="+gzip"), "docker.io/library/app:1"))
    )
    image = await store.images.resolve("app:1")
    lowers = await store.images.root_lowers(image)
    upper = tmp_path / "upper"
    upper.mkdir(mode=0o755)

    def make(**fields: Any) -> CommitRequest:
        mount = RootMount(type="overlay", lower=lowers, upper=str(upper), work=str(tmp_path / "w"))
        fields.setdefault("names", ("docker.io/library/new:1",))
        return CommitRequest(image.id, DiffSource(mount, lowers), ContainerDefaults(), **fields)

    return make


def change(root: Path) -> None:
    """One new file, and one of the image's gone."""
    (root / "upper/etc").mkdir(mode=0o755)
    (root / "upper/etc/new").write_text("new")
    os.mknod(root / "upper/etc/low", stat.S_IFCHR, 0)


async def test_the_image(store: Any, request_of: Any, tmp_path: Path) -> None:
    """One layer on top of the old ones, ready to be mounted, one step of history; the parent is noted."""
    change(tmp_path)
    image = await store.images.commit(request_of(author="me", comment="why", created_by="make it"))
    base = await store.images.resolve("app:1")
    assert image.manifest.layers[:-1] == base.manifest.layers and len(image.diff_ids) == 3
    assert image.config.history[:-1] == base.config.history
    step = image.config.history[-1]
    assert (step.author, step.comment, step.created_by, step.empty_layer) == ("me", "why", "make it", False)
    assert (image.parent, image.names) == (base.id, ("docker.io/library/new:1",))
    top = Path((await store.images.root_lowers(image))[0])
    assert (top / "etc/new").read_text() == "new" and stat.S_ISCHR((top / "etc/low").stat().st_mode)
    with pytest.raises(Conflict, match="dependent child"):
        await store.images.remove(base.id)


async def test_the_layer_is_reproducible(store: Any, request_of: Any, tmp_path: Path) -> None:
    """Two commits of the same files have the same layer, and it is stored once."""
    change(tmp_path)
    one = await store.images.commit(request_of())
    two = await store.images.commit(request_of(names=("docker.io/library/new:2",)))
    assert one.id != two.id and one.manifest.layers == two.manifest.layers


async def test_layers_of_dockers_types(store: Any, archives: Any, tmp_path: Path, request_of: Any) -> None:
    """On a base in Docker's format the new manifest is OCI's throughout: mixed ones are refused by registries."""
    target = archives.manifest("only", codec="+gzip")
    document = json.loads(archives.blobs[str(target["digest"])])
    document["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"
    document["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    document["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    old = archives.put(json.dumps(document).encode(), document["mediaType"])
    await store.load(archives.oci((old, "docker.io/library/old:1")))
    base = await store.images.resolve("old:1")
    lowers = await store.images.root_lowers(base)
    change(tmp_path)
    asked = request_of()
    source = dataclasses.replace(asked.source, lowers=lowers)
    image = await store.images.commit(replace(asked, base=base.id, source=source))
    assert {layer.media_type for layer in image.manifest.layers} == {
        "application/vnd.oci.image.layer.v1.tar+gzip"
    }


async def test_the_platform_is_the_one_the_container_stands_on(
    store: Any, archives: Any, tmp_path: Path, request_of: Any
) -> None:
    """Of an image for several platforms the new one is for the container's, not for the host's."""
    arm = archives.manifest("arm", architecture="arm64")
    index = archives.index(
        {**archives.manifest("amd"), "platform": {"os": "linux", "architecture": "amd64"}},
        {**arm, "platform": {"os": "linux", "architecture": "arm64"}},
    )
    await store.load(archives.oci((index, "docker.io/library/multi:1")))
    image = await store.images.resolve("multi:1", platform=parse_platform("linux/arm64"))
    lowers = await store.images.root_lowers(image)
    change(tmp_path)
    asked = request_of()
    made = await store.images.commit(
        replace(asked, base=image.id, source=dataclasses.replace(asked.source, lowers=lowers))
    )
    assert made.config.architecture == "arm64"


async def test_failures_leave_nothing(store: Any, request_of: Any, tmp_path: Path) -> None:
    """A name that cannot be stored, a container that goes away meanwhile, an image that is not there: an error with
    the object's name, and no blob, layer, name or file."""
    before = sorted(store.leftovers())
    change(tmp_path)

    def gone() -> None:
        raise Conflict("You cannot commit container c which is being removed")

    with pytest.raises(Conflict, match="being removed"):
        await store.images.commit(request_of(check=gone))
    with pytest.raises(NotFound, match="sha256:1111"):
        await store.images.commit(replace(request_of(), base="sha256:" + "1" * 64))
    (tmp_path / "upper/etc/.wh.x").touch()
    with pytest.raises(Invalid, match=r"etc/\.wh\.x"):
        await store.images.commit(request_of())
    assert sorted(store.leftovers()) == before
    assert [image.names for image in await store.images.list()] == [("docker.io/library/app:1",)]
