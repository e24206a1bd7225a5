"""What the engine answers, as typed values; fields it adds later are ignored."""

from datetime import datetime
from typing import Any

import msgspec


class Model(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Docker's PascalCase names."""


class Version(Model, frozen=True):
    """The engine's version. ``api_version`` is the newest Docker Engine API it speaks."""

    version: str
    api_version: str
    min_api_version: str = msgspec.field(name="MinAPIVersion", default="")
    os: str = ""
    arch: str = ""
    kernel_version: str = ""


class Port(Model, frozen=True):
    """A port of a container, and where it is published, if it is."""

    private_port: int
    type: str
    public_port: int | None = None
    ip: str = msgspec.field(name="IP", default="")


class ContainerSummary(Model, frozen=True):
    """A line of the list of containers. ``created``: seconds since the epoch."""

    id: str
    names: list[str] | None = None
    image: str = ""
    image_id: str = msgspec.field(name="ImageID", default="")
    command: str = ""
    created: int = 0
    state: str = ""
    status: str = ""
    ports: list[Port] | None = None
    labels: dict[str, str] | None = None
    size_rw: int | None = None
    size_root_fs: int | None = None

    @property
    def name(self) -> str:
        """The first name, without its slash."""
        return self.names[0].removeprefix("/") if self.names else ""


class State(Model, frozen=True):
    """How a container is. ``status``: created, running, paused, restarting, removing, exited, dead."""

    status: str
    running: bool = False
    paused: bool = False
    restarting: bool = False
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)
    dead: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class ContainerDetails(Model, frozen=True):
    """Everything about a container; ``config``, ``host_config`` and ``network_settings`` as the API has them."""

    id: str
    name: str
    created: datetime
    path: str
    args: list[str]
    state: State
    image: str
    config: dict[str, Any]
    host_config: dict[str, Any]
    network_settings: dict[str, Any]
    mounts: list[dict[str, Any]] | None = None
    restart_count: int = 0

    @property
    def tty(self) -> bool:
        """Whether it has a terminal: then its output is one stream."""
        return bool(self.config.get("Tty"))

    @property
    def address(self) -> str:
        """Its IPv4 address in the first network that gave it one; empty without."""
        networks = (self.network_settings.get("Networks") or {}).values()
        return next((found["IPAddress"] for found in networks if found.get("IPAddress")), "")

    @property
    def ports(self) -> dict[str, list[tuple[str, int]]]:
        """``80/tcp`` → host addresses and ports it is published at."""
        ports = self.network_settings.get("Ports") or {}
        return {k: [(b["HostIp"], int(b["HostPort"])) for b in v or ()] for k, v in ports.items()}


class Created(Model, frozen=True):
    """The answer to a create request."""

    id: str
    warnings: list[str] | None = None


class WaitError(Model, frozen=True):
    """Why waiting failed."""

    message: str = ""


class Exit(Model, frozen=True):
    """How a container ended."""

    status_code: int
    error: WaitError | None = None


class ExecCreated(Model, frozen=True):
    """The answer to an exec request."""

    id: str


class ExecDetails(Model, frozen=True):
    """A command run in a container; ``exit_code`` None while it runs."""

    id: str = msgspec.field(name="ID")
    running: bool
    exit_code: int | None = None
    pid: int = 0


class Processes(Model, frozen=True):
    """The rows of `top`."""

    titles: list[str]
    processes: list[list[str]] | None = None


class ImageSummary(Model, frozen=True):
    """A line of the list of images. ``size``: bytes; ``created``: seconds since the epoch."""

    id: str
    repo_tags: list[str] | None = None
    repo_digests: list[str] | None = None
    created: int = 0
    size: int = 0
    labels: dict[str, str] | None = None
    containers: int = -1


class ImageDetails(Model, frozen=True):
    """Everything about an image; ``config`` as the API has it."""

    id: str
    repo_tags: list[str] | None = None
    repo_digests: list[str] | None = None
    created: str = ""
    size: int = 0
    architecture: str = ""
    os: str = ""
    author: str = ""
    comment: str = ""
    config: dict[str, Any] | None = None


class HistoryItem(Model, frozen=True):
    """One step an image was made in."""

    id: str
    created: int
    created_by: str = ""
    size: int = 0
    comment: str = ""
    tags: list[str] | None = None


class Deleted(Model, frozen=True):
    """A name or an image that went."""

    untagged: str = ""
    deleted: str = ""


class Volume(Model, frozen=True):
    """A named volume; ``mountpoint`` is a path on the engine's machine."""

    name: str
    driver: str
    mountpoint: str
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    scope: str = ""
    created_at: str = ""


class VolumeList(Model, frozen=True):
    """The answer to the list of volumes."""

    volumes: list[Volume] | None = None


class Network(Model, frozen=True):
    """A network."""

    id: str
    name: str
    driver: str
    scope: str = ""
    internal: bool = False
    labels: dict[str, str] | None = None
    ipam: dict[str, Any] | None = msgspec.field(name="IPAM", default=None)


class Actor(Model, frozen=True):
    """What an event is about."""

    id: str = msgspec.field(name="ID", default="")
    attributes: dict[str, str] | None = None


class Event(Model, frozen=True):
    """Something that happened; ``kind`` container, image, volume, network."""

    kind: str = msgspec.field(name="Type")
    action: str
    actor: Actor = Actor()
    time_ns: int = msgspec.field(name="timeNano", default=0)


class Completed(msgspec.Struct, frozen=True):
    """A process that has ended: its exit code and all it wrote."""

    exit_code: int
    stdout: bytes
    stderr: bytes


class RegistryAuth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Credentials for a registry; without a ``repr`` of what is secret. ``serveraddress``: host[:port]; empty: Docker
    Hub."""

    username: str = ""
    password: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""

    def __repr__(self) -> str:
        return f"RegistryAuth(username={self.username!r}, serveraddress={self.serveraddress!r})"


class PushResult(Model, frozen=True):
    """What ``tag`` stands for in the registry; ``size`` is the manifest's own, in bytes."""

    tag: str
    digest: str
    size: int


class LoggedIn(Model, frozen=True):
    """``identity_token`` is to be kept in the place of the password; empty: the registry gives none."""

    status: str
    identity_token: str = ""
