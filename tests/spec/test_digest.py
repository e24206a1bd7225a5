"""Digests: what is taken, what is refused, chain_ids."""

import hashlib
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cais.errors import Invalid
from cais.spec.digest import Digest, chain_ids, digest_bytes, parse_digest


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_a_made_digest_parses_to_itself(data: bytes) -> None:
    """digest_bytes makes what parse_digest takes, and its parts are the algorithm and the hash."""
    digest = digest_bytes(data)
    assert parse_digest(digest) == digest
    assert (digest.algorithm, digest.hex) == ("sha256", hashlib.sha256(data).hexdigest())


def test_sha512_is_taken() -> None:
    """The second registered algorithm is valid."""
    assert parse_digest("sha512:" + "a" * 128).algorithm == "sha512"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "a" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "g" * 64,
        "SHA256:" + "a" * 64,
        "md5:" + "a" * 32,
        "sha512:" + "a" * 64,
        "sha256:" + "../" * 21 + "a",
        "sha256:" + "a" * 64 + "\n",
        "sha256:" + "\u0661" * 64,
        " sha256:" + "a" * 64,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """Unknown algorithms, wrong lengths, upper case and path characters are Invalid."""
    with pytest.raises(Invalid, match="invalid digest"):
        parse_digest(text)


def test_chain_ids_follow_the_specification() -> None:
    """The first chain_id is the diff_id; each next one hashes 'chain diff'."""
    one, two, three = (digest_bytes(bytes([n])) for n in range(3))
    second = digest_bytes(f"{one} {two}".encode())
    assert chain_ids([one, two, three]) == [one, second, digest_bytes(f"{second} {three}".encode())]
    assert chain_ids([]) == []


def test_a_digest_survives_pickling_as_a_digest() -> None:
    """Workers get digests as arguments."""
    digest = digest_bytes(b"x")
    assert type(pickle.loads(pickle.dumps(digest))) is Digest
