"""The verbs of an operator: when each is allowed, and what it does to a saga (rule 14).

| Verb    | Allowed when                                     | Then                          |
|---------|--------------------------------------------------|-------------------------------|
| retry   | it waits, is parked, or failed to undo or tell   | all that is due is tried now  |
|  --anew | the undo of a call waits, failed, or was made    | its request is made again     |
|         | and is looked for                                |                               |
| settle  | the step is in doubt                             | it landed, or it did not      |
| resolve | the step could not be undone, or its undo waits  | it counts as undone           |
| abandon | it is parked, or an undo waits                   | it ends with what stands      |
| forget  | it is parked or has ended                        | nothing more is ever done     |
| approve | the step awaits approval                         | the saga goes on              |
| reject  | the step awaits approval                         | the saga turns back           |

No verb acts while an attempt is in flight: its end could contradict the person. A refusal for a
saga that is parked names the verbs that are allowed, of which there is always one. A saga that fits
no version declared here (rule 32) cannot be retried, and everything of it may be resolved or
abandoned; a saga that a newer release accepted is left to that release.
"""

from __future__ import annotations

from typing import Any, assert_never

import msgspec
from msgspec.structs import replace

from stage.core import events as e
from stage.core.age import age_at
from stage.core.questions import (
    PROBES_NOT_THERE_MIN,
    is_in_flight,
    must_be_settled,
    past_pivot,
    pivot_given_up,
    pivot_undecided,
    steps_in_flight,
)
from stage.core.saga import Saga, StepState
from stage.core.states import EXTERNAL_KINDS, Phase, SagaState, Tell
from stage.core.steps import Plan, Step

WAITING = frozenset({Phase.WAITING, Phase.IN_DOUBT, Phase.PENDING, Phase.COMPENSATION_WAITING})


def refuse_verb(plan: Plan, saga: Saga, verb: e.Verb) -> str | None:
    """The reason why the verb is not allowed now, with the way out; None when it is allowed."""
    if is_in_flight(saga):
        attempts = ", ".join(steps_in_flight(saga)) or "telling upstream"
        return f"an attempt is in flight ({attempts}): wait until it has ended, then ask again"
    if saga.forgotten:
        return "the saga is forgotten: nothing more can be done for it"
    if plan.newer:
        return f"{plan.misfit}: it goes on when that release is deployed again"
    why = _why_not(plan, saga, verb)
    return with_ways_out(plan, saga, why) if why is not None and saga.parked else why


def with_ways_out(plan: Plan, saga: Saga, why: str) -> str:
    """The reason why something cannot be done to a parked saga, and the verbs that can."""
    return f"{why}; allowed now: {', '.join(_allowed(plan, saga))}"


def _allowed(plan: Plan, saga: Saga) -> list[str]:
    """The verbs that a person has now, in the order of the harm that they may do."""
    who: dict[str, Any] = {"at": saga.updated_at, "actor": "", "why": ""}
    doubtful = [] if saga.ended else _doubtful(plan, saga)
    found = {
        "retry": _refuse_retry(plan, saga, e.Retried(**who)) is None,
        f"settle {', '.join(doubtful)}": bool(doubtful),
        "compensate": _can_turn_back(plan, saga),
        "resolve": bool(resolvable(plan, saga)),
        "abandon": _refuse_abandon(plan, saga, e.Abandoned(**who)) is None,
        "forget": bool(saga.parked or saga.ended),
    }
    return [verb for verb, allowed in found.items() if allowed]


def _can_turn_back(plan: Plan, saga: Saga) -> bool:
    """Whether a request to compensate makes it go back, which it does not yet."""
    stuck = plan.misfit or past_pivot(plan, saga) or pivot_undecided(plan, saga)
    return saga.state is SagaState.ACTIVE and not stuck


def _until_parked(plan: Plan, saga: Saga) -> str:
    """The way out of a saga that goes on by itself."""
    verb = "compensate it, or " if _can_turn_back(plan, saga) else ""
    if saga.state is SagaState.COMPENSATING:
        verb = "abandon it, or "
    return f"{verb}wait until it is parked"


def _why_not(plan: Plan, saga: Saga, verb: e.Verb) -> str | None:
    match verb:
        case e.Retried():
            return _refuse_retry(plan, saga, verb)
        case e.Settled():
            return _refuse_settle(plan, saga, verb)
        case e.Resolved():
            return _refuse_resolve(plan, saga, verb)
        case e.Abandoned():
            return _refuse_abandon(plan, saga, verb)
        case e.Forgotten():
            if saga.parked or saga.ended:
                return None
            return f"it is still being worked on: {_until_parked(plan, saga)}"
        case e.Approved() | e.Rejected():
            return _refuse_decision(plan, saga, verb)
        case _:
            assert_never(verb)


