"""Errors as BuildKit's clients read them: a status, and beside it the place in the Dockerfile that they print.

Source: moby/buildkit util/grpcerrors (details are JSON under a type's URL) and solver/errdefs/errdefs.proto.
"""

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from cais.build.dockerfile.fault import DockerfileError
from cais.build.narrate import StepFailed
from cais.build.request import CommandFailed
from cais.errors import CaisError
from cais.grpc.status import AnyMessage, Code, RpcError, Status
from cais.store.full import explain_full, is_full

_URL = "github.com/moby/buildkit/errdefs."
_CODE = Code.UNKNOWN
"""Of all errors of builds: clients put the names of other codes before the message."""


def explain(error: Exception) -> Status:
    """The status of any error of a build."""
    if isinstance(error, RpcError):
        return error.status
    if isinstance(error, StepFailed):
        return _explain_step(error)
    if isinstance(error, DockerfileError):
        return _explain_dockerfile(error)
    return Status(code=_CODE, message=_text(error))


def _text(error: Exception) -> str:
    if is_full(error):
        return explain_full(error)
    return str(error) if isinstance(error, CaisError) else f"{type(error).__name__}: {error}"


def _explain_step(error: StepFailed) -> Status:
    cause = error.error
    message = _text(cause)
    if isinstance(cause, CommandFailed):
        command = f'process "{cause.command}" did not complete successfully'
        message = f"{command}: exit code: {cause.code}{cause.reason}"
    details = [_detail("Vertex", {"digest": error.vertex})]
    if error.lines.start:
        details.append(_source(error.file, error.text, error.lines.start, error.lines.end))
    return Status(code=_CODE, message=message, details=tuple(details))


def _explain_dockerfile(error: DockerfileError) -> Status:
    hint = f" ({error.hint})" if error.hint else ""
    if not error.lines.start:
        return Status(code=_CODE, message=f"{error.problem}{hint}")
    message = f"dockerfile parse error on {error.lines}: {error.problem}{hint}"
    # Clients print the lines around: those, at their numbers.
    text = [""] * max((number for number, _, _ in error.excerpt), default=0)
    for number, line, _ in error.excerpt:
        text[number - 1] = line
    source = _source(error.name, text, error.lines.start, error.lines.end)
    return Status(code=_CODE, message=message, details=(source,))


def _source(file: str, text: Sequence[str], start: int, end: int) -> AnyMessage:
    data = "\n".join(text).encode("utf-8", "surrogateescape")
    info = {
        "filename": file or "Dockerfile",
        "data": base64.b64encode(data).decode(),
        "language": "Dockerfile",
    }
    return _detail("Source", {"info": info, "ranges": [{"start": {"line": start}, "end": {"line": end}}]})


def _detail(kind: str, value: dict[str, Any]) -> AnyMessage:
    return AnyMessage(type_url=f"{_URL}{kind}+json", value=msgspec.json.encode(value))
