"""The ``syntax`` directive: which language a Dockerfile is written in.

No image of a parser is ever run here. Docker's own (``docker/dockerfile``, whatever its tag, also from a mirror) mean
the language that this engine reads anyway. ``# syntax=cais/dockerfile:1`` is that language and two instructions more:

``UNSET ENV|LABEL|VOLUME|EXPOSE NAME…`` and ``UNSET ENTRYPOINT|CMD|USER|WORKDIR|HEALTHCHECK|STOPSIGNAL``
    take away what was set before or came with the base image.
``INCLUDE PATH``
    stands for the lines of another file of the context. The path begins at the Dockerfile's folder.
"""

import re
from collections.abc import Sequence

from cais.build.dockerfile.fault import DockerfileError, Lines

OWN = "cais/dockerfile"
OWN_LINE = f"# syntax={OWN}:1"
_OWN_TAG = "1"
_DOCKERS = re.compile(r"(?:[^/]+/)*(?:docker|moby)/dockerfile(?:-upstream)?")
_PARTS = re.compile(r"(?P<name>[^@]*?)(?::(?P<tag>[^/:@]*))?(?:@.*)?")
_LINE = re.compile(r"\s*#\s*syntax\s*=", re.IGNORECASE)


def is_own(text: str, raw: Sequence[str] = (), name: str = "") -> bool:
    """Whether ``text``, the directive's value, asks for Cais's own language; an empty one does not. Raises
    DockerfileError, at its place in the lines ``raw``, for a language that nobody here can read."""
    words = text.split()
    if not words:
        return False
    found = _PARTS.fullmatch(words[0])
    image, tag = (found["name"], found["tag"]) if found else (words[0], None)
    if image == OWN and tag == _OWN_TAG:
        return True
    if image != OWN and _DOCKERS.fullmatch(image):
        return False
    hint = f"this engine reads {OWN}:{_OWN_TAG} and docker/dockerfile" if image == OWN else _hint()
    number = next((number for number, line in enumerate(raw, 1) if _LINE.match(line)), 0)
    error = DockerfileError(f"syntax {words[0]} cannot be used", Lines(number, number), hint)
    raise error.located(error.lines, name, raw) if number else error


def _hint() -> str:
    return "no image is run to read a Dockerfile: leave the line out, or write # syntax=docker/dockerfile:1"
