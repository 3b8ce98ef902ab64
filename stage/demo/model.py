"""The payment stage's world for `stage simulate`: a payment provider with a ledger of its own.

It honours idempotency keys: a charge is made once a key, looked up by it, and refunded by it. A
refund of a key that was never charged closes the key, so that a charge which arrives later is
answered 410. It reads the paths and bodies of the stage, and knows nothing of steps.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from random import Random
from typing import Any
from urllib.parse import unquote

import msgspec

from stage.core.events import Request
from stage.ports.stage import Answer
from stage.simulation import ApiModel, ApiRequest, Effect, json_answer
from stage.testing import FakeApi, reply

LOOK_UP = "/charges/by-key/"


class Refund(msgspec.Struct):
    """The body of `POST /refunds`."""

    key: str
    charge_id: str | None = None


class Psp(ApiModel):
    """`POST /charges`, `GET /charges/by-key/{key}`, `POST /refunds`."""

    def is_undo(self, request: ApiRequest) -> bool:
        """Every request to /refunds undoes, whatever its own key is."""
        return request.path == "/refunds"

    def made(self, request: ApiRequest, effect: Effect) -> Answer:
        """A charge that stands."""
        return json_answer(201, {"id": effect.name})

    def refuse(self, request: ApiRequest) -> Answer:
        """A card that is declined."""
        return json_answer(402, {"code": "declined", "error": "card declined"})

    def look_up(self, request: ApiRequest) -> Answer:
        """The charge of a key."""
        effect = self.books.effects.get(unquote(request.path.removeprefix(LOOK_UP)))
        if effect is None or not effect.made:
            return json_answer(404, {"code": "unknown_key"})
        return json_answer(200, {"id": effect.name})

    def undo(self, request: ApiRequest) -> Answer:
        """Refund the charge of the key in the body."""
        asked = msgspec.json.decode(request.body, type=Refund)
        effect = self.books.effect(asked.key, self.name)
        if asked.charge_id is not None and asked.charge_id != effect.name:
            return json_answer(404, {"code": "unknown_charge"})
        self.books.unmake(effect)
        return json_answer(200, {"refunded": True})


class FakePsp(FakeApi):
    """The provider of `stage dev`: it says `refunded` where others say `undone`.

    A customer confirms each charge, and the provider tells it by its webhook.
    """

    pends = True

    def webhook(self, key: str, secret: bytes) -> tuple[Mapping[str, str], bytes]:
        """See FakeApi: signed as `charge_ended` verifies it."""
        said = {"type": "charge.succeeded", "id": self.effects[key], "key": key}
        body, sent_at = msgspec.json.encode(said), f"{time.time():.0f}"
        signature = hmac.new(secret, sent_at.encode() + body, hashlib.sha256).hexdigest()
        return {"Psp-Time": sent_at, "Psp-Signature": signature}, body

    def undo(self, request: Request, key: str) -> Answer:
        """See FakeApi."""
        super().undo(request, key)
        return reply(200, {"refunded": True})


apis = {"psp": Psp}
fakes = {"psp": FakePsp}
stands = "SELECT saga_id FROM payment WHERE state <> 'released'"


def payload(random: Random) -> Mapping[str, Any]:
    """An order; one in twenty is refused by the stage."""
    amount = 0 if random.random() < 0.05 else random.randint(1, 500)
    return {"order_id": f"o-{random.randint(1, 9999)}", "amount": amount, "currency": "KRW"}
