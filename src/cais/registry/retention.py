"""Which tags go by themselves: rules on repositories and namespaces, decided purely, and carried out.

Rules are JSON in ``repositories.retention``; where that has none, those in ``namespaces.retention`` count:

    {"rules": [{"include": ["pr-*"], "pulled_days": 14},
               {"exclude": ["v*"], "keep_last": 10, "pushed_days": 90}]}

The first rule that selects a tag decides about it. A tag that no rule selects stays, and so does an immutable one. By
a rule a tag goes when it is older than all the ages that the rule has, and not among its ``keep_last`` newest. A rule
without ages and without ``keep_last`` removes nothing: it is there to protect what it selects from later rules.

A manifest that loses its last tag goes too, and with an index its manifests, unless something else names them: else no
rule would ever free a byte. What refers to it (signatures) is left to the collector.
"""

import fnmatch
import sqlite3
import time
from collections.abc import Iterable, Sequence

import msgspec

from cais.errors import Invalid
from cais.registry.base import Event
from cais.registry.catalog import note
from cais.registry.database import Database
from cais.registry.registry import Registry

ACCOUNT = "retention"
"""Who the audit log says has removed it."""
DAY = 86_400 * 10**9
MAX_RULES = 50
MAX_PATTERNS = 50
MAX_PATTERN = 200


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """See the module. Patterns are fnmatch's; 0: not asked."""

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    keep_last: int = 0
    pushed_days: float = 0
    """Days since it was pushed."""
    pulled_days: float = 0
    """Days since it was last pulled, or pushed if that was later."""

    def selects(self, name: str) -> bool:
        """Whether it decides about this tag."""
        return matches(name, self.include) and not matches(name, self.exclude)

    @property
    def removes(self) -> bool:
        """Whether it can remove anything."""
        return bool(self.keep_last or self.pushed_days or self.pulled_days)


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rules of one repository or namespace. A repository with an empty list keeps everything, whatever its
    namespace's rules; one with ``{}`` has those."""

    rules: tuple[Rule, ...] = ()


class Tag(msgspec.Struct, frozen=True):
    """What is known of a tag; times in nanoseconds since the epoch, 0: never."""

    name: str
    digest: str
    pushed_ns: int
    pulled_ns: int = 0
    is_immutable: bool = False


class Removed(msgspec.Struct, frozen=True):
    """A tag that went, or would go."""

    repository: str
    tag: str
    digest: str


def parse_retention(data: str | bytes) -> Retention:
    """Rules as they are stored and as the API takes them. Raises Invalid."""
    try:
        found = msgspec.json.decode(data, type=Retention)
    except msgspec.MsgspecError as error:
        raise Invalid(f"invalid retention: {error}") from None
    if len(found.rules) > MAX_RULES:
        raise Invalid(f"invalid retention: more than {MAX_RULES} rules")
    for rule in found.rules:
        if min(rule.keep_last, rule.pushed_days, rule.pulled_days) < 0:
            raise Invalid("invalid retention: a number is negative")
        patterns = (*rule.include, *rule.exclude)
        if len(patterns) > MAX_PATTERNS or any(not 0 < len(each) <= MAX_PATTERN for each in patterns):
            raise Invalid(
                f"invalid retention: a rule may have {MAX_PATTERNS} patterns of 1 to {MAX_PATTERN} characters"
            )
    return found


def format_retention(retention: Retention) -> str:
    """The JSON that ``parse_retention`` reads."""
    return msgspec.json.encode(retention).decode()


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns fits."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def plan(tags: Iterable[Tag], retention: Retention, now_ns: int) -> list[Tag]:
    """The tags that go, the oldest first."""
    left = [tag for tag in tags if not tag.is_immutable]
    gone: list[Tag] = []
    for rule in retention.rules:
        selected = [tag for tag in left if rule.selects(tag.name)]
        left = [tag for tag in left if not rule.selects(tag.name)]
        if rule.removes:
            selected.sort(key=_age)
            old = selected[: len(selected) - rule.keep_last] if rule.keep_last else selected
            gone += [tag for tag in old if _is_old(tag, rule, now_ns)]
    return sorted(gone, key=_age)


def _age(tag: Tag) -> tuple[int, str]:
    """Among tags of the same push the name decides, so that two runs agree."""
    return tag.pushed_ns, tag.name


