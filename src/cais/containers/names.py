"""Container ids and names: the grammar, and random names for those who give none."""

import re
import secrets

from cais.errors import Invalid

_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+", re.ASCII)

_FIRST = """
amber ample azure blithe bold brave breezy bright brisk calm candid clever coastal copper coral cosy crisp dapper
deft eager early easy fair faithful fleet fond frank fresh gentle glad golden grand hardy hearty humble ivory jolly
keen kind lively loyal lucid merry mild mellow modest neat nimble noble patient placid plucky polite proud quick
quiet rapid ready ruddy sandy serene sharp silent silver sleek smart snug solid spry stable steady stout sturdy
sunny swift tidal tidy trim true upbeat vivid warm wise witty zesty
""".split()  # noqa: SIM905

_SECOND = """
anchor anvil barge beacon bollard bowline breeze brig buoy cable canal capstan caravel cargo channel chart clipper
coaster compass coracle crane crate current cutter delta dinghy dock dory ebb estuary ferry fjord galleon gangway
gull halyard harbor hawser helm hull inlet islet jetty junk keel ketch lagoon lantern launch lighter lugger
mainsail mariner marina mast mooring oar pallet pennant pier pilot pinnace port quay rigger rudder sampan schooner
sextant skiff sloop spar strait tender tide tiller trawler tugboat wharf winch windlass yawl
""".split()  # noqa: SIM905


def check_name(name: str) -> str:
    """``name`` without its leading slash. Raises Invalid, in Docker's words, for what is no container name."""
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        )
    return name.removeprefix("/")


def random_name(attempt: int = 0) -> str:
    """Two words of the harbour; from the second attempt on with a number behind them, so that it ends."""
    name = f"{secrets.choice(_FIRST)}_{secrets.choice(_SECOND)}"
    return f"{name}{secrets.randbelow(10**attempt)}" if attempt else name


def new_id() -> str:
    """64 hexadecimal digits; never with 12 decimal digits in front, which a host name may not be."""
    while True:
        text = secrets.token_hex(32)
        if not text[:12].isdecimal():
            return text
