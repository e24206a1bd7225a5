"""The text of a Dockerfile as logical lines: directives, comments, continuations, here-documents.

Source: Dockerfile reference, "Parser directives", "Escape", "Here-Documents".
"""

import re

import msgspec

from cais.build.dockerfile.fault import DockerfileError, Lines
from cais.build.dockerfile.words import expand, parse_exec, split_words

LIMIT = 1 << 20
"""Bytes of one Dockerfile."""
DIRECTIVES = ("syntax", "escape", "check")
HEREDOC_KEYWORDS = frozenset(("add", "copy", "run"))
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_HEREDOC = re.compile(r"(\d*)<<(-?)\s*([^<]*)")
_COMMENT = re.compile(r"\s*#")


class Heredoc(msgspec.Struct, frozen=True):
    """One here-document. ``content`` as it stands, each line with its end; with ``chomp`` (``<<-``) tabs at the
    beginning of lines do not count. Not ``expand``: its name was quoted. ``fd`` the descriptor's number, -1: none."""

    name: str
    content: str
    expand: bool = True
    chomp: bool = False
    fd: int = -1

    @property
    def text(self) -> str:
        """The content as the instruction gets it."""
        if not self.chomp:
            return self.content
        return "".join(line.lstrip("\t") for line in re.findall(r"[^\n]*\n", self.content))


class Line(msgspec.Struct, frozen=True):
    """One instruction's text. ``keyword`` as written, ``flags`` the words that start with ``--``, ``rest`` all behind
    them; ``text`` the whole joined line; ``comments`` the comment lines right above it."""

    keyword: str
    flags: tuple[str, ...]
    rest: str
    text: str
    lines: Lines
    heredocs: tuple[Heredoc, ...] = ()
    comments: tuple[str, ...] = ()
    empty_continuation: bool = False

    @property
    def name(self) -> str:
        """The keyword in capitals."""
        return self.keyword.upper()


class Text(msgspec.Struct, frozen=True):
    """A whole file: ``raw`` are its physical lines."""

    name: str
    raw: tuple[str, ...]
    lines: tuple[Line, ...]
    directives: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def escape(self) -> str:
        """The escape character."""
        return self.directives.get("escape", "\\")


def read_text(data: bytes, name: str = "Dockerfile", escape: str = "\\") -> Text:
    """The logical lines of a file; ``escape`` holds unless the file says another. Raises DockerfileError with the
    place."""
    if len(data) > LIMIT:
        raise DockerfileError(f"{name} has more than {LIMIT} bytes")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    # Not splitlines: a form feed or a line separator inside a line does not end it.
    physical = text.split("\n")
    returns = frozenset(index for index, line in enumerate(physical) if line.endswith("\r"))
    raw = tuple(line.removesuffix("\r") for line in physical)
    if raw and not raw[-1]:
        raw = raw[:-1]
    directives, count = _read_directives(raw, name)
    lines = _Reader(raw, name, directives.get("escape", escape), count, returns).read()
    return Text(name, raw, tuple(lines), directives)


def read_single(text: str, escape: str) -> list[Line]:
    """The lines of an instruction that stands in an image's ONBUILD list."""
    return _Reader(tuple(text.split("\n")), "ONBUILD", escape).read()


def _read_directives(raw: tuple[str, ...], name: str) -> tuple[dict[str, str], int]:
    """The directives at the top, and how many lines they take; the first line that is not in their form ends them."""
    found: dict[str, str] = {}
    count = 0
    for number, line in enumerate(raw, 1):
        match = _DIRECTIVE.fullmatch(line.strip())
        if not match:
            break
        count = number
        key, value = match[1].lower(), match[2]
        if key not in DIRECTIVES:
            continue
        place = Lines(number, number)
        if key in found:
            error = DockerfileError(f"only one {key} parser directive can be used", place)
            raise error.located(place, name, raw)
        if key == "escape" and value not in ("\\", "`"):
            error = DockerfileError(f"invalid escape token '{value}' does not match ` or \\", place)
            raise error.located(place, name, raw)
        found[key] = value
    return found, count


