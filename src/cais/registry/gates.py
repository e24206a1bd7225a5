"""The gate of a registry without accounts."""

from collections.abc import Iterable, Sequence

from cais.registry.base import Action, Caller


class OpenGate:
    """Everybody may do everything: a registry on loopback, or behind something that asks."""

    async def identify(self, authorization: str, address: str) -> Caller:
        """Nobody in particular."""
        return Caller(address=address, admin=True)

    async def check(self, caller: Caller, repository: str, action: Action) -> None:
        """It may."""

    async def visible(self, caller: Caller, names: Sequence[str]) -> list[str]:
        """All."""
        return list(names)

    def challenge(self, origin: str, repository: str, actions: Iterable[str]) -> str:
        """Never asked for."""
        return "Basic realm=cais"
