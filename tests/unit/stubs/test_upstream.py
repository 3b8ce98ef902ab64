"""The neighbour upstream follows the table of section 3.3, and compensates as in section 3.4."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

import pytest

from stage.neighbours.shared.trace import trace_of
from stage.neighbours.upstream.app import make_app
from stage.wire.envelope import decode_envelope, parse_instant
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem
from stage.wire.replies import decode_compensate, encode_executed
from tests.unit.stubs.conftest import Client, FakeStage, Reply, Start

ID = "s-1"
ORDER = {"order_id": "o-1", "amount": 100}
SAGAS, COMPENSATE, LOOK = "POST /sagas", "POST /sagas/*/compensate", "GET /sagas/*"
EXECUTED = Reply(200, encode_executed(ID, {"payment": {"id": "ch-1"}}))
COMPENSATED = Reply(200, b'{"outcome":"compensated"}')
RUNS = b'{"outcome":"in_progress"}'
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"

Upstream = Callable[..., Awaitable[Client]]


@pytest.fixture
def upstream(stage_url: str, start: Start, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """Starts the neighbour before the fake stage; its pauses are short."""
    monkeypatch.setattr("stage.neighbours.upstream.conversation.BACKOFF_SECONDS", 0.005)

    async def started(budget: float = 5.0, patience: float = 1.0) -> Client:
        return await start(
            make_app(
                name="order", stage=stage_url, budget_seconds=budget, patience_seconds=patience
            )
        )

    return started


async def post_order(
    client: Client, order: object = ORDER, saga_id: str = ID, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Order something; give the code and the body."""
    sent = {"Saga-Id": saga_id, **{name.replace("_", "-"): text for name, text in headers.items()}}
    async with client.post("/orders", json=order, headers=sent) as answer:
        return answer.status, await answer.json(content_type=None)


async def compensate(
    client: Client, by: str = "payment", saga_id: str = ID, *, word: bool = True
) -> int:
    """Ask it to compensate, with the word that nothing stands behind it; give the code."""
    body = {"requested_by": by, "reason": "test", **({"outcome": "compensated"} if word else {})}
    async with client.post(f"/sagas/{saga_id}/compensate", json=body) as answer:
        return answer.status


async def seen(client: Client, saga_id: str = ID) -> dict[str, Any]:
    """Its view of a saga."""
    async with client.get(f"/sagas/{saga_id}") as answer:
        shown: dict[str, Any] = await answer.json()
        return shown


def refusal(status: int, outcome: Outcome = Outcome.NOT_EXECUTED) -> Reply:
    """A problem as the stage answers it."""
    problem = Problem(
        title="No", status=status, detail="card declined", outcome=outcome, saga_id=ID
    )
    return Reply(status, problem.encode())


async def test_a_saga_completes(stage: FakeStage, upstream: Upstream) -> None:
    """200: the order is confirmed, and the context has grown."""
    stage.says(SAGAS, EXECUTED)
    client = await upstream()

    status, body = await post_order(client)

    assert 200 == status
    assert ("completed", "executed", 1) == (body["state"], body["outcome"], body["attempts"])
    assert {**ORDER, "payment": {"id": "ch-1"}} == body["data"]
    assert "confirmed" == (await seen(client))["order"]


async def test_the_request_keeps_to_the_protocol(stage: FakeStage, upstream: Upstream) -> None:
    """Envelope, trail, deadline, budget, key and trace are what the stage may rely on."""
    stage.says(SAGAS, EXECUTED)
    client = await upstream()

    _, body = await post_order(client, traceparent=TRACEPARENT, tracestate="a=b")

    (asked,) = stage.requests(SAGAS)
    envelope = decode_envelope(asked.body)
    assert (ID, ORDER) == (envelope.saga_id, envelope.data)
    assert ["order"] == [entry.stage for entry in envelope.trail]
    assert envelope.deadline is not None
    assert 0 < envelope.deadline - time.time() <= 5.0
    assert 0 < int(asked.headers["saga-budget-ms"]) <= 5000
    assert ID == asked.headers["idempotency-key"]
    _, trace_id, span_id, flags = asked.headers["traceparent"].split("-")
    assert ("a" * 32, "01", "a=b") == (trace_id, flags, asked.headers["tracestate"])
    assert "b" * 16 != span_id
    assert trace_id == body["trace_id"]


