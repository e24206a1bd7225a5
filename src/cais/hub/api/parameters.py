"""The parameters of the API: those in paths, by name, and those behind the question mark."""

from typing import Annotated

from msgspec import Meta

from cais.hub.api import bodies as b
from cais.hub.api.route import Parameter

N = Parameter("n", b.Count, "How many at most.", 25)
LAST = Parameter("last", Annotated[str, Meta(max_length=255)], "Where the page before ended: its `next`.", "")
PAGE = Parameter("page", b.Page, "Which page, beginning with 1.", 1)
SIZE = Parameter("page_size", b.Count, "How many at most.", 25)
Q = Parameter("q", b.Line, "Words that name, description or labels have.", "")
PLATFORM = Parameter("platform", b.Line, "Of an index, the image for this platform: `os/architecture`.", "")
DAYS = Parameter("days", Annotated[int, Meta(ge=1, le=366)], "How many days, today the last.", 30)
TYPE = Parameter("type", b.Line, "Only those of this artifact type.", "")
BEFORE = Parameter("before", Annotated[int, Meta(ge=0, le=1 << 53)], "Only events older than this one.", 0)
OWNER = Parameter("account", b.Line, "Whose; others than one's own, for administrators of the hub.", "")
FEW = Parameter("page", Annotated[int, Meta(ge=1, le=100)], "Which page, beginning with 1.", 1)
QUERY = Parameter("query", b.Line, "Words that name, description or labels have.", "")
PART = Parameter("name", b.Line, "Only tags with this in their name.", "")

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
        Parameter("digest", Annotated[str, Meta(min_length=1, max_length=255)], "A manifest's digest."),
        Parameter("namespace", b.Name, "A namespace: the first part of repositories' names."),
        Parameter("account", b.Name, "An account's name."),
        Parameter("id", b.Id, "A number."),
    )
}
