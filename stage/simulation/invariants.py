"""The invariants of a world that has come to rest, held against the world's own books."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

from stage.core.age import WAIT_SECONDS_MAX
from stage.core.bindings import hash_of
from stage.core.events import (
    Accepted,
    AnswerDeferred,
    Compensated,
    CompensationRequested,
    Completed,
    FailedToCompensate,
    TellDelivered,
    TellRefused,
)
from stage.core.machine import RECOVERIES_MAX
from stage.core.states import ENDED, EXTERNAL_KINDS, ParkCause, SagaState
from stage.core.steps import Plan, Step, StepKind
from stage.engine.saga.context import context_of, with_baggage
from stage.ports.store import Row, Unit
from stage.simulation.books import Books
from stage.simulation.facts import Known, Local
from stage.simulation.neighbours import CLIENT, OTHER_AMOUNT, Order, Verdict
from stage.simulation.node import Node
from stage.simulation.replay import difference
from stage.wire.envelope import decode_envelope
from stage.wire.http import SAFE_METHODS

LAST_ANSWER_SECONDS = 40.0
"""More than the longest timeout of a message."""


async def check(
    books: Books,
    nodes: Sequence[Node],
    orders: Mapping[str, Order],
    *,
    ledgers: bool,
    stands: str,
) -> None:
    """Report every violation to the books."""
    for node in nodes:
        await _no_idle_runs(books, node)
        await _stored(books, node)
        if ledgers:
            await _ledger(books, node)
        if stands:
            await _tables(books, node, stands)
    forgotten = {saga for (_, saga), known in books.known.items() if known.forgotten}
    for order in orders.values():
        if order.saga in forgotten:
            continue  # a person has taken over what stands of it
        chain = [books.known.get((node.name, order.saga)) for node in nodes]
        for node, known in zip(nodes, chain, strict=True):
            waits = any(one is not None and bool(one.row.parked) for one in chain)
            _stage(books, node.name, order.saga, known, waits=waits)
        for node, known, following in zip(nodes[:-1], chain[:-1], chain[1:], strict=True):
            _neighbours(books, node.name, order.saga, known, following)
        waits = any(one is not None and bool(one.row.parked) for one in chain)
        lost = any(one is not None and one.row.parked_cause is ParkCause.LOST for one in chain[1:])
        _client(books, nodes[0].name, order, chain[0], waits=waits, lost=lost)
        _payload(books, order)
    for stage, saga, words in books.refused():
        _not_executed(books, stage, saga, words)


async def _no_idle_runs(books: Books, node: Node) -> None:
    """I14: what needs no run has none, once the last answer that is waited for is overdue.

    A run that another process took over notices it at its next attempt, behind its back-off.
    """
    for seconds in (LAST_ANSWER_SECONDS, WAIT_SECONDS_MAX):
        if node.runs > _due(books, node):
            await asyncio.sleep(seconds)
    if node.runs > _due(books, node):
        books.violate("I14", "", f"{node.name} rests with {node.runs} runs in memory")


def _due(books: Books, node: Node) -> int:
    return sum(
        known.row.due_at is not None
        for (stage, _), known in books.known.items()
        if stage == node.name
    )


async def _stored(books: Books, node: Node) -> None:
    """I1: what was said to be durable is there, whole."""
    for (stage, saga), known in books.known.items():
        if stage != node.name:
            continue
        row = await node.disk.store.get(saga)
        if row is None and (stage, saga) in books.dropped:
            continue
        if row is None or row.length != known.row.length or row.epoch != known.row.epoch:
            books.violate("I1", saga, f"{stage} lost what was durable")
            continue
        entries = await node.disk.store.entries(saga)
        # Where the process was lost between the verb and its closing, retention closes it.
        given_up = known.row.closed_at is not None or (
            known.forgotten and row.closed_at is not None
        )
        if [entry.event for entry in entries] != ([] if given_up else known.events):
            books.violate("I1", saga, f"the journal of {stage} is not what was written")
        if not given_up and (differs := await _replayed(node, known)):
            books.violate("I15", saga, f"{stage}: {differs}")


async def _replayed(node: Node, known: Known) -> str:
    """I15: the rules make the same journal as the fast path, as far as the saga was a usual one."""
    first = known.events[0]
    if not isinstance(first, Accepted):
        return ""
    accepted_by = next((each for each in node.versions if each.plan.version == first.version), None)
    if accepted_by is None or hash_of(accepted_by.plan) != first.plan_hash:
        return ""  # a release that is gone
    context = with_baggage(context_of(known.row, node.disk.store.codec), first.baggage)
    return await difference(accepted_by, context, known.events, known.row)


async def _ledger(books: Books, node: Node) -> None:
    """I2: the author's own table says the same as the count of what ran."""

    async def read(unit: Unit) -> list[Row]:
        return await unit.tx.fetchall(
            "SELECT saga_id, step, SUM(undone = 0), SUM(undone) FROM ledger GROUP BY 1, 2"
        )

    rows = {(row[0], row[1]): (row[2], row[3]) for row in await node.disk.store.transact(read)}
    counted = {
        (saga, step): (local.done, local.undone)
        for (stage, saga, step), local in books.local.items()
        if stage == node.name
    }
    for key in sorted(rows.keys() | counted.keys()):
        if rows.get(key, (0, 0)) != counted.get(key, (0, 0)):
            books.violate(
                "I2", key[0], f"the table of {node.name} says {rows.get(key)} for {key[1]},"
                f" {counted.get(key)} was committed"
            )  # fmt: skip


