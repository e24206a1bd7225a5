"""Challenges, credentials and the talk with a token server, with no server at all."""

import base64
import json
from collections.abc import Generator
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cais.errors import CaisError, Denied, Invalid, Unauthenticated, Unavailable
from cais.remotes.auth import (
    ANONYMOUS,
    Authorization,
    Credentials,
    TokenReply,
    TokenRequest,
    authenticate,
    merge_scopes,
    parse_challenges,
    parse_registry_auth,
)

BEARER = 'Bearer realm="https://auth.example/token",service="reg.example",scope="repository:a/b:pull"'
LOGIN = Credentials("me", "s3cret")
TALK = Generator[TokenRequest, TokenReply, Authorization]


def talk(*lines: str, credentials: Credentials = ANONYMOUS, secure: bool = True) -> TALK:
    """The generator for these challenges."""
    return authenticate(parse_challenges(lines), credentials, scope="repository:x:pull", secure=secure)


def end(talk: TALK, status: int = 200, body: bytes = b'{"token":"T"}') -> str:
    """What comes of it when the token server says this."""
    try:
        talk.send(TokenReply(status, body))
    except StopIteration as stop:
        return str(stop.value.value)
    raise AssertionError("it asks for more")


def result(talk: TALK) -> str:
    """What comes of it without any question."""
    with pytest.raises(StopIteration) as stop:
        next(talk)
    return str(stop.value.value.value)


def header(**fields: str) -> str:
    """An X-Registry-Auth as docker sends it."""
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def test_an_anonymous_token_is_asked_for_with_what_the_challenge_says() -> None:
    """Service and scope go into the query, no authorization goes along, the token comes back as bearer."""
    asking = talk(BEARER)
    question = next(asking)
    assert question.url.startswith("https://auth.example/token?") and not question.form
    assert parse_qs(urlsplit(question.url).query) == {
        "service": ["reg.example"],
        "scope": ["repository:a/b:pull"],
    }
    assert "Authorization" not in question.headers
    assert end(asking) == "Bearer T"


def test_a_password_goes_to_the_token_server_as_basic() -> None:
    """GET with basic authorization and the account's name; our own scope where the challenge has none."""
    asking = talk('Bearer realm="https://auth.example/t?x=1"', credentials=LOGIN)
    question = next(asking)
    assert question.url.startswith("https://auth.example/t?x=1&account=me")
    assert "repository%3Ax%3Apull" in question.url and "s3cret" not in question.url
    assert question.headers["Authorization"] == "Basic " + base64.b64encode(b"me:s3cret").decode()
    assert end(asking, body=b'{"access_token":"A"}') == "Bearer A"


def test_one_token_is_asked_for_all_that_is_to_be_done() -> None:
    """What the challenge wants and what we want, each resource once; ports in names are no actions."""
    assert merge_scopes("repository:a:pull,push repository:b:pull", "repository:a:pull") == (
        "repository:a:pull,push",
        "repository:b:pull",
    )
    port = "repository:h:5000/a:"
    assert merge_scopes(f"{port}pull", f"{port}push") == (f"{port}pull,push",)
    assert merge_scopes("", "") == ()
    challenges, extra = parse_challenges([BEARER]), "repository:a/b:pull,push repository:c:pull"
    question = next(authenticate(challenges, LOGIN, scope="", secure=True, extra=extra))
    assert parse_qs(urlsplit(question.url).query)["scope"] == extra.split()


def test_a_login_asks_for_a_refresh_token_and_keeps_it() -> None:
    """Without a password nothing is to be kept."""
    challenges = parse_challenges([BEARER])
    asking = authenticate(challenges, LOGIN, scope="", secure=True, offline=True)
    assert "offline_token=true" in next(asking).url
    with pytest.raises(StopIteration) as stop:
        asking.send(TokenReply(200, b'{"token":"T","refresh_token":"R"}'))
    assert stop.value.value == Authorization("Bearer T", "R") and "'R'" not in repr(stop.value.value)
    anonymous = authenticate(challenges, ANONYMOUS, scope="", secure=True, offline=True)
    assert "offline_token" not in next(anonymous).url


