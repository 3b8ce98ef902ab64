"""`?view=chain`: any stage tells the story of the whole chain, without a collector or a centre."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage.cli.waterfall import draw_chain
from stage.wire.chain import (
    CHAIN_ASKED,
    CHAIN_HOPS,
    EVENTS_MAX,
    ChainEvent,
    ChainView,
    StageStory,
    decode_chain,
)
from stage.wire.views import encode_view
from tests.scenario.chain import HOST, ORDER, Chain, running_chain


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    async with running_chain(tmp_path) as running:
        yield running


async def story(chain: Chain, saga_id: str, **headers: str) -> ChainView:
    """The chain as the stage shows it."""
    url = f"{chain.stage}/sagas/{saga_id}?view=chain"
    status, _, body = await chain.request("GET", url, None, **headers)
    assert 200 == status, body
    return decode_chain(body, saga_id)


async def ordered(chain: Chain) -> None:
    """An order through the head of the chain."""
    body = msgspec.json.encode(ORDER)
    status, _, _ = await chain.request("POST", f"{chain.order}/orders", body, Saga_Id="s-1")
    assert 200 == status


def known(view: ChainView) -> list[tuple[str, bool]]:
    """The stages in order, and whether anything is known of them."""
    return [(each.stage, each.known) for each in view.stages]


async def test_the_stage_shows_the_whole_chain_in_order(chain: Chain) -> None:
    """From the head to the tail, each by its own books, under one trace id."""
    await ordered(chain)
    view = await story(chain, "s-1")
    assert [("order", True), ("payment", True), ("shipping", True)] == known(view)
    assert ["completed"] * 3 == [each.state for each in view.stages]
    assert 1 == len({each.trace_id for each in view.stages})
    events = [event.event for event in view.stages[1].events]
    assert ["accepted", "step_succeeded", "step_started"] == events[:3]


async def test_no_payload_and_no_undo_data_is_shown(chain: Chain) -> None:
    """A neighbour's neighbour has no business with them (3.1)."""
    await chain.send("s-1")
    url = f"{chain.stage}/sagas/s-1?view=chain"
    _, _, body = await chain.request("GET", url)
    for private in (b"KRW", b"o-1", b"charge_id", b"/charges"):
        assert private not in body, private


async def test_a_late_failure_is_drawn_down_and_back_up(chain: Chain) -> None:
    """Rows by time: what downstream asked for comes after what it did, and order is told last."""
    await chain.script(chain.shipping, script="late-failure", seconds=0.05)
    await ordered(chain)
    await chain.until("s-1", lambda saga: saga["told_upstream"] == "delivered")
    picture = draw_chain(await story(chain, "s-1"), link="https://traces.example/t")
    expected = [
        ("order", "order pending"), ("payment", "▶ charge"), ("payment", "▶ forward:shipping"),
        ("shipping", "failed after"), ("payment", "◀ compensate charge"),
        ("payment", "◀ tell upstream"),
        ("order", "order released"),
    ]  # fmt: skip
    rows = picture.splitlines()
    places = [
        next(n for n, row in enumerate(rows) if row.startswith(stage) and what in row)
        for stage, what in expected
    ]
    assert sorted(places) == places, picture
    assert "by shipping: failed after it had answered" in picture
    assert "https://traces.example/t" in picture


async def test_an_unknown_saga_stays_404(chain: Chain) -> None:
    """Asking about nothing makes nothing up."""
    status, _, _ = await chain.request("GET", f"{chain.stage}/sagas/never?view=chain")
    assert 404 == status


async def test_a_stage_that_never_saw_the_saga_is_unknown(chain: Chain) -> None:
    """Downstream refuses nothing and knows nothing: compensated here before it was handed on."""
    await chain.script(chain.psp, script="refuse")
    await chain.send("s-1")
    view = await story(chain, "s-1")
    assert ("shipping", False) == known(view)[-1]
    assert "never saw" in (view.stages[-1].why_unknown or "")


async def test_nobody_is_asked_twice(chain: Chain) -> None:
    """A stage that was asked already is left out: a ring comes to its end."""
    await ordered(chain)
    view = await story(chain, "s-1", **{CHAIN_ASKED: "order,shipping"})
    assert [("payment", True)] == known(view)


async def test_without_hops_left_the_neighbours_are_unknown(chain: Chain) -> None:
    """The question passes so many stages and no more."""
    await ordered(chain)
    view = await story(chain, "s-1", **{CHAIN_HOPS: "0"})
    assert [("order", False), ("payment", True), ("shipping", False)] == known(view)


@pytest.mark.parametrize(
    "headers", [{CHAIN_HOPS: "many"}, {CHAIN_ASKED: "http://evil.example/"}], ids=str
)
async def test_headers_that_are_none_are_refused(chain: Chain, headers: dict[str, str]) -> None:
    """400, and never an address (rule 25): names are looked up among the configured peers."""
    await chain.send("s-1")
    url = f"{chain.stage}/sagas/s-1?view=chain"
    assert 400 == (await chain.request("GET", url, None, **headers))[0]


def strange(saga_id: str) -> dict[str, bytes]:
    """Answers that are not to be trusted."""
    event = ChainEvent(at="2026-11-23T02:30:00Z", event="x")
    stage = StageStory(stage="shipping", state="completed")
    many = StageStory(stage="shipping", events=[event] * (EVENTS_MAX + 1))
    return {
        "not json": b"<html>",
        "another saga": encode_view(ChainView(saga_id="other", stages=[stage])),
        "too many events": encode_view(ChainView(saga_id=saga_id, stages=[many])),
        "no name": encode_view(ChainView(saga_id=saga_id, stages=[StageStory(stage="<b>")])),
        "too large": b'{"saga_id":"' + b"x" * 2_000_000 + b'"}',
    }


@pytest.mark.parametrize("answer", [*strange("s-1"), "hangs", "down", "speaks for others"])
async def test_a_neighbour_that_answers_nonsense_is_unknown(tmp_path: Path, answer: str) -> None:
    """Validated and capped like a request (rule 27), and waited for within a limit."""

    async def answered(request: web.Request) -> web.Response:
        if request.method == "POST":
            return web.json_response({"outcome": "executed"})
        if answer == "hangs":
            await asyncio.sleep(30)
        if answer == "speaks for others":
            lie = [StageStory(stage=name, state="lie") for name in ("payment", "order", "oddity")]
            body = encode_view(ChainView(saga_id="s-1", stages=lie))
        else:
            body = strange("s-1")[answer]
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answered)
    server = TestServer(app, host=HOST)
    await server.start_server(shutdown_timeout=0.1)
    peers = {"oddity": f"http://{HOST}:{server.port}"}
    async with running_chain(tmp_path, more_downstreams=peers) as chain:
        await chain.send("s-1")
        if answer == "down":
            await server.close()
        view = await story(chain, "s-1", Saga_Budget_Ms="800")
        stages = {each.stage: each for each in view.stages}
        assert "completed" == stages["payment"].state
        assert "lie" not in (stages["payment"].state, stages["order"].state)
        if answer != "speaks for others":
            assert not stages["oddity"].known
            assert stages["oddity"].why_unknown
    await server.close()
