"""The edge of both neighbours is that of a stage: who passes with them passes with it."""

from __future__ import annotations

import pytest
from aiohttp import web

from stage.neighbours.downstream.app import make_app as make_downstream
from stage.neighbours.upstream.app import make_app as make_upstream
from tests.unit.stubs.conftest import Client, Start


@pytest.fixture(params=["downstream", "upstream"])
async def neighbour(request: pytest.FixtureRequest, start: Start, stage_url: str) -> Client:
    """Either of them."""
    made: dict[str, web.Application] = {
        "downstream": make_downstream(name="shipping", upstream=stage_url),
        "upstream": make_upstream(name="order", stage=stage_url),
    }
    return await start(made[request.param])


@pytest.mark.parametrize("path", ["/sagas", "/sagas/s-1", "/script", "/nothing"])
async def test_no_gateway_keeps_an_answer_to_a_look(neighbour: Client, path: str) -> None:
    """A saga that is not there comes a moment later, an error as well (protocol 3.2)."""
    async with neighbour.get(path) as answer:
        assert "no-store" == answer.headers.get("Cache-Control")


async def test_an_answer_to_a_post_says_nothing_of_it(neighbour: Client) -> None:
    """No cache keeps one."""
    async with neighbour.post("/sagas/s-1/compensate", json={}) as answer:
        assert "Cache-Control" not in answer.headers


@pytest.mark.parametrize("path", ["/sagas", "/sagas/s-1"])
async def test_head_is_no_method_here(neighbour: Client, path: str) -> None:
    """405, as at a stage, with the methods that there are."""
    async with neighbour.head(path) as answer:
        assert 405 == answer.status
        assert "GET" in answer.headers["Allow"]


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {"Content-Encoding": "gzip"}])
async def test_an_empty_post_says_that_it_is_json(
    neighbour: Client, headers: dict[str, str]
) -> None:
    """415, and nothing is compensated: a stage would refuse it too."""
    usual = {"Content-Type": "application/json"}
    url = "/sagas/s-1/compensate"
    async with neighbour.post(url, data=b"", headers={**usual, **headers}) as answer:
        assert (415, "application/problem+json") == (answer.status, answer.content_type)
    async with neighbour.get("/sagas/s-1") as answer:
        assert 404 == answer.status
