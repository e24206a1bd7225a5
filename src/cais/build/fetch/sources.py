"""What a source that is no path means: a file behind a URL, or a git repository (pure).

The forms are those of the Dockerfile reference ("ADD", "Adding files from a Git repository") and of Docker's page on
remote build contexts ("URL queries").
"""

import posixpath
import re
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit, urlunsplit

import msgspec
from msgspec.structs import replace

from cais.errors import Invalid

_GIT_SCHEMES = frozenset(("ssh", "git"))
_WEB_SCHEMES = frozenset(("http", "https"))
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_SCP = re.compile(r"([a-zA-Z0-9_-]+)@([a-zA-Z0-9.-]+):([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-fA-F]{1,64}")
_BAD_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
_HASHES = {"sha256": 64, "sha384": 96, "sha512": 128}
_CONTEXT_HOST = "github.com/"
"""Docker takes ``github.com/owner/name`` for a repository, without a scheme, where a context is named."""
_YES, _NO = ("1", "t", "true"), ("0", "f", "false")
UNNAMED = "__unnamed__"
"""The name of a file whose URL has none, as BuildKit calls it."""


class UrlSource(msgspec.Struct, frozen=True):
    """A file that a server has; ``url`` is http or https, without a fragment."""

    url: str

    @property
    def name(self) -> str:
        """The last part of its path; empty if there is none."""
        base = posixpath.basename(unquote(urlsplit(self.url).path).rstrip("/"))
        return "" if base in ("", ".", "..") or "\0" in base else base

    def show(self) -> str:
        """For messages: without what may be secret."""
        return show_url(self.url)


class GitSource(msgspec.Struct, frozen=True):
    """A commit of a repository. ``remote`` is what git is given, credentials included; ``ref`` a branch, a tag, a
    commit, or empty for the default branch; ``checksum`` the beginning of the commit that it must be; ``subdir`` what
    of it is wanted, without dots; None: nothing was said."""

    remote: str
    ref: str = ""
    checksum: str = ""
    subdir: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None

    def show(self) -> str:
        """For messages."""
        return show_url(self.remote) + (f"#{self.ref}" if self.ref else "")


Source = UrlSource | GitSource


def is_remote(text: str) -> bool:
    """Whether a source of ADD is no path of the context."""
    scheme = _SCHEME.match(text)
    if scheme:
        return scheme[1].lower() in _WEB_SCHEMES | _GIT_SCHEMES
    return _SCP.fullmatch(text) is not None


def parse_source(text: str) -> Source | None:
    """What a source of ADD is; None for a path. Raises Invalid for what is neither."""
    return _parse(text, is_git=False) if is_remote(text) else None


def parse_context(text: str) -> Source | None:
    """The same where a whole context is named."""
    if text.startswith(_CONTEXT_HOST):
        return _parse(f"https://{text}", is_git=True)
    return parse_source(text)


def _parse(text: str, *, is_git: bool) -> Source:
    if any(char <= " " or char == "\x7f" for char in text):
        raise Invalid(f"invalid source {text!r}: write blanks in a URL as %20")
    if scp := None if _SCHEME.match(text) else _SCP.fullmatch(text):
        user, host, path, query, fragment = scp.groups()
        _check_parts(text, user, host, path)
        return _git(f"{user}@{host}:{path}", query or "", fragment or "")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise Invalid(f"invalid source {show_url(text)!r}: {error}") from None
    _check_parts(text, parts.username or "", host, "")
    plain = urlunsplit(parts._replace(query="", fragment=""))
    if is_git or parts.scheme in _GIT_SCHEMES or unquote(parts.path).endswith(".git"):
        return _git(plain, parts.query, parts.fragment)
    return UrlSource(urlunsplit(parts._replace(fragment="")))


def _check_parts(text: str, user: str, host: str, path: str) -> None:
    # git and ssh would take them for options (CVE-2017-1000117 and its kind).
    if not host or any(part.startswith("-") for part in (user, host, path)):
        raise Invalid(f"invalid source {show_url(text)!r}: it names no server")


