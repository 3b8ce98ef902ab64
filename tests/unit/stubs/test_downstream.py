"""The neighbour downstream honours the protocol, whatever its script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from io import BytesIO
from typing import Any

import aiohttp
import pytest

from stage.neighbours.downstream.app import make_app
from stage.wire.envelope import Envelope, encode_envelope, format_instant, parse_instant
from stage.wire.replies import decode_compensate, decode_executed
from tests.unit.stubs.conftest import Client, FakeStage, Reply, Start
from tests.waits import HANG_SECONDS

ID = "s-1"
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-00"
TELL = "POST /sagas/*/compensate"

Downstream = Callable[..., Awaitable[Client]]


@pytest.fixture
def downstream(stage_url: str, start: Start) -> Downstream:
    """Starts the neighbour behind the fake stage, with a script."""

    async def started(script: str = "accept", **options: Any) -> Client:
        client = await start(make_app(name="shipping", upstream=stage_url))
        async with client.put("/script", json={"script": script, **options}) as answer:
            assert 200 == answer.status
        return client

    return started


async def execute(
    client: Client, saga_id: str = ID, amount: int = 100, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    """Hand it a saga; give the code, the bytes and the headers."""
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    async with client.post(
        "/sagas",
        data=encode_envelope(Envelope(saga_id=saga_id, data={"amount": amount})),
        headers={"Content-Type": "application/json", "traceparent": TRACEPARENT, **sent},
        timeout=aiohttp.ClientTimeout(total=HANG_SECONDS),
    ) as answer:
        return answer.status, await answer.read(), dict(answer.headers)


async def compensate(client: Client, saga_id: str = ID, **more: str) -> tuple[int, dict[str, Any]]:
    """Ask it to compensate; give the code and the body."""
    body = {"requested_by": "payment", "reason": "test", **more}
    async with client.post(f"/sagas/{saga_id}/compensate", json=body) as answer:
        return answer.status, await answer.json(content_type=None)


async def seen(client: Client, saga_id: str = ID) -> dict[str, Any]:
    """The entry of a saga in its books."""
    async with client.get(f"/sagas/{saga_id}") as answer:
        shown: dict[str, Any] = await answer.json()
        return shown


async def until(client: Client, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask for the saga until something holds of it."""
    async with asyncio.timeout(HANG_SECONDS):
        while not holds(shown := await seen(client)):
            pass
    return shown


async def hang_up(client: Client) -> None:
    """Send the saga, and do not wait for the answer."""
    sending = asyncio.create_task(execute(client))
    await until(client, lambda shown: bool(shown.get("requests")))
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def counted(client: Client) -> tuple[int, int, int]:
    """Executed, standing and requests of the saga."""
    shown = await seen(client)
    return shown["executed"], shown["standing"], shown["requests"]


async def test_a_saga_is_executed_and_booked(downstream: Downstream) -> None:
    """200 with what it added, under its own name; the books have the effect and the trace."""
    client = await downstream()

    status, body, _ = await execute(client)

    shown = await seen(client)
    assert 200 == status
    assert {"shipping": {"id": "shipping-s-1"}} == decode_executed(body, ID)
    assert (1, 1, 1) == await counted(client)
    assert ("completed", "executed", "a" * 32) == (
        shown["state"],
        shown["outcome"],
        shown["trace_id"],
    )
    assert {"amount": 100} == shown["data"]


async def test_a_duplicate_is_replayed(downstream: Downstream) -> None:
    """Byte for byte, with the header that says so, and without a second effect."""
    client = await downstream()
    _, first, headers = await execute(client)
    assert "Idempotency-Replayed" not in headers

    status, second, headers = await execute(client, Idempotency_Key=ID)

    assert (200, first, "true") == (status, second, headers["Idempotency-Replayed"])
    assert (1, 1, 2) == await counted(client)


