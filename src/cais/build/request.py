"""What a build is asked for, and what it tells while it goes on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cais.errors import Invalid
from cais.images.image import PullEvent
from cais.remotes.auth import ANONYMOUS, Credentials
from cais.spec.container import HostConfig
from cais.spec.digest import Digest
from cais.spec.platform import Platform


def _anonymous(domain: str) -> Credentials:
    return ANONYMOUS


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """``dockerfile`` is a path in the context; ``names`` are canonical; ``host`` holds limits and the network of RUN
    steps; ``credentials`` by a registry's domain; ``secrets`` by id."""

    dockerfile: str = "Dockerfile"
    names: tuple[str, ...] = ()
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    platform: Platform | None = None
    no_cache: bool = False
    pull: bool = False
    host: HostConfig = field(default_factory=HostConfig)
    credentials: Callable[[str], Credentials] = _anonymous
    secrets: Mapping[str, bytes] = field(default_factory=dict)


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
    """The program of a RUN ended with ``code``."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])