async def test_without_a_trace_it_begins_one(stage: FakeStage, upstream: Upstream) -> None:
    """A new one, sampled, the same over all requests of the saga; and a new saga id."""
    stage.says(SAGAS, Reply(503), Reply(200, b'{"outcome":"executed"}'))
    client = await upstream()

    async with client.post("/orders", json=ORDER) as answer:
        body = await answer.json()
    assert 200 == answer.status

    traces = [trace_of(asked.headers) for asked in stage.requests(SAGAS)]
    assert {body["trace_id"]} == {trace.trace_id for trace in traces}
    assert {"01"} == {trace.flags for trace in traces}
    assert body["saga_id"] == decode_envelope(stage.asked[0].body).saga_id


@pytest.mark.parametrize("status", [409, 410, 400, 413, 415, 422, 504])
async def test_a_failure_takes_back_the_order(
    stage: FakeStage, upstream: Upstream, status: int
) -> None:
    """Nothing stands there, so that only the order is taken back; the reason comes along."""
    stage.says(SAGAS, refusal(status))
    client = await upstream()

    code, body = await post_order(client)

    assert (409, "compensated") == (code, body["state"])
    assert "card declined" in body["reason"]
    assert "released" == (await seen(client))["order"]
    assert 1 == len(stage.asked)


@pytest.mark.parametrize("status", [503, 429])
async def test_not_now_is_retried_after_what_it_says(
    stage: FakeStage, upstream: Upstream, status: int
) -> None:
    """The same bytes under the same id, and not before Retry-After."""
    stage.says(SAGAS, Reply(status, headers={"Retry-After": "1"}), EXECUTED)
    client = await upstream()
    before = time.monotonic()

    code, body = await post_order(client)

    first, second = stage.requests(SAGAS)
    assert (200, 2) == (code, body["attempts"])
    assert first.body == second.body
    assert time.monotonic() - before >= 1.0
    assert int(second.headers["saga-budget-ms"]) < int(first.headers["saga-budget-ms"])


@pytest.mark.parametrize("status", [503, 401, 403])
async def test_not_now_until_the_end_is_made_a_no_for_good(
    stage: FakeStage, upstream: Upstream, status: int
) -> None:
    """A copy of the request must not be executed later, nor elsewhere: the stage is asked first."""
    stage.says(SAGAS, refusal(status))
    stage.says(COMPENSATE, COMPENSATED)
    client = await upstream(budget=0.3)

    code, body = await post_order(client)

    assert (409, "compensated") == (code, body["state"])
    assert 1 == len(stage.requests(COMPENSATE))


@pytest.mark.parametrize(
    "reply",
    [
        Reply(None),
        Reply(500),
        Reply(418),
        Reply(302, headers={"Location": "/elsewhere"}),
        Reply(200, b"no json"),
        Reply(200, encode_executed("another", {})),
        Reply(200, b"x" * 1_100_000),
        Reply(200, b""),
        Reply(503, b"<html>"),
        Reply(504, b"<html>"),
        refusal(503, Outcome.UNKNOWN),
    ],
    ids=[
        *("broken", "500", "418", "302", "no json", "wrong id", "too large"),
        *("empty", "gateway 503", "gateway 504", "503 unknown"),
    ],
)
async def test_the_unknown_is_asked_again(
    stage: FakeStage, upstream: Upstream, reply: Reply
) -> None:
    """Nobody knows what it did: the same bytes under the same id, and the answer counts."""
    stage.says(SAGAS, reply, EXECUTED)
    client = await upstream()

    code, _ = await post_order(client)

    first, second = stage.requests(SAGAS)
    assert 200 == code
    assert first.body == second.body
    assert [] == stage.requests("GET /elsewhere")


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply(status, b"<html>") for status in (400, 409, 410, 413, 415, 422)),
        refusal(409, Outcome.EXECUTED),
        refusal(422, Outcome.EXECUTED),
        Reply(400, b'{"outcome":"not_executed"}'),
    ],
    ids=["400", "409", "410", "413", "415", "422", "409 executed", "422 executed", "of no saga"],
)
async def test_a_no_that_is_not_the_word_of_the_stage_is_undone_there_first(
    stage: FakeStage, upstream: Upstream, reply: Reply
) -> None:
    """It is not repeated, and the order stands until the stage itself says that nothing does."""
    login, runs = Reply(200, b"<html>log in"), Reply(200, RUNS)
    other = Reply(200, b'{"saga_id":"another","outcome":"compensated"}')
    stage.says(SAGAS, reply)
    stage.says(COMPENSATE, login, Reply(200, b""), other, runs, Reply(410, b"<html>"), COMPENSATED)
    client = await upstream()

    code, body = await post_order(client)

    assert (409, "compensated", 1) == (code, body["state"], body["attempts"])
    assert 6 == len(stage.requests(COMPENSATE))
    assert "released" == (await seen(client))["order"]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_is_wrong_for_a_while_fails_nothing(
    stage: FakeStage, upstream: Upstream, status: int
) -> None:
    """With the word of the stage it is certain, without it unknown; it is tried again."""
    stage.says(SAGAS, refusal(status), Reply(status, b"<html>"), EXECUTED)
    client = await upstream()

    code, body = await post_order(client)

    assert (200, 3) == (code, body["attempts"])
    assert [] == stage.requests(COMPENSATE)


