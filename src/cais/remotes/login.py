"""Whether credentials are good for a registry."""

from urllib.parse import urlsplit

from cais.errors import Invalid, Unauthenticated, Unavailable
from cais.remotes.auth import Credentials
from cais.remotes.client import Remotes
from cais.remotes.refusals import describe_body
from cais.remotes.transport import Ask, Transport, read_body
from cais.spec.reference import DEFAULT_DOMAIN
from cais.spec.registryauth import HUB_KEY, is_hub

_ERROR_LIMIT = 64 << 10


async def log_in(remotes: Remotes, server: str, credentials: Credentials) -> str:
    """Ask the registry ``server`` (host[:port], or a URL as clients keep it; empty: Docker Hub). Returns the refresh
    token that it would rather see than the password from now on; empty if it gives none.

    Raises Unauthenticated for wrong credentials, Invalid, Denied, Unavailable.
    """
    if not credentials.username and not credentials.secrets():
        raise Invalid("no basic auth credentials: a username and a password are needed to log in")
    domain = parse_server(server)
    host = remotes.hosts.origin(domain)
    transport = Transport(remotes.hosts, credentials, offline=True)
    try:
        async with transport.send(host, Ask("GET", "")) as response:
            body = await read_body(response, _ERROR_LIMIT)
            status, url = response.status, response.url
            sent = response.request_info.headers.get("Authorization", "")
    finally:
        await transport.close()
    if status == 401 or (status == 403 and sent):
        said = describe_body(body, credentials.secrets())
        raise Unauthenticated(
            f"login attempt to {url} failed with status: {status} {'Unauthorized' if status == 401 else 'Forbidden'}"
            f"{f': {said}' if said else ''}"
        )
    if status != 200:
        raise Unavailable(f"login attempt to {url} failed with status: {status}")
    return transport.refresh_token


def parse_server(text: str) -> str:
    """The registry's name in references, of what a client calls a server. Raises Invalid."""
    if not text or is_hub(text):
        return DEFAULT_DOMAIN
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        named = parts.hostname and parts.username is None and parts.port != 0
    except ValueError:
        named = None
    if not named:
        raise Invalid(
            f"invalid registry server {text!r}: want host[:port], such as {HUB_KEY} or localhost:5000"
        )
    return parts.netloc
