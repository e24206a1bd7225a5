"""The checks, each by its name: a text that it is about, and one that it is not."""

import pytest

from cais.build.dockerfile.fault import DockerfileError
from cais.build.dockerfile.lint import BasePlatforms, lint
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.rules import RULES, CheckOptions, parse_check, violation
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
    ("NoEmptyContinuation", "FROM a\nRUN x \\\n\n y\n", 4),
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
    ("UndefinedVar", "FROM a\nENV A=${B:-1}\n", 2),
    ("UndefinedVar", "FROM a\nCOPY <<x /\n$A\nx\n", 2),
    ("UndefinedVar", "FROM a\nRUN --mount=type=secret,id=$A x\n", 2),
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
    text = r"""ARG TAG=1
FROM --platform=$BUILDPLATFORM a:$TAG AS build
ARG VERSION
ENV HOME_DIR=/home/$VERSION PUBLIC_KEY=x TOKEN_FILE=/run/t OLD=$BASE
WORKDIR /srv
WORKDIR app
RUN echo $anything
COPY --from=build *.log src /x/
COPY <<"x" <<y /x/
$A
x
\$B $BASE
y
FROM a
SHELL ["/bin/ash", "-c"]
CMD run it
EXPOSE 80/tcp
"""
    assert check(text) == []


def test_rules_can_be_skipped_in_the_file() -> None:
    """Some, or all of them."""
    text = "FROM a as Big\nCMD x\n"
    assert {rule for rule, _ in check(text)} == {"FromAsCasing", "StageNameCasing", "JSONArgsRecommended"}
    assert check(f"# check=skip=FromAsCasing, JSONArgsRecommended\n{text}") == [("StageNameCasing", 2)]
    assert check(f"# check=skip=all;error=true\n{text}") == []


def test_comments_above_an_instruction_are_for_it_alone() -> None:
    """Skipped there and nowhere else; another comment is a comment."""
    text = "FROM a\n# check=skip=JSONArgsRecommended\nCMD x\n# check=what\nENTRYPOINT y\n"
    assert check(text) == [("JSONArgsRecommended", 5)]


def test_experimental_rules_speak_when_they_are_asked_for() -> None:
    """By name or all of them, and skipping does not silence them."""
    text = "# check={0}\nFROM a AS b\n# words\nARG x\n# x words\nARG x\n"
    rule = "InvalidDefinitionDescription"
    for options in (f"experimental={rule}", "experimental=all", "skip=all;experimental=all"):
        assert check(text.format(options)) == [(rule, 4)]
    assert check(text.format("skip=FromAsCasing")) == []


def test_a_build_argument_stands_above_the_directive() -> None:
    """BUILDKIT_DOCKERFILE_CHECK."""
    text = "# check=skip=all\nFROM a as b\n"
    assert check(text, BUILDKIT_DOCKERFILE_CHECK="error=true") == [("FromAsCasing", 2)]


def test_a_base_image_of_another_platform_is_found() -> None:
    """By the stages whose images are known; a variant's name makes no difference."""
    file = parse_dockerfile(b"FROM a\nFROM b\n")
    scope = make_scope(file, {}, platform_args(HOST, HOST))
    arm, v8 = parse_platform("linux/arm64"), parse_platform("linux/arm64/v8")
    found = lint(file, scope, platforms={0: BasePlatforms(HOST, arm), 1: BasePlatforms(arm, v8)})
    assert [(each.rule, each.lines.start) for each in found] == [("InvalidBaseImagePlatform", 1)]
    assert "linux/arm64" in found[0].message and found[0].about.url == ""


def test_every_rule_of_dockers_is_there_with_its_page() -> None:
    """Names and addresses are on record from dockerd 28 (``--call=check``) and its documentation."""
    pages = {rule.url.removeprefix("https://docs.docker.com/go/dockerfile/rule/") for rule in RULES.values()}
    assert len(RULES) == 22 and {"json-args-recommended/", "from-as-casing/", "expose-proto-casing/"} <= pages
    assert [rule.name for rule in RULES.values() if rule.experimental] == ["InvalidDefinitionDescription"]
    assert {rule for rule, _, _ in CASES} | {"InvalidBaseImagePlatform"} == set(RULES)
    assert all(rule.description for rule in RULES.values())


def test_with_error_the_rules_are_named() -> None:
    """Each once."""
    assert violation(["B", "A", "B"]) == "lint violation found for rules: A, B" and violation([]) == ""


def test_the_check_directive_is_read_strictly() -> None:
    """A slip is not passed over."""
    assert parse_check("skip=A,B;error=true") == CheckOptions(frozenset("AB"), frozenset(), True)
    with pytest.raises(DockerfileError, match="expecting boolean"):
        parse_check("error=ture")
    with pytest.raises(DockerfileError, match="did you mean skip"):
        parse_check("skipp=A")