async def test_without_the_word_of_the_stage_it_is_asked_in_turn(
    stage: FakeStage, upstream: Upstream
) -> None:
    """Its request is answered 202 first: it may hold a lock until then."""
    stage.says(SAGAS, EXECUTED)
    stage.says(COMPENSATE, COMPENSATED)
    client = await upstream()
    await post_order(client)

    assert 202 == await compensate(client, word=False)
    assert 409 == (await post_order(client))[0]
    assert 200 == await compensate(client, word=False)

    assert 1 == len(stage.requests(COMPENSATE))
    assert "released" == (await seen(client))["order"]


async def test_a_gateway_answers_by_its_script(upstream: Upstream) -> None:
    """As often as it says; nothing is compensated meanwhile."""
    client = await upstream()
    script = {"script": "gateway", "code": 403, "body": "log in", "times": 2}
    async with client.put("/script", json=script) as answer:
        assert 200 == answer.status

    assert [403, 403, 200, 200] == [await compensate(client, by="operator") for _ in range(4)]
    assert 2 == (await seen(client))["compensations"]


async def test_in_doubt_to_the_end_is_undone_there_first(
    stage: FakeStage, upstream: Upstream
) -> None:
    """The budget is gone: compensate is called until it is answered, then the order goes."""
    stage.says(SAGAS, Reply(500))
    stage.says(COMPENSATE, Reply(None), Reply(503), Reply(202, RUNS), COMPENSATED)
    client = await upstream(budget=0.2, patience=3.0)
    began = time.time()

    code, body = await post_order(client)

    asked = stage.requests(COMPENSATE)
    assert (409, "compensated") == (code, body["state"])
    assert 4 == len(asked)
    said = decode_compensate(asked[0].body)
    assert "order" == said.requested_by
    sent_at = said.first_sent_at
    assert sent_at is not None and began - 0.001 <= sent_at <= time.time() - 0.2
    assert "released" == (await seen(client))["order"]


async def test_a_rejected_repeat_does_not_settle_a_doubt(
    stage: FakeStage, upstream: Upstream
) -> None:
    """A 400 to the repeat says nothing about the request before it."""
    stage.says(SAGAS, Reply(500), refusal(400))
    stage.says(COMPENSATE, COMPENSATED)
    client = await upstream()

    code, _ = await post_order(client)

    assert 409 == code
    assert 1 == len(stage.requests(COMPENSATE))


async def test_behind_its_budget_it_answers_and_goes_on(
    stage: FakeStage, upstream: Upstream
) -> None:
    """504 while the stage is away; the compensation goes on without a client."""
    stage.says(SAGAS, Reply(500))
    stage.says(COMPENSATE, Reply(503))
    client = await upstream(budget=0.2, patience=0.2)

    code, body = await post_order(client)
    assert (504, "compensating") == (code, body["state"])
    stage.says(COMPENSATE, COMPENSATED)
    while code == 504:  # its next attempt may come behind this budget too
        code, body = await post_order(client)

    assert (409, "compensated") == (code, body["state"])


async def test_a_saga_that_cannot_be_compensated_there_is_reported(
    stage: FakeStage, upstream: Upstream
) -> None:
    """500 with what stands; the order itself is taken back all the same."""
    problem = Problem(title="No", status=409, outcome=Outcome.UNKNOWN, stands=("charge",))
    stage.says(SAGAS, Reply(500))
    stage.says(COMPENSATE, Reply(409, problem.encode()))
    client = await upstream(budget=0.2)

    code, body = await post_order(client)

    assert (500, "failed_to_compensate", ["charge"]) == (code, body["state"], body["stands"])
    assert "released" == (await seen(client))["order"]


async def test_a_stage_that_only_goes_forward_keeps_its_order(
    stage: FakeStage, upstream: Upstream
) -> None:
    """Behind the pivot: an order taken back would be a charge without an order."""
    stage.says(SAGAS, Reply(500))
    stage.says(COMPENSATE, refusal(409, Outcome.EXECUTED))
    client = await upstream(budget=0.2)

    code, _ = await post_order(client)

    assert 500 == code
    assert "pending" == (await seen(client))["order"]


