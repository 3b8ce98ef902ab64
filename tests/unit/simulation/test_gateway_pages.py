"""A gateway's page in front of an API is nobody's word: for no code, at no function of a stage."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from examples.inventory import stage as inventory
from stage import Refused
from stage.authoring.declaration import StageDeclaration
from stage.demo import payment as demo
from stage.ports.stage import Answer
from stage.simulation import gateway
from stage.testing import FakeHttp, fake_saga

ORDER = {"order_id": "o-1", "amount": 5, "currency": "KRW"}
PIECES = {"order_id": "o-1", "sku": "s", "pieces": 1}
CHOICE = inventory.Choice("north", inventory.Quote("q-1", 1))
CODES = (200, 404, 409, 410, 422)
PAGES = 400


def pages() -> list[Answer]:
    """The pages of gateways for an API, but for what the engine keeps from a function."""
    random = Random(7)
    made = [gateway.page_of_api(random) for _ in range(2 * PAGES)]
    made += [gateway.without_route(random) for _ in range(20)]
    return [page for page in made if page.status < 500 and page.status not in (401, 429)]


SAID: dict[str, tuple[Any, StageDeclaration[Any, Any], dict[str, object], tuple[Any, ...]]] = {
    "charge": (demo.charge.function, demo.payment, ORDER, ()),
    "find_charge": (demo.find_charge, demo.payment, ORDER, ()),
    "refund": (demo.refund, demo.payment, ORDER, (None,)),
    "ask_north": (inventory.ask_north.function, inventory.inventory, PIECES, ()),
    "release_north": (inventory.release_north, inventory.inventory, PIECES, (None,)),
    "order_pickup": (inventory.order_pickup.function, inventory.inventory, PIECES, ()),
    "find_pickup": (inventory.find_pickup, inventory.inventory, PIECES, ()),
}
"""Functions that authors are shown: forward, on the way back, and probes."""


@pytest.mark.parametrize("name", SAID)
async def test_no_function_that_is_shown_believes_a_page(name: str) -> None:
    """It raises, and not `Refused`: in doubt, or a compensation that is tried again."""
    function, stage, data, more = SAID[name]
    results = [(inventory.choose, CHOICE)] if stage is inventory.inventory else []
    for page in pages():
        with pytest.raises(Exception) as raised:  # noqa: PT011 - any but the word of the API
            await function(FakeHttp(page), fake_saga(stage, data, results=results), *more)
        assert not isinstance(raised.value, Refused), page


def test_the_pages_have_every_code_in_question() -> None:
    """Those that an API gives as its own word too, each with every kind of body."""
    seen = {(page.status, page.body[:1]) for page in pages()}
    assert {(code, body) for code in CODES for body in (b"", b"<", b"{")} <= seen
