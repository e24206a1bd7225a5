"""Which stages are needed, and what they stand on."""

import pytest

from cais.build.dockerfile.fault import DockerfileError
from cais.build.dockerfile.graph import Graph, make_graph
from cais.build.dockerfile.parse import parse_dockerfile
from cais.build.dockerfile.scope import make_scope, platform_args
from cais.spec.platform import parse_platform

HOST = parse_platform("linux/amd64")


def graph_of(text: str, target: str = "", **given: str) -> Graph:
    """The graph of a Dockerfile."""
    file = parse_dockerfile(text.encode())
    return make_graph(file, make_scope(file, given, platform_args(HOST, HOST)), target)


def test_stages_that_nothing_needs_are_dropped() -> None:
    """Only what the target leads to is built."""
    text = "FROM a AS one\nFROM b AS two\nFROM c AS three\nCOPY --from=one /x /\nFROM two\n"
    assert list(graph_of(text).nodes) == [1, 3]
    assert list(graph_of(text, "three").nodes) == [0, 2]
    assert graph_of(text, "0").images() == [("a", None)]


def test_names_numbers_and_images() -> None:
    """A from is a stage by name in any case, by number, or an image."""
    text = "FROM a AS one\nFROM one AS two\nCOPY --from=ONE x /\nCOPY --from=0 x /\nCOPY --from=img:1 x /\n"
    node = graph_of(text).nodes[1]
    assert node.base == 0 and node.sources == {"ONE": 0, "0": 0, "img:1": "img:1"}


def test_the_last_stage_of_a_name_counts_and_from_looks_back_only() -> None:
    """A FROM of its own name means the image; COPY --from looks at all stages."""
    text = "FROM busybox AS x\nFROM x AS b\nFROM other AS x\nFROM b\nCOPY --from=x f /\n"
    node = graph_of(text).nodes[3]
    assert graph_of(text).nodes[1].base == 0 and node.sources == {"x": 2}
    assert graph_of("FROM x AS x\n").nodes[0].base == "x"


def test_mounts_need_their_stages_too() -> None:
    """RUN --mount=from."""
    text = "FROM a AS one\nFROM b\nRUN --mount=from=one,target=/x true\n"
    assert list(graph_of(text).nodes) == [0, 1]


def test_arguments_choose_the_base_and_the_platform() -> None:
    """Given ones, defaults, automatic ones."""
    text = "ARG V=1\nARG B=a:${V}\nFROM --platform=$BUILDPLATFORM $B\n"
    assert graph_of(text).nodes[0].base == "a:1" and graph_of(text).nodes[0].platform == HOST
    assert graph_of(text, V="2").nodes[0].base == "a:2"
    assert graph_of(text, B="c").nodes[0].base == "c"


@pytest.mark.parametrize(
    ("text", "target", "message", "line"),
    [
        ("FROM a AS x\nCOPY --from=y / /\nFROM b AS y\nCOPY --from=x / /\n", "", "circular dependency", 3),
        ("FROM a AS x\nCOPY --from=x / /\n", "", "circular dependency", 1),
        ("FROM a\nCOPY --from=7 / /\n", "", "invalid stage index 7", 2),
        ("ARG B\nFROM $B\n", "", "should not be blank", 2),
        ("FROM A_b:!\n", "", "failed to parse stage name", 1),
        ("FROM a\nCOPY --from=$X / /\n", "", "variables are not possible", 2),
        ("FROM --platform=what/ a\n", "", "failed to parse platform", 1),
        ("FROM a AS build\n", "biuld", "did you mean build", 0),
    ],
)
def test_what_cannot_be_is_named_with_its_line(text: str, target: str, message: str, line: int) -> None:
    """Cycles, numbers, names, platforms, targets."""
    with pytest.raises(DockerfileError) as caught:
        graph_of(text, target)
    assert message in str(caught.value) and caught.value.lines.start == line


def test_two_hundred_stages_are_no_matter() -> None:
    """A chain of them, needed one by the other."""
    text = "FROM a AS s0\n" + "".join(f"FROM s{i} AS s{i + 1}\n" for i in range(1500))
    assert len(graph_of(text).nodes) == 1501
