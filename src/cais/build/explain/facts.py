"""From a plan to what is noted of it: every step's components in words, without what nobody may read later."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from cais.build.context import Context
from cais.build.copying import Manner
from cais.build.dockerfile.evaluate import CopyAct, FolderAct, RunAct
from cais.build.dockerfile.values import Arg, Dockerfile, MountOption
from cais.build.explain.notes import BuildNote, FileNote, StageNote, StepNote
from cais.build.fetch.files import Files
from cais.build.fetch.sources import is_remote, show_url
from cais.build.keys import KeyedContext, fingerprint, manner_of
from cais.build.plan import Op, Plan, StagePlan
from cais.spec.platform import format_platform
from cais.store.layers import tar

_SECRET = re.compile("api_?key|auth|credential|key$|passw|pword|secret|token", re.IGNORECASE)
_LONGEST = 300
_LEAST_SECRET = 4
"""Characters: shorter values would blot out half of every text."""
_CONTENT = 10
"""Bytes of a file's digest that are noted."""
_MOST_FILES = 100_000


@dataclass(frozen=True, slots=True)
class Hider:
    """Writes values down. ``salt`` is the engine's own, so that hidden values cannot be guessed by their digests;
    ``secrets``: values that stand in no text."""

    salt: bytes
    secrets: tuple[str, ...] = ()

    def digest(self, value: str) -> str:
        """A value that is only compared."""
        data = value.encode("utf-8", "surrogatepass")
        return "#" + hashlib.blake2b(data, key=self.salt, digest_size=8).hexdigest()

    def text(self, value: str) -> str:
        """A value for people; what is too long is cut, and compared by a digest."""
        for secret in self.secrets:
            value = value.replace(secret, "***")
        value = value.encode("utf-8", "backslashreplace").decode()
        return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}… {self.digest(value)}"

    def variable(self, name: str, value: str) -> str:
        """The value of a variable; hidden if its name says that it is a secret."""
        return self.digest(value) if is_secret_name(name) else self.text(value)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name may hold a secret."""
    return bool(_SECRET.search(name))


def make_note(plan: Plan, at_ns: int, epoch: str, salt: bytes) -> BuildNote:
    """What is noted of a plan. ``epoch``: SOURCE_DATE_EPOCH, empty if there is none."""
    args = arg_names(plan.file)
    stages = []
    for stage in plan.stages.values():
        env = dict(stage.state.env)
        values = {text for name, text in env.items() if is_secret_name(name) and len(text) >= _LEAST_SECRET}
        hider = Hider(salt, tuple(sorted(values, key=len, reverse=True)))
        steps = tuple(
            _step_note(step.op, hider, plan.context, args, epoch) for step in stage.steps if step.op
        )
        image = stage.base.image
        has_image = isinstance(stage.node.base, str) and image is not None
        stages.append(
            StageNote(
                stage.node.stage.label,
                hider.text(str(stage.node.base)) if has_image else "",
                str(image.id) if has_image and image else "",
                stage.base.key if has_image else "",
                steps,
            )
        )
    return BuildNote(at_ns, tuple(stages))


def arg_names(file: Dockerfile) -> frozenset[str]:
    """The names of all ARGs."""
    steps = [*file.args, *(step for stage in file.stages for step in stage.steps)]
    return frozenset(name for step in steps if isinstance(step.value, Arg) for name, _ in step.value.pairs)


def _step_note(
    op: Op, hider: Hider, context: KeyedContext | None, args: frozenset[str], epoch: str
) -> StepNote:
    facts = dict(_facts(op, hider, args))
    if epoch:
        facts["SOURCE_DATE_EPOCH"] = hider.text(epoch)
    for text, files in op.files.items():
        facts[f"content {_shown(text)}"] = hider.digest(_files_key(op, text, files))
    takes = {}
    for name, text, manner in context_parts(op):
        if context is not None:
            takes[hider.text(name)] = fingerprint(context, text, manner)
    sources = {hider.text(text): point.key for text, point in op.sources.items()}
    return StepNote(op.key, hider.text(_shown_title(op)), op.parent.key, sources, facts, takes)


def context_parts(op: Op) -> Iterator[tuple[str, str, Manner]]:
    """What a step takes from the context: its name, the path, and how."""
    act = op.act
    if isinstance(act, CopyAct) and not act.from_:
        manner = manner_of(act)
        for text in act.sources:
            if text not in op.files:
                yield text, text, manner
    elif isinstance(act, RunAct):
        for mount in act.mounts:
            if mount.type == "bind" and not mount.from_:
                yield f"the mount at {mount.target}", "/" + mount.source, Manner()


def _files_key(op: Op, text: str, files: Files) -> str:
    if files.known is None:
        return files.key
    act = op.act
    manner = manner_of(act) if isinstance(act, CopyAct) else Manner()
    path = text if isinstance(act, CopyAct) and not act.from_ else "/"
    return fingerprint(Context(files.known), path, manner)


def _facts(op: Op, hider: Hider, args: frozenset[str]) -> Iterator[tuple[str, str]]:
    match op.act:
        case RunAct() as act:
            yield "command", hider.text(" ".join(act.args))
            for text in act.env:
                name, _, value = text.partition("=")
                yield f"{'ARG' if name in args else 'ENV'} {name}", hider.variable(name, value)
            yield from _given(
                {
                    "the working directory": act.cwd,
                    "the user": act.user,
                    "--network": act.network,
                    "--security": act.security,
                },
                hider,
            )
            if act.script:
                yield "the here-document", hider.digest(act.script.data.decode("utf-8", "surrogateescape"))
            for mount in act.mounts:
                yield f"the mount {_mount_name(mount)}", hider.text(_mount_text(mount))
        case CopyAct() as act:
            yield from _copy_facts(act, hider)
        case FolderAct() as act:
            yield from _given({"the folder": act.path, "the user": act.user}, hider)


def _copy_facts(act: CopyAct, hider: Hider) -> Iterator[tuple[str, str]]:
    yield "command", hider.text(" ".join((*map(_shown, act.sources), act.destination)))
    keep = "" if act.keep_git_dir is None else str(act.keep_git_dir).lower()
    flags = {
        "--from": act.from_,
        "--chown": act.chown,
        "--chmod": act.chmod,
        "--exclude": " ".join(act.exclude),
        "--checksum": act.checksum,
        "--keep-git-dir": keep,
        "--link": _word(act.link),
        "--parents": _word(act.parents),
        "--unpack": _word(act.unpack or act.unpack_fetched),
    }
    yield from _given(flags, hider)
    for file in act.inline:
        yield (
            f"the here-document {hider.text(file.name)}",
            hider.digest(file.data.decode("utf-8", "surrogateescape")),
        )


def _given(facts: Mapping[str, str], hider: Hider) -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if value:
            yield name, hider.text(value)


def _word(flag: bool) -> str:
    return "true" if flag else ""


def _mount_name(mount: MountOption) -> str:
    return f"at {mount.target}" if mount.target else f"of {mount.type} {mount.id or mount.env}".rstrip()


def _mount_text(mount: MountOption) -> str:
    """All of an option that counts; ids of agents do not."""
    fields = {
        "type": mount.type,
        "from": mount.from_,
        "source": mount.source,
        "id": "" if mount.type == "ssh" else mount.id,
        "sharing": mount.sharing,
        "env": mount.env,
        "readonly": "" if mount.readonly is None else str(mount.readonly).lower(),
        "required": _word(mount.required),
        "mode": "" if mount.mode is None else f"{mount.mode:o}",
        "uid": "" if mount.uid is None else str(mount.uid),
        "gid": "" if mount.gid is None else str(mount.gid),
        "size": str(mount.size or ""),
    }
    return ",".join(f"{name}={value}" for name, value in fields.items() if value)


def _shown(text: str) -> str:
    """A source without what may be secret in it."""
    return show_url(text) if is_remote(text) else text


def _shown_title(op: Op) -> str:
    return " ".join(map(_shown, op.title.split(" ")))


def list_files(context: KeyedContext, text: str, manner: Manner) -> list[FileNote] | None:
    """The files that a COPY of ``text`` takes; None: too many to be worth it. Raises NotFound, Invalid."""
    planned = context.planned(text, manner)
    if len(planned) > _MOST_FILES:
        return None
    found: dict[bytes, FileNote] = {}
    for path, node, source in planned:
        name = source or path.partition(b"/")[2]
        if node.is_folder and not source:
            continue  # a folder on the way
        kind = {tar.REGULAR: "file", tar.FOLDER: "folder", tar.SYMLINK: "link"}.get(node.kind, "device")
        attributes = f"{kind} {node.mode:o}"
        if node.link or node.xattrs or any(node.device):
            rest = repr((node.link, node.device, sorted(node.xattrs.items()))).encode()
            attributes += f" {hashlib.blake2b(rest, digest_size=6).hexdigest()}"
        found[name] = (name, context.digest(source)[:_CONTENT], attributes)
    return sorted(found.values())


def op_keys(plan: Plan) -> list[str]:
    """What says whether two builds were the same: keys of all steps, and the images that they stand on."""
    return [key for stage in plan.stages.values() for key in _stage_keys(stage)]


def _stage_keys(stage: StagePlan) -> Iterable[str]:
    image = stage.base.image
    yield str(image.id) if isinstance(stage.node.base, str) and image is not None else ""
    for step in stage.steps:
        if step.op is not None:
            yield step.op.key


def note_keys(note: BuildNote) -> list[str]:
    """The same of what was noted."""
    return [key for stage in note.stages for key in (stage.base_id, *(step.key for step in stage.steps))]


def platform_text(plan: Plan) -> str:
    """What a plan is for."""
    return format_platform(plan.platform)
