"""What instructions make of the configuration, the history and the files."""

from collections.abc import Sequence

import pytest

from cais.build.dockerfile.evaluate import (
    CopyAct,
    FolderAct,
    RunAct,
    State,
    Step,
    child_state,
    evaluate,
    scratch_state,
    start_state,
    triggers_of,
)
from cais.build.dockerfile.fault import DockerfileError, Lines
from cais.build.dockerfile.golang import format_duration, quote
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.scope import make_scope
from cais.spec.image import ContainerDefaults

BASE = ContainerDefaults(env=("PATH=/bin", "LANG=C"), cmd=("sh",), working_dir="/srv", on_build=("RUN x",))


def run(
    text: str, given: dict[str, str] | None = None, state: State | None = None
) -> tuple[State, Sequence[Step]]:
    """The last stage's state and steps."""
    file = parse_dockerfile(text.encode())
    scope = make_scope(file, given or {}, {"TARGETARCH": "amd64"})
    state = state or start_state(BASE)
    steps = []
    for instruction in file.stages[-1].steps:
        state, step = evaluate(state, instruction, scope, file.escape)
        steps.append(step)
    return state, steps


@pytest.mark.parametrize(
    ("line", "want"),
    [
        ('ENV A=1 B="x y" C=$LANG', "ENV A=1 B=x y C=C"),
        ("LABEL a=b", "LABEL a=b"),
        ("RUN echo $A", "RUN /bin/sh -c echo $A # buildkit"),
        ('RUN ["a", "b c"]', "RUN a b c # buildkit"),
        ("COPY --chown=1:2 --chmod=644 --link a b /d/", "COPY --chown=1:2 --chmod=644 a b /d/ # buildkit"),
        ("ADD x.tar .", "ADD x.tar . # buildkit"),
        ("COPY <<E /x\nhi\nE", "COPY <<E /x # buildkit"),
        ('CMD ["a", "b\\"c"]', 'CMD ["a" "b\\"c"]'),
        ("CMD a b", 'CMD ["/bin/sh" "-c" "a b"]'),
        ('ENTRYPOINT ["x"]', 'ENTRYPOINT ["x"]'),
        ('SHELL ["/bin/ash", "-c"]', "SHELL [/bin/ash -c]"),
        ("USER 1:2", "USER 1:2"),
        ("WORKDIR app", "WORKDIR /srv/app"),
        ("EXPOSE 80 53/udp", "EXPOSE [53/udp 80/tcp]"),
        ("VOLUME /a /b", "VOLUME [/a /b]"),
        ("STOPSIGNAL SIGQUIT", "STOPSIGNAL SIGQUIT"),
        (
            "HEALTHCHECK --interval=90s --retries=3 CMD a b",
            'HEALTHCHECK &{["CMD-SHELL" "a b"] "1m30s" "0s" "0s" "0s" \'\\x03\'}',
        ),
        ("ARG A=1 B", "ARG A=1 B"),
        ("MAINTAINER me", "MAINTAINER me"),
        ("ONBUILD RUN x", None),
    ],
)
def test_the_history_is_written_as_buildkit_does(line: str, want: str | None) -> None:
    """Tools and people know these texts."""
    _, (step,) = run(f"FROM x\n{line}\n")
    assert step.history == want


def test_all_words_of_an_env_see_what_was_before_it() -> None:
    """Docker's reference has this very example."""
    state, _ = run("FROM x\nENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc\n")
    assert state.defaults.env[2:] == ("abc=bye", "def=hello", "ghi=bye")


def test_arguments_reach_run_but_not_the_image() -> None:
    """And the history says which, with the values that held."""
    state, steps = run("FROM x\nARG A=1\nARG B\nARG TARGETARCH\nRUN a\n", {"A": "2"})
    act = steps[-1].act
    assert isinstance(act, RunAct) and {"A=2", "TARGETARCH=amd64"} <= set(act.env)
    assert steps[-1].history == "RUN |3 A=2 B= TARGETARCH=amd64 /bin/sh -c a # buildkit"
    assert state.defaults.env == BASE.env


@pytest.mark.parametrize(
    ("text", "want"),
    [("ENV A=e\nARG A=a\n", "A=a"), ("ARG A=a\nENV A=e\n", "A=e"), ("ENV A=e\nARG A\n", "A=e")],
)
def test_of_env_and_arg_the_later_one_holds(text: str, want: str) -> None:
    """An ARG without a value changes nothing."""
    _, steps = run(f"FROM x\n{text}RUN a\n")
    act = steps[-1].act
    assert isinstance(act, RunAct) and want in act.env


def test_a_global_argument_is_known_only_where_it_is_declared() -> None:
    """``ARG A`` in the stage takes it over."""
    _, steps = run("ARG A=g\nFROM x\nENV B=$A\nARG A\nENV C=$A\n")
    assert [step.history for step in steps] == ["ENV B=", "ARG A=g", "ENV C=g"]


