"""Path patterns: what .dockerignore leaves out, and wildcards."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.errors import Invalid
from cais.spec import ignore
from cais.spec.ignore import clean_path, compile_pattern, parse_ignore

CASES = [
    # lines, paths that are left out, paths that stay
    ("a", ["a", "a/b", "a/b/c"], ["b", "ab", "x/a"]),
    ("/a", ["a", "a/b"], ["x/a"]),
    ("a/", ["a", "a/b"], ["x/a"]),
    ("./a/../b", ["b"], ["a"]),
    ("*.md", ["x.md", ".md"], ["d/x.md", "x.mdx"]),
    ("*/temp*", ["d/temp", "d/temporary.txt", "d/temp/x"], ["temp", "d/e/temp"]),
    ("*/*/temp*", ["d/e/temp"], ["d/temp", "temp"]),
    ("temp?", ["tempa", "tempb/x"], ["temp", "tempab", "temp/"]),
    ("**/x", ["x", "a/x", "a/b/x", "a/x/y"], ["ax", "x.y", "a/xb"]),
    ("**/*.go", ["a.go", "b/a.go", "c/b/a.go"], ["a.go.x", "go"]),
    ("a/**", ["a/b", "a/b/c"], ["a", "b/a"]),
    ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["z", "a/bz", "x/a/z"]),
    ("**", ["a", "a/b"], []),
    ("*", ["a", "a/b"], []),
    ("**x", ["x", "ax", "b/ax"], ["xa"]),
    ("[a-c]1", ["a1", "c1"], ["d1", "a2", "[a-c]1"]),
    ("[^a-c]1", ["d1"], ["a1", "/1"]),
    ("a\\*b", ["a*b"], ["axb"]),
    ("# comment\n\n  a  \n", ["a"], ["# comment", "comment"]),
    ("*.md\n!README.md", ["x.md"], ["README.md"]),
    ("*.md\n!README*.md\nREADME-secret.md", ["README-secret.md", "x.md"], ["README.md", "README-x.md"]),
    ("*.md\nREADME-secret.md\n!README*.md", ["x.md"], ["README-secret.md", "README.md"]),
    ("a\n!a/keep", ["a", "a/b"], ["a/keep", "a/keep/x"]),
    ("**\n!src", ["x", "lib/src"], ["src", "src/a/b"]),
    ("!a", [], ["a", "b"]),
    ("..", [], ["a"]),
    ("über*", ["überall"], ["uber"]),
]


@pytest.mark.parametrize(("text", "out", "stay"), CASES, ids=[repr(text) for text, *_ in CASES])
def test_what_is_left_out(text: str, out: list[str], stay: list[str]) -> None:
    """Order, exceptions, parents, double stars, classes: as Docker's documentation has them."""
    rules = parse_ignore(text.encode())
    assert {path: rules.excludes(path) for path in (*out, *stay)} == {
        **dict.fromkeys(out, True),
        **dict.fromkeys(stay, False),
    }


def test_patterns_go_out_as_clients_know_them() -> None:
    """Below the root, without dots and double slashes; what names nothing is not said."""
    text = b"/a\n ./b/../c// \n! //d\n/\n!.\n\\#e\n**/*.md\n"
    assert parse_ignore(text).patterns == ("a", "c", "!d", "\\#e", "**/*.md")


@pytest.mark.parametrize("text", ["!", "[a", "a\\", "[]", "[z-"])
def test_patterns_that_cannot_be_are_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(Invalid):
        parse_ignore(text.encode())


def test_bytes_that_are_no_text_still_name_a_file() -> None:
    """Names of files need not be UTF-8."""
    assert parse_ignore(b"a\xff*").excludes("a\udcffb")


def test_wildcards_of_copy_do_not_cross_folders() -> None:
    """There, two stars are one."""
    matches = compile_pattern("a/**/c", deep=False)
    assert matches("a/b/c") and not matches("a/b/b/c")


PIECES = st.sampled_from(["a", "b", "*", "**", "**/", "?", "/", "[ab]", "[^a]"])


@given(st.lists(PIECES, max_size=8).map("".join), st.text("ab/", max_size=10))
def test_both_ways_to_match_agree_with_a_plain_translation(pattern: str, path: str) -> None:
    """The one that gives nothing back, and the one by states; against a regular expression that backtracks."""
    tokens = ignore._tokenize(pattern, True)
    plain = {ignore._STAR: "[^/]*", ignore._DEEP: ".*", ignore._FOLDERS: "(?:.*/)?", ignore._ANY: "[^/]"}
    text = "".join(
        ("[ab]" if not token.negated else "[^a/]")
        if isinstance(token, ignore._Set)
        else plain.get(token, token)
        for token in tokens
    )
    want = re.fullmatch(text, path, re.DOTALL) is not None
    assert ignore._match_states(tokens, path) is want
    assert (re.fullmatch(ignore._translate(tokens), path, re.DOTALL) is not None) is want


@pytest.mark.parametrize("pattern", ["*a" * 40 + "b", "**/a" * 20 + "b", "*a*a*a*a**/" * 9 + "b"])
def test_hostile_patterns_take_no_time(pattern: str) -> None:
    """What takes a backtracking matcher years is an answer at once."""
    begin = time.monotonic()
    matches = compile_pattern(pattern)
    assert not matches("a" * 500) and not matches("a/" * 250)
    assert time.monotonic() - begin < 5


@given(st.text("ab./", max_size=20))
def test_a_clean_path_stays_below(path: str) -> None:
    """No dots, no empty names."""
    assert all(part not in ("", ".", "..") for part in clean_path(path).split("/")) or not clean_path(path)
