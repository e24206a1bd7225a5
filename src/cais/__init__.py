"""A container engine in Python; ``from cais import Engine`` talks to one."""

TYPE_CHECKING = False  # the command line imports this file at every start: nothing costly here
if TYPE_CHECKING:
    from cais.client.aio import AsyncEngine
    from cais.client.buildmodels import BuildError
    from cais.client.engine import Engine

__all__ = ["AsyncEngine", "BuildError", "Engine", "__version__"]
__version__ = "0.1.0"

_HOMES = {
    "AsyncEngine": "cais.client.aio",
    "BuildError": "cais.client.buildmodels",
    "Engine": "cais.client.engine",
}


def __getattr__(name: str) -> object:
    """Import the client the first time somebody asks for it (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'cais' has no attribute {name!r}")
    module = __import__(home, fromlist=[name])
    value = globals()[name] = getattr(module, name)
    return value
