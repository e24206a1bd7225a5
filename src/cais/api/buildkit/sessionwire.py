"""The messages of the services that a client offers on its session.

Field numbers: moby/buildkit session/*/*.proto and tonistiigi/fsutil types/*.proto; names are ours.
"""

from typing import Annotated

from cais.grpc.protobuf import Message

STAT, REQ, DATA, FIN, ERR = range(5)


class Stat(Message, frozen=True, kw_only=True):
    """One file of a walk. ``mode`` has Go's bits for kinds; ``mtime`` nanoseconds since the epoch."""

    path: Annotated[str, 1] = ""
    mode: Annotated[int, 2] = 0
    uid: Annotated[int, 3] = 0
    gid: Annotated[int, 4] = 0
    size: Annotated[int, 5] = 0
    mtime: Annotated[int, 6] = 0
    link: Annotated[str, 7] = ""
    major: Annotated[int, 8] = 0
    minor: Annotated[int, 9] = 0
    xattrs: Annotated[dict[str, bytes], 10] = {}


class Packet(Message, frozen=True, kw_only=True):
    """One step of a transfer: ``STAT`` without a stat ends the walk, ``DATA`` without data ends a file."""

    type: Annotated[int, 1] = 0
    stat: Annotated[Stat | None, 2] = None
    id: Annotated[int, 3] = 0
    data: Annotated[bytes, 4] = b""


class SecretRequest(Message, frozen=True, kw_only=True):
    """``GetSecret``."""

    id: Annotated[str, 1] = ""


class SecretResponse(Message, frozen=True, kw_only=True):
    """Its bytes."""

    data: Annotated[bytes, 1] = b""


class AgentRequest(Message, frozen=True, kw_only=True):
    """``CheckAgent``."""

    id: Annotated[str, 1] = ""


class CredentialsRequest(Message, frozen=True, kw_only=True):
    """``Credentials``."""

    host: Annotated[str, 1] = ""


class CredentialsResponse(Message, frozen=True, kw_only=True):
    """Without a user name the secret is an identity token."""

    username: Annotated[str, 1] = ""
    secret: Annotated[str, 2] = ""
