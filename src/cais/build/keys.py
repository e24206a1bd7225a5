"""The keys of steps: digests of all that decides what a step makes, known before anything is mounted.

Of files the bytes, modes, owners, links and names count, times do not.
"""

import hashlib
from dataclasses import asdict, replace
from typing import Any

import msgspec

from cais.build.context import Context
from cais.build.copying import Copying, Manner
from cais.build.dockerfile.evaluate import Act, CopyAct, FolderAct, RunAct
from cais.build.dockerfile.values import MountOption
from cais.build.tree import MemoryTree, Tree
from cais.spec.ignore import make_ignore
from cais.store.layers import tar

_VERSION = 1
"""Raised when the same input makes other layers than before."""


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


def act_key(act: Act, parent: str, sources: dict[str, str], context: Context | None) -> str:
    """Of a step on ``parent``; ``sources``: keys by the text of each from. Raises NotFound, Invalid."""
    match act:
        case RunAct():
            return _run_key(act, parent, sources, context)
        case CopyAct():
            return _copy_key(act, parent, sources, context)
        case FolderAct():
            return key_of("folder", parent, act.path, act.user)


def _run_key(act: RunAct, parent: str, sources: dict[str, str], context: Context | None) -> str:
    mounts = []
    for mount in act.mounts:
        content = sources.get(mount.from_, "")
        if not mount.from_ and mount.type == "bind" and context is not None:
            content = fingerprint(context, "/" + mount.source, Manner())
        mounts.append((asdict(replace(mount, id="" if mount.type == "ssh" else mount.id)), content))
    script = [act.script.name, _digest(act.script.data)] if act.script else []
    decided = [act.args, act.env, act.cwd, act.user, act.network, act.security, script]
    return key_of("run", parent, decided, mounts)


def _copy_key(act: CopyAct, parent: str, sources: dict[str, str], context: Context | None) -> str:
    plain = {key: value for key, value in asdict(act).items() if key != "inline"}
    inline = [(file.name, _digest(file.data)) for file in act.inline]
    if act.from_:
        return key_of("copy", parent, plain, inline, sources[act.from_])
    manner = Manner(exclude=make_ignore(act.exclude), parents=act.parents)
    found = [fingerprint(context, text, manner) for text in act.sources] if context else []
    return key_of("copy", parent, plain, inline, found)


def needs_context(mount: MountOption) -> bool:
    """Whether a mount shows a part of the context."""
    return mount.type == "bind" and not mount.from_


def fingerprint(context: Context, text: str, manner: Manner) -> str:
    """A digest over what a COPY of ``text`` takes from the context. Raises NotFound, Invalid."""
    empty: Tree = MemoryTree({})
    copying = Copying(empty, manner)
    copying.copy(context, text.encode("utf-8", "surrogateescape"), b"/d/")
    total = hashlib.sha256()
    for path, node, source in sorted(copying.planned()):
        device = (
            f"{node.device[0]}:{node.device[1]}" if node.kind in (tar.CHARACTER, tar.BLOCK_DEVICE) else ""
        )
        attributes = f"{node.kind!r} {node.mode:o} {node.size} {device} {sorted(node.xattrs.items())!r}"
        for part in (path, node.link, attributes.encode(), context.digest(source)):
            total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
