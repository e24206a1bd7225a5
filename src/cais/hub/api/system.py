"""The hub itself: what was done to it, how much there is, how it is set up; and its housekeeping, now."""

import msgspec

from cais import __version__
from cais.hub.api.answers import (
    Damaged,
    DamagedList,
    Event,
    EventList,
    Health,
    Scrubbed,
    Settings,
    Stats,
    as_time,
)
from cais.hub.api.namespaces import need_admin
from cais.hub.api.services import Ask
from cais.registry.base import Event as Noted
from cais.registry.collect import Collected


async def list_events(ask: Ask) -> EventList:
    """``GET /audit``: of everything, for administrators of the hub."""
    return _read(ask, "")


async def list_namespace_events(ask: Ask) -> EventList:
    """``GET /namespaces/{namespace}/audit``: for its administrators."""
    return _read(ask, need_admin(ask))


def _read(ask: Ask, namespace: str) -> EventList:
    query = ask.query
    events, following = ask.services.audit.read(
        namespace=namespace,
        account=query["account"],
        action=query["action"],
        before=query["before"],
        count=query["n"],
    )
    return EventList(events=list(map(_describe, events)), next=following)


def _describe(event: Noted) -> Event:
    return Event(
        id=event.id,
        at=as_time(event.at_ns),
        action=event.action,
        repository=event.repository,
        account=event.account,
        address=event.address,
        target=event.target,
        tag=event.tag,
        detail=event.detail,
    )


async def collect(ask: Ask) -> Collected:
    """``POST /system/collect``."""
    return await ask.services.collector.collect()


async def scrub(ask: Ask) -> Scrubbed:
    """``POST /system/scrub``."""
    return Scrubbed(damaged=await ask.services.scrubber.scrub(ask.body.count, ask.body.age))


async def damaged(ask: Ask) -> DamagedList:
    """``GET /system/damaged``."""
    found = await ask.services.registry.catalog.list_damaged()
    return DamagedList(damaged=[Damaged(digest=digest, repository=name) for digest, name in found])


async def stats(ask: Ask) -> Stats:
    """``GET /system/stats``: counted now."""
    stock, database = ask.services.audit.stock(), ask.services.database
    damaged = database.read_one("SELECT COUNT(*) FROM blobs WHERE damaged")
    namespaces = database.read_one("SELECT COUNT(*) FROM namespaces")
    pulls = database.read_one("SELECT COALESCE(SUM(pulls), 0) FROM repositories")
    return Stats(
        repositories=stock.repositories,
        tags=stock.tags,
        manifests=stock.manifests,
        blobs=stock.blobs,
        bytes=stock.stored,
        damaged=damaged[0] if damaged else 0,
        accounts=stock.accounts,
        namespaces=namespaces[0] if namespaces else 0,
        pulls=pulls[0] if pulls else 0,
    )


async def settings(ask: Ask) -> Settings:
    """``GET /system/config``: what is known to be no secret, and nothing else."""
    config = ask.services.config
    return Settings(
        name=config.name,
        version=__version__,
        open=config.open,
        anonymous_pull=config.anonymous_pull,
        signup=config.signup,
        tls=bool(config.tls_cert or config.tls_self_signed),
        upstream=[hide_password(text) for text in config.upstream],
        max_blob=config.max_blob,
        grace=config.grace,
        upload_age=config.upload_age,
        collect_every=config.collect_every,
        collect_untagged=config.collect_untagged,
        scrub_every=config.scrub_every,
    )


def hide_password(text: str) -> str:
    """``prefix=url`` without what stands before an ``@`` in its host."""
    start, separator, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    return f"{start}{separator}{host.rpartition('@')[2]}{slash}{path}"


async def openapi(ask: Ask) -> msgspec.Raw:
    """``GET /openapi.json``."""
    return ask.document


async def health(ask: Ask) -> Health:
    """``GET /healthz``: the database answers."""
    ask.services.database.read_one("SELECT 1")
    return Health()
