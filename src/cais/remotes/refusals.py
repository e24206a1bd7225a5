"""What registries say when they refuse, as our errors in Docker's words."""

from collections.abc import Iterable
from typing import Any

import msgspec

from cais.errors import CaisError, Corrupt, Denied, NotFound, Unavailable, Unsupported
from cais.spec.reference import Reference

_TEXT_LIMIT = 500
_DENIED = ("DENIED", "UNAUTHORIZED")
_READ_ONLY = "UNSUPPORTED"
_DAMAGED = ("DIGEST_INVALID", "SIZE_INVALID")
_LOST = ("BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID", "RANGE_INVALID")


class Interrupted(Unavailable):
    """May succeed when it is tried again, ``after`` so many seconds if the server said so.

    ``is_answered``: there was somebody at the other end; without, trying again at once is of little use.
    """

    def __init__(self, message: str, *, after: float | None = None, is_answered: bool = True) -> None:
        super().__init__(message)
        self.after = after
        self.is_answered = is_answered


class Forbidden(NotFound):
    """Not there, or not ours to see: the registry does not say which (401, 403)."""


class LostUpload(Interrupted):
    """The registry does not know the upload any more, or not where it stands: it has to begin anew."""


class TooLarge(Unavailable):
    """The registry, or what stands before it, does not take so many bytes in one request."""


def clean_text(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` of a stranger, fit for terminals and logs: short, printable, none of our ``secrets`` in it."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return "".join(char if char.isprintable() else " " for char in text[:_TEXT_LIMIT]).strip()


def describe_body(body: bytes, secrets: Iterable[str] = ()) -> str:
    """The server's own words in an error answer: ``code: message`` (distribution spec, "Error Codes"), or empty."""
    code, message = read_error(body)
    words = code.replace("_", " ").lower() if code != "TOOMANYREQUESTS" else "toomanyrequests"
    return clean_text(": ".join(part for part in (words, message) if part), secrets)


def read_error(body: bytes) -> tuple[str, str]:
    """Code and message of the first error in the body; token servers have a message alone (``details``)."""
    try:
        raw: Any = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(raw, dict):
        return "", ""
    errors = raw.get("errors")
    first: Any = errors[0] if isinstance(errors, list) and errors else raw
    if not isinstance(first, dict):
        return "", ""
    code = first.get("code") or ""
    message = first.get("message") or first.get("details") or first.get("error_description") or ""
    return (code if isinstance(code, str) else "", message if isinstance(message, str) else "")


def make_refusal(
    status: int, body: bytes, reference: Reference, *, secrets: Iterable[str] = (), after: float | None = None
) -> CaisError:
    """The error for an answer that was not what was asked for.

    NotFound for what is not there, Forbidden for what may also be not ours to see (to clients both are NotFound, as
    with Docker), Interrupted for what may pass, Unavailable for all else.
    """
    code, _ = read_error(body)
    said = describe_body(body, secrets)
    if status in (401, 403) or code in _DENIED:
        reason = said or "denied: requested access to the resource is denied"
        return Forbidden(
            f"pull access denied for {reference.familiar_name}, repository does not exist or may require "
            f"'docker login': {reason}"
        )
    if code == "NAME_UNKNOWN":
        return NotFound(f"repository {reference.familiar_name} not found: {said}")
    if status == 404:
        return NotFound(f"manifest for {reference.familiar()} not found: {said or 'manifest unknown'}")
    if status == 429:
        return Interrupted(said or "toomanyrequests: the registry wants fewer requests", after=after)
    text = f"received unexpected HTTP status: {status}{f': {said}' if said else ''}"
    return Interrupted(text, after=after) if status >= 500 or status == 408 else Unavailable(text)


def make_push_refusal(
    status: int,
    body: bytes,
    reference: Reference,
    what: str,
    *,
    secrets: Iterable[str] = (),
    after: float | None = None,
) -> CaisError:
    """The error for an answer that stopped ``what`` ("blob sha256:…") from being pushed to ``reference``.

    Denied, Unsupported (a registry that is read-only), Corrupt (it has counted or hashed otherwise), Interrupted and
    LostUpload for what may pass, TooLarge, Unavailable for all else.
    """
    code, _ = read_error(body)
    said = describe_body(body, secrets)
    words = f": {said}" if said else ""
    name = reference.familiar_name
    if status in (401, 403) or code in _DENIED:
        default = (
            "unauthorized: authentication required"
            if status == 401
            else "denied: requested access to the resource is denied"
        )
        reason = said or default
        return Denied(
            f"push access denied for {name}, repository does not exist or may require 'docker login': {reason}"
        )
    if status == 405 or (code == _READ_ONLY and status < 500):
        return Unsupported(
            f"cannot push {what} to {name}: the registry takes no pushes, it may be read-only{words}"
        )
    if code in _DAMAGED:
        return Corrupt(f"the registry did not get {what} for {name} as it is{words}")
    if status == 429:
        return Interrupted(
            f"cannot push {what} to {name}: {said or 'toomanyrequests: the registry wants fewer requests'}",
            after=after,
        )
    if status == 413:
        return TooLarge(f"cannot push {what} to {name}: the registry does not take that much at once{words}")
    text = f"cannot push {what} to {name}: received unexpected HTTP status: {status}{words}"
    if code.startswith("NAME_"):
        return NotFound(text)
    if status in (404, 416) or code in _LOST:
        return LostUpload(text)
    return Interrupted(text, after=after) if status >= 500 or status == 408 else Unavailable(text)