def _refuse_retry(plan: Plan, saga: Saga, verb: e.Retried) -> str | None:
    if plan.misfit and not saga.ended:
        return f"{plan.misfit}; until then nothing of it is run"
    if not _can_retry(saga):
        return "nothing of it waits: there is nothing to retry"
    if not verb.anew:
        return None
    waiting = made_anew(plan, saga)
    if not waiting:
        return "no undo of a call waits, failed or is looked for: only that can be made anew"
    if verb.step and verb.step not in waiting:
        return (
            f"the undo of {verb.step!r} neither waits nor failed, or is no call; those that do:"
            f" {', '.join(waiting)}"
        )
    if verb.new_key and not verb.step and len(waiting) > 1:
        return f"a new key is ordered for one undo: name a step of {', '.join(waiting)}"
    if verb.new_key:
        return _refuse_new_key(saga, verb.step or waiting[0])
    return None


def _refuse_new_key(saga: Saga, name: str) -> str | None:
    """An undo that was answered counts until its API says that the effect stands, or nothing."""
    step = saga.steps[name]
    if _unconfirmed(step):
        return (
            f"the undo of {name!r} was made, and it is looked for whether anything stands: under a"
            " new key it might be made twice. Where you know that it stands, settle it as landed,"
            " and it is undone under a new key; otherwise wait, or leave the key as it is"
        )
    if step.ordered_anew and step.phase is Phase.COMPENSATION_WAITING:
        return (
            f"the undo of {name!r} was made, and is to be made anew under its key: under a new key"
            " it might be made twice. Resolve it where you know that nothing of it stands;"
            " otherwise wait, or retry it now with the key as it is"
        )
    return None


def made_anew(plan: Plan, saga: Saga) -> list[str]:
    """The steps whose undo a retry may have asked for by another request, or under another key."""
    return [name for name, step in saga.steps.items() if _can_be_made_anew(plan, name, step)]


def _can_be_made_anew(plan: Plan, name: str, step: StepState) -> bool:
    return _may_be_resolved(step) and plan.step(name).kind in EXTERNAL_KINDS


def _can_retry(saga: Saga) -> bool:
    waits = any(step.phase in WAITING for step in saga.steps.values())
    return bool(saga.parked or saga.tell in (Tell.DUE, Tell.REFUSED) or (waits and not saga.ended))


def _refuse_settle(plan: Plan, saga: Saga, verb: e.Settled) -> str | None:
    doubtful = _doubtful(plan, saga)
    if verb.step not in plan.by_name:
        return f"there is no step {verb.step!r}: the steps are {', '.join(plan.by_name)}"
    if verb.step not in doubtful or saga.ended:
        if not doubtful or saga.ended:
            return "no step of it is in doubt"
        return f"step {verb.step!r} is not in doubt; in doubt: {', '.join(doubtful)}"
    return None


def _doubtful(plan: Plan, saga: Saga) -> list[str]:
    return [n for n, step in saga.steps.items() if n in plan.by_name and _in_doubt(step)]


def _in_doubt(step: StepState) -> bool:
    phases = (Phase.IN_DOUBT, Phase.PENDING, Phase.WAITING, Phase.REFUSED)
    return (step.doubted or step.may_come) and step.phase in phases


def _refuse_resolve(plan: Plan, saga: Saga, verb: e.Resolved) -> str | None:
    names = resolvable(plan, saga)
    if not names:
        return "nothing of it failed to be undone, or waits to be: there is nothing to resolve"
    if verb.step and verb.step not in names:
        return (
            f"the undo of {verb.step!r} neither failed nor waits; those that do: {', '.join(names)}"
        )
    if verb.step and pivot_undecided(plan, saga):
        return f"{_UNDECIDED} or resolve all of it"
    return None


_UNDECIDED = (
    "nobody knows whether its pivot has happened, and the rest would be undone around it: settle"
    " the pivot first,"
)


def resolvable(plan: Plan, saga: Saga) -> list[str]:
    """The steps that a person may have undone by hand: ours has failed, waits, or cannot begin."""
    if plan.misfit and not saga.ended:
        return left_standing(plan, saga)
    return [name for name, step in saga.steps.items() if _may_be_resolved(step)]


