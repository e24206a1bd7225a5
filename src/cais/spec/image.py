"""The image configuration: what a container made from an image starts with, and which layers it has."""

import re
from datetime import UTC, datetime
from typing import Any

import msgspec

from cais.errors import Invalid
from cais.spec.digest import Digest, parse_digest
from cais.spec.platform import Platform

_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d{2}:\d{2})")


class Healthcheck(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Docker's HEALTHCHECK; durations are nanoseconds, 0 means inherit."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerDefaults(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """The ``config`` object: image-spec config.md, with Docker's additions."""

    user: str = ""
    exposed_ports: dict[str, Any] = {}
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    volumes: dict[str, Any] = {}
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    args_escaped: bool = False


class RootFs(msgspec.Struct, frozen=True, kw_only=True):
    """The layers, bottom first, as digests of their uncompressed tars."""

    type: str = "layers"
    diff_ids: tuple[Digest, ...] = ()


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one layer, or one change of the configuration (``empty_layer``), came about."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One image's configuration. ``created`` is the RFC 3339 text as it stands in the blob.

    Fields that are not listed survive in the stored blob, which is never re-written.
    """

    created: str = ""
    author: str = ""
    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: tuple[str, ...] = msgspec.field(name="os.features", default=())
    config: ContainerDefaults = ContainerDefaults()
    rootfs: RootFs
    history: tuple[History, ...] = ()

    @property
    def platform(self) -> Platform:
        """The platform as a descriptor would say it."""
        return Platform(
            architecture=self.architecture,
            os=self.os,
            variant=self.variant,
            os_version=self.os_version,
            os_features=self.os_features,
        )

    @property
    def created_ns(self) -> int:
        """Nanoseconds since the epoch; 0 if ``created`` is absent or no time."""
        try:
            return parse_time_ns(self.created)
        except Invalid:
            return 0


def parse_image_config(data: bytes) -> ImageConfig:
    """Parse an OCI or Docker image configuration. Raises Invalid naming the wrong field."""
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"invalid image config: {error}") from error
    if not isinstance(raw, dict):
        raise Invalid("invalid image config: want a JSON object")
    try:
        config = msgspec.convert(_normalize(raw), ImageConfig, dec_hook=_digest_hook)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Invalid(f"invalid image config: {error}") from error
    if config.rootfs.type != "layers":
        raise Invalid(f"invalid image config: rootfs type {config.rootfs.type!r} is not layers")
    return config


def format_image_config(config: ImageConfig) -> bytes:
    """The JSON bytes of ``config``; deterministic, so equal values have equal digests."""
    # Readers in the field want architecture and os even when they are empty.
    fields = {"architecture": config.architecture, "os": config.os}
    return msgspec.json.encode({**fields, **msgspec.to_builtins(config, enc_hook=str)})


def parse_time_ns(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 text with up to nine digits of fraction. Raises Invalid."""
    found = _TIME.fullmatch(text)
    if not found:
        raise Invalid(f"invalid time: {text!r}")
    day, clock, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    except ValueError as error:
        raise Invalid(f"invalid time: {text!r}: {error}") from error
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    since = moment - epoch
    seconds = since.days * 86400 + since.seconds
    return seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


def format_time_ns(time_ns: int) -> str:
    """The RFC 3339 text of nanoseconds since the epoch, in UTC, as Go writes it (no trailing zeros)."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
    digits = f"{fraction:09d}".rstrip("0")
    return f"{moment}.{digits}Z" if digits else f"{moment}Z"


def _normalize(raw: dict[str, Any]) -> dict[str, Any]:
    """What Go's decoder does on the way in: null is absent in objects, a lone string is a list of one."""
    top = _without_nulls(raw)
    if isinstance(top.get("rootfs"), dict):
        top["rootfs"] = _without_nulls(top["rootfs"])
    if isinstance(top.get("history"), list):
        top["history"] = [_without_nulls(item) if isinstance(item, dict) else item for item in top["history"]]
    if isinstance(top.get("config"), dict):
        top["config"] = _normalize_defaults(_without_nulls(top["config"]))
    return top


def _normalize_defaults(config: dict[str, Any]) -> dict[str, Any]:
    for name in ("Entrypoint", "Cmd", "Shell"):
        if isinstance(config.get(name), str):
            config[name] = [config[name]]
    if isinstance(config.get("Labels"), dict):
        config["Labels"] = {key: "" if value is None else value for key, value in config["Labels"].items()}
    if isinstance(config.get("Healthcheck"), dict):
        config["Healthcheck"] = _without_nulls(config["Healthcheck"])
    return config


def _without_nulls(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if value is not None}


def _digest_hook(kind: type, value: Any) -> Any:
    if kind is Digest and isinstance(value, str):
        return parse_digest(value)
    raise msgspec.ValidationError(f"expected {kind.__name__}")
