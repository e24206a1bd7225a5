"""What is wrong in a Dockerfile: the message, the lines themselves, and what to do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from cais.errors import Invalid

_AROUND = 2
"""Lines shown before and after."""
_MOST = 30
"""Lines shown of one instruction."""
_LONGEST = 200
"""Characters shown of one line."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Where something stands: the first and the last line, counted from 1."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"line {self.start}" if self.start == self.end else f"lines {self.start}-{self.end}"


NOWHERE = Lines(0, 0)


class DockerfileError(Invalid):
    """A Dockerfile that cannot be read. ``problem`` is the bare message, ``hint`` what to do (may be empty);
    ``name`` is the file's, ``lines`` where it is, ``excerpt`` the lines around it as (number, text, is meant)."""

    kind = "dockerfile parse error"

    def __init__(
        self,
        problem: str,
        lines: Lines = NOWHERE,
        hint: str = "",
        name: str = "",
        excerpt: tuple[tuple[int, str, bool], ...] = (),
    ) -> None:
        super().__init__(problem, lines, hint, name, excerpt)
        self.problem = problem
        self.lines = lines
        self.hint = hint
        self.name = name
        self.excerpt = excerpt

    def located(self, lines: Lines, name: str, text: Sequence[str]) -> "DockerfileError":
        """The same error with the place and the text it is about; what it knows already stays."""
        if self.name:
            return self
        place = self.lines if self.lines.start else lines
        if isinstance(text, Spliced) and place.start:
            return self._at_origin(place, text)
        excerpt = self.excerpt or make_excerpt(text, place)
        return type(self)(self.problem, place, self.hint, name, excerpt)

    def _at_origin(self, place: Lines, text: "Spliced") -> "DockerfileError":
        name, own = text.origin(place)
        return type(self)(self.problem, own, self.hint, name, make_excerpt(text, place))

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        if not self.lines.start:
            return f"{self.problem}{hint}"
        lines = [f"{self.kind} on {self.lines}: {self.problem}{hint}"]
        if self.excerpt:
            lines.append(f"{self.name or 'Dockerfile'}:{self.lines.start}")
        lines += [f"{number:>4} {'>>>' if meant else '   '} {line}" for number, line, meant in self.excerpt]
        return "\n".join(lines)


class StepError(DockerfileError):
    """A step that cannot be made, though it can be read: a file that is not there, a right that was not given."""

    kind = "error"


class Spliced(tuple[str, ...]):
    """Lines of several files, one after the other; ``origins``: file and number of each."""

    origins: tuple[tuple[str, int], ...]

    def __new__(cls, lines: Iterable[str], origins: tuple[tuple[str, int], ...]) -> "Spliced":
        """As many origins as lines."""
        made = super().__new__(cls, lines)
        made.origins = origins
        return made

    def origin(self, place: Lines) -> tuple[str, Lines]:
        """The file in which lines of ours stand, and where in it."""
        name, start = self.origins[place.start - 1]
        return name, Lines(start, start + place.end - place.start)


def make_excerpt(text: Sequence[str], place: Lines) -> tuple[tuple[int, str, bool], ...]:
    """The lines of ``place`` and some around it, all of one file."""
    end = min(place.end, place.start + _MOST)
    first, last = max(place.start - _AROUND, 1), min(end + _AROUND, len(text))
    if isinstance(text, Spliced) and place.start:
        name, own = text.origin(place)
        return tuple(
            (number, _shorten(line), own.start <= number <= own.end)
            for (file, number), line in zip(
                text.origins[first - 1 : last], text[first - 1 : last], strict=True
            )
            if file == name
        )
    return tuple(
        (number, _shorten(text[number - 1]), place.start <= number <= place.end)
        for number in range(first, last + 1)
    )


def _shorten(line: str) -> str:
    shown = "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in line)
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"


def suggest(word: str, known: Iterable[str]) -> str:
    """``did you mean X?`` for a near miss among ``known``, else nothing."""
    by_lower = {name.lower(): name for name in known}
    found = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f"did you mean {by_lower[found[0]]}?" if found else ""
