"""Rule 24: every log line, error body and answer header carries saga id and trace id."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from aiohttp.test_utils import TestServer

from stage import Http, Refused, Saga, Stage, Tx
from stage.demo import psp
from stage.telemetry.log_context import IdsFilter, add_ids
from tests.scenario.chain import HOST, ORDER, SERVICE, Chain, running_chain
from tests.scenario.test_tracing import at_rest

SAGAS = 8
HOST_LOG = logging.getLogger("host")


def trace_of(number: int) -> str:
    return f"{number + 1:032x}"


def parent_of(number: int) -> str:
    return f"00-{trace_of(number)}-{'b' * 16}-01"


class Order(msgspec.Struct):
    """The payload that the stage accepts."""

    order_id: str


def talking_stage(*, refuses: bool = True) -> Stage[Any, Any]:
    """Every function of it logs, by the standard library and by structlog."""
    stage: Stage[Any, Any] = Stage("payment", accepts=Order)

    def say(what: str, saga: Saga[Order]) -> None:
        HOST_LOG.warning("%s %s", what, saga.id)
        structlog.get_logger("host").warning(f"{what} {saga.id}")

    @stage.transaction
    async def note(tx: Tx, saga: Saga[Order]) -> None:
        say("note", saga)

    @note.compensation
    async def erase(tx: Tx, saga: Saga[Order]) -> None:
        say("erase", saga)

    @stage.call(to="psp", compensation=None, reason="no test undoes it")
    async def ask(http: Http, saga: Saga[Order]) -> None:
        say("before", saga)
        await http.post("/charges", json={"amount": 1})
        await asyncio.sleep(0)  # others run meanwhile, in contexts of their own
        say("after", saga)
        if refuses:
            raise Refused("no")

    return stage


class Records(logging.Handler):
    """The records that a host's handler gets."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[str, str, str]] = []
        self.addFilter(IdsFilter())

    def emit(self, record: logging.LogRecord) -> None:
        ids: Any = record
        self.got.append((record.getMessage(), ids.saga_id, ids.trace_id))


@pytest.fixture
def records() -> Iterator[Records]:
    records = Records()
    HOST_LOG.addHandler(records)
    HOST_LOG.propagate = False
    yield records
    HOST_LOG.removeHandler(records)
    HOST_LOG.propagate = True


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """The lines that a host's structlog writes, configured by the host."""
    lines: list[dict[str, Any]] = []

    def keep(_logger: object, _method: str, fields: Any) -> Any:
        lines.append(dict(fields))
        raise structlog.DropEvent

    structlog.configure(processors=[add_ids, keep])
    yield lines
    structlog.reset_defaults()


async def test_a_line_of_an_author_has_the_ids_of_its_saga(
    tmp_path: Path, records: Records, lines: list[dict[str, Any]]
) -> None:
    """In the writer's thread and in the event loop, with many sagas at the same time."""
    async with running_chain(tmp_path, stage=talking_stage()) as chain:
        await asyncio.gather(
            *(
                chain.send(f"s-{number}", {"order_id": "o"}, traceparent=parent_of(number))
                for number in range(SAGAS)
            )
        )
    wanted = {
        (f"{what} s-{number}", f"s-{number}", trace_of(number))
        for number in range(SAGAS)
        for what in ("note", "before", "after", "erase")
    }
    assert wanted == set(records.got)
    said = {(line["event"], line["saga_id"], line["trace_id"]) for line in of_sagas(lines)}
    assert wanted <= said
    # And ours are among them, all with the ids of their saga.
    assert {(saga_id, trace_id) for _, saga_id, trace_id in said} == {
        (f"s-{number}", trace_of(number)) for number in range(SAGAS)
    }


