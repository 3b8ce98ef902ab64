"""The loop of one saga: what happened is journaled, and then done what follows from it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stage import Http, Refused, Stage, Transient, Tx
from stage import Saga as AuthorSaga
from stage.core import events as e
from stage.core.bindings import binding_of
from stage.core.commands import AttemptKind, Record
from stage.core.errors import (
    AuthorDefect,
    JournalMismatch,
    StageError,
    StaleEpoch,
    StoreUnavailable,
)
from stage.core.event_table import park_cause_of
from stage.core.place import TELL_STEP
from stage.core.requester import Requester
from stage.core.saga import Saga, StepState
from stage.core.states import ParkCause, Phase, SagaState, Tell
from stage.engine.saga import interpreter as interpreter_module
from stage.engine.saga.context import Context, context_with
from stage.engine.saga.interpreter import Interpreter, Transition
from stage.engine.saga.versions import Versions
from stage.ports.observer import Attempt
from stage.ports.stage import Participant
from stage.ports.store import Entry
from stage.store.memory import MemoryStore
from stage.wire.envelope import Envelope, decode_envelope
from tests.unit.engine.given import NOW, TRACE, At, NotedSpan, Noting

EXECUTE, PROBE, COMPENSATE, TELL = AttemptKind
CONTEXT = context_with(Envelope(saga_id="s-1", data={"amount": 1}), b"{}", "", TRACE)
ACCEPTED = e.Accepted(at=NOW, upstream="order")
CHARGED = msgspec.Raw(b'{"id":"c-1"}')
FORWARD = "forward:shipping"
SHIPPED = e.StepSucceeded(at=NOW, step=FORWARD, result=msgspec.Raw(b'{"shipping":{}}'))


def shop(raises: BaseException | None = None, **lineage: Any) -> Stage[dict[str, Any], Any]:
    """A transaction, which may raise, and a call, each with a compensation."""
    stage: Stage[dict[str, Any], dict[str, str]] = Stage(
        "shop", accepts=dict[str, Any], adds=dict[str, str], **lineage
    )

    @stage.transaction
    async def reserve(tx: Tx, saga: AuthorSaga[Any]) -> None:
        if raises is not None:
            raise raises

    @reserve.compensation
    async def release(tx: Tx, saga: AuthorSaga[Any]) -> None:
        """Nothing to give back."""

    @stage.call(to="psp", timeout=1.0)
    async def ask(http: Http, saga: AuthorSaga[Any]) -> dict[str, str]:
        answer = await http.post("/charges", json={"attempt": saga.attempt})
        return {"id": answer.json()["id"]}

    @ask.probe
    async def find(http: Http, saga: AuthorSaga[Any]) -> dict[str, str] | None:
        await http.get("/charges/by-key")
        return None

    @ask.compensation
    async def refund(http: Http, saga: AuthorSaga[Any], made: dict[str, str] | None) -> None:
        await http.post("/refunds", json={"made": made})

    @stage.output
    def added(saga: AuthorSaga[Any]) -> dict[str, str]:
        return saga.result(ask)

    return stage


class Bench:
    """An interpreter with all around it."""

    def __init__(self, stage: Stage[Any, Any], *downstreams: str) -> None:
        self.clock, self.observer, self.store = At(), Noting(), MemoryStore()
        self.participant: Participant = stage.bind(downstreams)
        self.interpreter = Interpreter(Versions(self.participant), self.observer, self.clock)
        self.run = NotedSpan("e" * 16)

    def binding(self, step: str) -> e.Binding:
        """The binding that the first event of the step holds."""
        return binding_of(self.participant.plan.step(step))

    async def advance(
        self, saga: Saga, *events: e.Event, output: Any = msgspec.UNSET, context: Context = CONTEXT
    ) -> Transition:
        """These events, and what follows from them."""
        return await self.store.transact(
            lambda unit: self.interpreter.advance(unit, saga, context, events, self.run, output)
        )

    async def later(self, done: Transition) -> Transition:
        """The transition once its next action is due."""
        assert done.rest_until is not None
        self.clock.shown = done.rest_until
        return await self.advance(done.saga, output=done.output)


async def bench_of(stage: Stage[Any, Any], *downstreams: str) -> Bench:
    bench = Bench(stage, *downstreams)
    await bench.store.open()
    return bench


@pytest.fixture
async def bench() -> Bench:
    return await bench_of(shop(), "shipping")


def span_ids(bench: Bench) -> list[str]:
    return [span.span_id for _, span in bench.observer.attempts]


async def test_a_new_saga_runs_its_transactions_and_writes_down_the_intent_of_its_call(
    bench: Bench,
) -> None:
    """Rules 1, 2, 23 and 32: with key, span and request, and what each step was when it began."""
    done = await bench.advance(Saga(id="s-1"), ACCEPTED)
    first, second = span_ids(bench)
    (outgoing,) = done.outgoing
    request = e.Request(
        method="POST",
        path="/charges",
        headers=outgoing.stored[0].headers,
        body=b'{"attempt":1}',
    )
    assert [
        ACCEPTED,
        e.StepSucceeded(at=NOW, step="reserve", span=first, bound=bench.binding("reserve")),
        e.StepStarted(
            at=NOW,
            step="ask",
            attempt=1,
            key="s-1:shop:ask:do",
            span=second,
            request=request,
            bound=bench.binding("ask"),
        ),
    ] == done.events
    assert ("s-1:shop:ask:do", (request,), b"") == (outgoing.key, outgoing.stored, outgoing.body)
    assert done.rest_until is None
    local = Attempt(
        saga_id="s-1", stage="shop", step="reserve", kind=EXECUTE, number=1, peer="",
        parent=bench.run.context,
    )  # fmt: skip
    assert [local, replace(local, step="ask", peer="psp")] == [
        attempt for attempt, _ in bench.observer.attempts
    ]


async def test_the_span_of_a_transaction_ends_when_its_unit_is_durable(bench: Bench) -> None:
    """It is current while the function runs, and so is that of a call while its body is made."""
    done = await bench.advance(Saga(id="s-1"), ACCEPTED)
    (_, local), (_, call) = bench.observer.attempts
    assert [(local, done.events[1])] == done.ended
    assert [] == local.ends and (1, 1) == (local.entered, call.entered)


async def test_downstream_gets_the_output_under_the_span_of_its_attempt(bench: Bench) -> None:
    """And the intent holds the body, so that a repeat sends the same bytes (rule 5)."""
    begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
    done = await bench.advance(begun.saga, e.StepSucceeded(at=NOW, step="ask", result=CHARGED))
    (outgoing,) = done.outgoing
    (_, span) = bench.observer.attempts[-1]
    assert done.events[-1] == e.StepStarted(
        at=NOW,
        step=FORWARD,
        attempt=1,
        key=f"s-1:shop:{FORWARD}:do",
        span=span.span_id,
        request=e.Request(method="POST", path="/sagas", body=outgoing.body),
        bound=bench.binding(FORWARD),
    )
    assert {"amount": 1, "shop": {"id": "c-1"}} == decode_envelope(outgoing.body).data
    assert 1 == span.entered and CHARGED == done.output


async def doubted(bench: Bench, step: str = "ask") -> Transition:
    """A saga whose call, or whose hand-over, is in doubt."""
    done = await bench.advance(Saga(id="s-1"), ACCEPTED)
    if step == FORWARD:
        done = await bench.advance(done.saga, e.StepSucceeded(at=NOW, step="ask", result=CHARGED))
    return await bench.advance(
        done.saga, e.StepInDoubt(at=NOW, step=step, reason="no answer"), output=done.output
    )


async def test_a_call_in_doubt_is_looked_for_and_then_repeated(bench: Bench) -> None:
    """Rule 5: under the same key, with the same bytes, of which no copy is written down again."""
    looking = await bench.later(await doubted(bench))
    assert looking.events == [
        e.ProbeStarted(at=bench.clock.shown, step="ask", span=span_ids(bench)[-1])
    ]
    assert span_ids(bench)[1:2] == list(bench.observer.attempts[-1][0].links)
    assert looking.outgoing[0].stored == ()
    again = await bench.advance(looking.saga, e.ProbeNotThere(at=bench.clock.shown, step="ask"))
    looking = await bench.later(again)
    again = await bench.advance(looking.saga, e.ProbeNotThere(at=bench.clock.shown, step="ask"))
    if not again.outgoing:
        again = await bench.later(again)
    (outgoing,) = again.outgoing
    assert again.events[-1] == e.StepStarted(
        at=bench.clock.shown,
        step="ask",
        attempt=2,
        key="s-1:shop:ask:do",
        span=span_ids(bench)[-1],
    )
    assert ("s-1:shop:ask:do", ()) == (outgoing.key, outgoing.stored)
    assert 2 == bench.observer.attempts[-1][0].number


async def test_a_hand_over_in_doubt_repeats_the_body_that_was_sent(bench: Bench) -> None:
    """The output of today does not count."""
    again = await bench.later(await doubted(bench, FORWARD))
    (outgoing,) = again.outgoing
    assert isinstance(again.events[-1], e.StepStarted) and again.events[-1].request is None
    assert again.saga.steps[FORWARD].requests[0].body == outgoing.body != b""


async def test_a_look_for_a_hand_over_has_the_body_that_asks_for_its_answer(bench: Bench) -> None:
    """Decision 0011: downstream answers the same request as before."""
    done = await doubted(bench, FORWARD)
    steps = {**done.saga.steps, FORWARD: replace(done.saga.steps[FORWARD], cut_off=True)}
    saga = replace(done.saga, deadline=NOW, steps=steps)
    bench.clock.shown = NOW + 60.0
    looking = await bench.advance(saga)
    (outgoing,) = looking.outgoing
    assert PROBE is outgoing.do.kind
    assert saga.steps[FORWARD].requests[0].body == outgoing.body


async def test_an_undo_has_its_own_key_and_its_intent_its_own_request(bench: Bench) -> None:
    """Rules 2 and 7, and rule 23: its span links to the attempt that it undoes."""
    begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
    sent = await bench.advance(begun.saga, e.StepSucceeded(at=NOW, step="ask", result=CHARGED))
    refused = e.StepRefused(at=NOW, step=FORWARD, reason="no room", said=True)
    turned = await bench.advance(sent.saga, refused)
    (outgoing,) = turned.outgoing
    assert turned.events[-1] == e.CompensationStarted(
        at=NOW,
        step="ask",
        attempt=1,
        key="s-1:shop:ask:undo",
        span=span_ids(bench)[-1],
        request=outgoing.stored[0],
    )
    assert b'{"made":{"id":"c-1"}}' == outgoing.stored[0].body
    assert (span_ids(bench)[1],) == bench.observer.attempts[-1][0].links
    undone = await bench.advance(turned.saga, e.CompensationSucceeded(at=NOW, step="ask"))
    local, span = bench.observer.attempts[-1]
    assert undone.events[1:] == [
        e.CompensationStarted(at=NOW, step="reserve", attempt=1, span=span.span_id),
        e.CompensationSucceeded(at=NOW, step="reserve"),
        e.Compensated(at=NOW),
    ]
    assert (COMPENSATE, (span_ids(bench)[0],)) == (local.kind, local.links)
    assert [(span, undone.events[2])] == undone.ended


async def test_a_second_undo_repeats_its_request_under_its_key(bench: Bench) -> None:
    """And links to the first one too. An operator may have ordered another key."""
    begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
    sent = await bench.advance(begun.saga, e.StepSucceeded(at=NOW, step="ask", result=CHARGED))
    turned = await bench.advance(sent.saga, e.StepRefused(at=NOW, step=FORWARD, said=True))
    delayed = e.CompensationDelayed(at=NOW, step="ask", reason="answered 503")
    again = await bench.later(await bench.advance(turned.saga, delayed))
    started = again.events[-1]
    assert isinstance(started, e.CompensationStarted)
    assert (2, "s-1:shop:ask:undo", None) == (started.attempt, started.key, started.request)
    ids = span_ids(bench)
    assert (ids[1], ids[3]) == bench.observer.attempts[-1][0].links
    known = replace(turned.saga.steps["ask"], phase=Phase.COMPENSATION_WAITING, compensation_keys=2)
    other = await bench.advance(replace(turned.saga, steps={**turned.saga.steps, "ask": known}))
    assert "s-1:shop:ask:undo.2" == other.outgoing[0].key


async def test_upstream_is_notified_under_a_span_that_links_to_the_notice_before(
    bench: Bench,
) -> None:
    """Rules 22 and 23; the notice belongs to no step."""
    late = Saga(
        id="s-1", state=SagaState.COMPENSATED, upstream="order", tell=Tell.DUE, tell_due=NOW
    )
    first = await bench.advance(late)
    assert [e.TellStarted(at=NOW, attempt=1, span=span_ids(bench)[0])] == first.events
    assert "" == first.outgoing[0].key
    again = await bench.later(
        await bench.advance(first.saga, e.TellDelayed(at=NOW, reason="no answer"))
    )
    assert isinstance(again.events[-1], e.TellStarted) and 2 == again.events[-1].attempt
    notice = Attempt(
        saga_id="s-1", stage="shop", step=TELL_STEP, kind=TELL, number=1, peer="order",
        parent=bench.run.context,
    )  # fmt: skip
    assert [notice, replace(notice, number=2, links=tuple(span_ids(bench)[:1]))] == [
        attempt for attempt, _ in bench.observer.attempts
    ]


# --- the functions of the author -----------------------------------------------------------------


def without_place(event: e.Event) -> e.Event:
    """The event without the file and the line of an exception in its reason."""
    reason = getattr(event, "reason", "")
    return replace(event, reason=reason.partition(" (")[0]) if reason else event


@pytest.mark.parametrize(
    "raises, event",
    [
        (Refused("no"), e.StepRefused(at=NOW, step="reserve", reason="no", said=True)),
        (
            Transient("later", retry_after=7.0),
            e.StepTransient(at=NOW, step="reserve", reason="later", retry_after=7.0),
        ),
        (
            AuthorDefect("wrong"),
            e.StepTransient(at=NOW, step="reserve", reason="AuthorDefect: wrong"),
        ),
        (StageError("wrong"), e.StepRefused(at=NOW, step="reserve", reason="reserve: wrong")),
        (
            LookupError("broken"),
            e.StepTransient(at=NOW, step="reserve", reason="LookupError in reserve"),
        ),
    ],
)
async def test_an_exception_of_a_transaction_ends_its_attempt(
    raises: BaseException, event: e.Event
) -> None:
    """Rule 4: refused or transient, and never a doubt. Its first event binds the step."""
    bench = await bench_of(shop(raises))
    done = await bench.advance(Saga(id="s-1"), ACCEPTED)
    assert replace(event, bound=bench.binding("reserve")) == without_place(done.events[1])
    assert [done.events[1]] == [ended for _, ended in done.ended]


async def test_a_function_that_exits_ends_its_step_and_not_the_process() -> None:
    """Rule 35."""
    bench = await bench_of(shop(SystemExit(3)))
    done = await bench.advance(Saga(id="s-1"), ACCEPTED)
    refused = done.events[1]
    assert isinstance(refused, e.StepRefused)
    assert "reserve" in refused.reason and "SystemExit" in refused.reason


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StaleEpoch("taken over")])
async def test_a_database_that_is_away_is_no_failure_of_the_function(error: Exception) -> None:
    """The whole unit is undone, and run again or dropped."""
    bench = await bench_of(shop(error))
    with pytest.raises(type(error)):
        await bench.advance(Saga(id="s-1"), ACCEPTED)


async def test_a_second_attempt_of_a_transaction_binds_nothing_anew() -> None:
    """The first one did (rule 32)."""
    bench = await bench_of(shop(LookupError("broken")))
    done = await bench.advance(Saga(id="s-1"), ACCEPTED)
    again = await bench.later(done)
    assert isinstance(again.events[0], e.StepTransient) and again.events[0].bound is None


def asking(shown: Any) -> Stage[dict[str, Any], None]:
    """A stage that asks a person, with those words or none; or it raises them."""
    stage: Stage[dict[str, Any], None] = Stage("shop", accepts=dict[str, Any])

    @stage.approval("risk")
    def risk(saga: AuthorSaga[Any]) -> Any:
        if isinstance(shown, BaseException):
            raise shown
        return shown

    return stage


@pytest.mark.parametrize(
    "shown, event",
    [
        ({"amount": 1}, e.ApprovalAsked(at=NOW, step="risk", shown=msgspec.Raw(b'{"amount":1}'))),
        (None, e.StepSucceeded(at=NOW, step="risk")),
        (Refused("never"), e.StepRefused(at=NOW, step="risk", reason="never", said=True)),
        (StageError("wrong"), e.StepRefused(at=NOW, step="risk", reason="risk: wrong")),
        (LookupError("x"), e.StepTransient(at=NOW, step="risk", reason="LookupError in risk")),
    ],
)
async def test_a_person_is_asked_with_the_words_of_the_author(shown: Any, event: e.Event) -> None:
    """Or nobody is. The first event binds the step."""
    bench = await bench_of(asking(shown))
    done = await bench.advance(Saga(id="s-1"), ACCEPTED)
    assert replace(event, bound=bench.binding("risk")) == without_place(done.events[1])
    assert [] == bench.observer.attempts, "no attempt leaves"


async def test_a_person_that_is_asked_late_is_asked_for_the_bound_step() -> None:
    bench = await bench_of(asking(LookupError("x")))
    again = await bench.later(await bench.advance(Saga(id="s-1"), ACCEPTED))
    assert isinstance(again.events[0], e.StepTransient) and again.events[0].bound is None


@pytest.mark.parametrize("fails", ["refuses", "sends nothing"])
async def test_a_call_that_ends_before_it_sends_has_an_intent_and_an_end(fails: str) -> None:
    """Nothing leaves for it, and its span ends with it."""
    stage: Stage[dict[str, Any], None] = Stage("shop", accepts=dict[str, Any])

    @stage.call(to="psp", timeout=1.0, compensation=None, reason="no test undoes it")
    async def ask(http: Http, saga: AuthorSaga[Any]) -> None:
        if fails == "refuses":
            raise Refused("no")

    bench = await bench_of(stage)
    done = await bench.advance(Saga(id="s-1"), ACCEPTED)
    ((_, span),) = bench.observer.attempts
    key = "s-1:shop:ask:do"
    started = e.StepStarted(
        at=NOW, step="ask", attempt=1, key=key, span=span.span_id, bound=bench.binding("ask")
    )
    end: e.Event = e.StepRefused(at=NOW, step="ask", reason="no", said=True)
    if fails == "sends nothing":
        end = e.StepSucceeded(at=NOW, step="ask")
    assert [started, end] == done.events[1:3]
    assert [] == done.outgoing and [(span, end)] == done.ended


async def test_an_undo_of_a_result_that_cannot_be_read_waits_for_a_person(bench: Bench) -> None:
    """It would be the same at every attempt, and nothing was sent."""
    step = StepState(phase=Phase.SUCCEEDED, order=0, result=msgspec.Raw(b"7"))
    saga = Saga(id="s-1", state=SagaState.COMPENSATING, steps={"ask": step})
    done = await bench.advance(saga)
    refused = done.events[1]
    assert isinstance(refused, e.CompensationRefused)
    assert "ask cannot be begun: " in refused.reason and refused.certain
    assert [] == done.outgoing


# --- the output ----------------------------------------------------------------------------------


class Paid(msgspec.Struct):
    ref: str


def broken(pivot: bool) -> Stage[dict[str, Any], Any]:
    """A stage whose output fails, behind its pivot or before it."""
    stage: Stage[dict[str, Any], dict[str, str]] = Stage(
        "shop", accepts=dict[str, Any], adds=dict[str, str]
    )

    @stage.call(to="psp", timeout=1.0, pivot=pivot, compensation=None, reason="no test undoes it")
    async def ask(http: Http, saga: AuthorSaga[Any]) -> None:
        await http.post("/charges", json={})

    @stage.output
    def added(saga: AuthorSaga[Any]) -> dict[str, str]:
        raise LookupError

    return stage


async def test_an_output_that_fails_turns_the_saga_back() -> None:
    """Nothing was said to anybody yet; behind the pivot there is no way back (rule 20)."""
    for pivot in (False, True):
        bench = await bench_of(broken(pivot))
        begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
        done = await bench.advance(begun.saga, e.StepSucceeded(at=NOW, step="ask"))
        event = done.events[1]
        assert isinstance(event, e.Parked if pivot else e.TurnedBack)
        assert event.reason.startswith("the output raised LookupError in added (")
        if isinstance(event, e.Parked):
            assert ParkCause.OUTPUT_FAILED is event.cause


async def test_an_output_that_is_not_what_the_stage_promises_fails() -> None:
    """Neighbours read its schema; an annotation that is left out lets anything through."""
    stage: Stage[dict[str, Any], Any] = Stage("shop", accepts=dict[str, Any], adds=Paid)

    @stage.call(to="psp", timeout=1.0, compensation=None, reason="no test undoes it")
    async def ask(http: Http, saga: AuthorSaga[Any]) -> None:
        await http.post("/charges", json={})

    @stage.output
    def added(saga: AuthorSaga[Any]) -> Any:
        return {"reference": "secret"}

    bench = await bench_of(stage)
    begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
    done = await bench.advance(begun.saga, e.StepSucceeded(at=NOW, step="ask"))
    event = done.events[1]
    assert isinstance(event, e.TurnedBack) and "secret" not in event.reason
    assert "it is a dict and not what adds= says: Object missing required field" in event.reason


async def test_an_output_that_fails_is_not_handed_on() -> None:
    """The hand-over is refused without a request."""
    bench = await bench_of(broken(pivot=False), "shipping")
    begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
    done = await bench.advance(begun.saga, e.StepSucceeded(at=NOW, step="ask"))
    started, refused = done.events[1:3]
    assert isinstance(started, e.StepStarted) and started.request is None
    assert isinstance(refused, e.StepRefused)
    assert refused.reason.startswith("the output raised LookupError in added (")
    assert not refused.said and [] == done.outgoing


async def test_the_output_is_asked_for_once_a_saga() -> None:
    """Downstream and the answer get the same, also from a function that is not pure."""
    asked: list[int] = []
    stage: Stage[dict[str, Any], dict[str, int]] = Stage(
        "shop", accepts=dict[str, Any], adds=dict[str, int]
    )

    @stage.call(to="psp", timeout=1.0, compensation=None, reason="no test undoes it")
    async def ask(http: Http, saga: AuthorSaga[Any]) -> None:
        await http.post("/charges", json={})

    @stage.output
    def added(saga: AuthorSaga[Any]) -> dict[str, int]:
        asked.append(1)
        return {"number": len(asked)}

    bench = await bench_of(stage, "shipping")
    begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
    sent = await bench.advance(begun.saga, e.StepSucceeded(at=NOW, step="ask"))
    done = await bench.advance(sent.saga, SHIPPED, output=sent.output)
    assert isinstance(done.events[-1], e.Completed)
    assert sent.output == done.output and [1] == asked
    concluded = bench.interpreter.conclude(sent.saga, CONTEXT, [SHIPPED], bench.run, sent.output)
    assert concluded is not None and sent.output == concluded.output and [1] == asked


# --- the end that is answered before it is written -----------------------------------------------


async def test_a_saga_completes_with_the_answer_of_its_last_downstream(bench: Bench) -> None:
    """Decision 0011: nothing is sent or run for it."""
    begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
    sent = await bench.advance(begun.saga, e.StepSucceeded(at=NOW, step="ask", result=CHARGED))
    done = bench.interpreter.conclude(sent.saga, CONTEXT, [SHIPPED], bench.run, sent.output)
    assert done is not None
    assert [SHIPPED, e.Completed(at=NOW)] == done.events
    assert SagaState.COMPLETED is done.saga.state and done.rest_until is None


@pytest.mark.parametrize(
    "events",
    [
        [e.StepRefused(at=NOW, step=FORWARD)],
        [e.StepPending(at=NOW, step=FORWARD)],
        [SHIPPED, e.AnswerDeferred(at=NOW)],
        [replace(SHIPPED, step="ask")],
        [],
    ],
)
async def test_a_saga_does_not_complete_with_anything_else(
    bench: Bench, events: list[e.Event]
) -> None:
    begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
    sent = await bench.advance(begun.saga, e.StepSucceeded(at=NOW, step="ask", result=CHARGED))
    assert bench.interpreter.conclude(sent.saga, CONTEXT, events, bench.run) is None


async def test_a_saga_does_not_complete_while_another_downstream_has_yet_to_answer() -> None:
    """Nor before all of its steps have begun."""
    bench = await bench_of(shop(), "shipping", "mail")
    begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
    assert bench.interpreter.conclude(begun.saga, CONTEXT, [], bench.run) is None
    sent = await bench.advance(begun.saga, e.StepSucceeded(at=NOW, step="ask", result=CHARGED))
    assert bench.interpreter.conclude(sent.saga, CONTEXT, [SHIPPED], bench.run) is None
    both = [SHIPPED, replace(SHIPPED, step="forward:mail")]
    assert bench.interpreter.conclude(sent.saga, CONTEXT, both, bench.run) is not None


async def test_a_saga_whose_output_fails_does_not_complete() -> None:
    """The rules say what follows, in a unit of their own."""
    bench = await bench_of(broken(pivot=False), "shipping")
    steps = {
        "ask": StepState(phase=Phase.SUCCEEDED, order=0, result=CHARGED),
        FORWARD: StepState(phase=Phase.STARTED, order=1),
    }
    saga = Saga(id="s-1", steps=steps)
    assert bench.interpreter.conclude(saga, CONTEXT, [SHIPPED], bench.run) is None


# --- instants, journals, rest --------------------------------------------------------------------


ENDS_A_WAIT: list[e.Event] = [
    e.WebhookFound(at=NOW, step="ask"),
    e.WebhookRefused(at=NOW, step="ask"),
    e.Approved(at=NOW, actor="kim", why="ticket 7", step="ask"),
    e.Rejected(at=NOW, actor="kim", why="ticket 7", step="ask"),
    e.Settled(at=NOW, actor="kim", why="ticket 7", step="ask", landed=True),
]


@pytest.mark.parametrize("event", ENDS_A_WAIT, ids=lambda each: type(each).__name__)
async def test_a_wait_ends_at_the_instant_of_its_entry(bench: Bench, event: e.Event) -> None:
    """It may have lain in the mail of a replica for an hour; the budget stood still until then."""
    step = StepState(phase=Phase.IN_DOUBT, order=0, doubted=True)
    if isinstance(event, e.Approved | e.Rejected):
        step = StepState(phase=Phase.AWAITING_APPROVAL, order=0, asked=True)
    saga = Saga(id="s-1", steps={"ask": step})
    bench.clock.shown = NOW + 3_600.0
    done = await bench.advance(saga, event)
    noted = bench.interpreter.note(saga, [event], NOW + 7.0)
    assert NOW + 3_600.0 == done.events[0].at
    assert [NOW + 7.0, NOW + 7.0] == [noted.events[0].at, noted.rest_until]


async def test_any_other_event_keeps_its_instant(bench: Bench) -> None:
    """An attempt ended when it ended."""
    begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
    bench.clock.shown = NOW + 9.0
    end = e.StepInDoubt(at=NOW + 1.0, step="ask", reason="no answer")
    assert end == (await bench.advance(begun.saga, end)).events[0]
    assert [end] == bench.interpreter.note(begun.saga, [end], NOW + 9.0).events


@pytest.mark.parametrize("knows", [False, True])
def test_a_refused_notification_says_that_upstream_knows(bench: Bench, knows: bool) -> None:
    """It may have asked by itself since the attempt began: then nothing is parked, nor counted."""
    saga = Saga(id="s-1", state=SagaState.COMPENSATED, tell=Tell.IN_FLIGHT, upstream_knows=knows)
    refused = e.TellRefused(at=NOW, reason="answered 409")
    noted = bench.interpreter.note(saga, [refused], NOW)
    assert [replace(refused, upstream_knows=knows)] == noted.events
    assert noted.saga.parked_cause is park_cause_of(noted.events[0])
    assert knows is (noted.saga.parked_cause is None)


async def test_a_saga_that_waits_rests_until_its_next_action(bench: Bench) -> None:
    """With nothing under way."""
    done = await doubted(bench)
    assert done.rest_until is not None and NOW < done.rest_until
    assert [] == done.outgoing


async def test_a_machine_that_does_not_come_to_rest_is_a_defect(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold the writer for ever. The last entries say where it goes round."""
    monkeypatch.setattr(interpreter_module, "DECISIONS_MAX", 5)
    deferred = Record(event=e.AnswerDeferred(at=NOW))
    monkeypatch.setattr(interpreter_module, "decide", lambda *_: (deferred,))
    words = ", ".join(["answer_deferred"] * 3)
    with pytest.raises(StageError, match=f"^saga s-1 does not come to rest: {words}$"):
        await bench.advance(Saga(id="s-1"), ACCEPTED)