async def test_another_payload_under_the_same_id_is_refused(downstream: Downstream) -> None:
    """422, and nothing happens."""
    client = await downstream()
    await execute(client)

    assert 422 == (await execute(client, amount=200))[0]
    assert (1, 1, 2) == await counted(client)


async def test_a_foreign_idempotency_key_is_refused(downstream: Downstream) -> None:
    """It must equal the saga id: 422."""
    client = await downstream()

    assert 422 == (await execute(client, Idempotency_Key="another"))[0]


async def test_a_saga_without_budget_is_never_started(downstream: Downstream) -> None:
    """No budget left: 504, nothing happens, and no repeat starts it."""
    client = await downstream()

    assert 504 == (await execute(client, Saga_Budget_Ms="0"))[0]
    assert 410 == (await execute(client))[0]
    assert 410 == (await execute(client, Saga_Budget_Ms="0"))[0]


async def test_a_repeat_that_comes_too_late_gets_the_stored_answer(downstream: Downstream) -> None:
    """It starts nothing: the stored answer is given as ever."""
    client = await downstream()

    assert 200 == (await execute(client))[0]
    assert 200 == (await execute(client, Saga_Budget_Ms="0"))[0]


async def test_a_saga_that_was_refused_is_refused_again(downstream: Downstream) -> None:
    """409, nothing executed, and the same to a repeat."""
    client = await downstream("refuse")

    first, second = await execute(client), await execute(client)

    assert (409, first[1]) == (first[0], second[1])
    assert b'"not_executed"' in first[1]
    assert (0, 0, 2) == await counted(client)
    assert 200 == (await compensate(client))[0]
    assert 410 == (await execute(client))[0]


async def test_slow_work_is_joined_by_its_duplicates(downstream: Downstream) -> None:
    """It answers in the end; duplicates join and get the same answer; one effect."""
    client = await downstream("slow", seconds=0.1)

    answers = await asyncio.gather(*(execute(client) for _ in range(5)))

    assert {(200, answers[0][1])} == {answer[:2] for answer in answers}
    assert (1, 1, 5) == await counted(client)


async def test_a_client_that_hangs_up_changes_nothing(downstream: Downstream) -> None:
    """Slow work goes on, and the repeat finds its answer."""
    client = await downstream("slow", seconds=1.0)
    await hang_up(client)

    assert 200 == (await execute(client))[0]
    assert (1, 1, 2) == await counted(client)


async def test_work_that_is_compensated_meanwhile_stops(downstream: Downstream) -> None:
    """The work stops, who waits gets 409, and who comes later 410."""
    client = await downstream("slow", seconds=60)
    waiting = asyncio.create_task(execute(client))
    await until(client, lambda shown: bool(shown.get("requests")))

    assert 200 == (await compensate(client))[0]

    assert 409 == (await waiting)[0]
    assert 410 == (await execute(client))[0]
    assert (0, 0, 2) == await counted(client)


async def test_a_saga_that_hung_is_executed_by_its_repeat(downstream: Downstream) -> None:
    """No answer and no effect; when the script is over, the repeat is done."""
    client = await downstream("hang")
    await hang_up(client)
    assert (0, 0, 1) == await counted(client)

    async with client.put("/script", json={"script": "accept"}):
        pass

    assert 200 == (await execute(client))[0]


async def test_a_flaky_service_executes_after_its_refusals(downstream: Downstream) -> None:
    """503 twice with Retry-After, no effect; then done."""
    client = await downstream("flaky", seconds=2)

    answers = [await execute(client) for _ in range(3)]

    assert [503, 503, 200] == [status for status, _, _ in answers]
    assert ["2", "2", None] == [headers.get("Retry-After") for _, _, headers in answers]
    assert (1, 1, 3) == await counted(client)


