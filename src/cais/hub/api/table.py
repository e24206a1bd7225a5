"""The API, route by route: what the router, the OpenAPI document and the tests are made from."""

from typing import Any

from cais.hub.api import accounts, contents, docker, namespaces, repositories, system, tags, webhooks
from cais.hub.api import answers as a
from cais.hub.api import bodies as b
from cais.hub.api.parameters import (
    BEFORE,
    DAYS,
    DID,
    FEW,
    FROM_LAST,
    INSIDE,
    LAST,
    LAYER,
    MANY,
    OWNER,
    PAGE,
    PART,
    PLATFORM,
    QUERY,
    SIZE,
    TYPE,
    WHO,
    N,
    Q,
)
from cais.hub.api.route import Route
from cais.registry.collect import Collected

V1 = "/api/v1"
_REPOSITORY = f"{V1}/repositories/{{name}}"
_NAMESPACE = f"{V1}/namespaces/{{namespace}}"
_ACCOUNT = f"{V1}/accounts/{{account}}"
_HUB = "/v2/repositories/{namespace}/"


def _route(words: str, act: Any, access: Any, summary: str, answer: Any = None, **rest: Any) -> Route:
    """``words``: method and path. Without an answer the status is 204."""
    method, path = words.split()
    rest.setdefault("status", 200 if answer is not None else 204)
    rest.setdefault("group", path.removeprefix(V1).split("/")[1])
    return Route(method=method, path=path, act=act, access=access, summary=summary, answer=answer, **rest)


_REPOSITORIES = (
    _route(
        f"GET {V1}/search", repositories.search, "anyone", "Find repositories", a.Found, query=(Q, N, PAGE)
    ),
    _route(f"GET {V1}/popular", repositories.popular, "anyone", "The most pulled", a.Found, query=(N, PAGE)),
    _route(
        f"GET {V1}/repositories",
        repositories.list_repositories,
        "anyone",
        "All repositories by name",
        a.RepositoryList,
        query=(N, LAST),
    ),
    _route(f"GET {_REPOSITORY}", repositories.get_repository, "anyone", "One repository", a.RepositoryDetail),
    _route(
        f"PATCH {_REPOSITORY}",
        repositories.change_repository,
        "person",
        "Change its settings",
        a.RepositoryDetail,
        body=b.RepositoryChange,
    ),
    _route(
        f"DELETE {_REPOSITORY}", repositories.delete_repository, "account", "Delete it with all that is in it"
    ),
    _route(
        f"GET {_REPOSITORY}/-/tags", tags.list_tags, "anyone", "Its tags by name", a.TagList, query=(N, LAST)
    ),
    _route(
        f"GET {_REPOSITORY}/-/tags/{{tag}}",
        tags.get_tag,
        "anyone",
        "What a tag stands for",
        a.Image,
        query=(PLATFORM,),
    ),
    _route(
        f"DELETE {_REPOSITORY}/-/tags/{{tag}}",
        tags.delete_tag,
        "account",
        "Delete a tag, not what it stands for",
        errors=(409,),
    ),
    _route(
        f"GET {_REPOSITORY}/-/manifests/{{digest}}",
        tags.get_manifest,
        "anyone",
        "What a digest stands for",
        a.Image,
        query=(PLATFORM,),
    ),
    _route(
        f"DELETE {_REPOSITORY}/-/manifests/{{digest}}",
        tags.delete_manifest,
        "account",
        "Delete a manifest with its tags",
        errors=(409,),
    ),
    _route(
        f"GET {_REPOSITORY}/-/referrers/{{digest}}",
        repositories.referrers,
        "anyone",
        "What says something about a manifest",
        a.ReferrerList,
        query=(TYPE, N, LAST),
    ),
    _route(
        f"GET {_REPOSITORY}/-/files/{{ref}}",
        contents.list_files,
        "anyone",
        "Files of an image, or of one of its layers",
        a.FileList,
        query=(LAYER, INSIDE, PLATFORM, MANY, FROM_LAST),
    ),
    _route(
        f"GET {_REPOSITORY}/-/compare/{{old}}/{{new}}",
        contents.compare,
        "anyone",
        "What two images differ in",
        a.Comparison,
        query=(PLATFORM, MANY, FROM_LAST),
    ),
    _route(
        f"GET {_REPOSITORY}/-/attachments/{{ref}}",
        contents.list_attachments,
        "anyone",
        "What is attached to an image: signatures, bills of materials",
        a.AttachmentList,
        query=(PLATFORM,),
    ),
    _route(
        f"GET {_REPOSITORY}/-/attachments/{{ref}}/{{digest}}",
        contents.get_attachment,
        "anyone",
        "A document that is attached",
        bytes,
        query=(PLATFORM,),
    ),
    _route(
        f"GET {_REPOSITORY}/-/attachments/{{ref}}/{{digest}}/packages",
        contents.list_packages,
        "anyone",
        "What a bill of materials lists",
        a.PackageList,
        query=(PLATFORM, MANY, FROM_LAST),
    ),
    _route(
        f"GET {_REPOSITORY}/-/retention",
        repositories.preview_retention,
        "account",
        "What its rules would remove now",
        a.RemovedList,
    ),
    _route(
        f"GET {_REPOSITORY}/-/pulls", repositories.pulls, "anyone", "Pulls by day", a.Pulls, query=(DAYS,)
    ),
)

