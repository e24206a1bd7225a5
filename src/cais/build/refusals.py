"""What a step may not ask for here, said before anything runs."""

import re

from cais.build.chmod import parse_chmod
from cais.build.dockerfile.evaluate import Act, CopyAct, RunAct
from cais.build.fetch.sources import (
    GitSource,
    Source,
    is_remote,
    parse_checksum,
    parse_source,
    with_flags,
)
from cais.build.request import BuildRequest
from cais.errors import Invalid

_OTHER_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def check_act(act: Act, request: BuildRequest) -> None:
    """Raises Invalid."""
    if isinstance(act, RunAct):
        _check_run(act, request)
    elif isinstance(act, CopyAct):
        _check_copy(act)


def _check_run(act: RunAct, request: BuildRequest) -> None:
    if act.security == "insecure" and "security.insecure" not in request.entitlements:
        raise Invalid(
            "security.insecure is not allowed: build with --allow security.insecure to give RUN "
            "--security=insecure all rights on this machine"
        )
    allowed = request.host.network_mode == "host" or "network.host" in request.entitlements
    if act.network == "host" and not allowed:
        raise Invalid(
            "network.host is not allowed: build with --allow network.host, or --network=host, to allow RUN "
            "--network=host"
        )


def _check_copy(act: CopyAct) -> None:
    remote = [source for source in map(parse_source, act.sources) if source]
    for text in act.sources:
        if _OTHER_SCHEME.match(text) and not is_remote(text):
            raise Invalid(f"source {text} cannot be fetched: ADD knows http, https, git and ssh")
    if remote and not act.is_add:
        kind = "a git ref" if isinstance(remote[0], GitSource) else "a URL"
        raise Invalid(f"source can't be {kind} for COPY: use ADD")
    if act.checksum:
        _check_checksum(act, remote)
    if len(act.sources) + len(act.inline) < 1:
        raise Invalid("there is nothing to copy")
    if act.chmod:
        parse_chmod(act.chmod)


def _check_checksum(act: CopyAct, remote: list[Source]) -> None:
    if not act.is_add:
        raise Invalid("checksum can't be specified for COPY")
    if len(act.sources) != 1:
        raise Invalid("checksum can't be specified for multiple sources")
    if not remote:
        raise Invalid("checksum requires HTTP(S) or Git sources")
    if isinstance(remote[0], GitSource):
        with_flags(remote[0], keep_git_dir=act.keep_git_dir, checksum=act.checksum)
    else:
        parse_checksum(act.checksum)
