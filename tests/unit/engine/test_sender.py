"""One attempt leaves: what the peer gets, and the event that each answer of it becomes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
from msgspec.structs import replace

from stage import Http, Pending, Stage
from stage import Saga as AuthorSaga
from stage.core import events as e
from stage.core.commands import AttemptKind, Do
from stage.core.pause import Way
from stage.core.saga import Saga, StepState
from stage.core.states import Phase, SagaState
from stage.core.steps import plan_of
from stage.engine.saga import sender as sender_module
from stage.engine.saga.context import context_with
from stage.engine.saga.interpreter import Interpreter, Outgoing
from stage.engine.saga.rates import Lane
from stage.engine.saga.sender import FORWARD_COMPENSATION_TIMEOUT_SECONDS, Sender
from stage.engine.saga.versions import Versions
from stage.ports.external import ExternalRequest
from stage.ports.neighbour import (
    CannotCompensate,
    Compensated,
    CompensateReply,
    Executed,
    ForwardReply,
    InProgress,
    NoInDoubt,
    NotExecuted,
    NotUnderstood,
    OutcomeReply,
    ShownExecuted,
)
from stage.ports.ownership import Ownership
from stage.ports.peers import PeerLimits, Peers
from stage.ports.stage import Answer, Lost
from stage.ports.time_limit import ARRIVED_SECONDS_MAX, TimeLimit
from stage.telemetry.null import NullObserver, PassthroughSpan
from stage.wire.envelope import Envelope
from stage.wire.outcome import Outcome
from stage.wire.replies import CompensateRequest
from tests.unit.engine.given import NOW, TRACE, At, Owner
from tests.unit.engine.test_cost import Agreeable

EXECUTE, PROBE, COMPENSATE, TELL = AttemptKind
CONTEXT = context_with(Envelope(saga_id="s-1", data={}), b"{}", "", TRACE)
FORWARD = "forward:shipping"
YES = msgspec.Raw(b'{"shipping":{}}')
LOST = Lost(reason="no answer", retry_after=7.0)


class Asked(Agreeable):
    """Peers that remember each request, and answer as a test says."""

    def __init__(self) -> None:
        self.exchanged: list[ExternalRequest] = []
        self.answers: list[Answer | Lost] = []
        self.forwards: list[tuple[str, str, bytes, dict[str, Any]]] = []
        self.replies: list[ForwardReply] = []
        self.looks: list[OutcomeReply] = []
        self.looked: list[tuple[str, str, dict[str, Any]]] = []
        self.undone: CompensateReply = Compensated()
        self.undos: list[tuple[str, str, CompensateRequest, dict[str, Any]]] = []
        self.upstreams = {"order"}
        self.silent = False
        """No request is ever answered."""
        self.before: Callable[[], None] = lambda: None
        """Called when a request leaves."""

    def name_of_today(self, peer: str) -> str:
        """See ports.neighbour.Neighbours."""
        return peer

    def names_of(self, peer: str) -> tuple[str, ...]:
        """See ports.neighbour.Neighbours."""
        return (peer,)

    def is_upstream(self, peer: str) -> bool:
        """The names that a test configures."""
        return peer in self.upstreams

    async def exchange(self, outgoing: ExternalRequest) -> Answer | Lost:
        """The next answer."""
        self.before()
        self.exchanged.append(outgoing)
        if self.silent:
            await asyncio.Event().wait()
        return self.answers.pop(0) if self.answers else Answer(status=200, body=b'{"id":"c-1"}')

    async def forward(self, peer: str, saga_id: str, body: bytes, **more: Any) -> ForwardReply:
        """The next reply."""
        self.before()
        self.forwards.append((peer, saga_id, body, more))
        return self.replies.pop(0) if self.replies else Executed(data=YES)

    async def get_outcome(self, peer: str, saga_id: str, **more: Any) -> OutcomeReply:
        """The next look."""
        self.looked.append((peer, saga_id, more))
        return self.looks.pop(0) if self.looks else ShownExecuted()

    async def compensate(
        self, peer: str, saga_id: str, request: CompensateRequest, **more: Any
    ) -> CompensateReply:
        """As the test says."""
        self.undos.append((peer, saga_id, request, more))
        return self.undone


def shop(*, seconds: float = 1.0, idempotent: bool = True, late: bool = False) -> Stage[Any, Any]:
    """A stage of one call, which makes two requests; `late` has it await something before them."""
    stage: Stage[dict[str, Any], dict[str, str]] = Stage("shop", accepts=dict[str, Any])

    @stage.call(to="psp", timeout=seconds, requests=2, idempotent=idempotent)
    async def ask(http: Http, saga: AuthorSaga[Any]) -> dict[str, str]:
        if late:
            await asyncio.sleep(0)
        answer = await http.post("/quotes", json={})
        await http.post("/charges", json=answer.json())
        return {"id": "c-1"}

    @ask.probe
    async def find(http: Http, saga: AuthorSaga[Any]) -> dict[str, str] | None:
        answer = await http.get("/charges/by-key")
        return None if answer.status == 404 else {"id": "c-1"}

    @ask.compensation
    async def take_back(http: Http, saga: AuthorSaga[Any], made: Any) -> None:
        await http.post("/refunds", json={})

    return stage


class World:
    """A sender with all around it."""

    def __init__(
        self, stage: Stage[Any, Any] | None = None, limits: PeerLimits | None = None
    ) -> None:
        self.clock, self.peers, self.owner = At(), Asked(), Owner()
        versions = Versions((stage or shop()).bind(("shipping",)))
        self.interpreter = Interpreter(versions, NullObserver(), self.clock)
        held = {} if limits is None else {"externals.psp": limits, "downstreams.shipping": limits}
        self.sender = Sender(
            self.interpreter,
            Peers(external=self.peers, neighbours=self.peers, limits=held),
            cast(Ownership, self.owner),
            self.clock,
        )
        self.journaled: list[e.Event] = []

    def attempt(self, kind: AttemptKind, step: str, saga: Saga) -> Outgoing:
        """One whose intent is durable."""
        do = Do(kind=kind, step=step, attempt=2)
        outgoing = Outgoing(do=do, span=PassthroughSpan(TRACE), key="k", body=b"handed on")
        if step == "ask":
            begun = self.interpreter.converse(saga, CONTEXT, do, "k", NOW, outgoing.span)
            outgoing.conversation, outgoing.turn = begun, begun.begin()
        return outgoing

    async def journal(self, event: e.Event) -> None:
        """Make it durable."""
        self.journaled.append(event)

    async def send(
        self, kind: AttemptKind, step: str, saga: Saga, outgoing: Outgoing | None = None
    ) -> e.AttemptEnd:
        """The end of one attempt."""
        outgoing = outgoing or self.attempt(kind, step, saga)
        return await self.sender.send(saga, CONTEXT, outgoing, self.journal)

    def standing(self, peer: str) -> Any:
        """How the way to the peer stands."""
        return next(each for each in self.sender.standing() if each.peer == peer)


STARTED = StepState(phase=Phase.STARTED, order=0)
SAGA = Saga(
    id="s-1",
    accepted_at=NOW - 3.0,
    upstream="order",
    detail="no room",
    steps={"ask": STARTED, FORWARD: STARTED},
)
UNDOING = replace(SAGA, state=SagaState.COMPENSATING)
UNDONE = replace(SAGA, state=SagaState.COMPENSATED)


@pytest.fixture
async def world() -> World:
    return World()


# --- downstream ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply, event",
    [
        (Executed(data=YES), e.StepSucceeded(at=NOW, step=FORWARD, result=YES)),
        (InProgress(retry_after=7.0), e.StepPending(at=NOW, step=FORWARD, retry_after=7.0)),
        (
            NotExecuted(reason="no room"),
            e.StepRefused(at=NOW, step=FORWARD, reason="shipping: no room", said=True),
        ),
        (
            NoInDoubt(reason="answered 409"),
            e.StepRefused(at=NOW, step=FORWARD, reason="shipping: answered 409", may_stand=True),
        ),
        (
            Lost(reason="refused", certain=True, retry_after=7.0, denied=True, not_now=True),
            e.StepTransient(
                at=NOW, step=FORWARD, reason="refused", retry_after=7.0, denied=True, may_come=True
            ),
        ),
        (
            Lost(reason="refused", certain=True),
            e.StepTransient(at=NOW, step=FORWARD, reason="refused"),
        ),
        (
            Lost(reason="answered 403", denied=True),
            e.StepInDoubt(at=NOW, step=FORWARD, reason="answered 403", denied=True),
        ),
        (LOST, e.StepInDoubt(at=NOW, step=FORWARD, reason="no answer")),
    ],
)
async def test_the_answer_of_downstream_ends_the_hand_over(
    world: World, reply: ForwardReply, event: e.Event
) -> None:
    """Protocol 3.3: a no counts in its own word, and every other answer is a doubt."""
    world.peers.replies = [reply]
    assert event == await world.send(EXECUTE, FORWARD, SAGA)


@pytest.mark.parametrize(
    "deadline, budget, seconds",
    [(None, None, 30.0), (NOW + 5.0, 5.0, 5.0), (NOW + 0.5, 0.5, 0.5), (NOW + 99.0, 99.0, 30.0)],
)
async def test_downstream_gets_the_context_and_the_time_that_is_left(
    world: World, deadline: float | None, budget: float | None, seconds: float
) -> None:
    """One attempt takes no longer than that."""
    await world.send(EXECUTE, FORWARD, replace(SAGA, deadline=deadline))
    ((peer, saga_id, body, more),) = world.peers.forwards
    assert ("shipping", "s-1", b"handed on") == (peer, saga_id, body)
    assert {"trace": TRACE, "budget": budget, "timeout": seconds} == more


@pytest.mark.parametrize("step", [FORWARD, "ask"])
@pytest.mark.parametrize("deadline", [NOW, NOW - 1.0])
async def test_nothing_leaves_at_the_deadline(world: World, step: str, deadline: float) -> None:
    """Rule 19. The peer is not blamed for it, and is not said to have answered."""
    event = await world.send(EXECUTE, step, replace(SAGA, deadline=deadline))
    late = "the deadline was over before it left"
    assert e.StepTransient(at=NOW, step=step, reason=late) == event
    assert [] == world.peers.forwards and [] == world.peers.exchanged


@pytest.mark.parametrize(
    "look, event",
    [
        (
            InProgress(retry_after=7.0),
            e.ProbeFailed(at=NOW, step=FORWARD, reason="still running", retry_after=7.0),
        ),
        (NotExecuted(reason="over", saga_over=True), e.ProbeNotThere(at=NOW, step=FORWARD)),
        (
            NotExecuted(reason="answered 404"),
            e.ProbeFailed(at=NOW, step=FORWARD, reason="answered 404", unserved=True),
        ),
        (
            LOST,
            e.ProbeFailed(at=NOW, step=FORWARD, reason="no answer", retry_after=7.0),
        ),
        (
            replace(LOST, unserved=True),
            e.ProbeFailed(at=NOW, step=FORWARD, reason="no answer", retry_after=7.0, unserved=True),
        ),
    ],
)
async def test_a_look_at_downstream_starts_nothing(
    world: World, look: OutcomeReply, event: e.Event
) -> None:
    """Decision 0011: only its own word that the saga is over settles the doubt."""
    world.peers.looks = [look]
    assert event == await world.send(PROBE, FORWARD, SAGA)
    assert [("shipping", "s-1", {"trace": TRACE, "timeout": 30.0})] == world.peers.looked
    assert [] == world.peers.forwards


@pytest.mark.parametrize(
    "reply, event",
    [
        (Executed(data=YES), e.ProbeFound(at=NOW, step=FORWARD, result=YES)),
        (
            NoInDoubt(reason="answered 409"),
            e.ProbeFailed(at=NOW, step=FORWARD, reason="answered 409", unserved=True),
        ),
        (LOST, e.ProbeFailed(at=NOW, step=FORWARD, reason="no answer", retry_after=7.0)),
    ],
)
async def test_the_answer_of_a_saga_that_is_done_there_is_asked_for_again(
    reply: ForwardReply, event: e.Event
) -> None:
    """The same bytes without a budget, a further request of the attempt, under a lease for sure."""
    world = World(limits=PeerLimits(rate_per_second=1.0))
    world.peers.replies = [reply]
    assert event == await world.send(PROBE, FORWARD, SAGA)
    assert [
        ("shipping", "s-1", b"handed on", {"trace": TRACE, "budget": None, "timeout": 30.0})
    ] == world.peers.forwards
    assert 1 == world.owner.assurances
    way = world.sender._gates.of("downstreams.shipping")
    world.clock.shown += 1.0
    assert not way.enter_at_once(Lane.NEW), "two requests are to be waited for"
    world.clock.shown += 1.0
    assert way.enter_at_once(Lane.NEW)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    "reply, event",
    [
        (Compensated(), e.CompensationSucceeded(at=NOW, step=FORWARD)),
        (
            InProgress(retry_after=7.0),
            e.CompensationDelayed(
                at=NOW, step=FORWARD, reason="still compensating", retry_after=7.0
            ),
        ),
        (
            CannotCompensate(reason="shipped", stands=("book",)),
            e.CompensationRefused(at=NOW, step=FORWARD, reason="shipped", stands=("book",)),
        ),
        (
            NotUnderstood(reason="a login page", retry_after=7.0),
            e.CompensationDelayed(
                at=NOW, step=FORWARD, reason="a login page", retry_after=7.0, not_understood=True
            ),
        ),
        (
            Lost(reason="refused", certain=True, retry_after=7.0),
            e.CompensationDelayed(
                at=NOW, step=FORWARD, reason="refused", retry_after=7.0, certain=True
            ),
        ),
        (
            Lost(reason="answered 403", denied=True),
            e.CompensationDelayed(at=NOW, step=FORWARD, reason="answered 403", denied=True),
        ),
    ],
)
async def test_the_answer_of_downstream_ends_its_compensation(
    world: World, reply: CompensateReply, event: e.Event
) -> None:
    """Protocol 3.4, with the proof that it must have seen the saga."""
    world.peers.undone = reply
    assert event == await world.send(COMPENSATE, FORWARD, replace(UNDOING, deadline=NOW - 9.0))
    ((peer, saga_id, request, more),) = world.peers.undos
    asked = CompensateRequest(requested_by="shop", reason="no room", first_sent_at=NOW - 3.0)
    assert ("shipping", "s-1", asked) == (peer, saga_id, request)
    assert {"trace": TRACE, "timeout": FORWARD_COMPENSATION_TIMEOUT_SECONDS} == more


@pytest.mark.parametrize(
    "reply, event",
    [
        (Compensated(), e.TellDelivered(at=NOW, status=200)),
        (InProgress(), e.TellDelivered(at=NOW, status=202)),
        (CannotCompensate(reason="shipped"), e.TellRefused(at=NOW, reason="shipped")),
        (
            NotUnderstood(reason="a login page", retry_after=7.0),
            e.TellDelayed(at=NOW, reason="a login page", retry_after=7.0, not_understood=True),
        ),
        (
            Lost(reason="answered 403", denied=True, retry_after=7.0),
            e.TellDelayed(at=NOW, reason="answered 403", retry_after=7.0, denied=True),
        ),
        (LOST, e.TellDelayed(at=NOW, reason="no answer", retry_after=7.0)),
    ],
)
async def test_the_answer_of_upstream_ends_its_notification(
    world: World, reply: CompensateReply, event: e.Event
) -> None:
    """Rule 22: asked until it answers in its own word."""
    world.peers.undone = reply
    assert event == await world.send(TELL, "", UNDONE)
    ((peer, saga_id, request, more),) = world.peers.undos
    asked = CompensateRequest(requested_by="shop", reason="no room", outcome=Outcome.COMPENSATED)
    assert ("order", "s-1", asked) == (peer, saga_id, request)
    assert {"trace": TRACE, "timeout": FORWARD_COMPENSATION_TIMEOUT_SECONDS} == more


async def test_upstream_is_not_promised_that_nothing_stands_where_something_does(
    world: World,
) -> None:
    """Then it asks in turn."""
    await world.send(TELL, "", replace(UNDONE, state=SagaState.FAILED_TO_COMPENSATE))
    assert world.peers.undos[0][2].outcome is None


async def test_an_upstream_that_is_not_configured_is_a_matter_for_a_person(world: World) -> None:
    """No name in a body becomes an address; people see no peer without a name."""
    world.peers.upstreams = set()
    event = await world.send(TELL, "", UNDONE)
    assert isinstance(event, e.TellRefused)
    assert "no upstream 'order' is configured: add --upstream NAME=URL, retry" == event.reason
    assert [] == world.peers.undos
    assert ["downstreams.shipping", "externals.psp"] == [
        each.peer for each in world.sender.standing()
    ]


# --- external APIs -------------------------------------------------------------------------------


@pytest.mark.parametrize("idempotent", [True, False])
@pytest.mark.parametrize(
    "kind, paths, budget, seconds",
    [
        (EXECUTE, ["/quotes", "/charges"], 0.5, 0.5),
        (PROBE, ["/charges/by-key"], None, 1.0),
        (COMPENSATE, ["/refunds"], None, 1.0),
    ],
)
async def test_an_api_gets_each_request_under_its_key_and_with_its_limits(
    idempotent: bool, kind: AttemptKind, paths: list[str], budget: float | None, seconds: float
) -> None:
    """A deadline cuts an execution, and means nothing to a look or to an undo (rule 19)."""
    world = World(shop(idempotent=idempotent))
    saga = SAGA if kind is not COMPENSATE else UNDOING
    await world.send(kind, "ask", replace(saga, deadline=NOW + 0.5))
    assert paths == [each.request.path for each in world.peers.exchanged]
    keys = ["k", "k:2"][: len(paths)]
    for sent, key in zip(world.peers.exchanged, keys, strict=True):
        assert replace(sent, request=e.Request(method="", path="")) == ExternalRequest(
            peer="psp",
            request=e.Request(method="", path=""),
            key=key,
            trace=TRACE,
            budget=budget,
            timeout=seconds,
            breakable=kind is EXECUTE,
            repeatable=idempotent or kind is not EXECUTE,
            looks=kind is PROBE,
        )


@pytest.mark.parametrize("kind", [EXECUTE, COMPENSATE])
async def test_the_intent_of_a_request_is_durable_before_it_leaves(kind: AttemptKind) -> None:
    """Rule 1. The first of them was written down with the attempt, unless it needed the loop."""
    world = World(shop(late=True))
    seen: list[int] = []
    world.peers.before = lambda: seen.append(len(world.journaled))
    saga = SAGA if kind is EXECUTE else UNDOING
    await world.send(kind, "ask", saga)
    assert [number + 1 for number in range(len(world.peers.exchanged))] == seen
    for number, event in enumerate(world.journaled, 1):
        assert event == e.RequestPrepared(
            at=NOW,
            step="ask",
            ordinal=number,
            request=world.peers.exchanged[number - 1].request,
            compensation=kind is COMPENSATE,
        )


async def test_a_look_is_written_down_nowhere(world: World) -> None:
    """It has no effect."""
    await world.send(PROBE, "ask", SAGA)
    assert [] == world.journaled


async def test_a_repeat_sends_the_bytes_of_the_first_attempt(world: World) -> None:
    """Rule 5, whatever the function would send today; nothing is written down for it again."""
    stored = tuple(
        e.Request(method="POST", path=path, body=b"of then") for path in ("/quotes", "/charges")
    )
    known = replace(STARTED, requests=stored, attempts=2)
    saga = replace(SAGA, steps={"ask": known})
    event = await world.send(EXECUTE, "ask", saga)
    assert isinstance(event, e.StepSucceeded)
    assert list(stored) == [each.request for each in world.peers.exchanged]
    assert [] == world.journaled


async def test_a_repeat_that_would_be_another_request_is_not_sent(world: World) -> None:
    """Rule 31."""
    stored = (e.Request(method="POST", path="/other"),)
    saga = replace(SAGA, steps={"ask": replace(STARTED, requests=stored)})
    event = await world.send(EXECUTE, "ask", saga)
    assert isinstance(event, e.StepInDoubt) and event.changed
    assert [] == world.peers.exchanged


async def test_a_further_request_of_an_attempt_counts_for_the_rate() -> None:
    """Rule 29: the next attempt waits for both."""
    world = World(limits=PeerLimits(rate_per_second=1.0))
    await world.send(EXECUTE, "ask", SAGA)
    way = world.sender._gates.of("externals.psp")
    world.clock.shown += 1.0
    assert not way.enter_at_once(Lane.NEW)
    world.clock.shown += 1.0
    assert way.enter_at_once(Lane.NEW)


async def test_a_single_request_is_counted_once() -> None:
    """By the turn that its attempt had."""
    world = World(limits=PeerLimits(rate_per_second=1.0))
    await world.send(COMPENSATE, "ask", UNDOING)
    world.clock.shown += 1.0
    assert world.sender._gates.of("externals.psp").enter_at_once(Lane.NEW)


async def test_the_time_out_of_the_transport_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows whether the request left."""
    given: list[tuple[float, float]] = []

    def noting(seconds: float, arrived: float) -> TimeLimit:
        given.append((seconds, arrived))
        return TimeLimit(seconds, arrived)

    monkeypatch.setattr(sender_module, "TimeLimit", noting)
    await World().send(EXECUTE, "ask", SAGA)
    ((seconds, arrived),) = given
    assert seconds > 1.0 and arrived > ARRIVED_SECONDS_MAX