def of_sagas(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines without those of the process, such as the one for its database."""
    return [line for line in lines if line.get("saga_id")]


async def test_an_event_is_one_line_whatever_is_repeated(
    tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    """As many lines as the journal has entries: not again for a duplicate, nor after a restart."""
    async with running_chain(tmp_path) as chain:
        await chain.send("s-1", traceparent=parent_of(0))
        await chain.send("s-1", traceparent=parent_of(1))
        journal = await chain.events("s-1")
    async with running_chain(tmp_path) as chain:
        await chain.send("s-1")
        assert journal == await chain.events("s-1")
    assert journal == [line["event"] for line in of_sagas(lines)]
    assert {("s-1", trace_of(0))} == {
        (line["saga_id"], line["trace_id"]) for line in of_sagas(lines)
    }


async def test_a_defect_is_a_line_with_the_place_and_without_the_words(
    lines: list[dict[str, Any]], chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception is found by trace id; its message may quote a payload and is left out."""

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("card 4111")

    assert chain.app is not None
    monkeypatch.setattr(type(chain.app[SERVICE].engine), "accept", broken)
    status, headers, body = await chain.send("s-1", traceparent=parent_of(0))
    assert 500 == status and b"4111" not in body
    (line,) = [line for line in lines if line["event"] == "defect"]
    assert ("POST /sagas", "RuntimeError") == (line["where"], line["error"])
    assert ("s-1", headers["Trace-Id"]) == (line["saga_id"], line["trace_id"])
    assert line["stack"][-1].endswith("broken")
    assert "4111" not in json.dumps(line)


async def test_every_answer_about_a_saga_names_it_and_its_trace(chain: Chain) -> None:
    """Headers of every answer, and the bodies of those that are problems."""
    stage, id_ = f"{chain.stage}/sagas", "s-1"
    order = msgspec.json.encode({"saga_id": id_, "data": ORDER})
    other = msgspec.json.encode({"saga_id": id_, "data": {**ORDER, "amount": 7}})
    over = "2020-01-01T00:00:00Z"
    late = msgspec.json.encode({"saga_id": "s-late", "data": ORDER, "deadline": over})
    nothing = msgspec.json.encode({"saga_id": "s-nothing", "data": {}})
    soon = msgspec.json.encode({"saga_id": "s-soon", "data": ORDER})
    others = {late: "s-late", nothing: "s-nothing", soon: "s-soon"}
    why = msgspec.json.encode({"actor": "kim", "reason": "why"})
    asked: list[tuple[int, str, str, bytes | None, dict[str, str]]] = [
        (404, "GET", f"{stage}/{id_}", None, {}),
        (404, "POST", f"{stage}/{id_}/retry", why, {}),
        (422, "POST", stage, nothing, {}),
        (400, "POST", stage, soon, {"Saga-Budget-Ms": "soon"}),
        (202, "POST", stage, order, {"Prefer": "respond-async"}),
        (200, "POST", stage, order, {}),
        (422, "POST", stage, other, {}),
        (200, "GET", f"{stage}/{id_}", None, {}),
        (409, "POST", f"{stage}/{id_}/retry", why, {}),
        (200, "POST", f"{stage}/{id_}/compensate", b"", {}),
        (410, "POST", stage, order, {}),
        (504, "POST", stage, late, {}),
    ]
    for number, (code, method, url, body, more) in enumerate(asked):
        sent = {"traceparent": parent_of(number), **more}
        status, headers, answer = await chain.request(method, url, body, **sent)
        about = f"{method} {url} {body!r}: {status} {answer!r}"
        assert code == status, about
        assert trace_of(number) == headers["Trace-Id"], about
        named = others.get(body or b"", id_)
        assert named == headers.get("Saga-Id"), about
        if status >= 400:
            problem = msgspec.json.decode(answer)
            assert named == problem["saga_id"] and problem["trace_id"], about


async def test_a_run_that_nobody_asked_for_has_the_ids_too(
    tmp_path: Path, records: Records
) -> None:
    """A saga taken over after a crash logs under its own id and trace."""
    async with TestServer(psp.make_app(), host=HOST) as api:
        url = f"http://{HOST}:{api.port}"
        options: dict[str, Any] = {"externals": {"psp": url}, "drain_seconds": 0.0}
        async with running_chain(tmp_path, stage=talking_stage(), **options) as chain:
            await chain.script(url, script="hang", times=1)
            for number in range(2):
                await chain.send(
                    f"s-{number}",
                    {"order_id": "o"},
                    traceparent=parent_of(number),
                    Prefer="respond-async",
                )
        records.got.clear()
        async with running_chain(tmp_path, stage=talking_stage(), **options) as chain:
            for number in range(2):
                await chain.until(f"s-{number}", lambda view: view["state"] == "compensated")
    said = {f"erase s-{number}": (f"s-{number}", trace_of(number)) for number in range(2)}
    logged = {what: ids for what, *ids in records.got}
    assert said == {what: tuple(logged[what]) for what in said}
    assert all(trace == trace_of(int(saga[2:])) for _, saga, trace in records.got)


async def test_an_undo_logs_under_the_trace_of_its_saga(tmp_path: Path, records: Records) -> None:
    """Not under that of who asked for it: one saga is one trace."""
    alone: dict[str, Any] = {"downstreams": {}}  # then it is undone in the unit that takes over
    async with running_chain(tmp_path, stage=talking_stage(refuses=False), **alone) as chain:
        await chain.send("s-0", {"order_id": "o"}, traceparent=parent_of(0))
        await at_rest(chain)
        body = b'{"requested_by": "order", "reason": "why"}'
        url = f"{chain.stage}/sagas/s-0/compensate"
        status, _, _ = await chain.request("POST", url, body, traceparent=parent_of(1))
        assert 200 == status
    assert ("erase s-0", "s-0", trace_of(0)) == records.got[-1]
