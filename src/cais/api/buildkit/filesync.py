"""Taking a folder from a client: its walk comes as a stream, what is not known is asked for, all on one call.

The protocol is fsutil's (tonistiigi/fsutil send.go, receive.go): ``STAT`` for every file in order, one without a file
at the end; ``REQ`` with a file's number in that order; ``DATA`` with that number, empty at the end of a file; ``FIN``
from both sides.
"""

import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote_plus

from cais.api.buildkit.sessions import Session
from cais.api.buildkit.sessionwire import DATA, ERR, FIN, REQ, Packet, Stat
from cais.build.context import Index
from cais.build.inputs import TRANSFERRED
from cais.build.synced import Incoming, Receiving, SyncedStore
from cais.build.tree import Node
from cais.errors import Invalid, NotFound, Unavailable
from cais.grpc.calls import Call
from cais.grpc.protobuf import decode, read_fields
from cais.grpc.status import Code, RpcError
from cais.spec.ignore import Ignore, has_wildcards
from cais.store.layers import tar

METHOD = "/moby.filesync.v1.FileSync/DiffCopy"

# Kinds in Go's os.FileMode.
_FOLDER, _SYMLINK, _DEVICE, _FIFO, _SOCKET, _CHARACTER = 1 << 31, 1 << 27, 1 << 26, 1 << 25, 1 << 24, 1 << 21
_SPECIAL = ((1 << 23, stat.S_ISUID), (1 << 22, stat.S_ISGID), (1 << 20, stat.S_ISVTX))

_OTHER_HEAD = b"\x08"
"""How every packet begins whose type is not the first, ``STAT``."""
_DATA_HEAD = b"\x08\x02"
"""How a packet of type ``DATA`` begins."""

_NOTHING = Ignore()

Progress = Callable[[int], None]
"""Called with the bytes that have come so far."""


async def receive_folder(
    session: Session,
    store: SyncedStore,
    name: str,
    folder: Path,
    *,
    ignore: Ignore = _NOTHING,
    paths: Iterable[str] = (),
) -> Index:
    """The client's folder ``name``. ``ignore``: what the client leaves out; ``paths``: nothing else is wanted (none:
    everything). Raises NotFound (no such folder there), Invalid, Unavailable, OSError."""
    if not session.offers(METHOD):
        raise NotFound("the client offers no folder to build from")
    metadata = {
        "dir-name": (name,),
        "exclude-patterns": ignore.patterns,
        "followpaths": tuple(paths),
    }
    if session.is_old:
        metadata = _without_news(metadata)
    filters = ignore.has_exceptions or not metadata["exclude-patterns"]
    key = f"{session.shared_key}\0{name}" if session.shared_key else ""
    asked = repr((sorted(metadata.items()), ignore.patterns))
    async with store.receive(key, folder, part=bool(metadata["followpaths"]), asked=asked) as receiving:
        call = session.channel.call(METHOD, encode_metadata(metadata))
        try:
            await _receive(call, receiving, ignore if filters else _NOTHING, TRANSFERRED.get())
        except ConnectionResetError:
            raise Unavailable("the client went away while it sent files") from None
        except RpcError as error:
            call.cancel()
            raise _explain(error, name) from error
        except BaseException:
            call.cancel()
            raise
        await receiving.flush()
        return receiving.index(folder)


def _explain(error: RpcError, name: str) -> Exception:
    if error.code == Code.NOT_FOUND or "no access allowed" in error.message:
        return NotFound(f"the client has no folder {name!r} for this build")
    if error.code in (Code.UNAVAILABLE, Code.CANCELLED):
        return Unavailable(f"the client went away while it sent {name!r}: {error.message}")
    return Invalid(f"the client could not send {name!r}: {error.message}")


async def _receive(call: Call, receiving: Receiving, ignore: Ignore, progress: Progress | None) -> None:
    walking = _Walk(call, receiving, ignore)
    coming = walking.coming
    is_walked = False
    while not (is_walked and not coming):
        message = await _next(call)
        if not is_walked and not message.startswith(_OTHER_HEAD):
            is_walked = await walking.take(message)
            continue
        packet = parse_packet(message)
        if packet.type == ERR:
            raise Invalid(f"the client could not send: {packet.data.decode('utf-8', 'replace')}")
        if packet.type != DATA:
            raise Invalid(f"the client broke the transfer off: packet of type {packet.type}")
        file = coming.get(packet.id)
        if file is None:
            raise Invalid(f"the client sent a file that nobody asked for: {packet.id}")
        if packet.data:
            await receiving.write(file, packet.data)
            if progress is not None:
                progress(receiving.received)
        else:
            receiving.finish(file)
            del coming[packet.id]
    await call.send(Packet(type=FIN))
    while parse_packet(await _next(call)).type != FIN:
        pass
    # The client may have closed its side already.
    with suppress(ConnectionResetError, RpcError):
        await call.end()
        while await call.receive() is not None:
            pass