async def test_no_request_leaves_before_the_lease_is_sure(world: World) -> None:
    """Rule 17: asked for again before each of them; a lease that is sure is not waited for."""
    await world.send(EXECUTE, "ask", SAGA)
    assert 0 == world.owner.assurances
    world.owner.sure = False
    await world.send(EXECUTE, "ask", SAGA)
    assert 3 == world.owner.assurances


@pytest.mark.parametrize("late", [False, True])
async def test_an_api_that_does_not_answer_in_time_is_a_doubt(
    monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    monkeypatch.setattr(sender_module, "TIMEOUT_MARGIN_SECONDS", 0.0)
    world = World(shop(seconds=0.01, late=late))
    world.peers.silent = True
    event = await world.send(EXECUTE, "ask", SAGA)
    assert e.StepInDoubt(at=NOW, step="ask", reason="no answer within 0.01 s") == event


async def test_a_function_that_takes_too_long_before_its_first_request_is_a_defect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rule 4: nothing left, and so there is no doubt."""
    monkeypatch.setattr(sender_module, "TIMEOUT_MARGIN_SECONDS", 0.0)
    stage: Stage[dict[str, Any], None] = Stage("shop", accepts=dict[str, Any])

    @stage.call(to="psp", timeout=0.01, compensation=None, reason="no test undoes it")
    async def ask(http: Http, saga: AuthorSaga[Any]) -> None:
        await asyncio.Event().wait()

    world = World(stage)
    event = await world.send(EXECUTE, "ask", SAGA)
    reason = "no answer within 0.01 s"
    assert e.StepTransient(at=NOW, step="ask", reason=reason, defect=True) == event


async def test_a_look_that_a_cache_answers_is_none() -> None:
    """Two looks within its minute see one moment; the answer to a charge is taken as it comes."""
    kept = Answer(status=404, headers=(("Age", "30"),), body=b"{}")
    world = World()
    world.peers.answers = [kept]
    assert isinstance(await world.send(PROBE, "ask", SAGA), e.ProbeFailed)
    world.peers.answers = [Answer(status=200, headers=(("Age", "30"),), body=b"{}")]
    assert isinstance(await world.send(EXECUTE, "ask", SAGA), e.StepSucceeded)


# --- the turn of an attempt ----------------------------------------------------------------------


async def test_the_end_of_an_attempt_shows_whether_the_peer_answers(world: World) -> None:
    """A no is an answer; a doubt is none, and people see which it was."""
    world.peers.replies = [NotExecuted(reason="no room"), LOST]
    await world.send(EXECUTE, FORWARD, SAGA)
    standing = world.standing("downstreams.shipping")
    assert (NOW, None, "") == (standing.answered_at, standing.failed_at, standing.failure)
    await world.send(EXECUTE, FORWARD, SAGA)
    standing = world.standing("downstreams.shipping")
    assert (NOW, "no answer", 0) == (standing.failed_at, standing.failure, standing.under_way)


@pytest.mark.parametrize(
    "kind, saga, peer",
    [
        (PROBE, SAGA, "downstreams.shipping"),
        (COMPENSATE, UNDOING, "downstreams.shipping"),
        (TELL, UNDONE, "upstreams.order"),
    ],
)
async def test_a_neighbour_that_gives_no_answer_is_seen_to_fail(
    world: World, kind: AttemptKind, saga: Saga, peer: str
) -> None:
    """Asked to compensate, looked at, or notified."""
    world.peers.undone, world.peers.looks = LOST, [LOST]
    await world.send(kind, "" if kind is TELL else FORWARD, saga)
    assert (NOW, "no answer") == (world.standing(peer).failed_at, world.standing(peer).failure)


@pytest.mark.parametrize(
    "kind, saga", [(EXECUTE, SAGA), (PROBE, SAGA), (COMPENSATE, UNDOING)], ids=lambda each: each
)
async def test_downstream_that_still_works_on_it_has_answered(
    world: World, kind: AttemptKind, saga: Saga
) -> None:
    """Decision 0017: a 202 in its own word takes no place away, however often it comes."""
    world.peers.undone = InProgress()
    world.peers.looks, world.peers.replies = [InProgress()] * 20, [InProgress()] * 20
    for _ in range(20):
        await world.send(kind, FORWARD, saga)
    standing = world.standing("downstreams.shipping")
    assert standing.places_max == standing.places
    assert (NOW, None, "") == (standing.answered_at, standing.failed_at, standing.failure)


async def test_something_else_that_answers_for_a_neighbour_takes_places_away(world: World) -> None:
    """Decision 0015: a login page is no answer of the neighbour."""
    world.peers.undone = NotUnderstood(reason="a login page")
    for _ in range(20):
        await world.send(COMPENSATE, FORWARD, UNDOING)
    standing = world.standing("downstreams.shipping")
    assert (1, None, "a login page") == (standing.places, standing.answered_at, standing.failure)


@pytest.mark.parametrize("pends", [True, False], ids=["pending", "in doubt"])
async def test_an_api_that_took_an_undo_on_has_answered(pends: bool) -> None:
    """It is asked again, and none of its places is taken away for that."""
    stage: Stage[dict[str, Any], None] = Stage("shop", accepts=dict[str, Any])

    @stage.call(to="psp", timeout=1.0)
    async def ask(http: Http, saga: AuthorSaga[Any]) -> None:
        await http.post("/charges", json={})

    @ask.compensation
    async def take_back(http: Http, saga: AuthorSaga[Any], made: None) -> None:
        answer = await http.post("/refunds", json={})
        if answer.status == 202:
            raise Pending("the bank has it")

    world = World(stage)
    world.peers.answers = [Answer(status=202 if pends else 500, headers=(), body=b"{}")] * 20
    for _ in range(20):
        assert isinstance(await world.send(COMPENSATE, "ask", UNDOING), e.CompensationDelayed)
    standing = world.standing("externals.psp")
    assert (standing.places_max if pends else 1) == standing.places
    assert (NOW if pends else None, None if pends else NOW) == (
        standing.answered_at, standing.failed_at,
    )  # fmt: skip


def stored(path: str) -> Saga:
    """A saga whose call has sent that request before."""
    request = e.Request(method="POST", path=path)
    return replace(SAGA, steps={"ask": replace(STARTED, requests=(request,))})


@pytest.mark.parametrize(
    "step, saga, event",
    [
        (FORWARD, replace(SAGA, deadline=NOW), e.StepTransient),
        ("ask", replace(SAGA, deadline=NOW), e.StepTransient),
        ("ask", stored("/other"), e.StepInDoubt),
    ],
    ids=["late hand-over", "late call", "another request"],
)
async def test_an_attempt_of_which_nothing_left_says_nothing_of_the_peer(
    world: World, step: str, saga: Saga, event: type[e.Event]
) -> None:
    """Its places are not taken away for what is our own matter, and people do not look there."""
    assert isinstance(await world.send(EXECUTE, step, saga), event)
    standing = world.standing("externals.psp" if step == "ask" else "downstreams.shipping")
    assert (0, None, None) == (standing.under_way, standing.answered_at, standing.failed_at)


async def test_a_defect_before_the_first_request_says_nothing_of_the_peer() -> None:
    """Rule 4: it is the author's, whose saga may fail many times in a row."""
    stage: Stage[dict[str, Any], None] = Stage("shop", accepts=dict[str, Any])

    @stage.call(to="psp", timeout=1.0, compensation=None, reason="no test undoes it")
    async def ask(http: Http, saga: AuthorSaga[Any]) -> None:
        await asyncio.sleep(0)
        raise LookupError("broken")

    world = World(stage)
    event = await world.send(EXECUTE, "ask", SAGA)
    assert isinstance(event, e.StepTransient) and event.defect
    standing = world.standing("externals.psp")
    assert (0, None, None) == (standing.under_way, standing.answered_at, standing.failed_at)


async def test_an_attempt_that_is_stopped_says_nothing_of_the_peer(world: World) -> None:
    """The process is to end; its place is given back."""
    world.peers.silent = True
    task = asyncio.ensure_future(world.send(EXECUTE, "ask", SAGA))
    await asyncio.sleep(0)
    assert 1 == world.standing("externals.psp").under_way
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    standing = world.standing("externals.psp")
    assert (0, None, None) == (standing.under_way, standing.answered_at, standing.failed_at)


FULL = PeerLimits(concurrency_max=1)


async def queued(world: World, kind: AttemptKind, step: str, saga: Saga) -> Any:
    """An attempt that waits for its turn."""
    task = asyncio.ensure_future(world.send(kind, step, saga))
    await asyncio.sleep(0)
    assert not task.done()
    return task


@pytest.mark.parametrize(
    "kind, saga, lane",
    [
        (EXECUTE, SAGA, Lane.NEW),
        (EXECUTE, replace(SAGA, epoch=2), Lane.RECOVERED),
        (COMPENSATE, UNDOING, Lane.COMPENSATION),
        (COMPENSATE, replace(UNDOING, epoch=2), Lane.COMPENSATION),
        (PROBE, UNDOING, Lane.COMPENSATION),
    ],
)
async def test_each_attempt_waits_in_its_lane(kind: AttemptKind, saga: Saga, lane: Lane) -> None:
    """Rule 29: new sagas, recovered ones and undos share a peer."""
    world = World(limits=FULL)
    assert world.sender._gates.of("externals.psp").enter_at_once(Lane.NEW)
    task = await queued(world, kind, "ask", saga)
    assert [lane] == [each.lane for each in world.sender._queued["s-1"].values()]
    world.sender._gates.of("externals.psp").leave(answered=None)
    await task
    assert {} == world.sender._queued


async def test_a_late_failure_waits_among_the_undos(world: World) -> None:
    """Also that of a saga that was forgotten before it turned."""
    world.sender.hold({"upstreams.order": frozenset({Way.BACKWARD})})
    task = await queued(world, TELL, "", SAGA)
    world.sender.hold({})
    assert isinstance(await task, e.TellDelivered)


@pytest.mark.parametrize(
    "way, held, free",
    [
        (Way.FORWARD, (EXECUTE, SAGA), (COMPENSATE, UNDOING)),
        (Way.BACKWARD, (COMPENSATE, UNDOING), (EXECUTE, replace(SAGA, epoch=2))),
    ],
)
async def test_a_pause_of_one_way_lets_the_other_go_on(
    world: World, way: Way, held: Any, free: Any
) -> None:
    world.sender.hold({"externals.psp": frozenset({way})})
    task = await queued(world, held[0], "ask", held[1])
    await world.send(free[0], "ask", free[1])
    world.sender.hold({})
    await task


WITHDRAWN = "withdrawn before it left"


async def test_an_attempt_that_waits_can_be_taken_back() -> None:
    """It certainly did not happen, and its saga turns round at once; those of others stay."""
    world = World(limits=FULL)
    way = world.sender._gates.of("externals.psp")
    assert way.enter_at_once(Lane.NEW)
    mine = await queued(world, EXECUTE, "ask", SAGA)
    other = await queued(world, EXECUTE, "ask", replace(SAGA, id="s-2"))
    end = e.StepTransient(at=NOW, step="ask", reason=WITHDRAWN)
    assert [end] == world.sender.withdrawable("s-1")
    assert [] == world.sender.withdrawable("s-3")
    world.sender.withdraw("s-3")
    world.sender.withdraw("s-1")
    world.sender.withdraw("s-1")
    assert end == await mine
    assert [] == world.sender.withdrawable("s-1")
    assert not other.done()
    assert set() == world.sender._taken_back
    way.leave(answered=None)
    await other


async def test_an_attempt_waits_no_longer_than_until_its_deadline() -> None:
    """Rule 19: it turns back then. An undo is never cut by it."""
    world = World(limits=FULL)
    way = world.sender._gates.of("externals.psp")
    assert way.enter_at_once(Lane.NEW)
    undo = await queued(world, COMPENSATE, "ask", replace(UNDOING, deadline=NOW))
    late = await world.send(EXECUTE, "ask", replace(SAGA, deadline=NOW + 0.01))
    reason = "the deadline was over before it left"
    assert e.StepTransient(at=NOW, step="ask", reason=reason) == late
    way.leave(answered=None)
    assert isinstance(await undo, e.CompensationSucceeded)


async def test_a_process_that_stops_waits_for_no_pause(world: World) -> None:
    """Neither those that are held by then nor those that come; others have their turn."""
    way = world.sender._gates.of("externals.psp")
    world.sender.hold({"externals.psp": frozenset({Way.FORWARD})})
    before = await queued(world, EXECUTE, "ask", SAGA)
    world.sender.drain()
    end = e.StepTransient(at=NOW, step="ask", reason=WITHDRAWN)
    assert end == await before
    assert end == await world.send(EXECUTE, "ask", SAGA)
    assert isinstance(await world.send(COMPENSATE, "ask", UNDOING), e.CompensationSucceeded)
    assert 0 == way.standing("").under_way


async def test_an_attempt_in_line_has_its_turn_while_the_process_stops() -> None:
    """No pause holds it."""
    world = World(limits=FULL)
    way = world.sender._gates.of("externals.psp")
    assert way.enter_at_once(Lane.NEW)
    task = await queued(world, EXECUTE, "ask", SAGA)
    world.sender.drain()
    second = await queued(world, EXECUTE, "ask", SAGA)
    way.leave(answered=None)
    assert isinstance(await task, e.StepSucceeded)
    assert isinstance(await second, e.StepSucceeded)


async def test_a_replica_keeps_to_its_part_of_the_limits() -> None:
    world = World(limits=PeerLimits(concurrency_max=4))
    world.sender.divide(2)
    assert 2 == world.standing("externals.psp").places_max


async def test_a_saga_of_another_version_goes_through_the_gate_of_its_peer(world: World) -> None:
    """The limits are those of the peer and not of a version, whatever its steps are named."""
    plan = plan_of("shop", (), ("mail",))
    world.sender.hold({"downstreams.mail": frozenset({Way.FORWARD})})
    task = await queued(world, EXECUTE, "forward:mail", replace(SAGA, plan=plan))
    world.sender.hold({})
    await task
    assert ["mail"] == [peer for peer, *_ in world.peers.forwards]
