"""Contexts, archives and Dockerfiles that want more than they should have, or make no sense."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from harness.builds import Answer, Member, check_clean, make_context, make_tar, post_build
from harness.live import LiveEngine

SHOW = "FROM busybox\nCOPY . /c/\nRUN find /c | sort\n"


def say(client: docker.DockerClient, command: str, image: str = "t") -> str:
    """What a shell in the image says."""
    return bytes(client.containers.run(image, ["sh", "-c", command], remove=True)).decode().strip()


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A folder of the machine, with a secret, that must be the same afterwards."""
    folder = tmp_path / "canary"
    folder.mkdir()
    (folder / "secret").write_text("of-the-machine")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["secret"]
    assert (folder / "secret").read_text() == "of-the-machine"


# Contexts

_UP = "../" * 12


def lead_out(canary: str) -> list[tuple[str, tuple[Member, ...]]]:
    """Members of a context that name what is outside of it."""
    return [
        ("a name with dots", ((f"{_UP}{canary[1:]}/new", "file", "x"),)),
        ("dots in the middle", ((f"a/{_UP}{canary[1:]}/new", "file", "x"),)),
        ("a folder with dots", ((f"{_UP}{canary[1:]}/new", "folder", ""),)),
        ("a hard link with dots", (("got", "hard", f"{_UP}{canary[1:]}/secret"),)),
        ("an absolute hard link", (("got", "hard", f"{canary}/secret"),)),
        ("a hard link to nothing", (("got", "hard", "nothing"),)),
        ("a hard link to a folder", (("d", "folder", ""), ("got", "hard", "d"))),
    ]


@pytest.mark.parametrize("which", range(7), ids=[name for name, _ in lead_out("/x")])
def test_members_that_lead_out_are_refused(engine: LiveEngine, canary: Path, which: int) -> None:
    """With the name in the message, and before anything runs (CVE-2018-15664 and its kind)."""
    _, members = lead_out(str(canary))[which]
    answer = post_build(engine, make_context(SHOW, *members), t="out")
    assert answer.error and "Step" not in answer.text
    assert members[-1][0] in answer.error or "outside the build context" in answer.error


INNER: list[tuple[str, tuple[Member, ...], str]] = [
    ("an absolute name", (("/abs/f", "file", "in"),), "in"),
    ("dots that stay inside", (("a/../abs/f", "file", "in"),), "in"),
    (
        "a link to a folder of the machine, and a file through it",
        (("abs", "link", "CANARY"), ("abs/f", "file", "in")),
        "in",
    ),
    (
        "a link over which a folder is laid",
        (("abs/f", "link", "CANARY/secret"), ("abs/f", "file", "in")),
        "in",
    ),
    ("a hard link to a link", (("l", "link", "CANARY/secret"), ("abs/f", "hard", "l")), ""),
]


@pytest.mark.parametrize(("_name", "members", "expected"), INNER, ids=[name for name, _, _ in INNER])
def test_members_that_look_so_stay_inside(
    engine: LiveEngine,
    client: docker.DockerClient,
    canary: Path,
    _name: str,
    members: tuple[Member, ...],
    expected: str,
) -> None:
    """They are files of the context, whatever links say; the machine's are not read and not written."""
    real = tuple(
        (name, kind, str(content).replace("CANARY", str(canary))) for name, kind, content, *_ in members
    )
    answer = post_build(engine, make_context("FROM busybox\nCOPY abs /abs\n", *real), t="t")
    assert not answer.error, answer.error
    assert say(client, "cat /abs/f 2>/dev/null || true") == expected


@pytest.mark.parametrize(
    "line",
    [
        "COPY ../{0}/secret /got",
        "COPY {1}{0}/secret /got",
        "COPY {0}/secret /got",
        "ADD {1}{0}/secret /got",
        "COPY link /got",
        "COPY link/../secret /got",
        "COPY folder/secret /got",
        "COPY folder* /got/",
        "RUN --mount=type=bind,source=folder,target=/m cat /m/secret > /got",
        "RUN --mount=type=bind,source={1}{0},target=/m cat /m/secret > /got",
        "RUN --mount=type=bind,source=folder/secret,target=/m cat /m > /got",
        "RUN --mount=type=bind,target=/m cat /m/link > /got",
        "COPY --from=busybox {1}{0}/secret /got",
        "RUN --mount=type=cache,target=/m,id={1}{0} cat /m/secret > /got",
        "RUN --mount=type=cache,target={1}{0} cat {0}/secret > /got",
    ],
)
def test_nothing_of_the_machine_gets_into_an_image(
    engine: LiveEngine, client: docker.DockerClient, canary: Path, line: str
) -> None:
    """By dots, absolute names or links, in COPY, ADD and mounts (CVE-2024-23651 to 23653)."""
    links: tuple[Member, ...] = (("link", "link", f"{canary}/secret"), ("folder", "link", str(canary)))
    dockerfile = f"FROM busybox\n{line.format(str(canary)[1:] if '../{0}' in line else canary, _UP)}\n"
    answer = post_build(engine, make_context(dockerfile, *links), t="t", nocache="1")
    if not answer.error:
        assert "of-the-machine" not in say(client, "cat /got /got/* /got/*/* 2>/dev/null || true")
    check_clean(engine)


