"""Every route, and every defect of a credential: refused as the table says, with no effect (F17).

The table is made from `inbound.routes`: a route that is added is attacked by being there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from stage.inbound.principal import Who
from stage.inbound.routes import ROUTES, Route
from tests.kits import Strikes
from tests.scenario.attacks.names import (
    OPERATORS,
    STAGE,
    bearer,
    named_chain,
    shown_by,
    token_of,
    write_accepted,
)
from tests.scenario.chain import AT, ORDER, Chain
from tests.sizes import SIZES

MINE, NEW = "s-1", "s-new"
"""A saga of `order` that was executed, and one that was never seen."""
ROTATED_OUT = "r" * 43


class Defect(NamedTuple):
    """A caller with something wrong. `who` is all that the caller counts as all the same."""

    name: str
    shown: Callable[[], str]
    who: frozenset[Who]
    as_name: str = "order"
    """The name in the body: the last of the trail, and the requester."""
    refused: int = 403


STRANGER = frozenset({Who.ANYONE})
UPSTREAM, DOWNSTREAM = frozenset({Who.UPSTREAM}), frozenset({Who.DOWNSTREAM})
VIEWER = frozenset({Who.VIEWER, Who.PLATFORM})
OPERATOR = VIEWER | {Who.OPERATOR}

DEFECTS = (
    Defect("none", str, STRANGER, refused=401),
    Defect("empty", lambda: "Bearer ", STRANGER, refused=401),
    Defect("wrong", lambda: bearer("w" * 43), STRANGER, refused=401),
    Defect(
        "one character off", lambda: bearer(token_of("order")[:-1] + "u"), STRANGER, refused=401
    ),
    Defect("cut", lambda: bearer(token_of("order")[:-1]), STRANGER, refused=401),
    Defect("twice in one header", lambda: f"{shown_by('order')}, x", STRANGER, refused=401),
    Defect("other scheme", lambda: f"Basic {token_of('order')}", STRANGER, refused=401),
    Defect("the hash itself", lambda: bearer("sha256:" + "0" * 64), STRANGER, refused=401),
    Defect("our own token", lambda: shown_by(STAGE), STRANGER, refused=401),
    Defect("rotated out", lambda: bearer(ROTATED_OUT), STRANGER, refused=401),
    Defect("too long", lambda: bearer("x" * 7_000), STRANGER, refused=401),
    Defect("foreign saga", lambda: shown_by("web"), UPSTREAM, as_name="web"),
    Defect("other name in the body", lambda: shown_by("web"), UPSTREAM, as_name="order"),
    Defect("downstream as upstream", lambda: shown_by("shipping"), DOWNSTREAM, as_name="order"),
    Defect("role viewer", lambda: shown_by("vera"), VIEWER),
    Defect("role operator", lambda: shown_by("olga"), OPERATOR),
)
BOOKS = ("/sagas?limit=500", f"/sagas/{MINE}?view=journal", "/pauses", "/sweeps", "/audit")
"""Views of everything that an order may change."""
OWN = frozenset({"query", "compensate", "execute"})
"""Routes that a neighbour may call, for its own sagas alone."""


@pytest.fixture
async def attacked(tmp_path: Path) -> AsyncIterator[Chain]:
    """A chain with one executed saga of order; one token of its was rotated out."""
    async with named_chain(tmp_path) as chain:
        write_accepted(tmp_path, "order", ROTATED_OUT, token_of("order"))
        assert 200 == (await chain.send(MINE, Authorization=bearer(ROTATED_OUT)))[0]
        write_accepted(tmp_path, "order", token_of("order"))
        await chain.request("GET", f"{chain.stage}/docs", Authorization=bearer("x" * 43))
        yield chain


def body_of(route: Route, name: str, saga_id: str) -> bytes | None:
    """A body that would have an effect, were it allowed."""
    if route.method == "GET":
        return None
    body: dict[str, Any] = {"reason": "attack", "actor": "boss"}
    if route.name == "execute":
        body = {"saga_id": saga_id, "data": ORDER, "trail": [{"stage": name, "at": AT}]}
    elif route.name == "compensate":
        body = {"requested_by": name, "reason": "attack"}
    elif route.name in ("pause", "resume"):
        body |= {"target": "intake"} | ({"seconds": 60.0} if route.name == "pause" else {})
    elif route.name == "begin_sweep":
        body |= {"verb": "forget", "saga_ids": [MINE]}
    elif route.name == "settle":
        body |= {"step": "charge", "landed": False}
    return msgspec.json.encode(body)


def path_of(route: Route, saga_id: str) -> str:
    """A path of the route, about that saga where it is about one."""
    named = {"{saga_id}": saga_id, "{number}": "1", "{name}": "console.css"}
    return "/".join(named.get(part, part) for part in route.template.split("/"))


async def attack(
    chain: Chain, route: Route, defect: Defect, saga_id: str
) -> tuple[int, dict[str, Any]]:
    """The answer to one request: its code and its problem."""
    path = path_of(route, saga_id)
    shown = defect.shown()
    headers = {"Authorization": shown} if shown else {}
    sent = body_of(route, defect.as_name, saga_id)
    status, _, body = await chain.request(route.method, chain.stage + path, sent, **headers)
    return status, msgspec.json.decode(body) if status >= 400 else {}


def is_refused(route: Route, defect: Defect) -> bool:
    """Whether the table of routes lets that caller do nothing here."""
    if Who.ANYONE in route.who:
        return False
    if route.name == "query" and defect.who == DOWNSTREAM:
        return False  # it was handed the saga
    return defect.who.isdisjoint(route.who) or (
        route.name in OWN and not defect.who & {Who.VIEWER, Who.OPERATOR}
    )


REFUSED = [(route, defect) for route in ROUTES for defect in DEFECTS if is_refused(route, defect)]


async def books_of(chain: Chain) -> list[Any]:
    """All that an effect would change: the charges, every saga, and the journal of MINE."""
    pages = []
    for path in BOOKS:
        _, _, body = await chain.request("GET", chain.stage + path, Authorization=shown_by("vera"))
        pages.append(msgspec.json.decode(body))
    return [await chain.charges(), *pages]


@pytest.mark.kit("F17")
async def test_every_defect_at_every_route_is_refused_without_effect(
    attacked: Chain, strikes: Strikes
) -> None:
    """401 for no name, 403 for another's: never 2xx, never 5xx, and nothing changes."""
    before = await books_of(attacked)
    wrong, count = [], 0
    for route in ROUTES:
        attacks = [
            (defect, saga_id)
            for of, defect in REFUSED
            if of is route
            for saga_id in ids_of(route, defect)
        ]
        answers = await asyncio.gather(*(attack(attacked, route, *each) for each in attacks))
        count += len(answers)
        for (defect, saga_id), (status, problem) in zip(attacks, answers, strict=True):
            outcome = problem.get("outcome")
            if (status, outcome) != (defect.refused, "not_executed"):
                wrong.append((route.name, defect.name, saga_id, status, outcome))

    strikes.report("refusals", count, violations=len(wrong))
    assert [] == wrong
    assert before == await books_of(attacked)