class _Reader:
    """Joins physical lines."""

    def __init__(
        self,
        raw: tuple[str, ...],
        name: str,
        escape: str,
        start: int = 0,
        returns: frozenset[int] = frozenset(),
    ) -> None:
        """``start``: the index of the first line that counts; ``returns``: of those that ended with a carriage return,
        which here-documents keep."""
        self._returns = returns
        self._raw = raw
        self._name = name
        self._escape = escape
        # The escape character ends a line unless it is itself escaped.
        self._continued = re.compile(
            rf"(?:(?P<kept>[\s\S]*[^{re.escape(escape)}])|){re.escape(escape)}[ \t]*"
        )
        self._at = start

    def read(self) -> list[Line]:
        found: list[Line] = []
        comments: list[str] = []
        while self._at < len(self._raw):
            line = self._raw[self._at].lstrip()
            if not line or line.startswith("#"):
                comments = [*comments, line[1:].strip()] if line else []
                self._at += 1
                continue
            start = self._at + 1
            try:
                found.append(self._logical(start, tuple(comments)))
            except DockerfileError as error:
                raise error.located(Lines(start, max(start, self._at)), self._name, self._raw) from None
            comments = []
        return found

    def _logical(self, start: int, comments: tuple[str, ...]) -> Line:
        parts: list[str] = []
        empty = False
        more = True
        while more and self._at < len(self._raw):
            line = self._raw[self._at]
            self._at += 1
            if parts:
                if _COMMENT.match(line):
                    continue
                if not line.strip():
                    # An empty line in a continuation is passed over, for the sake of old Dockerfiles.
                    empty = True
                    continue
            else:
                line = line.lstrip()
            match = self._continued.fullmatch(line)
            more = match is not None
            parts.append(match["kept"] or "" if match else line)
        text = "".join(parts)
        keyword, flags, rest = self._split(text)
        heredocs = self._heredocs(keyword, rest)
        return Line(keyword, flags, rest, text, Lines(start, self._at), heredocs, comments, empty)

    def _split(self, text: str) -> tuple[str, tuple[str, ...], str]:
        """Keyword, flags, and what is behind them."""
        keyword, *rest = text.strip().split(None, 1) or [""]
        flags, after = split_flags(rest[0].strip() if rest else "", self._escape)
        return keyword, tuple(flags), after

    def _heredocs(self, keyword: str, rest: str) -> tuple[Heredoc, ...]:
        if keyword.lower() == "onbuild":
            keyword, _, rest = self._split(rest)
        if keyword.lower() not in HEREDOC_KEYWORDS or "<<" not in rest or parse_exec(rest) is not None:
            return ()
        found = []
        for word in split_words(rest, self._escape):
            head = parse_heredoc(word, self._escape)
            if head:
                found.append(self._body(head))
        return tuple(found)

    def _body(self, head: Heredoc) -> Heredoc:
        content: list[str] = []
        while self._at < len(self._raw):
            line = self._raw[self._at]
            self._at += 1
            if (line.lstrip("\t") if head.chomp else line) == head.name:
                return Heredoc(head.name, "".join(content), head.expand, head.chomp, head.fd)
            content.append(line + ("\r\n" if self._at - 1 in self._returns else "\n"))
        raise DockerfileError("unterminated heredoc", hint=f"a line with nothing but {head.name} ends it")


def parse_heredoc(word: str, escape: str = "\\") -> Heredoc | None:
    """The here-document that ``word`` announces, still without its content; None if it announces none."""
    match = _HEREDOC.fullmatch(word)
    if not match or not match[3]:
        return None
    try:
        words = expand(match[3], _Anything(), escape).words
    except DockerfileError:
        return None
    if len(words) != 1:
        return None
    quoted = any(char in match[3] for char in ("'", '"', escape))
    return Heredoc(words[0], "", not quoted, bool(match[2]), int(match[1]) if match[1] else -1)


class _Anything(dict[str, str]):
    """Variables in a here-document's name stay as they are."""

    def __contains__(self, key: object) -> bool:
        return True

    def get(self, key: str, default: object = None) -> str:
        return f"${key}"


def split_flags(rest: str, escape: str) -> tuple[list[str], str]:
    """The words at the beginning that start with ``--``, and what is behind them; a lone ``--`` ends them."""
    flags: list[str] = []
    while rest.startswith("--"):
        word, rest = _first_word(rest, escape)
        if word == "--":
            break
        flags.append(word)
    return flags, rest


def _first_word(text: str, escape: str) -> tuple[str, str]:
    """The first word without its quotes and escapes, and the rest."""
    quote, i = "", 0
    word: list[str] = []
    while i < len(text):
        char = text[i]
        if char == escape and i + 1 < len(text):
            word.append(text[i + 1])
            i += 2
            continue
        if char.isspace() and not quote:
            break
        if char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        else:
            word.append(char)
        i += 1
    return "".join(word), text[i:].lstrip()
