"""From our error tree to Docker's answers: a status and ``{"message": …}``."""

import logging

import msgspec
from aiohttp import ClientConnectionResetError, web

from cais import errors
from cais.api.replies import json_reply
from cais.store.full import explain_full, is_full

log = logging.getLogger(__name__)

STATUS: dict[type[BaseException], int] = {
    errors.Invalid: 400,
    errors.Unauthenticated: 401,
    errors.Denied: 403,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.Conflict: 409,
    errors.NotModified: 304,
    errors.Unavailable: 503,
    errors.Unsupported: 501,
    errors.Corrupt: 500,
    # dockerd blames the request when the program cannot be executed; the CLI makes 126 or 127 of the text.
    errors.TaskFailed: 400,
    msgspec.ValidationError: 400,
}

_DOCKER_CAPITALS = ("no such container", "no such image", "no such exec instance", "conflict. ", "container ")
"""Beginnings that dockerd writes with a capital letter and that scripts look for."""

_DOCKER_SMALL = ("container rootfs ",)
"""And those of them that it does not."""


def status_of(error: BaseException) -> int:
    """The HTTP status of ``error``: its nearest class in the table, 500 for all else."""
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def message_of(error: BaseException) -> str:
    """The text for the client, spelled as dockerd spells it."""
    text = explain_full(error) if is_full(error) else str(error) or type(error).__name__
    if text.startswith(_DOCKER_CAPITALS) and not text.startswith(_DOCKER_SMALL):
        return text[0].upper() + text[1:]
    return text


def error_reply(error: Exception, version: str) -> web.Response:
    """The answer for ``error``; ``version`` is the API version's text as the client wrote it.

    Clients of before API 1.24 print the body as it is, so they get plain text.
    """
    status = status_of(error)
    if status == 304:
        return web.Response(status=304)
    if isinstance(error, ClientConnectionResetError | ConnectionResetError):
        return web.Response(status=499)
    if status == 500:
        log.error("request failed: %s", error, exc_info=error)
    message = message_of(error)
    if is_ancient(version):
        return web.Response(status=status, text=message + "\n")
    return json_reply({"message": message}, status=status)


def is_ancient(version: str) -> bool:
    """Is the client older than JSON errors?"""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0] or "0"
    return bool(version) and (int(major), int(minor)) < (1, 24)