def test_a_refresh_token_is_posted_as_a_form() -> None:
    """RFC 6749 section 6: never in the URL, which is logged everywhere."""
    question = next(talk(BEARER, credentials=Credentials(identity_token="refresh-me")))
    form = parse_qs(question.form)
    assert form["grant_type"] == ["refresh_token"] and form["refresh_token"] == ["refresh-me"]
    assert question.url == "https://auth.example/token"


def test_a_registry_token_is_used_as_it_is() -> None:
    """Nobody is asked."""
    assert result(talk(BEARER, credentials=Credentials(registry_token="R"))) == "Bearer R"


def test_basic_needs_credentials() -> None:
    """With them it is answered at once, without them docker's words come."""
    basic = 'Basic realm="x, y"'
    assert result(talk(basic, credentials=LOGIN)).startswith("Basic ")
    with pytest.raises(Unauthenticated, match="no basic auth credentials"):
        next(talk(basic))
    with pytest.raises(Unauthenticated):
        next(talk("Negotiate abc"))


def test_bearer_goes_before_basic_wherever_it_stands() -> None:
    """Both in one field, or in two, with a comma inside quotes."""
    for lines in ((f'Basic realm="a,b", {BEARER}',), ('Basic realm="a"', BEARER)):
        assert next(talk(*lines, credentials=LOGIN)).url.startswith("https://auth.example/token")


def test_no_secret_goes_to_a_token_server_without_tls() -> None:
    """A registry with TLS cannot make us send the password in the clear; anonymously it may."""
    plain = BEARER.replace("https", "http")
    with pytest.raises(Denied, match="without TLS"):
        next(talk(plain, credentials=LOGIN))
    assert next(talk(plain)).url.startswith("http://")
    assert next(talk(plain, credentials=LOGIN, secure=False)).url.startswith("http://")


@pytest.mark.parametrize(
    "realm", ["", "/token", "file:///etc/passwd", "https://", "https://u:p@h/t", "http://[::"]
)
def test_a_realm_that_is_no_server_is_refused(realm: str) -> None:
    """Only plain http and https addresses are asked."""
    with pytest.raises(Unavailable, match="token server"):
        next(talk(f'Bearer realm="{realm}",service="s"'))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"token":1}', b'{"token":"a\\r\\nX: y"}', b'{"token":""}', b"{" * 99_999]
)
def test_an_answer_without_a_usable_token_is_refused(body: bytes) -> None:
    """Above all one that would write a header of its own."""
    asking = talk(BEARER)
    next(asking)
    with pytest.raises(Unavailable, match="did not include a token"):
        end(asking, body=body)


def test_a_refusal_is_told_without_our_secret() -> None:
    """A server that repeats what it was sent does not make us print it."""
    asking = talk(BEARER, credentials=LOGIN)
    next(asking)
    with pytest.raises(Unauthenticated) as refused:
        end(asking, 401, b'{"details":"wrong s3cret\\u001b[31m for me"}')
    assert str(refused.value) == "unauthorized: wrong *** [31m for me"
    assert "s3cret" not in repr(LOGIN)


def test_registry_auth_of_every_client_is_understood() -> None:
    """Names, the older ``auth``, tokens; either alphabet, with or without padding; null and nothing."""
    assert parse_registry_auth(header(username="a", password="p>>?")) == Credentials("a", "p>>?")
    assert (
        parse_registry_auth(header(username="a", password="p>>?").replace("-", "+").rstrip("=")).username
        == "a"
    )
    assert parse_registry_auth(header(auth=base64.b64encode(b"a:b:c").decode())) == Credentials("a", "b:c")
    assert parse_registry_auth(header(identitytoken="I")).identity_token == "I"
    assert (
        parse_registry_auth("") == parse_registry_auth("bnVsbA==") == parse_registry_auth("e30=") == ANONYMOUS
    )


@given(st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()))
def test_a_wrong_registry_auth_is_refused_in_silence(text: str) -> None:
    """Whatever it is: credentials or Invalid, and its content is in no message."""
    try:
        parse_registry_auth(text)
    except Invalid as error:
        assert str(error).startswith("invalid X-Registry-Auth header") or "auth configuration" in str(error)


@given(st.lists(st.text()))
def test_no_challenge_brings_us_down(lines: list[str]) -> None:
    """Hostile fields lead to a question, an answer or an error of ours."""
    with suppress(CaisError, StopIteration):
        next(talk(*lines))
