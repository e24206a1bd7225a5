"""The messages of BuildKit's gateway, on which clients run frontends, as far as this engine reads and writes them.

Field numbers: moby/buildkit frontend/gateway/pb/gateway.proto and solver/pb/ops.proto; names are ours.
"""

import hashlib
from typing import Annotated

from cais.api.buildkit.messages import Capability, Definition, Option, WorkerRecord
from cais.errors import Invalid
from cais.grpc.protobuf import Message, decode, encode
from cais.grpc.status import Status

RESULT_SCHEME = "cais-result://"


class Ref(Message, frozen=True, kw_only=True):
    """A result: its id here, and how another build may name it."""

    id: Annotated[str, 1] = ""
    definition: Annotated[Definition | None, 2] = None


class RefMap(Message, frozen=True, kw_only=True):
    """Results by platform."""

    refs: Annotated[dict[str, Ref], 1] = {}


class Result(Message, frozen=True, kw_only=True):
    """What a frontend gives back: one result, or one for each platform."""

    ref: Annotated[Ref | None, 3] = None
    refs: Annotated[RefMap | None, 4] = None
    metadata: Annotated[dict[str, bytes], 10] = {}


class GatewaySolveRequest(Message, frozen=True, kw_only=True):
    """``LLBBridge.Solve``."""

    definition: Annotated[Definition | None, 1] = None
    frontend: Annotated[str, 2] = ""
    frontend_opt: Annotated[dict[str, str], 3] = {}
    cache_imports: Annotated[tuple[Option, ...], 12] = ()
    frontend_inputs: Annotated[dict[str, Definition], 13] = {}
    evaluate: Annotated[bool, 14] = False


class GatewaySolveResponse(Message, frozen=True, kw_only=True):
    """Its answer."""

    result: Annotated[Result | None, 3] = None


class ReturnRequest(Message, frozen=True, kw_only=True):
    """The end of a client's frontend."""

    result: Annotated[Result | None, 1] = None
    error: Annotated[Status | None, 2] = None


class Pong(Message, frozen=True, kw_only=True):
    """``LLBBridge.Ping``'s answer."""

    frontend_caps: Annotated[tuple[Capability, ...], 1] = ()
    build_caps: Annotated[tuple[Capability, ...], 2] = ()
    workers: Annotated[tuple[WorkerRecord, ...], 3] = ()


class RefRequest(Message, frozen=True, kw_only=True):
    """``Evaluate``, and the beginning of ``ReadFile``, ``ReadDir`` and ``StatFile``."""

    ref: Annotated[str, 1] = ""
    path: Annotated[str, 2] = ""


class ReadFileResponse(Message, frozen=True, kw_only=True):
    """Its bytes."""

    data: Annotated[bytes, 1] = b""


class OpInput(Message, frozen=True, kw_only=True):
    """``pb.Input``."""

    digest: Annotated[str, 1] = ""
    index: Annotated[int, 2] = 0


class SourceOp(Message, frozen=True, kw_only=True):
    """``pb.SourceOp``."""

    identifier: Annotated[str, 1] = ""


class Operation(Message, frozen=True, kw_only=True):
    """``pb.Op``: only sources mean something here."""

    inputs: Annotated[tuple[OpInput, ...], 1] = ()
    source: Annotated[SourceOp | None, 3] = None


def make_definition(id: str) -> Definition:
    """A result as a graph that clients can hand to another build: one source, which only this engine knows."""
    source = encode(Operation(source=SourceOp(identifier=RESULT_SCHEME + id)))
    digest = f"sha256:{hashlib.sha256(source).hexdigest()}"
    end = encode(Operation(inputs=(OpInput(digest=digest),)))
    # Clients take one without metadata for none at all.
    return Definition(operations=(source, end), metadata={digest: b""})


def read_definition(definition: Definition) -> str:
    """The id of the result that a graph stands for. Raises Invalid for any other graph."""
    for operation in definition.operations:
        source = decode(operation, Operation).source
        if source is not None and source.identifier.startswith(RESULT_SCHEME):
            return source.identifier.removeprefix(RESULT_SCHEME)
    raise Invalid("this engine builds Dockerfiles: other graphs (LLB) are not supported")
