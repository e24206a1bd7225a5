"""How much one layer may ask for before it is taken for a bomb."""

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Bounds on one layer. A breach is Invalid and names the entry.

    ``max_entries``: entries plus implied folders; ``max_bytes``: the uncompressed stream, in bytes;
    ``max_ratio``: uncompressed by compressed bytes, asked only beyond ``ratio_floor`` uncompressed bytes, because
    a small layer of zeros is honest and compresses a thousandfold; ``max_path``: bytes of one name (it leaves the
    kernel's 4096 room for the folder in front); ``max_depth``: folders below each other.
    """

    max_entries: int = 4_000_000
    max_bytes: int = 512 << 30
    max_ratio: int = 200
    ratio_floor: int = 2 << 30
    max_path: int = 3500
    max_depth: int = 256


DEFAULT_LIMITS = Limits()
