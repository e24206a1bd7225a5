"""The hub's settings: flags, and a TOML file with the same names."""

import argparse
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cais.errors import Invalid

DEFAULT_ROOT = Path("/var/lib/cais-hub")
DEFAULT_LISTEN = "127.0.0.1:5000"


class HubConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One hub's settings; times in seconds, sizes in bytes."""

    root: Path = DEFAULT_ROOT
    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    name: str = "Cais Hub"
    origin: str = ""
    """Where clients find the hub, ``https://hub.example.com``; empty: where they say that they do."""
    open: bool = False
    """No accounts: everybody may do everything."""
    anonymous_pull: bool = True
    signup: bool = False
    """Anybody may make an account; else only who has the code of the first start, and administrators."""
    htpasswd: Path | None = None
    admin: tuple[str, ...] = ()
    """Accounts that are administrators, whoever made them: for the users of an htpasswd file."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_self_signed: bool = False
    share: tuple[Path, ...] = ()
    """Content folders of engines on this machine, whose blobs need not be sent."""
    upstream: tuple[str, ...] = ()
    """``prefix=url``: repositories below ``prefix/`` are another registry's, fetched when they are asked for."""
    upstream_expiry: float = 300.0
    allow_private: bool = False
    """Webhooks and upstreams may be on private addresses."""
    max_blob: int = 0
    grace: float = 3600.0
    upload_age: float = 24 * 3600.0
    collect_every: float = 3600.0
    collect_untagged: bool = False
    scrub_every: float = 24 * 3600.0
    access_log: Path | None = None
    open_metrics: bool = False
    """``/metrics`` is for everybody; else for this machine, and for administrators."""
    proxies: tuple[str, ...] = ()
    """Addresses or networks of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."""


_HELP = {
    "root": "folder of blobs and records (default: /var/lib/cais-hub)",
    "listen": "address:port to listen on, may be repeated (default: 127.0.0.1:5000)",
    "name": "what the pages call this hub",
    "origin": "https://name by which clients find the hub, for what it tells them (default: the name they use)",
    "open": "no accounts: everybody may do everything (loopback only, or behind something that asks)",
    "anonymous_pull": "public repositories may be pulled by anybody (default; --no-anonymous-pull)",
    "signup": "anybody may make an account on the pages",
    "htpasswd": "file of name:bcrypt-hash lines that log in too",
    "admin": "name of an account that is an administrator; may be repeated",
    "tls_cert": "certificate chain (PEM)",
    "tls_key": "its private key (PEM)",
    "tls_self_signed": "make a certificate at the first start, and use it",
    "share": "content folder of an engine on this machine: what it has need not be sent; may be repeated",
    "upstream": "prefix=url of a registry to fetch from on demand; may be repeated",
    "upstream_expiry": "seconds until a fetched tag is asked for again",
    "allow_private": "webhooks and upstreams may be on private addresses",
    "max_blob": "bytes that one blob may have",
    "grace": "seconds for which a blob without a manifest is kept",
    "upload_age": "seconds after which an unfinished upload is dropped",
    "collect_every": "seconds between collections of garbage",
    "collect_untagged": "manifests without a tag are garbage",
    "scrub_every": "seconds in which every blob is read through once",
    "access_log": "file for one line of JSON per request (default: standard error)",
    "open_metrics": "everybody may read /metrics; else this machine, and administrators",
    "proxies": "address or network of a reverse proxy to believe; may be repeated",
}


def parse_config(words: Sequence[str]) -> HubConfig:
    """Settings by flags, over those of ``--config FILE``, over the defaults. Raises Invalid; SystemExit for help."""
    given = vars(make_parser().parse_args(words))
    file = given.pop("config", None)
    values: dict[str, Any] = _read_file(Path(file)) if file else {}
    values |= {key: value for key, value in given.items() if value is not None}
    try:
        config = msgspec.convert(values, HubConfig, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise Invalid(f"invalid setting: {error}") from None
    if (config.tls_cert is None) != (config.tls_key is None):
        raise Invalid("--tls-cert and --tls-key belong together")
    return config


def make_parser() -> argparse.ArgumentParser:
    """The flags of ``cais hub serve``."""
    parser = argparse.ArgumentParser(
        prog="cais hub serve",
        description="Serve a registry and its pages.",
        epilog="examples:\n  cais hub serve --root /srv/hub\n"
        "  cais hub serve --listen 0.0.0.0:443 --tls-self-signed --signup\n"
        "  cais hub serve --upstream docker.io=https://registry.example.com",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE", help="settings in TOML, named like the flags")
    for field in msgspec.structs.fields(HubConfig):
        flag, text = "--" + field.name.replace("_", "-"), _HELP[field.name]
        if field.type is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        elif field.default == () or isinstance(field.default, tuple):
            parser.add_argument(flag, action="append", metavar="VALUE", help=text)
        else:
            parser.add_argument(flag, metavar="VALUE", help=text)
    return parser


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"cannot read settings from {path}: {error}") from None
    known = {field.name for field in msgspec.structs.fields(HubConfig)}
    unknown = sorted({key.replace("-", "_") for key in values} - known)
    if unknown:
        raise Invalid(f"{path}: unknown setting {unknown[0]!r}")
    return {key.replace("-", "_"): value for key, value in values.items()}


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError
