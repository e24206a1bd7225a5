"""Host folders that binds come from, made just before the start where ``-v`` says so."""

from pathlib import Path

from cais.containers.record import MountPoint
from cais.errors import Invalid


def ensure_source(point: MountPoint) -> None:
    """Make the missing folder of a ``-v``; raise Invalid, in Docker's words, for any other bind whose source has
    gone."""
    source = Path(point.source)
    if point.type != "bind" or source.exists():
        return
    if not point.create_source:
        raise Invalid(f'invalid mount config for type "bind": bind source path does not exist: {source}')
    try:
        source.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise Invalid(
            f"error while creating mount source path '{source}': mkdir {source}: {reason}"
        ) from error
