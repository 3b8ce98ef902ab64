"""The console in a real browser: each screen, an incident pressed to its end, keys, and axe.

It needs Chromium and the packages playwright and axe-playwright-python; without them the tests are
skipped, and the last lines of the run say so.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from benchmarks.growth.filling import fill
from tests.scenario.chain import Chain, running_chain
from tests.scenario.restored import restored_chain
from tests.scenario.test_operator import stuck
from tests.scenario.test_reconcile import lose
from tests.sizes import SIZES, TIER

CHROMIUM = shutil.which("chromium") or ""
playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here: install chromium"),
    pytest.mark.blocking,  # playwright reads files of its own in the loop
    pytest.mark.asyncio(loop_scope="module"),  # that of the browser
]
SCREENS = (
    *("", "/parked", "/sagas/s-1", "/sagas/s-1/chain", "/peers", "/audit", "/sweeps/1"),
    "/sagas/never",
    "/reconcile",
)
OPEN = "document.querySelectorAll('details').forEach(each => each.open = true)"
TEMPLATE = "0193f0c4-7d1e-7c3a-9a55-0d6a3c1f2b10"
"""The saga that is copied: the copies have ids as long as this."""
PARKED = SIZES.parked
SCHEMES = ["light", "dark"] if TIER == "prove" else ["light"]
"""Each has its own contrasts."""
TABS_MAX = 200
DONE = "least => document.querySelector('progress').value >= least"
PICTURES = os.environ.get("PICTURES", "")
"""A folder for screenshots, to look at them."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browsers() -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """One browser for all tests, as its start takes as long as one of them, and a new one behind
    one that has crashed."""
    async with AsyncExitStack() as stack:
        ones: list[Any] = []

        async def living() -> Any:
            if not ones or not ones[-1].is_connected():
                ones.append(await stack.enter_async_context(browser()))
            return ones[-1]

        yield living


@pytest_asyncio.fixture(loop_scope="module")
async def opened(browsers: Callable[[], Awaitable[Any]]) -> AsyncIterator[Any]:
    """The browser, in which the test before has left nothing open and nothing known."""
    chromium = await browsers()
    yield chromium
    for context in chromium.contexts:
        await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def shown(tmp_path: Path, opened: Any) -> AsyncIterator[tuple[Chain, Any]]:
    """A stuck saga and a sweep that could not be done, and a browser."""
    async with running_chain(tmp_path) as chain:
        await stuck(chain)
        order = {"verb": "retry", "reason": "ticket 17", "actor": "kim", "saga_ids": ["s-0"]}
        await chain.session.post(f"{chain.stage}/sweeps", json=order)
        yield chain, opened


@asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    """Chromium without a window."""
    async with playwright.async_playwright() as driver:
        opened = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            await opened.close()


async def violations(page: Any) -> list[str]:
    """The rules of WCAG 2.1 A and AA that axe finds broken, each with a place."""
    script = Path(axe.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    await page.evaluate(script)
    found = await page.evaluate(
        "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']})"
    )
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found["violations"]]


@pytest.mark.kit("F32")
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_every_screen_is_accessible_and_loads_nothing_foreign(
    shown: tuple[Chain, Any], scheme: str
) -> None:
    """Axe finds nothing, no request leaves for elsewhere, and the policy stops nothing of ours."""
    chain, opened = shown
    context = await opened.new_context(color_scheme=scheme)
    page = await context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    wrong = []
    for path in SCREENS:
        await page.goto(f"{chain.stage}/console{path}")
        await page.evaluate(OPEN)
        wrong += [f"{path}: {each}" for each in await violations(page)]
        if PICTURES:
            name = path.strip("/").replace("/", "-") or "now"
            await page.screenshot(path=f"{PICTURES}/{name}-{scheme}.png", full_page=True)
    assert [] == wrong
    assert {chain.stage} == {"/".join(url.split("/", 3)[:3]) for url in asked}
    assert [] == [text for text in said if "404" not in text]  # that of the page that is not there


async def test_an_incident_is_pressed_to_its_end_with_keys_alone(shown: tuple[Chain, Any]) -> None:
    """The provider could not refund: from the first page to the resolved saga, without a mouse."""
    chain, opened = shown
    page = await opened.new_page()
    await page.goto(f"{chain.stage}/console")
    await follow(page, "a", "failed to compensate")
    await follow(page, "a", "s-1")
    assert "stands: charge" in await page.inner_text("main")
    await tab_to(page, "summary", "resolve")
    await page.keyboard.press("Enter")
    await tab_to(page, "#resolve-step")
    await page.keyboard.press("ArrowDown")
    await tab_to(page, "#resolve-reason")
    await page.keyboard.type("refunded by hand, ticket 17")
    await tab_to(page, "#resolve-actor")
    await page.keyboard.type("kim")
    await follow(page, "button", "Preview resolve")
    assert "Would be" in await page.inner_text("main")
    assert "failed_to_compensate" == (await chain.view("s-1"))["state"]
    await follow(page, "button", "Do it: resolve")
    assert page.url.endswith("/console/sagas/s-1?did=resolve")
    assert "compensated" == (await chain.view("s-1"))["state"]
    await follow(page, "a", "Audit")
    assert "refunded by hand, ticket 17" in await page.inner_text("main")


@pytest.mark.kit("F32")
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_lost_sagas_are_taken_over_with_keys_alone(
    tmp_path: Path, opened: Any, scheme: str
) -> None:
    """From the alarm on the first page: ask, read what they say, and have it compensated."""
    async with restored_chain(tmp_path) as world:
        await lose(world, "s-1", "s-2")
        async with world.serving() as chain:
            page = await (await opened.new_context(color_scheme=scheme)).new_page()
            await page.goto(f"{chain.stage}/console")
            await follow(page, "a", "ask the neighbours")
            await follow(page, "button", "Ask the neighbours")
            assert "2 sagas that neighbours know and we do not" in await page.inner_text("main")
            assert [] == await violations(page)
            if PICTURES:
                name = f"reconcile-found-{scheme}.png"
                await page.screenshot(path=f"{PICTURES}/{name}", full_page=True)
            for choice in ("#t-which", "#t-then"):
                await tab_to(page, choice)
                await page.keyboard.press("ArrowDown")
            await tab_to(page, "#t-reason")
            await page.keyboard.type("the disk burnt, ticket 19")
            await tab_to(page, "#t-actor")
            await page.keyboard.type("kim")
            await follow(page, "button", "Take over")
            assert page.url.endswith("/console/sweeps/1")
            for saga_id in ("s-1", "s-2"):
                await chain.until(saga_id, lambda saga: saga["state"] == "compensated")


@pytest.mark.kit("F32")
async def test_many_parked_sagas_are_swept_with_keys_alone(tmp_path: Path, opened: Any) -> None:
    """Counted, listed, paged, previewed, begun, stopped and resumed; axe finds nothing anywhere."""
    async with restored_chain(tmp_path) as world:
        async with world.serving() as chain:
            await chain.send(TEMPLATE)
            await chain.script(chain.psp, script="refund-fails")
            assert 409 == (await chain.compensate(TEMPLATE))[0]
        await asyncio.to_thread(fill, world.path, TEMPLATE, PARKED, over_seconds=3_600.0)
        async with world.serving() as chain:
            page = await opened.new_page()
            await page.goto(f"{chain.stage}/console")
            assert f"{PARKED + 1}" in await page.inner_text("main")
            wrong = await violations(page)
            await follow(page, "a", "failed to compensate")
            assert 50 == await page.locator("input[name=saga_id]").count()
            wrong += await violations(page)
            first = await page.inner_text("tbody a[href*='/sagas/']")
            await follow(page, "a", "Next page")
            assert first != await page.inner_text("tbody a[href*='/sagas/']")
            await order_all(page)
            said = await page.inner_text("main")
            assert f"resolve would be done to {PARKED + 1} sagas, 100.0 a second" in said
            wrong += await violations(page)
            await follow(page, "button", "Do it to")
            wrong += await violations(page)
            await page.wait_for_function(DONE, arg=20, timeout=60_000)  # it follows by itself
            await sign(page)
            await follow(page, "button", "Stop")
            assert "stopped" in await page.inner_text("main")
            await sign(page)
            await follow(page, "button", "Go on")
            assert "running" in await page.inner_text("main")
            assert [] == wrong


async def order_all(page: Any) -> None:
    """Fill in that all of the list are to be resolved, and go to the preview."""
    await tab_to(page, "#m-which")
    await page.keyboard.press("ArrowDown")
    await tab_to(page, "#m-verb")
    await page.keyboard.type("resolve")
    await tab_to(page, "#m-rate")
    await page.keyboard.type("100")  # it is selected when it gets the focus
    await tab_to(page, "#m-reason")
    await page.keyboard.type("refunded by the bank, ticket 21")
    await tab_to(page, "#m-actor")
    await page.keyboard.type("kim")
    await follow(page, "button", "Preview")


async def sign(page: Any) -> None:
    """The reason and the name, by Tab."""
    await tab_to(page, "#s-reason")
    await page.keyboard.type("ticket 21")
    await tab_to(page, "#s-actor")
    await page.keyboard.type("kim")


async def test_a_page_follows_by_itself_and_is_read_without_a_script(
    shown: tuple[Chain, Any],
) -> None:
    """One page has no script and one has; only the second has the new saga without a reload."""
    chain, opened = shown
    plain = await (await opened.new_context(java_script_enabled=False)).new_page()
    await plain.goto(f"{chain.stage}/console/parked")
    assert "s-1" in await plain.inner_text("main")
    page = await opened.new_page()
    async with page.expect_response(lambda answer: answer.url.endswith("/console/live")):
        await page.goto(f"{chain.stage}/console")
    order = {"target": "intake", "seconds": 600, "reason": "ticket 18", "actor": "kim"}
    await chain.session.post(f"{chain.stage}/pauses", json=order)
    await page.wait_for_selector("text=ticket 18", timeout=60_000)


async def tab_to(page: Any, selector: str, text: str = "") -> None:
    """Press Tab until that element has the focus, which it must be seen to have."""
    for _ in range(TABS_MAX):
        await page.keyboard.press("Tab")
        found = await page.evaluate(
            "([selector, text]) => { const at = document.activeElement;"
            " return at.matches(selector) && at.textContent.includes(text)"
            " && getComputedStyle(at).outlineStyle !== 'none'; }",
            [selector, text],
        )
        if found:
            return
    raise AssertionError(f"no Tab leads to {selector} {text!r}")


async def follow(page: Any, selector: str, text: str) -> None:
    """Go to a link or button by Tab and press Enter; return when the next page is there."""
    await tab_to(page, selector, text)
    async with page.expect_navigation():
        await page.keyboard.press("Enter")