async def test_an_answer_that_was_lost_is_given_to_the_repeat(downstream: Downstream) -> None:
    """The effect is made and the answer lost; the repeat is answered from what was stored."""
    client = await downstream("crash-answer")
    with pytest.raises(aiohttp.ClientError):
        await execute(client)

    status, _, headers = await execute(client)

    assert (200, "true") == (status, headers["Idempotency-Replayed"])
    assert (1, 1, 2) == await counted(client)


@pytest.mark.parametrize("code", [200, 202])
async def test_a_late_failure_is_reported_until_upstream_answers(
    downstream: Downstream, stage: FakeStage, code: int
) -> None:
    """It answers, fails, compensates itself, and tells upstream until that answers."""
    stage.says(TELL, Reply(None), Reply(503), Reply(500), Reply(200))
    client = await downstream("late-failure", seconds=0.05, answer=code)

    assert code == (await execute(client))[0]
    await stage.reached(TELL, times=4)

    asked = stage.requests(TELL)
    shown = await seen(client)
    assert ("compensated", 1, 0) == (shown["state"], shown["executed"], shown["standing"])
    assert 410 == (await execute(client))[0]
    assert f"/sagas/{ID}/compensate" == asked[0].path
    assert "shipping" == decode_compensate(asked[0].body).requested_by
    assert f"00-{'a' * 32}" == asked[0].headers["traceparent"][:35]
    assert "00" == asked[0].headers["traceparent"][-2:]


@pytest.mark.parametrize("code", [200, 202, 409, 410])
async def test_a_late_failure_is_reported_once_whatever_the_answer(
    downstream: Downstream, stage: FakeStage, code: int
) -> None:
    """Done, accepted, cannot, gone: upstream has answered and is not asked again."""
    stage.says(TELL, Reply(code))
    client = await downstream("late-failure", seconds=0)
    await execute(client)
    await stage.reached(TELL)

    shown = await until(client, lambda shown: bool(shown["told_upstream"]))

    assert 1 == len(shown["told_upstream"]) == len(stage.requests(TELL))


async def test_a_saga_that_was_compensated_does_not_fail_late(
    downstream: Downstream, stage: FakeStage
) -> None:
    """Then nothing is left to fail, and upstream, who asked, is told nothing."""
    client = await downstream("late-failure", seconds=60, answer=202)
    status, _, headers = await execute(client)

    assert (202, f"sagas/{ID}") == (status, headers["Location"])
    assert 202 == (await execute(client))[0]
    assert 200 == (await compensate(client))[0]
    assert "compensated" == (await seen(client))["outcome"]
    assert [] == stage.asked


async def test_a_saga_that_was_compensated_never_runs_again(downstream: Downstream) -> None:
    """The effect is taken back once, the saga never runs again, and requesters are noted."""
    client = await downstream()
    await execute(client)

    first, second = await compensate(client), await compensate(client)

    shown = await seen(client)
    assert first == second == (200, {"saga_id": ID, "outcome": "compensated"})
    assert 410 == (await execute(client))[0]
    assert (1, 0, 2) == await counted(client)
    assert ["payment", "payment"] == [asked["requested_by"] for asked in shown["compensations"]]


async def test_a_request_behind_its_compensation_is_refused(downstream: Downstream) -> None:
    """A tombstone is left: the late request is refused with 410 and has no effect."""
    client = await downstream()

    assert 200 == (await compensate(client))[0]

    assert 410 == (await execute(client))[0]
    assert (0, 0, 1) == await counted(client)


async def test_a_compensation_that_fails_lists_the_effects_that_stand(
    downstream: Downstream,
) -> None:
    """409 with what stands, each time; what never happened is compensated all the same."""
    client = await downstream("compensate-fails")
    await execute(client)

    for _ in range(2):
        status, body = await compensate(client)
        assert (409, ["shipping"]) == (status, body["stands"])

    assert "failed_to_compensate" == (await seen(client))["state"]
    assert (1, 1, 1) == await counted(client)
    assert 200 == (await compensate(client, "never-seen"))[0]


