"""Thousands of broken Dockerfiles: each is read, or its error says where. ``CAIS_TEST_EXAMPLES`` makes them more."""

import os
from contextlib import suppress
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cais.build.dockerfile.evaluate import evaluate, start_state, triggers_of
from cais.build.dockerfile.fault import DockerfileError, Lines
from cais.build.dockerfile.graph import make_graph
from cais.build.dockerfile.lint import lint
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.scope import make_scope, platform_args
from cais.build.dockerfile.values import Dockerfile
from cais.errors import NotFound
from cais.spec.ignore import parse_ignore
from cais.spec.image import ContainerDefaults
from cais.spec.platform import Platform, parse_platform

EXAMPLES = int(os.environ.get("CAIS_TEST_EXAMPLES", "600"))
FOLDER = Path(__file__).parent
TEXTS = [
    data
    for path in sorted((*FOLDER.glob("golden/*/Dockerfile"), *FOLDER.glob("corpus/*/Dockerfile")))
    if len(data := path.read_bytes()) < 4096
]
HOST = parse_platform("linux/amd64")
OWN = b"# syntax=cais/dockerfile:1\n"
WORDS = [
    *(
        b"FROM",
        b"RUN",
        b"COPY",
        b"ADD",
        b"ENV",
        b"ARG",
        b"LABEL",
        b"ONBUILD",
        b"HEALTHCHECK",
        b"SHELL",
        b"UNSET",
    ),
    *(
        b"INCLUDE",
        b"inc",
        b"EXPOSE",
        b"VOLUME",
        b"USER",
        b"WORKDIR",
        b"CMD",
        b"ENTRYPOINT",
        b"STOPSIGNAL",
        b"AS",
    ),
    *(
        b"--mount=type=",
        b"--from=",
        b"--chmod=",
        b"--link",
        b"--exclude=",
        b"--platform=",
        b"type=ssh,",
        b"size=1k",
    ),
    *(
        b"${",
        b"}",
        b"${A:-",
        b"${A//",
        b"$",
        b"\\",
        b"`",
        b"'",
        b'"',
        b"[",
        b'["a", "b"]',
        b"[1]",
        b"<<E",
        b"\nE\n",
    ),
    *(
        b"<<-'x'",
        b"# escape=`\n",
        b"# check=",
        OWN,
        b"#",
        b"\n",
        b"\r\n",
        b"\t",
        b"\0",
        b"\xff",
        b"\xe2\x80\xa8",
        b"=",
    ),
    *(
        b",",
        b":",
        b"/",
        b"..",
        b"-1",
        b"99999999999999999999",
        b"\x0c",
        b"\xef\xbb\xbf",
        b"scratch",
        b"@sha256:",
        b"%",
    ),
]
INCLUDED = {"inc": b"RUN included \\", "loop": b"INCLUDE loop\n", "bad": b"RUN x\nWHAT\n"}

cuts = st.tuples(
    st.integers(0, 4096), st.integers(0, 40), st.one_of(st.sampled_from(WORDS), st.binary(max_size=6))
)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A good or bad file with pieces cut out and put in, or two of them in one."""
    data = draw(st.sampled_from(TEXTS))
    if draw(st.booleans()):
        other = draw(st.sampled_from(TEXTS))
        data = data[: draw(st.integers(0, len(data)))] + other[draw(st.integers(0, len(other))) :]
    for at, length, piece in draw(st.lists(cuts, max_size=6)):
        start = at % (len(data) + 1)
        data = data[:start] + piece + data[start + length :]
    return OWN + data if draw(st.booleans()) else data


def read(path: str) -> bytes:
    """The other files."""
    if path not in INCLUDED:
        raise NotFound(path)
    return INCLUDED[path]


def go_through(data: bytes) -> None:
    """Everything that looks at a Dockerfile before a build begins."""
    file = parse_dockerfile(data, "Dockerfile", read)
    scope = make_scope(file, {"A": "given"}, platform_args(HOST, Platform()))
    with suppress(DockerfileError):
        lint(
            file, scope, base_env={stage.index: {} for stage in file.stages}, ignore=parse_ignore(b"a\n!b\n")
        )
    make_graph(file, scope)
    for stage in file.stages:
        state = start_state(ContainerDefaults(on_build=("RUN x",)))
        for instruction in (*triggers_of(("RUN x", "COPY a b"), Lines(1, 1), file.escape), *stage.steps):
            try:
                state, _ = evaluate(state, instruction, scope, file.escape)
            except DockerfileError as error:
                raise error.located(instruction.line.lines, file.name, file.raw) from None
        check_triggers(file, state.defaults.on_build)


def check_triggers(file: Dockerfile, texts: tuple[str, ...]) -> None:
    """What the file leaves for others to run is read again by them."""
    for text in texts:
        with suppress(DockerfileError):
            triggers_of((text,), Lines(1, 1), file.escape)


@settings(max_examples=EXAMPLES)
@given(mutations())
@example(b"")
@example(b"#\n")
@example(b"\n\n")
def test_a_broken_file_is_read_or_its_error_says_where(data: bytes) -> None:
    """No other exception, and a line that is there."""
    try:
        go_through(data)
    except DockerfileError as error:
        assert error.problem
        source = {"Dockerfile": data, **INCLUDED}[error.name].removeprefix(b"\xef\xbb\xbf")
        if source:
            count = source.decode("utf-8", "replace").count("\n") + 1
            assert 1 <= error.lines.start <= error.lines.end <= count, str(error)
            assert f"\n{error.name}:{error.lines.start}\n" in str(error)
