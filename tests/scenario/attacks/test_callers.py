"""Nobody acts without a name (rule 36): a saga, and the ways in which others reach for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.scenario.attacks.names import (
    bearer,
    named_chain,
    shown_by,
    token_of,
    write_accepted,
)
from tests.scenario.chain import Chain


@pytest.fixture
async def named(tmp_path: Path) -> AsyncIterator[Chain]:
    async with named_chain(tmp_path) as chain:
        yield chain


async def state_of(chain: Chain, saga_id: str) -> str:
    """The state of a saga, as an operator sees it."""
    url = f"{chain.stage}/sagas/{saga_id}"
    status, _, body = await chain.request("GET", url, Authorization=shown_by("vera"))
    return str(msgspec.json.decode(body)["state"]) if status == 200 else str(status)


async def test_every_link_of_the_chain_shows_a_token(named: Chain) -> None:
    """Forward, late failure, notification and compensation: the stubs let nobody else in."""
    await named.script(named.shipping, script="late-failure", seconds=0.1)
    order = msgspec.json.encode({"order_id": "o-1", "amount": 100, "currency": "KRW"})
    status, headers, _ = await named.request("POST", f"{named.order}/orders", order)
    assert 200 == status
    saga_id = headers.get("Saga-Id") or msgspec.json.decode(_)["saga_id"]
    for _ in range(200):
        if (await named.get(f"{named.order}/sagas/{saga_id}"))["state"] == "compensated":
            break
        await named.request(
            "GET", f"{named.stage}/sagas/{saga_id}", Authorization=shown_by("vera"), Prefer="wait=1"
        )

    assert "compensated" == (await named.get(f"{named.order}/sagas/{saga_id}"))["state"]
    assert (1, 0) == await named.charges()


async def test_a_stranger_learns_nothing(named: Chain) -> None:
    """No token, a wrong one, one in another scheme: 401, and no effect."""
    for shown in ("", bearer("x" * 43), f"Basic {token_of('order')}"):
        status, headers, body = await named.send("s-1", Authorization=shown)
        assert (401, "Bearer") == (status, headers["WWW-Authenticate"])
        assert "not_executed" == msgspec.json.decode(body)["outcome"]
    assert (0, 0) == await named.charges()
    assert "404" == await state_of(named, "s-1")


async def test_a_rotation_refuses_nobody(named: Chain, tmp_path: Path) -> None:
    """Two lines while it lasts; the new one counts at once, the old one until it is taken out."""
    new = "n" * 43
    write_accepted(tmp_path, "order", new, token_of("order"))
    assert 200 == (await named.send("s-1", Authorization=bearer(new)))[0]
    assert 200 == (await named.send("s-2", Authorization=shown_by("order")))[0]

    write_accepted(tmp_path, "order", new)
    await named.request("GET", f"{named.stage}/sagas/s-1", Authorization=bearer("x" * 43))
    assert 401 == (await named.send("s-3", Authorization=shown_by("order")))[0]
    assert 200 == (await named.send("s-4", Authorization=bearer(new)))[0]


async def test_a_stranger_takes_no_id_from_its_owner(named: Chain) -> None:
    """A start that came first under a guessed id, with other contents, made the real one a 422."""
    for shown in ("", bearer("x" * 43), shown_by("shipping"), shown_by("web")):
        status, _, _ = await named.send(
            "s-1", {"order_id": "o-666", "amount": 1, "currency": "KRW"}, Authorization=shown
        )
        assert status in (401, 403)
    assert 200 == (await named.send("s-1", Authorization=shown_by("order")))[0]
    assert (1, 1) == await named.charges()


async def test_a_saga_that_a_stranger_asked_to_forget_is_undone_after_a_late_failure(
    named: Chain,
) -> None:
    """Its journal gone, the saga could not be undone, and the charge stood for ever."""
    assert 200 == (await named.send("s-1", Authorization=shown_by("order")))[0]
    order = msgspec.json.encode({"reason": "erasure", "actor": "boss"})
    for shown, refused in (("", 401), (shown_by("order"), 403), (shown_by("olga"), 403)):
        url = f"{named.stage}/sagas/s-1/forget"
        assert refused == (await named.request("POST", url, order, Authorization=shown))[0]

    late = await named.compensate("s-1", by="shipping", Authorization=shown_by("shipping"))
    assert late[0] in (200, 202)
    for _ in range(200):
        if "compensated" == await state_of(named, "s-1"):
            break
        await named.request(
            "GET", f"{named.stage}/sagas/s-1", Authorization=shown_by("vera"), Prefer="wait=1"
        )
    assert (1, 0) == await named.charges()
