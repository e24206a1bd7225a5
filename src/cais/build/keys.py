"""The keys of steps: digests of all that decides what a step makes, known before anything is mounted.

Of files the bytes, modes, owners, links and names count, times do not.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from cais.build.context import Context, Index
from cais.build.copying import Copying, Manner
from cais.build.dockerfile.evaluate import Act, CopyAct, FolderAct, RunAct
from cais.build.dockerfile.values import MountOption
from cais.build.fetch.files import NO_FILES, Files
from cais.build.tree import MemoryTree, Node, Tree
from cais.spec.ignore import make_ignore
from cais.store.layers import tar

_VERSION = 1
"""Raised when the same input makes other layers than before."""

PlannedFile = tuple[bytes, Node, bytes]
"""Where a file goes, what it is, where in the source it comes from."""


class KeyedContext(Context):
    """A context that remembers what of it was asked for: fingerprints, and what each was made of."""

    def __init__(self, index: Index) -> None:
        super().__init__(index)
        self._planned: dict[str, list[PlannedFile]] = {}
        self._prints: dict[str, str] = {}

    def fingerprint(self, text: str, manner: Manner) -> str:
        """See the function. Raises NotFound, Invalid."""
        asked = _asked(text, manner)
        found = self._prints.get(asked) or (self.memo or {}).get(asked)
        if found is None:
            found = _digest_files(self, self.planned(text, manner))
            if self.memo is not None:
                self.memo[asked] = found
        self._prints[asked] = found
        return found

    def planned(self, text: str, manner: Manner) -> "list[PlannedFile]":
        """What a COPY of ``text`` takes. Raises NotFound, Invalid."""
        asked = _asked(text, manner)
        if asked not in self._planned:
            self._planned[asked] = _plan_files(self, text, manner)
        return self._planned[asked]


def _asked(text: str, manner: Manner) -> str:
    return repr((text, manner.exclude.patterns, manner.parents))


def key_of(*parts: Any) -> str:
    """One digest over values that JSON can hold."""
    return hashlib.sha256(msgspec.json.encode((_VERSION, parts), enc_hook=_hex)).hexdigest()


def _hex(value: Any) -> Any:
    if isinstance(value, str):
        return str.__str__(value)
    raise NotImplementedError(type(value).__name__)


def base_key(diff_ids: tuple[str, ...], platform: str) -> str:
    """Of an image that a stage stands on; no layers: of nothing."""
    return key_of("base", platform, list(diff_ids))


def act_key(
    act: Act,
    parent: str,
    sources: dict[str, str],
    context: Context | None,
    files: Mapping[str, Files] = NO_FILES,
) -> str:
    """Of a step on ``parent``; ``sources``: keys by the text of each from; ``files``: what comes from elsewhere, by the
    text of a source or a from. Raises NotFound, Invalid."""
    if link := link_key(act, sources, context, files):
        return key_of("linked", parent, link)
    match act:
        case RunAct():
            return _run_key(act, parent, sources, context, files)
        case CopyAct():
            return _copy_key(act, parent, sources, context, files)
        case FolderAct():
            return key_of("folder", parent, act.path, act.user)


def link_key(
    act: Act, sources: dict[str, str], context: Context | None, files: Mapping[str, Files] = NO_FILES
) -> str:
    """Of the layer of a linked COPY, whatever it stands on; empty for every other step. Raises NotFound, Invalid."""
    if not isinstance(act, CopyAct) or not act.is_linked:
        return ""
    return act.link_key or _copy_key(act, "", sources, context, files)


def _run_key(
    act: RunAct, parent: str, sources: dict[str, str], context: Context | None, files: Mapping[str, Files]
) -> str:
    mounts = []
    for mount in act.mounts:
        content = sources.get(mount.from_, "")
        if mount.from_ in files:
            content = _taken(files[mount.from_], "/" + mount.source, Manner())
        if not mount.from_ and mount.type == "bind" and context is not None:
            content = fingerprint(context, "/" + mount.source, Manner())
        mounts.append((asdict(replace(mount, id="" if mount.type == "ssh" else mount.id)), content))
    script = [act.script.name, _digest(act.script.data)] if act.script else []
    decided = [act.args, act.env, act.cwd, act.user, act.network, act.security, script]
    return key_of("run", parent, decided, mounts)


def _copy_key(
    act: CopyAct, parent: str, sources: dict[str, str], context: Context | None, files: Mapping[str, Files]
) -> str:
    plain = {key: value for key, value in asdict(act).items() if key not in ("inline", "link_key")}
    inline = [(file.name, _digest(file.data)) for file in act.inline]
    manner = manner_of(act)
    if act.from_ in files:
        taken = [_taken(files[act.from_], text, manner) for text in act.sources]
        return key_of("copy", parent, plain, inline, taken)
    if act.from_:
        return key_of("copy", parent, plain, inline, sources[act.from_])
    found = []
    for text in act.sources:
        if text in files:
            found.append(_taken(files[text], text, manner))
        elif context is not None:
            found.append(fingerprint(context, text, manner))
    return key_of("copy", parent, plain, inline, found)


def _taken(files: Files, text: str, manner: Manner) -> str:
    """Of what ``text`` takes of files from elsewhere: of just that, if they are here already."""
    return files.key if files.known is None else fingerprint(Context(files.known), text, manner)


def manner_of(act: CopyAct) -> Manner:
    """What decides which files a COPY takes."""
    return Manner(exclude=make_ignore(act.exclude), parents=act.parents)


def needs_context(mount: MountOption) -> bool:
    """Whether a mount shows a part of the context."""
    return mount.type == "bind" and not mount.from_


def fingerprint(context: Context, text: str, manner: Manner) -> str:
    """A digest over what a COPY of ``text`` takes from the context. Raises NotFound, Invalid."""
    if isinstance(context, KeyedContext):
        return context.fingerprint(text, manner)
    if context.memo is None:
        return _digest_files(context, _plan_files(context, text, manner))
    asked = _asked(text, manner)
    if asked not in context.memo:
        context.memo[asked] = _digest_files(context, _plan_files(context, text, manner))
    return context.memo[asked]


def _plan_files(context: Context, text: str, manner: Manner) -> list[PlannedFile]:
    empty: Tree = MemoryTree({})
    copying = Copying(empty, manner)
    copying.copy(context, text.encode("utf-8", "surrogateescape"), b"/d/")
    return sorted(copying.planned())


def _digest_files(context: Context, planned: list[PlannedFile]) -> str:
    total = hashlib.sha256()
    for path, node, source in planned:
        device = (
            f"{node.device[0]}:{node.device[1]}" if node.kind in (tar.CHARACTER, tar.BLOCK_DEVICE) else ""
        )
        attributes = f"{node.kind!r} {node.mode:o} {node.size} {device} {sorted(node.xattrs.items())!r}"
        for part in (path, node.link, attributes.encode(), context.digest(source)):
            total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
