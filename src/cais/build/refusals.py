"""What a step may not ask for here, said before anything runs."""

import re

from cais.build.dockerfile.evaluate import Act, CopyAct, RunAct
from cais.build.request import BuildRequest
from cais.errors import Invalid, Unsupported

_URL = re.compile(r"(?:https?|ftp|ssh|git)://|git@")


def check_act(act: Act, request: BuildRequest) -> None:
    """Raises Unsupported, Invalid."""
    if isinstance(act, RunAct):
        _check_run(act, request)
    elif isinstance(act, CopyAct):
        _check_copy(act)


def _check_run(act: RunAct, request: BuildRequest) -> None:
    for mount in act.mounts:
        if mount.type == "ssh":
            raise Unsupported("RUN --mount=type=ssh is not supported: no agent is forwarded to this engine")
        if mount.type == "cache" and (mount.from_ or mount.source):
            raise Unsupported("RUN --mount=type=cache with from or source is not supported")
    if act.security == "insecure":
        raise Unsupported("RUN --security=insecure is not supported")
    if act.network == "host" and request.host.network_mode != "host":
        raise Invalid("network.host is not allowed: build with --network=host to allow RUN --network=host")


def _check_copy(act: CopyAct) -> None:
    for source in act.sources:
        if _URL.match(source):
            if not act.is_add:
                raise Invalid("source can't be a URL for COPY")
            raise Unsupported(
                f"ADD of a URL is not supported: fetch {source} in a RUN, or put it into the context"
            )
    if act.checksum:
        raise Invalid(
            "checksum can't be specified for COPY" if not act.is_add else "checksum requires HTTP(S) sources"
        )
    if len(act.sources) + len(act.inline) < 1:
        raise Invalid("there is nothing to copy")
