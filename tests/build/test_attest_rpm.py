"""The packages that rpm has on record, whatever it keeps them in."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.build.attest.packages import Distribution, package_url
from cais.build.attest.rpm import parse_header, parse_rpm
from cais.errors import Invalid
from harness.rpm import BASH, KEY, rpm_ndb, rpm_sqlite


def test_rpm_is_read_in_both_formats(tmp_path: Path) -> None:
    """SQLite and ndb; keys are no packages."""
    for data in (rpm_sqlite(tmp_path / "db", BASH, KEY), rpm_ndb(BASH, KEY)):
        (bash,) = parse_rpm(data, "x")
        url = package_url(bash, Distribution("fedora", "40"))
        assert url == "pkg:rpm/fedora/bash@5.2-3.fc40?arch=x86_64&distro=fedora-40&epoch=1"


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIEW Packages AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT x AS blob FROM c",
        "CREATE VIEW Packages AS SELECT x'00' AS blob",
        "CREATE VIRTUAL TABLE Packages USING fts5(blob)",
        "CREATE TABLE other (blob)",
        "CREATE TABLE Packages (a, blob AS (zeroblob(900000000)) VIRTUAL); INSERT INTO Packages (a) VALUES (1)",
    ],
)
def test_a_database_that_is_a_program_does_not_run(tmp_path: Path, sql: str) -> None:
    """Views, other tables, values that are made up on the way."""
    with pytest.raises(Invalid, match="database of rpm"):
        list(parse_rpm(rpm_sqlite(tmp_path / "db", sql=sql), "x"))


@given(st.binary(max_size=200), st.integers(0, 60))
def test_damaged_records_are_passed_over(noise: bytes, cut: int) -> None:
    """Headers and databases, cut and changed."""
    parse_header(noise, "x")
    parse_header(BASH[:cut] + noise + BASH[cut:], "x")
    whole = rpm_ndb(BASH)
    for data in (b"RpmP" + noise, whole[:32] + noise + whole[32:], b"SQLite format 3\0" + noise):
        try:
            list(parse_rpm(data, "x"))
        except Invalid:
            continue
