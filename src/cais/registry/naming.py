"""Names on the wire, parsed once: repositories, tags, references, digests, upload ids, pages."""

import re

from cais.errors import Invalid
from cais.registry.refusal import Refusal
from cais.spec.digest import Digest, parse_digest
from cais.spec.reference import is_path, is_tag

MAX_NAME = 255
PAGE = 1000
"""Entries of a page where the client does not say, and at most."""
_UPLOAD = re.compile(r"[0-9a-f]{32}")


def parse_name(text: str) -> str:
    """A repository's name by the specification's grammar. Raises Refusal NAME_INVALID."""
    if len(text) > MAX_NAME or not is_path(text):
        shown = text if len(text) <= MAX_NAME else text[:MAX_NAME] + "…"
        raise Refusal("NAME_INVALID", f"invalid repository name: {shown!r}")
    return text


def parse_tag(text: str) -> str:
    """A tag. Raises Refusal TAG_INVALID."""
    if not is_tag(text):
        raise Refusal("TAG_INVALID", f"invalid tag: {text[:200]!r}")
    return text


def parse_ref(text: str) -> Digest | str:
    """What stands behind ``/manifests/``: a digest, or else a tag. Raises Refusal."""
    return parse_digest_text(text) if ":" in text else parse_tag(text)


def parse_digest_text(text: str) -> Digest:
    """A digest. Raises Refusal DIGEST_INVALID."""
    try:
        return parse_digest(text)
    except Invalid as error:
        raise Refusal("DIGEST_INVALID", str(error)[:300]) from None


def parse_upload(text: str) -> str:
    """An upload's id; anything else was never given out. Raises Refusal BLOB_UPLOAD_UNKNOWN."""
    if not _UPLOAD.fullmatch(text):
        raise Refusal("BLOB_UPLOAD_UNKNOWN", "no such upload: start a new one")
    return text


def parse_page(text: str | None) -> int:
    """The ``n`` of a list. Raises Refusal PAGINATION_NUMBER_INVALID."""
    if text is None:
        return PAGE
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Refusal("PAGINATION_NUMBER_INVALID", f"invalid number of results: {text[:50]!r}")
    return min(int(text), PAGE)