def ids_of(route: Route, defect: Defect) -> tuple[str, ...]:
    """The sagas that are reached for. There is no defect where nobody owns the saga yet."""
    if "{saga_id}" not in route.template and route.name != "execute":
        return ("",)
    own_name = defect.name == "foreign saga" or (route.name == "query" and defect.refused == 403)
    return (MINE,) if own_name else (MINE, NEW)


async def test_the_callers_of_the_table_may_do_what_it_says(attacked: Chain) -> None:
    """The same requests with a right credential are let in: the table refuses nobody else."""
    for name in OPERATORS:
        assert (
            200
            == (
                await attacked.request(
                    "GET", f"{attacked.stage}/sagas", Authorization=shown_by(name)
                )
            )[0]
        )
    assert 200 == (await attacked.send(MINE, Authorization=shown_by("order")))[0]
    for name in ("order", "shipping", "vera"):
        url = f"{attacked.stage}/sagas/{MINE}"
        assert 200 == (await attacked.request("GET", url, Authorization=shown_by(name)))[0]
    url = f"{attacked.stage}/sagas/{MINE}/forget"
    order = msgspec.json.encode({"reason": "erasure", "actor": "boss"})
    assert 200 == (await attacked.request("POST", url, order, Authorization=shown_by("ada")))[0]
    acts = f"{attacked.stage}/audit?target={MINE}"
    _, _, body = await attacked.request("GET", acts, Authorization=shown_by("vera"))
    assert "ada" == msgspec.json.decode(body)["acts"][0]["actor"]


AT_ONCE = 8
"""Replays that are under way together: a stranger waits for its refusal."""


@pytest.mark.kit("F17")
async def test_replays_do_nothing_twice(attacked: Chain, strikes: Strikes) -> None:
    """A recorded request, sent again by its owner and by strangers: one charge, the same bytes."""
    _, _, first = await attacked.send(MINE, Authorization=shown_by("order"))
    keys = {True: shown_by("order"), False: bearer(ROTATED_OUT)}
    for begin in range(0, SIZES.replays, AT_ONCE):
        owners = [number % 2 == 1 for number in range(begin, min(begin + AT_ONCE, SIZES.replays))]
        answers = await asyncio.gather(
            *(attacked.send(MINE, Authorization=keys[owner]) for owner in owners)
        )
        for owner, (status, _, body) in zip(owners, answers, strict=True):
            assert (200, first) == (status, body) if owner else 401 == status

    assert (1, 1) == await attacked.charges()
    strikes.report("replays", SIZES.replays)
