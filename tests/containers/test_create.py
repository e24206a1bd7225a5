"""Creating: the record, the name, the volumes; and nothing at all after a refusal."""

import asyncio
from pathlib import Path

import pytest

from cais.errors import AlreadyExists, CaisError, Invalid, NotFound, Unsupported
from cais.spec.container import (
    CreateRequest,
    EndpointIpamConfig,
    EndpointSettings,
    HostConfig,
    Mount,
    NetworkingConfig,
    VolumeOptions,
)
from harness.engines import Engine


async def test_the_record_is_merged_with_the_image(engine: Engine) -> None:
    """What inspect shows: the image's variables, its command, the short id as host name."""
    id = await engine.create("one", env=("B=2",))
    record = engine.containers.record("one")
    assert record.command == ("sh",)
    assert record.config.env == ("B=2", "PATH=/bin", "A=image")
    assert record.config.hostname == id[:12]
    assert record.image_id.startswith("sha256:")


@pytest.mark.parametrize(
    ("config", "host", "kind", "message"),
    [
        ({"image": "nope"}, HostConfig(), NotFound, "No such image: nope"),
        ({}, HostConfig(network_mode="nope"), Invalid, "network nope not found"),
        ({}, HostConfig(pid_mode="container:nope"), Invalid, "No such container: nope"),
        ({}, HostConfig(memory=1), Invalid, "6MB"),
        (
            {},
            HostConfig(mounts=(Mount(type="bind", source="/nope/x", target="/a"),)),
            Invalid,
            "bind source path does not exist: /nope/x",
        ),
        ({}, HostConfig(binds=("a:/x",)), Invalid, "volume name is too short"),
        ({}, HostConfig(binds=("..%2f:/x",)), Invalid, "includes invalid characters for a local volume name"),
        ({}, HostConfig(volumes_from=("nope",)), Invalid, "No such container: nope"),
        ({}, HostConfig(security_opt=('seccomp={"defaultAction":"odd"}',)), Invalid, "seccomp"),
    ],
)
async def test_a_refusal_leaves_nothing(
    engine: Engine, config: dict[str, str], host: HostConfig, kind: type[CaisError], message: str
) -> None:
    """No name, no folder, no volume, no event."""
    request = CreateRequest(**{"image": "busybox", **config}, host_config=host)  # type: ignore[arg-type]
    with pytest.raises(kind, match=message):
        await engine.containers.create("name", request)
    assert engine.containers.records() == engine.metadata.list_containers() == engine.volumes.list() == []
    assert list((engine.root / "containers").iterdir()) == []
    assert engine.bus.history(0) == []
    await engine.create("name")


async def test_an_address_on_the_default_bridge_is_refused(engine: Engine) -> None:
    """In Docker's words."""
    wish = EndpointSettings(ipam_config=EndpointIpamConfig(ipv4_address="1.2.3.4"))
    request = CreateRequest(
        image="busybox", networking_config=NetworkingConfig(endpoints_config={"bridge": wish})
    )
    with pytest.raises(Invalid, match="user specified IP address is supported on user defined networks only"):
        await engine.containers.create("", request)


async def test_a_name_clash_at_the_same_moment(engine: Engine) -> None:
    """One of two concurrent creates gets the name."""
    results = await asyncio.gather(*(engine.create("twin") for _ in range(2)), return_exceptions=True)
    assert [type(result) for result in results].count(AlreadyExists) == 1
    assert len(engine.containers.records()) == 1


async def test_a_failure_in_the_middle_unwinds(engine: Engine) -> None:
    """The layers could not be unpacked: name, folder and volumes are gone again."""

    async def broken(image: object) -> tuple[str, ...]:
        raise OSError("disk full")

    engine.images.root_lowers = broken
    with pytest.raises(OSError, match="disk full"):
        await engine.create("name", HostConfig(binds=("fresh:/data",)))
    assert engine.volumes.list() == []
    assert list((engine.root / "containers").iterdir()) == []


async def test_a_failure_after_a_volume_was_made_removes_it(engine: Engine) -> None:
    """But not a volume that was there before."""
    engine.volumes.create("known")

    def broken(*_: object) -> None:
        raise OSError("disk full")

    engine.volumes.prepare_fill = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="disk full"):
        await engine.create("name", HostConfig(binds=("known:/a", "fresh:/b")))
    assert [volume.name for volume in engine.volumes.list()] == ["known"]


async def test_subpaths_of_volumes_are_refused(engine: Engine) -> None:
    """Until they can be opened without a race against those who share the volume (CVE-2017-1002101)."""
    options = VolumeOptions(subpath="sub", no_copy=True)
    mount = Mount(type="volume", source="shared", target="/x", volume_options=options)
    with pytest.raises(Unsupported, match="subpaths of volumes are not supported"):
        await engine.create("", HostConfig(mounts=(mount,)))


async def test_volumes_are_filled_from_the_image_once(engine: Engine) -> None:
    """An empty named volume gets the image's content; one with content is left alone."""
    data = engine.images.layer / "data"
    data.mkdir()
    (data / "file").write_text("of the image")
    host = HostConfig(binds=("vol:/data",))
    await engine.create("one", host)
    path = engine.volumes.path("vol") / "file"
    assert path.read_text() == "of the image"
    path.write_text("of the user")
    await engine.create("two", host)
    assert path.read_text() == "of the user"


