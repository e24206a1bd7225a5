"""Everything on the pages is in the API and on the command line: each page and form, with what does the same there."""

import pytest

from cais.cli.commands import VERBS
from cais.hub.api.table import ROUTES, V1
from cais.hub.pages.pages import OF_NAMESPACE, OF_REFERENCE, OF_REPOSITORY, PLAIN

R, N = "/repositories/{name}", "/namespaces/{namespace}"
T = f"{R}/-/tags/{{tag}}"
WAYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "GET /": (("GET /search", "GET /popular"), ("search",)),
    "GET /search": (("GET /search",), ("search",)),
    "GET /login": (("GET /account",), ("login",)),
    "POST /login": (("GET /account",), ("login",)),
    "POST /logout": ((), ()),  # there is no session elsewhere
    "GET /signup": (("POST /signup",), ("signup",)),
    "POST /signup": (("POST /signup",), ("signup",)),
    "GET /account": (("GET /account", "GET /namespaces"), ("namespace",)),
    "POST /account/password": (("PUT /account/password",), ("password",)),
    "POST /account/namespaces": (("POST /namespaces",), ("namespace",)),
    "GET /account/tokens": (("GET /tokens",), ("token",)),
    "POST /account/tokens": (("POST /tokens",), ("token",)),
    "POST /account/tokens/remove": (("DELETE /tokens/{id}",), ("token",)),
    "GET /system": (
        ("GET /system/stats", "GET /system/damaged", "GET /system/config"),
        ("stats", "damaged", "config"),
    ),
    "POST /system/collect": (("POST /system/collect",), ("collect",)),
    "GET /system/accounts": (("GET /accounts",), ("account",)),
    "POST /system/accounts": (("POST /accounts",), ("account",)),
    "POST /system/accounts/disable": (("PATCH /accounts/{account}",), ("account",)),
    "GET /audit": (("GET /audit",), ("audit",)),
    "GET r": ((f"GET {R}", f"GET {R}/-/tags", f"GET {R}/-/pulls"), ("inspect", "tags", "pulls")),
    "GET r settings": ((f"GET {R}", f"GET {R}/-/retention"), ("inspect", "retention")),
    "POST r settings": ((f"PATCH {R}",), ("set",)),
    "POST r readme": ((f"PATCH {R}",), ("set",)),
    "POST r retention": ((f"PATCH {R}",), ("set",)),
    "POST r delete": ((f"DELETE {R}",), ("rm",)),
    "GET r compare": ((f"GET {R}/-/compare/{{old}}/{{new}}",), ("compare",)),
    "GET r:t": ((f"GET {T}", f"GET {R}/-/attachments/{{ref}}"), ("inspect", "attachments")),
    "GET r:t files": ((f"GET {R}/-/files/{{ref}}",), ("files",)),
    "GET r:t attachment": ((f"GET {R}/-/attachments/{{ref}}/{{digest}}",), ("attachments",)),
    "POST r:t delete": ((f"DELETE {T}", f"DELETE {R}/-/manifests/{{digest}}"), ("rm",)),
    "GET n": ((f"GET {N}", f"GET {N}/repositories"), ("namespace", "ls")),
    "GET n members": ((f"GET {N}/members",), ("member", "robot")),
    "POST n members": ((f"PUT {N}/members/{{account}}", f"DELETE {N}/members/{{account}}"), ("member",)),
    "POST n robots": ((f"POST {N}/robots",), ("robot",)),
    "POST n secret": ((f"POST {N}/robots/{{account}}/secret",), ("robot",)),
    "GET n settings": ((f"GET {N}",), ("namespace",)),
    "POST n settings": ((f"PATCH {N}",), ("namespace",)),
    "POST n quota": ((f"PATCH {N}",), ("namespace",)),
    "POST n retention": ((f"PATCH {N}",), ("namespace",)),
    "GET n webhooks": ((f"GET {N}/webhooks", f"GET {N}/webhooks/{{id}}/deliveries"), ("webhook",)),
    "POST n webhooks": ((f"POST {N}/webhooks",), ("webhook",)),
    "POST n webhook": ((f"PATCH {N}/webhooks/{{id}}", f"DELETE {N}/webhooks/{{id}}"), ("webhook",)),
    "GET n audit": ((f"GET {N}/audit",), ("audit",)),
}


def test_every_page_has_another_way() -> None:
    """The table has each page and form, and no other."""
    tables = (("", PLAIN), ("r", OF_REPOSITORY), ("r:t", OF_REFERENCE), ("n", OF_NAMESPACE))
    pages = {
        " ".join(filter(None, (method, where, name))) for where, table in tables for method, name in table
    }
    assert pages == set(WAYS)


@pytest.mark.parametrize("page", WAYS)
def test_the_other_ways_are_there(page: str) -> None:
    """In the API's table, and among the command line's verbs."""
    routes, verbs = WAYS[page]
    known = {f"{route.method} {route.path.removeprefix(V1)}" for route in ROUTES}
    assert set(routes) <= known
    assert {f"hub {verb}" for verb in verbs} <= set(VERBS)


def test_every_route_has_a_verb() -> None:
    """What the API does below its own prefix, but for single ones of what a list shows too, somebody may type."""
    used = {route for routes, _ in WAYS.values() for route in routes}
    ours = {f"{route.method} {route.path.removeprefix(V1)}" for route in ROUTES if route.path.startswith(V1)}
    assert ours - used == {
        f"GET {N}/members/{{account}}",
        "GET /accounts/{account}",
        "PUT /accounts/{account}/password",  # cais hub account password
        "GET /repositories",  # cais hub ls
        f"GET {R}/-/manifests/{{digest}}",  # cais hub inspect
        f"GET {R}/-/referrers/{{digest}}",
        f"GET {R}/-/attachments/{{ref}}/{{digest}}/packages",  # cais hub attachments --packages
        "POST /system/scrub",  # cais hub scrub
    }
