"""What is written beside an unpacked layer: its size, and what makes it depend on the layers below."""

import json
from dataclasses import asdict, dataclass

from cais.errors import Invalid
from cais.spec.digest import Digest, parse_digest


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """``size`` in bytes; ``implied``, ``assumed``, ``whiteouts``, ``hides_all`` as in AppliedLayer (overlayfs does not
    take an opaque mark on a root, so a stack is cut there); ``needs_lower``: the layer has no folder of its own;
    ``fit``: for a chain, what was made for it; ``boot``: the boot_id when it was written."""

    diff_id: Digest
    size: int = 0
    entries: int = 0
    implied: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    whiteouts: tuple[str, ...] = ()
    needs_lower: bool = False
    hides_all: bool = False
    fit: str = ""
    boot: str = ""

    def depends(self, *, bottom: bool) -> bool:
        """Whether it must be looked at together with the layers below; ``bottom``: there are none."""
        return bool(self.needs_lower or self.whiteouts or ((self.implied or self.assumed) and not bottom))


def format_record(record: LayerRecord) -> bytes:
    """JSON; names that are no UTF-8 survive as escaped surrogates."""
    return json.dumps(asdict(record), separators=(",", ":")).encode()


def parse_record(data: bytes) -> LayerRecord:
    """The inverse of ``format_record``. Raises Invalid."""
    try:
        raw = json.loads(data)
        return LayerRecord(
            diff_id=parse_digest(raw["diff_id"]),
            size=int(raw["size"]),
            entries=int(raw["entries"]),
            implied=tuple(raw["implied"]),
            assumed=tuple(raw["assumed"]),
            whiteouts=tuple(raw["whiteouts"]),
            needs_lower=bool(raw["needs_lower"]),
            hides_all=bool(raw["hides_all"]),
            fit=str(raw["fit"]),
            boot=str(raw["boot"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Invalid(f"invalid layer record: {error}") from error
