"""The fast path writes what the rules would have written, and is left where they have to decide."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from stage import Http, Refused, Saga, Stage, Tx
from stage.core import events as e
from stage.core import saga as core
from stage.core.commands import AttemptKind, Do, Record
from stage.core.requester import Requester
from stage.core.saga import StepState
from stage.core.states import Phase, SagaState, StepKind
from stage.demo.payment import payment
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.limits import EngineLimits
from stage.engine.saga import fast_path as fast_path_module
from stage.engine.saga import interpreter as interpreter_module
from stage.engine.saga.context import context_of
from stage.engine.saga.fast_path import FastTransition, segments_of, undos_of
from stage.engine.saga.interpreter import Outgoing
from stage.ports.engine import Reply, Snapshot
from stage.ports.external import ExternalRequest
from stage.ports.neighbour import ForwardReply, NotExecuted
from stage.ports.observer import TraceContext
from stage.ports.stage import Answer, Lost
from stage.ports.store import Entry, SagaRow
from stage.simulation.replay import difference
from stage.store.memory import MemoryStore
from stage.telemetry.null import NullObserver, PassthroughSpan
from stage.wire.envelope import Envelope, TrailEntry
from stage.wire.replies import CompensateRequest
from tests.unit.engine.test_cost import ORDER, Agreeable

NOW = 1_780_000_000.0
TRACE = TraceContext(
    traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", tracestate="v=1"
)
TRAIL = (TrailEntry(stage="order", at="2026-11-23T02:29:58.120Z"),)


class Still:
    """A clock that stands still, so that two runs have the same instants."""

    ahead = 0.0
    """Set by a function that takes long."""

    def now(self) -> float:
        """Always the same, until a function takes long."""
        return NOW + Still.ahead

    async def sleep(self, seconds: float) -> None:
        """Not for long."""
        await asyncio.sleep(0.0)


class Refusing(Agreeable):
    """A downstream that refuses."""

    async def forward(self, peer: str, saga_id: str, body: bytes, **_: Any) -> ForwardReply:
        """No."""
        return NotExecuted(reason="no such parcel")


class Looking(Agreeable):
    """Calls `during` while the charge is under way."""

    during: Callable[[], Any]

    async def exchange(self, outgoing: ExternalRequest) -> Answer | Lost:
        """Look first."""
        await self.during()
        return await super().exchange(outgoing)


class Forgetful(Agreeable):
    """Its refund gets no answer."""

    async def exchange(self, outgoing: ExternalRequest) -> Answer | Lost:
        """Only a charge has one."""
        if outgoing.key.endswith(":undo"):
            return Lost(reason="no answer")
        return await super().exchange(outgoing)


class Late(MemoryStore):
    """The end that is written behind an answer comes late: other units come first."""

    async def transact(self, work: Any, *, deferrable: bool = False) -> Any:
        """Until the loop has nothing else to do."""
        for _ in range(50 if deferrable else 0):
            await asyncio.sleep(0.0)
        return await super().transact(work, deferrable=deferrable)


class Run(msgspec.Struct):
    """The answer, the row and the journal of one saga; what was found of it on the way back."""

    reply: Reply | None
    found: Snapshot | None
    row: SagaRow
    entries: list[Entry]

    @property
    def events(self) -> list[e.Event]:
        """Its journal."""
        return [entry.event for entry in self.entries]


async def run(
    stage: Stage[Any, Any],
    peers: Agreeable,
    *,
    fast_path: bool,
    downstreams: tuple[str, ...] = (),
    deadline: float | None = None,
    meet: Callable[[EmbeddedEngine], None] = lambda _: None,
    asked_by: str = "",
    requester: Requester = Requester.UPSTREAM,
    wait_seconds: float = 20.0,
    kind: type[MemoryStore] = MemoryStore,
) -> Run:
    """One saga to its end, and back where it is `asked_by` one; `meet` is given the engine."""
    # Long because a saga is followed from its request to what is left of it.
    Still.ahead = 0.0
    migrations = (stage.migrations,) if stage.migrations is not None else ()
    store = kind(migrations=migrations)
    await store.open()
    engine = EmbeddedEngine(
        stage.bind(downstreams),
        store,
        peers.peers,
        NullObserver(),
        clock=Still(),
        limits=EngineLimits(fast_path=fast_path),
    )
    await engine.start()
    meet(engine)
    reply = await engine.accept(
        Envelope(saga_id="s-1", data=ORDER, trail=TRAIL),
        trace=TRACE,
        deadline=deadline,
        respond_async=False,
        wait_seconds=20.0,
    )
    found = None
    if asked_by:
        found = await engine.compensate(
            "s-1",
            asked=CompensateRequest(requested_by=asked_by, reason="changed my mind"),
            requester=requester,
            trace=TRACE,
            wait_seconds=wait_seconds,
        )
    await engine.drain(20.0)
    row, entries = await store.get("s-1"), await engine.journal("s-1")
    assert row is not None
    await store.close()
    return Run(reply, found, row, entries)


def declared(
    *, late: bool = False, twice: bool = False, fails: str = "", **lineage: Any
) -> Stage[Any, Any]:
    """A stage of two transactions around a call; `fails` names what goes otherwise."""
    # Long because a stage is declared in one place.
    stage: Stage[Any, Any] = Stage("shop", accepts=dict[str, Any], adds=dict[str, int], **lineage)

    @stage.transaction(compensation=None, reason="nothing to give back")
    async def first(tx: Tx, saga: Saga[Any]) -> dict[str, int]:
        if fails == "first":
            raise Refused("no")
        Still.ahead = 60.0 if fails == "the first takes long" else 0.0
        return {"first": 1}

    @stage.call(to="psp", timeout=1.0, requests=2)
    async def ask(http: Http, saga: Saga[Any]) -> dict[str, int]:
        if late:
            await asyncio.sleep(0.0)
        if fails == "before it sends":
            raise Refused("no")
        if fails == "sends nothing":
            return {"ask": 0}
        await http.post("/charges", json=saga.result(first))
        Still.ahead = 60.0 if fails == "the call takes long" else 0.0
        if twice:
            await http.post("/charges", json={"again": True})
        if fails == "ask":
            raise Refused("no")
        return {"ask": 2}

    @ask.compensation
    async def take_back(http: Http, saga: Saga[Any], made: Any) -> None:
        await http.post("/refunds", json={"made": made})

    @stage.transaction(compensation=None, reason="nothing to give back")
    async def last(tx: Tx, saga: Saga[Any]) -> dict[str, int]:
        if fails == "last":
            raise Refused("no")
        return saga.result(ask)

    @stage.output
    def added(saga: Saga[Any]) -> dict[str, int]:
        if fails == "output":
            raise RuntimeError("broken")
        return saga.result(ask)

    return stage


def undoable(fails: str = "") -> Stage[Any, Any]:
    """A stage whose every step is undone; `fails` names what goes otherwise then."""
    # Long because a stage is declared in one place.
    stage: Stage[Any, Any] = Stage("shop", accepts=dict[str, Any])

    @stage.transaction
    async def first(tx: Tx, saga: Saga[Any]) -> dict[str, int]:
        return {"first": 1}

    @first.compensation
    async def forget_first(tx: Tx, saga: Saga[Any]) -> None:
        if fails == "time passes":
            Still.ahead += 1.0
        if fails == "the first undo":
            raise Refused("no")
        assert {"ask": 2} == saga.result(ask)

    @stage.call(to="psp", timeout=1.0)
    async def ask(http: Http, saga: Saga[Any]) -> dict[str, int]:
        await http.post("/charges", json=saga.result(first))
        return {"ask": 2}

    @ask.compensation
    async def take_back(http: Http, saga: Saga[Any], made: Any) -> None:
        if fails == "time passes":
            Still.ahead += 1.0
        if fails == "needs the event loop":
            await asyncio.sleep(0.0)
        if fails == "before it sends":
            raise Refused("no")
        if fails != "sends nothing":
            await http.post("/refunds", json={"made": made})

    @stage.transaction(compensation=None, reason="nothing to give back")
    async def between(tx: Tx, saga: Saga[Any]) -> dict[str, int]:
        return {}

    @stage.transaction
    async def last(tx: Tx, saga: Saga[Any]) -> dict[str, int]:
        return saga.result(ask)

    @last.compensation
    async def forget_last(tx: Tx, saga: Saga[Any]) -> None:
        if fails == "the last undo":
            raise RuntimeError("broken")

    return stage


WAYS: dict[str, tuple[Callable[[], Stage[Any, Any]], type[Agreeable], tuple[str, ...]]] = {
    "the last of the chain": (lambda: payment, Agreeable, ()),
    "with a downstream": (lambda: payment, Agreeable, ("shipping",)),
    "with two downstreams": (lambda: payment, Agreeable, ("shipping", "mail")),
    "downstream refuses": (lambda: payment, Refusing, ("shipping",)),
    "the first transaction refuses": (lambda: declared(fails="first"), Agreeable, ()),
    "the last transaction refuses": (lambda: declared(fails="last"), Agreeable, ()),
    "the call refuses": (lambda: declared(fails="ask"), Agreeable, ()),
    "the call refuses before it sends": (
        lambda: declared(fails="before it sends"), Agreeable, ("shipping",),
    ),
    "the call sends nothing": (lambda: declared(fails="sends nothing"), Agreeable, ("shipping",)),
    "the call needs the event loop": (lambda: declared(late=True), Agreeable, ()),
    "of a second version": (
        lambda: declared(version=2, supersedes=declared()), Agreeable, ("shipping",),
    ),
    "a second request": (lambda: declared(twice=True), Agreeable, ("shipping",)),
    "the output fails": (lambda: declared(fails="output"), Agreeable, ()),
    "the first takes long": (lambda: declared(fails="the first takes long"), Agreeable, ()),
    "the call takes long": (
        lambda: declared(fails="the call takes long"), Agreeable, ("shipping",),
    ),
    "the output fails for downstream": (lambda: declared(fails="output"), Agreeable, ("shipping",)),
}  # fmt: skip
USUAL = ("the last of the chain", "with a downstream")
WAYS_BACK: dict[
    str, tuple[Callable[[], Stage[Any, Any]], type[Agreeable], tuple[str, ...], str, Requester]
] = {
    "upstream asks": (lambda: payment, Agreeable, ("shipping",), "order", Requester.UPSTREAM),
    "upstream asks the last": (lambda: payment, Agreeable, (), "order", Requester.UPSTREAM),
    "an operator asks": (lambda: payment, Agreeable, ("shipping",), "me", Requester.OPERATOR),
    "downstream asks": (
        lambda: payment, Agreeable, ("shipping",), "shipping", Requester.DOWNSTREAM,
    ),
    "two downstreams": (
        lambda: payment, Agreeable, ("shipping", "mail"), "order", Requester.UPSTREAM,
    ),
    "every step is undone": (lambda: undoable(), Agreeable, (), "order", Requester.UPSTREAM),
    "a refund is lost": (lambda: undoable(), Forgetful, (), "order", Requester.UPSTREAM),
    **{
        f"it goes otherwise: {fails}": (
            partial(undoable, fails), Agreeable, (), "order", Requester.UPSTREAM,
        )
        for fails in (
            "the first undo", "the last undo", "needs the event loop", "before it sends",
            "sends nothing", "time passes",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("deadline", [None, NOW + 3_600.0])
async def test_journal_row_and_answer_are_the_same_as_without_the_lane(
    way: str, deadline: float | None
) -> None:
    """Entry for entry and byte for byte, on the usual way and where it is left."""
    make, peers, downstreams = WAYS[way]
    with_it, without = [
        await run(make(), peers(), fast_path=fast_path, downstreams=downstreams, deadline=deadline)
        for fast_path in (True, False)
    ]
    assert without.events == with_it.events
    assert without.row == with_it.row
    assert without.reply == with_it.reply


WAITS = ("a refund is lost", "it goes otherwise: the last undo")
"""The ways whose undo is repeated, for which the clock would have to go on."""


@pytest.mark.parametrize("way", WAYS_BACK)
async def test_on_the_way_back_they_are_the_same_as_well(way: str) -> None:
    """Entry for entry and byte for byte, where all is undone at once and where it is not."""
    make, peers, downstreams, asked_by, requester = WAYS_BACK[way]
    with_it, without = [
        await run(
            make(), peers(), fast_path=fast_path, downstreams=downstreams,
            deadline=NOW + 3_600.0, asked_by=asked_by, requester=requester,
            wait_seconds=0.0 if way in WAITS else 20.0,
        )
        for fast_path in (True, False)
    ]  # fmt: skip
    assert without.events == with_it.events
    assert without.row == with_it.row
    assert without.reply == with_it.reply
    assert without.found == with_it.found or way in WAITS
    assert e.CompensationStarted in map(type, with_it.events)


async def test_a_request_right_behind_the_answer_finds_the_saga_in_memory() -> None:
    """Its end is not durable yet (decision 0011): it turns round there, on the fast path too."""
    with_it, without = [
        await run(
            payment,
            Agreeable(),
            fast_path=fast_path,
            downstreams=("shipping",),
            asked_by="order",
            kind=Late,
        )
        for fast_path in (True, False)
    ]
    assert without.events == with_it.events
    assert without.row == with_it.row
    assert without.found == with_it.found
    kinds = list(map(type, with_it.events))
    assert e.Completed in kinds and e.Recovered not in kinds
    context = context_of(with_it.row, MemoryStore().codec)
    participant = payment.bind(("shipping",))
    assert "" == await difference(participant, context, with_it.events, with_it.row)
    assert "the rules go on" in await difference(
        participant, context, with_it.events[:-1], with_it.row
    )


@pytest.mark.parametrize("fails", ["the first takes long", "the call takes long"])
@pytest.mark.parametrize("seconds", [40.0, 60.0])
async def test_a_deadline_that_is_over_leaves_the_lane(
    monkeypatch: pytest.MonkeyPatch, fails: str, seconds: float
) -> None:
    """No step is started at it or behind it, and the same is written as ever (rule 19)."""
    monkeypatch.setattr(Still, "ahead", 0.0)
    deadline = NOW + seconds
    late = await run(declared(fails=fails), Agreeable(), fast_path=True, deadline=deadline)
    Still.ahead = 0.0
    ever = await run(declared(fails=fails), Agreeable(), fast_path=False, deadline=deadline)
    assert ever.events == late.events
    kinds = [type(event) for event in late.events]
    assert e.TurnedBack is kinds[2 if fails == "the first takes long" else 4]


@pytest.mark.parametrize("way", USUAL)
async def test_the_rules_make_each_entry_of_its_journal(way: str) -> None:
    """`decide` and `evolve`, given the results, make the same entries and the same row."""
    make, peers, downstreams = WAYS[way]
    ran = await run(make(), peers(), fast_path=True, downstreams=downstreams)
    participant = payment.bind(downstreams)
    context = context_of(ran.row, MemoryStore().codec)
    assert "" == await difference(participant, context, ran.events, ran.row)
    other = [*ran.events]
    other[1] = msgspec.structs.replace(other[1], bound=None)
    assert "entry 2" in await difference(participant, context, other, ran.row)
    assert "the rules go on" in await difference(participant, context, other[:1], ran.row)


@pytest.mark.parametrize("way", ["refused", "asked"])
async def test_the_rules_make_each_entry_of_the_way_back(way: str) -> None:
    """`decide` and `evolve`, given the results, make the same entries and the same row."""
    peers, asked_by = (Refusing(), "") if way == "refused" else (Agreeable(), "order")
    ran = await run(payment, peers, fast_path=True, downstreams=("shipping",), asked_by=asked_by)
    assert SagaState.COMPENSATED is ran.row.state
    participant = payment.bind(("shipping",))
    context = context_of(ran.row, MemoryStore().codec)
    assert "" == await difference(participant, context, ran.events, ran.row)
    place = next(n for n, each in enumerate(ran.events) if isinstance(each, e.CompensationStarted))
    other = [*ran.events]
    other[place] = replace(other[place], attempt=2)
    assert f"entry {place + 1}" in await difference(participant, context, other, ran.row)
    missing = [*ran.events[:-1]]
    assert "the rules go on" in await difference(participant, context, missing, ran.row)


@pytest.mark.parametrize(
    "asked_by, kind",
    [("", MemoryStore), ("order", MemoryStore), ("order", Late)],
    ids=["refused", "asked", "asked at once"],
)
async def test_the_rules_are_asked_once_where_it_turns_round(
    monkeypatch: pytest.MonkeyPatch, asked_by: str, kind: type[MemoryStore]
) -> None:
    """None of the undos is decided, however many there are."""
    decided: list[tuple[Any, ...]] = []
    for module in (fast_path_module, interpreter_module):
        original = module.decide

        def counting(*given: Any, original: Any = original) -> Any:
            decided.append(original(*given))
            return decided[-1]

        monkeypatch.setattr(module, "decide", counting)
    peers = Agreeable() if asked_by else Refusing()
    ran = await run(
        payment, peers, fast_path=True, downstreams=("shipping",), asked_by=asked_by, kind=kind
    )
    assert SagaState.COMPENSATED is ran.row.state
    turned = [Record(event=each) for each in ran.events if isinstance(each, e.TurnedBack)]
    undo = next(each for each in ran.events if isinstance(each, e.CompensationStarted))
    first = Do(kind=AttemptKind.COMPENSATE, step=undo.step)
    assert [(each,) for each in (*turned, first)] == decided
    assert bool(turned) is not bool(asked_by)


async def test_nothing_is_folded_or_decided_on_the_usual_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That is what the fast path is for."""
    asked: list[FastTransition] = []
    fold = FastTransition.saga.fget  # type: ignore[attr-defined]

    def counting(self: FastTransition) -> Any:
        asked.append(self)
        return fold(self)

    monkeypatch.setattr(FastTransition, "saga", property(counting))
    ran = await run(payment, Agreeable(), fast_path=True, downstreams=("shipping",))
    assert SagaState.COMPLETED is ran.row.state
    assert [] == asked


