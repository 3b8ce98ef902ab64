"""`GET /sagas/{id}?view=chain`: what every stage of the chain knows of one saga."""

from __future__ import annotations

import asyncio

import msgspec

from stage.core.errors import NewerJournal
from stage.core.event_table import public_members
from stage.core.events import Recovered, name_of
from stage.core.steps import StepKind
from stage.inbound.request import Request
from stage.inbound.service import Service
from stage.inbound.views import view_of_snapshot
from stage.ports.engine import Snapshot
from stage.ports.observer import TraceContext
from stage.ports.store import Entry
from stage.wire import headers as h
from stage.wire.chain import (
    CHAIN_ASKED,
    CHAIN_HOPS,
    EVENTS_MAX,
    STAGES_MAX,
    ChainView,
    StageStory,
    event_of,
    parse_asked,
    parse_hops,
    unknown,
)
from stage.wire.envelope import format_instant

CHAIN_SECONDS_MAX = 5.0
"""For the whole question; each stage gives the next one a share of the time it has."""
SHARE_OF_NEXT = 0.8


class _Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question to the neighbours. `asked` are all stages that it has reached or will."""

    saga_id: str
    asked: tuple[str, ...]
    hops: int
    seconds: float
    trace: TraceContext


async def chain(service: Service, request: Request, snapshot: Snapshot) -> ChainView:
    """Our own story between those of the stages before and behind us."""
    asked = parse_asked(request.headers.getall(CHAIN_ASKED, ()))
    hops = parse_hops(request.headers.getall(CHAIN_HOPS, ()))
    budget = h.parse_budget_ms(request.headers.getall(h.SAGA_BUDGET_MS, ()))
    seconds = min(CHAIN_SECONDS_MAX, CHAIN_SECONDS_MAX if budget is None else budget)
    own = await _own(service, snapshot)
    before, behind = _neighbours(service, snapshot, asked)
    question = _Question(
        saga_id=snapshot.row.id,
        asked=(*asked, own.stage, *before, *behind),
        hops=hops,
        seconds=seconds,
        trace=request.about.span.context,
    )
    answers = await asyncio.gather(*(_ask(service, peer, question) for peer in (*before, *behind)))
    stories = [*answers[: len(before)], [own], *answers[len(before) :]]
    stages = _each_once([story for part in stories for story in part])
    return ChainView(saga_id=snapshot.row.id, stages=stages[:STAGES_MAX])


def _neighbours(
    service: Service, snapshot: Snapshot, asked: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """The configured upstream that the saga came from, and the downstreams; each not yet asked."""
    plan = snapshot.saga.under(service.participant.plan)
    upstream = snapshot.saga.upstream
    before = [upstream] if upstream and service.neighbours.is_upstream(upstream) else []
    behind = [step.peer for step in plan.steps if step.kind is StepKind.FORWARD]
    own = (*asked, plan.stage)
    return (
        [peer for peer in before if peer not in own],
        [peer for peer in behind if peer not in own and peer not in before],
    )


async def _ask(service: Service, peer: str, question: _Question) -> list[StageStory]:
    if question.hops < 1:
        return [unknown(peer, "not asked: the question has passed as many stages as it may")]
    others = tuple(name for name in dict.fromkeys(question.asked) if name != peer)
    answer = await service.neighbours.get_chain(
        peer,
        question.saga_id,
        asked=others,
        hops=question.hops - 1,
        timeout=question.seconds * SHARE_OF_NEXT,
        trace=question.trace,
    )
    if not isinstance(answer, ChainView):
        return [unknown(peer, answer.reason)]
    # The neighbour answers for itself and for the stages that nobody has asked yet.
    return [story for story in answer.stages if story.stage not in others]


def _is_housekeeping(entry: Entry) -> bool:
    """True of a run that took up a saga at rest: nothing was lost, so nothing was recovered."""
    return isinstance(entry.event, Recovered) and entry.event.rested


def _each_once(stories: list[StageStory]) -> list[StageStory]:
    return list({story.stage: story for story in reversed(stories)}.values())[::-1]


async def _own(service: Service, snapshot: Snapshot) -> StageStory:
    view = view_of_snapshot(service, snapshot)
    try:
        entries = await service.engine.journal(snapshot.row.id)
    except NewerJournal:  # the view says so; the other stages are shown all the same
        entries = []
    return StageStory(
        stage=view.stage,
        state=view.state,
        outcome=view.outcome,
        parked_reason=view.parked_reason,
        parked_cause=view.parked_cause,
        next_action=view.next_action,
        next_action_at=view.next_action_at,
        stands=view.stands,
        may_stand=view.may_stand,
        standing=view.standing,
        trace_id=view.trace_id,
        events=[
            event_of(
                format_instant(entry.event.at),
                name_of(entry.event),
                public_members(entry.event),
            )
            for entry in [each for each in entries if not _is_housekeeping(each)][-EVENTS_MAX:]
        ],
    )
