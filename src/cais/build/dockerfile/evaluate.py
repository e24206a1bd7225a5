"""What the instructions of a stage do, with every variable put in: acts on files, and the configuration (pure)."""

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec
from msgspec.structs import replace
from msgspec.structs import replace as change

from cais.build.dockerfile import golang
from cais.build.dockerfile.fault import DockerfileError, Lines
from cais.build.dockerfile.lines import parse_heredoc
from cais.build.dockerfile.parse import parse_trigger
from cais.build.dockerfile.scope import Scope
from cais.build.dockerfile.values import (
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Health,
    Instruction,
    Label,
    Maintainer,
    MountOption,
    OnBuild,
    Run,
    Shell,
    StopSignal,
    Unset,
    User,
    Value,
    Volume,
    Workdir,
)
from cais.build.dockerfile.words import expand
from cais.build.fetch.sources import hide_credentials
from cais.errors import Invalid
from cais.images.changes import SHELL, is_signal, parse_ports
from cais.spec.image import ContainerDefaults

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_T = TypeVar("_T")
_PORT_FORM = re.compile(r"(?:.*:)?(\d+(?:-\d+)?(?:/\w*)?)")


class InlineFile(msgspec.Struct, frozen=True):
    """A here-document as a file."""

    name: str
    data: bytes


class RunAct(msgspec.Struct, frozen=True):
    """A program to run. ``env`` is what it sees, with ``hidden_env``, which is in no key (proxies). ``script``: a file
    it is shown below /dev/pipes."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    hidden_env: tuple[str, ...]
    cwd: str
    user: str
    mounts: tuple[MountOption, ...]
    network: str
    security: str
    script: InlineFile | None = None


class CopyAct(msgspec.Struct, frozen=True):
    """Files to bring in. ``destination`` is absolute; a slash at its end says that it is a folder. ``unpack``: archives
    among the sources are unpacked, those that come by URL only with ``unpack_fetched``. ``keep_git_dir``: None if
    nothing was said. ``link_key``: the key of the layer alone, if it is the same on every parent."""

    sources: tuple[str, ...]
    inline: tuple[InlineFile, ...]
    destination: str
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    unpack: bool = False
    is_add: bool = False
    checksum: str = ""
    link_key: str = ""
    unpack_fetched: bool = False
    keep_git_dir: bool | None = None

    @property
    def is_linked(self) -> bool:
        """Whether the layer is made without a look at what it goes onto: ``--link``, unless names of owners or modes
        are to be found there."""
        owner = self.chown.split(":")
        numbers = all(part.isascii() and part.isdecimal() for part in owner) or not self.chown
        return self.link and numbers and not self.chmod


class FolderAct(msgspec.Struct, frozen=True):
    """A folder to have, with those above it: WORKDIR."""

    path: str
    user: str


Act = RunAct | CopyAct | FolderAct


class Step(msgspec.Struct, frozen=True):
    """One instruction, evaluated. ``title`` is what people see, ``history`` the image's history (None: no entry),
    ``act`` what happens to files. ``trigger``: it comes from the base's ONBUILD."""

    title: str
    lines: Lines
    history: str | None
    act: Act | None = None
    trigger: bool = False


class State(msgspec.Struct, frozen=True):
    """Where a stage stands. ``env``: ENV and ARG together, as a RUN sees them; ``args``: names of the ARGs."""

    defaults: ContainerDefaults
    author: str = ""
    env: Mapping[str, str] = msgspec.field(default_factory=dict)
    args: tuple[tuple[str, str], ...] = ()
    has_cmd: bool = False


def start_state(defaults: ContainerDefaults, author: str = "") -> State:
    """The state of a stage that stands on an image with these defaults."""
    env = dict(text.partition("=")[::2] for text in defaults.env)
    if "PATH" not in env:
        # Every image that is built has one.
        env["PATH"] = PATH
        defaults = change(defaults, env=(*defaults.env, f"PATH={PATH}"))
    return State(change(defaults, on_build=()), author, env)


def scratch_state() -> State:
    """The state of a stage that stands on nothing."""
    return start_state(ContainerDefaults(env=(f"PATH={PATH}",), working_dir="/"))