async def test_a_look_sees_where_it_is_and_does_not_disturb_it() -> None:
    """The saga is folded for the look."""
    peers = Looking()
    seen: list[str] = []

    def meet(engine: EmbeddedEngine) -> None:
        async def look() -> None:
            found = await engine.get_saga("s-1")
            assert found is not None
            seen.extend(f"{name} {step.phase}" for name, step in found.saga.steps.items())

        peers.during = look

    ran = await run(payment, peers, fast_path=True, downstreams=("shipping",), meet=meet)
    assert ["reserve succeeded", "charge started"] == seen
    assert SagaState.COMPLETED is ran.row.state


async def test_a_request_to_compensate_turns_it_round() -> None:
    """It is folded, and goes back as any other saga does (rule 10)."""
    peers = Looking()

    def meet(engine: EmbeddedEngine) -> None:
        async def ask() -> None:
            await engine.compensate(
                "s-1",
                asked=CompensateRequest(requested_by="order", reason="changed my mind"),
                requester=Requester.UPSTREAM,
                trace=TRACE,
                wait_seconds=0.0,
            )

        peers.during = ask

    turned = await run(payment, peers, fast_path=True, downstreams=("shipping",), meet=meet)
    assert SagaState.COMPENSATED is turned.row.state
    kinds = [type(event) for event in turned.events]
    assert kinds.index(e.CompensationRequested) < kinds.index(e.StepSucceeded, 3)