async def test_accepted_is_followed_to_its_end(stage: FakeStage, upstream: Upstream) -> None:
    """202: Location is asked until there is an end, and the repeat brings the stored answer."""
    stage.says(SAGAS, Reply(202, RUNS, headers={"Location": f"sagas/{ID}"}), EXECUTED)
    stage.says(
        LOOK, Reply(200, b'{"outcome":"in_progress"}'), Reply(200, b'{"outcome":"executed"}')
    )
    client = await upstream()

    code, body = await post_order(client)

    assert (200, 2) == (code, body["attempts"])
    assert 2 == len(stage.requests(LOOK))


async def test_accepted_and_never_ended_is_undone_there(
    stage: FakeStage, upstream: Upstream
) -> None:
    """The budget is gone while it still runs there."""
    stage.says(SAGAS, Reply(202, RUNS))
    stage.says(LOOK, Reply(200, b'{"outcome":"in_progress"}'))
    stage.says(COMPENSATE, COMPENSATED)
    client = await upstream(budget=0.3)

    code, _ = await post_order(client)

    assert 409 == code
    assert 1 == len(stage.requests(COMPENSATE))


async def test_a_location_elsewhere_is_not_followed(stage: FakeStage, upstream: Upstream) -> None:
    """No answer can make us call an address of its choosing."""
    elsewhere = {"Location": "http://127.0.0.1:1/sagas/s-1"}
    stage.says(SAGAS, Reply(202, RUNS, headers=elsewhere), EXECUTED)
    stage.says(LOOK, Reply(200, b'{"outcome":"executed"}'))
    client = await upstream()

    code, _ = await post_order(client)

    assert 200 == code
    assert 1 == len(stage.requests(LOOK))


async def test_a_stage_that_is_not_there_leaves_no_doubt(start: Start) -> None:
    """No connection was ever made: the order is taken back at the end of the budget."""
    app = make_app(name="order", stage="http://127.0.0.1:1", budget_seconds=2.0)
    client = await start(app)

    code, body = await post_order(client)

    assert (409, "the budget is gone") == (code, body["reason"])
    assert body["attempts"] > 1


async def test_a_duplicate_order_joins(stage: FakeStage, upstream: Upstream) -> None:
    """At once or later: one saga, equal answers; another order under its id is 422."""
    stage.says(SAGAS, EXECUTED)
    client = await upstream()

    answers = await asyncio.gather(*(post_order(client) for _ in range(5)))

    assert all(answer == answers[0] for answer in answers)
    assert answers[0] == await post_order(client)
    assert 1 == len(stage.asked)
    assert 422 == (await post_order(client, {"order_id": "o-2"}))[0]


async def test_it_need_not_be_waited_for(stage: FakeStage, upstream: Upstream) -> None:
    """Prefer: respond-async is answered 202; asking again finds the end."""
    stage.says(SAGAS, EXECUTED)
    client = await upstream()

    code, body = await post_order(client, Prefer="respond-async")

    assert (202, "in_progress") == (code, body["outcome"])
    assert 200 == (await post_order(client))[0]


async def test_a_late_failure_takes_back_the_order(stage: FakeStage, upstream: Upstream) -> None:
    """On a request of the stage it compensates and asks nobody; a repeat is answered the same."""
    stage.says(SAGAS, EXECUTED)
    client = await upstream()
    await post_order(client)

    assert [200, 200] == [await compensate(client), await compensate(client)]

    shown = await seen(client)
    assert ("compensated", "released", 2) == (
        shown["state"],
        shown["order"],
        shown["compensations"],
    )
    assert 1 == [event["what"] for event in shown["events"]].count("order released")
    assert [] == stage.requests(COMPENSATE)


async def test_a_request_to_compensate_stops_a_run(stage: FakeStage, upstream: Upstream) -> None:
    """The run stops at once, and the client that waits for it gets 409."""
    stage.says(SAGAS, Reply(503))
    client = await upstream()
    order = asyncio.create_task(post_order(client))
    await stage.reached(SAGAS)

    assert 200 == await compensate(client)

    code, body = await order
    assert (409, "compensated") == (code, body["state"])


async def test_an_operator_has_the_stage_compensate_first(
    stage: FakeStage, upstream: Upstream
) -> None:
    """Compensation runs from the tail to the head."""
    stage.says(SAGAS, EXECUTED)
    stage.says(COMPENSATE, Reply(503), COMPENSATED)
    client = await upstream()
    await post_order(client)

    assert 200 == await compensate(client, by="operator", word=False)

    assert 2 == len(stage.requests(COMPENSATE))
    assert "released" == (await seen(client))["order"]


