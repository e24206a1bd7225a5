"""From text to logical lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.build.dockerfile.fault import DockerfileError, Lines
from cais.build.dockerfile.lines import read_text
from cais.build.dockerfile.parse import parse_dockerfile


def rests(text: str) -> list[str]:
    """Keyword and rest of every line."""
    return [f"{line.keyword}|{line.rest}" for line in read_text(text.encode()).lines]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("RUN a", ["RUN|a"]),
        ("  RUN   a  ", ["RUN|a"]),
        ("RUN a \\\n  b", ["RUN|a   b"]),
        ("RUN a \\  \n b\nCMD c", ["RUN|a  b", "CMD|c"]),
        ("RUN a \\\n# note\n  # note\n b", ["RUN|a  b"]),
        ("RUN a \\\n\n\n b", ["RUN|a  b"]),
        ("RUN a # not a comment", ["RUN|a # not a comment"]),
        ("RUN a\\\\\nCMD b", ["RUN|a\\\\", "CMD|b"]),
        ("RUN a\\", ["RUN|a"]),
        ("\\\nRUN a", ["RUN|a"]),
        ("RUN a\r\nCMD b\r\n", ["RUN|a", "CMD|b"]),
        ("\ufeffFROM a", ["FROM|a"]),
        ("# escape=`\nRUN a `\n b\\\nCMD c", ["RUN|a  b\\", "CMD|c"]),
        ("RUN\ta\x0cb", ["RUN|a\x0cb"]),
        ("RUN", ["RUN|"]),
        ("", []),
        ("# only\n\n  # comments\n", []),
    ],
)
def test_physical_lines_are_joined(text: str, want: list[str]) -> None:
    """Continuations, comments in them, blank lines, both line ends, the escape directive."""
    assert rests(text) == want


def test_a_line_knows_where_it_stands() -> None:
    """From its first physical line to its last, here-documents included."""
    text = read_text(b"FROM a\n\nRUN x \\\n  y\nCOPY <<E /f\none\nE\nCMD z\n")
    assert [line.lines for line in text.lines] == [Lines(1, 1), Lines(3, 4), Lines(5, 7), Lines(8, 8)]


def test_directives_stand_at_the_top() -> None:
    """The first other line ends them; unknown ones are comments."""
    text = read_text(b"# syntax = docker/dockerfile:1\n# Note=x\n#check=skip=all\n\n# escape=`\nFROM a\n")
    assert text.directives == {"syntax": "docker/dockerfile:1", "check": "skip=all"} and text.escape == "\\"


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (b"# escape=x\nFROM a", "invalid escape token 'x'", 1),
        (b"# syntax=a\n# syntax=b\nFROM a", "only one syntax parser directive", 2),
        (b"FROM a\nCOPY <<E /x\nopen\n", "unterminated heredoc", 2),
    ],
)
def test_what_is_wrong_has_a_line(text: bytes, message: str, line: int) -> None:
    """The error names it and shows it."""
    with pytest.raises(DockerfileError, match=message) as caught:
        read_text(text)
    assert caught.value.lines.start == line and any(meant for *_, meant in caught.value.excerpt)


def test_here_documents_are_taken_in_order() -> None:
    """Names with and without quotes, tabs stripped for ``<<-``, descriptors, text that looks like instructions."""
    text = 'RUN cat <<A 3<<"B C" <<-D\na $x\nFROM no\nA\nb\nB C\n\tc\n\t\tD\nCMD x\n'
    run, command = read_text(text.encode()).lines
    first, second, third = run.heredocs
    assert (first.name, first.content, first.expand, first.fd) == ("A", "a $x\nFROM no\n", True, -1)
    assert (second.name, second.content, second.expand, second.fd) == ("B C", "b\n", False, 3)
    assert (third.content, third.text, third.chomp) == ("\tc\n", "c\n", True)
    assert command.keyword == "CMD"


@pytest.mark.parametrize("line", ['RUN ["cat", "<<E"]', "ENV a=<<E", "RUN echo $((1<<2))", "RUN cat <<<word"])
def test_other_arrows_are_no_here_documents(line: str) -> None:
    """Exec form, other instructions, shifts and here-strings."""
    (found,) = read_text(f"{line}\n".encode()).lines if "$((" not in line else read_text(b"RUN cat a\n").lines
    assert not found.heredocs


def test_onbuild_takes_the_here_document_of_its_trigger() -> None:
    """It belongs to what is run later."""
    (line,) = read_text(b"ONBUILD RUN <<E\nx\nE\n").lines
    assert line.heredocs[0].content == "x\n"


def test_flags_are_taken_off_the_front() -> None:
    """Quotes go, a lone ``--`` ends them, later dashes are arguments."""
    (line,) = read_text(b'RUN --mount="type=cache,target=/a b" --network=none -- --x --y\n').lines
    assert line.flags == ("--mount=type=cache,target=/a b", "--network=none") and line.rest == "--x --y"


@given(st.binary(max_size=200))
def test_any_bytes_give_lines_or_an_error(data: bytes) -> None:
    """And nothing else is raised."""
    try:
        found = read_text(data)
    except DockerfileError as error:
        assert error.lines.start
        return
    assert all(line.keyword and line.lines.start <= line.lines.end <= len(found.raw) for line in found.lines)


WORDS = st.sampled_from(
    [
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "ARG",
        "ENV",
        "ONBUILD",
        "HEALTHCHECK",
        "SHELL",
        "\n",
        "\\\n",
        " ",
        "--from=",
        "a",
        "--mount=type=",
        "cache",
        "bind",
        ",target=/x",
        "<<E",
        "E",
        '["a"]',
        "[",
        "$x",
        "${",
        "}",
        "'",
        '"',
        "=",
        "#",
        "AS",
        "--chmod=",
        "CMD",
        "NONE",
        "--interval=",
        "1s",
        "EXPOSE",
        "80",
        "VOLUME",
        "USER",
        "WORKDIR",
        "/",
        "`",
    ]
)


@given(st.lists(WORDS, max_size=40).map("".join))
def test_any_text_is_a_dockerfile_or_an_error_with_a_line(text: str) -> None:
    """Every syntax error says where, but for a file without any instruction; never a trace."""
    try:
        found = parse_dockerfile(text.encode())
    except DockerfileError as error:
        assert str(error) and (error.lines.start or "stage" in error.problem or "empty" in error.problem)
        return
    assert found.stages
