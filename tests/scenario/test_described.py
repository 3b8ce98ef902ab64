"""The answers of a real stage are those that its OpenAPI document describes: code, header, body."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from tests.scenario.chain import ORDER, Chain, running_chain

Answer = tuple[int, dict[str, str], bytes]
OF_HTTP = {"content-type", "content-length", "date", "server", "connection"}
"""Headers that no document lists."""


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    async with running_chain(tmp_path) as running:
        yield running


async def a_yes(chain: Chain) -> Answer:
    return await chain.send("s-1")


async def a_repeat(chain: Chain) -> Answer:
    await chain.send("s-1")
    return await chain.send("s-1")


async def at_once(chain: Chain) -> Answer:
    return await chain.send("s-1", Prefer="respond-async")


async def a_no(chain: Chain) -> Answer:
    await chain.script(chain.shipping, script="refuse")
    return await chain.send("s-1")


async def a_no_again(chain: Chain) -> Answer:
    await a_no(chain)
    return await chain.send("s-1")


async def compensated_before(chain: Chain) -> Answer:
    await chain.compensate("s-1")
    return await chain.send("s-1")


async def late(chain: Chain) -> Answer:
    return await chain.send("s-1", Saga_Budget_Ms="0")


async def other_data(chain: Chain) -> Answer:
    await chain.send("s-1")
    return await chain.send("s-1", {**ORDER, "amount": 7})


async def half_a_body(chain: Chain) -> Answer:
    return await chain.request("POST", f"{chain.stage}/sagas", b"{")


async def plain_text(chain: Chain) -> Answer:
    return await chain.send("s-1", Content_Type="text/plain")


async def a_page(chain: Chain) -> Answer:
    return await chain.send("s-1", Origin="http://evil.example")


async def undone(chain: Chain) -> Answer:
    await chain.send("s-1")
    return await chain.compensate("s-1")


async def undone_later(chain: Chain) -> Answer:
    await chain.send("s-1")
    return await chain.compensate("s-1", Prefer="respond-async")


async def stands_behind(chain: Chain) -> Answer:
    await chain.script(chain.shipping, script="compensate-fails")
    await chain.send("s-1")
    return await chain.compensate("s-1")


async def shown(chain: Chain) -> Answer:
    await chain.send("s-1")
    return await chain.request("GET", f"{chain.stage}/sagas/s-1")


async def never_seen(chain: Chain) -> Answer:
    return await chain.request("GET", f"{chain.stage}/sagas/s-1")


async def listed(chain: Chain) -> Answer:
    await chain.send("s-1")
    return await chain.request("GET", f"{chain.stage}/sagas?since=2026-01-01T00:00:00Z&with=order")


START, COMPENSATE = ("post", "/sagas"), ("post", "/sagas/{saga_id}/compensate")
QUERY, LIST = ("get", "/sagas/{saga_id}"), ("get", "/sagas")
Asked = Callable[[Chain], Awaitable[Answer]]
ANSWERS: tuple[tuple[Asked, tuple[str, str], int], ...] = (
    (a_yes, START, 200),
    (a_repeat, START, 200),
    (at_once, START, 202),
    (a_no, START, 409),
    (a_no_again, START, 409),
    (compensated_before, START, 410),
    (late, START, 504),
    (other_data, START, 422),
    (half_a_body, START, 400),
    (plain_text, START, 415),
    (a_page, START, 403),
    (undone, COMPENSATE, 200),
    (undone_later, COMPENSATE, 202),
    (stands_behind, COMPENSATE, 409),
    (shown, QUERY, 200),
    (never_seen, QUERY, 404),
    (listed, LIST, 200),
)


@pytest.mark.parametrize(
    "asked, operation, code", ANSWERS, ids=lambda each: getattr(each, "__name__", None)
)
async def test_an_answer_is_as_it_is_described(
    chain: Chain, asked: Asked, operation: tuple[str, str], code: int
) -> None:
    """A client that was made of the document meets no code, header or member that it lacks."""
    status, headers, body = await asked(chain)
    spec = await chain.get(f"{chain.stage}/openapi.json")
    described = spec["paths"][operation[1]][operation[0]]["responses"]

    assert code == status, body
    found = described[str(code)]
    named = {name.lower() for name in found["headers"]}
    assert set() == {name.lower() for name in headers} - OF_HTTP - named
    kind = headers["Content-Type"].partition(";")[0]
    schema = {**found["content"][kind]["schema"], "components": spec["components"]}
    Draft202012Validator(schema).validate(msgspec.json.decode(body))


async def test_a_look_is_kept_by_no_gateway_and_the_document_says_so(chain: Chain) -> None:
    """Each answer to GET names `Cache-Control`, whatever its code."""
    spec = await chain.get(f"{chain.stage}/openapi.json")
    looks: list[Mapping[str, Any]] = [
        operation
        for item in [*spec["paths"].values(), *spec["webhooks"].values()]
        for method, operation in item.items()
        if method == "get"
    ]
    answers = [answer for look in looks for answer in look["responses"].values()]

    assert answers and all("Cache-Control" in answer["headers"] for answer in answers)
