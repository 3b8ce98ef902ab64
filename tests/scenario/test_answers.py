"""A no counts only in the neighbour's own word: gateways in front of shipping and of order."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage import Http, Saga, Stage, Tx
from tests.kept_port import kept_port
from tests.scenario.attacks.names import named_chain, shown_by
from tests.scenario.chain import ORDER, Chain, running_chain
from tests.waits import HANG_SECONDS, until

PAGE = "<html><body>nginx</body></html>"
NO_IN_DOUBT = [
    *((code, PAGE) for code in (400, 409, 410, 413, 415, 422)),
    (409, '{"outcome":"executed"}'),
    (409, '{"outcome":"unknown","stands":["parcel"]}'),
    (422, '{"saga_id":"s-1","outcome":"executed"}'),
    *((code, '{"outcome":"not_executed"}') for code in (400, 413, 415, 422)),
]
UNKNOWN = [
    *((code, PAGE) for code in (200, 202, 302, 401, 403, 404, 405, 408, 425, 429, 502, 503, 504)),
    (200, ""),
    (200, "{}"),
    (200, '{"saga_id":"another","outcome":"executed","data":{}}'),
    (503, '{"outcome":"executed"}'),
]
NOT_UNDONE = [
    (200, "<html>please log in</html>"),
    (200, ""),
    (200, '{"saga_id":"another","outcome":"compensated"}'),
    (200, '{"outcome":"in_progress"}'),
    (200, '{"outcome":"executed","error":"no such parcel"}'),
    (200, "{}"),
    (410, PAGE),
    (409, PAGE),
    (302, ""),
    (504, PAGE),
]


def decoded(body: bytes) -> Any:
    return msgspec.json.decode(body)


def gateway_answers(shipped: dict[str, Any]) -> int:
    return [event["what"] for event in shipped["events"]].count("a gateway answered")


async def shipped(chain: Chain) -> dict[str, Any]:
    """The books of shipping on the saga; it was reached."""
    found = await chain.shipped("s-1")
    assert found is not None
    return found


@pytest.mark.parametrize("code, body", NO_IN_DOUBT)
async def test_a_no_that_is_not_shipping_s_own_is_compensated_there_first(
    chain: Chain, code: int, body: str
) -> None:
    """Shipping has done it: the no is not repeated, and nothing stands anywhere at the end."""
    await chain.script(chain.shipping, script="gateway", code=code, body=body)

    status, _, answer = await chain.send("s-1")

    parcel = await shipped(chain)
    assert (409, "compensated") == (status, decoded(answer)["outcome"])
    assert (1, 1, 1) == (parcel["executed"], parcel["requests"], gateway_answers(parcel))
    assert 0 == parcel["standing"]
    assert ["payment"] == [asked["requested_by"] for asked in parcel["compensations"]]
    assert (1, 0) == await chain.charges()


@pytest.mark.parametrize("code, body", UNKNOWN)
async def test_an_answer_of_a_gateway_for_shipping_is_unknown_and_asked_again(
    chain: Chain, code: int, body: str
) -> None:
    """Shipping has done it, and its own answer counts once it comes through."""
    await chain.script(chain.shipping, script="gateway", code=code, body=body, times=2)

    status, _, _ = await chain.send("s-1")

    parcel = await shipped(chain)
    assert 200 == status
    assert (1, 1, 3) == (parcel["executed"], parcel["standing"], parcel["requests"])
    assert 2 == gateway_answers(parcel)
    assert (1, 1) == await chain.charges()


@pytest.mark.parametrize("code", [403, 429, 503, 504])
async def test_a_gateway_that_never_lets_shipping_answer_ends_compensated_everywhere(
    chain: Chain, code: int
) -> None:
    """The budget is gone: the parcel is taken back before the charge is, and upstream is told."""
    await chain.script(chain.shipping, script="gateway", code=code)

    status, _, answer = await chain.send("s-1", deadline=time.time() + 3.0)

    parcel = await shipped(chain)
    assert (409, "compensated") == (status, decoded(answer)["outcome"])
    assert (1, 0) == (parcel["executed"], parcel["standing"])
    assert gateway_answers(parcel) > 1
    assert (1, 0) == await chain.charges()


@pytest.mark.parametrize("code", [401, 403, 503])
async def test_the_no_of_a_second_replica_is_compensated_at_the_first(
    chain: Chain, code: int
) -> None:
    """A gateway asked one that lacks the key, or drains; the first has sent the parcel."""
    body = '{"outcome":"not_executed"}'
    await chain.script(chain.shipping, script="gateway", code=code, body=body)

    status, _, answer = await chain.send("s-1", deadline=time.time() + 3.0)

    parcel = await shipped(chain)
    assert (409, "compensated") == (status, decoded(answer)["outcome"])
    assert (1, 0) == (parcel["executed"], parcel["standing"])
    assert (1, 0) == await chain.charges()


@pytest.mark.parametrize("code, body", NOT_UNDONE)
async def test_an_answer_to_compensate_that_is_not_shipping_s_own_is_asked_again(
    chain: Chain, code: int, body: str
) -> None:
    """The parcel stands until shipping itself says otherwise; then the charge is taken back."""
    script = {"script": "compensate-gateway", "code": code, "body": body, "times": 2}
    await chain.script(chain.shipping, **script)
    await chain.send("s-1")

    status, _, answer = await chain.compensate("s-1", by="order")

    parcel = await shipped(chain)
    assert (200, "compensated") == (status, decoded(answer)["outcome"])
    assert (2, 0) == (gateway_answers(parcel), parcel["standing"])
    assert 3 == len(parcel["compensations"])
    assert (1, 0) == await chain.charges()


@pytest.mark.parametrize("code, body", [(200, "<html>log in</html>"), (200, ""), (409, PAGE)])
async def test_an_upstream_behind_a_gateway_is_asked_until_it_answers_itself(
    chain: Chain, code: int, body: str
) -> None:
    """The order is taken back in the end, and not before (rule 22)."""
    await chain.script(chain.order, script="gateway", code=code, body=body, times=2)
    order = msgspec.json.encode(ORDER)
    await chain.request("POST", f"{chain.order}/orders", order, Saga_Id="s-1")

    await chain.compensate("s-1", by="shipping", outcome="compensated")

    await chain.until("s-1", lambda saga: saga["told_upstream"] == "delivered")
    assert 3 == (await chain.events("s-1")).count("tell_started")
    assert "compensated" == (await chain.get(f"{chain.order}/sagas/s-1"))["state"]


async def test_a_late_failure_does_not_call_the_asker_back(chain: Chain) -> None:
    """Shipping's word is that nothing stands there; ours to order is the same (protocol 3.4)."""
    await chain.script(chain.shipping, script="late-failure", seconds=0.05)
    order = msgspec.json.encode(ORDER)
    await chain.request("POST", f"{chain.order}/orders", order, Saga_Id="s-1")

    await chain.until("s-1", lambda saga: saga["told_upstream"] == "delivered")

    assert [] == (await shipped(chain))["compensations"]
    asked = (await chain.get(f"{chain.order}/sagas/s-1"))["events"]
    assert not [event for event in asked if event["what"].startswith("compensate:")]


