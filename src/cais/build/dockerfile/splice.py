"""INCLUDE: the lines of another file in place of the instruction. Each file is read for itself, so that nothing that is
open at its end (a continued line, a here-document) takes what follows; places in errors are those of the file they
stand in."""

import posixpath
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from cais.build.dockerfile.fault import DockerfileError, Lines, Spliced
from cais.build.dockerfile.flags import parse_flags
from cais.build.dockerfile.lines import LIMIT, Line, Text, read_text
from cais.build.dockerfile.words import expand
from cais.errors import CaisError

DEPTH = 10
MOST = 100
"""Files included in one Dockerfile."""

Read = Callable[[str], bytes]
"""The bytes of a file of the context; raises NotFound, Invalid."""


def splice(text: Text, read: Read) -> Text:
    """``text`` with every INCLUDE replaced. Raises DockerfileError with the file and the line."""
    if not any(line.name == "INCLUDE" for line in text.lines):
        return text
    splicer = _Splicer(read, posixpath.dirname(posixpath.normpath(text.name)), text.escape)
    splicer.add(text, (posixpath.normpath(text.name),))
    raw = Spliced(splicer.raw, tuple(splicer.origins))
    return replace(text, raw=raw, lines=tuple(splicer.lines))


class _Splicer(msgspec.Struct):
    """Collects lines. ``folder``: where paths begin."""

    read: Read
    folder: str
    escape: str
    raw: list[str] = msgspec.field(default_factory=list)
    origins: list[tuple[str, int]] = msgspec.field(default_factory=list)
    lines: list[Line] = msgspec.field(default_factory=list)
    _files: int = 0
    _size: int = 0

    def add(self, text: Text, chain: tuple[str, ...]) -> None:
        """A whole file; ``chain``: the files that lead to it, itself the last."""
        at = 0
        for line in text.lines:
            start, end = line.lines.start - 1, line.lines.end
            if line.name != "INCLUDE":
                moved = len(self.raw) - at
                self._take(text, at, end)
                place = Lines(line.lines.start + moved, line.lines.end + moved)
                self.lines.append(replace(line, lines=place))
            else:
                self._take(text, at, start)
                try:
                    self.add(*self._open(line, chain))
                except DockerfileError as error:
                    raise error.located(line.lines, text.name, text.raw) from None
            at = end
        self._take(text, at, len(text.raw))

    def _take(self, text: Text, start: int, end: int) -> None:
        self.raw += text.raw[start:end]
        self.origins += [(text.name, number + 1) for number in range(start, end)]

    def _open(self, line: Line, chain: tuple[str, ...]) -> tuple[Text, tuple[str, ...]]:
        """The file that an INCLUDE names, and the chain that leads to it."""
        path = self._path(line)
        if path in chain:
            raise DockerfileError(f"INCLUDE goes round: {' -> '.join((*chain, path))}")
        self._files += 1
        if len(chain) > DEPTH or self._files > MOST:
            raise DockerfileError(f"too many files are included: at most {MOST}, {DEPTH} deep")
        try:
            data = self.read(path)
        except CaisError as error:
            raise DockerfileError(
                f"INCLUDE of {path} failed: {error}",
                hint="paths begin at the Dockerfile's folder, and the file is one of the context",
            ) from error
        self._size += len(data)
        if self._size > LIMIT:
            raise DockerfileError(f"the included files have more than {LIMIT} bytes")
        text = read_text(data, path, self.escape)
        if text.directives.get("escape", self.escape) != self.escape:
            raise DockerfileError(f"{path} has another escape character than the Dockerfile")
        return text, (*chain, path)

    def _path(self, line: Line) -> str:
        parse_flags("INCLUDE", line.flags)
        words = expand(line.rest, {}, self.escape).words
        if len(words) != 1 or line.heredocs:
            raise DockerfileError("INCLUDE requires exactly one argument", hint="INCLUDE path/of/a/file")
        if "$" in line.rest:
            raise DockerfileError("INCLUDE takes no variables: files are read before any is known")
        path = posixpath.normpath(posixpath.join(self.folder, words[0]))
        if words[0].startswith("/") or path.startswith("../") or path in (".", ".."):
            raise DockerfileError(
                f"INCLUDE of {words[0]!r} is outside of the context",
                hint="write a path from the Dockerfile's folder",
            )
        return path
