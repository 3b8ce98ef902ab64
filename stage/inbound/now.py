"""`GET /now`: how the stage stands at this instant."""

from __future__ import annotations

from stage.core.version import __version__
from stage.inbound.now_view import approvals_view, hour_view, places_view
from stage.inbound.request import Answer, Request, json_answer
from stage.inbound.service import Service
from stage.wire.envelope import format_instant, optional_instant
from stage.wire.views import NowView


async def now(service: Service, request: Request) -> Answer:
    """Counts of sagas under way, waiting, parked and ended lately; whether new ones are taken."""
    engine = service.engine
    backlog = await engine.backlog()
    figures = service.figures()
    return json_answer(
        NowView(
            stage=service.participant.plan.stage,
            release=__version__,
            at=format_instant(service.clock.now()),
            ready=engine.ready,
            clock_jump_seconds=engine.clock_jump,
            live=engine.live,
            in_doubt=engine.in_doubt + backlog.parked_in_doubt,
            sagas={state.value: count for state, count in (await engine.count()).items()},
            parked={cause.value: count for cause, count in backlog.parked.items()},
            approvals=approvals_view(backlog.approvals),
            oldest_accepted_at=optional_instant(backlog.oldest_accepted_at),
            longest_due_at=optional_instant(backlog.longest_due_at),
            oldest_compensation_at=optional_instant(backlog.oldest_compensation_at),
            left_to_newer=backlog.newer,
            lost=backlog.lost,
            restored_as_of=optional_instant(engine.identity.restored_as_of),
            awaits_release=engine.identity.awaits_release,
            lately=hour_view(figures.lately),
            places=places_view(figures),
            replicas=figures.replicas,
            database_bytes=dict(backlog.sizes),
        )
    )
