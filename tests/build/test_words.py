"""Quotes, escapes and variables of Dockerfile words."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.build.dockerfile.fault import DockerfileError
from cais.build.dockerfile.words import expand, parse_exec, quote_word, split_words

ENV = {"P": "/srv/app", "E": "", "V": "one.two.three", "W": "a  b", "U": "ünï"}

EXPANSIONS = [
    # text, whole result (POSIX shell, "Parameter Expansion"; Dockerfile reference, "Environment replacement")
    ("plain", "plain"),
    ("pl'ai'n", "plain"),
    ('"a\\tb"', "a\\tb"),
    ("a\\tb", "atb"),
    ("'a\\tb'", "a\\tb"),
    ("end\\", "end"),
    ("end\\\\", "end\\"),
    ("'$P'", "$P"),
    ('"$P"', "/srv/app"),
    ("\"'$P'\"", "'/srv/app'"),
    ("\\$P", "$P"),
    ("\\\\$P", "\\/srv/app"),
    ('"\\$P"', "$P"),
    ("\\${P}x", "${P}x"),
    ("a$P.b", "a/srv/app.b"),
    ("a$1b", "ab"),
    ("$$x", "x"),
    ("$.", "$."),
    ("${P}", "/srv/app"),
    ("${N}x", "x"),
    ("${U}", "ünï"),
    ("${N:-d}", "d"),
    ("${E:-d}", "d"),
    ("${E-d}", ""),
    ("${N-d}", "d"),
    ("${P:-d}", "/srv/app"),
    ("${P:+d}", "d"),
    ("${E:+d}", ""),
    ("${E+d}", "d"),
    ("${N+d}", ""),
    ("${P:?no}", "/srv/app"),
    ("${E?no}", ""),
    ("${N:-${M:-deep}}", "deep"),
    ("${N:-'a}b'}", "a}b"),
    ("${N:-\\$P}", "$P"),
    ("${P:+$V}", "one.two.three"),
    ("${1:-x}", "x"),
    ("${@:-x}", "x"),
    ("${V#*.}", "two.three"),
    ("${V##*.}", "three"),
    ("${V%.*}", "one.two"),
    ("${V%%.*}", "one"),
    ("${V#one}", ".two.three"),
    ("${V#two}", "one.two.three"),
    ("${V%?hree}", "one.two."),
    ("${P#/*/}", "app"),
    ("${V/./-}", "one-two.three"),
    ("${V//./-}", "one-two-three"),
    ("${V//[/x}", "one.two.three"),
    ("${V/o*t/X}", "Xhree"),
    ("${V/nothing/x}", "one.two.three"),
    ("${V//o/}", "ne.tw.three"),
    ("${P//\\//_}", "_srv_app"),
    ("${V/two/${P}}", "one./srv/app.three"),
]


@pytest.mark.parametrize(("text", "want"), EXPANSIONS, ids=[text for text, _ in EXPANSIONS])
def test_every_form_expands_as_a_shell_would(text: str, want: str) -> None:
    """The result is the one that Dockerfiles rely on."""
    assert expand(text, ENV).text == want


@pytest.mark.parametrize(
    "text",
    [
        *(
            "it's",
            '"open',
            "'open",
            "${P",
            "${",
            "${}",
            "${:-x}",
            "${.}",
            "${P:=x}",
            "${P:y}",
            "${P!x}",
            "${N:?}",
        ),
        *("${N?}", "${E:?}", "${P:-${V}", "${P/x", "${{P}"),
    ],
)
def test_what_is_not_finished_is_an_error(text: str) -> None:
    """An open quote or brace and an unknown modifier are refused, not guessed."""
    with pytest.raises(DockerfileError):
        expand(text, ENV)


def test_an_error_message_of_a_modifier_is_the_users_own() -> None:
    """``${N:?words}`` fails with the words."""
    with pytest.raises(DockerfileError, match="N: needs a value"):
        expand("${N:?needs a value}", ENV)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a b", ["a", "b"]),
        ("a\\ b", ["a b"]),
        ("x$W", ["xa", "b"]),
        ('x"$W"', ["xa  b"]),
        ("a $E b", ["a", "b"]),
        ('a "" b', ["a", "", "b"]),
        ("'a b' c", ["a b", "c"]),
        ("$W$W", ["a", "ba", "b"]),
        ("", []),
    ],
)
def test_words_are_split_at_blanks_outside_quotes(text: str, want: list[str]) -> None:
    """Blanks of an unquoted variable separate, those in quotes do not."""
    assert list(expand(text, ENV).words) == want


def test_it_is_known_what_was_used_and_what_is_not_set() -> None:
    """A default means that the variable may be absent."""
    found = expand("$P ${N} ${M:-x}", ENV)
    assert found.used == {"P", "N", "M"} and found.unset == {"N"}


def test_in_here_documents_quotes_are_letters() -> None:
    """Variables are put in, quotes stay."""
    assert expand("""it's "$P" \\$P""", ENV, quotes=False).text == """it's "/srv/app" $P"""


def test_the_backtick_can_be_the_escape() -> None:
    """Then the backslash is a letter."""
    assert expand("C:\\dir`$P", ENV, "`").text == "C:\\dir$P"


def test_splitting_keeps_quotes_and_escapes() -> None:
    """What is split here is expanded later, so nothing is removed."""
    assert split_words("""a="b c" d\\ e 'f "g' """) == ['a="b c"', "d\\ e", """'f "g'"""]


@pytest.mark.parametrize(
    ("text", "want"),
    [('["a", "b"]', ("a", "b")), ("[]", ()), ('["a"] x', None), ("[ -f x ]", None), ("a", None)],
)
def test_the_exec_form_is_json_and_nothing_else(text: str, want: tuple[str, ...] | None) -> None:
    """Everything that is no list is for the shell."""
    assert parse_exec(text) == want


def test_a_list_of_other_things_than_strings_is_refused() -> None:
    """Docker's words."""
    with pytest.raises(DockerfileError, match="arrays must be comprised of strings only"):
        parse_exec('["a", 1]')


@given(st.text())
def test_a_quoted_text_expands_to_itself(text: str) -> None:
    """Whatever is in it."""
    assert expand(quote_word(text), ENV).text == text


@given(st.text(alphabet="a$P{}:-+?#%/*'\"\\ .", max_size=40))
def test_any_text_expands_or_is_refused(text: str) -> None:
    """Never another exception, and words never hold more than the whole."""
    try:
        found = expand(text, ENV)
    except DockerfileError:
        return
    assert sum(map(len, found.words)) <= len(found.text)


def test_texts_that_double_are_stopped() -> None:
    """Sixty lines of Dockerfile must not fill the memory."""
    env = {"A": "x" * 1000}
    with pytest.raises(DockerfileError, match="grows"):
        for _ in range(60):
            env["A"] = expand("$A$A", env).text


def test_a_hostile_pattern_is_stopped_in_time() -> None:
    """A pattern that would take minutes on its value is refused at once."""
    begin = time.monotonic()
    with pytest.raises(DockerfileError, match="too long"):
        expand("${A//*a*b*c*d*e*f*g/}", {"A": "abcdef" * 5000})
    assert time.monotonic() - begin < 10


def test_nesting_has_an_end() -> None:
    """No recursion error."""
    with pytest.raises(DockerfileError, match="nested"):
        expand("${N:-" * 2000, ENV)