def test_a_plan_is_cut_where_something_leaves() -> None:
    """Local transactions, then one thing that leaves."""
    segments = segments_of(payment.bind(("shipping",)).plan)
    names = [
        ([step.name for step in each.transactions], each.leaving and each.leaving.name)
        for each in segments
    ]
    expected: list[Any] = [
        (["reserve"], "charge"), (["record"], "forward:shipping"), ([], None)
    ]  # fmt: skip
    assert expected == names


def test_a_plan_whose_steps_run_at_the_same_time_has_no_segments() -> None:
    """Its sagas go as ever."""
    assert () == segments_of(payment.bind(("shipping", "mail")).plan)


@pytest.mark.parametrize(
    "rules",
    [
        {"misfit": "no version fits"},
        {"pivot": 1},
        {"steps": (replace(payment.bind().plan.steps[0], kind=StepKind.APPROVAL),)},
    ],
    ids=["misfit", "pivot", "approval"],
)
def test_a_plan_that_is_not_usual_has_no_segments(rules: dict[str, Any]) -> None:
    """Its deadline moves, or it waits for a person, or nothing of it may be run."""
    plan = payment.bind(("shipping",)).plan
    assert () != segments_of(plan)
    assert () == segments_of(replace(plan, **rules))


DONE = StepState(phase=Phase.SUCCEEDED, order=0, result=msgspec.Raw(b"null"))
REFUSED = StepState(phase=Phase.REFUSED, order=0)