async def test_an_asker_that_holds_a_lock_is_answered_before_it_is_asked_in_turn(
    chain: Chain,
) -> None:
    """Without its word it is asked, so it may not wait for us while we wait for it."""
    await chain.send("s-1")

    async with asyncio.timeout(HANG_SECONDS):
        status, headers, _ = await chain.compensate("s-1", by="shipping", Prefer="wait=25")

    assert (202, "../s-1") == (status, headers["Location"])
    await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert ["payment"] == [
        asked["requested_by"] for asked in (await shipped(chain))["compensations"]
    ]


async def test_neighbours_are_not_shown_addresses_or_texts_of_exceptions(tmp_path: Path) -> None:
    """A type and an id; hosts, ports and what was raised stay here (rule 38)."""
    secret = "sk_live_0123"
    leaking: Stage[dict[str, Any], None] = Stage("payment", accepts=dict[str, Any])

    @leaking.transaction
    async def reserve(tx: Tx, saga: Saga[dict[str, Any]]) -> None:
        if saga.data.get("order_id") == "raises":
            raise ValueError(secret)

    @reserve.compensation
    async def release(tx: Tx, saga: Saga[dict[str, Any]]) -> None:
        pass

    async with running_chain(tmp_path, stage=leaking) as chain:
        status, _, raised = await chain.send("s-1", {"order_id": "raises"})
        assert (409, "step reserve did not succeed") == (status, decoded(raised)["detail"])
        address = chain.shipping.removeprefix("http://")
        await chain.script(chain.shipping, script="gateway", code=409, body=address)
        status, _, refused = await chain.send("s-2", {"order_id": "o-2"})
        assert (409, "step forward:shipping did not succeed") == (
            status,
            decoded(refused)["detail"],
        )
        parcel = await chain.shipped("s-2")
        assert parcel is not None
        for text in (raised, refused, msgspec.json.encode(parcel["compensations"])):
            assert not any(word.encode() in text for word in (secret, address, "ValueError"))
        reason = (await chain.view("s-1"))["reason"]
        assert "ValueError in reserve (test_answers.py:" in reason
        assert secret not in reason


async def test_neighbours_are_not_shown_where_a_request_could_not_be_sent(tmp_path: Path) -> None:
    """Its URL has a business number in the query, and its host is ours to know (rule 38)."""
    looking: Stage[dict[str, Any], Any] = Stage("payment", accepts=dict[str, Any])

    @looking.call(to="psp", timeout=1.0, compensation=None, reason="a quote is only read")
    async def quote(http: Http, saga: Saga[dict[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = (await http.get("/quotes?email=kim%40example.org")).json()
        return found

    with kept_port() as port:
        options: dict[str, Any] = {"externals": {"psp": f"http://127.0.0.1:{port}"}}
        async with named_chain(tmp_path, stage=looking, attempts_max=1, **options) as chain:
            shown = {"Authorization": shown_by("order")}
            begun = await chain.send(
                "s-1", Prefer="respond-async, wait=0", Authorization=shown["Authorization"]
            )
            url = f"{chain.stage}/sagas/s-1"

            async def attempted() -> bool:
                view = await chain.request("GET", f"{url}?view=chain", None, **shown)
                return b"not sent: refused" in view[2]

            await until(attempted)
            answers = [begun[2]] + [
                (await chain.request("GET", url + view, None, **shown))[2]
                for view in ("", "?view=journal", "?view=chain")
            ]
            journal = (
                await chain.request("GET", f"{url}?view=journal", Authorization=shown_by("vera"))
            )[2]
    assert b"not sent: refused" in journal
    for answer in (*answers, journal):
        assert not any(each in answer for each in (b"example.org", b"127.0.0.1", b"%d" % port))