def test_a_journal_that_cannot_follow_is_refused_with_the_fix(bench: Bench) -> None:
    """Rule 32: nothing of it is run."""
    events: list[e.Event] = [ACCEPTED, e.StepInDoubt(at=NOW, step="ask")]
    entries = [Entry(number=n, epoch=1, event=event) for n, event in enumerate(events, 1)]
    with pytest.raises(JournalMismatch, match="deploy the version that wrote it, or forget"):
        bench.interpreter.fold("s-1", entries)
    assert 1 == bench.interpreter.fold("s-1", entries[:1]).length


async def test_a_renamed_step_keeps_its_name_in_the_journal() -> None:
    """Rule 32: an older release can go on. A step that began under its new name has that one."""
    bench = await bench_of(shop(renamed={"bill": "ask"}))
    old = StepState(phase=Phase.STARTED, order=0, key="s-1:shop:bill:do")
    for key, name in (("s-1:shop:bill:do", "bill"), ("s-1:shop:ask:do", "ask"), ("", "ask")):
        saga = Saga(id="s-1", steps={"ask": replace(old, key=key)})
        end = e.StepInDoubt(at=NOW, step="ask", reason="no answer")
        assert replace(end, step=name) == bench.interpreter.note(saga, [end], NOW).events[0]
    deferred = e.AnswerDeferred(at=NOW)
    assert [deferred] == bench.interpreter.note(saga, [deferred], NOW).events