def test_links_in_a_stage_do_not_lead_to_the_machine(
    engine: LiveEngine, client: docker.DockerClient, canary: Path
) -> None:
    """What RUN left there is looked up in the stage: by COPY's source and target, WORKDIR, mounts."""
    dockerfile = f"""FROM busybox AS s
RUN ln -s {canary} /link && ln -s {_UP}{canary} /dots && mkdir -p /work && ln -s {canary} /work/in
FROM s
COPY f /link/new
COPY f /dots/new2
WORKDIR /link/made
RUN --mount=type=cache,target=/link/cache touch /link/cache/x
RUN --mount=type=tmpfs,target=/dots/tmp touch /dots/tmp/x
COPY --from=s /work /work
ADD f /work/in/new3
"""
    answer = post_build(engine, make_context(dockerfile, ("f", "file", "f")), t="t")
    assert not answer.error, answer.error
    assert "of-the-machine" not in say(client, f"find {canary} /work; cat {canary}/* 2>/dev/null || true")
    broken = f"FROM busybox AS s\nRUN ln -s {canary} /l\nFROM busybox\nCOPY --from=s /l/secret /\n"
    assert "secret" in post_build(engine, make_context(broken)).error


# Archives


def hostile_archives(canary: str) -> list[tuple[str, bytes]]:
    """What ADD is to unpack."""
    return [
        ("dots", make_tar((f"{_UP}{canary[1:]}/new", "file", "x"))),
        ("absolute", make_tar((f"{canary}/new", "file", "x"))),
        ("through a link", make_tar(("l", "link", canary), ("l/new", "file", "x"))),
        ("through a link with dots", make_tar(("l", "link", f"{_UP}{canary[1:]}"), ("l/new", "file", "x"))),
        ("hard link out", make_tar(("h", "hard", f"{canary}/secret"))),
        ("hard link with dots", make_tar(("h", "hard", f"{_UP}{canary[1:]}/secret"))),
        ("hard link through a link", make_tar(("l", "link", canary), ("h", "hard", "l/secret"))),
        ("over a link", make_tar(("l", "link", f"{canary}/secret"), ("l", "file", "x"))),
        ("whiteout", make_tar((".wh.etc", "file", ""))),
        ("opaque", make_tar(("etc/.wh..wh..opq", "file", ""))),
        (
            "overlay attribute",
            make_tar(("d", "folder", "", {"pax_headers": {"SCHILY.xattr.trusted.overlay.redirect": canary}})),
        ),
        ("overlay whiteout", make_tar(("w", "char", "", {"devmajor": 0, "devminor": 0}))),
        ("bad size", make_tar(("f", "file", b"x" * 2000))[:-9000]),
    ]


@pytest.mark.parametrize("which", range(13), ids=[name for name, _ in hostile_archives("/x")])
def test_archives_stay_below_where_they_are_unpacked(
    engine: LiveEngine, client: docker.DockerClient, canary: Path, which: int
) -> None:
    """Whatever their members say, nothing of the machine is touched, nothing of the image beside it is changed."""
    name, data = hostile_archives(str(canary))[which]
    dockerfile = "FROM busybox\nADD a.tar /x/\nRUN find / -xdev -newer /etc/group -name new; ls -A /etc\n"
    answer = post_build(engine, make_context(dockerfile, ("a.tar", "file", data)), t="t", nocache="1")
    if answer.error:
        assert "a.tar" in answer.error, answer.error
    else:
        inside = say(client, "cat /etc/passwd; cat /x/h 2>/dev/null; ls -A /x")
        assert "root:x:0:0" in inside and "of-the-machine" not in inside, name
    check_clean(engine)


def test_a_hard_link_of_an_archive_may_mean_a_file_of_the_stage(
    engine: LiveEngine, client: docker.DockerClient
) -> None:
    """It becomes a copy; one that leads nowhere is named."""
    text = "FROM busybox\nRUN mkdir /x && echo here > /x/a\nADD a.tar /x/\n"
    body = make_context(text, ("a.tar", "file", make_tar(("h", "hard", "a"))))
    assert not post_build(engine, body, t="linked").error
    assert say(client, "cat /x/h", "linked") == "here"
    body = make_context(text, ("a.tar", "file", make_tar(("h", "hard", "nothing"))))
    assert "the hard link /x/h leads nowhere: /x/nothing" in post_build(engine, body, t="linked").error


