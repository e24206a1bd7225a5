"""The instructions of a Dockerfile as values: what is written, before any variable is put in."""

import msgspec

from cais.build.dockerfile.lines import Heredoc, Line
from cais.spec.image import Healthcheck


class Command(msgspec.Struct, frozen=True):
    """``words`` of the exec form, or with ``is_shell`` one word: a text for the shell."""

    words: tuple[str, ...]
    is_shell: bool


class From(msgspec.Struct, frozen=True):
    """``FROM [--platform=P] base [AS name]``; ``name`` in lower case."""

    base: str
    platform: str = ""
    name: str = ""


class Arg(msgspec.Struct, frozen=True):
    """``ARG name[=default] …``: (name, default or None)."""

    pairs: tuple[tuple[str, str | None], ...]


class Env(msgspec.Struct, frozen=True):
    """``ENV``; ``legacy``: the form without ``=``."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


class Label(msgspec.Struct, frozen=True):
    """``LABEL``; as ``Env``."""

    pairs: tuple[tuple[str, str], ...]
    legacy: bool = False


class MountOption(msgspec.Struct, frozen=True):
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


class Run(msgspec.Struct, frozen=True):
    """``RUN``; ``network`` default, none or host; ``security`` sandbox or insecure; ``devices`` as written."""

    command: Command
    mounts: tuple[MountOption, ...] = ()
    network: str = ""
    security: str = ""
    devices: tuple[str, ...] = ()
    heredocs: tuple[Heredoc, ...] = ()


class Copy(msgspec.Struct, frozen=True):
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


class Cmd(msgspec.Struct, frozen=True):
    """``CMD``."""

    command: Command


class Entrypoint(msgspec.Struct, frozen=True):
    """``ENTRYPOINT``."""

    command: Command


class Shell(msgspec.Struct, frozen=True):
    """``SHELL``."""

    words: tuple[str, ...]


class User(msgspec.Struct, frozen=True):
    """``USER``."""

    user: str


class Workdir(msgspec.Struct, frozen=True):
    """``WORKDIR``."""

    path: str


class Expose(msgspec.Struct, frozen=True):
    """``EXPOSE``."""

    ports: tuple[str, ...]


class Volume(msgspec.Struct, frozen=True):
    """``VOLUME``."""

    paths: tuple[str, ...]


class StopSignal(msgspec.Struct, frozen=True):
    """``STOPSIGNAL``."""

    signal: str


class Health(msgspec.Struct, frozen=True):
    """``HEALTHCHECK``."""

    check: Healthcheck


class OnBuild(msgspec.Struct, frozen=True):
    """``ONBUILD``: the trigger's text, here-documents included."""

    text: str


class Maintainer(msgspec.Struct, frozen=True):
    """``MAINTAINER``."""

    name: str


class Unset(msgspec.Struct, frozen=True):
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


class Instruction(msgspec.Struct, frozen=True):
    """One instruction and where it stands."""

    line: Line
    value: Value


class Stage(msgspec.Struct, frozen=True):
    """``FROM`` and what follows it; ``index`` from 0."""

    index: int
    line: Line
    base: From
    steps: tuple[Instruction, ...]

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.base.name or f"stage-{self.index}"


class Dockerfile(msgspec.Struct, frozen=True):
    """A whole file. ``args``: the ARG instructions before the first FROM; ``raw`` the physical lines."""

    name: str
    raw: tuple[str, ...]
    escape: str
    directives: dict[str, str]
    args: tuple[Instruction, ...]
    stages: tuple[Stage, ...]
    lines: tuple[Line, ...]