def undone(**steps: StepState) -> list[str] | None:
    """The names of the steps that are undone of a saga that turned round, in order."""
    plan = payment.bind(("shipping",)).plan
    found = undos_of(plan, core.Saga(id="s-1", state=SagaState.COMPENSATING, steps=steps))
    return None if found is None else [step.name for step in found]


def test_the_steps_that_stand_are_undone_in_the_reverse_order_of_the_plan() -> None:
    """Not those that were refused, and not those without a compensation (rule 7)."""
    assert ["charge", "reserve"] == undone(reserve=DONE, charge=DONE, record=DONE)
    assert ["reserve"] == undone(reserve=DONE, charge=REFUSED)
    assert [] == undone(reserve=REFUSED)
    assert [] == undone()


@pytest.mark.parametrize(
    "charge",
    [
        replace(DONE, phase=Phase.IN_DOUBT),
        replace(DONE, phase=Phase.STARTED),
        replace(DONE, phase=Phase.COMPENSATED),
        replace(DONE, doubted=True),
        replace(REFUSED, doubted=True),
        replace(DONE, compensation_attempts=1),
    ],
)
def test_a_saga_with_a_doubt_or_a_former_undo_leaves_the_usual_way(charge: StepState) -> None:
    """There the rules are asked at each step."""
    assert undone(reserve=DONE, charge=charge) is None


