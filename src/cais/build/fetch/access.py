"""Who a build is to servers of git repositories: its secrets and agents, shown to those they are meant for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import msgspec

from cais.build.fetch.download import basic
from cais.build.fetch.sources import host_of, scheme_of, show_url, split_credentials
from cais.build.relay import relay
from cais.build.request import Agents, Secrets
from cais.errors import Invalid

HEADER = "GIT_AUTH_HEADER"
TOKEN = "GIT_AUTH_TOKEN"
AGENT = "default"


class Way(msgspec.Struct, frozen=True):
    """How to speak to one remote. ``url`` is without secrets; ``settings`` is git's configuration; ``secrets``: what no
    message may hold."""

    url: str
    settings: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()

    def clean(self, text: str) -> str:
        """``text`` without secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


class Access(msgspec.Struct, frozen=True):
    """``main``: the remote that a build has named. The general token is for it alone, not for what its submodules name;
    one that is meant for a host (``GIT_AUTH_TOKEN.host``) is for all of it."""

    secrets: Secrets
    agents: Agents
    main: str

    async def way(self, remote: str) -> Way:
        """Raises Invalid, and what asking the client raises."""
        url, user, password = split_credentials(remote)
        if scheme_of(remote) not in ("http", "https"):
            return Way(url, secrets=(password,) if password else ())
        header = basic(user, password) if user or password else await self._header(remote)
        if not header:
            return Way(url, (("http.followRedirects", "initial"),))
        if any(char in header for char in "\r\n\0"):
            raise Invalid(f"the secret for {show_url(remote)} cannot be sent: it has more than one line")
        # A redirect would take the header with it to another server.
        settings = (
            (f"http.{url}.extraHeader", f"Authorization: {header}"),
            ("http.followRedirects", "false"),
        )
        return Way(url, settings, tuple(filter(None, (header, header.partition(" ")[2], password))))

    async def _header(self, remote: str) -> str:
        host = host_of(remote)
        names = [f"{HEADER}.{host}", f"{TOKEN}.{host}"]
        if remote == self.main:
            names += [HEADER, TOKEN]
        for name in names:
            data = await self.secrets.get(name)
            if data is not None:
                text = data.decode("utf-8", "replace").strip()
                # A user name that servers do not look at, as BuildKit sends it.
                return basic("x-access-token", text) if name.startswith(TOKEN) else text
        return ""

    @asynccontextmanager
    async def agent(self, remote: str, folder: Path, uid: int) -> AsyncIterator[str]:
        """The name of a socket in ``folder`` that leads to the client's SSH agent; empty if none is needed. Raises
        Invalid."""
        if scheme_of(remote) != "ssh":
            yield ""
            return
        if not await self.agents.has(AGENT):
            raise Invalid(f"{show_url(remote)} needs an SSH agent: build with --ssh {AGENT}")
        path = folder / f".agent-{uuid4().hex[:16]}"
        try:
            async with relay(path, AGENT, self.agents, (uid, uid), 0o600):
                yield path.name
        finally:
            path.unlink(missing_ok=True)
