"""The checks, each by its name: a text that it is about, and one that it is not."""

import pytest

from cais.build.dockerfile.fault import DockerfileError
from cais.build.dockerfile.lint import lint, parse_check
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.scope import make_scope, platform_args
from cais.spec.ignore import parse_ignore
from cais.spec.platform import parse_platform

HOST = parse_platform("linux/amd64")


def check(text: str, **given: str) -> list[tuple[str, int]]:
    """Rules and lines of what is found."""
    file = parse_dockerfile(text.encode())
    scope = make_scope(file, given, platform_args(HOST, HOST))
    env = {stage.index: {"PATH": "/bin", "BASE": "1"} for stage in file.stages}
    found = lint(file, scope, base_env=env, ignore=parse_ignore(b"*.log\nsecret\n"))
    return [(finding.rule, finding.lines.start) for finding in found]


CASES = [
    ("StageNameCasing", "FROM a AS Big\n", 1),
    ("FromAsCasing", "FROM a as b\n", 1),
    ("NoEmptyContinuation", "FROM a\nRUN x \\\n\n y\n", 2),
    ("ConsistentInstructionCasing", "FROM a\nRUN x\nrun y\n", 3),
    ("ConsistentInstructionCasing", "from a\nrun x\nRUN y\n", 3),
    ("DuplicateStageName", "FROM a AS b\nFROM a AS b\n", 2),
    ("ReservedStageName", "FROM a AS scratch\n", 1),
    ("JSONArgsRecommended", "FROM a\nCMD x\n", 2),
    ("MaintainerDeprecated", "FROM a\nMAINTAINER x\n", 2),
    ("UndefinedArgInFrom", "ARG VERSION=1\nFROM a:${VERSOIN:-1}${VERSOIN}\n", 2),
    ("WorkdirRelativePath", "FROM a\nWORKDIR x\n", 2),
    ("UndefinedVar", "FROM a\nCOPY $FO /\n", 2),
    ("UndefinedVar", "FROM a\nENV PATH=$PAHT:/x\n", 2),
    ("MultipleInstructionsDisallowed", 'FROM a\nCMD ["a"]\nCMD ["b"]\n', 2),
    ("LegacyKeyValueFormat", "FROM a\nENV a b\n", 2),
    ("RedundantTargetPlatform", "FROM --platform=$TARGETPLATFORM a\n", 1),
    ("SecretsUsedInArgOrEnv", "FROM a\nARG GITHUB_TOKEN\n", 2),
    ("SecretsUsedInArgOrEnv", "FROM a\nENV api_key=x\n", 2),
    ("InvalidDefaultArgInFrom", "ARG TAG\nFROM a:$TAG\n", 2),
    ("FromPlatformFlagConstDisallowed", "FROM --platform=linux/arm64 a\n", 1),
    ("CopyIgnoredFile", "FROM a\nCOPY ./x.log /\n", 2),
    ("ExposeProtoCasing", "FROM a\nEXPOSE 80/TCP\n", 2),
    ("ExposeInvalidFormat", "FROM a\nEXPOSE 127.0.0.1:80:80\n", 2),
    ("InvalidDefinitionDescription", "# check=experimental=all\nFROM a\n# words\nARG x\n", 4),
]


@pytest.mark.parametrize(("rule", "text", "line"), CASES)
def test_a_rule_finds_what_it_is_about(rule: str, text: str, line: int) -> None:
    """By Docker's name, at the line."""
    assert (rule, line) in check(text, TAG="1" if rule == "InvalidDefaultArgInFrom" else "x")


def test_a_good_file_has_no_findings() -> None:
    """None of the rules speaks where nothing is wrong."""
    text = """ARG TAG=1
FROM --platform=$BUILDPLATFORM a:$TAG AS build
ARG VERSION
ENV HOME_DIR=/home/$VERSION PUBLIC_KEY=x TOKEN_FILE=/run/t OLD=$BASE
WORKDIR /srv
WORKDIR app
RUN echo $anything
COPY --from=build *.log src ${MAYBE:-x} /x/
FROM a
SHELL ["/bin/ash", "-c"]
CMD run it
EXPOSE 80/tcp $PORTS
"""
    assert check(text) == [("UndefinedVar", 12)]  # PORTS


def test_rules_can_be_skipped_in_the_file() -> None:
    """Some, or all of them."""
    text = "FROM a as Big\nCMD x\n"
    assert {rule for rule, _ in check(text)} == {"FromAsCasing", "StageNameCasing", "JSONArgsRecommended"}
    assert check(f"# check=skip=FromAsCasing, JSONArgsRecommended\n{text}") == [("StageNameCasing", 2)]
    assert check(f"# check=skip=all;error=true\n{text}") == []


def test_the_check_directive_is_read_strictly() -> None:
    """A slip is not passed over."""
    assert parse_check("skip=A,B;error=true").error
    with pytest.raises(DockerfileError, match="did you mean skip"):
        parse_check("skipp=A")
