"""Credentials in Docker's ``config.json``, to and from its helpers, and in X-Registry-Auth."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.remotes.auth import Credentials, parse_registry_auth
from cais.spec.registryauth import (
    HUB_KEY,
    find_entry,
    find_helper,
    format_entry,
    format_header,
    format_secret,
    is_hub,
    make_auth,
    make_key,
    read_entry,
    read_secret,
)

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters=":"), min_size=1)
SECRETS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@given(WORDS, SECRETS, st.text(max_size=5))
def test_what_is_kept_comes_back(username: str, password: str, token: str) -> None:
    """From the file and from a helper alike, and as the engine reads it from the header."""
    auth = make_auth("reg.example", username, password, token)
    kept = json.loads(json.dumps(format_entry(auth)))
    assert read_entry(kept, "reg.example") == auth
    secret = format_secret(auth)
    again = read_secret({"Username": secret["Username"], "Secret": secret["Secret"]}, "reg.example")
    assert again == (make_auth("reg.example", "", "", token) if token else auth)
    sent = parse_registry_auth(format_header(json.dumps(auth).encode()))
    assert sent == Credentials(username, "" if token else password, token)


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io", "registry-1.docker.io", HUB_KEY])
def test_docker_hub_has_one_key(name: str) -> None:
    """Its old address, as Docker keeps it."""
    assert is_hub(name) and make_key(name) == HUB_KEY
    assert make_key("localhost:5000") == "localhost:5000" and not is_hub("docker.io.example")


def test_entries_are_found_under_older_names() -> None:
    """By the host's name where the key itself is not there; never another host's."""
    auths = {
        "https://reg.example/v1/": {"auth": "1"},
        HUB_KEY: {"auth": "2"},
        "x:5000": {"auth": "3"},
        "y": 7,
    }
    assert find_entry(auths, "reg.example") == {"auth": "1"}
    assert find_entry(auths, HUB_KEY) == {"auth": "2"}
    assert find_entry(auths, "x:5000") == {"auth": "3"}
    for other in ("x", "x:5001", "example", "y"):
        assert find_entry(auths, other) == {}


def test_a_helper_of_one_registry_goes_before_the_store() -> None:
    """And its name cannot lead to a program elsewhere."""
    config = {"credsStore": "all", "credHelpers": {"reg.example": "one", HUB_KEY: "hub"}}
    assert find_helper(config, "reg.example") == "one" and find_helper(config, HUB_KEY) == "hub"
    assert find_helper(config, "other") == "all" and find_helper({}, "other") == ""
    assert find_helper({"credsStore": "../../tmp/x"}, "other") == ""
    assert find_helper({"credsStore": 7, "credHelpers": 8}, "other") == ""


@pytest.mark.parametrize("text", ["!", "YQ", "w4M=w"])
def test_a_broken_entry_is_refused_in_silence(text: str) -> None:
    """Its content is in no message."""
    with pytest.raises(ValueError, match="invalid auth configuration for reg") as refused:
        read_entry({"auth": text}, "reg")
    assert text not in str(refused.value).replace("auth configuration", "")


def test_no_credentials_are_none() -> None:
    """An empty entry, as Docker leaves one beside a helper."""
    assert read_entry({}, "reg") == {} and read_secret({}, "reg") == {}
    assert read_secret({"Username": "<token>", "Secret": "T"}, "reg")["identitytoken"] == "T"
