"""How a result came about: SLSA provenance with the fields that BuildKit fills in. Pure.

Sources: SLSA "Provenance" v1 and v0.2; BuildKit docs/attestations/slsa-definitions.md. No secret is told: of secrets
and agents the ids, of arguments whose names sound like one nothing, of addresses neither user nor password.
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from cais.build.attest.options import ProvenanceOptions
from cais.build.attest.statement import image_purl
from cais.build.cache import Layer
from cais.build.dockerfile.evaluate import CopyAct, RunAct
from cais.build.export.result import Attestation
from cais.build.plan import Base, Op, Plan, Point
from cais.build.request import BuildRequest
from cais.errors import CaisError, Invalid
from cais.images.image import Image
from cais.spec.image import format_time_ns
from cais.spec.platform import Platform, format_platform

SLSA_V1 = "https://slsa.dev/provenance/v1"
SLSA_V02 = "https://slsa.dev/provenance/v0.2"
_BUILD_TYPE_V1 = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
_BUILD_TYPE_V02 = "https://mobyproject.org/buildkit@v1"
_FRONTEND = "dockerfile.v0"
_USER_INFO = re.compile(r"(?<=://)[^/?#@\s]*@")
_SECRET = re.compile(
    r"(?:_|-|^)(?:api_?key|auth|credentials?|key|password|pword|passwd|secret|token)s?(?:_|-|$)",
    re.IGNORECASE,
)


class Facts(msgspec.Struct, frozen=True):
    """What only the build knows. Times are nanoseconds since the epoch; with an ``epoch_ns`` none are told, so that the
    same input gives the same bytes. ``locals``: names of the folders that a client sent; ``source``: the address that
    the context is from; ``digests``: by the text of a URL or git reference, what came (``sha256``, ``sha1``);
    ``vcs``: what the client says of its repository."""

    host: Platform
    invocation: str = ""
    started_ns: int = 0
    finished_ns: int = 0
    epoch_ns: int | None = None
    locals: Sequence[str] = ("context", "dockerfile")
    source: str = ""
    digests: Mapping[str, Mapping[str, str]] = msgspec.field(default_factory=dict)
    vcs: Mapping[str, str] = msgspec.field(default_factory=dict)


class Material(msgspec.Struct, frozen=True):
    """Something that went in: an address, and a digest by its algorithm if it is known."""

    uri: str
    digest: Mapping[str, str] = msgspec.field(default_factory=dict)


def make_provenance(
    options: ProvenanceOptions,
    request: BuildRequest,
    plan: Plan,
    facts: Facts,
    layers: Mapping[str, Layer] | None = None,
) -> Attestation:
    """Of one platform. ``layers``: by the keys of steps, for mode=max. Raises Invalid if it has to be complete and is
    not."""
    said = _Said(options, request, plan, facts, layers or {})
    if options.version == "v1":
        return Attestation(SLSA_V1, msgspec.json.encode(said.v1()), options.file, options.inline)
    return Attestation(SLSA_V02, msgspec.json.encode(said.v02()), options.file, options.inline)


def redact(text: str) -> str:
    """Without user and password of an address in it."""
    return _USER_INFO.sub("", text)


def sounds_secret(name: str) -> bool:
    """Whether an argument of this name may hold what nobody may read."""
    return _SECRET.search(name) is not None


class _Said(msgspec.Struct, frozen=True):
    options: ProvenanceOptions
    request: BuildRequest
    plan: Plan
    facts: Facts
    layers: Mapping[str, Layer]

    # The two forms

    def v1(self) -> dict[str, Any]:
        parameters, told = self._parameters()
        materials, known = self._materials()
        metadata: dict[str, Any] = self._times("invocationId", "startedOn", "finishedOn")
        metadata["buildkit_metadata"] = self._more()
        metadata["buildkit_completeness"] = {"request": told, "resolvedDependencies": known}
        if self._is_hermetic(known):
            metadata["buildkit_hermetic"] = True
        if self.options.reproducible:
            metadata["buildkit_reproducible"] = True
        internal: dict[str, Any] = {"builderPlatform": format_platform(self.facts.host)}
        if self.options.everything:
            internal["buildConfig"] = {"steps": self._steps()}
        return {
            "buildDefinition": {
                "buildType": _BUILD_TYPE_V1,
                "externalParameters": {"configSource": self._source("path"), "request": parameters},
                "internalParameters": internal,
                "resolvedDependencies": materials,
            },
            "runDetails": {"builder": {"id": self.options.builder_id}, "metadata": metadata},
        }

    def v02(self) -> dict[str, Any]:
        parameters, told = self._parameters()
        materials, known = self._materials()
        metadata: dict[str, Any] = self._times("buildInvocationID", "buildStartedOn", "buildFinishedOn")
        metadata["completeness"] = {"parameters": told, "environment": True, "materials": known}
        metadata["reproducible"] = self.options.reproducible
        metadata["https://mobyproject.org/buildkit@v1#metadata"] = self._more()
        if self._is_hermetic(known):
            metadata["https://mobyproject.org/buildkit@v1#hermetic"] = True
        predicate: dict[str, Any] = {
            "builder": {"id": self.options.builder_id},
            "buildType": _BUILD_TYPE_V02,
            "materials": materials,
            "invocation": {
                "configSource": self._source("entryPoint"),
                "parameters": parameters,
                "environment": {"platform": format_platform(self.facts.host)},
            },
            "metadata": metadata,
        }
        if self.options.everything:
            predicate["buildConfig"] = {"steps": self._steps()}
        return predicate

    # Their parts

    def _times(self, invocation: str, started: str, finished: str) -> dict[str, Any]:
        if self.facts.epoch_ns is not None:
            return {}
        found = {invocation: self.facts.invocation} if self.facts.invocation else {}
        for name, time_ns in ((started, self.facts.started_ns), (finished, self.facts.finished_ns)):
            if time_ns:
                found[name] = format_time_ns(time_ns)
        return found

    def _source(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {path: self.request.dockerfile}
        if self.facts.source:
            found["uri"] = redact(self.facts.source)
            if digest := self.facts.digests.get(self.facts.source):
                found["digest"] = dict(digest)
        return found

    def _parameters(self) -> tuple[dict[str, Any], bool]:
        """What was asked for, and whether that is all of it."""
        request = self.request
        args: dict[str, str] = {}
        if request.target:
            args["target"] = request.target
        if request.dockerfile != "Dockerfile":
            args["filename"] = request.dockerfile
        if request.platforms:
            args["platform"] = ",".join(map(format_platform, request.platforms))
        if request.no_cache:
            args["no-cache"] = ""
        for name, value in sorted(request.contexts.items()):
            args[f"context:{name}"] = redact(value)
        hidden = False
        given = [("build-arg", request.args), ("label", request.labels)]
        for kind, values in given:
            for name, value in sorted(values.items()):
                if not self.options.everything or sounds_secret(name):
                    hidden = True
                else:
                    args[f"{kind}:{name}"] = redact(value)
        found: dict[str, Any] = {"frontend": _FRONTEND, "args": args}
        found["locals"] = [{"name": name} for name in self.facts.locals]
        if self.options.everything:
            for kind, name in (("secret", "secrets"), ("ssh", "ssh")):
                if ids := self._mount_ids(kind):
                    found[name] = ids
        return found, not hidden

    def _mount_ids(self, kind: str) -> list[dict[str, Any]]:
        found: dict[str, bool] = {}
        for op in self._ops():
            if isinstance(op.act, RunAct):
                for mount in op.act.mounts:
                    if mount.type == kind:
                        name = mount.id or mount.source or mount.target.rpartition("/")[2] or "default"
                        found[name] = found.get(name, False) or mount.required
        return [
            {"id": name, **({} if needed else {"optional": True})} for name, needed in sorted(found.items())
        ]

    def _materials(self) -> tuple[list[dict[str, Any]], bool]:
        """What went in, and whether all of it is known: what a client sent cannot be named."""
        found = list_materials(self.plan, self.facts)
        known = not self.facts.locals and all(one.digest for one in found)
        if self.options.complete and not known:
            unknown = [one.uri for one in found if not one.digest] + list(self.facts.locals)
            raise Invalid(f"provenance cannot be complete: {', '.join(unknown)} has no digest")
        described = [
            {"uri": one.uri, **({"digest": dict(one.digest)} if one.digest else {})} for one in found
        ]
        return described, known

    def _is_hermetic(self, known: bool) -> bool:
        runs = [op.act for op in self._ops() if isinstance(op.act, RunAct)]
        return known and all(run.network == "none" for run in runs)

    def _more(self) -> dict[str, Any]:
        """What BuildKit's readers look for beyond SLSA."""
        found: dict[str, Any] = {}
        if self.facts.vcs:
            found["vcs"] = {name: redact(value) for name, value in sorted(self.facts.vcs.items())}
        if not self.options.everything:
            return found
        file = self.plan.file
        text = redact("\n".join(file.raw))
        raw = base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()
        info = {"filename": file.name, "language": "Dockerfile", "data": raw}
        places = {f"step{index}": {"locations": _location(op)} for index, op in enumerate(self._ops())}
        found["source"] = {"infos": [info], "locations": places}
        described = {
            f"step{index}:0": [[_describe(self.layers[op.key])]]
            for index, op in enumerate(self._ops())
            if op.key in self.layers
        }
        if described:
            found["layers"] = described
        return found

    def _steps(self) -> list[dict[str, Any]]:
        ops = list(self._ops())
        numbers = {op.key: f"step{index}" for index, op in enumerate(ops)}
        steps = []
        for op in ops:
            inputs = [
                numbers[point.key] for point in (op.parent, *op.sources.values()) if point.key in numbers
            ]
            step = {"id": numbers[op.key], "key": op.key, "name": redact(op.title)}
            steps.append({**step, "inputs": list(dict.fromkeys(inputs))})
        return steps

    def _ops(self) -> Iterator[Op]:
        """Every step that changes files, each once, in the file's order."""
        seen = set()
        for stage in self.plan.stages.values():
            for step in stage.steps:
                if step.op is not None and step.op.key not in seen:
                    seen.add(step.op.key)
                    yield step.op