_NAMESPACES = (
    _route(f"GET {V1}/namespaces", namespaces.list_namespaces, "account", "One's own", a.NamespaceList),
    _route(
        f"POST {V1}/namespaces",
        namespaces.make_namespace,
        "person",
        "Make one",
        a.Namespace,
        body=b.NamespaceMaking,
        status=201,
        errors=(409,),
    ),
    _route(f"GET {_NAMESPACE}", namespaces.get_namespace, "anyone", "One namespace", a.Namespace),
    _route(
        f"PATCH {_NAMESPACE}",
        namespaces.change_namespace,
        "person",
        "Change its settings",
        a.Namespace,
        body=b.NamespaceChange,
    ),
    _route(
        f"GET {_NAMESPACE}/repositories",
        namespaces.list_repositories,
        "anyone",
        "Its repositories by name",
        a.RepositoryList,
        query=(N, LAST),
    ),
    _route(f"GET {_NAMESPACE}/members", namespaces.list_members, "person", "Its members", a.MemberList),
    _route(f"GET {_NAMESPACE}/members/{{account}}", namespaces.get_member, "person", "One member", a.Member),
    _route(
        f"PUT {_NAMESPACE}/members/{{account}}",
        namespaces.put_member,
        "person",
        "Give an account a role",
        a.Member,
        body=b.MemberChange,
        errors=(409,),
    ),
    _route(
        f"DELETE {_NAMESPACE}/members/{{account}}",
        namespaces.delete_member,
        "person",
        "Remove a member",
        errors=(409,),
    ),
    _route(
        f"POST {_NAMESPACE}/robots",
        namespaces.make_robot,
        "person",
        "Make an account for a program",
        a.RobotMade,
        body=b.RobotMaking,
        status=201,
        errors=(409,),
    ),
    _route(
        f"POST {_NAMESPACE}/robots/{{account}}/secret",
        namespaces.renew_robot,
        "person",
        "Give a robot a new secret, and end the old one",
        a.RobotMade,
        body=b.RobotRenewal,
    ),
    _route(
        f"GET {_NAMESPACE}/audit",
        system.list_namespace_events,
        "person",
        "What was done in it",
        a.EventList,
        query=(WHO, DID, N, BEFORE),
    ),
)

_WEBHOOKS = (
    _route(
        f"GET {_NAMESPACE}/webhooks", webhooks.list_webhooks, "person", "Who is told of it", a.WebhookList
    ),
    _route(
        f"POST {_NAMESPACE}/webhooks",
        webhooks.make_webhook,
        "person",
        "Have somebody told",
        a.WebhookMade,
        body=b.WebhookMaking,
        status=201,
        errors=(409,),
    ),
    _route(
        f"PATCH {_NAMESPACE}/webhooks/{{id}}",
        webhooks.change_webhook,
        "person",
        "Stop, or begin again where it stopped",
        a.Webhook,
        body=b.WebhookChange,
    ),
    _route(f"DELETE {_NAMESPACE}/webhooks/{{id}}", webhooks.delete_webhook, "person", "Remove it"),
    _route(
        f"GET {_NAMESPACE}/webhooks/{{id}}/deliveries",
        webhooks.list_deliveries,
        "person",
        "The last tries",
        a.DeliveryList,
        query=(N,),
    ),
)

