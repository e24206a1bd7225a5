"""The attach stream of a container without a terminal: frames of stdout and stderr on one connection.

Engine API, "Attach to a container", stream format: one byte of stream number, three of zero, four of length
(big-endian), then the bytes.
"""

STDIN, STDOUT, STDERR, SYSTEM_ERROR = 0, 1, 2, 3
HEADER = 8


def format_frame(stream: int, data: bytes) -> bytes:
    """One frame; ``data`` is shorter than 4 GiB."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


class Demultiplexer:
    """Takes the stream apart; a long frame is given out piecewise as it arrives, never collected."""

    __slots__ = ("_header", "_left", "_stream")

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Pieces of ``data`` with the stream each belongs to. ValueError for a stream number above 3."""
        pieces: list[tuple[int, bytes]] = []
        if self._header:
            data = self._header + data
            self._header = b""
        at, end = 0, len(data)
        while at < end:
            if not self._left:
                if end - at < HEADER:
                    self._header = data[at:]
                    break
                self._stream = data[at]
                if self._stream > SYSTEM_ERROR or data[at + 1 : at + 4] != b"\0\0\0":
                    raise ValueError("the stream is out of step: not a frame header")
                self._left = int.from_bytes(data[at + 4 : at + HEADER], "big")
                at += HEADER
                continue
            piece = data[at : at + self._left]
            pieces.append((self._stream, piece))
            self._left -= len(piece)
            at += len(piece)
        return pieces
