"""Rewriting a seccomp program into an equal one that the kernel loads faster: ranges of calls, searched in halves.

At load the kernel walks the program once for every call number there is, to find those it never has to ask about
(kernel/seccomp.c, seccomp_cache_prepare_bitmap), so a container's start pays for the path length some 900 times:
libseccomp's trees of single numbers cost 0.9 ms, ranges 0.3 ms."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

# linux/bpf_common.h, linux/seccomp.h
LOAD, JUMP, EQUAL, GREATER, AT_LEAST, ANY_BIT, MASK, RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06
OFFSET_CALL, OFFSET_ARCH, OFFSET_POINTER = 0, 4, 8
_TOP = 0xFFFFFFFF
_REACH = 255
_STEPS = 1 << 20
"""Instructions looked at before a program is left as it is."""


class Instruction(NamedTuple):
    """struct sock_filter."""

    code: int
    yes: int
    no: int
    value: int


class Verdict(NamedTuple):
    """What follows once the architecture and the call are known: return ``value``, or go on at the instruction
    ``value``, which loads an argument."""

    returns: bool
    value: int


Range = tuple[int, Verdict]
"""First call number, and what holds from there up to the next range."""


class _Unclear(Exception):
    """The program does something that is not understood here."""


def shrink(program: bytes) -> bytes:
    """A program that gives the same verdict on everything, or ``program`` itself where that is not shorter or
    not sure. Pure."""
    code = decode(program)
    try:
        made = _Maker(code).make()
    except _Unclear:
        return program
    return encode(made) if len(made) < len(code) else program


def decode(program: bytes) -> list[Instruction]:
    """The instructions of an array of struct sock_filter."""
    return [Instruction(*each) for each in struct.iter_unpack("=HBBI", program)]


def encode(code: list[Instruction]) -> bytes:
    """The array."""
    return b"".join(struct.pack("=HBBI", *each) for each in code)


class _Maker:
    def __init__(self, code: list[Instruction]) -> None:
        self._code = code
        self._steps = 0

    def make(self) -> list[Instruction]:
        architectures, other = self._find_architectures()
        sections = [(each, _merge(sorted(self._walk(each)))) for each in architectures]
        blocks = self._place_blocks(sections)
        made: list[Instruction | Verdict] = [Instruction(LOAD, 0, 0, OFFSET_ARCH)]
        for architecture, ranges in sections:
            section = [Instruction(LOAD, 0, 0, OFFSET_CALL), *_make_tree(ranges)]
            # The jump over the section may be further than a condition reaches.
            made += [Instruction(EQUAL, 1, 0, architecture), Instruction(JUMP, 0, 0, len(section)), *section]
        made.append(other)
        return _settle(made, blocks, self._code)

    def _find_architectures(self) -> tuple[list[int], Verdict]:
        """Those the program tells apart, in its order, and its verdict on all others."""
        found: list[int] = []
        at = 0
        loaded = -1
        while True:
            each = self._take(at)
            if each.code == RETURN:
                return list(dict.fromkeys(found)), Verdict(True, each.value)
            if each.code == LOAD and each.value == OFFSET_ARCH:
                loaded, at = each.value, at + 1
            elif each.code == EQUAL and loaded == OFFSET_ARCH:
                found.append(each.value)
                at += 1 + each.no
            elif each.code == JUMP:
                at += 1 + each.value
            else:
                raise _Unclear

    def _take(self, at: int) -> Instruction:
        self._steps += 1
        if self._steps > _STEPS or at >= len(self._code):
            raise _Unclear
        return self._code[at]

    def _walk(self, architecture: int) -> Iterator[Range]:
        """Every range of call numbers with its verdict, in any order, without a gap."""
        # ``less``: what a mask has taken away from the loaded number, the same for all of the range
        pending = [(0, -1, 0, 0, _TOP)]
        while pending:
            at, loaded, less, low, high = pending.pop()
            while True:
                each = self._take(at)
                if each.code == RETURN:
                    yield low, Verdict(True, each.value)
                    break
                if each.code == LOAD and each.value >= OFFSET_POINTER:
                    yield low, Verdict(False, at)
                    break
                if each.code == LOAD:
                    loaded, less, at = each.value, 0, at + 1
                elif each.code == JUMP:
                    at += 1 + each.value
                elif loaded == OFFSET_ARCH:
                    at += 1 + (each.yes if _holds(each, architecture) else each.no)
                elif loaded == OFFSET_CALL and each.code == MASK:
                    less, at = less + _taken(each, low - less, high - less), at + 1
                elif loaded == OFFSET_CALL:
                    (way, low_end, high_end), *rest = _split(each, low - less, high - less)
                    pending += [
                        (at + 1 + to, loaded, less, start + less, end + less) for to, start, end in rest
                    ]
                    low, high, at = low_end + less, high_end + less, at + 1 + way
                else:
                    raise _Unclear

    def _place_blocks(self, sections: list[tuple[int, list[Range]]]) -> dict[int, list[int]]:
        """For each place where arguments are looked at: the instructions that can be reached from it, in order."""
        starts = {verdict.value for _, ranges in sections for _, verdict in ranges if not verdict.returns}
        return {start: self._reach(start) for start in sorted(starts)}

    def _reach(self, start: int) -> list[int]:
        seen: set[int] = set()
        pending = [start]
        while pending:
            at = pending.pop()
            if at in seen:
                continue
            seen.add(at)
            each = self._take(at)
            if each.code == JUMP:
                pending.append(at + 1 + each.value)
            elif each.code & 7 == 5:
                pending += [at + 1 + each.yes, at + 1 + each.no]
            elif each.code != RETURN:
                pending.append(at + 1)
        return sorted(seen)


def _holds(each: Instruction, value: int) -> bool:
    if each.code == EQUAL:
        return value == each.value
    if each.code == GREATER:
        return value > each.value
    if each.code == AT_LEAST:
        return value >= each.value
    if each.code == ANY_BIT:
        return bool(value & each.value)
    raise _Unclear


def _split(each: Instruction, low: int, high: int) -> list[tuple[int, int, int]]:
    """The parts of ``low`` to ``high`` with the way each takes."""
    if each.code == EQUAL:
        bounds: tuple[int, ...] = (each.value, each.value + 1)
    elif each.code == GREATER:
        bounds = (each.value + 1,)
    elif each.code == AT_LEAST:
        bounds = (each.value,)
    else:
        bounds = _bit_bounds(each.value, low, high)
    starts = [low, *(bound for bound in bounds if low < bound <= high)]
    ends = [*(start - 1 for start in starts[1:]), high]
    return [
        (each.yes if _holds(each, start) else each.no, start, end)
        for start, end in zip(starts, ends, strict=True)
    ]


def _bit_bounds(value: int, low: int, high: int) -> tuple[int, ...]:
    """Where a single bit changes from ``low`` to ``high``; not for low bits, which change all the time."""
    if value.bit_count() != 1 or (high - low) // value > 8:
        raise _Unclear
    return tuple(range((low // value + 1) * value, high + 1, value))


def _taken(each: Instruction, low: int, high: int) -> int:
    """What a mask takes away from every number from ``low`` to ``high``, if it is the same from each."""
    cleared = _TOP & ~each.value
    if cleared and (low ^ high) >= cleared & -cleared:
        raise _Unclear
    return low & cleared


def _merge(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for each in ranges:
        if not merged or merged[-1][1] != each[1]:
            merged.append(each)
    return merged


def _make_tree(ranges: list[Range]) -> list[Instruction | Verdict]:
    if len(ranges) == 1:
        return [ranges[0][1]]
    middle = len(ranges) // 2
    lower, upper = _make_tree(ranges[:middle]), _make_tree(ranges[middle:])
    if len(lower) <= _REACH:
        return [Instruction(AT_LEAST, len(lower), 0, ranges[middle][0]), *lower, *upper]
    far = Instruction(JUMP, 0, 0, len(lower))
    return [Instruction(AT_LEAST, 0, 1, ranges[middle][0]), far, *lower, *upper]


def _settle(
    made: list[Instruction | Verdict], blocks: dict[int, list[int]], code: list[Instruction]
) -> list[Instruction]:
    """Verdicts become instructions: a return, or a jump to the block, which goes behind everything."""
    places: dict[int, int] = {}
    end = len(made)
    for start, block in blocks.items():
        places[start] = end
        end += len(block)
    settled = [
        each
        if isinstance(each, Instruction)
        else Instruction(RETURN, 0, 0, each.value)
        if each.returns
        else Instruction(JUMP, 0, 0, places[each.value] - index - 1)
        for index, each in enumerate(made)
    ]
    for block in blocks.values():
        index_of = {at: index for index, at in enumerate(block)}
        settled += [_move(code[at], at, index_of) for at in block]
    return settled


def _move(each: Instruction, at: int, index_of: dict[int, int]) -> Instruction:
    """The same instruction where fewer others are between it and its targets."""
    here = index_of[at] + 1
    if each.code == JUMP:
        return each._replace(value=index_of[at + 1 + each.value] - here)
    if each.code & 7 == 5:
        return each._replace(yes=index_of[at + 1 + each.yes] - here, no=index_of[at + 1 + each.no] - here)
    return each
