"""Saga: where one saga stands, what happened, and what may be done with it, each first shown."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from stage.console import draw
from stage.console.asks import Problem, Reader
from stage.console.forms import Form, read_form, signed
from stage.core.advice import MEANINGS, phase_in_words, way_out
from stage.core.describe import event_in_words
from stage.core.errors import NewerJournal
from stage.core.states import Phase
from stage.inbound.request import Answer, Request
from stage.inbound.service import Service
from stage.wire.duration import duration
from stage.wire.elapsed import elapsed
from stage.wire.envelope import path_of_saga
from stage.wire.problem import WireError
from stage.wire.replies import UNKNOWN_REQUESTER
from stage.wire.views import JournalView, SagaView, StepView, VerbsView

MILLISECONDS_BELOW: Final = 10.0
"""Longer ones are told in seconds, minutes and so on."""
ANEW: Final = ("anew", "new_key")
"""The requests of a retry other than the stored one."""
LANDED: Final = {"yes": "yes, it happened", "no": "no, nothing happened"}
"""The claims of settle. A person has to choose: neither may be made by overlooking the question."""
AWAITING: Final = Phase.AWAITING_APPROVAL.value


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A verb, and why it is not allowed now: empty where it is. `steps` are those it may name.

    `shown` are the lines that a person is to know before an approval.
    """

    verb: str
    meaning: str
    why_not: str = ""
    steps: list[str] = []
    shown: list[tuple[str, str]] = []


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the forecast of a compensation."""

    step: str
    kind: str
    peer: str | None
    standing: str
    prospect: str


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """The effect that a request to compensate would have."""

    steps: list[Line]
    standing: str


async def saga(service: Service, request: Request, *, trace_url: str) -> Answer:
    """The saga with its steps, its journal and its verbs."""
    reader = Reader(service, request)
    path = path_of_saga(request.parameters["saga_id"])
    found = await reader.get(SagaView, path)
    query = request.query_values()
    after = query.get("after", ["0"])[0]
    journal = await _journal(reader, path, after)
    verbs = await reader.get(VerbsView, path, [("view", "verbs")])
    return draw.page(
        "saga.html",
        request,
        service.clock.now(),
        saga=found,
        trace_url=trace_url,
        elapsed=_elapsed(found, journal, service.clock.now()) if after == "0" else {},
        entries=[(each, event_in_words(each["event"], each)) for each in journal.entries],
        next=journal.next,
        choices=[
            Choice(
                verb=each.verb,
                meaning=MEANINGS[each.verb],
                why_not=each.why_not or "",
                steps=each.steps,
                shown=_lines(each.shown),
            )
            for each in verbs.verbs
        ],
        landed=LANDED,
        way_out=way_out(found.parked_cause, found.standing),
        phases={
            each.name: phase_in_words(found.state, each.phase, each.standing)
            for each in found.steps
        },
        asked=next((each.name for each in found.steps if each.phase == AWAITING), ""),
        did=next((verb for verb in MEANINGS if verb in query.get("did", ())), ""),
    )


async def _journal(reader: Reader, path: str, after: str) -> JournalView:
    """A page of the journal; an empty one where only another release can read it: the saga says so.

    Its own page would be the only one that could not be seen.
    """
    try:
        return await reader.get(JournalView, path, [("view", "journal"), ("after", after)])
    except NewerJournal:
        return JournalView(saga_id=reader.request.parameters["saga_id"], entries=[], next=None)


def _elapsed(found: SagaView, journal: JournalView, now: float) -> dict[str, str]:
    """By step how long it took, or has taken so far; nothing where its entries are on a later page.

    The beginning of a transaction is not journaled: it is the commit that has its end.
    """
    said = {}
    for step in found.steps:
        passed = elapsed(step, journal.entries, now)
        if passed is not None and journal.next is None:
            said[step.name] = f"{passed:.3f} s" if passed < MILLISECONDS_BELOW else duration(passed)
    return said


async def press_saga(service: Service, request: Request) -> Answer:
    """Show what a verb would do, or do it and show the saga."""
    reader = Reader(service, request)
    saga_id = request.parameters["saga_id"]
    form = await read_form(request)
    verb = form.text("verb")
    if verb not in MEANINGS:
        raise WireError(
            400, "No such verb", "the form names no verb", hint=f"one of {', '.join(MEANINGS)}"
        )
    before = await reader.get(SagaView, path_of_saga(saga_id))
    problem: Problem | None = None
    after: SagaView | None = None
    forecast: Forecast | None = None
    if verb == "compensate" and not form.acts:
        forecast = await reader.get(Forecast, path_of_saga(saga_id), [("view", "plan")])
    else:
        path, key = f"{path_of_saga(saga_id)}/{verb}", form.key if form.acts else ""
        answer = await reader.post(path, _order(reader, verb, form), key)
        if not isinstance(answer, Problem) and form.acts:
            return draw.to(request, f"{path_of_saga(saga_id)}?{urlencode({'did': verb})}")
        if isinstance(answer, Problem):
            problem = answer
        else:
            after = msgspec.convert(answer, SagaView)
    return draw.page(
        "press.html",
        request,
        service.clock.now(),
        200 if problem is None else problem.status,
        verb=verb,
        meaning=MEANINGS[verb],
        before=before,
        after=after,
        changes=[] if after is None else _changes(before.steps, after.steps),
        claim=_claim(form) if verb == "settle" else [],
        forecast=forecast,
        problem=problem,
        fields=form.rest("press", "key"),
    )


def _order(reader: Reader, verb: str, form: Form) -> dict[str, Any]:
    """The body for the API; what the form leaves out is left to the API to ask for."""
    if verb == "compensate":
        principal = reader.request.about.principal
        # No neighbour's name has a blank: an upstream is not notified of what it asked for itself.
        name = "" if principal.name else f"operator {form.text('actor')}"
        return {"requested_by": name or UNKNOWN_REQUESTER, "reason": form.text("reason")}
    order = signed(reader, form, dry_run=not form.acts)
    if verb in ("settle", "resolve", "abandon", "approve", "reject") and form.text("step"):
        order["step"] = form.text("step")
    if verb == "retry" and form.text("request") in ANEW:
        order |= {"anew": True, "new_key": form.text("request") == "new_key"}
        if form.text("step"):
            order["step"] = form.text("step")
    if verb == "settle" and form.text("landed") in LANDED:
        order["landed"] = form.text("landed") == "yes"
        if form.text("result"):
            order["result"] = _result(form.text("result"))
    return order


def _claim(form: Form) -> list[tuple[str, str]]:
    """The claim of a person about the world, as the order holds it."""
    return [
        ("Step", form.text("step")),
        ("Has it landed?", LANDED.get(form.text("landed"), "")),
        ("Its result", form.text("result") or "none given"),
    ]


def _lines(shown: Any) -> list[tuple[str, str]]:
    """The words for a person, a line a member."""
    if shown is None:
        return []
    members = shown.items() if isinstance(shown, dict) else [("shown", shown)]
    return [(str(name), _text(value)) for name, value in members]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _result(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise WireError(
            400, "Result not understood", "the result is no JSON", hint='such as {"id": "ch_1"}'
        ) from None


def _changes(before: list[StepView], after: list[StepView]) -> list[tuple[str, str, str]]:
    """The steps whose phase would change: name, before, after."""
    were = {step.name: step.phase for step in before}
    return [
        (step.name, were.get(step.name, ""), step.phase)
        for step in after
        if step.phase != were.get(step.name)
    ]
