"""`POST /webhooks/{external}`: what an external API tells of its own accord (decision 0067).

The author's function verifies it. Its word is journaled before it is acknowledged, so that the
API repeats what was not. A webhook that concerns no call, or says what is known, is acknowledged
and does nothing: a repeat of it would bring nothing either.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from stage.core.events import WebhookRefused
from stage.core.ids import Direction, idempotency_key
from stage.core.machine import heard_before
from stage.core.saga import Saga
from stage.core.states import EXTERNAL_KINDS, Phase
from stage.inbound.accepted import link_saga
from stage.inbound.read import read_any, too_large
from stage.inbound.request import Answer, Request, json_answer
from stage.inbound.service import Service
from stage.ports.engine import LeftToNewer, PastRetention, Snapshot
from stage.ports.observer import TraceContext
from stage.ports.stage import family_of
from stage.ports.store import Filter
from stage.ports.webhook import Heard, NotVerified, WebhookRequest
from stage.wire.problem import WireError

WEBHOOK_BYTES_MAX: Final = 262_144
SAGAS_OF_A_NUMBER_MAX: Final = 20
"""Sagas of one business number that are looked at; more are nobody's to tell apart."""


async def webhook(service: Service, request: Request) -> Answer:
    """Verify it, find its call, and journal what it says of it."""
    external = request.parameters["external"]
    if not _hears(service, external):
        raise WireError(
            404,
            "No webhook",
            "no call of this stage has a webhook of such an API",
            hint="the path ends with the name of the API, as the stage has it configured",
        )
    service.admission.query("")  # strangers share what is left for them
    body = await read_any(request)
    if len(body) > WEBHOOK_BYTES_MAX:
        raise too_large(WEBHOOK_BYTES_MAX)
    came = WebhookRequest(
        external=external,
        body=body,
        headers={name.lower(): value for name, value in request.headers.items()},
        secrets=await service.webhook_secrets(external),
        now=service.clock.now(),
    )
    for heard in _verified(service, came):
        found = await _saga_of(service, heard)
        if found is not None:
            request.about.saga_id = found.saga.id
            request.about.span.about(found.saga.id)
            link_saga(request, found.row.traceparent)
            await service.engine.hear(found.saga.id, heard.event)
            if _contradicts(found.saga, heard):
                trace = TraceContext(traceparent=found.row.traceparent)
                service.observer.contradicted(found.saga.id, heard.event.step, trace)
            break
    return json_answer({})


def _contradicts(saga: Saga, heard: Heard) -> bool:
    """Whether it says no to a call that has landed. The yes stands: webhooks overtake each other.

    A person may want to know all the same, for the API has no one word on its effect.
    """
    step = saga.steps.get(heard.event.step)
    refused = isinstance(heard.event, WebhookRefused)
    return refused and step is not None and step.phase is Phase.SUCCEEDED


def _hears(service: Service, external: str) -> bool:
    return any(
        step.hooked and step.peer == external
        for version in family_of(service.participant)
        for step in version.plan.steps
    )


def _verified(service: Service, came: WebhookRequest) -> list[Heard]:
    """The words that each version of the stage finds in it. Raises WireError 401."""
    heard: list[Heard] = []
    refused = ""
    verified = False
    for version in family_of(service.participant):
        try:
            said = version.hear(came)
        except NotVerified as error:
            refused = str(error)
            continue
        verified = True
        if said is not None:
            heard.append(said)
    if refused and not verified:
        raise WireError(
            401,
            "Webhook not verified",
            f"the webhook is not believed: {refused}",
            hint="give this stage the secret of the API as webhook_secret_file, and the right time",
            retryable=True,
        )
    return heard


async def _saga_of(service: Service, heard: Heard) -> Snapshot | None:
    """The saga that it speaks of; None where there is none. Raises WireError 409."""
    if heard.number is None:
        return await _known_by(service, _saga_id_in(heard.key), heard)
    if heard.number.name not in (service.participant.indexed or {}):
        raise WireError(
            500,
            "Webhook not matched",
            f"the function of the webhook matches by {heard.number.name!r}, which is not indexed",
            hint="name it in indexed= of the stage",
        )
    rows = await service.engine.page(Filter(term=heard.number, limit=SAGAS_OF_A_NUMBER_MAX))
    found = [await _known_by(service, row.id, heard) for row in rows]
    waiting = [each for each in found if each is not None and _waits_for(service, each.saga, heard)]
    if len(waiting) > 1:
        raise WireError(
            409,
            "Webhook ambiguous",
            f"{len(waiting)} sagas of that number wait for such a webhook",
            hint="match it by the idempotency key, or settle the right one by hand",
        )
    return waiting[0] if waiting else None


def _waits_for(service: Service, saga: Saga, heard: Heard) -> bool:
    """Whether that saga is meant by a number. A failed order may be tried again as another."""
    if saga.ended or saga.steps[heard.event.step].phase is Phase.REFUSED:
        return False
    return not heard_before(saga.under(service.participant.plan), saga, heard.event)


async def _known_by(service: Service, saga_id: str, heard: Heard) -> Snapshot | None:
    """The saga, if the call of it that the webhook speaks of was begun here."""
    snapshot = None
    with suppress(PastRetention):  # over for long: it needs no word any more
        snapshot = await service.engine.get_saga(saga_id) if saga_id else None
    if snapshot is None:
        return None
    if snapshot.row.closed_at is not None:
        return snapshot if _is_key_of_closed(service, snapshot, heard) else None
    saga = snapshot.saga
    plan = saga.under(service.participant.plan)
    if plan.newer:
        raise LeftToNewer(f"{plan.misfit}: it hears there")
    if not snapshot.readable:
        # Whether its call waits for this word is not known here: the API has to say it again.
        raise LeftToNewer(f"the journal of saga {saga.id} is of another release: it hears there")
    rules, known = plan.by_name.get(heard.event.step), saga.steps.get(heard.event.step)
    if rules is None or known is None or rules.kind not in EXTERNAL_KINDS:
        return None
    key = known.key or idempotency_key(saga.id, plan.stage, rules.name, Direction.EXECUTE)
    return snapshot if heard.number is not None or _without_ordinal(heard.key) == key else None


def _is_key_of_closed(service: Service, snapshot: Snapshot, heard: Heard) -> bool:
    """Whether it is the key of that call of a saga whose journal, which bound it, was dropped.

    A number does not say as much: the saga is over.
    """
    row, newest = snapshot.row, service.participant.plan
    if row.version > newest.version:
        raise LeftToNewer(f"version {row.version} accepted saga {row.id}: it hears there")
    declared = {each.plan.version: each.plan for each in family_of(service.participant)}
    plan, step = declared.get(row.version, newest), heard.event.step
    names = (step, *(old for old, today in plan.renamed.items() if today == step))
    keys = [idempotency_key(row.id, plan.stage, name, Direction.EXECUTE) for name in names]
    return heard.number is None and _without_ordinal(heard.key) in keys


def _without_ordinal(key: str) -> str:
    """The key of the step: one of several requests of its function has a number behind it."""
    head, _, last = key.rpartition(":")
    return head if last.isascii() and last.isdigit() else key


def _saga_id_in(key: str) -> str:
    """The saga id of a key of ours, which reads from the right; empty for any other."""
    return ":".join(_without_ordinal(key).split(":")[:-3])
