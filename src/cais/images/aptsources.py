"""Reading apt's list of package sources, old and new form (sources.list(5)): where this machine gets
Debian from."""

import re
from collections.abc import Iterable, Mapping

import msgspec

_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>.*)")
# What Debian itself publishes beside a release under its name: updates, fixes.
_COMPANIONS = ("", "-updates", "-security")


class Source(msgspec.Struct, frozen=True):
    """One repository and suite; ``signed_by`` the path of a keyring, or empty."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    def line(self, suite: str) -> str:
        """The one-line form, for another suite of the same repository."""
        return f"deb {self.uri} {suite} {' '.join(self.components)}"


def parse_sources(text: str) -> list[Source]:
    """The binary package sources of one file, whichever of the two forms it has; what is disabled is left
    out."""
    if re.search(r"^Types:", text, re.MULTILINE):
        return [source for stanza in re.split(r"\n\s*\n", text) for source in _parse_stanza(stanza)]
    return [source for line in text.splitlines() for source in _parse_line(line.partition("#")[0].strip())]


def choose_sources(sources: Iterable[Source], suite: str, host_suite: str) -> list[Source]:
    """The sources to build ``suite`` from: its own, with updates and fixes, if this machine has them; else
    the
    repository that this machine has its own release ``host_suite`` from."""
    debian = [source for source in sources if "main" in source.components]
    wanted = [source for source in debian if source.suite in {suite + ending for ending in _COMPANIONS}]
    if any(source.suite == suite for source in wanted):
        return list(dict.fromkeys(wanted))
    base = next((source for source in debian if source.suite == host_suite), None)
    return [Source(base.uri, suite, ("main",), base.signed_by)] if base else []


def _parse_line(line: str) -> list[Source]:
    found = _LINE.fullmatch(line)
    if not found:
        return []
    options = dict(re.findall(r"(\S+?)=(\S+)", found["options"] or ""))
    return [
        Source(found["uri"], found["suite"], tuple(found["components"].split()), options.get("signed-by", ""))
    ]


def _parse_stanza(stanza: str) -> list[Source]:
    fields = _fields(stanza)
    disabled = fields.get("enabled", "yes").lower() in ("no", "false")
    if disabled or "deb" not in fields.get("types", "").split():
        return []
    keyring = fields.get("signed-by", "")
    if not keyring.startswith("/"):
        keyring = ""  # the key itself stands in the file
    return [
        Source(uri, suite, tuple(fields.get("components", "").split()), keyring)
        for uri in fields.get("uris", "").split()
        for suite in fields.get("suites", "").split()
    ]


def _fields(stanza: str) -> Mapping[str, str]:
    """Field names in lower case; an indented line goes on with the field above it."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[name] = f"{fields.get(name, '')} {line.strip()}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields
