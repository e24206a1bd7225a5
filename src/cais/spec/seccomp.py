"""Seccomp profiles: Docker's JSON form, and what of a profile applies to one container on one machine."""

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

import msgspec

from cais.errors import Invalid

ACTIONS = frozenset(
    f"SCMP_ACT_{word}"
    for word in ("KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP", "ERRNO", "TRACE", "ALLOW", "LOG")
)
OPERATORS = frozenset(f"SCMP_CMP_{word}" for word in ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"))
FLAGS = frozenset(f"SECCOMP_FILTER_FLAG_{word}" for word in ("TSYNC", "LOG", "SPEC_ALLOW"))
PERMISSIVE = frozenset({"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"})
EPERM = 1
MAX_ERRNO = 4095

# uname's machine: the word profiles use in "arches", and the architecture constant profiles use in "archMap".
MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i386": ("x86", "SCMP_ARCH_X86"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv6l": ("arm", "SCMP_ARCH_ARM"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "armv8l": ("arm", "SCMP_ARCH_ARM"),
    "loongarch64": ("loongarch64", "SCMP_ARCH_LOONGARCH64"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}
ARCHITECTURES = frozenset(
    f"SCMP_ARCH_{word}"
    for word in (
        *("X86", "X86_64", "X32", "ARM", "AARCH64", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64"),
        *("MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X", "RISCV64", "LOONGARCH64"),
    )
)


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a system call's argument: ``index`` 0 to 5; values are unsigned 64-bit. For
    SCMP_CMP_MASKED_EQ ``value`` is the mask and ``value_two`` what the masked argument must be."""

    index: int
    operator: str
    value: int
    value_two: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """When a rule counts. Includes want every capability, one of the architectures, at least the kernel;
    excludes are met by any one of the three. Kernels are (version, patchlevel)."""

    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    min_kernel: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to the calls ``names`` when all ``conditions`` hold. ``errno`` None means EPERM."""

    names: tuple[str, ...]
    action: str = "SCMP_ACT_ALLOW"
    errno: int | None = None
    conditions: tuple[Condition, ...] = ()
    includes: Choice = Choice()
    excludes: Choice = Choice()


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile for all machines and containers. ``arch_map``: a native architecture and those it runs
    beside it; ``architectures`` is the older, unconditional list."""

    default_action: str
    default_errno: int = EPERM
    rules: tuple[Rule, ...] = ()
    arch_map: tuple[tuple[str, tuple[str, ...]], ...] = ()
    architectures: tuple[str, ...] = ()


class _Condition(msgspec.Struct, rename="camel"):
    index: int
    op: str
    value: int = 0
    value_two: int | None = 0


class _Choice(msgspec.Struct, rename="camel"):
    caps: list[str] | None = None
    arches: list[str] | None = None
    min_kernel: str | None = None


class _Rule(msgspec.Struct, rename="camel"):
    name: str | None = None
    names: list[str] | None = None
    action: str = ""
    errno_ret: int | None = None
    args: list[_Condition | None] | None = None
    includes: _Choice | None = None
    excludes: _Choice | None = None


class _ArchMap(msgspec.Struct, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class _Profile(msgspec.Struct, rename="camel"):
    default_action: str = ""
    default_errno_ret: int | None = None
    arch_map: list[_ArchMap] | None = None
    architectures: list[str] | None = None
    syscalls: list[_Rule | None] | None = None
    flags: list[str] | None = None
    listener_path: str | None = None


def parse_profile(text: str | bytes) -> Profile:
    """A profile in Docker's JSON form (the runtime specification's ``linux.seccomp`` with ``archMap``,
    ``includes`` and ``excludes``, and the old ``name``). Raises Invalid, naming the member or the system
    call.

    Stricter than Docker in one point: a profile without ``defaultAction`` is refused, where an empty
    object would silently mean unconfined. The LOG flag is accepted and without effect (it only asks for
    audit records).
    """
    try:
        raw = msgspec.json.decode(text, type=_Profile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"decoding seccomp profile failed: {error}") from error
    if not raw.default_action:
        raise Invalid("seccomp profile has no defaultAction")
    if raw.architectures and raw.arch_map:
        raise Invalid(
            "both 'architectures' and 'archMap' are specified in the seccomp profile, "
            "use either 'architectures' or 'archMap'"
        )
    if raw.listener_path:
        raise Invalid("seccomp profile: listenerPath is not supported")
    for flag in raw.flags or ():
        _check_word("flag", flag, FLAGS)
    arch_map = tuple((each.architecture, tuple(each.sub_architectures or ())) for each in raw.arch_map or ())
    for architecture in (
        *(raw.architectures or ()),
        *(name for key, sub in arch_map for name in (key, *sub)),
    ):
        _check_word("architecture", architecture, ARCHITECTURES)
    _check_word("defaultAction", raw.default_action, ACTIONS)
    return Profile(
        default_action=raw.default_action,
        default_errno=_parse_errno(raw.default_errno_ret, "defaultErrnoRet", EPERM) or 0,
        rules=tuple(_parse_rule(rule) for rule in raw.syscalls or () if rule is not None),
        arch_map=arch_map,
        architectures=tuple(raw.architectures or ()),
    )


def _check_word(what: str, word: str, known: Collection[str]) -> None:
    if word not in known:
        raise Invalid(f"seccomp profile: unknown {what}: {word}")


def _parse_errno(value: int | None, what: str, default: int | None) -> int | None:
    if value is None:
        return default
    if not 0 <= value <= MAX_ERRNO:
        raise Invalid(f"seccomp profile: {what} is not an error number: {value}")
    return value


def _parse_rule(raw: _Rule) -> Rule:
    if raw.name and raw.names:
        raise Invalid(
            "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
        )
    names = (raw.name,) if raw.name else tuple(raw.names or ())
    if "" in names:
        raise Invalid("seccomp profile: empty string is not a valid syscall")
    what = f"syscall {names[0]}" if names else "a rule without names"
    if raw.action not in ACTIONS:
        raise Invalid(f"seccomp profile: unknown action for {what}: {raw.action or '(none)'}")
    return Rule(
        names=names,
        action=raw.action,
        errno=_parse_errno(raw.errno_ret, f"errnoRet of {what}", None),
        conditions=tuple(_parse_condition(each, what) for each in raw.args or () if each is not None),
        includes=_parse_choice(raw.includes, what),
        excludes=_parse_choice(raw.excludes, what),
    )


def _parse_condition(raw: _Condition, what: str) -> Condition:
    if raw.op not in OPERATORS:
        raise Invalid(f"seccomp profile: unknown operator for {what}: {raw.op}")
    if not 0 <= raw.index <= 5:
        raise Invalid(f"seccomp profile: {what} has no argument {raw.index}")
    two = raw.value_two or 0
    if not (0 <= raw.value < 1 << 64 and 0 <= two < 1 << 64):
        raise Invalid(f"seccomp profile: argument value out of range for {what}")
    return Condition(raw.index, raw.op, raw.value, two)


def _parse_choice(raw: _Choice | None, what: str) -> Choice:
    if raw is None:
        return Choice()
    kernel = None
    if raw.min_kernel:
        found = re.fullmatch(r"([0-9]{1,3})\.([0-9]{1,3})", raw.min_kernel)
        if not found or raw.min_kernel == "0.0":
            raise Invalid(f'invalid kernel version: {raw.min_kernel}, expected "<kernel>.<major>" ({what})')
        kernel = (int(found[1]), int(found[2]))
    return Choice(tuple(raw.caps or ()), tuple(raw.arches or ()), kernel)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the filter will run: ``machine`` as uname says it, ``kernel`` (version, patchlevel)."""

    machine: str
    kernel: tuple[int, int]


def parse_machine(machine: str, release: str) -> Machine:
    """From uname's machine and release (``6.1.0-18-amd64``). Raises Invalid for an architecture we do not
    know."""
    found = re.match(r"([0-9]+)\.([0-9]+)", release)
    if machine not in MACHINES or not found:
        raise Invalid(f"seccomp is not supported on {machine} with kernel {release}")
    return Machine(machine, (int(found[1]), int(found[2])))


@dataclass(frozen=True, slots=True)
class Filter:
    """What remains of a profile for one container on one machine: rules in order, all of them
    unconditional of capabilities, architecture and kernel. ``architectures`` beside the native one."""

    default_action: str
    default_errno: int
    architectures: tuple[str, ...]
    rules: tuple[Rule, ...]


def select_rules(profile: Profile, caps: Collection[str], machine: Machine) -> Filter:
    """The rules that count for a container with the bounding capabilities ``caps`` (``CAP_…`` names)."""
    word, native = MACHINES[machine.machine]
    held = frozenset(caps)
    chosen = []
    for rule in profile.rules:
        if _any_met(rule.excludes, held, word, machine.kernel):
            continue
        if _all_met(rule.includes, held, word, machine.kernel):
            chosen.append(replace(rule, includes=Choice(), excludes=Choice()))
    architectures = dict.fromkeys(profile.architectures)
    for key, others in profile.arch_map:
        if key == native:
            architectures.update(dict.fromkeys((key, *others)))
            break
    return Filter(profile.default_action, profile.default_errno, tuple(architectures), tuple(chosen))


def _any_met(choice: Choice, held: frozenset[str], word: str, kernel: tuple[int, int]) -> bool:
    new_enough = choice.min_kernel is not None and kernel >= choice.min_kernel
    return word in choice.arches or not held.isdisjoint(choice.caps) or new_enough


def _all_met(choice: Choice, held: frozenset[str], word: str, kernel: tuple[int, int]) -> bool:
    new_enough = choice.min_kernel is None or kernel >= choice.min_kernel
    return (not choice.arches or word in choice.arches) and held.issuperset(choice.caps) and new_enough