async def _tables(books: Books, node: Node, query: str) -> None:
    """I2: the author's tables say of every saga what its state says."""

    async def read(unit: Unit) -> list[Row]:
        return await unit.tx.fetchall(query)

    found = Counter(row[0] for row in await node.disk.store.transact(read))
    expected = {SagaState.COMPLETED: 1, SagaState.COMPENSATED: 0}
    for (stage, saga), known in books.known.items():
        wanted = expected.get(known.row.state)
        if stage != node.name or wanted is None or known.forgotten or found[saga] == wanted:
            continue
        state, times = known.row.state, found[saga]
        books.violate("I2", saga, f"{stage} is {state}, and stands {times}x in its tables")


def _stage(books: Books, stage: str, saga: str, known: Known | None, *, waits: bool) -> None:
    """I2, I5 and I7 at one stage: it has ended, and the world stands as it says.

    `waits` says that another stage of the chain waits for a person.
    """
    if known is None:
        _nothing_is_lost(books, stage, saga)
        return
    plan, row = books.plan_of(stage, saga), known.row
    if row.parked:
        excuse = _excuse(books, stage, saga, known, plan)
        if not excuse:
            books.violate("I5", saga, f"{stage} is parked without an excuse: {row.parked}")
        if row.state not in ENDED or row.parked_cause is ParkCause.LANDED_LATE:
            return  # of the latter a person is asked what stands
    elif row.state not in ENDED and waits:
        return
    elif row.state not in ENDED:
        books.violate("I5", saga, f"{stage} is {row.state} and nothing moves it")
        return
    _late_failure(books, stage, saga, known)
    early = books.early.get((stage, saga))
    if row.state is SagaState.COMPLETED and early is not None and early not in known.answers:
        books.violate("I9", saga, f"{stage} completed with another answer than it had given")
    for step in plan.steps:
        stands = books.standing(stage, saga, step)
        if row.state is SagaState.COMPLETED:
            if step.kind is not StepKind.FORWARD and not _is_whole(books, known, step, stands):
                books.violate("I2", saga, f"{stage} is completed, {step.name} stands {stands}x")
        elif books.must_be_undone(step) and stands and step.name not in known.given_up:
            books.violate("I7", saga, f"{stage} is {row.state}, {step.name} still stands")


def _is_whole(books: Books, known: Known, step: Step, stands: int) -> bool:
    """I2: a step stands once; of a call that sends several requests each may have an effect."""
    parts = books.parts.get(step.peer)
    if step.kind is not StepKind.CALL or parts is not None:
        return stands == (parts or 1)
    sent = known.requests.get(f"{step.name}:do", ())
    return 1 <= stands <= max(1, sum(each.method not in SAFE_METHODS for each in sent))