@pytest.mark.parametrize(
    "event, awaited",
    [
        (e.StepSucceeded(at=NOW, step="charge"), True),
        (e.StepSucceeded(at=NOW, step="reserve"), False),
        (e.StepRefused(at=NOW, step="charge"), True),
        (e.StepRefused(at=NOW, step="charge", may_stand=True), False),
        (e.CompensationSucceeded(at=NOW, step="charge"), True),
        (e.StepInDoubt(at=NOW, step="charge"), False),
        (e.StepTransient(at=NOW, step="charge"), False),
        (e.CompensationDelayed(at=NOW, step="charge"), False),
        (e.WebhookFound(at=NOW, step="charge"), False),
    ],
)
def test_a_saga_stays_on_the_path_with_the_end_of_its_attempt_alone(
    event: e.Event, awaited: bool
) -> None:
    """Any other meaning is for the rules to say."""
    do = Do(kind=AttemptKind.EXECUTE, step="charge")
    sent = Outgoing(do=do, span=PassthroughSpan(TRACE), key="k")
    fast = FastTransition(
        plan=payment.bind().plan, terms=core.Saga(id="s-1"), events=[], outgoing=[sent]
    )
    assert awaited is fast.awaits(event)


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize("downstreams", [(), ("shipping",), ("shipping", "mail")])
async def test_the_output_is_asked_for_once(fast_path: bool, downstreams: tuple[str, ...]) -> None:
    """Each downstream and the answer get the same, also from a function that is not pure."""
    asked: list[int] = []
    stage: Stage[Any, Any] = Stage("shop", accepts=dict[str, Any], adds=dict[str, int])

    @stage.call(to="psp", timeout=1.0, compensation=None, reason="no test undoes it")
    async def ask(http: Http, saga: Saga[Any]) -> None:
        await http.post("/charges", json={})

    @stage.output
    def added(saga: Saga[Any]) -> dict[str, int]:
        asked.append(1)
        return {"number": len(asked)}

    ran = await run(stage, Agreeable(), fast_path=fast_path, downstreams=downstreams)
    assert [1] == asked
    assert ran.reply is not None
    assert {"number": 1} == msgspec.json.decode(ran.reply.body)["data"]["shop"]


