"""F32: thousands of sagas stuck behind one peer, retried from the console, and each only once."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import Any

import pytest

from stage.demo.chain import Chain
from stage.demo.client import Client
from stage.demo.stories import place
from stage.wire.envelope import parse_instant
from tests.acceptance.test_console import CHROMIUM, browser
from tests.kits import Strikes
from tests.sizes import SIZES

AT_ONCE = 16
FAILED = "parked=true&cause=failed_to_compensate&peer=externals.psp"
REASON = "psp is back"
STOP_SECONDS = 2.0
"""The act on a saga that a stop meets ends within this time."""
WAIT_SECONDS_MAX = 600.0

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here: install chromium"),
    pytest.mark.blocking,  # playwright reads files of its own in the loop
]


def rate() -> float:
    """So many sagas a second that two kills and a stop find it in its midst."""
    return max(4.0, min(50.0, SIZES.stuck / 100))


async def get_stuck(chain: Chain, client: Client, ids: list[str]) -> None:
    """Completed, then asked to compensate while the provider declines all refunds for good."""
    places = asyncio.Semaphore(AT_ONCE)

    async def completed(saga_id: str) -> None:
        async with places:
            assert 200 == (await place(chain, client, saga_id)).status

    async def compensated(saga_id: str) -> None:
        order = {"requested_by": "order", "reason": "withdrawn"}
        url = f"{chain.payment.url}/sagas/{saga_id}/compensate"
        async with places:
            assert 409 == (await client.post(url, order, timeout=60.0)).status

    await asyncio.gather(*map(completed, ids))
    await client.script(chain.psp, {"script": "refund-fails"})
    await asyncio.gather(*map(compensated, ids))
    await client.script(chain.psp, {"script": "ok"})


async def sweep_of(chain: Chain, client: Client) -> dict[str, Any]:
    found: dict[str, Any] = await client.get(f"{chain.payment.url}/sweeps/1")
    return found


async def stopped_sweep(chain: Chain, client: Client) -> dict[str, Any]:
    """The sweep once it is stopped, and what it was about to do is done."""
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while (await sweep_of(chain, client))["state"] != "stopped":  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # nobody tells
    await asyncio.sleep(STOP_SECONDS)
    return await sweep_of(chain, client)


async def through(chain: Chain, client: Client, count: int) -> dict[str, Any]:
    """The sweep once so many sagas are behind it."""
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while True:
            found = await sweep_of(chain, client)
            if found["sagas"] - found["pending"] >= count:
                return found
            await asyncio.sleep(0.1)  # nobody tells


async def acts(chain: Chain, client: Client) -> list[dict[str, Any]]:
    """The acts of the sweep on sagas, in the order of time."""
    found: list[dict[str, Any]] = []
    before = ""
    while True:
        page = await client.get(f"{chain.payment.url}/audit?limit=500{before}")
        found += [act for act in page["acts"] if act["reason"] == f"{REASON} (sweep 1)"]
        if page["next"] is None:
            return found[::-1]
        before = f"&before={page['next']}"


def too_fast(found: list[dict[str, Any]]) -> int:
    """How many acts came within a second of which the rate allows fewer."""
    at = [parse_instant(act["at"]) for act in found]
    most = int(rate()) + 1  # that with which the second begins
    return sum(late - early < 0.999 for early, late in zip(at, at[most:], strict=False))


async def begun(chain: Chain, page: Any, count: int) -> None:
    """From the list to the running sweep, with a look at the preview."""
    await page.goto(f"{chain.payment.url}/console/parked?{FAILED}")
    await page.select_option("#m-which", "all")
    await page.select_option("#m-verb", "retry")
    await page.fill("#m-rate", f"{rate():g}")
    await page.fill("#m-reason", REASON)
    await page.click("button:text('Preview')")
    assert f"retry would be done to {count} sagas" in await page.inner_text("main")
    await page.click("button:text('Do it to')")
    assert page.url.endswith("/console/sweeps/1")


async def press(page: Any, button: str) -> None:
    await page.reload()
    await page.fill("#s-reason", "ticket 20")
    await page.click(f"button:text('{button}')")


@pytest.mark.kit("F32")
@pytest.mark.timeout(1_800)
async def test_all_that_is_stuck_is_retried_once_at_the_rate(
    processes: Chain, client: Client, strikes: Strikes
) -> None:
    """Stopped and killed, still stopped; resumed and killed in its midst, it does the rest."""
    chain, count = processes, SIZES.stuck
    ids = [f"s-{number:05}" for number in range(count)]
    await get_stuck(chain, client, ids)
    token = chain.keys.token("operator")
    async with browser() as opened:
        context = await opened.new_context(http_credentials={"username": "kim", "password": token})
        page = await context.new_page()
        await begun(chain, page, count)
        await through(chain, client, count // 5)
        await press(page, "Stop")
        stopped = await stopped_sweep(chain, client)
        assert 0 < stopped["pending"] < count
        await chain.payment.kill()
        await chain.payment.start()
        assert stopped == await sweep_of(chain, client)
        await press(page, "Go on")
        await through(chain, client, 3 * count // 5)
        killed = time.time()
        await chain.payment.kill()
        await chain.payment.start()
        done = await through(chain, client, count)
        await page.goto(f"{chain.payment.url}/console/sweeps/1")
        assert f"Done to {count} of {count}" in await page.inner_text("main")
    found = await acts(chain, client)
    times, fast = Counter(act["target"] for act in found), too_fast(found)
    again = sum(each - 1 for each in times.values())
    assert killed < parse_instant(found[-1]["at"])
    took = parse_instant(found[-1]["at"]) - parse_instant(found[0]["at"])
    note = f"{rate():g} a second asked for, {took:.0f} s with a stop and two kills between"
    strikes.report("sagas", len(times), violations=again + fast, note=note)
    assert (dict.fromkeys(ids, 1), 0, 0) == (dict(times), fast, done["refused"])
    for saga_id in ids[:: max(1, count // 100)]:
        await client.until(chain.payment, saga_id, lambda saga: saga["state"] == "compensated")
    books = await client.get(f"{chain.psp.url}/charges")
    mine = [each for each in books["charges"] if re.match(r"s-\d{5}:", each["key"])]
    assert (count, 0) == (sum(e["made"] for e in mine), sum(e["standing"] for e in mine))
