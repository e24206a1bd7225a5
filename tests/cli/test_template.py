"""Go templates as far as --format needs them; expected texts are docker 28's own output."""

from typing import Any

import pytest

from cais.cli.failure import Failure
from cais.cli.template import Template

VALUE = {
    "Name": "/web",
    "Id": "abcdef0123456789",
    "State": {"Status": "running", "Pid": 42, "Running": True, "Paused": False},
    "Config": {"Env": ["A=1", "B=2"], "Labels": {"b": "2", "a": "1"}, "Cmd": None},
    "Ports": {"80/tcp": [{"HostPort": "8080"}], "53/udp": None},
    "Mounts": [{"Name": "v", "Destination": "/d"}],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "/web"),
        ("x{{.State.Status}}y", "xrunningy"),
        ("{{.ID}}", "abcdef0123456789"),
        ("{{.State.Pid}} {{.State.Running}}", "42 true"),
        ("{{json .Config.Env}}", '["A=1","B=2"]'),
        ("{{.Config.Env}} {{.Config.Labels}}", "[A=1 B=2] map[a:1 b:2]"),
        ("{{.Config.Cmd}}", "<no value>"),
        ("{{range .Config.Env}}{{.}},{{end}}", "A=1,B=2,"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a=1;b=2;"),
        ("{{range $i, $m := .Mounts}}{{$i}}{{$m.Name}}{{end}}", "0v"),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .State.Paused}}p{{else if .State.Running}}r{{else}}x{{end}}", "r"),
        ('{{if and .State.Running (eq .State.Status "running")}}y{{end}}', "y"),
        ("{{with .State}}{{.Status}} {{$.Name}}{{end}}", "running /web"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        ('{{index .Config.Labels "a"}}', "1"),
        ('{{join .Config.Env "|"}}', "A=1|B=2"),
        ('{{.Name | upper | printf "%s!"}}', "/WEB!"),
        ("{{slice .Id 0 12}}", "abcdef012345"),
        ('{{split "a,b" ","}}', "[a b]"),
        ("{{len .Mounts}} {{not .State.Paused}}", "1 true"),
        ('{{printf "%s-%d %q" .Name .State.Pid "x"}}', '/web-42 "x"'),
        ("{{println .Name}}", "/web\n"),
        ("{{title .State.Status}} {{truncate .Id 3}}", "Running abc"),
        ("a {{- 1 -}} b", "a1b"),
        ("{{/* nothing */}}x", "x"),
        ('{{"}}"}}', "}}"),
        ("{{.State.Pid | json}}", "42"),
        ("{{$x := .Name}}{{$x}}{{$x}}", "/web/web"),
        ("no actions", "no actions"),
        ("", ""),
    ],
)
def test_render(template: str, text: str) -> None:
    """The template gives what docker gives."""
    assert Template(template).render(VALUE) == text


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{.Name", "unclosed action"),
        ("{{nope .Name}}", 'function "nope" not defined'),
        ("{{range .Name}}", "unexpected EOF"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{(.Name}}", "unclosed left paren"),
        ('{{"a}}', "unclosed action"),
        ("{{.Name |}}", "missing value"),
        ("{{.a-b}}", "in operand"),
    ],
)
def test_not_a_template(template: str, words: str) -> None:
    """A malformed template is refused with exit code 64, as docker does."""
    with pytest.raises(Failure, match="template parsing error") as caught:
        Template(template)
    assert words in caught.value.message and caught.value.code == 64


@pytest.mark.parametrize(
    "template",
    ["{{.Nope}}", "{{.State.Nope}}", "{{.Name.Nope}}", "{{index .Mounts 7}}", "{{.Name 1}}", "{{$x}}"],
)
def test_cannot_render(template: str) -> None:
    """What does not exist is an error with exit code 1, never an empty text."""
    with pytest.raises(Failure) as caught:
        Template(template).render(VALUE)
    assert caught.value.code == 1


def test_lenient() -> None:
    """Where objects differ in shape (events) a missing field is no error."""
    assert Template("{{.A.B}}", strict=False).render({"A": {}}) == "<no value>"


@pytest.mark.parametrize("value", [{}, {"x": 1}, None])
def test_missing_in_odd_values(value: Any) -> None:
    """A field of what is no object is an error, not a crash."""
    with pytest.raises(Failure):
        Template("{{.a.b}}").render(value)
