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
from stage.ports.stage import Participant, family_of
from stage.ports.store import Filter, Term
from stage.ports.webhook import Heard, NotVerified, Said, WebhookRequest
from stage.wire.problem import WireError

WEBHOOK_BYTES_MAX: Final = 262_144
SAGAS_OF_A_NUMBER_MAX: Final = 20
"""Sagas of one business number that are looked at; more are nobody's to tell apart."""


async def webhook(service: Service, request: Request) -> Answer:
    """Verify it, find its call, and journal what it says of it."""
    external = request.parameters["external"]
    hearing = _hearing(service, external)
    if not hearing:
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
    headers, now = {k.lower(): v for k, v in request.headers.items()}, service.clock.now()
    ends: list[tuple[int, list[Said]]] = []
    for version, name in hearing:
        secrets = await service.webhook_secrets(name)
        came = WebhookRequest(external=name, body=body, headers=headers, secrets=secrets, now=now)
        ends.append((version.plan.version, version.hear(came)))
    if not await _journaled(service, request, ends):
        _believe([said for _, said in ends])
    return json_answer({})


def _hearing(service: Service, external: str) -> list[tuple[Participant, str]]:
    """The versions that have a webhook of that API, each with the name that it gives the API today.

    An API goes on posting to the address that it was once given.
    """
    found = []
    for version in family_of(service.participant):
        today = version.plan.peers_renamed.get(external, external)
        if any(step.hooked and step.peer == today for step in version.plan.steps):
            found.append((version, today))
    return found


async def _journaled(
    service: Service, request: Request, ends: list[tuple[int, list[Said]]]
) -> bool:
    """Whether one of the words found its saga, which has heard it then.

    An exception hides no word of another function or version: it is raised where no word found its
    saga, so that the API says it again.
    """
    said = [(version, each) for version, every in ends for each in every]
    failed = [
        each
        for _, each in said
        if isinstance(each, Exception) and not isinstance(each, NotVerified)
    ]
    words = [(version, each) for version, each in said if isinstance(each, Heard)]
    found = await _found(service, words, failed)
    if len(found) > 1:
        raise WireError(
            409,
            "Webhook ambiguous",
            f"{len(found)} sagas of that number wait for such a webhook",
            hint="match it by the idempotency key, or settle the right one by hand",
        )
    for snapshot, heard in found.values():
        await _hear(service, request, snapshot, heard)
        return True
    if failed:
        raise failed[0]
    return False


async def _found(
    service: Service, words: list[tuple[int, Heard]], failed: list[Exception]
) -> dict[str, tuple[Snapshot, Heard]]:
    """Each saga that a word speaks of, by its id: one by its key, or all that wait by a number.

    Of words by a number, a version has the first alone: a number says nothing of the call, and a
    repeat about one could end another. A word that nothing can be matched by goes to `failed`.
    """
    found: dict[str, tuple[Snapshot, Heard]] = {}
    numbered = set()
    for version, heard in words:
        if heard.number is None:
            known = await _known_by(service, version, _saga_id_in(heard.key), heard)
            if known is not None:
                return {known.saga.id: (known, heard)}
        elif heard.number.name not in (service.participant.indexed or {}):
            failed.append(_not_matched(heard.number))
        elif version not in numbered:
            numbered.add(version)
            for each in await _waiting(service, version, heard.number, heard):
                found.setdefault(each.saga.id, (each, heard))
    return found


def _not_matched(number: Term) -> WireError:
    return WireError(
        500,
        "Webhook not matched",
        f"the function of the webhook matches by {number.name!r}, which is not indexed",
        hint="name it in indexed= of the stage",
    )


async def _waiting(service: Service, version: int, number: Term, heard: Heard) -> list[Snapshot]:
    """The sagas of that version with that number which wait for such a word."""
    rows = await service.engine.page(Filter(term=number, limit=SAGAS_OF_A_NUMBER_MAX))
    found = [await _known_by(service, version, row.id, heard) for row in rows]
    return [each for each in found if each is not None and _waits_for(service, each.saga, heard)]


async def _hear(service: Service, request: Request, found: Snapshot, heard: Heard) -> None:
    saga, traceparent = found.saga, found.row.traceparent
    request.about.saga_id = saga.id
    request.about.span.about(saga.id)
    link_saga(request, traceparent)
    await service.engine.hear(saga.id, heard.event)
    if _contradicts(saga, heard):
        trace = TraceContext(traceparent=traceparent)
        service.observer.contradicted(saga.id, heard.event.step, trace)


def _contradicts(saga: Saga, heard: Heard) -> bool:
    """Whether it says no to a call that has landed. The yes stands: webhooks overtake each other.

    A person may want to know all the same, for the API has no one word on its effect.
    """
    step = saga.steps.get(heard.event.step)
    refused = isinstance(heard.event, WebhookRefused)
    return refused and step is not None and step.phase is Phase.SUCCEEDED


def _believe(versions: list[list[Said]]) -> None:
    """Raise WireError 401 for a webhook that no version believes.

    One version is enough: the API may sign for the newest in a way that no earlier one knows.
    """
    doubts = [_doubt(ends) for ends in versions]
    if doubts and None not in doubts:
        raise WireError(
            401,
            "Webhook not verified",
            f"the webhook is not believed: {doubts[0]}",
            hint="give this stage the secret of the API as webhook_secret_file, and the right time",
            retryable=True,
        )


def _doubt(ends: list[Said]) -> NotVerified | None:
    """Why one version does not believe it; None where a function of its has a word on it."""
    if any(isinstance(said, Heard) for said in ends):
        return None
    return next((said for said in ends if isinstance(said, NotVerified)), None)


def _waits_for(service: Service, saga: Saga, heard: Heard) -> bool:
    """Whether that saga is meant by a number. A failed order may be tried again as another."""
    if saga.ended or saga.steps[heard.event.step].phase is Phase.REFUSED:
        return False
    return not heard_before(saga.under(service.participant.plan), saga, heard.event)


async def _known_by(service: Service, version: int, saga_id: str, heard: Heard) -> Snapshot | None:
    """The saga, if the call of it that the webhook speaks of was begun here.

    A version speaks for its own sagas: no other one could read its result (rule 32).
    """
    snapshot = None
    with suppress(PastRetention):  # over for long: it needs no word any more
        snapshot = await service.engine.get_saga(saga_id) if saga_id else None
    if snapshot is None:
        return None
    if version != _speaker(service, snapshot.row.version):
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


def _speaker(service: Service, accepted_by: int) -> int:
    """The version whose word counts for a saga: the newest where its own is declared no more."""
    declared = {each.plan.version for each in family_of(service.participant)}
    return accepted_by if accepted_by in declared else service.participant.plan.version


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
