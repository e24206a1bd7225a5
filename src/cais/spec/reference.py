"""Image references: the grammar, and Docker's short and full spellings of one name."""

import re
from dataclasses import dataclass, replace

from cais.errors import Invalid
from cais.spec.digest import Digest, parse_digest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
_OFFICIAL = "library/"
_LEGACY_DOMAIN = "index.docker.io"
_MAX_PATH = 255

# The grammar of github.com/distribution/reference, reference.go (the comment on top of that file).
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A normalised name: ``domain`` and ``path`` are always full; ``tag`` and ``digest`` only if given."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """The full repository name: ``docker.io/library/busybox``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository name as Docker shows it: ``busybox``, ``user/app``, ``quay.io/a/b``."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(_OFFICIAL)
        short = rest if "/" not in rest else self.path
        # docker.io/localhost/x must not become localhost/x, which names another registry.
        return short if _split_domain(short) == (self.domain, self.path) else self.name

    def tagged(self) -> "Reference":
        """This reference, with the tag ``latest`` if it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def familiar(self) -> str:
        """The short form, e.g. ``busybox:latest``."""
        return self.familiar_name + self._suffix()

    def canonical(self) -> str:
        """The full form, e.g. ``docker.io/library/busybox:latest``; what the store uses as key."""
        return self.name + self._suffix()

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.canonical()


def parse_reference(text: str) -> Reference:
    """Parse and normalise ``text`` as Docker does (distribution/reference, ParseNormalizedNamed).

    Raises Invalid with Docker's wording.
    """
    if _IDENTIFIER.fullmatch(text):
        raise Invalid(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    rest, has_digest, digest_text = text.partition("@")
    digest = None
    if has_digest:
        try:
            digest = parse_digest(digest_text)
        except Invalid:
            raise Invalid(f"invalid reference format: {text!r} has no valid digest") from None
    # A colon after the last slash starts a tag; an earlier one belongs to the domain's port.
    colon = rest.find(":", rest.rfind("/") + 1)
    name, tag = (rest, None) if colon < 0 else (rest[:colon], rest[colon + 1 :])
    if not name or (tag is not None and not _TAG.fullmatch(tag)):
        raise Invalid("invalid reference format")
    domain, path = _split_domain(name)
    _check_name(domain, path)
    return Reference(domain, path, tag, digest)


def is_tag(text: str) -> bool:
    """Whether ``text`` may be a tag."""
    return _TAG.fullmatch(text) is not None


def is_path(text: str) -> bool:
    """Whether ``text`` may be a repository's path, or the start of one."""
    return _PATH.fullmatch(text) is not None


def _check_name(domain: str, path: str) -> None:
    if path.lower() != path:
        shown = path.removeprefix(_OFFICIAL) if domain == DEFAULT_DOMAIN else path
        raise Invalid(f"invalid reference format: repository name ({shown}) must be lowercase")
    if not _DOMAIN.fullmatch(domain) or not _PATH.fullmatch(path):
        raise Invalid("invalid reference format")
    if len(path) > _MAX_PATH:
        raise Invalid(f"repository name must not be more than {_MAX_PATH} characters")


def _split_domain(name: str) -> tuple[str, str]:
    """The domain and the full path of a name without tag and digest."""
    first, slash, rest = name.partition("/")
    is_domain = slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first)
    domain, path = (first, rest) if is_domain else (DEFAULT_DOMAIN, name)
    if domain == _LEGACY_DOMAIN:
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = _OFFICIAL + path
    return domain, path
