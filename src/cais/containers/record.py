"""The container record: everything that is known of one container, as stored and as shown by inspect."""

import msgspec

from cais.network.base import Endpoint
from cais.spec.container import ContainerConfig, HostConfig, NetworkingConfig

CREATED, RUNNING, PAUSED, RESTARTING = "created", "running", "paused", "restarting"
REMOVING, EXITED, DEAD = "removing", "exited", "dead"


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the container is in its life. Times are nanoseconds since the epoch, 0 is never."""

    status: str = CREATED
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0
    brief: bool = False
    """Paused for the time of a commit only: an engine that finds it so thaws it."""

    @property
    def running(self) -> bool:
        """Docker's meaning: paused and restarting containers count as running."""
        return self.status in (RUNNING, PAUSED, RESTARTING)

    @property
    def live(self) -> bool:
        """There is a task right now."""
        return self.status in (RUNNING, PAUSED)


class MountPoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One mount the user or the image asked for: ``type`` bind, volume or tmpfs; ``source`` a path on the host;
    ``name`` and ``driver`` of a volume; ``mode`` the text after the second colon of ``-v``."""

    type: str
    destination: str
    source: str = ""
    name: str = ""
    driver: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    copy_up: bool = False
    """Fill an empty volume with what the image has at ``destination``."""
    anonymous: bool = False
    """The volume was made for this container and goes with it (``rm -v``, ``--rm``)."""
    create_source: bool = False
    """``-v`` makes a missing host folder, ``--mount`` refuses it."""
    non_recursive: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False
    options: str = ""
    """Comma list of a tmpfs."""
    labels: dict[str, str] = {}
    driver_options: dict[str, str] = {}


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One container. ``config`` is merged with the image's, ``host`` has its defaults filled in; both as Docker's
    inspect shows them. ``name`` is without the leading slash."""

    id: str
    name: str
    created_ns: int
    config: ContainerConfig
    host: HostConfig
    networking: NetworkingConfig = NetworkingConfig()
    image_id: str = ""
    platform: str = "linux"
    driver: str = "overlayfs"
    lowers: tuple[str, ...] = ()
    mounts: tuple[MountPoint, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    """Where it is attached right now; empty while it does not run."""
    state: State = State()
    restart_count: int = 0
    manually_stopped: bool = False
    no_new_privileges: bool = False
    writable_cgroups: bool | None = None
    seccomp: str = ""
    """``unconfined``, the text of a JSON profile, or empty for the engine's default."""
    apparmor: str = ""
    """What was asked for; from the first start on the profile it got."""
    selinux: str = ""

    @property
    def command(self) -> tuple[str, ...]:
        """Entry point and arguments: what is executed."""
        return (self.config.entrypoint or ()) + (self.config.cmd or ())

    @property
    def path(self) -> str:
        """The program, Docker's ``Path``."""
        return self.command[0] if self.command else ""

    @property
    def args(self) -> tuple[str, ...]:
        """Its arguments, Docker's ``Args``."""
        return self.command[1:]


def format_record(record: Record) -> bytes:
    """The stored form; ``parse_record`` reads it back."""
    return msgspec.json.encode(record)


def parse_record(data: bytes) -> Record:
    """Read a stored record. Raises ``msgspec.ValidationError`` for foreign bytes."""
    return msgspec.json.decode(data, type=Record)