async def test_a_compensation_that_comes_first_closes_the_id(
    stage: FakeStage, upstream: Upstream
) -> None:
    """A tombstone: the late order is refused with 410, and nothing is sent."""
    client = await upstream()
    assert 200 == await compensate(client, by="operator")

    code, _ = await post_order(client)

    assert 410 == code
    assert [] == stage.asked
    assert ("compensated", "none") == ((await seen(client))["state"], (await seen(client))["order"])


async def test_a_saga_that_the_stage_has_and_the_books_lack_was_lost(
    stage: FakeStage, upstream: Upstream
) -> None:
    """409 unknown, however often, and no tombstone: the next script says what that would be."""
    client = await upstream()
    body = {"requested_by": "payment", "outcome": "compensated"}
    for _ in range(2):
        async with client.post(f"/sagas/{ID}/compensate", json=body) as answer:
            shown = await answer.json(content_type=None)
        assert (409, "unknown", ID) == (answer.status, shown["outcome"], shown["saga_id"])
    async with client.get(f"/sagas/{ID}") as answer:
        assert 404 == answer.status
    async with client.put("/script", json={"script": "away"}) as answer:
        assert 503 == await compensate(client)
    async with client.put("/script", json={"script": "tombstone"}) as answer:
        assert 200 == await compensate(client)


@pytest.mark.parametrize(
    "script, codes", [("flaky", [503, 503, 200]), ("away", [503] * 3), ("accept", [200] * 3)]
)
async def test_compensate_is_answered_by_the_script(
    stage: FakeStage, upstream: Upstream, script: str, codes: list[int]
) -> None:
    """It misbehaves by its script, for the sagas that match."""
    stage.says(SAGAS, EXECUTED)
    client = await upstream()
    assert 200 == (await post_order(client))[0]
    async with client.put("/script", json={"script": script, "match": "s-"}) as answer:
        assert 200 == answer.status

    assert codes == [await compensate(client) for _ in range(3)]
    assert 200 == await compensate(client, by="operator", saga_id="other")


@pytest.mark.parametrize(
    "body, headers, status",
    [
        (b"[]", {}, 422),
        (b'{"a":1,"a":2}', {}, 400),
        (b"{}", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Saga-Id": "a b"}, 422),
        (b"{}", {"Saga-Budget-Ms": "soon"}, 400),
        (b"{" + b" " * 1_100_000 + b"}", {}, 413),
    ],
    ids=["array", "duplicate key", "content type", "saga id", "budget", "too large"],
)
async def test_a_bad_order_starts_nothing(
    stage: FakeStage, upstream: Upstream, body: bytes, headers: dict[str, str], status: int
) -> None:
    """A problem that says so, and no request to the stage."""
    client = await upstream()

    async with client.post(
        "/orders", data=BytesIO(body), headers={"Content-Type": "application/json", **headers}
    ) as answer:
        shown = json.loads(await answer.read())

    assert (status, "not_executed") == (answer.status, shown["outcome"])
    assert [] == stage.asked


async def test_it_lists_the_sagas_it_saw(stage: FakeStage, upstream: Upstream) -> None:
    """`GET /sagas` lists each saga with its state, its trace and its events."""
    stage.says(SAGAS, EXECUTED)
    client = await upstream()
    _, body = await post_order(client)

    async with client.get("/sagas") as answer:
        (shown,) = (await answer.json())["sagas"]
    async with client.get("/sagas/unknown") as answer:
        assert 404 == answer.status

    assert (ID, "completed", body["trace_id"]) == (
        shown["saga_id"],
        shown["state"],
        shown["trace_id"],
    )
    whats = [event["what"] for event in shown["events"]]
    assert ["order pending", "execute: 200", "completed"] == whats


async def test_its_list_says_when_a_saga_began_and_when_it_changed(
    stage: FakeStage, upstream: Upstream
) -> None:
    """A stage that lost the saga goes by that instant, and would be misled by that of the list."""
    stage.says(SAGAS, EXECUTED)
    client = await upstream()
    await post_order(client)
    changed = time.time() + 0.001  # instants are rounded
    await asyncio.sleep(0.02)
    async with client.get("/sagas?since=2020-01-01T00:00:00Z&with=payment") as answer:
        (saga,) = (await answer.json())["sagas"]
    assert parse_instant(saga["accepted_at"]) <= parse_instant(saga["updated_at"]) <= changed
