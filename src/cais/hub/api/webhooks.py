"""Webhooks of a namespace, for its administrators."""

from cais.errors import NotFound
from cais.hub.api.answers import Delivery, DeliveryList, Webhook, WebhookList, WebhookMade, as_time
from cais.hub.api.namespaces import need_admin
from cais.hub.api.services import Ask
from cais.hub.webhooks import Webhook as Row


async def list_webhooks(ask: Ask) -> WebhookList:
    """``GET /namespaces/{namespace}/webhooks``."""
    found = ask.services.webhooks.list_webhooks(need_admin(ask), ask.caller)
    return WebhookList(webhooks=list(map(_describe, found)))


async def make_webhook(ask: Ask) -> WebhookMade:
    """``POST /namespaces/{namespace}/webhooks``."""
    body = ask.body
    row, secret = await ask.services.webhooks.add(
        need_admin(ask),
        body.url,
        ask.caller,
        repository=body.repository,
        actions=body.actions,
        secret=body.secret,
    )
    return WebhookMade(webhook=_describe(row), secret=secret)


async def change_webhook(ask: Ask) -> Webhook:
    """``PATCH /namespaces/{namespace}/webhooks/{id}``."""
    namespace, id = need_admin(ask), ask.path["id"]
    await ask.services.webhooks.enable(namespace, id, ask.caller, enabled=not ask.body.disabled)
    for row in ask.services.webhooks.list_webhooks(namespace, ask.caller):
        if row.id == id:
            return _describe(row)
    raise NotFound(f"no such webhook: {id}")


async def delete_webhook(ask: Ask) -> None:
    """``DELETE /namespaces/{namespace}/webhooks/{id}``."""
    await ask.services.webhooks.remove(need_admin(ask), ask.path["id"], ask.caller)


async def list_deliveries(ask: Ask) -> DeliveryList:
    """``GET /namespaces/{namespace}/webhooks/{id}/deliveries``."""
    found = ask.services.webhooks.list_deliveries(need_admin(ask), ask.path["id"], ask.caller, ask.query["n"])
    return DeliveryList(
        deliveries=[
            Delivery(id=one.id, event=one.event, at=as_time(one.at_ns), status=one.status, error=one.error)
            for one in found
        ]
    )


def _describe(row: Row) -> Webhook:
    return Webhook(
        id=row.id,
        repository=row.repository,
        url=row.url,
        actions=list(row.actions),
        disabled=row.disabled,
        failures=row.failures,
        created=as_time(row.created_ns),
    )