async def test_a_killed_filling_leaves_the_volume_empty(engine: Engine) -> None:
    """The next engine's container fills it again, from the beginning."""
    data = engine.images.layer / "data"
    data.mkdir()
    (data / "file").write_text("whole")
    engine.volumes.create("vol")
    half = engine.volumes.path("vol").parent / "_filling"
    half.mkdir()
    (half / "fi").write_text("ha")
    other = await engine.again()
    assert other.volumes.is_empty("vol") and not half.exists()
    await other.create("one", HostConfig(binds=("vol:/data",)))
    assert [path.name for path in other.volumes.path("vol").iterdir()] == ["file"]
    assert not half.exists()


async def test_a_volume_that_is_mounted_keeps_its_folder(engine: Engine) -> None:
    """Filling one that a running container has must not take it from under its feet."""
    data = engine.images.layer / "data"
    data.mkdir()
    (data / "file").write_text("x")
    await engine.create("first", HostConfig(binds=("vol:/elsewhere:nocopy",)))
    before = engine.volumes.path("vol").stat().st_ino
    await engine.create("second", HostConfig(binds=("vol:/data",)))
    assert (engine.volumes.path("vol") / "file").exists()
    assert engine.volumes.path("vol").stat().st_ino == before


async def test_volumes_of_containers_that_were_never_made_are_swept(engine: Engine) -> None:
    """The engine was killed between its volume and its record; one that outlived its container by rm stays."""
    engine.volumes.create(owner="f" * 64)
    await engine.create("one", volumes={"/b": {}})
    kept = engine.containers.record("one").mounts[0].name
    await engine.containers.remove("one")
    other = await engine.again()
    assert [volume.name for volume in other.volumes.list()] == [kept]


async def test_anonymous_volumes_go_with_their_container(engine: Engine) -> None:
    """rm -v removes those nobody named and nobody else mounts."""
    await engine.create("one", HostConfig(binds=("named:/a",)), volumes={"/b": {}})
    await engine.create("two", HostConfig(volumes_from=("one",)))
    await engine.containers.remove("one", volumes=True)
    assert len(engine.volumes.list()) == 2
    await engine.containers.remove("two", volumes=True)
    assert [volume.name for volume in engine.volumes.list()] == ["named"]


async def test_binds_make_their_missing_folder_at_the_start(engine: Engine, tmp_path: Path) -> None:
    """-v does, as Docker; the create alone does not."""
    folder = tmp_path / "new" / "deep"
    id = await engine.create(host=HostConfig(binds=(f"{folder}:/x",)))
    assert not folder.exists()
    await engine.containers.start(id)
    assert folder.is_dir()


async def test_the_etc_files_are_written(engine: Engine) -> None:
    """hosts, hostname and resolv.conf, readable by everyone."""
    id = await engine.run(hostname="box")
    folder = engine.root / "containers" / id
    assert (folder / "hostname").read_text() == "box\n"
    address = engine.containers.record(id).endpoints[0].address
    assert f"{address}\tbox\n" in (folder / "hosts").read_text()
    assert (folder / "resolv.conf").stat().st_mode & 0o777 == 0o644


async def test_list_filters(engine: Engine) -> None:
    """Docker's ps: running ones by default, newest first; filters combine."""
    one = await engine.run("one", labels={"a": "1"})
    two = await engine.create("two", labels={"a": "2"})
    shown = [container.record.id for container in await engine.containers.list()]
    assert shown == [one]
    for filters, ids in (
        ({"label": ["a"]}, [two, one]),
        ({"label": ["a=2"]}, [two]),
        ({"name": ["^/on"]}, [one]),
        ({"status": ["created"]}, [two]),
        ({"ancestor": ["busybox"]}, [two, one]),
        ({"before": ["two"]}, [one]),
        ({"since": ["one"]}, [two]),
        ({"id": [two[:6]], "status": ["created", "running"]}, [two]),
    ):
        found = await engine.containers.list(all=True, filters=filters)
        assert [container.record.id for container in found] == ids, filters
    with pytest.raises(Invalid, match="invalid filter 'odd'"):
        await engine.containers.list(filters={"odd": ["1"]})


async def test_a_hostile_name_filter_cannot_hold_the_engine(engine: Engine) -> None:
    """Patterns that backtrack for ages meet a long name: the answer comes at once."""
    await engine.create("a" * 200)
    for pattern in ("(a+)+b", "(a|aa)+$b", "a*a*a*a*a*a*a*a*b", "(?:a*)*b", "[a]*[a]*[a]*[a]*[a]*b", "(((("):
        found = await asyncio.wait_for(engine.containers.list(all=True, filters={"name": [pattern]}), 2)
        assert found == []
    for pattern in ("^/a+$", "aaa", "a.*a", "^a"):
        assert len(await engine.containers.list(all=True, filters={"name": [pattern]})) == 1
