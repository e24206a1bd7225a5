"""What a build is asked for, and what it tells while it goes on."""

import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cais.errors import Invalid, NotFound
from cais.images.image import PullEvent
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.spec.container import HostConfig
from cais.spec.digest import Digest
from cais.spec.platform import Platform


async def _anonymous(domain: str) -> Credentials:
    return ANONYMOUS


@dataclass(frozen=True, slots=True)
class Option:
    """One ``--output``, ``--cache-to``, ``--cache-from`` or ``--attest``: its type and what else was said of it."""

    type: str
    attrs: Mapping[str, str] = field(default_factory=dict)


class Secrets(Protocol):
    """Where the secrets of a build come from; a client holds them until a step asks."""

    async def get(self, id: str) -> bytes | None:
        """The bytes of a secret; None if the client has none of this name."""
        ...


class Agents(Protocol):
    """The SSH agents that a client forwards."""

    async def has(self, id: str) -> bool:
        """Whether the client forwards an agent of this name (``default`` if none is said)."""
        ...

    async def connect(self, id: str) -> socket.socket:
        """A new connection to it: a stream socket, not blocking, the caller's to close. Raises NotFound,
        Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class HeldSecrets:
    """Secrets that came with the request."""

    values: Mapping[str, bytes] = field(default_factory=dict)

    async def get(self, id: str) -> bytes | None:
        """Secrets.get."""
        return self.values.get(id)


class NoAgents:
    """A client that forwards none."""

    async def has(self, id: str) -> bool:
        """Agents.has."""
        return False

    async def connect(self, id: str) -> socket.socket:
        """Agents.connect."""
        raise NotFound(f"no SSH agent {id!r} is forwarded: build with --ssh {id}")


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What is wanted of a build, whoever asks.

    ``dockerfile`` is a path in the context; ``names`` are canonical; ``platforms``: empty means this machine's;
    ``no_cache_filter``: names of stages that are made anew; ``host`` holds limits and the network of RUN steps;
    ``credentials`` by a registry's domain; ``contexts``: named contexts, by name what the client said
    (``docker-image://…``, a URL, a git reference, ``oci-layout://…``, ``local:NAME``, ``target:STAGE``); ``outputs``:
    empty means an image in this engine; ``attests``: types ``provenance`` and ``sbom``; ``entitlements``:
    ``network.host``, ``security.insecure``.
    """

    dockerfile: str = "Dockerfile"
    names: tuple[str, ...] = ()
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    platforms: tuple[Platform, ...] = ()
    no_cache: bool = False
    no_cache_filter: frozenset[str] = frozenset()
    pull: bool = False
    host: HostConfig = field(default_factory=HostConfig)
    credentials: Callable[[str], Awaitable[Credentials]] = _anonymous
    secrets: Secrets = field(default_factory=HeldSecrets)
    agents: Agents = field(default_factory=NoAgents)
    contexts: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[Option, ...] = ()
    cache_to: tuple[Option, ...] = ()
    cache_from: tuple[Option, ...] = ()
    attests: tuple[Option, ...] = ()
    entitlements: frozenset[str] = frozenset()

    @property
    def platform(self) -> Platform | None:
        """The first platform that is asked for."""
        return self.platforms[0] if self.platforms else None


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A step's turn in what is told: ``number`` of ``total``. ``triggers``: how many of the base's ONBUILD follow."""

    number: int
    total: int
    title: str
    triggers: int = 0


@dataclass(frozen=True, slots=True)
class StepCached:
    """It was made before."""


@dataclass(frozen=True, slots=True)
class StepBegan:
    """It is being made, since then (nanoseconds since the epoch)."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class StepRuns:
    """A container runs for it."""

    container: str


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What its program wrote; ``stream`` 1 or 2."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StepRemoved:
    """The container is gone again."""

    container: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """``id`` is the key of what stands there now, a hexadecimal text."""

    id: str


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that people should know."""

    text: str


@dataclass(frozen=True, slots=True)
class Built:
    """The image is there."""

    id: Digest


@dataclass(frozen=True, slots=True)
class Named:
    """It has this name now, in its short form."""

    name: str


BuildEvent = (
    StepStarted
    | StepCached
    | StepBegan
    | StepRuns
    | StepOutput
    | StepRemoved
    | StepDone
    | Warned
    | Built
    | Named
    | PullEvent
)


class CommandFailed(Invalid):
    """The program of a RUN ended with ``code``; ``command`` is what ran, ``reason`` what is known beside the code."""

    def __init__(self, message: str, code: int, command: str = "", reason: str = "") -> None:
        super().__init__(message, code)
        self.code = code
        self.command = command
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[0])
