"""What the API gives out. Times are RFC 3339 in UTC, or null: never; sizes are bytes."""

from typing import Literal

import msgspec

from cais.registry.retention import Retention
from cais.spec.image import format_time_ns


def as_time(time_ns: int) -> str | None:
    """A time as it stands in answers; 0 is never."""
    return format_time_ns(time_ns) if time_ns > 0 else None


class Repository(msgspec.Struct, frozen=True, kw_only=True):
    """A repository in a list."""

    name: str
    namespace: str
    private: bool
    description: str
    size: int
    pulls: int
    updated: str | None
    pulled: str | None
    created: str | None


class RepositoryDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A repository with its settings. ``rights``: what who asks may do."""

    name: str
    namespace: str
    private: bool
    description: str
    size: int
    pulls: int
    updated: str | None
    pulled: str | None
    created: str | None
    readme: str
    labels: str
    immutable: list[str]
    retention: Retention
    tags: int
    rights: list[str]


class RepositoryList(msgspec.Struct, frozen=True, kw_only=True):
    """Some repositories. ``next``: what ``last`` is to ask for more, empty at the end. A page that is short, or empty,
    is not the last one while there is a ``next``."""

    repositories: list[Repository]
    next: str = ""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A page of what a search found."""

    query: str
    page: int
    more: bool
    repositories: list[Repository]


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """A tag and what it stands for. ``size``: bytes to pull, of an index those of all its platforms."""

    name: str
    digest: str
    media_type: str
    artifact_type: str
    size: int
    pushed: str | None
    pulled: str | None
    platforms: list[str]


class TagList(msgspec.Struct, frozen=True, kw_only=True):
    """Some tags, by name. ``next``: what ``last`` is to ask for more, empty at the end."""

    tags: list[Tag]
    next: str = ""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """``number`` counts from the bottom, beginning with 1; ``diff_id`` is of the uncompressed tar."""

    number: int
    digest: str
    media_type: str
    size: int
    diff_id: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction of how an image came about. ``layer``: the number of the one it made, or null."""

    instruction: str
    text: str
    created: str
    comment: str
    layer: int | None


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """A member of an index. ``about``: the digest of the image that it says something about; else it is an image."""

    digest: str
    platform: str
    size: int
    about: str


class ImageDetail(msgspec.Struct, frozen=True, kw_only=True):
    """An image for one platform. ``config``: the document as it was pushed, null for what is no image that runs."""

    digest: str
    media_type: str
    platform: str
    size: int
    config: msgspec.Raw | None
    layers: list[Layer]
    steps: list[Step]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """What a tag or digest stands for. ``tags``: the names of it; ``manifest``: the document as it was pushed;
    ``image``: of an index the one for the platform that was asked for, or else the one most likely meant."""

    repository: str
    digest: str
    media_type: str
    artifact_type: str
    size: int
    pushed: str | None
    tags: list[str]
    annotations: dict[str, str]
    manifest: msgspec.Raw
    platforms: list[Platform]
    image: ImageDetail | None


class Referrer(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that says something about another: a signature, a list of parts."""

    digest: str
    media_type: str
    artifact_type: str
    size: int
    annotations: dict[str, str]
    pushed: str | None


class ReferrerList(msgspec.Struct, frozen=True, kw_only=True):
    """Some referrers, by digest. ``next``: what ``last`` is to ask for more, empty at the end."""

    referrers: list[Referrer]
    next: str = ""


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file or folder of an image; ``path`` has no slash at either end. ``size`` and ``count`` of a folder are those
    of all in it; ``layer``: the number of the one it comes from; ``content``: a hash, to compare files by."""

    name: str
    path: str
    kind: str
    size: int
    count: int
    mode: int
    uid: int
    gid: int
    mtime: str | None
    link: str
    layer: int
    content: str


class FileList(msgspec.Struct, frozen=True, kw_only=True):
    """Some files of a folder, folders first. ``layer`` is null for those of the whole image; ``size`` and ``count``:
    of all in the folder; ``broken``: why something may be absent; ``next``: what ``last`` is to ask for more, empty at
    the end."""

    repository: str
    digest: str
    layer: int | None
    path: str
    size: int
    count: int
    broken: str
    files: list[File]
    next: str = ""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A setting of the configuration that is not the same; empty: it is not there."""

    name: str
    before: str
    after: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is not the same. A folder that is new or gone is one change; ``count`` says how many files and
    folders it stands for. ``before`` and ``after``: bytes; ``details``: what has changed beside the content."""

    path: str
    how: Literal["added", "removed", "changed"]
    kind: str
    before: int
    after: int
    count: int
    details: list[str]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What two images differ in, ``changes`` by path. ``shared_layers``: at the bottom; ``added``, ``removed`` and
    ``changed``: numbers of files and folders; ``bytes``: that the new one's files are more; ``broken``: why something
    may be absent; ``next``: what ``last`` is to ask for more changes, empty at the end."""

    repository: str
    old: str
    new: str
    shared_layers: int
    settings: list[Difference]
    added: int
    removed: int
    changed: int
    bytes: int
    broken: str
    changes: list[Change]
    next: str = ""


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """What a signature says of itself; nobody has verified it. ``names``: whether it is about this image, null: its
    form does not say."""

    signer: str
    issuer: str
    reference: str
    names: bool | None


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody has attached. ``digest``: of the document; ``about``: the manifest that it speaks of."""

    kind: Literal["signature", "sbom", "provenance", "attestation", "other"]
    format: str
    manifest: str
    digest: str
    media_type: str
    size: int
    about: str
    pushed: str | None
    predicate: str
    annotations: dict[str, str]
    signature: Signature | None


class AttachmentList(msgspec.Struct, frozen=True, kw_only=True):
    """All that is attached to an image and the index it is in."""

    attachments: list[Attachment]


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a bill of materials."""

    name: str
    version: str
    license: str
    purl: str


