"""Tables and cells, from the API's answers to docker 28's texts."""

from typing import Any

import pytest

from cais.cli.explain import format_explain
from cais.cli.images import split_names
from cais.cli.main import run
from cais.cli.progress import format_bar, format_pace, format_span
from cais.cli.ps import format_image, format_ports
from cais.cli.table import format_table

CONTAINER = {
    "Id": "a7" * 32,
    "Names": ["/web", "/other/alias"],
    "Image": "busybox",
    "ImageID": "sha256:" + "b1" * 32,
    "Command": "sh -c 'echo \"hi\" and more'",
    "Created": 0,
    "Ports": [{"PrivatePort": 80, "Type": "tcp"}],
    "State": "running",
    "Status": "Up 2 hours",
    "Labels": {"b": "2", "a": "1"},
    "Mounts": [{"Name": "data", "Driver": "local"}],
    "NetworkSettings": {"Networks": {"bridge": {}}},
}


@pytest.fixture
def host(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripted engine as this process's host."""
    monkeypatch.setenv("CAIS_HOST", engine.host)
    return engine


def answer(engine: Any, key: str, value: Any, status: int = 200, **headers: str) -> None:
    """Script one answer; the class is the fixture's own."""
    engine.answers[key] = type(engine.answers["HEAD /_ping"])(status, value, headers)


def test_ps_table(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The table's columns are docker's, at docker's widths."""
    answer(host, "GET /containers/json", [CONTAINER])
    assert run(["ps"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("   ")[0] == "CONTAINER ID" and head.endswith("NAMES")
    assert row.startswith('a7a7a7a7a7a7   busybox   "sh -c \'echo \\"hi\\" an…"   ')
    assert row.endswith("Up 2 hours   80/tcp    web")


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Names}} {{.Labels}} {{.Mounts}} {{.Networks}}", "web a=1,b=2 data bridge\n"),
        ('{{.Label "a"}}', "1\n"),
        ("table {{.ID}}\\t{{.State}}", "CONTAINER ID   STATE\na7a7a7a7a7a7   running\n"),
        ("{{.ID}}|{{len .Names}}", "a7a7a7a7a7a7|3\n"),
    ],
)
def test_ps_template(template: str, text: str, host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Templates see docker's fields."""
    answer(host, "GET /containers/json", [CONTAINER])
    assert run(["ps", "--format", template]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("argv", "query"),
    [
        (["-a"], {"all": ["1"]}),
        (["-n", "3"], {"all": ["1"], "limit": ["3"]}),
        (["-l"], {"all": ["1"], "limit": ["1"]}),
        (["-s"], {"size": ["1"]}),
        (["-f", "status=up", "-f", "status=x"], {"filters": ['{"status":{"up":true,"x":true}}']}),
    ],
)
def test_ps_query(argv: list[str], query: dict[str, list[str]], host: Any) -> None:
    """Flags become the API's parameters."""
    answer(host, "GET /containers/json", [])
    run(["ps", "-q", *argv])
    assert host.of("GET /containers/json")[0].query == query


def port(private: int, public: int = 0, ip: str = "", kind: str = "tcp") -> dict[str, Any]:
    found = {"PrivatePort": private, "Type": kind, "IP": ip, "PublicPort": public}
    return {key: value for key, value in found.items() if value}


@pytest.mark.parametrize(
    ("ports", "text"),
    [
        ([], ""),
        ([port(80)], "80/tcp"),
        ([port(80), port(81), port(83)], "80-81/tcp, 83/tcp"),
        ([port(80, 80, "0.0.0.0"), port(80, 80, "::")], "0.0.0.0:80->80/tcp, [::]:80->80/tcp"),
        ([port(80, 80, "0.0.0.0"), port(81, 81, "0.0.0.0")], "0.0.0.0:80-81->80-81/tcp"),
        (
            [port(80, 8080, "0.0.0.0"), port(81, 8081, "0.0.0.0")],
            "0.0.0.0:8080->80/tcp, 0.0.0.0:8081->81/tcp",
        ),
        ([port(53, 53, "1.2.3.4", "udp"), port(54, kind="udp")], "1.2.3.4:53->53/udp, 54/udp"),
        (
            [port(80, 8080, "0.0.0.0"), port(443, 443, "0.0.0.0")],
            "0.0.0.0:443->443/tcp, 0.0.0.0:8080->80/tcp",
        ),
    ],
)
def test_format_ports(ports: list[dict[str, Any]], text: str) -> None:
    """Docker's PORTS cell: ranges where numbers agree inside and outside, mapped ones last."""
    assert format_ports(ports) == text


def test_image_cell() -> None:
    """An image that lost its name is shown by its short id; a digest is left out."""
    assert format_image({**CONTAINER, "Image": "sha256:" + "b1" * 32}, whole=False) == "b1b1b1b1b1b1"
    assert format_image({**CONTAINER, "Image": "a@sha256:" + "b1" * 32}, whole=False) == "a"
    assert format_image({**CONTAINER, "Image": ""}, whole=False) == "<no image>"


def test_image_rows() -> None:
    """One row a tag; without a tag one row that says so, with its repository if a digest tells it."""
    image = {"Id": "x", "RepoTags": ["h:5000/a:1", "b:2"], "RepoDigests": ["b@sha256:d"]}
    rows = [(row["Repository"], row["Tag"], row["Digest"]) for row in split_names(image, digests=True)]
    assert rows == [("h:5000/a", "1", "<none>"), ("b", "2", "sha256:d")]
    (bare,) = split_names({"Id": "x", "RepoTags": None, "RepoDigests": ["c@sha256:d"]}, digests=False)
    assert (bare["Repository"], bare["Tag"]) == ("c", "<none>")


def test_table_widths() -> None:
    """A column is its longest cell and three blanks wide, ten at least; the last is not padded."""
    assert (
        format_table([["A", "B", "C"], ["x" * 9, "y", "z"]])
        == "A           B         C\n" + "x" * 9 + "   y         z\n"
    )


def test_inspect_finds_any_kind(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`inspect` looks among containers, images, networks, volumes; what is missing is said after the rest."""
    answer(host, "GET /volumes/data", {"Name": "data"})
    assert run(["inspect", "data", "nope"]) == 1
    captured = capsys.readouterr()
    assert captured.out == '[\n    {\n        "Name": "data"\n    }\n]\n'
    assert captured.err == "Error: No such object: nope\n"


def test_names_are_escaped(host: Any) -> None:
    """A name cannot reach another path or add parameters."""
    run(["inspect", "--type", "container", "a b?x=1#/../%"])
    assert host.requests[0].path == "/containers/a%20b%3Fx%3D1%23/../%25/json"


@pytest.mark.parametrize(
    ("leaks", "code"), [([], 0), (["mount /x"], 1), ({"cgroups": ["/a"], "links": []}, 1)]
)
def test_system_check(leaks: Any, code: int, host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`system check` exits 1 if the engine names anything left behind."""
    answer(host, "GET /cais/system/check", {"Leaks": leaks})
    assert run(["system", "check"]) == code
    assert "left behind" in capsys.readouterr().out


def test_bootstrap_progress(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe progress is plain lines, without bars; an error in the stream is the command's."""
    lines = b'{"status":"Fetching","id":"p","progressDetail":{"current":1,"total":2}}\r\n'
    lines += (
        b'{"status":"Done","id":"p"}\r\n{"stream":"ok\\n"}\r\n{"errorDetail":{"message":"no mirror"}}\r\n'
    )
    answer(host, "POST /cais/images/bootstrap", lines)
    assert run(["image", "bootstrap", "busybox"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "p: Done\nok\n" and captured.err == "no mirror\n"
    assert host.requests[0].query == {"name": ["busybox"]}


def test_bar() -> None:
    """A bar moves from empty to full and never beyond."""
    assert format_bar({}) == ""
    assert format_bar({"current": 1, "total": 2}).endswith("50%") and ">" in format_bar(
        {"current": 1, "total": 2}
    )
    assert format_bar({"current": 9, "total": 2}) == f" [{'=' * 30}] 100%"


def test_pace() -> None:
    """Rate and time left, once there is something to say; nothing when it is over or has not begun."""
    assert format_pace(30_000_000, 60_000_000, 2.0) == "  15MB/s  4s left"
    assert format_pace(1000, 500_000, 1.0) == "  1kB/s  8m20s left"
    assert [format_pace(0, 9, 5.0), format_pace(9, 0, 5.0), format_pace(9, 9, 0.1)] == ["", "", ""]
    assert [format_span(each) for each in (0, 59, 61, 7380)] == ["0s", "59s", "1m01s", "2h03m"]


def test_explain_is_one_screen() -> None:
    """Whatever parts the engine sends become headings and lines."""
    text = format_explain(
        {"Id": "a", "namespaces": {"pid": "own"}, "mounts": [{"to": "/", "ro": True}]}, bold=False
    )
    assert text == "Id: a\n\nNamespaces\n  pid  own\n\nMounts\n  /  yes\n"


def test_no_image_says_how(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing image that cannot be pulled names the verb that makes one; run's exit code is 125."""
    answer(host, "POST /containers/create", {"message": "No such image: busybox:latest"}, 404)
    answer(host, "POST /images/create", {"message": "dial tcp: no such host"}, 503)
    assert run(["run", "-d", "busybox"]) == 125
    text = capsys.readouterr().err
    assert (
        text.startswith("Unable to find image 'busybox:latest' locally\n")
        and "cais image bootstrap busybox" in text
        and "no such host" in text
    )


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ('exec: "x": executable file not found in $PATH', 127),
        ("stat /x: no such file or directory", 127),
        ('exec: "/etc": permission denied', 126),
        ("something else", 125),
    ],
)
def test_start_failures(message: str, code: int, host: Any) -> None:
    """Docker's exit codes for a program that cannot be run."""
    target = host.answers["POST /containers/create"].value["Id"]
    answer(host, f"POST /containers/{target}/start", {"message": message}, 400)
    assert run(["run", "-d", "busybox"]) == code


def test_cidfile(host: Any, tmp_path: Any) -> None:
    """The id is written once; a second run with the same file is refused before anything is sent."""
    path = tmp_path / "cid"
    assert run(["create", "--cidfile", str(path), "busybox"]) == 0
    assert path.read_text() == host.answers["POST /containers/create"].value["Id"]
    host.requests.clear()
    assert run(["create", "--cidfile", str(path), "busybox"]) == 1 and not host.requests


def test_warnings(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What the engine warns of is said on stderr."""
    answer(host, "POST /containers/create", {"Id": "x", "Warnings": ["careful"]}, 201)
    run(["create", "busybox"])
    assert capsys.readouterr().err == "WARNING: careful\n"


def test_rm_goes_on(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """One container that cannot be removed does not keep the others."""
    answer(host, "DELETE /containers/b", None, 204)
    answer(host, "DELETE /containers/a", {"message": "busy"}, 409)
    assert run(["rm", "a", "b"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "b\n" and captured.err == "Error response from daemon: busy\n"


def test_save_leaves_nothing_half_made(host: Any, tmp_path: Any) -> None:
    """A refused save makes no file; a complete one has its content under its name."""
    path = tmp_path / "x.tar"
    assert run(["save", "-o", str(path), "nope"]) == 1 and not list(tmp_path.glob("x.tar*"))
    answer(host, "GET /images/get", b"tar bytes")
    assert run(["save", "-o", str(path), "a", "b"]) == 0 and path.read_bytes() == b"tar bytes"
    assert host.of("GET /images/get")[-1].query == {"names": ["a", "b"]}


def test_load_sends_the_file(host: Any, tmp_path: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """The archive goes out in chunks, unchanged; the answer's messages are shown."""
    (tmp_path / "x.tar").write_bytes(b"z" * 3_000_000)
    answer(
        host,
        "POST /images/load",
        b'{"stream":"Loaded image: a:1\\n"}\n',
        **{"Content-Type": "application/json"},
    )
    assert run(["load", "-i", str(tmp_path / "x.tar")]) == 0
    assert capfd.readouterr().out == "Loaded image: a:1\n"
    assert host.of("POST /images/load")[0].body == b"z" * 3_000_000


def test_import_splits_the_name(host: Any, tmp_path: Any) -> None:
    """A port in the registry's name is no tag."""
    (tmp_path / "x.tar").write_bytes(b"t")
    answer(host, "POST /images/create", b'{"status":"sha256:1"}\n')
    run(["import", "-c", "CMD a", "-c", "USER b", str(tmp_path / "x.tar"), "h:5000/a/b"])
    query = host.of("POST /images/create")[0].query
    assert query == {"fromSrc": ["-"], "repo": ["h:5000/a/b"], "changes": ["CMD a", "USER b"]}
