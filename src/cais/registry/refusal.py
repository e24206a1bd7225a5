"""The registry's errors on the wire: the codes of the distribution specification, and which of ours mean which."""

from typing import Any

import msgspec

from cais.errors import (
    AlreadyExists,
    CaisError,
    Conflict,
    Denied,
    Invalid,
    NotFound,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

STATUS = {
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_INVALID": 416,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DIGEST_INVALID": 400,
    "MANIFEST_BLOB_UNKNOWN": 404,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404,
    "SIZE_INVALID": 400,
    "UNAUTHORIZED": 401,
    "DENIED": 403,
    "UNSUPPORTED": 405,
    "TOOMANYREQUESTS": 429,
    "PAGINATION_NUMBER_INVALID": 400,
    "TAG_INVALID": 400,
    "UNAVAILABLE": 503,
    "UNKNOWN": 500,
}
"""Code → status (distribution spec, "Error Codes", and those that Docker's registry adds)."""

_KINDS = {
    Unauthenticated: "UNAUTHORIZED",
    Denied: "DENIED",
    NotFound: "NAME_UNKNOWN",
    AlreadyExists: "DENIED",
    Conflict: "DENIED",
    Invalid: "MANIFEST_INVALID",
    Unsupported: "UNSUPPORTED",
    Unavailable: "UNAVAILABLE",
}


class Refusal(CaisError):
    """A request that the registry will not do; ``code`` is one of STATUS."""

    def __init__(self, code: str, message: str, *, detail: Any = None, status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.detail = detail
        self.status = status or STATUS[code]
        self.headers: dict[str, str] = {}


def as_refusal(error: Exception) -> Refusal:
    """The refusal that ``error`` amounts to. What is nobody's business inside is not told: only its kind is."""
    if isinstance(error, Refusal):
        return error
    code = next((code for kind, code in _KINDS.items() if isinstance(error, kind)), "")
    if code:
        return Refusal(code, str(error), status=409 if isinstance(error, AlreadyExists | Conflict) else 0)
    if isinstance(error, OSError) and error.errno in (28, 122):
        # ENOSPC, EDQUOT
        return Refusal("UNAVAILABLE", "no space left for what was sent; try again later", status=507)
    return Refusal("UNKNOWN", "something went wrong here; the log of the registry says what")


def format_refusal(refusal: Refusal) -> bytes:
    """The JSON body of the specification."""
    entry = {"code": refusal.code, "message": str(refusal)}
    if refusal.detail is not None:
        entry["detail"] = refusal.detail
    return msgspec.json.encode({"errors": [entry]}, enc_hook=str)
