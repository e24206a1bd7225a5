"""What a build tells while it goes on: one vertex for everything that takes time, each with its own life.

Vertices run side by side, so events of several are mixed; those of one are in order: started, output and progress,
done. Times are nanoseconds since the epoch.
"""

from collections.abc import Callable

import msgspec

from cais.build.dockerfile.fault import Lines


class VertexStarted(msgspec.Struct, frozen=True):
    """It began, or was found. ``digest`` is its identity, ``inputs`` those of what it stands on; ``name`` is for
    people."""

    digest: str
    name: str
    at_ns: int
    inputs: tuple[str, ...] = ()


class VertexOutput(msgspec.Struct, frozen=True):
    """What its program wrote; ``stream`` 1 or 2."""

    digest: str
    stream: int
    data: bytes
    at_ns: int


class VertexProgress(msgspec.Struct, frozen=True):
    """One of several things it does: a layer that is pulled, a file that is written. ``total`` 0: not known."""

    digest: str
    id: str
    current: int
    total: int
    at_ns: int
    started_ns: int
    is_done: bool = False


class VertexDone(msgspec.Struct, frozen=True):
    """It has ended; ``error`` is empty if it went well."""

    digest: str
    at_ns: int
    is_cached: bool = False
    error: str = ""


class VertexWarned(msgspec.Struct, frozen=True):
    """A finding about a place in the Dockerfile. ``level`` 1 is for people."""

    digest: str
    level: int
    short: str
    detail: tuple[str, ...] = ()
    url: str = ""
    file: str = ""
    text: bytes = b""
    lines: Lines | None = None


VertexEvent = VertexStarted | VertexOutput | VertexProgress | VertexDone | VertexWarned
Tell = Callable[[VertexEvent], None]