def child_state(parent: State) -> State:
    """The state of a stage that stands on another one: arguments are inherited, triggers are not."""
    return replace(parent, defaults=change(parent.defaults, on_build=()), has_cmd=False)


def triggers_of(on_build: Iterable[str], lines: Lines, escape: str) -> list[Instruction]:
    """The instructions that a base's ONBUILD adds at the beginning of a stage. Raises DockerfileError."""
    found = []
    for text in on_build:
        try:
            for instruction in parse_trigger(text, escape):
                found.append(Instruction(replace(instruction.line, lines=lines), instruction.value))
        except DockerfileError as error:
            hint = error.hint or "it comes from the base image"
            raise DockerfileError(f"in ONBUILD {text}: {error.problem}", lines, hint) from None
    return found


def evaluate(
    state: State, instruction: Instruction, scope: Scope, escape: str = "\\", *, trigger: bool = False
) -> tuple[State, Step]:
    """The state after one instruction, and the step it is. Raises DockerfileError without a place."""
    evaluator = _Evaluator(state, scope, escape)
    after, history, act = evaluator.run(instruction.value)
    line = instruction.line
    title = f"{line.name} {' '.join((*line.flags, line.rest))}".rstrip()
    return after, Step(title, line.lines, history, act, trigger)


_Result = tuple[State, str | None, Act | None]