def _may_be_resolved(step: StepState) -> bool:
    """Its undo failed, waits, or was made and nobody could confirm it so far."""
    phases = (Phase.COMPENSATION_FAILED, Phase.COMPENSATION_WAITING)
    return _unconfirmed(step) or step.phase in phases


def _unconfirmed(step: StepState) -> bool:
    """Its undo was answered, and the probe is asked whether anything stands."""
    return step.phase is Phase.IN_DOUBT and step.looked_for


def left_standing(plan: Plan, saga: Saga) -> list[str]:
    """The steps whose effects may stand and should not; behind the pivot, all that may stand."""
    final = past_pivot(plan, saga)
    return [
        name
        for name, step in saga.steps.items()
        if step.may_stand
        and (final or step.doubted or step.may_come or plan.step(name).compensatable)
    ]


def _refuse_abandon(plan: Plan, saga: Saga, verb: e.Abandoned) -> str | None:
    if saga.ended:
        return "it has ended, and upstream is notified of what stands: nothing is left to abandon"
    if not saga.parked and saga.state is SagaState.ACTIVE:
        return f"it is still on its way forward: {_until_parked(plan, saga)}"
    left = left_standing(plan, saga)
    if verb.step and verb.step not in left:
        return f"nothing of step {verb.step!r} has to be undone; of these: {', '.join(left)}"
    if verb.step and past_pivot(plan, saga):
        return "it is behind its pivot, where no step is undone: abandon it whole"
    if verb.step and pivot_undecided(plan, saga):
        return f"{_UNDECIDED} or abandon it whole"
    return None


def _refuse_decision(plan: Plan, saga: Saga, verb: e.Approved | e.Rejected) -> str | None:
    """A decision counts once, for the step that it names, and while the saga waits for it."""
    if saga.state is not SagaState.ACTIVE:
        return f"the saga is {saga.state.value.replace('_', ' ')}: no approval is asked for"
    if plan.misfit or saga.parked:
        return f"it is parked, and decided when it goes on: {plan.misfit or saga.parked}"
    waiting = [n for n, step in saga.steps.items() if step.phase is Phase.AWAITING_APPROVAL]
    if verb.step in waiting:
        return None
    known = saga.steps.get(verb.step)
    if known is not None and known.phase is Phase.SUCCEEDED:
        return f"step {verb.step!r} has been decided, or has run: nothing of it waits"
    return (
        f"step {verb.step!r} does not await approval; those that do: {', '.join(waiting) or 'none'}"
    )


def _failed(saga: Saga) -> list[str]:
    return [n for n, step in saga.steps.items() if step.phase is Phase.COMPENSATION_FAILED]


def evolve_verb(plan: Plan, saga: Saga, verb: e.Verb) -> Saga:
    """The state after the verb."""
    match verb:
        case e.Retried():
            return _retry(plan, saga, verb)
        case e.Settled():
            return _settle(saga, verb)
        case e.Resolved():
            return _resolve(plan, saga, verb)
        case e.Abandoned():
            return _abandon(plan, saga, verb)
        case e.Forgotten():
            return replace(saga, forgotten=True, parked="", parked_cause=None, tell=Tell.NO)
        case e.Approved():
            return _approve(saga, verb)
        case e.Rejected():
            said = "the approval was rejected"
            rejected = refused_approval(saga.steps[verb.step], said)
            return replace(saga, steps={**saga.steps, verb.step: rejected})
        case _:
            assert_never(verb)


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """The yes of a person: the result of a step that asked for it. `at` is in UTC seconds."""

    by: str
    reason: str
    at: float


def _approve(saga: Saga, verb: e.Approved) -> Saga:
    approval = Approval(by=verb.actor, reason=verb.why, at=verb.at)
    approved = replace(
        saga.steps[verb.step],
        phase=Phase.SUCCEEDED,
        result=msgspec.Raw(msgspec.json.encode(approval)),
        error="",
        shown=None,
    )
    return replace(saga, steps={**saga.steps, verb.step: approved})


def refused_approval(step: StepState, said: str) -> StepState:
    """The step without the yes that it asked for; nothing of it stands.

    Neighbours may read `said`. The name and the reason of a person are in the journal alone.
    """
    return replace(step, phase=Phase.REFUSED, error=said, said=said, shown=None)


