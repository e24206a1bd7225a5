"""The client's end of what a build delivers to it: archives and trees, in the answer to its request."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from cais.api.wire.caisbuild import Line
from cais.build.export.rootfs import stream_tar
from cais.build.share.blobs import BlobSink
from cais.build.tree import Tree
from cais.errors import Invalid

Send = Callable[[Line, bytes], Awaitable[None]]
"""Sends one line of the answer, and the raw bytes that belong behind it; waits while the client is slow."""
PIECE = 1 << 20


class ClientSink:
    """``export.result.Sink`` over the answer to the request."""

    def __init__(self, index: int, send: Send) -> None:
        self._index = index
        self._send = send

    async def open_stream(self, response: Mapping[str, str]) -> "ClientStream":
        """Sink.open_stream."""
        return ClientStream(self._index, self._send)

    async def send_tree(self, tree: Tree) -> None:
        """Sink.send_tree: as a tar, which the client unpacks."""
        stream = ClientStream(self._index, self._send)
        parts: AsyncIterator[bytes] = stream_tar(tree)
        async for part in parts:
            await stream.write(part)
        await stream.close()

    async def open_blobs(self) -> BlobSink:
        """Sink.open_blobs."""
        raise Invalid(
            "an output of type oci with tar=false cannot be sent to this client: leave tar=false out"
        )


class ClientStream:
    """``export.result.StreamWriter``: pieces in the answer."""

    def __init__(self, index: int, send: Send) -> None:
        self._index = index
        self._send = send

    async def write(self, data: bytes) -> None:
        """StreamWriter.write."""
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            await self._send({"type": "data", "output": self._index, "size": len(piece)}, piece)

    async def close(self) -> None:
        """StreamWriter.close."""
        await self._send({"type": "data_end", "output": self._index}, b"")
