"""Reading the answer to a build: events for the view, outputs for their places, and how it ended."""

from __future__ import annotations

import os
import sys

from cais.cli.buildrequest import STDOUT
from cais.cli.buildshow import clean
from cais.cli.failure import Failure
from cais.cli.late import load
from cais.cli.wirejson import format_pretty, parse_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from cais.cli.buildrequest import Output
    from cais.cli.buildshow import View

LINE_LIMIT = 64 << 20


def read_lines(pieces: Iterable[bytes]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Lines of the answer; a line of type ``data`` comes once for each piece of what stands behind it, and at last with
    nothing. Raises ValueError."""
    buffer = b""
    left = 0
    data: dict[str, Any] = {}
    for piece in pieces:
        buffer = buffer + piece if buffer else piece
        while buffer:
            if left:
                part, buffer = buffer[:left], buffer[left:]
                left -= len(part)
                yield data, part
                continue
            line, end, rest = buffer.partition(b"\n")
            if not end:
                if len(buffer) > LINE_LIMIT:
                    raise ValueError("a line is too long")
                break
            buffer = rest
            value = parse_json(line)
            if not isinstance(value, dict) or "type" not in value:
                raise ValueError("not an event")
            if value["type"] == "data":
                data, left = value, int(value["size"])
            else:
                yield value, b""
    if buffer or left:
        raise ValueError("it ends in the middle of a line")


def follow(pieces: Iterable[bytes], view: View, outputs: list[Output]) -> dict[str, Any]:
    """Show everything and write outputs; the result's line. Raises Failure with what went wrong and where."""
    last: dict[str, Any] = {}
    places = Places(outputs)
    log = FailureLog()
    try:
        for event, data in read_lines(pieces):
            if event["type"] == "data":
                places.write(event["output"], data)
            elif event["type"] == "data_end":
                places.finish(event["output"])
            elif event["type"] in ("result", "error"):
                last = event
            else:
                log.take(event)
                view.show(event)
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"the engine's answer makes no sense: {error}") from None
    finally:
        view.end()
        places.close()
    if not last:
        raise Failure("the engine ended before the build did")
    if last["type"] == "error":
        raise Failure(log.explain(last), int(last.get("exit_code") or 1))
    return last


class FailureLog:
    """The names of vertices and the last of what each wrote, for the message of one that fails."""

    __slots__ = ("_names", "_tails")

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._tails: dict[str, bytes] = {}

    def take(self, event: dict[str, Any]) -> None:
        """Note one event."""
        id = event.get("id", "")
        if event["type"] == "started":
            self._names[id] = event["name"]
        elif event["type"] == "output":
            data: bytes = load("binascii:a2b_base64")(event["data"])
            self._tails[id] = (self._tails.get(id, b"") + data)[-8192:]
        elif event["type"] == "done" and not event["error"]:
            self._tails.pop(id, None)

    def explain(self, error: dict[str, Any]) -> str:
        """What failed, the last lines it wrote, the Dockerfile's lines, and the reason."""
        parts: list[str] = []
        id = error.get("id", "")
        if id in self._names:
            tail = self._tails.get(id, b"").decode("utf-8", "replace").rstrip("\n").split("\n")[-10:]
            rule = "------"
            parts += [rule, f" > {clean(self._names[id])}:", *(line for line in tail if line), rule]
        if rows := error.get("excerpt"):
            first, last = error["lines"]
            parts.append(
                f"{clean(error.get('file') or 'Dockerfile')}:{first}" + (f"-{last}" if last != first else "")
            )
            rule = "-" * 20
            parts += [
                rule,
                *(f"{number:>4} | {'>>>' if meant else '   '} {text}" for number, text, meant in rows),
                rule,
            ]
        parts.append(f"ERROR: {error.get('message', '')}")
        return "\n".join(parts)


class Places:
    """Where outputs go on this side: a file, standard output, or a folder that is filled from a tar."""

    __slots__ = ("_open", "_outputs")

    def __init__(self, outputs: list[Output]) -> None:
        self._outputs = outputs
        self._open: dict[int, Any] = {}

    def write(self, index: int, data: bytes) -> None:
        """More of output ``index``. Raises Failure."""
        if index not in self._open:
            self._open[index] = self._start(index)
        self._open[index].write(data)

    def _start(self, index: int) -> Any:
        output = self._outputs[index] if 0 <= index < len(self._outputs) else None
        if output is None or not output.dest:
            raise Failure("the engine sends an output that was not asked for")
        if output.type == "local":
            return load("cais.cli.buildfolder:FolderWriter")(output.dest)
        return load("cais.cli.buildfolder:open_file")(None if output.dest == STDOUT else output.dest)

    def finish(self, index: int) -> None:
        """Output ``index`` is whole."""
        if index not in self._open:
            self._open[index] = self._start(index)
        self._open.pop(index).finish()

    def close(self) -> None:
        """Give up what is not whole. Idempotent."""
        for place in self._open.values():
            place.abandon()
        self._open.clear()


def write_metadata(path: str, result: dict[str, Any]) -> None:
    """``--metadata-file``: the exporters' answers, nested values as they are."""
    found: dict[str, Any] = {}
    for name, text in result.get("response", {}).items():
        found[name] = _nested(name, text)
    half = f"{path}.{os.urandom(4).hex()}"
    with open(half, "w", encoding="utf-8") as file:
        file.write(format_pretty(found, "  ") + "\n")
    os.replace(half, path)


def _nested(name: str, text: str) -> Any:
    """Values that are base64 of JSON are shown as that: a descriptor, provenance."""
    if name.endswith("descriptor") or name.startswith("buildx.build."):
        try:
            return parse_json(load("binascii:a2b_base64")(text))
        except ValueError:
            return text
    return text


def show_look(result: dict[str, Any], *, as_json: bool) -> int:
    """The answer to ``--call``: findings of the checks, or the text of an outline; the exit code."""
    if as_json:
        value = result["findings"] if "findings" in result else parse_json(result["json"])
        sys.stdout.write(format_pretty(value, "  ") + "\n")
        return 1 if result.get("findings") else 0
    if "findings" in result:
        return show_findings(result["findings"])
    sys.stdout.write(result.get("text", ""))
    return 0


def show_findings(findings: list[dict[str, Any]]) -> int:
    """Each with its lines; 1 if there are any."""
    for finding in findings:
        first, last = finding["Lines"]
        where = f"{finding['File']}:{first}" + (f"-{last}" if last != first else "")
        sys.stdout.write(f"WARNING: {finding['Rule']} - {where}: {finding['Message']}\n")
        for number, text, meant in finding["Excerpt"]:
            sys.stdout.write(f"{number:>4} {'>>>' if meant else '   '} {text}\n")
    count = len(findings)
    shown = "no warnings found" if not count else f"{count} warning{'s' if count > 1 else ''} found"
    sys.stdout.write(f"Check complete, {shown}.\n")
    return 1 if count else 0
