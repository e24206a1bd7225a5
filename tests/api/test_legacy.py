"""Create requests of older API versions."""

import pytest

from cais.api.legacy import adapt_create
from cais.errors import Invalid
from cais.spec.container import CreateRequest, parse_create


def create(mount: str) -> CreateRequest:
    """A request with one mount."""
    return parse_create(b'{"HostConfig":{"Mounts":[' + mount.encode() + b"]}}")


def test_shareable_ipc() -> None:
    """Before API 1.40 IPC namespaces could be joined by default."""
    assert adapt_create(CreateRequest(), (1, 39))[0].host_config.ipc_mode == "shareable"
    assert adapt_create(CreateRequest(), (1, 40))[0].host_config.ipc_mode == ""


def test_options_of_another_kind() -> None:
    """Refused since API 1.42, without effect before."""
    request = create('{"Type":"tmpfs","Target":"/x","VolumeOptions":{"NoCopy":true}}')
    with pytest.raises(Invalid, match='VolumeOptions must not be specified on mount type "tmpfs"'):
        adapt_create(request, (1, 42))
    assert adapt_create(request, (1, 41))[0].host_config.mounts[0].volume_options is None


@pytest.mark.parametrize(
    ("mount", "version", "message"),
    [
        (
            '{"Type":"bind","BindOptions":{"ReadOnlyForceRecursive":true}}',
            (1, 43),
            "needs API v1.44 or newer",
        ),
        ('{"Type":"volume","VolumeOptions":{"Subpath":"a"}}', (1, 44), "needs API v1.45 or newer"),
        ('{"Type":"image"}', (1, 47), "needs API v1.48 or newer"),
    ],
)
def test_too_new_for_the_version(mount: str, version: tuple[int, int], message: str) -> None:
    """What an old version cannot mean is refused, not ignored."""
    with pytest.raises(Invalid, match=message):
        adapt_create(create(mount), version)
    adapt_create(create(mount), (1, 51))


def test_old_mounts_of_the_right_kind_stay() -> None:
    """Options that fit their mount are kept; CreateMountpoint did not exist."""
    request = create('{"Type":"bind","BindOptions":{"Propagation":"rslave","CreateMountpoint":true}}')
    (mount,) = adapt_create(request, (1, 41))[0].host_config.mounts
    assert mount.bind_options is not None
    assert (mount.bind_options.propagation, mount.bind_options.create_mountpoint) == ("rslave", False)
