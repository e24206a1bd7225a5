"""`Engine`: a container engine over its socket, synchronous."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, Self, TypeVar, Unpack

import msgspec

from cais.client import calls, models
from cais.client.build import Build
from cais.client.buildrequest import BuildOptions, PathText, prepare
from cais.client.channel import Channel, read_head, receive, send
from cais.client.options import ContainerOptions, ExecOptions
from cais.client.process import Process
from cais.client.protocol import Call, Exchange
from cais.client.target import Tls, parse_target
from cais.errors import Unavailable

T = TypeVar("T")
TIMEOUT_SECONDS = 60.0
EXEC_POLLS, POLL_SECONDS = 200, 0.005


class Engine:
    """A container engine, Cais's own or any that speaks the Docker Engine API.

    ::

        from cais import Engine

        with Engine() as engine:                                  # or Engine("tcp://host:2376", tls=Tls(...))
            with engine.run("busybox", ["cat"], stdin=True, remove=True) as process:
                done = process.communicate(b"hello")
            print(done.stdout, done.exit_code)                    # b'hello' 0
            web = engine.create("busybox", ["httpd", "-f"], name="web", ports={80: 8080}, memory="64m")
            web.start()
            print(web.exec(["ps"]).communicate().stdout.decode(), web.inspect().address)
            for line in web.logs(tail=10):
                print(line)
            web.remove(force=True)

    Errors are those of `cais.errors`; ``timeout`` (seconds) bounds each answer, not streams. One engine may be
    used by several threads; a process object by one.
    """

    def __init__(
        self, host: str = "", *, timeout: float | None = TIMEOUT_SECONDS, tls: Tls | None = None
    ) -> None:
        """``host``: ``unix:///path`` or ``tcp://name:port``; empty: CAIS_HOST, else the default socket."""
        self._channel = Channel(parse_target(host, tls), timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections; the engine can still be used."""
        self._channel.close()

    def ping(self) -> None:
        """Return if an engine answers; raises Unavailable."""
        self._channel.call(calls.ping())

    def version(self) -> models.Version:
        """The engine's version."""
        return self._channel.call(calls.version())

    def info(self) -> dict[str, Any]:
        """What the engine says about itself and the machine, as the API has it."""
        return self._channel.call(calls.info())

    def create(
        self, image: str, command: Sequence[str] = (), **options: Unpack[ContainerOptions]
    ) -> "Container":
        """Make a container. Raises NotFound for the image, AlreadyExists for the name, Invalid."""
        made = self._channel.call(calls.create(image, command, options, attach=False))
        return Container(self._channel, made.id)

    def run(self, image: str, command: Sequence[str] = (), **options: Unpack[ContainerOptions]) -> Process:
        """Make and start a container and hold its streams. Raises as ``create``, and TaskFailed."""
        made = self._channel.call(calls.create(image, command, options, attach=True))
        container = Container(self._channel, made.id)
        stdin, tty = options.get("stdin", False), options.get("tty", False)
        return container.start_attached(stdin=stdin, tty=tty, removed=options.get("remove", False))

    def containers(
        self, *, all: bool = False, filters: Mapping[str, Any] | None = None, size: bool = False
    ) -> list[models.ContainerSummary]:
        """Running containers, or ``all``; ``filters`` such as ``{"label": "a=b"}``."""
        return self._channel.call(calls.list_containers(all=all, filters=filters or {}, size=size))

    def container(self, name: str) -> "Container":
        """The container of that name or id. Raises NotFound."""
        return Container(self._channel, self._channel.call(calls.inspect_container(name)).id)

    def images(
        self, *, all: bool = False, filters: Mapping[str, Any] | None = None
    ) -> list[models.ImageSummary]:
        """Images."""
        return self._channel.call(calls.list_images(all=all, filters=filters or {}))

    def image(self, name: str) -> models.ImageDetails:
        """Everything about an image. Raises NotFound."""
        return self._channel.call(calls.inspect_image(name))

    def history(self, name: str) -> list[models.HistoryItem]:
        """The steps an image was made in, newest first."""
        return self._channel.call(calls.history(name))

    def tag(self, name: str, target: str) -> None:
        """Give an image a further name."""
        self._channel.call(calls.tag(name, *calls.split_name(target)))

    def remove_image(self, name: str, *, force: bool = False) -> list[models.Deleted]:
        """Remove a name and, with the last, the image. Raises Conflict if containers use it."""
        return self._channel.call(calls.remove_image(name, force=force))

    def save(self, *names: str) -> Iterator[bytes]:
        """Images as an archive, piece by piece."""
        return self._channel.stream(calls.save(names))

    def load(self, archive: Iterable[bytes]) -> list[str]:
        """Take images in from an archive (a binary file, or pieces of one); what was loaded."""
        return self._channel.call(calls.load(), pieces=archive)

    def import_image(self, root: Iterable[bytes], name: str, *, changes: Sequence[str] = ()) -> list[str]:
        """Make an image of a root file system's tar."""
        return self._channel.call(calls.import_image(*calls.split_name(name), changes), pieces=root)

    def pull(
        self, name: str, *, platform: str = "", auth: models.RegistryAuth | None = None
    ) -> models.ImageDetails:
        """Fetch an image from its registry. Raises NotFound, Unauthenticated, Unavailable."""
        self._channel.call(calls.pull(name, platform, auth), timeout=None)
        return self._channel.call(calls.inspect_image(name))

    def push(
        self,
        name: str,
        *,
        platform: str = "",
        compression: str = "",
        auth: models.RegistryAuth | None = None,
    ) -> models.PushResult:
        """Send an image to its registry; ``compression`` of layers that are plain here: gzip, zstd, none. Raises
        Unavailable with the reason."""
        return self._channel.call(calls.push(name, platform, compression, auth), timeout=None)

    def login(self, auth: models.RegistryAuth) -> models.RegistryAuth:
        """Try credentials at a registry; what to use from now on. Raises Unauthenticated."""
        found = self._channel.call(calls.login(auth))
        token = found.identity_token
        return msgspec.structs.replace(auth, password="", identitytoken=token) if token else auth

    def build(self, path: PathText = "", **options: Unpack[BuildOptions]) -> Build:
        """Build an image from the folder ``path`` (or a URL; empty: ``text`` alone). It begins at once.

        ::

            done = engine.build(".", tag="my/web:2").result
            print(done.digest, [(step.name, step.seconds, step.is_cached) for step in done.steps])

            with engine.build(".", tag="my/web:2", secrets={"token": token}) as build:
                for event in build:
                    if isinstance(event, StepOutput):
                        sys.stdout.buffer.write(event.data)

            engine.build(text="FROM busybox\nRUN exit 3").result       # BuildError: exit_code 3, lines (2, 2)

        An engine on this machine reads the folder where it is; to others it is sent. Raises Invalid, Unavailable; the
        ``Build`` raises BuildError.
        """
        return Build(self._channel, prepare(path, options))

    def bootstrap(self, name: str) -> list[str]:
        """Make the base image ``busybox`` or ``debian[:SUITE]`` from the machine's package mirror."""
        call = calls.bootstrap(name)
        return call.parse(b"".join(self._channel.stream(call)))

    def volumes(self, *, filters: Mapping[str, Any] | None = None) -> list[models.Volume]:
        """Volumes."""
        return self._channel.call(calls.list_volumes(filters or {}))

    def create_volume(self, name: str = "", *, labels: Mapping[str, str] | None = None) -> models.Volume:
        """Make a volume; an empty name lets the engine choose one."""
        return self._channel.call(calls.create_volume(name, labels or {}))

    def remove_volume(self, name: str, *, force: bool = False) -> None:
        """Remove a volume. Raises NotFound (not with ``force``), Conflict if a container uses it."""
        self._channel.call(calls.remove_volume(name, force=force))

    def networks(self, *, filters: Mapping[str, Any] | None = None) -> list[models.Network]:
        """Networks."""
        return self._channel.call(calls.list_networks(filters or {}))

    def events(
        self, *, since: str = "", until: str = "", filters: Mapping[str, Any] | None = None
    ) -> Iterator[models.Event]:
        """What happens, as it happens, from ``since`` (Unix seconds) to ``until``, or for ever."""
        reader = calls.LineReader()
        with closing(self._channel.stream(calls.events(since, until, filters or {}))) as pieces:
            for piece in pieces:
                yield from reader.feed(piece)


class Container:
    """A container of an engine; an id and what can be done with it."""

    def __init__(self, channel: Channel, identity: str) -> None:
        self._channel = channel
        self.id = identity

    def __repr__(self) -> str:
        return f"<Container {self.id[:12]}>"

    def inspect(self) -> models.ContainerDetails:
        """Everything about it."""
        return self._channel.call(calls.inspect_container(self.id))

    def start(self) -> None:
        """Start it. Raises TaskFailed when its program cannot be run."""
        self._channel.call(calls.start(self.id))

    def start_attached(self, *, stdin: bool = False, tty: bool = False, removed: bool = False) -> Process:
        """Start it and hold its streams from the first byte. ``removed``: it removes itself at its end."""
        with ExitStack() as undo:
            stream = self._channel.hijack(calls.attach(self.id, stdin=stdin))
            undo.callback(stream[0].close)
            waiting = _Waiting(self._channel, calls.wait(self.id, "removed" if removed else "next-exit"))
            undo.callback(waiting.close)
            self.start()
            undo.pop_all()
        return Process(self.id, stream, waiting, stdin=stdin, tty=tty, on_close=waiting.close)

    def attach(self, *, stdin: bool = False, logs: bool = False) -> Process:
        """Hold the streams of a running container; ``logs``: what it has written so far first."""
        tty = self.inspect().tty
        stream = self._channel.hijack(calls.attach(self.id, stdin=stdin, logs=logs))
        return Process(self.id, stream, self._wait_stopped, stdin=stdin, tty=tty)

    def exec(self, command: Sequence[str], **options: Unpack[ExecOptions]) -> Process:
        """Run a command in it. Raises Conflict unless it runs."""
        identity = self._channel.call(calls.exec_create(self.id, command, options)).id
        tty = options.get("tty", False)
        stream = self._channel.hijack(calls.exec_start(identity, tty=tty))

        def wait(timeout: float | None) -> int:
            # the streams end a moment before the engine knows the code
            for _ in range(EXEC_POLLS):
                details = self._channel.call(calls.exec_inspect(identity))
                if details.exit_code is not None and not details.running:
                    return details.exit_code
                time.sleep(POLL_SECONDS)
            raise Unavailable(f"the engine does not know the exit code of {identity}")

        return Process(identity, stream, wait, stdin=options.get("stdin", False), tty=tty, drained=True)

    def stop(self, *, timeout: int | None = None, signal: str = "") -> None:
        """Ask it to stop; after ``timeout`` seconds it is killed."""
        self._act("stop", {"t": _text(timeout), "signal": signal}, timeout)

    def restart(self, *, timeout: int | None = None) -> None:
        """Stop and start it."""
        self._act("restart", {"t": _text(timeout)}, timeout)

    def kill(self, signal: str = "KILL") -> None:
        """Send it a signal. Raises Conflict unless it runs."""
        self._act("kill", {"signal": signal})

    def pause(self) -> None:
        """Freeze all its processes."""
        self._act("pause")

    def unpause(self) -> None:
        """Let them go on."""
        self._act("unpause")

    def rename(self, name: str) -> None:
        """Give it another name. Raises AlreadyExists."""
        self._act("rename", {"name": name})

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal."""
        self._channel.call(calls.resize(f"/containers/{self.id}", rows, columns))

    def wait(self, *, timeout: float | None = None) -> int:
        """Its exit code, once it does not run. TimeoutError after ``timeout`` seconds."""
        return self._wait_stopped(timeout)

    def remove(self, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it. Raises Conflict if it runs and ``force`` is off."""
        self._channel.call(calls.remove(self.id, force=force, volumes=volumes))

    def top(self, arguments: str = "") -> models.Processes:
        """Its processes, as ps shows them."""
        return self._channel.call(calls.top(self.id, arguments))

    def commit(
        self,
        name: str = "",
        *,
        author: str = "",
        message: str = "",
        changes: Sequence[str] = (),
        pause: bool = True,
    ) -> str:
        """Make an image of its files and configuration; the image's id. ``changes`` are Dockerfile instructions;
        ``pause``: freeze it meanwhile."""
        call = calls.commit(self.id, name, author=author, message=message, changes=changes, pause=pause)
        return self._channel.call(call, timeout=None).id

    def export(self) -> Iterator[bytes]:
        """Its root file system as a tar, piece by piece."""
        return self._channel.stream(calls.export(self.id))

    def logs(
        self, *, follow: bool = False, tail: int | None = None, timestamps: bool = False, since: str = ""
    ) -> Iterator[bytes]:
        """Lines of its output, both streams in the order they were written; ``follow``: also what comes."""
        query = {"follow": follow, "tail": _text(tail), "timestamps": timestamps, "since": since}
        splitter = calls.LogLines(tty=self.inspect().tty)
        with closing(self._channel.stream(calls.logs(self.id, query))) as pieces:
            for piece in pieces:
                yield from splitter.feed(piece)
        yield from splitter.end()

    def _act(self, verb: str, query: Mapping[str, Any] | None = None, patience: int | None = None) -> None:
        limit = self._channel.patience(patience)
        self._channel.call(calls.act(self.id, verb, query or {}), timeout=limit)

    def _wait_stopped(self, timeout: float | None) -> int:
        return self._channel.call(calls.wait(self.id, "not-running"), timeout=timeout).status_code


class _Waiting:
    """A request for an exit that was made before the start, so that no exit can be missed."""

    def __init__(self, channel: Channel, call: Call[models.Exit]) -> None:
        self._call = call
        self._exchange = Exchange(call)
        self._sock = channel.connect()
        send(self._sock, call, None)
        self._first = read_head(self._sock, self._exchange)

    def __call__(self, timeout: float | None) -> int:
        self._sock.settimeout(timeout)
        content = b"".join([*self._first, *receive(self._sock, self._exchange)])
        self.close()
        if self._exchange.refused():
            raise self._exchange.failure(content)
        return self._call.parse(content).status_code

    def close(self) -> None:
        """Give the answer up."""
        self._sock.close()


def _text(value: int | None) -> str:
    return "" if value is None else str(value)
