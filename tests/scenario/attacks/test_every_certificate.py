"""Every route, and every defect of a certificate: refused as the table says, with no effect (F17).

The routes are those of `test_every_credential`. One stage, and one caller for each defect, which
keeps its connection over all routes where the handshake lets it.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from stage.demo import psp
from stage.demo.psp.app import BOOKS as PSP_BOOKS
from stage.inbound.principal import Who
from stage.inbound.routes import ROUTES
from stage.neighbours.downstream.app import make_app as make_downstream
from tests.certificates import DAY, Authority
from tests.kits import Strikes
from tests.scenario.attacks.names import bearer, token_of
from tests.scenario.attacks.test_certificates import NOBODY, Caller, Pair, Served, serving
from tests.scenario.attacks.test_every_credential import (
    BOOKS,
    DOWNSTREAM,
    MINE,
    OPERATOR,
    STRANGER,
    UPSTREAM,
    VIEWER,
    Defect,
    body_of,
    ids_of,
    is_refused,
    path_of,
)
from tests.scenario.chain import AT, HOST, ORDER

HOUR = datetime.timedelta(hours=1)
WEB, KIM, OLGA = "spiffe://example/web", "kim.example", "olga.example"
TURNED_AWAY = 0
"""The handshake fails, so no route is reached."""
NOT_EXECUTED = "not_executed"


class Authorities(NamedTuple):
    """The one that the stage trusts, one that it never did, and one that was taken out."""

    trusted: Authority
    other: Authority
    rotated_out: Authority


class Certified(NamedTuple):
    """A defect with the certificate that has it."""

    defect: Defect
    pair: Callable[[Authorities], Pair | None]


def _stranger(
    name: str, pair: Callable[[Authorities], Pair | None], shown: Callable[[], str] = str
) -> Certified:
    return Certified(Defect(name, shown, STRANGER, refused=401), pair)


def _turned_away(name: str, pair: Callable[[Authorities], Pair | None]) -> Certified:
    return Certified(Defect(name, str, STRANGER, refused=TURNED_AWAY), pair)


def _named(name: str, who: frozenset[Who], san: str, *, as_name: str = "order") -> Certified:
    """A good certificate, of somebody who may not do that."""
    return Certified(
        Defect(name, str, who, as_name=as_name), lambda those: those.trusted.sign("named", san)
    )


CERTIFIED = (
    _stranger("none", lambda _: None),
    _stranger("no alternative name", lambda those: those.trusted.sign("order")),
    _stranger("a longer name", lambda those: those.trusted.sign("a", "order.example")),
    _stranger("any name", lambda those: those.trusted.sign("a", "*")),
    _stranger("an address alone", lambda those: those.trusted.sign("a", HOST)),
    _stranger("two peers", lambda those: those.trusted.sign("a", "order", WEB)),
    _stranger("an operator's own name", lambda those: those.trusted.sign("a", "olga")),
    _stranger("our own certificate", lambda those: those.trusted.sign("a", "payment")),
    _stranger(
        "a token of another",
        lambda those: those.trusted.sign("a", WEB),
        lambda: bearer(token_of("order")),
    ),
    _turned_away("expired", lambda those: those.trusted.sign("a", "order", end=-HOUR)),
    _turned_away("not valid yet", lambda those: those.trusted.sign("a", "order", begin=DAY)),
    _turned_away("another authority", lambda those: those.other.sign("a", "order")),
    _turned_away("rotated out", lambda those: those.rotated_out.sign("a", "order")),
    _turned_away(
        "for servers alone",
        lambda those: those.trusted.sign("a", "order", for_servers_alone=True),
    ),
    _named("foreign saga", UPSTREAM, WEB, as_name="web"),
    _named("another peer's", UPSTREAM, WEB),
    _named("downstream as upstream", DOWNSTREAM, "shipping"),
    _named("role viewer", VIEWER, KIM),
    _named("role operator", OPERATOR, OLGA),
)


class Attacked(NamedTuple):
    """A stage with one executed saga of order, and its external API."""

    served: Served
    authorities: Authorities
    provider: web.Application

    async def books(self) -> list[Any]:
        """All that an effect would change: the charges, every saga, and the journal of MINE."""
        async with self.served.caller(self.served.ca.sign("books", KIM)) as kim:
            pages = [await kim.exchange("GET", path, None) for path in BOOKS]
        assert [200] * len(BOOKS) == [code for code, _ in pages]
        return [self.provider[PSP_BOOKS].totals(), *pages]


@pytest.fixture
async def attacked(tmp_path: Path) -> AsyncIterator[Attacked]:
    """The saga of order was executed under an authority that is taken out by now."""
    provider = psp.make_app()
    async with AsyncExitStack() as stack:
        urls = {}
        apps = {"psp": provider, "shipping": make_downstream(name="shipping", upstream=NOBODY)}
        for name, app in apps.items():
            server = TestServer(app, host=HOST)
            await server.start_server(shutdown_timeout=0.1)
            stack.push_async_callback(server.close)
            urls[name] = f"http://{HOST}:{server.port}"
        served = await stack.enter_async_context(serving(tmp_path, **urls))
        authorities = Authorities(
            served.ca, *(Authority(_made(tmp_path / name), name) for name in ("other", "before"))
        )
        trusted = served.ca.file.read_bytes()
        before = authorities.rotated_out
        served.ca.file.write_bytes(trusted + before.file.read_bytes())
        assert await served.tls.renew()
        async with served.caller(before.sign("order", "order")) as order:
            assert 200 == await order.send("POST", "/sagas", _saga("order", MINE))
        served.ca.file.write_bytes(trusted)
        assert await served.tls.renew()
        yield Attacked(served, authorities, provider)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _saga(name: str, saga_id: str) -> dict[str, Any]:
    return {"saga_id": saga_id, "data": ORDER, "trail": [{"stage": name, "at": AT}]}


async def refusals(caller: Caller, defect: Defect) -> list[tuple[str, str, int, str | None]]:
    """Every refusal of the table by that caller: route, saga, code and outcome."""
    headers = {"Authorization": defect.shown()} if defect.shown() else {}
    found = []
    for route in ROUTES:
        if not is_refused(route, defect):
            continue
        for saga_id in ids_of(route, defect):
            path = path_of(route, saga_id)
            sent = body_of(route, defect.as_name, saga_id)
            code, body = await caller.exchange(route.method, path, sent, **headers)
            if not code:
                return [(route.name, saga_id, code, NOT_EXECUTED)]  # nothing else is reached
            problem = msgspec.json.decode(body) if code >= 400 else {}
            found.append((route.name, saga_id, code, problem.get("outcome")))
    return found


@pytest.mark.kit("F17")
async def test_every_defect_of_a_certificate_at_every_route_is_refused_without_effect(
    attacked: Attacked, strikes: Strikes
) -> None:
    """No handshake, 401 for no name, 403 for another's; and nothing changes."""
    before = await attacked.books()
    wrong, count = [], 0
    for defect, pair in CERTIFIED:
        async with attacked.served.caller(pair(attacked.authorities)) as caller:
            answers = await refusals(caller, defect)
        count += len(answers)
        wrong += [
            (defect.name, *answer)
            for answer in answers
            if (defect.refused, NOT_EXECUTED) != answer[2:]
        ]

    strikes.report("refusals", count, violations=len(wrong))
    assert [] == wrong
    assert before == await attacked.books()
    assert {"made": 1, "standing": 1}.items() <= before[0].items()


async def test_the_callers_of_the_table_may_do_what_it_says(attacked: Attacked) -> None:
    """The same routes with a right certificate are let in: the table refuses nobody else."""
    sign = attacked.served.ca.sign
    async with attacked.served.caller(sign("a", "order")) as order:
        assert 200 == await order.send("POST", "/sagas", _saga("order", MINE))
        assert 200 == await order.send("GET", f"/sagas/{MINE}")
    async with attacked.served.caller(sign("b", "shipping")) as shipping:
        assert 200 == await shipping.send("GET", f"/sagas/{MINE}")
    async with attacked.served.caller(sign("c", OLGA)) as olga:
        assert 200 == await olga.send("GET", f"/sagas/{MINE}?view=journal")
        pause = {"target": "intake", "seconds": 60.0, "reason": "x", "actor": "olga"}
        assert 200 == await olga.send("POST", "/pauses", pause)