def test_proxies_are_seen_and_leave_no_trace() -> None:
    """They need no ARG, and are in no history."""
    _, (step,) = run("FROM x\nRUN a\n", {"HTTP_PROXY": "http://u:p@h"})
    assert isinstance(step.act, RunAct) and step.act.hidden_env == ("HTTP_PROXY=http://u:p@h",)
    assert "HTTP_PROXY" not in f"{step.act.env}{step.history}"


def test_a_new_entry_point_drops_the_bases_command() -> None:
    """Unless the stage has set one itself."""
    assert run('FROM x\nENTRYPOINT ["e"]\n')[0].defaults.cmd == ()
    assert run('FROM x\nCMD ["c"]\nENTRYPOINT ["e"]\n')[0].defaults.cmd == ("c",)


@pytest.mark.parametrize(
    ("path", "want"),
    [("x", "/srv/x"), ("x/", "/srv/x/"), (".", "/srv/"), ("/", "/"), ("/a/../b/.", "/b/"), ("//x", "/x")],
)
def test_destinations_are_absolute_and_keep_their_slash(path: str, want: str) -> None:
    """The slash says that it is a folder."""
    _, (step,) = run(f"FROM x\nCOPY a {path}\n")
    assert isinstance(step.act, CopyAct) and step.act.destination == want


def test_folders_of_workdir_belong_to_the_user() -> None:
    """And the root needs none."""
    state, steps = run("FROM x\nUSER 7\nWORKDIR a\nWORKDIR ..\nWORKDIR /\n")
    assert [step.act for step in steps] == [None, FolderAct("/srv/a", "7"), FolderAct("/srv", "7"), None]
    assert state.defaults.working_dir == "/"


@pytest.mark.parametrize(
    ("text", "args", "script"),
    [
        ("RUN <<E\na\nb\nE\n", ("/bin/sh", "-c", "a\nb\n"), None),
        ("RUN <<-E\n\ta\n\tE\n", ("/bin/sh", "-c", "a\n"), None),
        ("RUN <<E\n#!/bin/x\na\nE\n", ("/bin/sh", "-c", "/dev/pipes/E"), b"#!/bin/x\na\n"),
        ("RUN cat <<E >f\na $x\nE\n", ("/bin/sh", "-c", "cat <<E >f\na $x\nE"), None),
    ],
)
def test_here_documents_of_run(text: str, args: tuple[str, ...], script: bytes | None) -> None:
    """The shell's own, a script for it, or a program of its own."""
    _, (step,) = run(f"FROM x\n{text}")
    assert isinstance(step.act, RunAct) and step.act.args == args
    assert (step.act.script.data if step.act.script else None) == script


def test_here_documents_of_copy_are_files() -> None:
    """Variables are put in unless the name is quoted."""
    _, (step,) = run('FROM x\nCOPY f <<A <<"B" /d/\n$LANG "q"\nA\n$LANG\nB\n')
    assert isinstance(step.act, CopyAct) and step.act.sources == ("f",)
    assert [(file.name, file.data) for file in step.act.inline] == [("A", b'C "q"\n'), ("B", b"$LANG\n")]


def test_a_stage_on_nothing_has_a_path_and_a_child_inherits_arguments() -> None:
    """As BuildKit does it."""
    assert scratch_state().defaults.working_dir == "/" and scratch_state().env["PATH"]
    parent, _ = run("FROM x\nARG A=1\nONBUILD RUN y\n")
    assert child_state(parent).env["A"] == "1" and child_state(parent).defaults.on_build == ()


def test_triggers_of_a_base_are_instructions_at_the_from() -> None:
    """Here-documents in them too; a broken one says where it comes from."""
    first, second = triggers_of(["RUN <<E\nx\nE", "ENV A=1"], Lines(3, 3), "\\")
    assert first.line.lines == Lines(3, 3) and second.line.name == "ENV"
    with pytest.raises(DockerfileError, match="in ONBUILD NOPE"):
        triggers_of(["NOPE"], Lines(3, 3), "\\")


@pytest.mark.parametrize("line", ["EXPOSE x", "EXPOSE 70000", "STOPSIGNAL SIGX", "ENV A=${B", "EXPOSE 1/x"])
def test_wrong_values_are_refused(line: str) -> None:
    """Before anything runs."""
    with pytest.raises(DockerfileError):
        run(f"FROM x\n{line}\n")


@pytest.mark.parametrize(
    ("ns", "want"),
    [(0, "0s"), (1, "1ns"), (1500, "1.5µs"), (10**8, "100ms"), (15 * 10**8, "1.5s"), (36 * 10**11, "1h0m0s")],
)
def test_durations_are_printed_as_go_does(ns: int, want: str) -> None:
    """In histories they stand so."""
    assert format_duration(ns) == want


def test_quoting_is_gos() -> None:
    """``%q``."""
    assert quote('a"b\\\n\x01ü') == '"a\\"b\\\\\\n\\x01ü"'