# Dockerfiles


def test_secrets_in_arguments_are_warned_about(engine: LiveEngine) -> None:
    """Names that say what they hold, and not others."""
    dockerfile = """FROM busybox
ARG AWS_SECRET_ACCESS_KEY
ARG VERSION=1
ENV DB_PASSWORD=x TOKENIZER=y
ENV GIT_TOKEN=$VERSION
"""
    answer = post_build(engine, make_context(dockerfile), path="/cais/build/check")
    found = [line for line in answer.lines if line["Rule"] == "SecretsUsedInArgOrEnv"]
    assert [line["Lines"][0] for line in found] == [2, 4, 5]
    assert "AWS_SECRET_ACCESS_KEY" in found[0]["Message"] and "DB_PASSWORD" in found[1]["Message"]


LINES = {
    "unknown instruction": r"""
RUNN x
FORM busybox
COPPY a b
X
- a
FROM: x
#!/bin/sh\nx
💥 x
""",
    "nothing said": r"""
RUN
COPY
ADD
ENV
LABEL
EXPOSE
VOLUME
USER
WORKDIR
STOPSIGNAL
SHELL
HEALTHCHECK
ONBUILD
FROM
ARG
COPY a
ADD a
COPY --chown=1 a
""",
    "unknown flag": r"""
RUN --mont=type=bind x
COPY --form=a a b
ADD --cown=1 a b
FROM --platfrom=x busybox
HEALTHCHECK --intervall=1s CMD x
WORKDIR --x /a --
COPY --chown a b
COPY --link=perhaps a b
""",
    "mounts": r"""
RUN --mount=type=what,target=/x true
RUN --mount=type=cache true
RUN --mount=type=bind,targt=/x true
RUN --mount=type=cache,target=/x,sharing=maybe true
RUN --mount=type=cache,target=/x,mode=9 true
RUN --mount=type=tmpfs,target=/x,size=much true
RUN --mount=type=cache,target=/x,uid=me true
RUN --mount= true
RUN --mount=type=secret,required=perhaps true
RUN --mount=type=bind,target true
""",
    "words": r"""
ENV A=${
ENV A=${B
ENV A=${B:
ENV A=${B?}
ENV A="x
ENV A='x
LABEL "a=b
ENV A=${B:^}
WORKDIR ${
COPY ${ /
EXPOSE ${X
LABEL a='${
USER ${A:-${B}
ENV =b
ENV A=b C
LABEL =x
ARG =x
ARG A B="
ENV A=${B/x}
""",
    "JSON": r"""
SHELL sh -c
SHELL []
SHELL ["a"
SHELL {"a": 1}
SHELL [1]
SHELL ["a", null]
""",
    "values": r"""
EXPOSE http
EXPOSE 70000
EXPOSE 80/what
EXPOSE 9-1
EXPOSE -1
EXPOSE 1-2-3
STOPSIGNAL NOPE
STOPSIGNAL -9x
HEALTHCHECK --interval=soon CMD x
HEALTHCHECK --interval=-1s CMD x
HEALTHCHECK PING x
HEALTHCHECK --retries=many CMD x
HEALTHCHECK CMD
HEALTHCHECK NONE x
ONBUILD ONBUILD RUN x
ONBUILD FROM busybox
ONBUILD MAINTAINER x
ONBUILD RUNN x
RUN --network=wide true
RUN --security=lax true
MAINTAINER
""",
    "stages": r"""
FROM busybox AS 1a
FROM busybox AS a b
FROM busybox AS
FROM a b
FROM $NOPE
FROM UPPER/Case
FROM busybox:
FROM --platform=what/ever/x/y busybox
COPY --from=Not:A:Name a b
COPY --from=99 a b
""",
    "heredocs": r"""
RUN <<EOF\nx
COPY <<EOF /x\nx\nEO
RUN <<'E\nx\nE
COPY <<A <<B /x/\na\nA\nb
""",
    "several to a file": r"""
COPY a b /c
ADD a b c
COPY * b x
""",
}
"""One on each line; ``\\n`` is the end of one."""
FRAMES = {
    "alone": ("FROM busybox\n", ""),
    "below comments": (
        "# syntax = docker/dockerfile:1\n\n# a\nFROM busybox AS one\nRUN true\n\n",
        "\nRUN true\n",
    ),
    "in a later stage": (
        "ARG V=1\nFROM busybox AS one\nENV A=b \\\n  C=d\nFROM one AS two\n",
        "\nFROM two\nCMD x\n",
    ),
    "with carriage returns": ("FROM busybox\r\nRUN true \\\r\n  && true\r\n", "\r\n"),
}
CORPUS = [
    (f"{kind}: {line} ({frame})", before, line, after)
    for (kind, lines), (frame, (before, after)) in itertools.product(LINES.items(), FRAMES.items())
    for line in (each.replace("\\n", "\n") for each in lines.split("\n") if each)
    if not (kind == "heredocs" and after.strip())  # what follows would be part of it
]
TRACE = re.compile(r"Traceback|\.py\b|Error\(|object at 0x|internal error", re.IGNORECASE)


