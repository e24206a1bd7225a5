"""What the source of an ADD means: a path, a URL, a repository."""

import pytest

from cais.build.fetch.sources import (
    GitSource,
    UrlSource,
    clean_subdir,
    hide_credentials,
    host_of,
    is_remote,
    join_remote,
    parse_checksum,
    parse_context,
    parse_source,
    scheme_of,
    show_url,
    split_credentials,
    with_flags,
)
from cais.errors import Invalid

REPO = "https://h.test/o/r.git"
COMMIT = "0123456789" * 4


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("a/b", None),
        ("./git@x:y", None),
        ("https.txt", None),
        ("ftp://h/x", None),
        ("http://h.test/a.tgz", UrlSource("http://h.test/a.tgz")),
        ("https://h.test/a?x=1#frag", UrlSource("https://h.test/a?x=1")),
        ("https://h.test/x.git/info", UrlSource("https://h.test/x.git/info")),
        (REPO, GitSource(REPO)),
        (f"{REPO}#main", GitSource(REPO, "main")),
        (f"{REPO}#v1:/sub//dir/", GitSource(REPO, "v1", subdir="sub/dir")),
        (f"{REPO}#:sub", GitSource(REPO, "", subdir="sub")),
        (f"{REPO}?branch=dev&subdir=a/b", GitSource(REPO, "refs/heads/dev", subdir="a/b")),
        (f"{REPO}?tag=refs/tags/v1", GitSource(REPO, "refs/tags/v1")),
        (f"{REPO}?ref=x&commit={COMMIT}", GitSource(REPO, "x", COMMIT)),
        (f"{REPO}?keep-git-dir&submodules=false", GitSource(REPO, keep_git_dir=True, submodules=False)),
        (f"{REPO}?mtime=commit", GitSource(REPO)),
        ("git://h/r", GitSource("git://h/r")),
        ("ssh://git@h:22/r", GitSource("ssh://git@h:22/r")),
        ("git@h.test:o/r.git#main", GitSource("git@h.test:o/r.git", "main")),
        ("git@h.test:o/r?subdir=x#main", GitSource("git@h.test:o/r", "main", subdir="x")),
    ],
)
def test_texts(text: str, source: object) -> None:
    """Paths, URLs and every form of a repository."""
    assert parse_source(text) == source
    assert is_remote(text) == (source is not None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{REPO}#--upload-pack=touch${{IFS}}x", "invalid git ref"),
        (f"{REPO}#a..b", "invalid git ref"),
        (f"{REPO}#a:../../etc", "leads out"),
        (f"{REPO}?subdir=a/../../b", "leads out"),
        (f"{REPO}?ref=-x", "invalid git ref"),
        (f"{REPO}?ref=refs/*", "invalid git ref"),
        (f"{REPO}?tag=a&branch=b", "conflict"),
        (f"{REPO}?ref=a#b", "conflicts"),
        (f"{REPO}?subdir=a#x:b", "subdir conflicts"),
        (f"{REPO}?ref=a&ref=b", "multiple values"),
        (f"{REPO}?ref=", "no value"),
        (f"{REPO}?what=1", "unexpected query"),
        (f"{REPO}?checksum=xyz", "invalid checksum"),
        (f"{REPO}?keep-git-dir=maybe", "invalid keep-git-dir"),
        (f"{REPO}?mtime=now", "unexpected query"),
        ("ssh://-oProxyCommand=x/r", "names no server"),
        ("ssh://-x@h/r", "names no server"),
        ("-x@h:r", "names no server"),
        ("git@h:-r", "names no server"),
        ("https:///x.git", "names no server"),
        ("http://h:port/x", "invalid source"),
        ("http://h/a b", "write blanks"),
        ("http://h/a\nb", "write blanks"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    """Options in the place of names (CVE-2017-1000117), ways out of the repository, contradictions."""
    with pytest.raises(Invalid, match=message):
        parse_source(text)


def test_a_context_may_lack_the_scheme() -> None:
    """As Docker's command has it; a source of ADD may not."""
    assert parse_context("github.com/o/r#x:y") == GitSource("https://github.com/o/r", "x", subdir="y")
    assert parse_source("github.com/o/r") is None


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b.tgz?q=/c", "b.tgz"),
        ("http://h/a%20b", "a b"),
        ("http://h/a%2Fb", "b"),
        ("http://h/a/", "a"),
        ("http://h/", ""),
        ("http://h", ""),
        ("http://h/%2e%2e", ""),
        ("http://h/a%00", ""),
    ],
)
def test_names_of_files(url: str, name: str) -> None:
    """The last part of the path, if it can be a name."""
    source = parse_source(url)
    assert isinstance(source, UrlSource) and source.name == name


def test_flags_and_url_must_agree() -> None:
    """Of ADD, with those of the URL."""
    source = GitSource(REPO, keep_git_dir=True)
    assert with_flags(source, keep_git_dir=None, checksum="ABC").checksum == "abc"
    with pytest.raises(Invalid, match="keep-git-dir"):
        with_flags(source, keep_git_dir=False, checksum="")
    with pytest.raises(Invalid, match="checksum mismatch"):
        with_flags(GitSource(REPO, checksum="ab"), keep_git_dir=None, checksum="cd")


def test_checksums_of_files() -> None:
    """The three that BuildKit knows, whole."""
    assert parse_checksum("sha256:" + "a" * 64) == ("sha256", "a" * 64)
    for bad in ("md5:" + "a" * 32, "sha256:abc", "sha512:" + "a" * 64, "sha256:" + "A" * 64, "a" * 64):
        with pytest.raises(Invalid, match="invalid checksum"):
            parse_checksum(bad)


def test_what_is_secret_is_not_shown() -> None:
    """Users, passwords, tokens and signatures."""
    assert show_url("https://user:pass@h.test:8/p?sig=x#f") == "https://h.test:8/p"
    assert show_url("git@h:p?x=1") == "git@h:p"
    assert split_credentials("https://us%40er:pa%3Ass@h/p") == ("https://h/p", "us@er", "pa:ss")
    assert split_credentials("ssh://git@h/p") == ("ssh://git@h/p", "", "")
    assert split_credentials("git@h:p") == ("git@h:p", "", "")


def test_histories_hold_no_passwords() -> None:
    """As BuildKit writes it; a user's name alone, a path and a broken URL stay."""
    assert hide_credentials("https://u:p@h:1/x?y#z") == "https://xxxxx:xxxxx@h:1/x?y#z"
    for text in ("ssh://git@h/x", "git@h:x", "a/b:c@d", "http://[::1/x", "http://h/x"):
        assert hide_credentials(text) == text


def test_submodules_of_relative_urls() -> None:
    """They start at the parent's, and do not leave its server."""
    assert join_remote(REPO, "../x.git") == "https://h.test/o/x.git"
    assert join_remote(REPO, "./x") == "https://h.test/o/r.git/x"
    assert join_remote("git@h:o/r", "../../x") == "git@h:x"
    assert join_remote(REPO, "https://other/x.git") == "https://other/x.git"
    with pytest.raises(Invalid, match="leads out"):
        join_remote(REPO, "../../../x")


def test_schemes_and_hosts() -> None:
    """Of both forms."""
    assert (scheme_of("git@h:p"), host_of("git@h:p")) == ("ssh", "h")
    assert (scheme_of("https://u@h:1/p"), host_of("https://u@h:1/p")) == ("https", "h:1")


def test_subdirs() -> None:
    """Without what says nothing."""
    assert clean_subdir("/./a//b/.") == "a/b"
