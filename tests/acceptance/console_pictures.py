"""`make pictures`: the pictures of the console in docs/operator.md, made anew by a real browser.

A stage with something of everything: sagas that completed, that were refused, that could not be
undone, that wait; a sweep, a pause, and a database that was put back. It needs Chromium.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.acceptance.test_console import browser, follow
from tests.scenario.chain import Chain, running_chain
from tests.scenario.restored import restored_chain
from tests.scenario.test_pauses import hold
from tests.scenario.test_reconcile import lose
from tests.scenario.test_sweeps import post, until_done

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
WIDE = {"width": 1280, "height": 800}
pytestmark = [
    pytest.mark.blocking,  # playwright reads files of its own in the loop
    pytest.mark.asyncio(loop_scope="module"),
]
SCREENS = {
    "now": "",
    "parked": "/parked",
    "saga": "/sagas/o-3",
    "chain": "/sagas/o-3/chain",
    "peers": "/peers",
    "audit": "/audit",
}


@pytest_asyncio.fixture(loop_scope="module")
async def page() -> AsyncIterator[Any]:
    """A page of a browser, as wide as the pictures."""
    async with browser() as opened:
        yield await (await opened.new_context(viewport=WIDE, color_scheme="light")).new_page()


async def incident(chain: Chain) -> None:
    """A night: two cards are declined, refunds fail, some are mended by hand, a peer is held."""
    for number in range(1, 25):
        await chain.send(f"o-{number}")
    await chain.script(chain.psp, script="refuse")
    for number in (30, 31):
        await chain.send(f"o-{number}")
    await chain.script(chain.psp, script="refund-fails")
    for number in (3, 7, 12, 15, 20, 21, 22):
        await chain.compensate(f"o-{number}", reason="the customer changed his mind")
    by_hand = {"verb": "resolve", "reason": "refunded by hand, ticket 17"}
    _, sweep = await post(chain, "/sweeps", **by_hand, saga_ids=["o-20", "o-21", "o-24"])
    await until_done(chain, sweep["number"])
    await hold(chain, "downstreams.shipping", 3_600.0, direction="forward", reason="their night")
    await chain.script(chain.psp, script="error")
    for number in (40, 41):
        await chain.send(f"o-{number}", Prefer="respond-async, wait=0")


async def test_the_pictures_of_an_incident(tmp_path: Path, page: Any) -> None:
    """The six pages that one saga or many are seen on."""
    async with running_chain(tmp_path) as chain:
        await incident(chain)
        for name, path in SCREENS.items():
            await page.goto(f"{chain.stage}/console{path}")
            await page.screenshot(path=PICTURES / f"console-{name}.png", full_page=True)


async def test_the_picture_of_a_restore(tmp_path: Path, page: Any) -> None:
    """The neighbours know two sagas that the backup lacks."""
    async with restored_chain(tmp_path) as world:
        await lose(world, "o-1", "o-2")
        async with world.serving() as chain:
            await page.goto(f"{chain.stage}/console/reconcile")
            await follow(page, "button", "Ask the neighbours")
            await page.screenshot(path=PICTURES / "console-reconcile.png", full_page=True)