def _git(remote: str, query: str, fragment: str) -> GitSource:
    ref, _, subdir = fragment.partition(":")
    source = GitSource(remote, check_ref(ref), subdir=clean_subdir(subdir))
    try:
        pairs = parse_qs(query, keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise Invalid(f"invalid query in {show_url(remote)}: {query!r}") from None
    for key, values in pairs.items():
        if len(values) > 1:
            raise Invalid(f'query "{key}" has multiple values')
        source = _with_query(source, key, values[0])
    if "tag" in pairs and "branch" in pairs:
        raise Invalid("branch conflicts with tag")
    return source


def _with_query(source: GitSource, key: str, value: str) -> GitSource:
    if not value and key not in ("submodules", "keep-git-dir"):
        raise Invalid(f'query "{key}" has no value')
    match key:
        case "ref" | "tag" | "branch":
            folder = {"ref": "", "tag": "refs/tags/", "branch": "refs/heads/"}[key]
            ref = check_ref(folder + value.removeprefix(folder))
            if source.ref and source.ref != ref:
                raise Invalid(f'ref conflicts: "{source.ref}" vs "{ref}"')
            return replace(source, ref=ref)
        case "subdir":
            subdir = clean_subdir(value)
            if source.subdir and source.subdir != subdir:
                raise Invalid(f'subdir conflicts: "{source.subdir}" vs "{subdir}"')
            return replace(source, subdir=subdir)
        case "checksum" | "commit":
            return replace(source, checksum=parse_commit(value))
        case "keep-git-dir":
            return replace(source, keep_git_dir=_parse_switch(key, value))
        case "submodules":
            return replace(source, submodules=_parse_switch(key, value))
        case "mtime" if value in ("checkout", "commit"):
            # Files have the commit's time in any case.
            return source
    raise Invalid(f'unexpected query "{key}" in {show_url(source.remote)}')


def _parse_switch(key: str, value: str) -> bool:
    if value.lower() in ("", *_YES):
        return True
    if value.lower() in _NO:
        return False
    raise Invalid(f'invalid {key} value: "{value}"')


def check_ref(ref: str) -> str:
    """``ref`` if git could have one of this name (git-check-ref-format(1)); nothing that it would take for an option or
    a pattern. Raises Invalid."""
    if _BAD_IN_REF.search(ref) or ref.startswith(("-", "/", "+")) or ref.endswith(("/", ".", ".lock")):
        raise Invalid(f"invalid git ref {ref!r}")
    return ref


def clean_subdir(text: str) -> str:
    """Without slashes at the ends and dots. Raises Invalid for one that leads out."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in text:
        raise Invalid(f"invalid subdir {text!r}: it leads out of the repository")
    return "/".join(parts)


def parse_commit(text: str) -> str:
    """A commit, or the beginning of one. Raises Invalid."""
    if not _HEX.fullmatch(text):
        raise Invalid(f"invalid checksum {text} for Git URL, expected hex commit hash")
    return text.lower()


def is_commit(ref: str) -> bool:
    """Whether ``ref`` is a whole commit."""
    return _COMMIT.fullmatch(ref) is not None


def parse_checksum(text: str) -> tuple[str, str]:
    """Algorithm and hexadecimal digits of ``--checksum`` for a file. Raises Invalid."""
    algorithm, _, digits = text.partition(":")
    if algorithm not in _HASHES or not re.fullmatch(r"[0-9a-f]+", digits):
        raise Invalid(f"invalid checksum {text!r}: want sha256:HEX, sha384:HEX or sha512:HEX")
    if len(digits) != _HASHES[algorithm]:
        raise Invalid(f"invalid checksum {text!r}: {algorithm} has {_HASHES[algorithm]} digits")
    return algorithm, digits


def check_remote(url: str) -> str:
    """``url`` if it can be the remote of a submodule: of a server, in one of the ways that we speak. Raises Invalid."""
    if not is_remote(url):
        raise Invalid(
            f"submodule URL {show_url(url)!r} cannot be fetched: only http, https, git and ssh are possible"
        )
    source = _parse(url, is_git=True)
    assert isinstance(source, GitSource)
    return source.remote


def with_flags(source: GitSource, *, keep_git_dir: bool | None, checksum: str) -> GitSource:
    """With what the flags of ADD say. Raises Invalid where the URL says otherwise."""
    if keep_git_dir is not None:
        if source.keep_git_dir not in (None, keep_git_dir):
            raise Invalid("inconsistent keep-git-dir configuration")
        source = replace(source, keep_git_dir=keep_git_dir)
    if checksum:
        commit = parse_commit(checksum)
        if source.checksum and source.checksum != commit:
            raise Invalid(f'checksum mismatch "{checksum}" != "{source.checksum}"')
        source = replace(source, checksum=commit)
    return source


def split_credentials(url: str) -> tuple[str, str, str]:
    """The URL without user and password, and these two, decoded. Of ssh the user stays: it is no secret."""
    parts = urlsplit(url) if _SCHEME.match(url) else None
    if parts is None or parts.username is None:
        return url, "", ""
    user, password = unquote(parts.username), unquote(parts.password or "")
    if parts.scheme == "ssh":
        return urlunsplit(parts._replace(netloc=f"{parts.username}@{_host(parts)}")), "", password
    return urlunsplit(parts._replace(netloc=_host(parts))), user, password


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def scheme_of(remote: str) -> str:
    """``ssh`` for ``user@host:path``, too."""
    found = _SCHEME.match(remote)
    return found[1].lower() if found else "ssh"


def host_of(remote: str) -> str:
    """Host and port."""
    found = None if _SCHEME.match(remote) else _SCP.fullmatch(remote)
    return found[2] if found else _host(urlsplit(remote))


def join_remote(parent: str, relative: str) -> str:
    """What a submodule's URL means: relative ones start at the parent's (git-submodule(1), "add"). Raises Invalid."""
    if not relative.startswith(("./", "../")):
        return relative
    head, sep, path = parent.partition("://")
    if sep:
        server, _, path = path.partition("/")
        head = f"{head}://{server}/"
    else:
        server, _, path = parent.partition(":")
        head = f"{server}:"
    parts = [part for part in path.split("/") if part]
    for part in relative.split("/"):
        if part == "..":
            if not parts:
                raise Invalid(f"submodule URL {relative!r} leads out of {show_url(parent)}")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return head + "/".join(parts)


def hide_credentials(text: str) -> str:
    """A source as it may stand in an image's history: user and password are left out, as BuildKit writes it."""
    if not is_remote(text) or not _SCHEME.match(text):
        return text
    try:
        parts = urlsplit(text)
        return urlunsplit(parts._replace(netloc=f"xxxxx:xxxxx@{_host(parts)}")) if parts.password else text
    except ValueError:
        return text  # it is refused later, with its line


def show_url(url: str) -> str:
    """Without user, password, query and fragment, printable: tokens and signatures stand there."""
    if not _SCHEME.match(url):
        shown = url.partition("?")[0]
    else:
        try:
            parts = urlsplit(url)
            shown = urlunsplit(parts._replace(netloc=_host(parts), query="", fragment=""))
        except ValueError:
            shown = _SCHEME.match(url)[0] + "…"  # type: ignore[index]
    return "".join(char if char.isprintable() else "�" for char in shown[:500])
