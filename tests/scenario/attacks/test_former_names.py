"""A neighbour that was renamed speaks of its old sagas under its former name, with one token."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

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
