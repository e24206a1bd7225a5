"""Namespaces: who may see them, their settings, members and robots."""

import msgspec

from cais.errors import Denied, NotFound
from cais.hub.api.answers import Member, MemberList, Namespace, NamespaceList, RepositoryList, RobotMade
from cais.hub.api.repositories import describe_all, read_changes, read_retention
from cais.hub.api.services import Ask


async def list_namespaces(ask: Ask) -> NamespaceList:
    """``GET /namespaces``: those of which the caller is a member."""
    found = ask.services.people.namespaces.list_namespaces(ask.caller.account)
    return NamespaceList(
        namespaces=[
            Namespace(name=one.name, description=one.description, private=one.private, role=one.role)
            for one in found
        ]
    )


async def make_namespace(ask: Ask) -> Namespace:
    """``POST /namespaces``."""
    await ask.services.people.namespaces.add(ask.body.name, ask.caller)
    return _describe(ask, ask.body.name)


async def get_namespace(ask: Ask) -> Namespace:
    """``GET /namespaces/{namespace}``."""
    return _describe(ask, _see(ask))


async def change_namespace(ask: Ask) -> Namespace:
    """``PATCH /namespaces/{namespace}``."""
    name = _see(ask)
    await ask.services.people.namespaces.change(name, ask.caller, read_changes(ask.body))
    return _describe(ask, name)


async def list_repositories(ask: Ask) -> RepositoryList:
    """``GET /namespaces/{namespace}/repositories``."""
    name, count = _see(ask), ask.query["n"]
    rows = ask.services.search.in_namespace(name, ask.caller, ask.query["last"], count + 1)
    return RepositoryList(
        repositories=describe_all(await ask.only_visible(rows[:count])),
        next=rows[count - 1].name if len(rows) > count else "",
    )


async def list_members(ask: Ask) -> MemberList:
    """``GET /namespaces/{namespace}/members``: for members."""
    return MemberList(members=_members(ask))


async def get_member(ask: Ask) -> Member:
    """``GET /namespaces/{namespace}/members/{account}``."""
    return _find_member(ask)


async def put_member(ask: Ask) -> Member:
    """``PUT /namespaces/{namespace}/members/{account}``: give it a role, or another one."""
    await ask.services.people.namespaces.set_member(_see(ask), ask.path["account"], ask.body.role, ask.caller)
    return _find_member(ask)


async def delete_member(ask: Ask) -> None:
    """``DELETE /namespaces/{namespace}/members/{account}``."""
    ask.services.people.namespaces.need_role(ask.caller, _see(ask), "admin")
    member = _find_member(ask)
    await ask.services.people.namespaces.set_member(ask.path["namespace"], member.name, "", ask.caller)


async def make_robot(ask: Ask) -> RobotMade:
    """``POST /namespaces/{namespace}/robots``."""
    body = ask.body
    name, secret = await ask.services.people.robots.add(
        _see(ask), body.name, sorted(set(body.actions)), body.seconds, ask.caller
    )
    return RobotMade(name=name, secret=secret)


async def renew_robot(ask: Ask) -> RobotMade:
    """``POST /namespaces/{namespace}/robots/{account}/secret``."""
    name = ask.path["account"]
    secret = await ask.services.people.robots.renew(_see(ask), name, ask.body.seconds, ask.caller)
    return RobotMade(name=name, secret=secret)


def need_admin(ask: Ask) -> str:
    """The namespace of the path, for who administers it. Raises NotFound, Denied."""
    name = _see(ask)
    ask.services.people.namespaces.need_role(ask.caller, name, "admin")
    return name


def _see(ask: Ask) -> str:
    """The name of the namespace in the path. Raises NotFound unless the caller may know of it: as a member, or because
    it is not private, or has something that is not."""
    name: str = ask.path["namespace"]
    found = ask.services.people.namespaces.get(name, ask.caller)
    if found.private and not _role(ask, name):
        rows = ask.services.search.in_namespace(name, ask.caller, "", 1)
        if not rows or not ask.services.guard.may(ask.caller, rows[0].name, "pull"):
            raise NotFound(f"no such namespace: {name}")
    return name


def _role(ask: Ask, name: str) -> str:
    """The caller's own; a token with limits is for repositories, and a member of nothing."""
    if ask.caller.grants is not None:
        return ""
    return "admin" if ask.caller.admin else ask.services.people.namespaces.role(ask.caller.account, name)


def _describe(ask: Ask, name: str) -> Namespace:
    found = ask.services.people.namespaces.get(name, ask.caller)
    role = _role(ask, name)
    if not role:
        return Namespace(name=name, description=found.description, private=found.private, role="")
    row = ask.services.database.read_one("SELECT immutable, retention FROM namespaces WHERE name = ?", name)
    immutable, retention = row or ("[]", "{}")
    return Namespace(
        name=name,
        description=found.description,
        private=found.private,
        role=role,
        repositories=found.repositories,
        used=found.used,
        quota=found.quota,
        immutable=msgspec.json.decode(immutable, type=list[str]),
        retention=read_retention(retention),
    )


def _members(ask: Ask) -> list[Member]:
    name = _see(ask)
    if not _role(ask, name):
        raise Denied(f"you are no member of namespace {name}")
    return [
        Member(name=account, kind="robot" if kind == "robot" else "person", role=role)
        for account, kind, role in ask.services.people.namespaces.list_members(name)
    ]


def _find_member(ask: Ask) -> Member:
    wanted = ask.path["account"]
    for member in _members(ask):
        if member.name == wanted:
            return member
    raise NotFound(f"no such member of {ask.path['namespace']}: {wanted}")
