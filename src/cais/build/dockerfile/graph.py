"""Which stages a build needs, and what they stand on."""

from collections.abc import Collection, Iterable, Iterator

import msgspec
from msgspec.structs import replace

from cais.build.dockerfile.fault import DockerfileError, StepError, suggest
from cais.build.dockerfile.scope import Scope
from cais.build.dockerfile.values import Copy, Dockerfile, Instruction, Run, Stage
from cais.build.dockerfile.words import expand
from cais.errors import Invalid
from cais.spec.platform import Platform, format_platform, parse_platform
from cais.spec.reference import parse_reference

SCRATCH = "scratch"


class ContextLink(msgspec.Struct, frozen=True):
    """A context of the request, by its name there."""

    name: str


Link = int | str | ContextLink
"""What a stage or a ``from`` stands for: a stage's index, an image's name (``scratch`` included), or a context."""


class Node(msgspec.Struct, frozen=True):
    """One needed stage: its ``base``, the ``platform`` it is for, and ``sources``: what every ``--from`` in it, by its
    text, stands for."""

    stage: Stage
    base: Link
    platform: Platform | None
    sources: dict[str, Link]

    def needs(self) -> Iterator[Link]:
        """What must be there first."""
        yield self.base
        yield from self.sources.values()


class Graph(msgspec.Struct, frozen=True):
    """The needed stages by index, in the file's order; ``target`` is the one whose image is wanted; ``contexts``: names
    that stand for contexts; ``platform``: the one that is built for."""

    file: Dockerfile
    nodes: dict[int, Node]
    target: int
    contexts: frozenset[str] = frozenset()
    platform: str = ""

    def order(self) -> list[int]:
        """The stages, each after all that it needs; there are no cycles."""
        found: dict[int, None] = {}
        for start in self.nodes:
            path = [(start, self.nodes[start].needs())] if start not in found else []
            while path:
                index, needs = path[-1]
                link = next(needs, None)
                if link is None:
                    found[index] = None
                    path.pop()
                elif isinstance(link, int) and link not in found:
                    path.append((link, self.nodes[link].needs()))
        return list(found)

    def images(self) -> list[tuple[str, Platform | None]]:
        """The images that are needed, each with its platform, in order."""
        found: dict[tuple[str, Platform | None], None] = {}
        for node in self.nodes.values():
            for link in node.needs():
                if isinstance(link, str) and link != SCRATCH:
                    found[link, node.platform] = None
        return list(found)


def make_graph(file: Dockerfile, scope: Scope, target: str = "", contexts: Iterable[str] = ()) -> Graph:
    """The stages that ``target`` (a name or number; empty: the last stage) needs. ``contexts``: names of contexts that
    stand for the stages and images of the same name. Raises DockerfileError."""
    nodes: list[Node] = []
    names = frozenset(contexts)
    for stage in file.stages:
        try:
            nodes.append(_make_node(file, stage, scope, names))
        except DockerfileError as error:
            raise error.located(stage.line.lines, file.name, file.raw) from None
    _refuse_cycles(file, nodes)
    goal = find_target(file, target)
    wanted = {goal}
    waiting = [goal]
    while waiting:
        for link in nodes[waiting.pop()].needs():
            if isinstance(link, int) and link not in wanted:
                wanted.add(link)
                waiting.append(link)
    needed = {index: nodes[index] for index in sorted(wanted)}
    return Graph(file, needed, goal, names, scope.globals.get("TARGETPLATFORM", ""))


def find_target(file: Dockerfile, target: str) -> int:
    """The index of the stage with this name or number. Raises DockerfileError."""
    if not target:
        return len(file.stages) - 1
    named = _by_name(file, target.lower(), len(file.stages))
    if named is not None:
        return named
    if target.isascii() and target.isdecimal() and int(target) < len(file.stages):
        return int(target)
    hint = suggest(target, [stage.base.name for stage in file.stages if stage.base.name])
    raise DockerfileError(f"target stage {target!r} could not be found", hint=hint)


def blame_image(graph: Graph, name: str, problem: str) -> DockerfileError:
    """The error of an image that cannot be had: at the first instruction that asks for it, with the stage that may have
    been meant."""
    file = graph.file
    hint = suggest(name, [stage.base.name for stage in file.stages if stage.base.name])
    for node in graph.nodes.values():
        error = StepError(problem, hint=hint)
        if node.base == name:
            return error.located(node.stage.line.lines, file.name, file.raw)
        for step in node.stage.steps:
            if any(node.sources.get(text) == name for text in from_texts(step)):
                return error.located(step.line.lines, file.name, file.raw)
    return StepError(problem, hint=hint)


