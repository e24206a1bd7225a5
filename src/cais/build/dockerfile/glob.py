"""Shell patterns in substitutions: ``${name#pattern}``, ``${name%pattern}``, ``${name/pattern/text}``.

``*`` is any text, ``?`` one character, a backslash makes the next character plain; as in Dockerfiles everywhere,
brackets are plain characters. Matched in one pass over the states, so that no pattern takes exponential time.
"""

from collections.abc import Sequence

from cais.build.dockerfile.fault import DockerfileError

BUDGET = 2_000_000
"""Steps for one substitution: a hostile value and pattern must not hold the engine."""
_STAR, _ANY = 0, 1
Token = int | str


def remove_prefix(value: str, pattern: str, *, longest: bool) -> str:
    """``value`` without the shortest, or ``longest``, beginning that matches."""
    return value[_match(value, parse_pattern(pattern), longest=longest, budget=[BUDGET]) or 0 :]


def remove_suffix(value: str, pattern: str, *, longest: bool) -> str:
    """``value`` without the shortest, or ``longest``, end that matches."""
    tokens = parse_pattern(pattern)[::-1]
    return value[: len(value) - (_match(value[::-1], tokens, longest=longest, budget=[BUDGET]) or 0)]


def substitute(value: str, pattern: str, replacement: str, *, everywhere: bool) -> str:
    """``value`` with the longest match at the earliest place, or ``everywhere``, replaced. An empty pattern matches
    nothing."""
    tokens, budget = parse_pattern(pattern), [BUDGET]
    if not tokens:
        return value
    parts: list[str] = []
    start = at = 0
    while at <= len(value):
        length = _match(value[at:], tokens, longest=True, budget=budget)
        if not length:
            at += 1
            continue
        parts += [value[start:at], replacement]
        start = at = at + length
        if not everywhere:
            break
    return "".join([*parts, value[start:]])


def parse_pattern(pattern: str) -> list[Token]:
    """The pattern's elements: characters, and what stands for any text and any character."""
    tokens: list[Token] = []
    escaped = False
    for char in pattern:
        if escaped or char not in "*?\\":
            tokens.append(char)
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == "?":
            tokens.append(_ANY)
        elif not tokens or tokens[-1] != _STAR:
            tokens.append(_STAR)
    return tokens


def _match(value: str, tokens: Sequence[Token], *, longest: bool, budget: list[int]) -> int | None:
    """The length of the shortest or longest beginning of ``value`` that matches; None if there is none."""
    states = _follow({0}, tokens)
    found = 0 if len(tokens) in states else None
    for length, char in enumerate(value, 1):
        if not states or (found is not None and not longest):
            break
        budget[0] -= len(states) + 1
        if budget[0] < 0:
            raise DockerfileError("a pattern in a substitution takes too long on this value")
        moved = set()
        for state in states:
            if state < len(tokens):
                token = tokens[state]
                if token == _STAR:
                    moved.add(state)
                elif token in (_ANY, char):
                    moved.add(state + 1)
        states = _follow(moved, tokens)
        if len(tokens) in states:
            found = length
    return found


def _follow(states: set[int], tokens: Sequence[Token]) -> set[int]:
    """A star may also stand for nothing."""
    found = set(states)
    for state in states:
        at = state
        while at < len(tokens) and tokens[at] == _STAR:
            at += 1
            found.add(at)
    return found
