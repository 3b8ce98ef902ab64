"""The view of an operator on many sagas: groups, narrowed lists, business numbers, the audit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage import Http, Saga, Stage
from stage.core.errors import DeclarationError
from stage.demo.payment import Order
from tests.scenario.chain import ORDER, Chain, running_chain
from tests.scenario.test_operator import WHO, do, stuck

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def ids(chain: Chain, query: str) -> list[str]:
    """The sagas on the first page of a list."""
    page = await chain.get(f"{chain.stage}/sagas?{query}")
    return [saga["saga_id"] for saga in page["sagas"]]


async def refused(chain: Chain, query: str) -> tuple[int, str]:
    """Code and detail of a list that is not given."""
    status, _, body = await chain.request("GET", f"{chain.stage}/sagas?{query}")
    return status, msgspec.json.decode(body)["detail"]


async def test_waiting_and_parked_sagas_are_counted_by_place(chain: Chain) -> None:
    """The provider is away for one saga and cannot refund another: one line each."""
    await stuck(chain)
    await chain.script(chain.psp, script="error")
    await chain.send("s-2", Prefer="respond-async, wait=0")
    await chain.until("s-2", lambda saga: saga["step"] == "charge")
    found = (await chain.get(f"{chain.stage}/groups"))["groups"]
    lines = [(g["parked_cause"], g["step"], g["peer"], g["direction"], g["sagas"]) for g in found]
    assert [
        (None, "charge", "externals.psp", "forward", 1),
        ("failed_to_compensate", "charge", "externals.psp", "backward", 1),
    ] == lines
    assert all(group["oldest_seconds"] >= 0.0 for group in found)
    assert ["s-1"] == await ids(chain, "cause=failed_to_compensate&peer=externals.psp")
    assert ["s-2"] == await ids(chain, "step=charge&parked=false")
    assert [] == await ids(chain, "step=charge&older_than=3600")
    assert ["s-1", "s-2"] == await ids(chain, "step=charge&changed_from=2026-01-01T00:00:00Z")


async def test_a_bare_name_of_a_peer_is_refused_with_the_whole_one(chain: Chain) -> None:
    """A list without a saga would say that nothing waits for it."""
    status, detail = await refused(chain, "peer=psp")
    assert (400, "peer is 'psp', and not KIND.NAME such as externals.psp") == (status, detail)
    assert [] == await ids(chain, "peer=downstreams.psp")


async def test_every_peer_is_shown_with_its_answers_and_the_sagas_that_wait(chain: Chain) -> None:
    """Before anything was sent, after an answer, and while the provider is away."""

    async def peer(name: str) -> Any:
        found = (await chain.get(f"{chain.stage}/peers"))["peers"]
        assert ["downstreams.shipping", "externals.psp", "upstreams.order"] == [
            each["peer"] for each in found
        ]
        return next(each for each in found if each["peer"] == name)

    assert (None, None) == (
        (psp := await peer("externals.psp"))["last_answer_at"],
        psp["last_failure"],
    )
    await chain.send("s-1")
    assert (await peer("externals.psp"))["last_answer_at"] is not None
    assert (await peer("downstreams.shipping"))["last_answer_at"] is not None
    await chain.script(chain.psp, script="error")
    await chain.send("s-2", Prefer="respond-async, wait=0")
    await chain.until("s-2", lambda saga: saga["step"] == "charge")
    psp = await peer("externals.psp")
    assert (100, False, None) == (psp["places_max"], psp["breaker_open"], psp["rate_per_second"])
    assert psp["last_failure"] and psp["last_failure_at"]  # a probe may be answered behind it
    (group,) = psp["waiting"]
    assert ("charge", "forward", 1) == (group["step"], group["direction"], group["sagas"])


async def test_a_saga_that_went_on_waits_nowhere(chain: Chain) -> None:
    """The provider answers again: the group is gone, and the view has no place."""
    await stuck(chain)
    await chain.script(chain.psp, script="ok")
    await do(chain, "s-1", "retry")
    saga = await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert (None, None) == (saga["step"], saga["peer"])
    assert [] == (await chain.get(f"{chain.stage}/groups"))["groups"]


@pytest.mark.parametrize(
    "query, word",
    [
        ("stat=active", "no parameter 'stat'"),
        ("cause=lunch", "lunch"),
        ("parked=yes", "neither true nor false"),
        ("older_than=-1", "not a number of seconds"),
        ("changed_from=yesterday", "changed_from"),
        ("step=a&step=b", "more than once"),
    ],
)
async def test_a_list_that_is_not_understood_is_refused(
    chain: Chain, query: str, word: str
) -> None:
    """Nothing is left out in silence: a verb for many takes the same words."""
    status, detail = await refused(chain, query)
    assert (400, True) == (status, word in detail)


async def test_the_audit_outlives_the_saga_that_it_is_about(chain: Chain) -> None:
    """It has actor, reason, before and after when the journal says nothing any more."""
    await stuck(chain)
    await do(chain, "s-1", "retry", dry_run=True)
    await do(chain, "s-1", "resolve", step="charge")
    await do(chain, "s-1", "forget")
    page = await chain.get(f"{chain.stage}/audit?target=s-1")
    acts = [(act["act"], act["actor"], act["reason"]) for act in page["acts"]]
    assert [("forgotten", *WHO.values()), ("resolved", *WHO.values())] == acts
    resolved = page["acts"][1]
    assert (
        "failed_to_compensate, parked: failed_to_compensate, waits at charge" == resolved["before"]
    )
    assert resolved["after"] in ("compensating", "compensated")
    assert [] == (await chain.get(f"{chain.stage}/audit?target=s-2"))["acts"]
    older = await chain.get(f"{chain.stage}/audit?before={page['acts'][0]['number']}")
    assert ["resolved"] == [act["act"] for act in older["acts"]]


def numbered() -> Stage[Order, Any]:
    """A stage that is searched by the number of the order."""
    stage: Stage[Order, Any] = Stage("payment", accepts=Order, indexed={"order": "order_id"})

    @stage.call(to="psp", timeout=1.0)
    async def charge(http: Http, saga: Saga[Order]) -> None:
        await http.post("/charges", json={"amount": saga.input.amount})

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], charged: None) -> None:
        await http.post("/refunds", json={})

    return stage


@pytest.fixture
async def indexed(tmp_path: Path) -> AsyncIterator[Chain]:
    """A chain whose stage indexes the number of the order."""
    async with running_chain(tmp_path, stage=numbered()) as running:
        yield running


async def test_a_saga_is_found_by_its_business_number_and_its_trace(indexed: Chain) -> None:
    """As the customer on the telephone says it, and as the log of a neighbour has it."""
    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    await indexed.send("s-1", {**ORDER, "order_id": "o-77"}, traceparent=parent)
    await indexed.send("s-2", {**ORDER, "order_id": "o-78"})
    assert ["s-1"] == await ids(indexed, "number=order:o-77")
    assert ["s-1"] == await ids(indexed, f"trace_id={TRACE.upper()}")
    assert [] == await ids(indexed, "number=order:o-79")
    assert (422, True) == _said(await refused(indexed, "number=customer:1"), "it indexes order")
    assert (400, True) == _said(await refused(indexed, "number=o-77"), "NAME:VALUE")
    assert (400, True) == _said(await refused(indexed, "number=order:o&parked=true"), "alone")


async def test_a_forgotten_saga_is_found_by_its_id_alone(indexed: Chain) -> None:
    """Its business number was part of what was to be forgotten."""
    await indexed.send("s-1", {**ORDER, "order_id": "o-77"})
    assert 200 == (await do(indexed, "s-1", "forget"))[0]
    assert [] == await ids(indexed, "number=order:o-77")


async def test_a_stage_without_numbers_says_how_to_index_them(chain: Chain) -> None:
    """An empty list would say that there is no such saga."""
    assert (422, True) == _said(await refused(chain, "number=order:o-1"), "indexes no numbers")
    assert (422, True) == _said(await refused(chain, f"trace_id={TRACE}"), "indexes no numbers")


def _said(found: tuple[int, str], word: str) -> tuple[int, bool]:
    return found[0], word in found[1]


@pytest.mark.parametrize(
    "numbers, word",
    [
        ({"order": "oder_id"}, "no member 'oder_id'"),
        ({"Order-Id": "order_id"}, "letters, digits"),
        ({"trace_id": "order_id"}, "which is the trace's"),
        ({f"n{n}": "order_id" for n in range(9)}, "at most 8"),
    ],
)
def test_a_number_that_no_payload_can_have_is_refused_at_start(
    numbers: dict[str, str], word: str
) -> None:
    """With the fix, where the stage is declared."""
    with pytest.raises(DeclarationError, match=word):
        Stage("payment", accepts=Order, indexed=numbers)
