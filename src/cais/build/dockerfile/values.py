"""The instructions of a Dockerfile as values: what is written, before any variable is put in."""

from dataclasses import dataclass

from cais.build.dockerfile.lines import Heredoc, Line
from cais.spec.image import Healthcheck


@dataclass(frozen=True, slots=True)
class Command:
    """``words`` of the exec form, or with ``is_shell`` one word: a text for the shell."""

    words: tuple[str, ...]
    is_shell: bool


@dataclass(frozen=True, slots=True)
class From:
    """``FROM [--platform=P] base [AS name]``; ``name`` in lower case."""

    base: str
    platform: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Arg:
    """``ARG name[=default] …``: (name, default or None)."""

    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Env:
    """``ENV``; ``legacy``: the form without ``=``."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """``LABEL``; as ``Env``."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class MountOption:
    """One ``--mount`` of RUN. ``type`` bind, cache, tmpfs, secret or ssh; the other fields as the flag has them, empty
    or None where it has not. ``mode`` in octal; ``size`` in bytes; ``env``: the variable a secret is given in."""

    type: str
    target: str = ""
    source: str = ""
    from_: str = ""
    id: str = ""
    sharing: str = ""
    env: str = ""
    readonly: bool | None = None
    required: bool = False
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """``RUN``; ``network`` default, none or host; ``security`` sandbox or insecure; ``devices`` as written."""

    command: Command
    mounts: tuple[MountOption, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class Copy:
    """``COPY`` and, with ``is_add``, ``ADD``. ``heredocs`` are sources, too: ``sources`` has their words."""

    sources: tuple[str, ...]
    destination: str
    is_add: bool = False
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class Cmd:
    """``CMD``."""

    command: Command


@dataclass(frozen=True, slots=True)
class Entrypoint:
    """``ENTRYPOINT``."""

    command: Command


@dataclass(frozen=True, slots=True)
class Shell:
    """``SHELL``."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User:
    """``USER``."""

    user: str


@dataclass(frozen=True, slots=True)
class Workdir:
    """``WORKDIR``."""

    path: str


@dataclass(frozen=True, slots=True)
class Expose:
    """``EXPOSE``."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Volume:
    """``VOLUME``."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopSignal:
    """``STOPSIGNAL``."""

    signal: str


@dataclass(frozen=True, slots=True)
class Health:
    """``HEALTHCHECK``."""

    check: Healthcheck


@dataclass(frozen=True, slots=True)
class OnBuild:
    """``ONBUILD``: the trigger's text, here-documents included."""

    text: str


@dataclass(frozen=True, slots=True)
class Maintainer:
    """``MAINTAINER``."""

    name: str


@dataclass(frozen=True, slots=True)
class Unset:
    """``UNSET``: ``kind`` is the instruction whose work is undone, ``names`` what of it (empty for those that set one
    thing)."""

    kind: str
    names: tuple[str, ...] = ()


Value = (
    From
    | Arg
    | Env
    | Label
    | Run
    | Copy
    | Cmd
    | Entrypoint
    | Shell
    | User
    | Workdir
    | Expose
    | Volume
    | StopSignal
    | Health
    | OnBuild
    | Maintainer
    | Unset
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction and where it stands."""

    line: Line
    value: Value


@dataclass(frozen=True, slots=True)
class Stage:
    """``FROM`` and what follows it; ``index`` from 0."""

    index: int
    line: Line
    base: From
    steps: tuple[Instruction, ...]

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.base.name or f"stage-{self.index}"


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A whole file. ``args``: the ARG instructions before the first FROM; ``raw`` the physical lines."""

    name: str
    raw: tuple[str, ...]
    escape: str
    directives: dict[str, str]
    args: tuple[Instruction, ...]
    stages: tuple[Stage, ...]
    lines: tuple[Line, ...]
