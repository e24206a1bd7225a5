"""Names of users and groups, looked up in a container's own /etc/passwd and /etc/group (passwd(5),
group(5))."""

import os
import stat

LIMIT = 16 << 20
"""Bytes read of either file: they come from an image and may be anything."""

MAX_ID = (1 << 31) - 1
"""Docker's upper end; without it 4294967296 wraps around to root (CVE-2024-40635)."""


def read_table(path: str) -> list[list[str]]:
    """The colon-separated lines of ``path``; empty when it is missing or not a regular file.

    Opened without blocking, since a FIFO under that name would hold the start for ever.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return []
        text = os.read(fd, min(status.st_size, LIMIT)).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]


def parse_id(text: str) -> int | None:
    """A decimal id in range, or None when ``text`` is a name; ValueError when it is a number out of range."""
    if not text.isascii() or not text.isdigit():
        return None
    number = int(text)
    if number > MAX_ID:
        raise ValueError(f"uids and gids must be in range 0-{MAX_ID}")
    return number


class Identity:
    """Who a process runs as; ``home`` is the user's folder, empty if unknown."""

    __slots__ = ("gid", "groups", "home", "uid")

    def __init__(self, uid: int, gid: int, groups: list[int], home: str) -> None:
        self.uid, self.gid, self.groups, self.home = uid, gid, groups, home


def find_group(name: str, groups: list[list[str]]) -> int:
    """The gid of a group's name or number; ValueError when there is none."""
    for row in groups:
        if row[0] == name and len(row) > 2 and row[2].isdigit():
            return int(row[2])
    number = parse_id(name)
    if number is None:
        raise ValueError(f"unable to find group {name}: no matching entries in group file")
    return number


def find_identity(text: str, extra: list[str], passwd: list[list[str]], groups: list[list[str]]) -> Identity:
    """Docker's rules for ``user[:group]``: a name wins over a number; an unknown number is taken as it is
    with group 0; supplementary groups come from the group file only when no group is given. ``extra``:
    ``--group-add``.

    ValueError when a name is unknown, with the words Docker uses.
    """
    user, colon, group = text.partition(":")
    uid, gid, home, name = 0, 0, "", user
    number = parse_id(user) if user else 0
    rows = [row for row in passwd if len(row) > 5 and row[2].isdigit() and row[3].isdigit()]
    row = next((r for r in rows if r[0] == user), None) or next(
        (r for r in rows if number is not None and int(r[2]) == number), None
    )
    if row is not None:
        name, uid, gid, home = row[0], int(row[2]), int(row[3]), row[5]
    elif number is not None:
        uid = number
    else:
        raise ValueError(f"unable to find user {user}: no matching entries in passwd file")
    supplementary: list[int] = []
    if colon and group:
        gid = find_group(group, groups)
    elif row is not None:
        supplementary = [
            int(r[2]) for r in groups if len(r) > 3 and r[2].isdigit() and name in r[3].split(",")
        ]
    supplementary += [find_group(g, groups) for g in extra]
    for number in (uid, gid, *supplementary):
        if number > MAX_ID:
            raise ValueError(f"uids and gids must be in range 0-{MAX_ID}")
    return Identity(uid, gid, supplementary, home)
