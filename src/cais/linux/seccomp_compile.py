"""Seccomp profiles compiled to BPF by libseccomp, and the folder of compiled ones."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from cais.errors import Unsupported
from cais.linux import libseccomp as lib
from cais.linux.libseccomp import Comparison, LibFilter, Libseccomp
from cais.linux.seccomp_shrink import shrink
from cais.linux.seccomp_stub import NEWER, X32_BIT, Section, make_head
from cais.spec.seccomp import (
    MACHINES,
    PERMISSIVE,
    Condition,
    Filter,
    Profile,
    Rule,
    parse_machine,
    select_rules,
)

FORMAT = "2"
"""Part of the cache key: raise it when the same filter compiles to another program."""
MAX_INSTRUCTIONS = 4096
ENOSYS = 38

_ACTIONS = {
    "SCMP_ACT_KILL": lib.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": lib.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": lib.KILL_PROCESS,
    "SCMP_ACT_TRAP": lib.TRAP,
    "SCMP_ACT_ALLOW": lib.ALLOW,
    "SCMP_ACT_LOG": lib.LOG,
}


def compile_profile(profile: Profile, caps: Collection[str], cache_dir: Path) -> bytes:
    """The program for a container with the bounding capabilities ``caps`` on this machine, from
    ``cache_dir`` when it was compiled before. ``Invalid`` for a machine we do not know, ``Unsupported``
    without libseccomp, OSError for what libseccomp refuses, naming the call."""
    uname = os.uname()
    chosen = select_rules(profile, caps, parse_machine(uname.machine, uname.release))
    key = hashlib.sha256(f"{FORMAT} {uname.machine} {chosen!r}".encode()).hexdigest()
    path = cache_dir / f"{key}.bpf"
    if program := _find_cached(path):
        return program
    program = compile_filter(chosen, MACHINES[uname.machine][1])
    _write_cached(path, program)
    return program


def _find_cached(path: Path) -> bytes | None:
    """The program, None unless it is there and whole: half a filter may be one that lets more through."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, program = data[:32], data[32:]
    return program if program and hashlib.sha256(program).digest() == digest else None


def _write_cached(path: Path, program: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    with contextlib.ExitStack() as undo:
        undo.callback(os.unlink, name)
        with os.fdopen(fd, "wb") as file:
            file.write(hashlib.sha256(program).digest() + program)
        os.rename(name, path)
        undo.pop_all()


def compile_filter(chosen: Filter, native: str) -> bytes:
    """The program of a filter; ``native`` is this machine's architecture."""
    library = Libseccomp()
    default = _action(chosen.default_action, chosen.default_errno)
    unknown: dict[str, int] = {}
    with library.open_filter(default) as made:
        for name in chosen.architectures:
            if name != native:
                made.add_architecture(_token(name))
        if sum(len(rule.names) for rule in chosen.rules) > 32:
            made.optimize()  # Not for short ones: libseccomp 2.5.4 makes a wrong tree of an empty list.
        for rule in chosen.rules:
            action = _action(rule.action, rule.errno)
            if action == default:
                continue  # libseccomp refuses rules that change nothing.
            for name in rule.names:
                call = library.find_call(name)
                if call == lib.NO_CALL:
                    _note_unknown(unknown, name, rule, action)
                else:
                    _add_rule(made, (name, call), rule, action)
        program = shrink(make_head(_sections(library, chosen, native, unknown)) + made.export())
    if len(program) > 8 * MAX_INSTRUCTIONS:
        raise OSError(
            f"seccomp profile is too long: {len(program) // 8} instructions, {MAX_INSTRUCTIONS} are allowed"
        )
    return program


def _action(action: str, errno: int | None) -> int:
    number = 1 if errno is None else errno
    if action == "SCMP_ACT_ERRNO":
        return lib.errno_action(number)
    if action == "SCMP_ACT_TRACE":
        return lib.trace_action(number)
    return _ACTIONS[action]


def _token(architecture: str) -> int:
    try:
        return lib.ARCHITECTURES[architecture.removeprefix("SCMP_ARCH_")]
    except KeyError:
        raise Unsupported(f"seccomp profile: unknown architecture: {architecture}") from None


def _note_unknown(unknown: dict[str, int], name: str, rule: Rule, action: int) -> None:
    """Keep the verdict of a call libseccomp is too old for. A verdict on conditions is kept when it
    forbids, then for all arguments: the program's head compares none."""
    if name in NEWER and (not rule.conditions or rule.action not in PERMISSIVE):
        unknown.setdefault(name, action)


def _add_rule(made: LibFilter, call: tuple[str, int], rule: Rule, action: int) -> None:
    comparisons = [_comparison(each) for each in rule.conditions]
    indexes = [each.index for each in rule.conditions]
    # Several comparisons of one argument mean "any of them", as in the profiles of old: a rule each.
    rows = [[each] for each in comparisons] if len(set(indexes)) < len(indexes) else [comparisons]
    for row in rows:
        made.add_rule(action, call[1], row, f"rule for syscall {call[0]}")


def _comparison(condition: Condition) -> Comparison:
    operator = lib.COMPARE[condition.operator.removeprefix("SCMP_CMP_")]
    return condition.index, operator, condition.value, condition.value_two


def _sections(
    library: Libseccomp, chosen: Filter, native: str, unknown: dict[str, int]
) -> dict[str, Section]:
    """The program's head for each architecture: from the highest call libseccomp knows upwards."""
    names = {name for rule in chosen.rules for name in rule.names}
    stubborn = chosen.default_action in PERMISSIVE or chosen.default_errno == ENOSYS
    sections = {}
    for arch in dict.fromkeys((native, *chosen.architectures)):
        numbers = [library.find_call(name, _token(arch)) for name in names]
        known = max((number & ~X32_BIT for number in numbers if number >= 0), default=0)
        verdicts = {NEWER[name]: action for name, action in unknown.items()}
        if not known and not verdicts:
            continue
        last = max((known, *(NEWER[name] for name in unknown)))
        sections[arch] = Section(known, None if stubborn else last, verdicts)
    return sections