def _location(op: Op) -> list[dict[str, Any]]:
    return [{"ranges": [{"start": {"line": op.lines.start}, "end": {"line": op.lines.end}}]}]


def _describe(layer: Layer) -> dict[str, Any]:
    return {"mediaType": layer.blob.media_type, "digest": str(layer.blob.digest), "size": layer.blob.size}


def list_materials(plan: Plan, facts: Facts) -> list[Material]:
    """The images that stages stand on or copy from, by digest; URLs and repositories; sorted."""
    found: dict[str, Material] = {}
    for stage in plan.stages.values():
        base = stage.node.base
        if isinstance(stage.base.image, Image):
            _add_image(found, base if isinstance(base, str) else "", stage.base.image)
        for step in stage.steps:
            if step.op is not None:
                _add_sources(found, step.op, facts)
    if facts.source:
        uri = redact(facts.source)
        found[uri] = Material(uri, facts.digests.get(facts.source, {}))
    return [found[uri] for uri in sorted(found)]


def _add_sources(found: dict[str, Material], op: Op, facts: Facts) -> None:
    for text, point in op.sources.items():
        bottom: Point = point
        if isinstance(bottom, Base) and bottom.image is not None:
            _add_image(found, text, bottom.image)
    for text in op.files:
        digest = facts.digests.get(text, {})
        if not digest and isinstance(op.act, CopyAct) and op.act.checksum:
            digest = _checksum(op.act.checksum)
        uri = redact(text)
        found[uri] = Material(uri, digest)


def _checksum(text: str) -> dict[str, str]:
    """What ``ADD --checksum`` compares: ``sha256:…`` of a file, or a commit."""
    algorithm, colon, rest = text.partition(":")
    return {algorithm: rest} if colon else {"sha1" if len(text) == 40 else "sha256": text}


def _add_image(found: dict[str, Material], name: str, image: Image) -> None:
    """``name`` as the Dockerfile says it; of a named context it is none."""
    for text in (name, *image.names, *image.digests):
        try:
            uri = image_purl(text, image.config.platform) if text else ""
        except CaisError:
            continue
        if uri:
            found[uri] = Material(uri, {image.id.algorithm: image.id.hex})
            return
    uri = f"pkg:oci/image@{image.id}"
    found[uri] = Material(uri, {image.id.algorithm: image.id.hex})