def _is_old(tag: Tag, rule: Rule, now_ns: int) -> bool:
    pushed, used = now_ns - tag.pushed_ns, now_ns - max(tag.pushed_ns, tag.pulled_ns)
    return pushed >= rule.pushed_days * DAY and used >= rule.pulled_days * DAY


# Carrying it out


async def apply(
    registry: Registry, database: Database, now_ns: int, *, dry_run: bool = False, repository: str = ""
) -> list[Removed]:
    """Remove what the rules say, of all repositories or one; each is one transaction, in which it is also decided: a
    tag that moves meanwhile is a new one. ``dry_run``: only say what would go."""
    await registry.flush()  # what was pulled in the last seconds counts
    rows = database.read(
        "SELECT r.name, CASE r.retention WHEN '{}' THEN n.retention ELSE r.retention END AS rules "
        "FROM repositories r LEFT JOIN namespaces n ON n.name = r.namespace "
        "WHERE (r.name = ? OR ? = '') AND rules IS NOT NULL AND rules <> '{}' ORDER BY r.name",
        repository,
        repository,
    )
    removed: list[Removed] = []
    for name, rules in rows:
        retention = parse_retention(rules)

        def act(db: sqlite3.Connection, name: str = name, retention: Retention = retention) -> list[Removed]:
            id, tags = _read_tags(db, name)
            gone = plan(tags, retention, now_ns)
            if not dry_run:
                _remove(db, id, name, gone)
            return [Removed(name, tag.name, tag.digest) for tag in gone]

        found = await database.write(act)
        removed += found
        if found and not dry_run:
            registry.forget(name)
    return removed


def _read_tags(db: sqlite3.Connection, name: str) -> tuple[int, list[Tag]]:
    row = db.execute(
        "SELECT r.id, r.immutable, COALESCE(n.immutable, '[]') FROM repositories r "
        "LEFT JOIN namespaces n ON n.name = r.namespace WHERE r.name = ?",
        (name,),
    ).fetchone()
    if row is None:
        return 0, []  # deleted since we read its name
    fixed = [pattern for text in row[1:] for pattern in msgspec.json.decode(text)]
    rows = db.execute(
        "SELECT t.name, t.digest, t.pushed_ns, m.pulled_ns FROM tags t JOIN manifests m "
        "ON m.repository = t.repository AND m.digest = t.digest WHERE t.repository = ?",
        (row[0],),
    )
    return row[0], [
        Tag(tag, digest, pushed, pulled, matches(tag, fixed)) for tag, digest, pushed, pulled in rows
    ]


def _remove(db: sqlite3.Connection, id: int, name: str, gone: Sequence[Tag]) -> None:
    for tag in gone:
        db.execute("DELETE FROM tags WHERE repository = ? AND name = ?", (id, tag.name))
        note(db, _event("untag", name, tag.digest, tag.name))
    left = {tag.digest for tag in gone}
    while left:
        left = _drop_nameless(db, id, name, left)


def _drop_nameless(db: sqlite3.Connection, id: int, name: str, digests: Iterable[str]) -> set[str]:
    """Remove those of the manifests that neither a tag nor an index names; what they named, which may be next."""
    named: set[str] = set()
    for digest in sorted(digests):
        if db.execute(
            "SELECT 1 FROM tags WHERE repository = ?1 AND digest = ?2 "
            "UNION ALL SELECT 1 FROM edges WHERE repository = ?1 AND digest = ?2",
            (id, digest),
        ).fetchone():
            continue
        parts = db.execute(
            "SELECT e.digest FROM edges e JOIN manifests m ON m.repository = e.repository AND m.digest = e.digest "
            "WHERE e.repository = ? AND e.manifest = ?",
            (id, digest),
        ).fetchall()
        if db.execute("DELETE FROM manifests WHERE repository = ? AND digest = ?", (id, digest)).rowcount:
            note(db, _event("delete", name, digest))
        named |= {part for (part,) in parts}
    return named


def _event(action: str, repository: str, digest: str, tag: str = "") -> Event:
    return Event(
        action=action, repository=repository, account=ACCOUNT, target=digest, tag=tag, at_ns=time.time_ns()
    )