def _late_failure(books: Books, stage: str, saga: str, known: Known) -> None:
    """I5: upstream was notified of a failure that came after a yes (rule 22)."""
    if not (known.forgotten or stage in books.restored or _was_notified(known)):
        state = known.row.state
        books.violate("I5", saga, f"{stage} is {state}, and its upstream still believes a yes")


def _was_notified(known: Known) -> bool:
    """Whether upstream was notified of a failure that came after a yes (rule 22).

    An upstream that asked for it itself need not be. That it cannot be notified counts as long as
    a person is asked to see to it.
    """
    accepted, said_yes, failed = known.events[0], False, False
    if not isinstance(accepted, Accepted) or not accepted.upstream:
        return True
    for event in known.events:
        match event:
            case Compensated() | FailedToCompensate():
                failed = True
            case Accepted(deferred=True) | AnswerDeferred() | Completed() if not failed:
                said_yes = True
            case TellDelivered():
                return True
            case TellRefused(cause=cause) if known.row.parked_cause is cause:
                return True
            case CompensationRequested(requested_by=name) if name == accepted.upstream:
                return True
            case _:
                pass
    return not (said_yes and failed)


def _nothing_is_lost(books: Books, stage: str, saga: str) -> None:
    """I7: what an older database does not have was adopted, where something of it stands."""
    for step in books.plan_of(stage, saga).steps:
        if step.compensatable and books.standing(stage, saga, step):
            books.violate("I7", saga, f"{stage} does not have it, and {step.name} stands")


def _excuse(books: Books, stage: str, saga: str, known: Known, plan: Plan) -> str:
    """The cause in the world for which a saga waits for a person; empty without one."""
    match known.row.parked_cause:
        case ParkCause.LOST_RUNS if known.recovered > RECOVERIES_MAX:
            return "it was lost again and again"
        case ParkCause.PIVOT_IN_DOUBT | ParkCause.BEHIND_PIVOT | ParkCause.OUTPUT_FAILED if (
            plan.pivot is not None
        ):
            return "it only goes forward"
        case ParkCause.IN_DOUBT if any(
            not step.idempotent and step.name in known.starts and step.name not in known.succeeded
            for step in plan.steps
        ):
            return "its API can neither repeat nor be asked"
        case ParkCause.UPSTREAM_CANNOT if _upstream_cannot(books, saga, known):
            return "upstream cannot compensate"
        case ParkCause.LOST if stage in books.restored:
            return "an older database was put back"
        case ParkCause.LANDED_LATE if known.row.closed_at is not None and any(
            effect.made
            for step in plan.steps
            for effect in books.effects_of(stage, saga, step.name)
        ):
            return "its API said when it was closed that a call of it had landed"
        case _:
            pass
    if known.given_up and all(
        _gave_up(books, stage, saga, plan.step(name)) for name in known.given_up
    ):
        return "it cannot be undone"
    return ""


def _upstream_cannot(books: Books, saga: str, known: Known) -> bool:
    """Whether upstream has said so: of a client its own books, which it mends by asking itself."""
    accepted = known.events[0] if known.events else None
    if isinstance(accepted, Accepted) and accepted.upstream == CLIENT:
        return saga in books.cannot
    return True


def _gave_up(books: Books, stage: str, saga: str, step: Step) -> bool:
    """True when the world has a cause for giving up a compensation."""
    if step.kind is StepKind.FORWARD:
        if step.peer in books.restored:
            return True  # its books of then are gone
        behind = books.known.get((step.peer, saga))
        if step.peer not in books.plans:
            return False
        if behind is None:
            return books.has_dropped(step.peer)  # it said that it may have been there
        plan = books.plan_of(step.peer, saga)
        tried_again = behind.gave_up and behind.row.due_at is not None  # what it said was true
        if behind.given_up or tried_again:
            return True
        return plan.pivot is not None or behind.row.closed_at is not None
    if any(effect.undo_refused for effect in books.effects_of(stage, saga, step.name)):
        return True
    tried = books.attempts.get((stage, saga, step.name), 0)
    return step.compensation.attempts_max is not None and tried >= step.compensation.attempts_max


