"""The client's end of outputs: archives as streams of bytes, folders by the protocol of ``filesync`` the other way
round (moby/buildkit session/filesync/filesync.go, ``FileSend``)."""

import asyncio
import stat
from collections.abc import Iterator, Mapping

from cais.api.buildkit.messages import BytesMessage
from cais.api.buildkit.sessions import Session
from cais.api.buildkit.sessionwire import DATA, ERR, FIN, REQ, STAT, Packet, Stat
from cais.api.buildkit.stores import ClientStore
from cais.build.export.rootfs import walk
from cais.build.share.blobs import BlobSink
from cais.build.tree import Node, Tree
from cais.errors import Invalid, Unavailable
from cais.grpc.calls import Call
from cais.grpc.protobuf import decode
from cais.grpc.status import Code, RpcError
from cais.store.layers import tar

METHOD = "/moby.filesync.v1.FileSend/DiffCopy"
_ID = "buildkit-attachable-exporter-id"
_PIECE = 32 << 10
_KINDS = {
    tar.FOLDER: 1 << 31,
    tar.SYMLINK: 1 << 27,
    tar.CHARACTER: 1 << 26 | 1 << 21,
    tar.BLOCK_DEVICE: 1 << 26,
    tar.FIFO: 1 << 25,
}
_SPECIAL = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))
_BATCH = 512


class SessionSink:
    """One output of a build; ``index``: its number in what the client ordered."""

    def __init__(self, session: Session, index: int) -> None:
        self._session = session
        self._index = index

    def _call(self, extra: Mapping[str, str] | None = None) -> Call:
        if not self._session.offers(METHOD):
            raise Invalid("the client takes no files: this output needs a destination on its side")
        metadata = {_ID: (str(self._index),)}
        for name, value in (extra or {}).items():
            if value.isascii() and value.isprintable():
                metadata[f"exporter-md-{name.lower()}"] = (value,)
        return self._session.channel.call(METHOD, metadata)

    async def open_stream(self, response: Mapping[str, str]) -> "SessionStream":
        """Sink.open_stream."""
        return SessionStream(self._call(response))

    async def send_tree(self, tree: Tree) -> None:
        """Sink.send_tree."""
        call = self._call()
        try:
            await _send_tree(call, tree)
        except ConnectionResetError:
            # The client has said why.
            await _explain(call)
            raise Unavailable("the client went away while it received files") from None
        except RpcError as error:
            raise Unavailable(f"the client could not take the files: {error.message}") from error
        finally:
            call.cancel()

    async def open_blobs(self) -> BlobSink:
        """Sink.open_blobs."""
        return ClientStore(self._session, "export")


async def _explain(call: Call) -> None:
    try:
        while await call.receive() is not None:
            pass
    except RpcError as error:
        if error.code not in (Code.UNAVAILABLE, Code.CANCELLED):
            raise Invalid(f"the client could not take the files: {error.message}") from error


class SessionStream:
    """StreamWriter: one archive."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def write(self, data: bytes) -> None:
        """StreamWriter.write."""
        try:
            for at in range(0, len(data), 1 << 20):
                await self._call.send(BytesMessage(data=data[at : at + (1 << 20)]))
        except ConnectionResetError:
            await _explain(self._call)
            raise Unavailable("the client went away while it received the archive") from None

    async def close(self) -> None:
        """StreamWriter.close: the client has written everything when this returns."""
        try:
            await self._call.end()
            while await self._call.receive() is not None:
                pass
        except ConnectionResetError:
            await _explain(self._call)
            raise Unavailable("the client went away while it received the archive") from None
        except RpcError as error:
            raise Unavailable(f"the client could not take the archive: {error.message}") from error


async def _send_tree(call: Call, tree: Tree) -> None:
    """All files; the client asks for those that it has not."""
    paths: list[bytes] = []
    files = _listing(tree)
    sending = asyncio.create_task(_answer(call, tree, paths))
    try:
        while batch := await asyncio.to_thread(_take, files, _BATCH):
            for path, found in batch:
                paths.append(path)
                await call.send(Packet(type=STAT, stat=found))
            if sending.done():
                break
        if not sending.done():
            await call.send(Packet(type=STAT))
        await sending
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _answer(call: Call, tree: Tree, paths: list[bytes]) -> None:
    """Send the files that the client asks for, until it has everything."""
    while (message := await call.receive()) is not None:
        packet = decode(message, Packet)
        if packet.type == FIN:
            await call.send(Packet(type=FIN))
            await call.end()
        elif packet.type == ERR:
            raise Invalid(f"the client could not take the files: {packet.data.decode('utf-8', 'replace')}")
        elif packet.type == REQ:
            if packet.id >= len(paths):
                raise Invalid(f"the client asked for file {packet.id}, which there is not")
            parts = tree.read(paths[packet.id])
            while pieces := await asyncio.to_thread(_take_bytes, parts):
                for piece in pieces:
                    await call.send(Packet(type=DATA, id=packet.id, data=piece))
            await call.send(Packet(type=DATA, id=packet.id))


def _take(files: Iterator[tuple[bytes, Stat]], count: int) -> list[tuple[bytes, Stat]]:
    return [found for found, _ in zip(files, range(count), strict=False)]


def _take_bytes(parts: Iterator[bytes]) -> list[bytes]:
    part = next(parts, b"")
    return [part[at : at + _PIECE] for at in range(0, len(part), _PIECE)]


def _listing(tree: Tree) -> Iterator[tuple[bytes, Stat]]:
    links: dict[tuple[int, ...], bytes] = {}
    for path, node in walk(tree):
        link = node.link
        if node.identity and not node.is_folder:
            first = links.setdefault(node.identity, path)
            link = first if first != path else link
        yield path, to_stat(path, node, link)


def to_stat(path: bytes, node: Node, link: bytes) -> Stat:
    """A file as fsutil has it; a regular one with a link is a hard link."""
    mode = node.mode & 0o777 | _KINDS.get(node.kind, 0)
    for bit, meaning in _SPECIAL:
        mode |= meaning if node.mode & bit else 0
    return Stat(
        path=path.decode("utf-8", "surrogateescape"),
        mode=mode,
        uid=node.uid,
        gid=node.gid,
        size=node.size,
        mtime=node.mtime * 1_000_000_000,
        link=link.decode("utf-8", "surrogateescape"),
        major=node.device[0],
        minor=node.device[1],
        xattrs=node.xattrs,
    )