async def test_a_flaky_compensation_succeeds_in_the_end(downstream: Downstream) -> None:
    """503 twice, then compensated."""
    client = await downstream("compensate-flaky")
    await execute(client)

    assert [503, 503, 200] == [(await compensate(client))[0] for _ in range(3)]
    assert (1, 0, 1) == await counted(client)


async def test_scripts_stand_beside_each_other(downstream: Downstream) -> None:
    """By prefix of the saga id, the longest match holds; the rest meets the general one."""
    client = await downstream("refuse", match="b-")
    async with client.put("/script", json={"script": "accept", "match": "b-ut"}) as answer:
        shown = await answer.json()

    codes = [(await execute(client, saga_id))[0] for saga_id in ("a-1", "b-1", "b-ut")]

    assert [200, 409, 200] == codes
    assert ["", "b-", "b-ut"] == [script["match"] for script in shown["scripts"]]


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"script":"x"}', b'{"script":"slow","seconds":-1}', b"\xff"]
)
async def test_a_script_that_is_none_changes_nothing(downstream: Downstream, body: bytes) -> None:
    """400, and the behaviour stays."""
    client = await downstream()

    async with client.put("/script", data=body) as answer:
        assert 400 == answer.status
    assert 200 == (await execute(client))[0]


@pytest.mark.parametrize(
    "body, content_type, status",
    [
        (b"", "application/json", 400),
        (b'{"saga_id":"s-1","data":{},"data":{}}', "application/json", 400),
        (b'{"saga_id":"s-1"}', "application/json", 422),
        (b"{}", "text/plain", 415),
        (b" " * 1_100_000, "application/json", 413),
    ],
    ids=["empty", "duplicate key", "no data", "content type", "too large"],
)
async def test_a_bad_request_opens_no_saga(
    downstream: Downstream, body: bytes, content_type: str, status: int
) -> None:
    """A problem that says so."""
    client = await downstream()

    async with client.post(
        "/sagas", data=BytesIO(body), headers={"Content-Type": content_type}
    ) as answer:
        assert status == answer.status
        assert "application/problem+json" == answer.content_type
    async with client.get("/sagas") as answer:
        assert {"sagas": []} == await answer.json()


async def test_a_script_that_is_none_is_refused_with_those_that_are(
    downstream: Downstream,
) -> None:
    """Nobody has to read the source for its name."""
    client = await downstream()
    async with client.put("/script", json={"script": "explode"}) as answer:
        assert 400 == answer.status
        hint = (await answer.json(content_type=None))["hint"]
        assert hint.startswith("give a script of ") and " refuse" in hint


async def test_a_saga_that_its_books_may_have_lost_gets_no_tombstone(
    downstream: Downstream,
) -> None:
    """A tombstone would say that nothing of it stands: it was sent before these books began."""
    client = await downstream()
    before = {"first_sent_at": format_instant(time.time() - 60.0)}
    status, body = await compensate(client, "s-1", **before)
    assert (503, "unknown", True) == (status, body["outcome"], body["retryable"])
    assert 200 == (await execute(client, "s-1"))[0]
    assert 200 == (await compensate(client, "s-1", **before))[0]
    later = {"first_sent_at": format_instant(time.time() + 1.0)}
    assert 200 == (await compensate(client, "s-2", **later))[0]
    assert 200 == (await compensate(client, "s-3"))[0]


async def test_its_list_says_when_a_saga_came_and_when_it_changed(downstream: Downstream) -> None:
    """A stage that lost the saga goes by that instant, and would be misled by that of the list."""
    client = await downstream()
    await execute(client)
    changed = time.time() + 0.001  # instants are rounded
    await asyncio.sleep(0.02)
    async with client.get("/sagas?since=2020-01-01T00:00:00Z&with=payment") as answer:
        (saga,) = (await answer.json())["sagas"]
    assert parse_instant(saga["accepted_at"]) <= parse_instant(saga["updated_at"]) <= changed