def _neighbours(
    books: Books, stage: str, saga: str, known: Known | None, following: Known | None
) -> None:
    """I5: two stages agree."""
    if known is None:
        if following is not None and following.row.state is not SagaState.COMPENSATED:
            books.violate("I5", saga, f"{stage} never saw it, the next is {following.row.state}")
        return
    if known.row.parked or (following is not None and following.row.parked):
        return
    state = following.row.state if following is not None else None
    if known.row.state is SagaState.COMPLETED and state is not SagaState.COMPLETED:
        books.violate("I5", saga, f"{stage} is completed, the one behind it is {state}")
    if known.row.state is SagaState.COMPENSATED and state not in (None, SagaState.COMPENSATED):
        books.violate("I7", saga, f"{stage} is compensated, the one behind it is {state}")


def _client(
    books: Books, stage: str, order: Order, known: Known | None, *, waits: bool, lost: bool
) -> None:
    """I5: the client's books agree with the first stage.

    `lost` says that a stage behind it lost the saga with an older database, and waits for a person.
    Where the first stage had said yes, and lost the end behind that answer (decision 0011), nobody
    can tell it the end before that person does.
    """
    state = known.row.state if known is not None else None
    parked = known is not None and bool(known.row.parked)
    wrong = False
    match order.verdict:
        case Verdict.EXECUTED:
            wrong = state is not SagaState.COMPLETED and not (
                (parked and state is not SagaState.COMPENSATED)
                or (waits and state is SagaState.COMPENSATING)
                or (lost and state is SagaState.ACTIVE and (stage, order.saga) in books.early)
                or (parked and order.saga in books.cannot)
            )
        case Verdict.FAILED:
            wrong = state is SagaState.COMPLETED
        case Verdict.STANDS:
            pivot = books.plan_of(stage, order.saga).pivot is not None
            mended = known is not None and known.mended
            final = pivot or (known is not None and known.row.closed_at is not None)
            dropped = (stage, order.saga) in books.dropped
            unknown = dropped or (known is None and books.has_dropped(stage))
            stays = final and state is SagaState.COMPLETED
            wrong = not (parked or mended or stays or unknown)
        case Verdict.OPEN:
            wrong = not waits
    if wrong:
        books.violate(
            "I5", order.saga, f"the client believes {order.verdict}, {stage} is {state or 'empty'}"
        )
    if order.buried and known is not None and not known.row.parked:
        done = [local.done for (_, saga, _), local in books.local.items() if saga == order.saga]
        if any(done):
            books.violate("I6", order.saga, "it ran although it was compensated before")


def _payload(books: Books, order: Order) -> None:
    """I9: no effect ever came from another payload under the same id."""
    for (_, saga), known in books.known.items():
        if saga != order.saga or not known.row.envelope:
            continue
        if decode_envelope(known.row.envelope).data.get("amount") == OTHER_AMOUNT:
            books.violate("I9", saga, "another payload under the same id took effect")


def _not_executed(books: Books, stage: str, saga: str, words: str) -> None:
    """I10: who said `not_executed` for good, did nothing and does nothing."""
    plan = books.plan_of(stage, saga)
    done = sum(
        books.local.get((stage, saga, step.name), Local()).done
        for step in plan.steps
        if step.kind is StepKind.TRANSACTION
    )
    made = sum(
        effect.made
        for step in plan.steps
        if step.kind in EXTERNAL_KINDS
        for effect in books.effects_of(stage, saga, step.name)
    )
    if stage in books.restored:  # a tombstone in place of what was lost: it speaks of what stands
        nothing_stands = not any(
            step.compensatable and books.standing(stage, saga, step) for step in plan.steps
        )
        if nothing_stands:
            return
    if done or made:
        books.violate("I10", saga, f"{stage} answered {words}, and did {done} + {made} things")
