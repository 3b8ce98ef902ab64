"""Version 1 of the protocol as spoken to neighbours: what is sent, and how answers are read."""

from __future__ import annotations

import pytest

from stage.outbound.neighbours.chain_v1 import read_outcome
from stage.ports.neighbour import (
    CannotCompensate,
    Compensated,
    CompensateReply,
    ForwardReply,
    InProgress,
    Neighbours,
    NoInDoubt,
    NotExecuted,
    NotUnderstood,
    OutcomeReply,
    ShownExecuted,
)
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Lost
from stage.wire.chain import CHAIN_ASKED, CHAIN_HOPS
from stage.wire.headers import SAGA_BUDGET_MS, TRACEPARENT
from stage.wire.outcome import Outcome
from stage.wire.replies import CompensateRequest, decode_compensate
from tests.unit.outbound.scripted import ScriptedTransport, answered, client_over, peers_of

SAGA = "o:1~b"
GONE = b'{"saga_id":"o:1~b","outcome":"not_executed"}'
TRACE = TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")


def neighbours_over(transport: ScriptedTransport) -> Neighbours:
    return peers_of(client_over(transport)).neighbours


async def get_outcome(neighbours: Neighbours, saga_id: str = SAGA) -> OutcomeReply:
    return await neighbours.get_outcome("shipping", saga_id, trace=TraceContext(), timeout=1.0)


@pytest.mark.parametrize(
    "answer, reply",
    [
        (answered(200, b'{"outcome":"executed"}'), ShownExecuted()),
        (
            answered(200, b'{"outcome":"in_progress"}', ("Retry-After", "3")),
            InProgress(retry_after=3),
        ),
        (answered(404, b"<html>"), Lost(reason="answered 404", unserved=True)),
        (
            answered(503, b"", ("retry-after", "7")),
            Lost(reason="answered 503", retry_after=7.0),
        ),
        (Lost(reason="no answer"), Lost(reason="no answer")),
        (answered(200, b'{"outcome":"executed"}', ("Age", "0")), ShownExecuted()),
        (
            answered(404, GONE, ("age", "12")),
            Lost(reason="answered 404 by a cache, of 12 s ago", error="404"),
        ),
    ],
)
async def test_the_view_of_downstream_is_read(answer: Answer | Lost, reply: OutcomeReply) -> None:
    """A GET of that saga, and nothing else; what is no word on the saga is as good as lost."""
    transport = ScriptedTransport(answer)
    assert reply == await get_outcome(neighbours_over(transport))
    (sent,) = transport.sent
    assert ("GET", "http://shipping:1/base/sagas/o:1~b") == (sent.method, sent.url)
    assert ("Cache-Control", "no-cache") in sent.headers


@pytest.mark.parametrize("status", [405, 501])
def test_a_neighbour_that_serves_no_sagas_says_no(status: int) -> None:
    """It has to be compensated: there is nothing to be found."""
    reply = read_outcome(answered(status, b'{"outcome":"not_executed"}'), SAGA)
    reason = f"does not show it as executed ({status})"
    assert NotExecuted(reason=reason, saga_over=True) == reply


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_bare_code_may_be_that_of_a_gateway(status: int) -> None:
    """Downstream may have done it all, so it is asked again, a limited number of times."""
    assert Lost(reason=f"answered {status}", unserved=True) == read_outcome(answered(status), SAGA)


def own_word(status: int, outcome: str) -> Answer:
    """A problem in the neighbour's own word."""
    return answered(status, f'{{"outcome":"{outcome}","detail":"no"}}'.encode())


def of_saga(status: int, outcome: str) -> Answer:
    """The same, and it names the saga."""
    body = f'{{"outcome":"{outcome}","detail":"no","saga_id":"{SAGA}"}}'
    return answered(status, body.encode())