async def test_a_repeat_of_a_renamed_step_goes_under_the_key_of_then() -> None:
    """The API knows no other; the undo follows it."""
    bench = await bench_of(shop(renamed={"bill": "ask"}))
    request = e.Request(method="POST", path="/charges", body=b"of then")
    old = StepState(
        phase=Phase.WAITING, order=0, key="s-1:shop:bill:do", requests=(request,), may_come=True
    )
    saga = Saga(id="s-1", steps={"reserve": StepState(phase=Phase.SUCCEEDED, order=0), "ask": old})
    (outgoing,) = (await bench.advance(saga)).outgoing
    assert "s-1:shop:bill:do" == outgoing.key
    undone = replace(old, phase=Phase.SUCCEEDED, result=CHARGED)
    back = replace(saga, state=SagaState.COMPENSATING, steps={"ask": undone})
    (outgoing,) = (await bench.advance(back)).outgoing
    assert "s-1:shop:bill:undo" == outgoing.key


async def test_a_request_of_a_person_turns_a_saga_back(bench: Bench) -> None:
    """All that follows is in one unit."""
    begun = await bench.advance(Saga(id="s-1"), ACCEPTED)
    waits = e.StepTransient(at=NOW, step="ask", reason="answered 503", retry_after=60.0)
    asked = e.CompensationRequested(
        at=NOW, requested_by="kim", requester=Requester.OPERATOR, reason="ticket 7"
    )
    done = await bench.advance(begun.saga, waits, asked)
    assert "compensated" == e.name_of(done.events[-1])
