"""What a create request of an older API version means today (moby, container_routes.go:
postContainersCreate)."""

from msgspec.structs import replace

from cais.api.version import Version
from cais.errors import Invalid
from cais.spec.container import CreateRequest, HostConfig, Mount


def adapt_create(request: CreateRequest, version: Version) -> tuple[CreateRequest, list[str]]:
    """``request`` as if it had come in the newest version, and warnings. Raises ``Invalid`` in dockerd's
    words."""
    host = request.host_config
    if version >= (1, 42):
        for mount in host.mounts:
            _check_mount(mount)
    _check_too_new(request, version)
    if version < (1, 42):
        host = replace(host, mounts=tuple(_old_mount(mount) for mount in host.mounts), console_size=None)
    if version < (1, 40) and not host.ipc_mode:
        host = replace(host, ipc_mode="shareable")
    if version < (1, 43):
        host = replace(host, annotations={})
    request = replace(request, host_config=host)
    if version < (1, 44) and request.healthcheck is not None:
        request = replace(request, healthcheck=replace(request.healthcheck, start_interval=0))
    return request, _warnings(host)


def _check_mount(mount: Mount) -> None:
    options = {
        "VolumeOptions": (mount.volume_options, "volume"),
        "BindOptions": (mount.bind_options, "bind"),
        "TmpfsOptions": (mount.tmpfs_options, "tmpfs"),
    }
    for name, (value, kind) in options.items():
        if value is not None and mount.type != kind:
            raise Invalid(f'{name} must not be specified on mount type "{mount.type}"')


def _check_too_new(request: CreateRequest, version: Version) -> None:
    host, networks = request.host_config, request.networking_config.endpoints_config
    if version < (1, 44):
        if any(mount.bind_options and mount.bind_options.read_only_force_recursive for mount in host.mounts):
            raise Invalid("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
        if len(networks) > 1:
            listed = ", ".join(networks)
            raise Invalid(f"Container cannot be created with multiple network endpoints: {listed}")
    if version < (1, 45) and any(
        mount.volume_options and mount.volume_options.subpath for mount in host.mounts
    ):
        raise Invalid("VolumeOptions.Subpath needs API v1.45 or newer")
    if version < (1, 48) and any(mount.type == "image" for mount in host.mounts):
        raise Invalid('Mount type "Image" needs API v1.48 or newer')


def _old_mount(mount: Mount) -> Mount:
    """Combinations that were not checked before API 1.42 had no effect; keep it so."""
    bind = mount.bind_options
    return replace(
        mount,
        volume_options=mount.volume_options if mount.type == "volume" else None,
        tmpfs_options=mount.tmpfs_options if mount.type == "tmpfs" else None,
        bind_options=replace(bind, create_mountpoint=False) if bind and mount.type == "bind" else None,
    )


def _warnings(host: HostConfig) -> list[str]:
    if host.capabilities:
        raise Invalid(
            "the HostConfig.Capabilities field is not supported by this daemon; use CapAdd and CapDrop to set "
            "capabilities"
        )
    return []
