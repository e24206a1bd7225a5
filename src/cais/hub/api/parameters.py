"""The parameters of the API: those in paths, by name, and those behind the question mark."""

from typing import Annotated

from msgspec import Meta

from cais.hub.api import bodies as b
from cais.hub.api.route import Parameter

N = Parameter("n", b.Count, "How many at most.", 25)
MANY = Parameter("n", Annotated[int, Meta(ge=1, le=10_000)], "How many at most.", 1000)
LAST = Parameter("last", Annotated[str, Meta(max_length=255)], "Where the page before ended: its `next`.", "")
FROM_LAST = Parameter(
    "last", Annotated[int, Meta(ge=0, le=1 << 53)], "Where the page before ended: its `next`.", 0
)
PAGE = Parameter("page", b.Page, "Which page, beginning with 1.", 1)
SIZE = Parameter("page_size", b.Count, "How many at most.", 25)
Q = Parameter("q", b.Line, "Words that name, description or labels have.", "")
PLATFORM = Parameter("platform", b.Line, "Of an index, the image for this platform: `os/architecture`.", "")
DAYS = Parameter("days", Annotated[int, Meta(ge=1, le=366)], "How many days, today the last.", 30)
TYPE = Parameter("type", b.Line, "Only those of this artifact type.", "")
BEFORE = Parameter("before", Annotated[int, Meta(ge=0, le=1 << 53)], "Only events older than this one.", 0)
OWNER = Parameter("account", b.Line, "Whose; others than one's own, for administrators of the hub.", "")
LAYER = Parameter(
    "layer",
    Annotated[int, Meta(ge=0, le=1000)],
    "Which layer, from the bottom; 0: all on top of each other.",
    0,
)
INSIDE = Parameter("path", Annotated[str, Meta(max_length=4096)], "A folder or file of the image.", "")
WHO = Parameter("account", b.Line, "Only what this account did.", "")
DID = Parameter("action", b.Line, "Only events of this kind: `push`, `tag`, `login`.", "")
FEW = Parameter("page", Annotated[int, Meta(ge=1, le=100)], "Which page, beginning with 1.", 1)
QUERY = Parameter("query", b.Line, "Words that name, description or labels have.", "")
PART = Parameter("name", b.Line, "Only tags with this in their name.", "")

Reference = Annotated[str, Meta(min_length=1, max_length=255)]
PATH: dict[str, Parameter] = {
    parameter.name: parameter
    for parameter in (
        Parameter(
            "name",
            b.Name,
            "A repository's name. Its slashes stand as they are, or as `%2F`; what belongs to the repository stands "
            "behind `/-/`, which no name has.",
        ),
        Parameter("tag", Annotated[str, Meta(min_length=1, max_length=128)], "A tag."),
        Parameter("ref", Reference, "A tag, or a digest."),
        Parameter("old", Reference, "The tag or digest that it was."),
        Parameter("new", Reference, "The tag or digest that it became."),
        Parameter(
            "digest",
            Annotated[str, Meta(min_length=1, max_length=255)],
            "The digest of a manifest, or of what is attached to one.",
        ),
        Parameter("namespace", b.Name, "A namespace: the first part of repositories' names."),
        Parameter("account", b.Name, "An account's name."),
        Parameter("id", b.Id, "A number."),
    )
}