@pytest.mark.parametrize("downstreams", [("shipping",), ("shipping", "mail")])
async def test_the_end_is_written_behind_the_answer_on_either_path(
    monkeypatch: pytest.MonkeyPatch, downstreams: tuple[str, ...]
) -> None:
    """Decision 0011: an answer of downstream that completes the saga needs no commit before it."""
    deferred: list[bool] = []
    transact = MemoryStore.transact

    async def noting(self: MemoryStore, work: Any, *, deferrable: bool = False) -> Any:
        deferred.append(deferrable)
        return await transact(self, work, deferrable=deferrable)

    monkeypatch.setattr(MemoryStore, "transact", noting)
    for fast_path in (True, False):
        await run(payment, Agreeable(), fast_path=fast_path, downstreams=downstreams)
        assert 1 == deferred.count(True)
        deferred.clear()


async def test_a_late_failure_of_the_usual_saga_notifies_upstream() -> None:
    """Rule 22: it leaves the path, which ends with nothing more to do."""
    ran = await run(
        payment, Agreeable(), fast_path=True, downstreams=("shipping",), asked_by="shipping",
        requester=Requester.DOWNSTREAM,
    )  # fmt: skip
    kinds = list(map(type, ran.events))
    assert kinds.index(e.Compensated) < kinds.index(e.TellStarted) < kinds.index(e.TellDelivered)
