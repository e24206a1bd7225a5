"""What went wrong, as the API says it: a status, a kind that programs read, and words."""

import msgspec
from aiohttp import web

from cais.errors import CaisError, Corrupt
from cais.registry.refusal import as_refusal

KINDS = {
    400: "invalid",
    401: "unauthenticated",
    403: "denied",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    416: "invalid",
    429: "too_many_requests",
    500: "internal",
    501: "unsupported",
    503: "unavailable",
    507: "unavailable",
}
"""Status → kind."""


class Problem(msgspec.Struct, frozen=True):
    """``kind`` is one word for programs, ``message`` a sentence for people."""

    kind: str
    message: str


class Failed(msgspec.Struct, frozen=True):
    """The answer to every request that was not done."""

    error: Problem


class Refused(CaisError):
    """A request that this door itself will not do, whatever stands behind it."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


def as_refused(error: Exception) -> Refused:
    """What ``error`` amounts to here."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Corrupt):
        return Refused(500, "what is stored is damaged: the log of the hub says more")
    refusal = as_refusal(error)
    status = 501 if refusal.code == "UNSUPPORTED" else refusal.status
    headers = dict(refusal.headers)
    if status == 429:
        headers.setdefault("Retry-After", "1")
    return Refused(status, str(refusal), headers)


def answer_failure(refused: Refused) -> web.Response:
    """The answer on the wire."""
    failed = Failed(Problem(KINDS.get(refused.status, "invalid"), str(refused)))
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store", **refused.headers}
    return web.Response(status=refused.status, body=msgspec.json.encode(failed), headers=headers)
