"""All that is to be attested of one result: the one door to this folder."""

from collections.abc import Callable, Mapping

from cais.build.attest.options import Attests
from cais.build.attest.provenance import Facts, make_provenance
from cais.build.attest.sbom import make_sbom
from cais.build.cache import CacheRecord, Layer, layer_of
from cais.build.export.result import Attestation, Result, Tools
from cais.build.plan import Plan
from cais.build.request import BuildRequest


def step_layers(plan: Plan, find: Callable[[str], CacheRecord | None]) -> dict[str, Layer]:
    """The layers of a plan's steps by key; ``find``: a step's record, wherever it is."""
    found = {}
    for stage in plan.stages.values():
        for step in stage.steps:
            record = find(step.op.key) if step.op is not None else None
            layer = layer_of(record) if record is not None else None
            if step.op is not None and layer is not None:
                found[step.op.key] = layer
    return found


async def make_attestations(
    attests: Attests,
    request: BuildRequest,
    made: tuple[Plan, Result, Mapping[str, Layer]],
    facts: Facts,
    tools: Tools,
) -> list[Attestation]:
    """``made``: one platform's plan, its result, and the layers of its steps by key. Raises Invalid, NotFound,
    Corrupt."""
    plan, result, layers = made
    found = []
    if attests.sbom is not None:
        name = request.names[0] if request.names else ""
        found.append(await make_sbom(attests.sbom, result, name, tools))
    if attests.provenance is not None:
        found.append(make_provenance(attests.provenance, request, plan, facts, layers))
    return found
