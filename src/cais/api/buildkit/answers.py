"""Questions about a Dockerfile that clients ask instead of building it: ``--call=check|outline|targets``.

JSON: moby/buildkit frontend/subrequests (lint, outline, targets, describe).
"""

import base64
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from cais.build.building import Build
from cais.build.dockerfile.fault import DockerfileError, Lines, make_excerpt
from cais.build.dockerfile.lint import Finding
from cais.build.dockerfile.values import Dockerfile
from cais.build.inputs import Inputs
from cais.build.outline import Offer, Outline, Target, list_targets, make_outline
from cais.errors import Unsupported

Answer = dict[str, bytes]
_QUESTIONS = {
    "lint": "Look for mistakes, and build nothing",
    "outline": "List what building a target takes",
    "targets": "List all targets",
    "subrequests.describe": "List these questions",
}


async def answer_call(call: str, build: Build, inputs: Inputs) -> Answer:
    """The metadata that answers ``call``. Raises Unsupported, and for all but ``lint`` what reading raises."""
    match call:
        case "lint":
            return await _lint(build, inputs)
        case "outline":
            source = await build.read(inputs)
            scope, graph = build.outline(source, build.platforms[0])
            return _outline(source.file, make_outline(source.file, scope, graph))
        case "targets":
            source = await build.read(inputs)
            return _targets(source.file, list_targets(source.file))
        case "subrequests.describe":
            return _describe()
        case _:
            raise Unsupported(f"unknown question {call!r}: this engine knows {', '.join(_QUESTIONS)}")


def _answer(value: Any, text: str, *, status: int = 0) -> Answer:
    return {
        "version": b"1.0.0",
        "result.json": msgspec.json.encode(value),
        "result.txt": text.encode(),
        "result.statuscode": str(status).encode(),
    }


async def _lint(build: Build, inputs: Inputs) -> Answer:
    try:
        source = await build.read(inputs)
        findings = await build.check(source, build.platforms[0])
    except DockerfileError as error:
        return _broken(error)
    file = source.file
    warnings = [
        {
            "ruleName": finding.rule,
            "description": finding.about.description,
            "url": finding.about.url,
            "detail": finding.message,
            "location": _location(finding.lines),
        }
        for finding in findings
    ]
    text = "".join(map(_format(file), findings))
    answer = {"warnings": warnings, "sources": [_source(file)]}
    return _answer(answer, text, status=1 if findings else 0)


def _format(file: Dockerfile) -> Callable[[Finding], str]:
    def one(finding: Finding) -> str:
        lines = [f"\nWARNING: {finding.rule} - {finding.about.url}\n{finding.message}\n\n"]
        lines.append(f"{file.name}:{finding.lines.start}\n--------------------\n")
        for number, line, meant in make_excerpt(file.raw, finding.lines):
            lines.append(f"{number:>4} | {'>>>' if meant else '   '} {line}\n")
        return "".join(lines) + "--------------------\n"

    return one


def _broken(error: DockerfileError) -> Answer:
    text = [""] * max((number for number, _, _ in error.excerpt), default=0)
    for number, line, _ in error.excerpt:
        text[number - 1] = line
    data = "\n".join(text).encode("utf-8", "surrogateescape")
    source = {"filename": error.name or "Dockerfile", "data": base64.b64encode(data).decode()}
    answer = {
        "warnings": [],
        "sources": [source],
        "buildError": {"message": error.problem, "location": _location(error.lines)},
    }
    return _answer(answer, f"{error}\n", status=1)


def _outline(file: Dockerfile, outline: Outline) -> Answer:
    answer: dict[str, Any] = {"name": outline.name, "description": outline.description}
    answer["args"] = [
        {
            "name": offer.name,
            "description": offer.description,
            "value": offer.value,
            "location": _location(offer.lines),
        }
        for offer in outline.args
    ]
    answer["secrets"] = list(map(_required, outline.secrets))
    answer["ssh"] = list(map(_required, outline.agents))
    answer["cache"] = [{"ID": offer.name, "location": _location(offer.lines)} for offer in outline.caches]
    answer["sources"] = [_raw(file)]
    rows = [(offer.name, offer.value, offer.description) for offer in outline.args]
    text = _table(("BUILD ARG", "VALUE", "DESCRIPTION"), rows) if rows else ""
    for title, offers in (("SECRET", outline.secrets), ("SSH", outline.agents)):
        if offers:
            text += "\n" + _table(
                (title, "REQUIRED"), [(offer.name, str(offer.required).lower()) for offer in offers]
            )
    return _answer({name: value for name, value in answer.items() if value}, text)


def _required(offer: Offer) -> dict[str, Any]:
    return {"name": offer.name, "required": offer.required, "location": _location(offer.lines)}


def _targets(file: Dockerfile, targets: Sequence[Target]) -> Answer:
    listed = [
        {
            "name": target.name,
            "default": target.is_default,
            "description": target.description,
            "base": target.base,
            "platform": target.platform,
            "location": _location(target.lines),
        }
        for target in targets
    ]
    rows = [
        (f"{target.name} (default)" if target.is_default else target.name, target.description)
        for target in targets
    ]
    return _answer({"targets": listed, "sources": [_raw(file)]}, _table(("TARGET", "DESCRIPTION"), rows))


def _describe() -> Answer:
    listed = [
        {
            "name": name if name.startswith("subrequests") else f"frontend.{name}",
            "version": "1.0.0",
            "type": "rpc",
            "description": description,
            "opts": [],
            "inputs": [],
            "metadata": [
                {"name": "result.json", "description": ""},
                {"name": "result.txt", "description": ""},
            ],
            "refs": [],
        }
        for name, description in _QUESTIONS.items()
    ]
    rows = [(name, "1.0.0", description) for name, description in _QUESTIONS.items()]
    return _answer(listed, _table(("NAME", "VERSION", "DESCRIPTION"), rows))


def _location(lines: Lines) -> dict[str, Any]:
    return {"ranges": [{"start": {"line": lines.start}, "end": {"line": lines.end}}]}


def _raw(file: Dockerfile) -> str:
    data = "\n".join(file.raw).encode("utf-8", "surrogateescape")
    return base64.b64encode(data).decode()


def _source(file: Dockerfile) -> dict[str, Any]:
    return {"filename": file.name, "language": "Dockerfile", "data": _raw(file)}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    every = [head, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in every]
    return "".join(f"{line.rstrip()}\n" for line in lines)
