"""Cais's own syntax: UNSET takes away what was inherited, INCLUDE reads other files of the context."""

from collections.abc import Mapping

import pytest

from cais.build.dockerfile.evaluate import RunAct, State, evaluate, start_state
from cais.build.dockerfile.fault import DockerfileError
from cais.build.dockerfile.graph import make_graph
from cais.build.dockerfile.lint import lint
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.scope import make_scope
from cais.build.dockerfile.splice import DEPTH, MOST
from cais.build.dockerfile.syntax import is_own
from cais.build.dockerfile.values import Dockerfile
from cais.errors import NotFound
from cais.spec.image import ContainerDefaults, Healthcheck

OWN = "# syntax=cais/dockerfile:1\n"
BASE = ContainerDefaults(
    env=("PATH=/bin", "A=base", "B=base"),
    entrypoint=("/entry",),
    cmd=("sh",),
    args_escaped=True,
    labels={"x": "1", "y y": "2"},
    volumes={"/v": {}, "/w": {}},
    exposed_ports={"80/tcp": {}, "81/tcp": {}, "53/udp": {}},
    user="7",
    working_dir="/srv",
    healthcheck=Healthcheck(test=("NONE",)),
    stop_signal="SIGQUIT",
)


def parse(text: str, files: Mapping[str, str] | None = None, name: str = "Dockerfile") -> Dockerfile:
    """A file in Cais's own language, with others beside it."""

    def read(path: str) -> bytes:
        if path not in (files or {}):
            raise NotFound(f"{path} is not there")
        return (files or {})[path].encode()

    return parse_dockerfile((OWN + text).encode(), name, read)


def run(text: str, given: Mapping[str, str] | None = None) -> tuple[State, list[str], list[RunAct]]:
    """The state after the only stage, the history, and what runs."""
    file = parse(f"FROM a\n{text}")
    scope = make_scope(file, given or {}, {})
    state, history, acts = start_state(BASE), [], []
    for instruction in file.stages[0].steps:
        state, step = evaluate(state, instruction, scope)
        history.append(step.history or "")
        acts += [step.act] if isinstance(step.act, RunAct) else []
    return state, history, acts


@pytest.mark.parametrize(
    ("line", "field", "left"),
    [
        ("UNSET ENV A C", "env", ("PATH=/bin", "B=base")),
        ("UNSET env PATH", "env", ("A=base", "B=base")),
        ('UNSET LABEL x "y y"', "labels", {}),
        ("UNSET VOLUME /v", "volumes", {"/w": {}}),
        ("UNSET EXPOSE 80-81 53/udp", "exposed_ports", {}),
        ("UNSET ENTRYPOINT", "entrypoint", ()),
        ("UNSET CMD", "cmd", ()),
        ("UNSET CMD", "args_escaped", False),
        ("UNSET USER", "user", ""),
        ("UNSET WORKDIR", "working_dir", "/"),
        ("UNSET HEALTHCHECK", "healthcheck", None),
        ("UNSET STOPSIGNAL", "stop_signal", ""),
    ],
)
def test_what_the_base_image_set_is_taken_away(line: str, field: str, left: object) -> None:
    """This, and nothing else; the history says it."""
    state, history, _ = run(line)
    assert getattr(state.defaults, field) == left
    changed = {
        name for name in BASE.__struct_fields__ if getattr(state.defaults, name) != getattr(BASE, name)
    }
    assert field in changed <= {field, "cmd", "args_escaped"}
    assert history == [line.replace("env", "ENV").replace('"', "")]


def test_names_may_be_variables_and_steps_see_it() -> None:
    """A variable that is gone is gone for RUN; an ARG of that name is seen again."""
    _, _, acts = run("ARG W=A\nARG B=arg\nENV B=env C=1\nRUN x\nUNSET ENV $W B\nRUN x\n", {"B": "given"})
    before, after = (dict(text.partition("=")[::2] for text in act.env) for act in acts)
    assert before["A"] == "base" and before["B"] == "env"
    assert "A" not in after and after["B"] == "given" and after["C"] == "1"


def test_an_old_command_does_not_come_back() -> None:
    """ENTRYPOINT after UNSET CMD begins with none."""
    state, _, _ = run('CMD ["a"]\nUNSET CMD\nENTRYPOINT ["e"]\n')
    assert state.defaults.cmd == () and state.defaults.entrypoint == ("e",)


# INCLUDE


def test_lines_of_another_file_stand_there() -> None:
    """Before the first FROM and in stages, nested; here-documents and continued lines are whole."""
    files = {
        "ci/args": "ARG TAG=1\n",
        "ci/steps": "RUN <<x\nINCLUDE none\nx\nInclude more/deep # not a comment\n".replace(
            " # not a comment", ""
        ),
        "ci/more/deep": "ENV A=1 \\",
    }
    text = "INCLUDE args\nFROM a:$TAG\nINCLUDE ./steps\nENV B=2\nFROM b\n"
    file = parse(text, files, "ci/Dockerfile")
    names = [[step.line.name for step in stage.steps] for stage in file.stages]
    assert names == [["RUN", "ENV", "ENV"], []] and len(file.args) == 1
    assert file.stages[0].steps[0].line.heredocs[0].content == "INCLUDE none\n"
    assert make_scope(file, {}, {}).globals["TAG"] == "1"