def _by_name(file: Dockerfile, name: str, before: int) -> int | None:
    """The last stage of that name among the first ``before``."""
    for stage in reversed(file.stages[:before]):
        if stage.base.name and stage.base.name == name:
            return stage.index
    return None


def _make_node(file: Dockerfile, stage: Stage, scope: Scope, contexts: frozenset[str]) -> Node:
    base = expand(stage.base.base, scope.globals, file.escape).text
    if not base:
        raise DockerfileError(
            f"base name ({stage.base.base}) should not be blank",
            hint="give the ARG a default or --build-arg a value",
        )
    platform = None
    if stage.base.platform:
        text = expand(stage.base.platform, scope.globals, file.escape).text
        try:
            platform = parse_platform(text)
        except Invalid as error:
            raise DockerfileError(f"failed to parse platform {text!r}: {error}") from None
    shown = format_platform(platform) if platform else scope.globals.get("TARGETPLATFORM", "")
    if stage.base.name and (named := find_context(contexts, stage.base.name, shown)):
        # The context is the whole stage: what the file says of it is not looked at.
        return Node(replace(stage, steps=()), ContextLink(named), platform, {})
    earlier = _by_name(file, base.lower(), stage.index)
    link: Link = base if earlier is None else earlier
    if isinstance(link, str) and (named := find_context(contexts, link, shown)):
        link = ContextLink(named)
    if isinstance(link, str):
        _check_image(link)
    sources = {}
    for instruction in stage.steps:
        for text in from_texts(instruction):
            try:
                sources[text] = find_source(file, text, contexts, shown)
            except DockerfileError as error:
                raise error.located(instruction.line.lines, file.name, file.raw) from None
    return Node(stage, link, platform, sources)


def find_context(contexts: Collection[str], name: str, platform: str = "") -> str:
    """The context that stands for a stage's or an image's ``name``, one for this platform first; empty if none
    does."""
    if not contexts:
        return ""
    try:
        plain = parse_reference(name).familiar().removesuffix(":latest")
    except Invalid:
        return ""
    return next((each for each in (f"{plain}::{platform}", plain) if each in contexts), "")


def find_source(file: Dockerfile, text: str, contexts: Collection[str] = (), platform: str = "") -> Link:
    """What a ``from`` means: a stage's name or number, a context, or else an image. Raises DockerfileError."""
    named = _by_name(file, text.lower(), len(file.stages))
    if named is not None:
        return named
    if text.isascii() and text.isdecimal():
        if int(text) >= len(file.stages):
            raise DockerfileError(f"invalid stage index {text}", hint=f"there are {len(file.stages)} stages")
        return int(text)
    if context := find_context(contexts, text, platform):
        return ContextLink(context)
    _check_image(text)
    return text


def _check_image(name: str) -> None:
    if name == SCRATCH:
        return
    if "$" in name:
        raise DockerfileError(
            f"variables are not possible in --from={name}", hint="name a stage: FROM image AS name"
        )
    try:
        parse_reference(name)
    except Invalid as error:
        raise DockerfileError(f"failed to parse stage name {name!r}: {error}") from None


def from_texts(instruction: Instruction) -> list[str]:
    """The ``from`` of a COPY or of the mounts of a RUN, empty ones left out."""
    value = instruction.value
    if isinstance(value, Copy):
        return [value.from_] if value.from_ else []
    if isinstance(value, Run):
        return [mount.from_ for mount in value.mounts if mount.from_]
    return []


def _refuse_cycles(file: Dockerfile, nodes: list[Node]) -> None:
    done: set[int] = set()
    for start in range(len(nodes)):
        path: dict[int, Iterator[Link]] = {start: nodes[start].needs()} if start not in done else {}
        while path:
            index = next(reversed(path))
            link = next(path[index], None)
            if link is None:
                done.add(index)
                del path[index]
            elif isinstance(link, int) and link in path:
                stage = nodes[index].stage
                error = DockerfileError(
                    f"circular dependency detected on stage: {stage.label}",
                    hint="a stage cannot take files from what is built on it",
                )
                raise error.located(stage.line.lines, file.name, file.raw)
            elif isinstance(link, int) and link not in done:
                path[link] = nodes[link].needs()
