"""The rules of ``docker build --check``: what each is called, says and leads to, and how they are switched.

Names, addresses and switches are Docker's (documentation, "Build checks" and "Dockerfile reference", directive
``check``); the sentences are ours.
"""

import re
from collections.abc import Iterable, Sequence

import msgspec

from cais.build.dockerfile.fault import DockerfileError, suggest
from cais.build.dockerfile.flags import parse_switch

CHECK_ARG = "BUILDKIT_DOCKERFILE_CHECK"
"""A build argument that stands above the directive."""
_PAGES = "https://docs.docker.com/go/dockerfile/rule/"
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_COMMENT = re.compile(r"check\s*=\s*(\S+)", re.IGNORECASE)


class Rule(msgspec.Struct, frozen=True):
    """``description``: one sentence for every finding; ``url`` of the page that explains it, empty if there is none;
    ``experimental``: silent unless it is asked for."""

    name: str
    description: str
    url: str
    experimental: bool = False


def _rule(name: str, description: str, *, has_page: bool = True, experimental: bool = False) -> Rule:
    url = f"{_PAGES}{_WORD.sub('-', name).lower()}/" if has_page else ""
    return Rule(name, description, url, experimental)


_LIST = (
    _rule("StageNameCasing", "A stage's name is written in lower case"),
    _rule("FromAsCasing", "FROM and its AS are written alike"),
    _rule("NoEmptyContinuation", "An empty line inside a continued one will be an error one day"),
    _rule(
        "ConsistentInstructionCasing", "All instructions of a file are written in upper case, or all in lower"
    ),
    _rule("DuplicateStageName", "Each stage has a name of its own"),
    _rule("ReservedStageName", "A stage is not called by a word that means something else"),
    _rule("JSONArgsRecommended", "CMD and ENTRYPOINT in JSON form let signals through to the program"),
    _rule("MaintainerDeprecated", "MAINTAINER is out of use: a label says who made an image"),
    _rule("UndefinedArgInFrom", "A variable in FROM needs an ARG before it"),
    _rule(
        "WorkdirRelativePath", "A relative WORKDIR with no absolute one before it depends on the base image"
    ),
    _rule("UndefinedVar", "A variable is defined before it is used"),
    _rule(
        "MultipleInstructionsDisallowed", "Of an instruction that a stage has once only the last one counts"
    ),
    _rule("LegacyKeyValueFormat", "Names and values have an = between them"),
    _rule("InvalidBaseImagePlatform", "The base image is for the platform that is built for", has_page=False),
    _rule("RedundantTargetPlatform", "FROM is for $TARGETPLATFORM by itself"),
    _rule("SecretsUsedInArgOrEnv", "ARG and ENV stay in the image: they hold no secrets"),
    _rule("InvalidDefaultArgInFrom", "FROM names an image without any build argument, too"),
    _rule("FromPlatformFlagConstDisallowed", "FROM --platform is no constant"),
    _rule("CopyIgnoredFile", "What is copied is not excluded by the ignore file"),
    _rule(
        "InvalidDefinitionDescription",
        "The comment right above an ARG or a stage begins with its name; an empty line makes it another comment",
        experimental=True,
    ),
    _rule("ExposeProtoCasing", "The protocol in EXPOSE is written in lower case"),
    _rule("ExposeInvalidFormat", "EXPOSE names a port alone: no address, no port of the host"),
)
RULES = {rule.name: rule for rule in _LIST}
_ALL = "all"


class CheckOptions(msgspec.Struct, frozen=True):
    """The ``check`` directive: rules to ``skip`` (``all``), ``experimental`` ones to add, ``error``: findings fail."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    def wants(self, rule: str) -> bool:
        """Whether the rule's findings are told. An experimental rule that is asked for cannot be skipped as well."""
        if RULES[rule].experimental:
            return bool(self.experimental & {rule, _ALL})
        return not self.skip & {rule, _ALL}


def parse_check(text: str) -> CheckOptions:
    """The value of ``# check=skip=A,B;error=true``. Raises DockerfileError."""
    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error = False
    for part in filter(None, map(str.strip, text.split(";"))):
        key, equals, value = part.partition("=")
        names = frozenset(filter(None, map(str.strip, value.split(","))))
        match key.strip():
            case "skip" if equals:
                skip = names
            case "experimental" if equals:
                experimental = names
            case "error" if equals:
                error = parse_switch("error", value.strip())
            case other:
                known = ("skip", "error", "experimental")
                raise DockerfileError(f"invalid check option {other!r}", hint=suggest(other, known))
    return CheckOptions(skip, experimental, error)


def add_comments(options: CheckOptions, comments: Sequence[str]) -> CheckOptions:
    """With what the comments right above an instruction say for it alone (``# check=skip=A``)."""
    for comment in comments:
        found = _COMMENT.match(comment)
        if not found:
            continue
        try:
            own = parse_check(found[1])
        except DockerfileError:
            return options  # it is a comment
        return CheckOptions(options.skip | own.skip, options.experimental | own.experimental, options.error)
    return options


def violation(rules: Iterable[str]) -> str:
    """What a build with ``error=true`` fails with; empty if nothing was found."""
    names = ", ".join(sorted(set(rules)))
    return f"lint violation found for rules: {names}" if names else ""
