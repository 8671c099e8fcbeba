"""POST /v1/indexes/{index}/webhook: a signed word that items of a source changed → their sync.

The key says whose index it is and who pays, and the signature that the source's own system speaks.
What is done about an item its source decides, when it is looked at: a delivery is a hint, never a
document. Sent again it is the same delivery.
"""

from headrace.errors import NotFound
from headrace.gateway.calls import read_body
from headrace.gateway.delivery_queue import DeliveryQueue
from headrace.gateway.flight import Flight
from headrace.gateway.http import Exchange
from headrace.gateway.index_rights import check_manages, index_owner, need_indexes
from headrace.gateway.queries import read_query
from headrace.gateway.services import Services
from headrace.store.deliveries import Delivery
from headrace.types import Caller
from headrace.wire import webhooks


async def webhook(services: Services, exchange: Exchange, flight: Flight, caller: Caller) -> None:
    """Check it, and queue what it names."""
    read_query(exchange)
    check_manages(caller)
    indexes, owner, index = need_indexes(services), index_owner(caller), exchange.params["index"]
    await indexes.spec(index, owner)
    queue = _need(services)
    sent = webhooks.decode_head(
        exchange.named(webhooks.ID),
        exchange.named(webhooks.TIMESTAMP),
        exchange.named(webhooks.SIGNATURE),
    )
    body = await read_body(services, exchange)
    delivery = webhooks.decode_delivery(body)
    secret = await indexes.signing_secret(index, delivery.source, owner)
    webhooks.check(sent, body, secret, source=delivery.source, now_s=queue.clock())
    state = await queue.take(
        Delivery(
            org=owner.org,
            team=owner.team,
            name=index,
            source=delivery.source,
            id=sent.id,
            key=caller.key_id,
            feature=caller.feature,
            items=delivery.keys,
        )
    )
    await exchange.answer(200, webhooks.encode_taken(sent.id, index, delivery, state))


def _need(services: Services) -> DeliveryQueue:
    if services.deliveries is None:
        raise NotFound(
            "this service keeps no deliveries: it runs without a store; leave out --no-auth, or "
            "set store.url"
        )
    return services.deliveries