@pytest.mark.parametrize(
    "answer, reply",
    [
        (own_word(409, "compensated"), NotExecuted(reason="answered 409: no", saga_over=True)),
        (own_word(410, "compensated"), NotExecuted(reason="answered 410: no", saga_over=True)),
        (own_word(422, "not_executed"), NoInDoubt(reason="answered 422: no")),
        (of_saga(422, "not_executed"), NotExecuted(reason="answered 422: no")),
        (own_word(504, "not_executed"), NotExecuted(reason="answered 504: no")),
        (
            own_word(503, "not_executed"),
            Lost(reason="answered 503: no", certain=True, not_now=True),
        ),
        (
            own_word(403, "not_executed"),
            Lost(reason="answered 403: no", certain=True, denied=True, not_now=True),
        ),
        *((answered(code), Lost(reason=f"answered {code}", denied=True)) for code in (401, 403)),
        (own_word(503, "unknown"), Lost(reason="answered 503: no")),
        (own_word(409, "executed"), NoInDoubt(reason="answered 409: no")),
        *((answered(code), NoInDoubt(reason=f"answered {code}")) for code in (400, 409, 410)),
        *((answered(code), NoInDoubt(reason=f"answered {code}")) for code in (413, 415, 422)),
        *((answered(code), Lost(reason=f"answered {code}")) for code in (404, 408, 429)),
        *((answered(code), Lost(reason=f"answered {code}")) for code in (200, 202, 302, 503, 504)),
    ],
)
async def test_a_no_counts_only_in_the_word_of_the_neighbour(
    answer: Answer, reply: ForwardReply
) -> None:
    """The codes alone are what a gateway says for a neighbour that does the work (protocol 3.3)."""
    assert reply == await neighbours_over(ScriptedTransport(answer)).forward(
        "shipping", SAGA, b"{}", trace=TraceContext(), budget=None, timeout=1.0
    )


@pytest.mark.parametrize(
    "answer, reply",
    [
        (own_word(200, "compensated"), Compensated()),
        (own_word(410, "unknown"), Compensated()),
        (
            answered(202, b'{"outcome":"in_progress"}', ("Retry-After", "2")),
            InProgress(retry_after=2.0),
        ),
        (
            answered(409, b'{"status":409,"outcome":"executed","stands":["charge"]}'),
            CannotCompensate(reason="answered 409", stands=("charge",)),
        ),
        (answered(503, b"", ("Retry-After", "9")), Lost(reason="answered 503", retry_after=9.0)),
        (answered(404), NotUnderstood(reason="answered 404")),
        (answered(200, b"<html>"), NotUnderstood(reason="answered 200")),
        (own_word(200, "in_progress"), NotUnderstood(reason="answered 200: no")),
    ],
)
async def test_an_answer_to_compensate_is_read(answer: Answer, reply: CompensateReply) -> None:
    """Asked of upstream and downstream alike; what the neighbour does not say is asked again."""
    transport = ScriptedTransport(answer)
    request = CompensateRequest(requested_by="payment", reason="late", outcome=Outcome.COMPENSATED)
    for peer in ("order", "shipping"):
        assert reply == await neighbours_over(transport).compensate(
            peer, SAGA, request, trace=TRACE, timeout=1.0
        )
    assert ["http://order:1", "http://shipping:1/base"] == [
        sent.url.removesuffix("/sagas/o:1~b/compensate") for sent in transport.sent
    ]
    assert request == decode_compensate(transport.sent[0].body)


async def test_the_chain_is_asked_for_with_those_asked_and_the_time_left() -> None:
    """Each stage leaves the next one less time and fewer hops; the trace goes along."""
    transport = ScriptedTransport(answered(404))
    reply = await neighbours_over(transport).get_chain(
        "order", SAGA, asked=("a", "b"), hops=3, timeout=2.0, trace=TRACE
    )
    assert Lost(reason="answered 404") == reply
    (sent,) = transport.sent
    assert "http://order:1/sagas/o:1~b?view=chain" == sent.url
    assert {
        CHAIN_ASKED: "a,b",
        CHAIN_HOPS: "3",
        SAGA_BUDGET_MS: "2000",
        TRACEPARENT: TRACE.traceparent,
    } == dict(sent.headers)


async def test_questions_that_fail_do_not_bar_what_is_handed_on() -> None:
    """A neighbour need not serve them, so they say nothing of its POST; nor are they barred."""
    transport = ScriptedTransport(answered(500))
    client = client_over(transport)
    neighbours = peers_of(client).neighbours
    for _ in range(50):
        await get_outcome(neighbours)
    assert not any(client.breakers.values())
    while not any(client.breakers.values()):
        await neighbours.forward(
            "shipping", SAGA, b"{}", trace=TraceContext(), budget=None, timeout=1.0
        )
    before = len(transport.sent)
    await get_outcome(neighbours)
    assert before + 1 == len(transport.sent)


def test_only_a_configured_upstream_is_one() -> None:
    """A name in a body never becomes an address."""
    neighbours = neighbours_over(ScriptedTransport(answered(200)))
    assert [True, False, False] == [
        neighbours.is_upstream(name) for name in ("order", "shipping", "http://evil")
    ]


async def test_a_neighbour_without_a_url_is_not_asked_for_shared_sagas() -> None:
    """An orchestrator calls and cannot be called: the reason is shown, and nothing is sent."""
    transport = ScriptedTransport(answered(200))
    page = await neighbours_over(transport).get_shared(
        "orchestrator", "payment", since=0.0, after="", timeout=1.0
    )
    assert Lost(reason="it has no url", certain=True) == page
    assert [] == transport.sent