class PackageList(msgspec.Struct, frozen=True, kw_only=True):
    """Some packages, by name. ``next``: what ``last`` is to ask for more, empty at the end."""

    packages: list[Package]
    next: str = ""


class RemovedTag(msgspec.Struct, frozen=True, kw_only=True):
    """A tag that the rules would remove."""

    tag: str
    digest: str


class RemovedList(msgspec.Struct, frozen=True, kw_only=True):
    """What the next collection would remove by the rules, its own or its namespace's."""

    removed: list[RemovedTag]


class DayPulls(msgspec.Struct, frozen=True, kw_only=True):
    """Pulls of one day (UTC)."""

    day: str
    count: int


class Pulls(msgspec.Struct, frozen=True, kw_only=True):
    """Pulls by day, the oldest first, and of all time."""

    total: int
    days: list[DayPulls]


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """Where repositories live. ``role``: of who asks. What is null is not for who asks."""

    name: str
    description: str
    private: bool
    role: str
    repositories: int | None = None
    used: int | None = None
    quota: int | None = None
    immutable: list[str] | None = None
    retention: Retention | None = None


class NamespaceList(msgspec.Struct, frozen=True, kw_only=True):
    """The namespaces of which one is a member."""

    namespaces: list[Namespace]


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """Who belongs to a namespace."""

    name: str
    kind: Literal["person", "robot"]
    role: str


class MemberList(msgspec.Struct, frozen=True, kw_only=True):
    """All members."""

    members: list[Member]


class RobotMade(msgspec.Struct, frozen=True, kw_only=True):
    """A robot that is new, or has a new secret, which is shown this once."""

    name: str
    secret: str


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """Who is told of what happens, without the secret. ``failures``: tries since one succeeded."""

    id: int
    repository: str
    url: str
    actions: list[str]
    disabled: bool
    failures: int
    created: str | None


class WebhookList(msgspec.Struct, frozen=True, kw_only=True):
    """All webhooks of a namespace, the oldest first."""

    webhooks: list[Webhook]


class WebhookMade(msgspec.Struct, frozen=True, kw_only=True):
    """A new webhook. Its secret is shown this once."""

    webhook: Webhook
    secret: str


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """One try to tell. ``status`` is HTTP's, 0: there was no answer; ``error`` is empty if it succeeded."""

    id: int
    event: int
    at: str | None
    status: int
    error: str


class DeliveryList(msgspec.Struct, frozen=True, kw_only=True):
    """The last tries, the newest first."""

    deliveries: list[Delivery]


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Who may log in."""

    name: str
    kind: Literal["person", "robot"]
    admin: bool
    disabled: bool
    created: str | None


class AccountList(msgspec.Struct, frozen=True, kw_only=True):
    """Some accounts, by name. ``next``: what ``last`` is to ask for more, empty at the end."""

    accounts: list[Account]
    next: str = ""


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A kept token, without its secret."""

    id: int
    name: str
    account: str
    scopes: list[str]
    created: str | None
    used: str | None
    expires: str | None


class TokenList(msgspec.Struct, frozen=True, kw_only=True):
    """All tokens of an account, the newest first."""

    tokens: list[Token]


class TokenMade(msgspec.Struct, frozen=True, kw_only=True):
    """A new token. Its secret is shown this once."""

    token: Token
    secret: str


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was changed, and who did it."""

    id: int
    at: str | None
    action: str
    repository: str
    account: str
    address: str
    target: str
    tag: str
    detail: str


class EventList(msgspec.Struct, frozen=True, kw_only=True):
    """Some events, the newest first. ``next``: what ``before`` is to ask for more, 0 at the end. A page that is short,
    or empty, is not the last one while there is a ``next``."""

    events: list[Event]
    next: int = 0


class Scrubbed(msgspec.Struct, frozen=True, kw_only=True):
    """Digests of blobs that were found damaged."""

    damaged: list[str]


class Damaged(msgspec.Struct, frozen=True, kw_only=True):
    """A damaged blob in a repository that has it."""

    digest: str
    repository: str


class DamagedList(msgspec.Struct, frozen=True, kw_only=True):
    """What a scrub has found, and nobody has pushed again since."""

    damaged: list[Damaged]


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is. ``bytes``: on the disk, each blob once."""

    repositories: int
    tags: int
    manifests: int
    blobs: int
    bytes: int
    damaged: int
    accounts: int
    namespaces: int
    pulls: int


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How the hub was started; nothing of it is a secret."""

    name: str
    version: str
    open: bool
    anonymous_pull: bool
    signup: bool
    tls: bool
    upstream: list[str]
    max_blob: int
    grace: float
    upload_age: float
    collect_every: float
    collect_untagged: bool
    scrub_every: float


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The hub works."""

    status: Literal["ok"] = "ok"
