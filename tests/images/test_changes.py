"""``--change`` follows the Dockerfile rules and Docker's messages."""

import pytest

from cais.errors import Invalid
from cais.images.changes import apply_changes, parse_duration_ns
from cais.spec.image import ContainerDefaults, Healthcheck

BASE = ContainerDefaults(env=("PATH=/bin", "A=1"), cmd=("old",), working_dir="/srv", labels={"x": "y"})


@pytest.mark.parametrize(
    ("change", "field", "want"),
    [
        ('CMD ["a", "b c"]', "cmd", ("a", "b c")),
        ("cmd echo  $HOME", "cmd", ("/bin/sh", "-c", "echo  $HOME")),
        ("CMD ['a']", "cmd", ("/bin/sh", "-c", "['a']")),
        ("CMD []", "cmd", ()),
        ('ENTRYPOINT ["/init"]', "entrypoint", ("/init",)),
        ("ENV B=2 C='3 4'", "env", ("PATH=/bin", "A=1", "B=2", "C=3 4")),
        ("ENV A=2 B=$A", "env", ("PATH=/bin", "A=2", "B=1")),
        ("ENV B the rest", "env", ("PATH=/bin", "A=1", "B=the rest")),
        ("ENV B=${A}${X:-d}${A:+e}\\$A", "env", ("PATH=/bin", "A=1", "B=1de$A")),
        ("ENV B='$A'\"$A\"", "env", ("PATH=/bin", "A=1", "B=$A1")),
        ("EXPOSE 80 53/udp", "exposed_ports", {"80/tcp": {}, "53/udp": {}}),
        ("EXPOSE 1-2", "exposed_ports", {"1/tcp": {}, "2/tcp": {}}),
        ("LABEL a=b\\ c 'd e'=f", "labels", {"x": "y", "a": "b c", "d e": "f"}),
        ("USER $A:2", "user", "1:2"),
        ("VOLUME /a /b", "volumes", {"/a": {}, "/b": {}}),
        ('VOLUME ["/a b"]', "volumes", {"/a b": {}}),
        ("WORKDIR sub", "working_dir", "/srv/sub"),
        ("WORKDIR /x/../y/", "working_dir", "/y"),
        ("STOPSIGNAL SIGRTMIN+3", "stop_signal", "SIGRTMIN+3"),
        ("ONBUILD RUN  make", "on_build", ("RUN  make",)),
        ("HEALTHCHECK NONE", "healthcheck", Healthcheck(test=("NONE",))),
        (
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl x",
            "healthcheck",
            Healthcheck(test=("CMD-SHELL", "curl x"), interval=90 * 10**9, retries=2),
        ),
        ('HEALTHCHECK CMD ["a"]', "healthcheck", Healthcheck(test=("CMD", "a"))),
        ("LABEL a=1 \\\n  b=2", "labels", {"x": "y", "a": "1", "b": "2"}),
    ],
)  # fmt: skip
def test_an_instruction_changes_its_field(change: str, field: str, want: object) -> None:
    """Each instruction sets what the Dockerfile reference says."""
    assert getattr(apply_changes(BASE, [change]), field) == want


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("RUN make", "RUN is not a valid change command"),
        ("FROM x", "FROM is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=1 B", "can't find = in 'B'"),
        ("ENV =1", "ENV names can not be blank"),
        ("ENV A='x", "matching single-quote"),
        ("LABEL", "LABEL requires at least one argument"),
        ("EXPOSE eighty", "invalid containerPort: eighty"),
        ("EXPOSE 80/xyz", "invalid proto: xyz"),
        ("EXPOSE 70000", "invalid containerPort: 70000"),
        ("USER a b", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("STOPSIGNAL SIGNONE", "invalid signal: SIGNONE"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("HEALTHCHECK PING x", "Unknown type"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK --interval=1us CMD x", "cannot be less than 1ms"),
        ("HEALTHCHECK --often CMD x", "unknown flag: --often"),
    ],
)
def test_a_wrong_instruction_is_refused(change: str, message: str) -> None:
    """The message says what is wrong, in Docker's words."""
    with pytest.raises(Invalid, match=message):
        apply_changes(BASE, [change])


def test_a_new_entrypoint_drops_the_old_command() -> None:
    """ENTRYPOINT alone clears CMD; a CMD among the changes stays, wherever it stands."""
    assert apply_changes(BASE, ["ENTRYPOINT /e"]).cmd == ()
    assert apply_changes(BASE, ['CMD ["c"]', "ENTRYPOINT /e"]).cmd == ("c",)
    assert apply_changes(BASE, ["ENTRYPOINT /e", 'CMD ["c"]']).cmd == ("c",)


@pytest.mark.parametrize(
    ("text", "want"), [("1h", 3600), ("1m30s", 90), (".5s", 0.5), ("1.5h", 5400), ("0", 0)]
)
def test_durations_are_go_s(text: str, want: float) -> None:
    """Durations read as Go's time.ParseDuration reads them."""
    assert parse_duration_ns(text) == int(want * 10**9)


@pytest.mark.parametrize("text", ["", "1", "s", "1x", "-1s", "1s 2s"])
def test_a_wrong_duration_is_refused(text: str) -> None:
    """No unit, no number, wrong unit or negative is no duration."""
    with pytest.raises(Invalid):
        parse_duration_ns(text)