def judge(answer: Answer, before: str, line: str) -> str:
    """What is wrong with the error of a bad Dockerfile; empty if nothing is."""
    if not answer.error:
        return "built"
    if TRACE.search(answer.error):
        return f"shows its inside: {answer.error}"
    found = re.search(r"Dockerfile:(\d+)", answer.error)
    if not found:
        return f"has no line: {answer.error}"
    first = before.count("\n") + 1
    if not first <= int(found[1]) <= first + line.count("\n") + 1:
        return f"line {found[1]} is not {first}: {answer.error}"
    return ""


def test_every_mistake_is_told_with_its_line(engine: LiveEngine) -> None:
    """A few hundred, each in several places of a file; the engine's log has no trace of its own either."""
    before_log = (engine.folder / "engine.log").read_text().count("Traceback")
    wrong = []
    for name, before, line, after in CORPUS:
        answer = post_build(engine, make_context(before + line + after, ("a", "file", "a")))
        if found := judge(answer, before, line):
            wrong.append(f"{name!r} {found}")
    assert len(CORPUS) > 300
    assert not wrong, "\n".join(wrong)
    assert (engine.folder / "engine.log").read_text().count("Traceback") == before_log
    check_clean(engine)


WHOLE: list[tuple[str, bytes, str]] = [
    ("empty", b"", "empty"),
    ("only comments", b"# x\n\n# y\n", "empty"),
    ("no FROM", b"RUN true\n", "Dockerfile:1"),
    ("zeros", b"\0" * 4096, "Dockerfile"),
    ("not text", bytes(range(256)) * 20, "Dockerfile"),
    ("UTF-16", "FROM busybox\n".encode("utf-16"), "Dockerfile"),
    ("larger than a Dockerfile may be", b"FROM busybox\nRUN " + b"x" * 3_000_000, "more than 1048576 bytes"),
    ("braces without end", b"FROM busybox\nENV A=" + b"${A:-" * 20_000 + b"\n", "Dockerfile:2"),
    ("larger than may be", b"FROM busybox\n" + b"#" * (5 << 20), "larger"),
    ("a circle", b"FROM a AS b\nFROM b AS a\nCOPY --from=a / /\n", ""),
    ("takes from itself", b"FROM busybox AS a\nCOPY --from=a / /x\n", "Dockerfile:1"),
]


@pytest.mark.parametrize(("_name", "data", "message"), WHOLE, ids=[name for name, _, _ in WHOLE])
def test_files_that_are_no_dockerfiles(engine: LiveEngine, _name: str, data: bytes, message: str) -> None:
    """Told in a moment, whatever they hold."""
    error = post_build(engine, make_context(data)).error
    assert error and message in error and not TRACE.search(error) and len(error) < 20_000, error[:2000]


def test_a_bad_mode_is_told_with_its_line(engine: LiveEngine) -> None:
    """As all mistakes."""
    answer = post_build(engine, make_context("FROM busybox\nCOPY --chmod=rwx a b\n", ("a", "file", "a")))
    assert not judge(answer, "FROM busybox\n", "COPY --chmod=rwx a b")


def test_an_error_shows_no_more_than_can_be_read(engine: LiveEngine) -> None:
    """However long the instruction is."""
    error = post_build(engine, make_context(b"FROM busybox\nCOPPY \\\n" + b"a \\\n" * 50_000 + b"\n")).error
    assert "Dockerfile:2" in error and len(error) < 20_000


def test_a_refused_build_leaves_nothing(engine: LiveEngine) -> None:
    """Not even a record of the steps before the mistake."""
    before: dict[str, Any] = json.loads(
        engine.request(
            b"GET /system/df?type=build-cache HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"
        ).partition(b"\r\n\r\n")[2]
    )
    assert post_build(engine, make_context("FROM busybox\nRUN echo never > /n\nCOPPY x y\n")).error
    after = engine.request(
        b"GET /system/df?type=build-cache HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"
    )
    assert len(json.loads(after.partition(b"\r\n\r\n")[2])["BuildCache"]) == len(before["BuildCache"])
    check_clean(engine)
