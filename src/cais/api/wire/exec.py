"""Docker's JSON for execs."""

import msgspec

from cais.api.wire.base import Wire
from cais.containers.exec import Exec


class ProcessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What runs; lower-case names in Docker's JSON."""

    tty: bool
    entrypoint: str
    arguments: tuple[str, ...]
    privileged: bool
    user: str | msgspec.UnsetType = msgspec.UNSET


class ExecReply(Wire, frozen=True, kw_only=True):
    """``GET /exec/{id}/json``."""

    id: str = msgspec.field(name="ID")
    running: bool
    exit_code: int | None
    process_config: ProcessConfig
    open_stdin: bool
    open_stderr: bool
    open_stdout: bool
    can_remove: bool
    container_id: str = msgspec.field(name="ContainerID")
    detach_keys: str
    pid: int


def exec_reply(found: Exec) -> ExecReply:
    """``found`` for clients."""
    config = found.config
    return ExecReply(
        id=found.id,
        running=found.running,
        exit_code=found.exit_code,
        process_config=ProcessConfig(
            tty=config.tty,
            entrypoint=config.cmd[0] if config.cmd else "",
            arguments=config.cmd[1:],
            privileged=config.privileged,
            user=config.user or msgspec.UNSET,
        ),
        open_stdin=config.attach_stdin,
        open_stderr=config.attach_stderr,
        open_stdout=config.attach_stdout,
        can_remove=False,
        container_id=found.container_id,
        detach_keys=config.detach_keys,
        pid=found.pid,
    )