def doubting_on_the_way_back(
    plan: Plan, steps: dict[str, StepState], at: float
) -> dict[str, StepState]:
    """On the way back a pending call is looked for as one in doubt is, and then undone.

    So is one whose no for now nobody vouches for, where it has a probe: its undo is to know the
    result, if there is one. Nobody is asked for an approval any more.
    """
    return {name: not_waited_for(plan.by_name.get(name), step, at) for name, step in steps.items()}


def not_waited_for(rules: Step | None, step: StepState, at: float) -> StepState:
    """The step as it is on the way back, see `doubting_on_the_way_back`."""
    if step.phase is Phase.PENDING:
        return replace(step, phase=Phase.IN_DOUBT, due=at)
    ended = step.phase in (Phase.WAITING, Phase.REFUSED)
    if step.may_come and ended and rules is not None and rules.probed:
        return replace(step, phase=Phase.IN_DOUBT, probes=0, not_there=0, due=at)
    return not_asked_for(step)


def not_asked_for(step: StepState) -> StepState:
    """The step; an approval that a person is still asked for is refused."""
    if step.phase is Phase.AWAITING_APPROVAL:
        return refused_approval(step, "the saga was to be undone before it was approved")
    return step


def _retry(plan: Plan, saga: Saga, verb: e.Retried) -> Saga:
    steps = {
        name: step
        if _stays_refused(plan, saga, name) or _stays_given_up(plan, saga, name)
        else _try_again(plan, saga, name, verb)
        for name, step in saga.steps.items()
    }
    state, stands = saga.state, saga.stands
    if saga.state is SagaState.FAILED_TO_COMPENSATE and _failed(saga):
        state, stands = SagaState.COMPENSATING, ()
    tried_now = _notified_anew(saga, verb.at) if saga.tell is Tell.DUE else saga
    taken_up = replace(tried_now, steps=steps, state=state, stands=stands)
    return waits_no_more(taken_up, verb.at)


def waits_no_more(saga: Saga, at: float) -> Saga:
    """The saga without its park. Every act and word that ends one comes by here.

    Where upstream could not be notified, the park was all that said so: it is notified anew, since
    it believes its yes until then (rule 22).
    """
    free = replace(saga, parked="", parked_cause=None)
    return _notified_anew(free, at) if saga.tell is Tell.REFUSED else free


def _notified_anew(saga: Saga, at: float) -> Saga:
    return replace(
        saga, tell=Tell.DUE, tell_due=at, tell_since=None, tell_not_understood_since=None
    )


def _try_again(plan: Plan, saga: Saga, name: str, verb: e.Retried) -> StepState:
    step = _anew(plan, name, saga.steps[name], verb)
    taken_up = _taken_up_again(plan.by_name.get(name), step, saga.state)
    return _forgive(taken_up, verb.at, age_at(saga, verb.at))


def _stays_refused(plan: Plan, saga: Saga, name: str) -> bool:
    """True of a business no, which is not tried again: the saga turns back for it (rule 4).

    So does it where an approval was rejected. Behind the pivot, which a restore can leave ahead of
    its approval, there is no other way; and a saga waits for a pivot whose no leaves a doubt.
    """
    step = saga.steps[name]
    if step.phase is not Phase.REFUSED or past_pivot(plan, saga):
        return False
    rules = plan.by_name.get(name)
    return not (rules is not None and rules.pivot and (step.doubted or step.may_come))


def _stays_given_up(plan: Plan, saga: Saga, name: str) -> bool:
    """True of an undo that failed for good, and that no further try can make.

    A step without a compensation has none, and would not be listed any more. Around a pivot that
    was given up nothing is undone either, because it may have happened: a person resolves it.
    """
    if saga.steps[name].phase is not Phase.COMPENSATION_FAILED:
        return False
    return not plan.step(name).compensatable or pivot_given_up(plan, saga)


def _anew(plan: Plan, name: str, step: StepState, verb: e.Retried) -> StepState:
    """The step with the request of its undo to be made again, where that was ordered (rule 31)."""
    if not verb.anew or verb.step not in ("", name) or not _can_be_made_anew(plan, name, step):
        return step
    again = replace(step, looked_for=False, compensation_requests=())
    if _unconfirmed(step):
        # The answered one may have done it all: no repeat under a key that the API has forgotten.
        again = replace(
            again,
            phase=Phase.COMPENSATION_WAITING,
            compensation_doubted=True,
            ordered_anew=True,
        )
    return under_a_new_key(again) if verb.new_key else again


