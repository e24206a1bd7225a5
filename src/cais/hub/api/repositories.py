"""Repositories: finding them, what they are and how they are set up; their pulls and referrers."""

import time
from collections.abc import Iterable

import msgspec

from cais.errors import Invalid
from cais.hub.api.answers import (
    DayPulls,
    Found,
    Pulls,
    Referrer,
    ReferrerList,
    RemovedList,
    RemovedTag,
    Repository,
    RepositoryDetail,
    RepositoryList,
    as_time,
)
from cais.hub.api.services import Ask
from cais.hub.search import Repository as Row
from cais.registry.naming import parse_digest_text
from cais.registry.retention import Retention, apply, format_retention, parse_retention

RIGHTS = ("pull", "push", "delete", "admin")
_DAY = 86_400


async def search(ask: Ask) -> Found:
    """``GET /search``."""
    text, page, count = ask.query["q"], ask.query["page"], ask.query["n"]
    rows = ask.services.search.search(text, ask.caller, count + 1, (page - 1) * count)
    shown = await ask.only_visible(rows[:count])
    return Found(query=text, page=page, more=len(rows) > count, repositories=describe_all(shown))


async def popular(ask: Ask) -> Found:
    """``GET /popular``."""
    page, count = ask.query["page"], ask.query["n"]
    rows = ask.services.search.popular(ask.caller, count + 1, (page - 1) * count)
    shown = await ask.only_visible(rows[:count])
    return Found(query="", page=page, more=len(rows) > count, repositories=describe_all(shown))


async def list_repositories(ask: Ask) -> RepositoryList:
    """``GET /repositories``: all that the caller may know of, by name."""
    count = ask.query["n"]
    names = await ask.services.registry.catalog.list_repositories(ask.query["last"], count + 1)
    visible = await ask.services.gate.visible(ask.caller, names[:count])
    found = [row for name in visible if (row := ask.services.search.find(name))]
    return RepositoryList(
        repositories=describe_all(found), next=names[count - 1] if len(names) > count else ""
    )


async def get_repository(ask: Ask) -> RepositoryDetail:
    """``GET /repositories/{name}``."""
    row = ask.get_repository()
    settings = ask.services.database.read_one(
        "SELECT readme, immutable, retention, (SELECT COUNT(*) FROM tags t WHERE t.repository = r.id) "
        "FROM repositories r WHERE r.name = ?",
        row.name,
    )
    readme, immutable, retention, tags = settings or ("", "[]", "{}", 0)
    return RepositoryDetail(
        **msgspec.structs.asdict(describe(row)),
        readme=readme,
        labels=row.labels,
        immutable=msgspec.json.decode(immutable, type=list[str]),
        retention=read_retention(retention),
        tags=tags,
        rights=[right for right in RIGHTS if ask.services.guard.may(ask.caller, row.name, right)],
    )


async def change_repository(ask: Ask) -> RepositoryDetail:
    """``PATCH /repositories/{name}``: its words by who may push, the rest by its namespace's administrators."""
    row = ask.get_repository()
    await ask.services.repositories.change(row.name, ask.caller, read_changes(ask.body))
    return await get_repository(ask)


async def delete_repository(ask: Ask) -> None:
    """``DELETE /repositories/{name}``: with all that is in it."""
    row = ask.get_repository("delete")
    await ask.services.registry.delete_repository(row.name, ask.caller)


async def preview_retention(ask: Ask) -> RemovedList:
    """``GET /repositories/{name}/-/retention``: what its rules would remove now, for who may push."""
    row = ask.get_repository("push")
    removed = await apply(
        ask.services.registry, ask.services.database, time.time_ns(), dry_run=True, repository=row.name
    )
    return RemovedList(removed=[RemovedTag(tag=one.tag, digest=one.digest) for one in removed])


async def pulls(ask: Ask) -> Pulls:
    """``GET /repositories/{name}/-/pulls``."""
    row = ask.get_repository()
    days = ask.services.search.pulls_by_day(row.name, ask.query["days"], int(time.time()) // _DAY)
    return Pulls(
        total=row.pulls,
        days=[
            DayPulls(day=time.strftime("%Y-%m-%d", time.gmtime(day * _DAY)), count=count)
            for day, count in days
        ],
    )


async def referrers(ask: Ask) -> ReferrerList:
    """``GET /repositories/{name}/-/referrers/{digest}``."""
    row, count = ask.get_repository(), ask.query["n"]
    subject = parse_digest_text(ask.path["digest"])
    found = await ask.services.registry.referrers(
        row.name, subject, ask.query["last"], count + 1, ask.query["type"]
    )
    return ReferrerList(
        referrers=[
            Referrer(
                digest=record.digest,
                media_type=record.media_type,
                artifact_type=record.artifact_type,
                size=record.size,
                annotations=record.annotations,
                pushed=as_time(record.pushed_ns),
            )
            for record in found[:count]
        ],
        next=found[count - 1].digest if len(found) > count else "",
    )


def describe(row: Row) -> Repository:
    """A repository as lists show it."""
    return Repository(
        name=row.name,
        namespace=row.namespace,
        private=row.private,
        description=row.description,
        size=row.size,
        pulls=row.pulls,
        updated=as_time(row.updated_ns),
        pulled=as_time(row.pulled_ns),
        created=as_time(row.created_ns),
    )


def describe_all(rows: Iterable[Row]) -> list[Repository]:
    """Several of them."""
    return [describe(row) for row in rows]


def read_changes(body: msgspec.Struct) -> dict[str, object]:
    """The settings that a body has. Raises Invalid."""
    given = {key: value for key, value in msgspec.structs.asdict(body).items() if value is not msgspec.UNSET}
    rules = given.get("retention")
    if isinstance(rules, Retention):
        parse_retention(format_retention(rules))
        # Without any: those of the namespace count, which an empty list would not say.
        given["retention"] = msgspec.to_builtins(rules) if rules.rules else {}
    return given


def read_retention(text: str) -> Retention:
    """What is on record; what this version cannot read is shown as no rules."""
    try:
        return parse_retention(text)
    except Invalid:
        return Retention()
