"""What a Dockerfile offers to whoever builds it: stages, arguments, secrets, agents and cache mounts. Pure."""

from collections.abc import Iterator

import msgspec

from cais.build.dockerfile.fault import Lines
from cais.build.dockerfile.graph import Graph
from cais.build.dockerfile.scope import Scope
from cais.build.dockerfile.values import Arg, Dockerfile, Instruction, Run


class Offer(msgspec.Struct, frozen=True):
    """One argument, secret, agent or cache mount."""

    name: str
    lines: Lines
    description: str = ""
    value: str = ""
    required: bool = False


class Outline(msgspec.Struct, frozen=True):
    """What building a target takes. ``name`` of the target and ``description`` from the comment above it."""

    name: str
    description: str
    args: tuple[Offer, ...]
    secrets: tuple[Offer, ...]
    agents: tuple[Offer, ...]
    caches: tuple[Offer, ...]


class Target(msgspec.Struct, frozen=True):
    """One stage."""

    name: str
    base: str
    lines: Lines
    description: str = ""
    platform: str = ""
    is_default: bool = False


def make_outline(file: Dockerfile, scope: Scope, graph: Graph) -> Outline:
    """Of the stages that the target needs."""
    instructions = [*file.args]
    for node in graph.nodes.values():
        instructions += node.stage.steps
    stage = file.stages[graph.target]
    args = {offer.name: offer for each in instructions for offer in _args(each, scope)}
    mounts = {
        kind: tuple({offer.name: offer for each in instructions for offer in _mounts(each, kind)}.values())
        for kind in ("secret", "ssh", "cache")
    }
    return Outline(
        stage.base.name,
        _comment(stage.line.comments, stage.base.name),
        tuple(args.values()),
        mounts["secret"],
        mounts["ssh"],
        mounts["cache"],
    )


def list_targets(file: Dockerfile) -> tuple[Target, ...]:
    """All stages; the last one is built when nothing is said."""
    last = len(file.stages) - 1
    return tuple(
        Target(
            stage.base.name,
            stage.base.base,
            stage.line.lines,
            _comment(stage.line.comments, stage.base.name),
            stage.base.platform,
            stage.index == last,
        )
        for stage in file.stages
    )


def _args(instruction: Instruction, scope: Scope) -> Iterator[Offer]:
    if isinstance(instruction.value, Arg):
        for name, default in instruction.value.pairs:
            value = scope.given.get(name) or scope.globals.get(name) or default or ""
            description = _comment(instruction.line.comments, name)
            yield Offer(name, instruction.line.lines, description, value)


def _mounts(instruction: Instruction, kind: str) -> Iterator[Offer]:
    if isinstance(instruction.value, Run):
        for mount in instruction.value.mounts:
            if mount.type == kind:
                name = mount.id or mount.source or mount.target
                if kind == "secret":
                    name = mount.id or mount.source or mount.target.rpartition("/")[2]
                elif kind == "ssh":
                    name = mount.id or "default"
                yield Offer(name, instruction.line.lines, required=mount.required)


def _comment(comments: tuple[str, ...], name: str) -> str:
    """``# NAME what it is for`` above a definition."""
    for comment in reversed(comments):
        word, _, rest = comment.strip().partition(" ")
        if name and word.lower() == name.lower():
            return rest.strip()
    return ""