class _Evaluator:
    """One instruction."""

    def __init__(self, state: State, scope: Scope, escape: str) -> None:
        self._state = state
        self._scope = scope
        self._escape = escape

    def run(self, value: Value) -> _Result:
        match value:
            case Arg():
                return self._arg(value)
            case Env():
                return self._env(value)
            case Label():
                return self._label(value)
            case Run():
                return self._run(value)
            case Copy():
                return self._copy(value)
            case Workdir():
                return self._workdir(value)
            case Cmd() | Entrypoint() | Shell():
                return self._commands(value)
            case OnBuild():
                on_build = (*self._state.defaults.on_build, value.text)
                return self._changed(on_build=on_build), None, None
            case Maintainer():
                name = value.name
                return replace(self._state, author=name), f"MAINTAINER {name}", None
            case Unset():
                return self._unset(value)
        return self._simple(value)

    def _text(self, text: str) -> str:
        return expand(text, self._state.env, self._escape).text

    def _many(self, texts: Iterable[str]) -> list[str]:
        return [word for text in texts for word in expand(text, self._state.env, self._escape).words]

    def _changed(self, **fields: object) -> State:
        return replace(self._state, defaults=change(self._state.defaults, **fields))

    # Variables

    def _arg(self, value: Arg) -> _Result:
        state, texts = self._state, []
        for name, default in value.pairs:
            found: str | None = None
            if name in self._scope.given:
                found = self._scope.given[name]
            elif default is not None:
                found = expand(default, state.env, self._escape).text
            elif name in self._scope.globals:
                found = self._scope.globals[name]
            env = dict(state.env) if found is None else {**state.env, name: found}
            state = replace(state, env=env, args=(*state.args, (name, found or "")))
            texts.append(name if found is None else f"{name}={found}")
        return state, f"ARG {' '.join(texts)}", None

    def _env(self, value: Env) -> _Result:
        # All words of one instruction see the environment from before it.
        pairs = [(self._text(name), self._text(text)) for name, text in value.pairs]
        kept = dict(text.partition("=")[::2] for text in self._state.defaults.env) | dict(pairs)
        env = {**self._state.env, **dict(pairs)}
        state = self._changed(env=tuple(f"{name}={text}" for name, text in kept.items()))
        shown = " ".join(f"{name}={text}" for name, text in pairs)
        return replace(state, env=env), f"ENV {shown}", None

    def _label(self, value: Label) -> _Result:
        pairs = [(self._text(name), self._text(text)) for name, text in value.pairs]
        labels = {**self._state.defaults.labels, **dict(pairs)}
        return self._changed(labels=labels), f"LABEL {' '.join(f'{n}={t}' for n, t in pairs)}", None

    def _unset(self, value: Unset) -> _Result:
        names = self._many(value.names)
        defaults = self._state.defaults
        shown = " ".join(("UNSET", value.kind, *names))
        match value.kind:
            case "ENV":
                return self._unset_env(names), shown, None
            case "LABEL":
                return self._changed(labels=_without(defaults.labels, names)), shown, None
            case "VOLUME":
                return self._changed(volumes=_without(defaults.volumes, names)), shown, None
            case "EXPOSE":
                ports = [port for name in names for port in _read_ports(name)]
                return self._changed(exposed_ports=_without(defaults.exposed_ports, ports)), shown, None
            case "CMD":
                return replace(self._changed(cmd=(), args_escaped=False), has_cmd=False), shown, None
        return self._changed(**{_UNSET_FIELDS[value.kind][0]: _UNSET_FIELDS[value.kind][1]}), shown, None

    def _unset_env(self, names: list[str]) -> State:
        """Without these variables; an ARG of the same name is seen again."""
        state = self._state
        kept = tuple(text for text in state.defaults.env if text.partition("=")[0] not in names)
        args = {name: text for name, text in state.args if name in names and text}
        return replace(self._changed(env=kept), env={**_without(state.env, names), **args})

    # Files

    def _run(self, value: Run) -> _Result:
        if value.devices:
            raise DockerfileError(
                f"RUN --device={value.devices[0]} is not possible: this engine gives no devices to builds",
                hint="leave it out, or run the step with --security=insecure",
            )
        words, script = self._run_words(value)
        state = self._state
        mounts = tuple(
            replace(
                mount,
                target=self._text(mount.target),
                source=self._text(mount.source),
                id=self._text(mount.id),
            )
            for mount in value.mounts
        )
        env = tuple(f"{name}={text}" for name, text in state.env.items())
        hidden = tuple(
            f"{name}={text}" for name, text in self._scope.proxies.items() if name not in state.env
        )
        defaults = state.defaults
        act = RunAct(
            words,
            env,
            hidden,
            defaults.working_dir or "/",
            defaults.user,
            mounts,
            value.network,
            value.security,
            script,
        )
        named = {name: state.env.get(name, text) for name, text in state.args}
        shown = [f"|{len(named)}", *(f"{name}={text}" for name, text in named.items())] if named else []
        return state, f"RUN {' '.join((*shown, *words))} # buildkit", act

    def _run_words(self, value: Run) -> tuple[tuple[str, ...], InlineFile | None]:
        """What is executed; a here-document that is a script of its own is a file."""
        words, script = value.command.words, None
        if value.heredocs:
            first = value.heredocs[0]
            if len(value.heredocs) == 1 and parse_heredoc(words[0], self._escape):
                text = first.text
                if text.startswith("#!"):
                    script = InlineFile(first.name, text.encode())
                    text = f"/dev/pipes/{first.name}"
            else:
                text = words[0] + "".join(f"\n{doc.content}{doc.name}" for doc in value.heredocs)
            words = (text,)
        return (self._shelled(Command(words, value.command.is_shell)), script)

    def _shelled(self, command: Command) -> tuple[str, ...]:
        if not command.is_shell:
            return command.words
        return (*(self._state.defaults.shell or SHELL), *command.words)

    def _copy(self, value: Copy) -> _Result:
        documents = list(value.heredocs)
        sources, inline = [], []
        for word in value.sources:
            if documents and parse_heredoc(word, self._escape):
                document = documents.pop(0)
                text = document.text
                if document.expand:
                    text = expand(text, self._state.env, self._escape, quotes=False).text
                inline.append(InlineFile(document.name, text.encode()))
            else:
                sources.append(self._text(word))
        shown = self._text(value.destination)
        act = CopyAct(
            tuple(sources),
            tuple(inline),
            self._absolute(shown),
            value.from_,
            self._text(value.chown),
            self._text(value.chmod),
            value.link,
            value.parents,
            tuple(self._many(value.exclude)),
            value.is_add if value.unpack is None else value.unpack,
            value.is_add,
            self._text(value.checksum),
            unpack_fetched=value.is_add and value.unpack is True,
            keep_git_dir=value.keep_git_dir,
        )
        texts = ["ADD" if value.is_add else "COPY"]
        texts += ["--parents"] if value.parents else []
        texts += [f"--chown={act.chown}"] if act.chown else []
        texts += [f"--chmod={act.chmod}"] if act.chmod else []
        texts += [*map(hide_credentials, sources), *(f"<<{file.name}" for file in inline), shown]
        return self._state, f"{' '.join(texts)} # buildkit", act

    def _absolute(self, path: str) -> str:
        """With the slash at its end that says: a folder."""
        is_folder = path in (".", "") or path.endswith(("/", "/."))
        whole = posixpath.normpath(posixpath.join("/", self._state.defaults.working_dir, path))
        return _clean(whole) + ("/" if is_folder and whole != "/" else "")

    def _workdir(self, value: Workdir) -> _Result:
        path = self._text(value.path)
        whole = _clean(posixpath.normpath(posixpath.join("/", self._state.defaults.working_dir, path)))
        act = FolderAct(whole, self._state.defaults.user) if whole != "/" else None
        return self._changed(working_dir=whole), f"WORKDIR {whole}", act

    # Configuration

    def _commands(self, value: Cmd | Entrypoint | Shell) -> _Result:
        if isinstance(value, Shell):
            return self._changed(shell=value.words), f"SHELL [{' '.join(value.words)}]", None
        words = self._shelled(value.command)
        shown = golang.quote_list(words)
        if isinstance(value, Cmd):
            state = replace(self._changed(cmd=words, args_escaped=True), has_cmd=True)
            return state, f"CMD {shown}", None
        # The old command was meant for the old entry point.
        cmd = self._state.defaults.cmd if self._state.has_cmd else ()
        return self._changed(entrypoint=words, cmd=cmd), f"ENTRYPOINT {shown}", None

    def _simple(self, value: Value) -> _Result:
        match value:
            case User():
                user = self._text(value.user)
                return self._changed(user=user), f"USER {user}", None
            case Volume():
                return self._volume(value)
            case Expose():
                return self._expose(value)
            case Health():
                state = self._changed(healthcheck=value.check)
                return state, f"HEALTHCHECK {golang.format_health(value.check)}", None
            case StopSignal():
                name = self._text(value.signal)
                if not is_signal(name):
                    raise DockerfileError(
                        f"invalid signal: {name}", hint="write a name like SIGTERM, or a number"
                    )
                return self._changed(stop_signal=name), f"STOPSIGNAL {name}", None
        raise DockerfileError("FROM is not possible here")

    def _volume(self, value: Volume) -> _Result:
        paths = list(map(self._text, value.paths))
        volumes = {**self._state.defaults.volumes, **{path: {} for path in paths}}
        return self._changed(volumes=volumes), f"VOLUME [{' '.join(paths)}]", None

    def _expose(self, value: Expose) -> _Result:
        ports = [port for word in self._many(value.ports) for port in _read_ports(word)]
        exposed = {**self._state.defaults.exposed_ports, **{port: {} for port in ports}}
        return self._changed(exposed_ports=exposed), f"EXPOSE [{' '.join(ports)}]", None


_UNSET_FIELDS: dict[str, tuple[str, object]] = {
    "ENTRYPOINT": ("entrypoint", ()),
    "USER": ("user", ""),
    "WORKDIR": ("working_dir", "/"),
    "HEALTHCHECK": ("healthcheck", None),
    "STOPSIGNAL": ("stop_signal", ""),
}


def _without(values: Mapping[str, _T], names: Iterable[str]) -> dict[str, _T]:
    gone = frozenset(names)
    return {name: value for name, value in values.items() if name not in gone}


def _read_ports(word: str) -> Iterable[str]:
    found = _PORT_FORM.fullmatch(word)
    if not found:
        raise DockerfileError(f"invalid containerPort: {word}", hint="write PORT[-PORT][/tcp|/udp|/sctp]")
    try:
        return parse_ports(found[1].removesuffix("/"))
    except Invalid as error:
        raise DockerfileError(str(error)) from None


def _clean(path: str) -> str:
    """POSIX lets two slashes at the beginning mean something else; here they do not."""
    return "/" + path.lstrip("/")
