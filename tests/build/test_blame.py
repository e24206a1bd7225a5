"""An image that cannot be had is blamed on the line that asks for it."""

import pytest

from cais.build.dockerfile.graph import blame_image, make_graph
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.scope import make_scope

TEXT = """FROM base AS builder
FROM other
COPY --from=biulder x /
RUN --mount=type=bind,from=tools,target=/t x
"""


@pytest.mark.parametrize(
    ("image", "line", "hint"),
    [("base", 1, ""), ("other", 2, ""), ("biulder", 3, "did you mean builder?"), ("tools", 4, "")],
)
def test_the_line_that_names_it_is_shown(image: str, line: int, hint: str) -> None:
    """A stage that is called nearly so is what was meant."""
    file = parse_dockerfile(TEXT.replace("FROM other", "FROM other\nCOPY --from=builder / /b").encode())
    graph = make_graph(file, make_scope(file, {}, {}))
    error = blame_image(graph, image, f"{image} is not there")
    assert (error.lines.start, error.hint) == (line if line < 3 else line + 1, hint)
    assert f"Dockerfile:{error.lines.start}\n" in str(error) and f"{image} is not there" in str(error)


def test_what_the_base_images_triggers_name_has_no_line() -> None:
    """It is in no file."""
    file = parse_dockerfile(b"FROM a AS tools\n")
    error = blame_image(make_graph(file, make_scope(file, {}, {})), "toools", "gone")
    assert not error.lines.start and str(error) == "gone (did you mean tools?)"
