"""Builds of one engine that fetch, without the rest of it."""

from pathlib import Path

from msgspec.structs import replace

from cais.build.context import Context, Index
from cais.build.dockerfile.evaluate import CopyAct
from cais.build.fetch.fetcher import Fetcher, Fetching
from cais.build.fetch.files import Files
from cais.build.request import BuildRequest


class Builds:
    """Each with its folder."""

    def __init__(self, fetcher: Fetcher, folder: Path) -> None:
        self._fetcher, self._folder, self._count = fetcher, folder, 0
        self.request = BuildRequest()

    def new(self) -> Fetching:
        """The next one."""
        self._count += 1
        folder = self._folder / f"build-{self._count}"
        folder.mkdir()
        return Fetching(self._fetcher, self.request, folder)

    async def look(self, url: str, **flags: object) -> Files:
        """What ADD gets in a new build."""
        act = CopyAct((url,), (), "/x/", is_add=True)
        return (await self.new().look(replace(act, **flags)))[url]  # type: ignore[arg-type]


def read_tree(index: Index) -> dict[str, str]:
    """By path what is there: a file's mode and text, a link's target, ``folder``."""
    tree = Context(index)
    found = {}
    try:
        for path, item in index.items.items():
            if item.node.is_folder:
                shown = "folder"
            elif item.node.link:
                shown = f"-> {item.node.link.decode()}"
            else:
                shown = f"{item.node.mode:o} {b''.join(tree.read(path)).decode('latin-1')}"
            found[path.decode("utf-8", "backslashreplace")] = shown
        return found
    finally:
        tree.close()
