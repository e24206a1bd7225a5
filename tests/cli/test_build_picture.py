"""The picture of a build: pure, the same every time, and never more than text and boxes."""

import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.cli.buildpicture import Picturing, draw, find_critical, format_time, order, read_nodes, split_name
from cais.cli.buildshow import Quiet
from cais.cli.failure import Failure

GOLDEN = Path(__file__).parent / "golden" / "picture.svg"
SECOND = 1_000_000_000
SVG = "{http://www.w3.org/2000/svg}"
Event = dict[str, Any]


def started(id: str, name: str, at: float = 0, *inputs: str) -> Event:
    return {"type": "started", "id": id, "name": name, "at": int(at * SECOND), "inputs": list(inputs)}


def done(id: str, at: float, *, cached: bool = False, error: str = "") -> Event:
    return {"type": "done", "id": id, "at": int(at * SECOND), "cached": cached, "error": error}


BUILD = [
    started("d", "[internal] load build definition from Dockerfile", 0),
    done("d", 0.01),
    started("b", "[build 1/3] FROM docker.io/library/busybox:latest", 0.02),
    done("b", 0.02, cached=True),
    started("b", "[stage-1 1/3] FROM docker.io/library/busybox:latest", 0.02),
    done("b", 0.02, cached=True),
    started("c", "[build 2/3] COPY . /src", 0.02, "b"),
    done("c", 0.02, cached=True),
    started("r", "[build 3/3] RUN make && make install", 0.02, "c"),
    started("q", "[stage-1 2/3] RUN apt-get install -y this and that and more", 0.02, "b"),
    done("q", 2),
    done("r", 3),
    started("x", "[stage-1 3/3] COPY --from=build /out /out", 3, "q", "r"),
    done("x", 3.1),
    started("e", "exporting to image", 3.1),
    done("e", 3.2),
]


def test_the_picture_is_the_one_that_was_looked_at() -> None:
    """Byte for byte; CAIS_GOLDEN=1 writes it anew, for eyes to judge."""
    made = draw(BUILD)
    if os.environ.get("CAIS_GOLDEN"):
        GOLDEN.write_text(made)
    assert made == GOLDEN.read_text() == draw(BUILD)


def test_lanes_columns_and_the_longest_way() -> None:
    """A stage is a row, what stands on others is right of them, and the slowest chain is marked."""
    made = draw(BUILD)
    assert find_critical(read_nodes(BUILD)) == {"r", "x"}
    root = ET.fromstring(made)
    lanes = [each.text for each in root.iter(f"{SVG}text") if each.get("class") == "lane"]
    assert lanes == ["build", "stage-1", "around it"]
    boxes = {
        (group.findtext(f"{SVG}title") or "").split("\n")[0]: group.find(f"{SVG}rect")
        for group in root.iter(f"{SVG}g")
    }
    assert len(boxes) == 7
    places = {name: (box.get("x"), box.get("y")) for name, box in boxes.items() if box is not None}
    assert len(set(places.values())) == 7
    hot = [
        box.get("class") for box in boxes.values() if box is not None and "hot" in (box.get("class") or "")
    ]
    assert len(hot) == 2
    edges = [each.get("class") for each in root.iter(f"{SVG}path")]
    assert edges.count("edge hot") == 1 and len(edges) == 5


HOSTILE = [
    "</text><script>alert(1)</script>",
    '"><image href="http://h/x"/>',
    "a & b &lt; ]]> <!-- x",
    "\x00\x08\x1b[31m\u202e\ufffe\udcff\n\t",
    "[x 1/2] <![CDATA[",
    "[" + "9" * 3000 + "/2] x",
    "[a\x07 <b> 1/2] y",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(name: str) -> None:
    """Whatever is in a Dockerfile: no element, no attribute, no reference comes of it."""
    made = draw([started("1", name), done("1", 1, error=f"failed {name}")])
    root = ET.fromstring(made.encode())
    assert {each.tag.removeprefix(SVG) for each in root.iter()} <= {
        "svg",
        "style",
        "rect",
        "text",
        "g",
        "title",
    }
    names = {name for each in root.iter() for name in each.attrib}
    assert not {each for each in names if each.startswith("on") or "href" in each}


_events = st.lists(
    st.one_of(
        st.builds(
            lambda id, name, at, inputs: started(id, name, at, *inputs),
            st.sampled_from("abcdef"),
            st.sampled_from(["[s 1/2] RUN", "[t 2/3] COPY", "x", "[internal] y"]) | st.text(max_size=5),
            st.integers(0, 9),
            st.lists(st.sampled_from("abcdef"), max_size=3),
        ),
        st.builds(done, st.sampled_from("abcdef"), st.integers(0, 9)),
    ),
    max_size=20,
)


@given(_events)
def test_any_events_make_a_picture(events: list[Event]) -> None:
    """Circles, strangers, ends without beginnings; and no box lies on another."""
    root = ET.fromstring(draw(events).encode())
    places = [
        (box.get("x"), box.get("y"))
        for group in root.iter(f"{SVG}g")
        for box in group.findall(f"{SVG}rect")[:1]
    ]
    assert len(places) == len(set(places)) == len(read_nodes(events))
    nodes = read_nodes(events)
    assert sorted(node.id for node in order(nodes)) == sorted(node.id for node in nodes)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("[build 2/5] RUN x", ("build", "RUN x")),
        ("[2/5] RUN x", ("steps", "RUN x")),
        ("[linux/amd64 build 2/5] RUN x", ("linux/amd64 build", "RUN x")),
        ("[internal] load build context", ("around it", "load build context [internal]")),
        ("exporting to image", ("around it", "exporting to image")),
        ("[a/b] x", ("around it", "x [a/b]")),
    ],
)
def test_names_of_steps(name: str, parts: tuple[str, str]) -> None:
    """Lane and text."""
    assert split_name(name) == parts


def test_times() -> None:
    """Short, whatever they are."""
    texts = [format_time(int(each * SECOND)) for each in (0, 0.123, 12.34, 125)]
    assert texts == ["0.00 s", "0.12 s", "12.3 s", "2 min 5 s"]


def test_the_file_is_whole_or_not_there(tmp_path: Path) -> None:
    """Also where the build failed; a place that cannot be is refused before anything is built."""
    view = Picturing(Quiet(), str(tmp_path / "out.svg"))
    for event in BUILD[:4]:
        view.show(event)
    view.end()
    view.end()
    assert [path.name for path in tmp_path.iterdir()] == ["out.svg"]
    ET.parse(tmp_path / "out.svg")
    with pytest.raises(Failure, match="is no folder"):
        Picturing(Quiet(), str(tmp_path / "no" / "out.svg"))
    Picturing(Quiet(), str(tmp_path / "none.svg")).end()
    assert not (tmp_path / "none.svg").exists()
