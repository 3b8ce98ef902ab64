"""The stand-ins for what a step is given."""

from __future__ import annotations

import hashlib
import hmac

import msgspec
import pytest

from stage import Landed, Refused
from stage.authoring.http import HeaderRefused, NotAwaited
from stage.demo.payment import (
    Charge,
    charge,
    charge_ended,
    charged,
    payment,
    record,
    refund,
    release,
    reserve,
)
from stage.ports.stage import Answer
from stage.ports.webhook import NotVerified
from stage.store.errors import StatementNotAwaited
from stage.testing import FakeHttp, FakeTx, fake_saga, fake_webhook, reply
from stage.testing.fakes import ScriptOver
from stage.wire.problem import WireError

ORDER = {"order_id": "o-1", "amount": 100, "currency": "KRW"}


async def test_a_call_gets_the_answers_of_its_script_and_its_requests_are_kept() -> None:
    """The request as it would have been sent."""
    http = FakeHttp(reply(201, {"id": "c-1"}))

    assert Charge("c-1") == await charge.function(http, fake_saga(payment, ORDER))

    (request,) = http.requests
    assert ("POST", "/charges") == (request.method, request.path)
    assert {"amount": 100} == msgspec.json.decode(request.body)


async def test_a_refusal_of_the_api_is_one_of_the_function() -> None:
    """A function is tried without an engine."""
    with pytest.raises(Refused, match="card declined"):
        await charge.function(FakeHttp(reply(402, {"code": "declined"})), fake_saga(payment, ORDER))


async def test_a_script_that_is_over_says_so() -> None:
    """With the request that it lacks an answer for."""
    with pytest.raises(ScriptOver, match="POST /charges is request 1, and the script has 0"):
        await charge.function(FakeHttp(), fake_saga(payment, ORDER))


async def test_the_fake_refuses_what_the_real_one_refuses() -> None:
    """A header of the operator's, and a request that was not awaited."""
    http = FakeHttp(reply(200))
    with pytest.raises(HeaderRefused):
        await http.get("/charges", headers={"Authorization": "Bearer x"})
    _ = http.get("/charges")
    with pytest.raises(NotAwaited, match="was not awaited"):
        http.check_awaited()
    with pytest.raises(NotAwaited, match="was not awaited"):
        _ = http.requests


async def test_a_compensation_gets_a_result_or_none() -> None:
    """And the key of its call."""
    http = FakeHttp(reply(200, {"refunded": 100}), reply(200, {"refunded": 0}))
    saga = fake_saga(payment, ORDER)
    await refund(http, saga, Charge("c-1"))
    await refund(http, saga, None)
    bodies = [msgspec.json.decode(request.body) for request in http.requests]
    assert [
        {"key": "s-1:payment:charge:do", "charge_id": "c-1"},
        {"key": "s-1:payment:charge:do", "charge_id": None},
    ] == bodies


def test_a_webhook_is_verified_by_the_secret_of_the_test() -> None:
    """And by its time; another secret, or none, is refused."""
    body = b'{"type": "charge.succeeded", "id": "c-1", "key": "k"}'
    made = hmac.new(b"right", b"1000" + body, hashlib.sha256).hexdigest()
    headers = {"Psp-Time": "1000", "Psp-Signature": made}
    landed = charge_ended(fake_webhook(body, headers, secret=b"right", now=1000.0))
    assert Landed(result=Charge("c-1"), key="k") == landed
    for secret, now in ((b"wrong", 1000.0), (b"", 1000.0), (b"right", 2000.0)):
        with pytest.raises(NotVerified):
            charge_ended(fake_webhook(body, headers, secret=secret, now=now))


async def test_a_transaction_keeps_its_statements() -> None:
    """With their parameters, and the results of the script."""
    tx = FakeTx()
    await reserve.function(tx, fake_saga(payment, ORDER))
    await release(tx, fake_saga(payment, ORDER))
    insert, update = tx.statements
    assert insert.sql.startswith("INSERT INTO payment")
    assert ("s-1", "o-1", 100, "KRW") == insert.parameters
    assert ("s-1",) == update.parameters

    found = FakeTx((1, "a"), 7, [(1,)])
    assert (1, "a") == await found.fetchone("SELECT 1")
    assert 7 == await found.fetchval("SELECT 2")
    assert [(1,)] == await found.fetchall("SELECT 3")
    assert None is await found.fetchone("SELECT 4")


async def test_a_saga_has_the_results_of_the_steps_before() -> None:
    """They were stored as JSON, so they come back from there."""
    saga = fake_saga(payment, ORDER, results=[(charge, Charge("c-9"))])
    tx = FakeTx()
    await record.function(tx, saga)
    assert ("c-9", "s-1") == tx.statements[0].parameters
    assert Charge("c-9") == charged(saga)


def test_data_that_the_stage_does_not_accept_is_refused() -> None:
    """A test of a payload that never comes would show nothing."""
    with pytest.raises(WireError):
        fake_saga(payment, {"order_id": 7})


async def test_an_answer_that_is_no_json_says_its_code() -> None:
    """An operator reads of it at night: the page is not quoted, and not taken for a defect."""
    http = FakeHttp(Answer(status=404, headers=(), body=b"<html>no route to 4111"))
    with pytest.raises(msgspec.DecodeError, match="answered 404 with 22 bytes") as raised:
        await charge.function(http, fake_saga(payment, ORDER))
    assert "4111" not in str(raised.value)


async def test_a_statement_that_is_not_awaited_is_found_by_the_fake() -> None:
    """As the real one does when the function returns."""
    tx = FakeTx()
    await tx.fetchone("SELECT 1")
    forgotten = tx.execute("DELETE FROM payment")
    with pytest.raises(StatementNotAwaited, match="did not run: DELETE FROM payment"):
        tx.check_awaited()
    with pytest.raises(StatementNotAwaited, match="did not run: DELETE FROM payment"):
        _ = tx.statements
    await forgotten
    tx.check_awaited()