_ACCOUNTS = (
    _route(
        f"POST {V1}/signup",
        accounts.sign_up,
        "open",
        "Make an account for oneself",
        a.Account,
        body=b.SignUp,
        status=201,
        errors=(403, 409),
        group="accounts",
    ),
    _route(f"GET {V1}/account", accounts.get_own, "account", "Who one is", a.Account, group="accounts"),
    _route(
        f"PUT {V1}/account/password",
        accounts.change_own_password,
        "person",
        "Change one's password",
        body=b.PasswordChange,
        group="accounts",
    ),
    _route(
        f"GET {V1}/accounts", accounts.list_accounts, "admin", "All accounts", a.AccountList, query=(N, LAST)
    ),
    _route(
        f"POST {V1}/accounts",
        accounts.make_account,
        "admin",
        "Make an account for somebody",
        a.Account,
        body=b.AccountMaking,
        status=201,
        errors=(409,),
    ),
    _route(f"GET {_ACCOUNT}", accounts.get_account, "person", "One account", a.Account),
    _route(
        f"PATCH {_ACCOUNT}",
        accounts.change_account,
        "admin",
        "Let it log in, or not any more",
        a.Account,
        body=b.AccountChange,
        errors=(409,),
    ),
    _route(
        f"PUT {_ACCOUNT}/password",
        accounts.reset_password,
        "admin",
        "Set somebody's password",
        body=b.PasswordReset,
    ),
    _route(f"GET {V1}/tokens", accounts.list_tokens, "person", "Kept tokens", a.TokenList, query=(OWNER,)),
    _route(
        f"POST {V1}/tokens",
        accounts.make_token,
        "person",
        "Make a token, with the password or in the browser",
        a.TokenMade,
        body=b.TokenMaking,
        status=201,
    ),
    _route(f"DELETE {V1}/tokens/{{id}}", accounts.delete_token, "person", "End a token", query=(OWNER,)),
)

_SYSTEM = (
    _route(
        f"GET {V1}/audit",
        system.list_events,
        "admin",
        "What was done in the hub",
        a.EventList,
        query=(WHO, DID, N, BEFORE),
        group="system",
    ),
    _route(f"POST {V1}/system/collect", system.collect, "admin", "Collect garbage now", Collected),
    _route(
        f"POST {V1}/system/scrub",
        system.scrub,
        "admin",
        "Look for damaged blobs now",
        a.Scrubbed,
        body=b.Scrubbing,
    ),
    _route(f"GET {V1}/system/damaged", system.damaged, "admin", "What was found damaged", a.DamagedList),
    _route(f"GET {V1}/system/stats", system.stats, "admin", "How much there is", a.Stats),
    _route(f"GET {V1}/system/config", system.settings, "admin", "How the hub was started", a.Settings),
    _route(
        "GET /openapi.json",
        system.openapi,
        "open",
        "This description",
        dict[str, Any],
        group="system",
        headers={"Access-Control-Allow-Origin": "*"},
    ),
    _route("GET /healthz", system.health, "open", "Whether the hub works", a.Health, group="system"),
)

_DOCKER = (
    _route(
        "GET /v1/_ping",
        docker.ping,
        "open",
        "Asked before a search",
        docker.Ping,
        group="docker",
        # Not "standalone": clients would send an empty name and password where they have none.
        headers={"X-Docker-Registry-Standalone": "false"},
    ),
    _route(
        "GET /v1/search",
        docker.search_v1,
        "anyone",
        "`docker search`",
        docker.SearchResults,
        query=(Q, N, PAGE),
        group="docker",
    ),
    _route(
        "GET /v2/search/repositories/",
        docker.search_v2,
        "anyone",
        "Docker Hub's search",
        docker.HubResults,
        query=(QUERY, PAGE, SIZE),
        group="docker",
    ),
    _route(
        f"GET {_HUB}",
        docker.list_repositories,
        "anyone",
        "A namespace's repositories, as Docker Hub lists them",
        docker.HubRepositories,
        query=(FEW, SIZE),
        group="docker",
    ),
    _route(
        f"GET {_HUB}{{name}}/",
        docker.get_repository,
        "anyone",
        "A repository, as Docker Hub shows it",
        docker.HubRepository,
        group="docker",
    ),
    _route(
        f"GET {_HUB}{{name}}/tags/",
        docker.list_tags,
        "anyone",
        "Its tags, the newest first",
        docker.HubTags,
        query=(PART, PAGE, SIZE),
        group="docker",
    ),
    _route(
        f"GET {_HUB}{{name}}/tags/{{tag}}/",
        docker.get_tag,
        "anyone",
        "One tag",
        docker.HubTag,
        group="docker",
    ),
)

ROUTES: tuple[Route, ...] = (
    *_REPOSITORIES,
    *_NAMESPACES,
    *_WEBHOOKS,
    *_ACCOUNTS,
    *_SYSTEM,
    *_DOCKER,
)