def under_a_new_key(step: StepState) -> StepState:
    """The step whose next undo the API takes for another one: it answers a known key as before.

    Another request has attempts and patience of its own: those before it brought nothing.
    """
    return replace(
        step,
        ordered_anew=False,
        compensation_requests=(),
        compensation_keys=step.compensation_keys + 1,
        compensation_forgiven=step.compensation_attempts,
        compensation_started_at=None,
        compensation_since=None,
    )


def known_to_stand(step: StepState) -> StepState:
    """The step whose result came to light; behind an undo, the next one has to know it."""
    return under_a_new_key(step) if step.looked_for else step


def _taken_up_again(rules: Step | None, step: StepState, state: SagaState) -> StepState:
    """The step that was given up, where it is tried again."""
    doubtful = step.doubted or step.may_come
    if step.phase is Phase.COMPENSATION_FAILED:
        # An answered undo that nobody could confirm is looked for again, for the same undo would be
        # answered as before. So is a doubt that was abandoned before anything of it was undone.
        looks = rules is not None and rules.probed and step.looked_for
        unsure = looks or (doubtful and not step.compensation_attempts)
        phase = Phase.IN_DOUBT if unsure and step.result is None else Phase.COMPENSATION_WAITING
        return replace(step, phase=phase, stands=())
    if step.phase is Phase.REFUSED and state is SagaState.ACTIVE:
        # A refusal may leave a doubt: without keys that is looked for, or settled, as any other.
        unsettled = doubtful and rules is not None and must_be_settled(rules, step)
        return replace(step, phase=Phase.IN_DOUBT if unsettled else Phase.WAITING)
    return step


def _forgive(step: StepState, at: float, age: float) -> StepState:
    if step.phase not in WAITING:
        return step
    return replace(
        step,
        due=at,
        changed=False,
        final=False,
        probes=0,
        # The next probe comes at once, and two that are to count have to be apart (rule 5).
        not_there=step.not_there if step.not_there >= PROBES_NOT_THERE_MIN else 0,
        forgiven=step.attempts,
        compensation_forgiven=step.compensation_attempts,
        pendings=0,
        pending_since=None if step.pending_since is None else age,
        not_understood_since=None,
        since=age,
        # The look behind an undo makes no attempt that would set it.
        compensation_since=age if step.looked_for else None,
    )


def _settle(saga: Saga, verb: e.Settled) -> Saga:
    step = saga.steps[verb.step]
    if verb.landed:
        settled = replace(
            known_to_stand(step),
            phase=Phase.SUCCEEDED,
            doubted=False,
            may_come=False,
            result=verb.result,
            error="",
            due=verb.at,
        )
    else:
        phase = Phase.WAITING if saga.state is SagaState.ACTIVE else Phase.REFUSED
        if step.phase is Phase.REFUSED:
            phase = Phase.REFUSED
        settled = replace(
            step,
            phase=phase,
            doubted=False,
            may_come=False,
            # It never had an effect: today's code makes it again (rule 31), and nothing that was
            # known of that request says anything of the next one.
            requests=(),
            changed=False,
            not_there=0,
            pendings=0,
            pending_since=None,
            due=verb.at,
            forgiven=step.attempts,
        )
    return waits_no_more(replace(saga, steps={**saga.steps, verb.step: settled}), verb.at)


def _resolve(plan: Plan, saga: Saga, verb: e.Resolved) -> Saga:
    names = [verb.step] if verb.step else resolvable(plan, saga)
    compensated = {
        name: replace(saga.steps[name], phase=Phase.COMPENSATED, error="", stands=())
        for name in names
    }
    steps = {**doubting_on_the_way_back(plan, saga.steps, verb.at), **compensated}
    back = replace(saga, steps=steps, state=SagaState.COMPENSATING, stands=())
    return waits_no_more(back, verb.at)


def _abandon(plan: Plan, saga: Saga, verb: e.Abandoned) -> Saga:
    """The undo of these steps counts as failed; the saga goes back, and its end reports them."""
    names = [verb.step] if verb.step else left_standing(plan, saga)
    failed = {
        name: replace(saga.steps[name], phase=Phase.COMPENSATION_FAILED, error="abandoned")
        for name in names
    }
    back = replace(
        saga,
        steps={**doubting_on_the_way_back(plan, saga.steps, verb.at), **failed},
        state=SagaState.COMPENSATING,
        reason=saga.reason or f"abandoned: {verb.why}",
        detail=saga.detail or "an operator has abandoned it",
    )
    return waits_no_more(back, verb.at)
