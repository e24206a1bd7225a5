"""What -v, --mount and --tmpfs mean, and which of them are refused."""

import pytest

from cais.containers.mountspec import parse_bind, parse_mount, plan_mounts, tmpfs_words
from cais.containers.record import MountPoint
from cais.errors import Invalid
from cais.spec.container import BindOptions, HostConfig, Mount, TmpfsOptions, VolumeOptions


def test_an_absolute_source_is_a_bind() -> None:
    """-v /host:/inside:ro,rslave."""
    point = parse_bind("/host/./a:/inside:ro,rslave")
    assert (point.type, point.source, point.destination) == ("bind", "/host/a", "/inside")
    assert (point.rw, point.propagation, point.create_source) == (False, "rslave", True)


def test_another_source_is_a_volume() -> None:
    """-v name:/data is filled from the image unless nocopy is said."""
    assert parse_bind("name:/data").copy_up
    assert not parse_bind("name:/data:nocopy").copy_up


def test_a_lone_target_is_an_anonymous_volume() -> None:
    """-v /data."""
    point = parse_bind("/data")
    assert (point.type, point.name, point.anonymous) == ("volume", "", True)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "invalid volume specification: ''"),
        (":/x", "invalid volume specification: ':/x'"),
        ("a:b:c:d", "invalid volume specification: 'a:b:c:d'"),
        ("/a:/b:rw,ro", "invalid mode: rw,ro"),
        ("/a:/b:z,Z", "invalid mode: z,Z"),
        ("/a:/b:nope", "invalid mode: nope"),
        ("/a:/", "destination can't be '/'"),
        ("/a:/..", "destination can't be '/'"),
        ("/a:b", "mount path must be absolute"),
        ("/a:/x/../proc/", "cannot be replaced"),
        ("name:/b:shared", "field BindOptions must not be specified"),
        ("/a:ro", "invalid volume specification"),
    ],
)
def test_wrong_binds_are_refused_in_dockers_words(raw: str, message: str) -> None:
    """Scripts look for these texts."""
    with pytest.raises(Invalid) as caught:
        parse_bind(raw)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        (Mount(type="bind", target="/a"), 'for type "bind": field Source must not be empty'),
        (Mount(type="bind", source="/a"), "field Target must not be empty"),
        (Mount(type="tmpfs", source="/a", target="/b"), "field Source must not be specified"),
        (Mount(type="bind", source="a", target="/b"), "mount path must be absolute"),
        (Mount(type="odd", target="/b"), "mount type unknown"),
        (
            Mount(type="bind", source="/a", target="/b", volume_options=VolumeOptions()),
            "VolumeOptions must not be specified",
        ),
        (
            Mount(type="bind", source="/a", target="/b", bind_options=BindOptions(propagation="x")),
            "invalid propagation mode: x",
        ),
        (
            Mount(
                type="bind",
                source="/a",
                target="/b",
                bind_options=BindOptions(read_only_force_recursive=True),
            ),
            "mount options conflict: !ReadOnly",
        ),
        (
            Mount(type="volume", source="v1", target="/b", volume_options=VolumeOptions(subpath="a/../../b")),
            "subpath must be a relative path within the volume",
        ),
        (
            Mount(type="volume", target="/b", volume_options=VolumeOptions(subpath="a")),
            "must not set Subpath when using anonymous volumes",
        ),
    ],
)
def test_wrong_mounts_are_refused_in_dockers_words(mount: Mount, message: str) -> None:
    """invalid mount config for type …: why."""
    with pytest.raises(Invalid) as caught:
        parse_mount(mount)
    assert message in str(caught.value)


def test_mount_tmpfs_options() -> None:
    """--mount type=tmpfs,tmpfs-size=…,tmpfs-mode=…"""
    options = TmpfsOptions(size_bytes=1024, mode=0o700)
    assert (
        parse_mount(Mount(type="tmpfs", target="/t", tmpfs_options=options)).options == "mode=700,size=1024"
    )


def test_later_tmpfs_words_replace_dockers_defaults() -> None:
    """exec undoes the default noexec; what is not named stays."""
    words = tmpfs_words("exec,size=64m,rw")
    assert {"exec", "nosuid", "nodev", "size=64m", "rw"} <= set(words)
    assert "noexec" not in words


@pytest.mark.parametrize("word", ["bad", "size", "mode", "upperdir=/etc", "ro=1"])
def test_unknown_tmpfs_words_are_refused(word: str) -> None:
    """Nothing but a tmpfs's own options reaches the mount call."""
    with pytest.raises(Invalid, match="invalid tmpfs option"):
        tmpfs_words(word)


@pytest.mark.parametrize(
    "host",
    [
        HostConfig(binds=("/a:/x", "/b:/x/")),
        HostConfig(binds=("/a:/x",), tmpfs={"/x": ""}),
        HostConfig(binds=("/a:/x",), mounts=(Mount(type="tmpfs", target="/x"),)),
    ],
)
def test_two_mounts_at_one_place_are_refused(host: HostConfig) -> None:
    """However they were asked for."""
    with pytest.raises(Invalid, match="Duplicate mount point: /x"):
        plan_mounts(host, (), {})


def test_image_volumes_yield_to_what_the_user_mounts() -> None:
    """An anonymous volume only where nothing else is; parents come before children."""
    host = HostConfig(binds=("/a:/data/deep",), tmpfs={"/run": ""})
    points = plan_mounts(host, (), {"/data": {}, "/data/deep": {}, "/run": {}})
    assert [(point.destination, point.type) for point in points] == [
        ("/data", "volume"),
        ("/data/deep", "bind"),
    ]


def test_own_mounts_win_over_volumes_from() -> None:
    """--volumes-from gives what the command line does not."""
    theirs = (
        MountPoint(type="volume", destination="/a", name="v1"),
        MountPoint(type="bind", destination="/b"),
    )
    points = plan_mounts(HostConfig(binds=("/mine:/b",)), theirs, {})
    assert [(point.destination, point.source or point.name) for point in points] == [
        ("/a", "v1"),
        ("/b", "/mine"),
    ]
