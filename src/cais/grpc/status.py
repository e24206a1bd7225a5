"""gRPC's status: codes, and errors that carry one across a connection. Source: grpc.io, "Status codes"."""

from enum import IntEnum
from typing import Annotated

from cais.errors import CaisError
from cais.grpc.protobuf import Message


class Code(IntEnum):
    """Why a call ended."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class AnyMessage(Message, frozen=True, kw_only=True):
    """``google.protobuf.Any``."""

    type_url: Annotated[str, 1] = ""
    value: Annotated[bytes, 2] = b""


class Status(Message, frozen=True, kw_only=True):
    """``google.rpc.Status``."""

    code: Annotated[int, 1] = 0
    message: Annotated[str, 2] = ""
    details: Annotated[tuple[AnyMessage, ...], 3] = ()


class RpcError(CaisError):
    """A call that ended with something else than OK; raised by a handler it is what the other side gets."""

    def __init__(self, code: int, message: str, details: tuple[AnyMessage, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    @property
    def status(self) -> Status:
        """All of it as a message."""
        return Status(code=int(self.code), message=self.message, details=self.details)
