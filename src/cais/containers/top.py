"""The processes of a container as ``ps`` would show them, read from /proc without starting a process."""

import os
import pwd
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from cais.errors import Invalid

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Proc(msgspec.Struct, frozen=True):
    """What /proc says of one process (proc(5)). ``start`` seconds since the epoch, ``cpu`` seconds, ``vsize`` and
    ``rss`` bytes."""

    pid: int
    ppid: int
    pgrp: int
    session: int
    tty: int
    state: str
    uid: int
    euid: int
    gid: int
    nice: int
    priority: int
    threads: int
    cpu: float
    start: float
    vsize: int
    rss: int
    tpgid: int
    command: str
    args: str
    processor: int


class Moment(msgspec.Struct, frozen=True):
    """What is the same for all processes: seconds since the epoch, bytes of memory."""

    now: float
    memory: int


def read_processes(pids: Iterable[int]) -> list[Proc]:
    """Those that are still there, by pid."""
    boot = _boot_time()
    found = [_read(pid, boot) for pid in sorted(set(pids))]
    return [proc for proc in found if proc]


def read_moment() -> Moment:
    """Now."""
    return Moment(time.time(), os.sysconf("SC_PHYS_PAGES") * _PAGE)


def _boot_time() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _read(pid: int, boot: float) -> Proc | None:
    folder = Path("/proc") / str(pid)
    try:
        # The name stands in brackets and may hold brackets and blanks itself.
        head, _, tail = (folder / "stat").read_text(errors="replace").rpartition(")")
        status = (folder / "status").read_text(errors="replace")
        args = (folder / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = tail.split()
    numbers = [int(field) for field in fields[1:]]
    ids = {line[:4]: line.split()[1:] for line in status.splitlines() if line.startswith(("Uid:", "Gid:"))}
    command = head.partition("(")[2]
    shown = args.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    return Proc(
        pid=pid,
        ppid=numbers[0],
        pgrp=numbers[1],
        session=numbers[2],
        tty=numbers[3],
        tpgid=numbers[4],
        state=fields[0],
        uid=int(ids["Uid:"][0]),
        euid=int(ids["Uid:"][1]),
        gid=int(ids["Gid:"][1]),
        priority=numbers[14],
        nice=numbers[15],
        threads=numbers[16],
        cpu=(numbers[10] + numbers[11]) / _TICKS,
        start=boot + numbers[18] / _TICKS,
        vsize=numbers[19],
        rss=numbers[20] * _PAGE,
        command=command,
        args=shown or f"[{command}]",
        processor=numbers[35],
    )


def _user(uid: int) -> str:
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
    return name if len(name) <= 8 else name[:7] + "+"


def _tty(number: int) -> str:
    major, minor = os.major(number), os.minor(number)
    if not number:
        return "?"
    if 136 <= major <= 143:
        return f"pts/{minor + (major - 136) * 256}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    return "?"


def _clock(proc: Proc) -> str:
    minutes, seconds = divmod(int(proc.cpu), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}"


def _bsd_clock(proc: Proc) -> str:
    return f"{int(proc.cpu) // 60}:{int(proc.cpu) % 60:02d}"


def _started(proc: Proc, moment: Moment) -> str:
    form = "%H:%M" if moment.now - proc.start < 86400 else "%b%d"
    return time.strftime(form, time.localtime(proc.start))


def _elapsed(proc: Proc, moment: Moment) -> str:
    minutes, seconds = divmod(max(int(moment.now - proc.start), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}"
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


def _cpu(proc: Proc, moment: Moment) -> float:
    return 100 * proc.cpu / max(moment.now - proc.start, 1e-9)


def _stat(proc: Proc) -> str:
    marks = "<" if proc.nice < 0 else "N" if proc.nice > 0 else ""
    marks += "s" if proc.session == proc.pid else ""
    marks += "l" if proc.threads > 1 else ""
    marks += "+" if proc.tpgid == proc.pgrp else ""
    return proc.state + marks


Column = tuple[str, Callable[[Proc, Moment], str]]

COLUMNS: dict[str, Column] = {
    "pid": ("PID", lambda p, m: str(p.pid)),
    "ppid": ("PPID", lambda p, m: str(p.ppid)),
    "pgid": ("PGID", lambda p, m: str(p.pgrp)),
    "sid": ("SID", lambda p, m: str(p.session)),
    "uid": ("UID", lambda p, m: str(p.euid)),
    "user": ("USER", lambda p, m: _user(p.euid)),
    "ruser": ("RUSER", lambda p, m: _user(p.uid)),
    "gid": ("GID", lambda p, m: str(p.gid)),
    "c": ("C", lambda p, m: str(min(int(_cpu(p, m)), 99))),
    "pcpu": ("%CPU", lambda p, m: f"{_cpu(p, m):.1f}"),
    "pmem": ("%MEM", lambda p, m: f"{100 * p.rss / m.memory:.1f}"),
    "vsz": ("VSZ", lambda p, m: str(p.vsize // 1024)),
    "rss": ("RSS", lambda p, m: str(p.rss // 1024)),
    "sz": ("SZ", lambda p, m: str(p.vsize // _PAGE)),
    "tty": ("TTY", lambda p, m: _tty(p.tty)),
    "tt": ("TT", lambda p, m: _tty(p.tty)),
    "stat": ("STAT", lambda p, m: _stat(p)),
    "s": ("S", lambda p, m: p.state),
    "state": ("S", lambda p, m: p.state),
    "stime": ("STIME", _started),
    "start": ("START", _started),
    "time": ("TIME", lambda p, m: _clock(p)),
    "bsdtime": ("TIME", lambda p, m: _bsd_clock(p)),
    "etime": ("ELAPSED", _elapsed),
    "etimes": ("ELAPSED", lambda p, m: str(max(int(m.now - p.start), 0))),
    "pri": ("PRI", lambda p, m: str(39 - p.priority)),
    "ni": ("NI", lambda p, m: str(p.nice)),
    "nice": ("NI", lambda p, m: str(p.nice)),
    "nlwp": ("NLWP", lambda p, m: str(p.threads)),
    "thcount": ("THCNT", lambda p, m: str(p.threads)),
    "psr": ("PSR", lambda p, m: str(p.processor)),
    "comm": ("COMMAND", lambda p, m: p.command),
    "cmd": ("CMD", lambda p, m: p.args),
    "args": ("COMMAND", lambda p, m: p.args),
    "command": ("COMMAND", lambda p, m: p.args),
    "ucmd": ("CMD", lambda p, m: p.command),
}
_SAME = {
    "%cpu": "pcpu",
    "%mem": "pmem",
    "pgrp": "pgid",
    "sess": "sid",
    "session": "sid",
    "euid": "uid",
    "euser": "user",
    "uname": "user",
    "vsize": "vsz",
    "rssize": "rss",
    "rsz": "rss",
    "tname": "tty",
    "cputime": "time",
    "start_time": "stime",
    "bsdstart": "start",
    "lstart": "start",
    "ucomm": "comm",
    "egid": "gid",
}
_FULL = ("user", "pid", "ppid", "c", "stime", "tty", "time", "cmd")
_BSD = ("pid", "tty", "stat", "bsdtime", "command")
_BSD_USER = ("user", "pid", "pcpu", "pmem", "vsz", "rss", "tty", "stat", "start", "bsdtime", "command")
_PLAIN = ("pid", "tty", "time", "ucmd")
_LONG = ("s", "uid", "pid", "ppid", "c", "pri", "ni", "sz", "tty", "time", "ucmd")


def parse_arguments(text: str) -> list[Column]:
    """The columns that ``ps`` with these arguments would show: ``-ef``, ``aux``, ``-o pid,comm`` … Which processes
    are selected does not matter: they are the container's. Raises Invalid."""
    words = (text or "-ef").split()
    formats: list[str] = []
    flags, bsd, user_form = set[str](), False, False
    while words:
        word = words.pop(0)
        body = word.lstrip("-")
        option = word.startswith("--")
        if option and body.partition("=")[0] == "format":
            formats.append(body.partition("=")[2] or (words.pop(0) if words else ""))
        elif word == "--forest":
            continue
        elif "o" in body and not option:
            before, _, rest = body.partition("o")
            flags |= set(before)
            formats.append(rest or (words.pop(0) if words else ""))
        elif option or not body.isalpha():
            raise Invalid(f"ps: error: unsupported option: {word}")
        else:
            flags |= set(body)
            bsd = bsd or not word.startswith("-")
            user_form = user_form or (not word.startswith("-") and "u" in body)
    if formats:
        return _columns(formats)
    if user_form:
        return [COLUMNS[name] for name in _BSD_USER]
    if bsd:
        return [COLUMNS[name] for name in _BSD]
    if "f" in flags:
        return [("UID", COLUMNS["user"][1]), *(COLUMNS[name] for name in _FULL[1:])]
    return [COLUMNS[name] for name in (_LONG if "l" in flags else _PLAIN)]


def _columns(formats: Sequence[str]) -> list[Column]:
    found: list[Column] = []
    for text in formats:
        names, equals, title = text.partition("=")
        parts = [name for name in names.replace(",", " ").split() if name]
        for name in parts:
            key = _SAME.get(name.lower(), name.lower())
            if key not in COLUMNS:
                raise Invalid(f'ps: error: unknown user-defined format specifier "{name}"')
            found.append(COLUMNS[key])
        if equals and found:
            if title.upper().startswith("PID") and parts[-1] != "pid":
                raise Invalid(f'specifying "{parts[-1]}={title}" is not allowed')
            found[-1] = (title, found[-1][1])
    if not any(title == "PID" for title, _ in found):
        raise Invalid("Couldn't find PID field in ps output")
    return found


def make_table(
    columns: Sequence[Column], processes: Iterable[Proc], moment: Moment
) -> tuple[list[str], list[list[str]]]:
    """Titles and one row of texts a process."""
    rows = [[show(proc, moment) for _, show in columns] for proc in processes]
    return [title for title, _ in columns], rows