class _Walk:
    """The files that a client names, one after the other. As long as they are word for word those of the walk before,
    nothing is taken apart."""

    def __init__(self, call: Call, receiving: Receiving, ignore: Ignore) -> None:
        self._call = call
        self._receiving = receiving
        self._ignore = ignore
        self._held: dict[str, Stat] = {}
        self._before = receiving.memory.messages if receiving.memory else ()
        self._same = len(self._before) > 0
        self._number = 0
        self.coming: dict[int, Incoming] = {}

    async def take(self, message: bytes) -> bool:
        """One message; whether it was the last."""
        messages = self._receiving.messages
        if self._same:
            at = len(messages)
            if at < len(self._before) and message == self._before[at]:
                messages.append(message)
                return False
            if at == len(self._before) and not message:
                self._receiving.recall()
                return True
            self._same = False
            for each in messages:
                await self._note(each)
        if not message:
            return True  # a STAT without a stat is nothing at all
        messages.append(message)
        await self._note(message)
        return False

    async def _note(self, message: bytes) -> None:
        found = decode(message, Packet).stat
        if found is None:
            raise Invalid("the client named a file without saying which")
        wanted = None if self._is_left_out(found) else self._take(found)
        if wanted is not None:
            self.coming[self._number] = wanted
            await self._call.send(Packet(type=REQ, id=self._number))
        self._number += 1

    def _is_left_out(self, found: Stat) -> bool:
        """Below an excluded folder into which an exception reaches, buildx names every file (0.29), and sends those
        that it should have left out empty. An excluded folder is there only for what is not excluded below it."""
        if not self._ignore.rules or not self._ignore.excludes(found.path):
            return False
        if found.mode & _FOLDER:
            self._held[found.path] = found
        return True

    def _take(self, found: Stat) -> Incoming | None:
        """Note one file of the walk, and the folders that were held back above it; what must come."""
        above = [found.path[:at] for at, char in enumerate(found.path) if char == "/"] if self._held else ()
        for folder in above:
            if folder in self._held:
                _note(self._receiving, self._held.pop(folder))
        return _note(self._receiving, found)


async def _next(call: Call) -> bytes:
    message = call.receive_now()
    if message is None:
        message = await call.receive()
    if message is None:
        raise RpcError(Code.UNAVAILABLE, "the transfer ended too early")
    return message


def parse_packet(message: bytes) -> Packet:
    """A packet; the many that hold a piece of a file are taken apart by hand, in a third of the time."""
    if message[:2] == _DATA_HEAD:
        id = 0
        data = b""
        try:
            for number, wire, value in read_fields(message[2:]):
                if number == 3 and wire == 0:
                    id = value
                elif number == 4 and wire == 2:
                    data = value
        except IndexError:
            raise Invalid("protobuf: Packet is cut off") from None
        return Packet(type=DATA, id=id, data=data)
    return decode(message, Packet)


def _note(receiving: Receiving, found: Stat) -> Incoming | None:
    node = to_node(found)
    return None if node is None else receiving.add(found.path, node, found.mtime)


def to_node(found: Stat) -> Node | None:
    """A file as trees have it; None for a socket. Owners do not count: files of a context are root's."""
    mode = found.mode & 0o777
    for bit, meaning in _SPECIAL:
        mode |= meaning if found.mode & bit else 0
    link = found.link.encode("utf-8", "surrogateescape")
    kind, device = tar.REGULAR, (0, 0)
    if found.mode & _FOLDER:
        kind = tar.FOLDER
    elif found.mode & _SYMLINK:
        kind = tar.SYMLINK
    elif found.mode & _DEVICE:
        kind = tar.CHARACTER if found.mode & _CHARACTER else tar.BLOCK_DEVICE
        device = (found.major, found.minor)
    elif found.mode & _FIFO:
        kind = tar.FIFO
    elif found.mode & _SOCKET:
        return None
    elif link:
        kind = tar.HARD_LINK
    if found.size < 0:
        raise Invalid(f"the client says that {found.path!r} has {found.size} bytes")
    return Node(
        kind,
        mode,
        size=found.size if kind == tar.REGULAR else 0,
        mtime=found.mtime // 1_000_000_000,
        link=link if kind in (tar.SYMLINK, tar.HARD_LINK) else b"",
        device=device,
        xattrs={name: value for name, value in found.xattrs.items() if _is_kept(name)},
    )


def _is_kept(xattr: str) -> bool:
    return xattr == "security.capability" or (
        xattr.startswith("user.") and not xattr.startswith("user.overlay.")
    )


def _without_news(values: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Without what a client of before version 23 gets wrong: names that are not ASCII, and exceptions with wildcards in
    excluded folders. It walks through more for that, and what is excluded is left out here."""
    patterns = values["exclude-patterns"]
    if any(has_wildcards(pattern) for pattern in patterns if pattern.startswith("!")):
        values = {**values, "exclude-patterns": ()}
    return {name: texts if name == "dir-name" or _is_plain(texts) else () for name, texts in values.items()}


def _is_plain(texts: tuple[str, ...]) -> bool:
    return all(text.isascii() and text.isprintable() for text in texts)


def encode_metadata(values: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Headers take ASCII alone: others are quoted, and marked as such (session/filesync/filesync.go)."""
    found: dict[str, tuple[str, ...]] = {}
    for name, texts in values.items():
        if not texts:
            continue
        if _is_plain(texts):
            found[name] = texts
        else:
            found[name] = tuple(quote_plus(text, errors="surrogateescape") for text in texts)
            found[f"{name}-encoded"] = ("1",)
    return found
