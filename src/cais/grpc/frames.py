"""HTTP/2's frames: bytes and numbers, no state. Source: RFC 9113, sections 4 and 6."""

import struct
from enum import IntEnum

HEADER = struct.Struct(">HBBBI")
"""Length as 16 and 8 bits, type, flags, stream."""
HEADER_SIZE = 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_WINDOW = 65535
DEFAULT_FRAME = 16384
MAX_WINDOW = (1 << 31) - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_STREAMS, INITIAL_WINDOW, MAX_FRAME, MAX_HEADER_LIST = range(1, 7)


class ErrorCode(IntEnum):
    """Why a stream or connection is given up (RFC 9113, section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    ENHANCE_YOUR_CALM = 0xB


class Broken(Exception):
    """The peer broke the protocol; the connection cannot go on."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings_frame(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(struct.pack(">HI", key, value) for key, value in values.items())
    return frame(SETTINGS, 0, 0, payload)


def parse_settings(payload: bytes) -> dict[int, int]:
    """The values of a SETTINGS frame. Raises Broken."""
    if len(payload) % 6:
        raise Broken(ErrorCode.FRAME_SIZE_ERROR, "settings of a wrong size")
    found = dict(struct.iter_unpack(">HI", payload))
    if found.get(INITIAL_WINDOW, 0) > MAX_WINDOW:
        raise Broken(ErrorCode.FLOW_CONTROL_ERROR, "an initial window of more than 2^31-1")
    if not DEFAULT_FRAME <= found.get(MAX_FRAME, DEFAULT_FRAME) < 1 << 24:
        raise Broken(ErrorCode.PROTOCOL_ERROR, "a frame size out of range")
    return found


def window_frame(stream: int, amount: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", amount))


def strip_padding(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without padding and priority. Raises Broken."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise Broken(ErrorCode.FRAME_SIZE_ERROR, "no pad length")
        start, end = 1, end - payload[0]
    if flags & HAS_PRIORITY:
        start += 5
    if end < start:
        raise Broken(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[start:end]
