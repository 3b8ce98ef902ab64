"""A card payment with 3-D Secure, for `stage simulate`: its end comes by webhook, early and twice.

`payment` is right. `hasty` takes "processing" for a yes, and `deaf` a no. Model: `apis`, below.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from zlib import crc32

import msgspec

from stage import Declined, Http, Landed, Refused, Saga, Stage, Transient, Webhook
from stage.ports.stage import Answer
from stage.simulation import WEBHOOK_SECRET, ApiModel, ApiRequest, Effect, json_answer


class Order(msgspec.Struct):
    """The order to be paid."""

    amount: int


def _stage(
    *, landed: Collection[str] = ("succeeded",), ignored: Collection[str] = ("processing",)
) -> Stage[Order, str]:
    stage: Stage[Order, str] = Stage("payment", accepts=Order)

    @stage.call(to="psp", timeout=1.0, pending_on={202}, pending_seconds_max=300.0)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        if answer.status in (402, 410) and answer.json()["code"] in ("refused", "closed_key"):
            raise Refused("card declined")
        return str(answer.json()["id"])

    @charge.webhook
    def confirmed(hook: Webhook) -> Landed[str] | Declined | None:
        hook.verify_hmac(hook.header("Psp-Signature"))
        said = hook.json()
        if said["state"] in landed:
            return Landed(result=said["id"], key=said["key"])
        if said["state"] in ignored:
            return None
        return Declined(reason="the customer did not confirm", key=said["key"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        answer = await http.post("/refunds", json={"key": saga.key_of(charge)})
        if answer.status == 402:
            raise Refused("the refund was declined")
        if answer.status != 200 or "undone" not in answer.json():
            raise Transient(f"the refund was answered {answer.status}")

    return stage


payment = _stage()
hasty = _stage(landed=("succeeded", "processing"), ignored=())
deaf = _stage(landed=("succeeded", "failed"))


class Psp(ApiModel):
    """It charges when the customer confirms, and says so before its answer or later, twice."""

    def answer(self, request: ApiRequest) -> Answer:
        """Only two of three customers confirm; a refund closes the key of its charge."""
        if request.path == "/refunds" or crc32(request.key.encode()) % 3:
            return super().answer(request)
        self._hook(request.key, "processing", 0.0)
        self._hook(request.key, "failed", 9.0)
        return json_answer(202, {"state": "processing"})

    def made(self, request: ApiRequest, effect: Effect) -> Answer:
        early = crc32(request.key.encode()) % 2
        self._hook(request.key, "succeeded", 0.0 if early else 9.0, effect.name)
        return json_answer(202, {"state": "processing"})

    def _hook(self, key: str, state: str, after: float, charge: str = "") -> None:
        body = msgspec.json.encode({"key": key, "state": state, "id": charge})
        signature = hmac.new(WEBHOOK_SECRET, body, hashlib.sha256).hexdigest()
        for again in (0.0, 2.0):
            self.send_webhook(key, body, (("Psp-Signature", signature),), after=after + again)


apis = {"psp": Psp}
