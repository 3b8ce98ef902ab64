"""External APIs: what is sent under which key, and the Retry-After of their answers."""

from __future__ import annotations

import pytest

from stage.authoring import Http, Response
from stage.authoring.conversation import FunctionConversation, Reading
from stage.core.events import Request
from stage.core.failure import FailureKind
from stage.outbound.breaker import FAILURES_MAX
from stage.ports.external import ExternalRequest
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Failed, Lost, Send
from stage.wire.headers import IDEMPOTENCY_KEY, SAGA_BUDGET_MS, TRACEPARENT
from stage.wire.http import RETRY_AFTER_SECONDS_MAX
from tests.unit.outbound.scripted import ScriptedTransport, answered, client_over, peers_of

CHARGE = Request(method="POST", path="/charges", headers=(("X-Own", "1"),), body=b"{}")
TRACE = TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")


def outgoing(*, breakable: bool = True, budget: float | None = None) -> ExternalRequest:
    return ExternalRequest(
        peer="psp",
        request=CHARGE,
        key="k-1",
        trace=TRACE,
        timeout=1.0,
        budget=budget,
        breakable=breakable,
    )


async def test_a_request_leaves_under_its_key_with_budget_and_trace() -> None:
    """The author's headers come first; the URL is the configured one and the author's path."""
    transport = ScriptedTransport(answered(201))
    await peers_of(client_over(transport)).external.exchange(outgoing(budget=1.5))
    (sent,) = transport.sent
    assert ("POST", "http://psp:1/v1/charges", b"{}") == (sent.method, sent.url, sent.body)
    assert [
        ("X-Own", "1"),
        (IDEMPOTENCY_KEY, "k-1"),
        (SAGA_BUDGET_MS, "1500"),
        (TRACEPARENT, TRACE.traceparent),
    ] == sent.headers


async def test_only_the_way_forward_is_held_back() -> None:
    """An API that keeps failing is left alone, but an undo or a probe always goes out."""
    transport = ScriptedTransport(Lost(reason="no answer in time"))
    external = peers_of(client_over(transport)).external
    for _ in range(FAILURES_MAX):
        await external.exchange(outgoing())
    held = await external.exchange(outgoing())
    assert isinstance(held, Lost) and held.certain and held.retry_after
    assert FAILURES_MAX == len(transport.sent)
    await external.exchange(outgoing(breakable=False))
    assert FAILURES_MAX + 1 == len(transport.sent)


async def charge(http: Http) -> Response:
    return await http.post("/charges")


async def failure_of(answer: Answer) -> Failed:
    """The failure of a call whose request is answered so."""
    conversation = FunctionConversation(
        charge(http := Http()), http, lambda value: b"null", Reading(transient_on=frozenset({503}))
    )
    assert isinstance(conversation.begin(), Send)
    transport = ScriptedTransport(answer)
    reply = await peers_of(client_over(transport)).external.exchange(outgoing())
    failed = await conversation.resume(reply)
    assert isinstance(failed, Failed)
    return failed


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("7", 7.0),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10.0),
        ("Sun, 06 Nov 1994 08:49:30 GMT", 0.0),
        ("Mon, 06 Nov 2094 08:49:47 GMT", RETRY_AFTER_SECONDS_MAX),
        ("Sun, 31 Feb 1994 08:49:47 GMT", None),
        ("soon", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_retry_after_of_an_external_api_is_heeded(
    status: int, value: str, seconds: float | None
) -> None:
    """Seconds and HTTP dates (RFC 9110, 10.2.3); a wrong date is as good as none."""
    failed = await failure_of(answered(status, b"", ("retry-after", value)))
    assert (FailureKind.TRANSIENT, seconds) == (failed.kind, failed.retry_after)
