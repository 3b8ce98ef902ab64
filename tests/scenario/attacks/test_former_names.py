"""A neighbour that was renamed speaks of its old sagas under its former name, with one token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.scenario.attacks.names import named_chain, shown_by
from tests.scenario.chain import Chain
from tests.waits import until

pytestmark = pytest.mark.blocking


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    """`order` was `shop` before, and `shipping` was `parcels`."""
    names = {"order": ("shop",), "shipping": ("parcels",)}
    async with named_chain(tmp_path, formerly=names) as running:
        yield running


@pytest.mark.parametrize("name", ["order", "shop"])
async def test_both_names_start_see_and_undo_their_own_sagas(chain: Chain, name: str) -> None:
    """Sagas that began before the rename go on under the name of then (rule 32)."""
    shown = shown_by("order")
    assert 200 == (await chain.send("s-1", via=name, Authorization=shown))[0]
    status, _, _ = await chain.request("GET", f"{chain.stage}/sagas/s-1", None, Authorization=shown)
    assert 200 == status
    assert 200 == (await chain.compensate("s-1", by=name, Authorization=shown))[0]
    assert (1, 0) == await chain.charges()


async def test_an_upstream_that_leaves_its_name_out_undoes_its_older_sagas_too(
    chain: Chain,
) -> None:
    """The whole body is optional: the token says who asks, and the saga under which name."""
    order = shown_by("order")
    assert 200 == (await chain.send("s-1", via="shop", Authorization=order))[0]
    url = f"{chain.stage}/sagas/s-1/compensate"
    assert 200 == (await chain.request("POST", url, b"{}", Authorization=order))[0]
    assert 200 == (await chain.send("s-2", via="web", Authorization=shown_by("web")))[0]
    url = f"{chain.stage}/sagas/s-2/compensate"
    assert 403 == (await chain.request("POST", url, b"{}", Authorization=order))[0]


@pytest.mark.parametrize("then, today", [("shop", "order"), ("order", "shop")])
async def test_an_upstream_repeats_and_undoes_its_sagas_under_another_of_its_names(
    chain: Chain, then: str, today: str
) -> None:
    """A simple neighbour knows one name, and says it of the sagas from before its rename too."""
    order = shown_by("order")
    first = await chain.send("s-1", via=then, Authorization=order)
    again = await chain.send("s-1", via=today, Authorization=order)
    assert (200, 200, first[2]) == (first[0], again[0], again[2])
    assert 200 == (await chain.compensate("s-1", by=today, Authorization=order))[0]
    assert (1, 0) == await chain.charges()
    _, _, body = await chain.request("GET", f"{chain.stage}/sagas/s-1", None, Authorization=order)
    view = msgspec.json.decode(body)
    assert (then, then, None) == (view["upstream"], view["requested_by"], view["told_upstream"])


async def test_a_downstream_undoes_what_it_got_under_its_new_name_under_the_former_one(
    chain: Chain,
) -> None:
    """It accepted the saga under the version of then, and this stage had renamed it already."""
    assert 200 == (await chain.send("s-1", via="order", Authorization=shown_by("order")))[0]
    shown = shown_by("shipping")
    assert (await chain.compensate("s-1", by="parcels", Authorization=shown))[0] in (200, 202)
    # One that this stage lacks was handed on here all the same: it is no tombstone.
    assert 409 == (await chain.compensate("s-2", by="parcels", Authorization=shown))[0]


async def test_a_pause_holds_what_goes_to_a_renamed_upstream_whichever_name_it_names(
    chain: Chain,
) -> None:
    """Attempts go to the neighbour of today: a pause of its former name held nothing."""
    body = msgspec.json.encode({"target": "upstreams.shop", "seconds": 60, "reason": "ticket 7"})
    operator = shown_by("olga")
    await chain.request("POST", f"{chain.stage}/pauses", body, Authorization=operator)
    for name in ("order", "shop"):
        order, shipping = shown_by("order"), shown_by("shipping")
        assert 200 == (await chain.send(name, via=name, Authorization=order))[0]
        assert (await chain.compensate(name, by="shipping", Authorization=shipping))[0] in (
            200,
            202,
        )

    async def peer() -> Any:
        url = f"{chain.stage}/peers"
        _, _, body = await chain.request("GET", url, None, Authorization=operator)
        (found,) = (
            each
            for each in msgspec.json.decode(body)["peers"]
            if each["peer"] in ("upstreams.order", "upstreams.shop")
        )
        return found

    async def are_held() -> bool:
        return bool(2 == (await peer())["queued"])

    await until(are_held)
    assert "upstreams.order" == (await peer())["peer"]
    assert (await peer())["paused_until"]


async def test_a_former_name_is_that_neighbour_s_alone(chain: Chain) -> None:
    """Nobody else may use it, and it opens no saga of the others."""
    web = shown_by("web")
    assert 403 == (await chain.send("s-1", via="shop", Authorization=web))[0]
    assert 200 == (await chain.send("s-2", via="web", Authorization=web))[0]
    order = shown_by("order")
    assert 403 == (await chain.compensate("s-2", by="shop", Authorization=order))[0]
    assert 403 == (await chain.compensate("s-2", by="web", Authorization=order))[0]


async def test_a_late_failure_reaches_it_under_its_former_name(chain: Chain) -> None:
    """The saga names the upstream of then; the address and the token are those of today."""
    order, shipping = shown_by("order"), shown_by("shipping")
    assert 200 == (await chain.send("s-1", via="shop", Authorization=order))[0]
    assert (await chain.compensate("s-1", by="shipping", Authorization=shipping))[0] in (200, 202)

    async def is_notified() -> bool:
        _, _, body = await chain.request(
            "GET", f"{chain.stage}/sagas/s-1", None, Authorization=order
        )
        view = msgspec.json.decode(body)
        assert not view["parked"], view
        return bool(view["told_upstream"] == "delivered")

    await until(is_notified)


async def test_the_lists_of_shared_sagas_are_given_under_each_name(chain: Chain) -> None:
    """A neighbour whose backup is older than its rename asks for both."""
    order = shown_by("order")
    assert 200 == (await chain.send("s-1", via="shop", Authorization=order))[0]
    url = f"{chain.stage}/sagas?since=2020-01-01T00:00:00Z&with="
    listed = {}
    for name in ("order", "shop", "web"):
        status, _, body = await chain.request("GET", url + name, None, Authorization=order)
        listed[name] = (status, b"s-1" in body)
    assert {"order": (200, False), "shop": (200, True), "web": (403, False)} == listed