def test_a_file_without_includes_is_as_it_was() -> None:
    """The same lines and places."""
    plain = parse("FROM a\nRUN b\n")
    assert plain.raw == (OWN.strip(), "FROM a", "RUN b") and plain.stages[0].steps[0].line.lines.start == 3


ERRORS = [
    ("RUNN x", "base", 3, "unknown instruction: RUNN"),
    ("# escape=`\nRUN x", "Dockerfile", 3, "another escape character"),
    ("RUN <<x", "base", 3, "unterminated heredoc"),
    ("INCLUDE base", "base", 3, "INCLUDE goes round: Dockerfile -> base -> base"),
    ("INCLUDE nope", "base", 3, "INCLUDE of nope failed: nope is not there"),
    ("FROM a\nCOPY --from=9 x /", "base", 4, "invalid stage index 9"),
]


@pytest.mark.parametrize(("line", "name", "number", "message"), ERRORS, ids=[error[3] for error in ERRORS])
def test_an_error_names_the_file_and_the_line(line: str, name: str, number: int, message: str) -> None:
    """In the file that it stands in, with the lines around it, and no line of another."""
    files = {"base": f"ENV a=1\n\n{line}\n\nENV z=1\n" if not line.startswith("#") else line}
    with pytest.raises(DockerfileError, match=message) as caught:
        file = parse("FROM a\nINCLUDE base\nENV after=1\n", files)
        make_graph(file, make_scope(file, {}, {}))
    error = caught.value
    assert (error.name, error.lines.start) == (name, number)
    assert (f"{name}:{number}\n" in str(error) and "after" not in str(error)) or name == "Dockerfile"
    meant = [text for _, text, is_meant in error.excerpt if is_meant]
    source = files["base"] if name == "base" else f"{OWN}FROM a\nINCLUDE base\n"
    assert meant == source.split("\n")[number - 1 : error.lines.end]


def test_lines_of_other_files_are_not_shown() -> None:
    """Those around are the file's own, even if it has but one."""
    with pytest.raises(DockerfileError) as caught:
        parse("FROM a\nINCLUDE one\nENV after=1\n", {"one": "RUNN x\n"})
    assert caught.value.excerpt == ((1, "RUNN x", True),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("INCLUDE ../x", "outside of the context"),
        ("INCLUDE a/../../x", "outside of the context"),
        ("INCLUDE /etc/passwd", "outside of the context"),
        ("INCLUDE .", "outside of the context"),
        ("INCLUDE", "exactly one argument"),
        ("INCLUDE a b", "exactly one argument"),
        ("INCLUDE $X", "takes no variables|exactly one"),
        ("INCLUDE a$X", "takes no variables"),
        ("INCLUDE --x=1 a", "unknown flag: --x"),
    ],
)
def test_a_path_leads_to_a_file_of_the_context(line: str, message: str) -> None:
    """Nothing else is read."""
    with pytest.raises(DockerfileError, match=message) as caught:
        parse(f"FROM a\n{line}\n", {"x": "", "../x": "", "/etc/passwd": "", "a": ""})
    assert caught.value.lines.start == 3


def test_there_is_an_end_to_including() -> None:
    """Depth, number and size of all files together."""
    deep = {f"f{number}": f"INCLUDE f{number + 1}\n" for number in range(DEPTH + 2)}
    with pytest.raises(DockerfileError, match="too many files") as caught:
        parse("FROM a\nINCLUDE f0\n", deep)
    assert caught.value.name == f"f{DEPTH - 1}"
    parse("FROM a\nINCLUDE f0\n", {**deep, f"f{DEPTH - 1}": "RUN x\n"})
    with pytest.raises(DockerfileError, match="too many files"):
        parse("FROM a\n" + "INCLUDE f\n" * (MOST + 1), {"f": "RUN x\n"})
    with pytest.raises(DockerfileError, match="have more than"):
        parse("FROM a\n" + "INCLUDE f\n" * 3, {"f": "# " + "x" * 500_000})


def test_findings_name_the_file_too() -> None:
    """The lines are those of all files together."""
    file = parse("FROM a\nINCLUDE base\nCMD y\n", {"base": "\nMAINTAINER x\n"})
    scope = make_scope(file, {}, {})
    found = {finding.rule: finding for finding in lint(file, scope)}
    assert found["MaintainerDeprecated"].message.endswith("(in base, line 2)")
    assert file.raw[found["MaintainerDeprecated"].lines.start - 1] == "MAINTAINER x"
    assert "(in" not in found["JSONArgsRecommended"].message


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("", False),
        ("cais/dockerfile:1", True),
        ("cais/dockerfile:1 and words", True),
        ("docker/dockerfile", False),
        ("docker/dockerfile:1.7-labs", False),
        ("docker.io/docker/dockerfile-upstream:master", False),
        ("mirror.example:5000/hub/docker/dockerfile:1@sha256:00", False),
        ("example/moby/dockerfile:1.3", False),
    ],
)
def test_languages_that_are_read(text: str, own: bool) -> None:
    """Docker's under every name that it has, and ours."""
    assert is_own(text) is own


@pytest.mark.parametrize(
    "text", ["x", "cais/dockerfile", "cais/dockerfile:10", "docker/compose", "adocker/dockerfile"]
)
def test_languages_that_are_not(text: str) -> None:
    """No image is run to read them."""
    with pytest.raises(DockerfileError, match=f"syntax {text} cannot be used"):
        is_own(text)
