"""Sagas of steps of mixed shapes, whose APIs, operator and neighbours act at any time.

A rule that was written with one shape in mind is seen here with two of them together.
"""

from __future__ import annotations

from random import Random
from typing import Any

from msgspec.structs import replace

from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record, Rest
from stage.core.machine import asked_before, decide, evolve, heard_before
from stage.core.questions import past_pivot
from stage.core.retry import RetryPolicy
from stage.core.saga import Saga
from stage.core.states import EXTERNAL_KINDS, ParkCause, Phase, SagaState
from stage.core.steps import Plan, Step, StepKind, plan_of
from stage.core.verbs import refuse_verb, resolvable
from tests.unit.core.world import ONE

TURNS_WITH_FAULTS = 60
TURNS_MAX = 2_000
ONCE = RetryPolicy(attempts_max=1)


def plan_of_mixed(dice: Random) -> Plan:
    """Two to four steps, each of a shape of its own, and perhaps a downstream."""
    count, pivot = dice.randint(2, 4), dice.choice((None, None, 0, 1, 2))
    group = "" if pivot is not None or dice.random() < 0.5 else "together"
    steps = tuple(_step(dice, f"s{index}", index, pivot) for index in range(count))
    if group:
        steps = tuple(replace(step, group=group) for step in steps)
    return replace(
        plan_of("mixed", steps, ("shipping",) if dice.random() < 0.5 else ()),
        patience_seconds=dice.choice((600.0, 86_400.0)),
    )


def _step(dice: Random, name: str, index: int, pivot: int | None) -> Step:
    is_pivot, behind = index == pivot, pivot is not None and index > pivot
    kind = dice.choice((StepKind.CALL, StepKind.CALL, StepKind.EFFECT, StepKind.TRANSACTION))
    if kind is StepKind.TRANSACTION and not is_pivot:
        return Step(name=name, kind=kind, compensatable=not behind)
    probed = dice.random() < 0.6
    compensatable = not (is_pivot or behind) and dice.random() < 0.9
    return Step(
        name=name,
        kind=StepKind.CALL if is_pivot else kind,
        peer="api",
        compensatable=compensatable,
        probed=probed,
        pivot=is_pivot,
        hooked=dice.random() < 0.5,
        idempotent=dice.random() < 0.6,
        probe_after_undo=probed and compensatable and dice.random() < 0.6,
        pending_seconds_max=dice.choice((300.0, 30_000.0)),
        settlement=dice.choice((ONCE, RetryPolicy(attempts_max=6))),
        compensation=dice.choice((ONCE, RetryPolicy(attempts_max=None))),
    )


class Api:
    """The truth about one step."""

    def __init__(self) -> None:
        self.made = 0
        self.stands = self.refused = False
        self.unsettled = self.unasked = self.said_no = self.changed = False
        self.looks = 0
        """Answers "not there" since the latest attempt of which nobody knows the end."""
        self.answered: set[int] = set()
        """The keys of undos that it has answered: it answers them as before, and does nothing."""
        self.in_vain = 0
        """The last key of an undo that was answered without a result, and did nothing."""


class Walk:
    """One saga from its acceptance to its end."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)
        self.plan = plan_of_mixed(self.dice)
        self.apis = {step.name: Api() for step in self.plan.steps}
        self.now, self.faults, self.given_up = 1_000.0, True, False
        self.saga = Saga(id=f"seed-{seed}")
        self.journal: list[e.Event] = []
        self.in_flight: list[Do] = []
        self.owed: list[e.WebhookFound] = []
        """Words of calls that landed behind a no: without these nobody would ever know."""
        deadline = self.dice.choice((None, 1_030.0, 1_600.0))
        self.record(e.Accepted(at=self.now, deadline=deadline))

    # --- the books ---

    def record(self, event: e.Event) -> None:
        """Journal and fold."""
        heard = self.saga.heard
        self.saga = evolve(self.plan, self.saga, event)
        self.journal.append(event)
        self.note(event)
        for name in {*heard, *([event.step] if isinstance(event, e.WebhookRefused) else [])}:
            if (
                self.saga.steps[name].phase is Phase.REFUSED
            ):  # a word that counted behind an attempt
                self.apis[name].said_no, self.apis[name].unsettled = True, False

    def note(self, event: e.Event) -> None:
        """Keep the word of the event on an attempt."""
        match event:
            case e.StepInDoubt(changed=True):
                self.apis[event.step].changed = True
            case e.StepStarted():
                self.apis[event.step].changed = False
            case e.ProbeStarted():
                self.apis[event.step].unasked = False
            case e.Parked(cause=ParkCause.REQUEST_CHANGED):
                assert any(api.changed for api in self.apis.values()), "no request was changed"
            case e.StepInDoubt() | e.StepPending():
                self.doubt(event.step)
            case e.StepTransient() if event.may_come:
                self.doubt(event.step)
                self.apis[event.step].unasked = True
            case e.ProbeNotThere():
                api = self.apis[event.step]
                api.looks += 1
                api.unsettled = api.unsettled and api.looks < 2
            case e.StepRefused():
                self.apis[event.step].said_no = True
            case e.ProbeRefused():
                self.apis[event.step].said_no, self.apis[event.step].unsettled = True, False
            case e.Retried():
                for name, step in self.saga.steps.items():
                    if self.plan.step(name).pivot:  # taken up, for its no left a doubt
                        self.apis[name].said_no &= step.phase is Phase.REFUSED
            case e.Settled(landed=False):
                self.apis[event.step].unsettled = self.apis[event.step].unasked = False
            case _:
                return

    def doubt(self, step: str) -> None:
        """An attempt of it may stand, and nobody has looked since."""
        self.apis[step].unsettled, self.apis[step].looks = True, 0

    def check(self, do: Do) -> None:
        """Raise for an attempt that may not leave."""
        step, api = self.plan.step(do.step), self.apis[do.step]
        known, forward = self.saga.steps.get(do.step), past_pivot(self.plan, self.saga)
        if do.kind is AttemptKind.EXECUTE:
            doubted = step.pivot and known is not None and known.doubted
            asked = self.saga.requested_by and not forward
            assert not asked or doubted, "sent after the saga was to be undone"
            assert not api.said_no or forward or doubted, "a business no was tried again (rule 4)"
            assert step.idempotent or not api.unsettled, "repeated at an API without keys (rule 5)"
        if do.kind is AttemptKind.COMPENSATE:
            assert known is not None
            knows = known.result is not None and api.in_vain
            blind = known.result is None and step.probed and api.unasked
            assert not blind, "undone without a look that its probe could take"
            assert not knows or known.compensation_keys > api.in_vain, "undone under an old key"
            paid = any(self.apis[each.name].stands for each in self.plan.steps if each.pivot)
            assert not paid or self.given_up, "undone around a pivot that has happened"

    # --- the events ---

    def play(self) -> None:
        """Faults first, and then none: it has to come to its end (liveness)."""
        for turn in range(TURNS_MAX):
            self.faults = turn < TURNS_WITH_FAULTS
            if not self.faults and self.over:
                return
            self.turn()
        raise AssertionError(f"it never ends: {self.saga.parked or self.journal[-6:]}")

    @property
    def over(self) -> bool:
        """True when nothing more would ever happen."""
        rests = self.saga.ended and not self.saga.parked
        return rests and not (self.in_flight or self.owed)

    def happens(self, chance: float) -> bool:
        """True with that chance, while there are faults."""
        return self.faults and self.dice.random() < chance

    def turn(self) -> None:
        """One of all the things that may be next."""
        self.now += self.dice.random()
        if self.happens(0.05):
            self.crash()
        if self.happens(0.03):
            self.ask_to_compensate()
        if self.owed and (self.happens(0.2) or not self.faults):
            self.hear(self.owed.pop())
        if self.happens(0.05):
            self.repeat_a_webhook()
        if self.in_flight and self.dice.random() < 0.6:
            self.finish(self.in_flight.pop(self.dice.randrange(len(self.in_flight))))
            return
        for command in decide(self.plan, self.saga, self.now):
            match command:
                case Record():
                    self.record(command.event)
                case Do():
                    self.check(command)
                    self.start(command)
                case Rest():
                    self.rest(command)

    def rest(self, rest: Rest) -> None:
        """Nothing is due: time goes by, or a person acts."""
        if self.in_flight:
            return
        if self.saga.parked and (not self.faults or self.dice.random() < 0.3):
            self.act()
        elif rest.until is not None:
            self.now = max(self.now, rest.until)

    def crash(self) -> None:
        """Each attempt in flight lands or not, and nobody hears of it."""
        for do in self.in_flight:
            if do.kind is AttemptKind.EXECUTE:
                self.land(do, self.dice.random() < 0.5)
                self.doubt(do.step)
            elif do.kind is AttemptKind.COMPENSATE and self.dice.random() < 0.5:
                self.undo(do)
        self.in_flight.clear()
        self.record(e.Recovered(at=self.now, epoch=self.saga.epoch + 1))

    def ask_to_compensate(self) -> None:
        asked = e.CompensationRequested(at=self.now, requested_by="order")
        if not asked_before(self.plan, self.saga, asked):
            self.record(asked)

    def hear(self, word: e.Webhook) -> None:
        word = replace(word, at=self.now)
        if not heard_before(self.plan, self.saga, word):
            self.record(word)

    def repeat_a_webhook(self) -> None:
        """The API tells the truth of now; it may say so late, and twice."""
        step = self.dice.choice(self.plan.steps)
        api = self.apis[step.name]
        if not step.hooked or step.name not in self.saga.steps:
            return
        if api.stands:
            self.hear(e.WebhookFound(at=self.now, step=step.name, result=ONE))
        elif api.refused and not api.made:
            self.hear(e.WebhookRefused(at=self.now, step=step.name, reason="declined"))

    def act(self) -> None:
        """A person does one of the things that are allowed, and tells the truth."""
        assert not self.saga.forgotten
        who: dict[str, Any] = {"actor": "kim", "why": "looked"}
        verbs: list[e.Verb] = [e.Retried(at=self.now, **who), e.Resolved(at=self.now, **who)]
        for name, api in self.apis.items():
            verbs.append(e.Settled(at=self.now, **who, step=name, landed=api.stands, result=ONE))
        if self.faults:
            verbs.append(e.Abandoned(at=self.now, **who))
        allowed = [v for v in verbs if refuse_verb(self.plan, self.saga, v) is None]
        assert allowed, f"no verb leads out: {self.saga.parked}"
        verb = self.dice.choice(allowed)
        if isinstance(verb, e.Resolved):
            for name in resolvable(self.plan, self.saga):
                self.apis[name].stands = False
        self.given_up = self.given_up or isinstance(verb, e.Abandoned | e.Resolved)
        self.record(verb)

    # --- attempts ---

    def start(self, do: Do) -> None:
        """The intent; a transaction ends with it."""
        step, at = self.plan.step(do.step), self.now
        local = step.kind is StepKind.TRANSACTION
        match do.kind:
            case AttemptKind.EXECUTE if local:
                self.transact(do)
                return
            case AttemptKind.EXECUTE:
                self.record(e.StepStarted(at=at, step=do.step, attempt=do.attempt))
            case AttemptKind.PROBE:
                self.record(e.ProbeStarted(at=at, step=do.step))
            case AttemptKind.COMPENSATE:
                self.record(e.CompensationStarted(at=at, step=do.step, attempt=do.attempt))
        if local:
            self.finish(do)
        else:
            self.in_flight.append(do)

    def transact(self, do: Do) -> None:
        if self.happens(0.04):
            self.record(e.StepRefused(at=self.now, step=do.step, reason="no", said=True))
        elif self.happens(0.1):
            self.record(e.StepTransient(at=self.now, step=do.step, reason="busy"))
        else:
            self.land(do, True)
            self.record(e.StepSucceeded(at=self.now, step=do.step, result=ONE))

    def finish(self, do: Do) -> None:
        """One attempt ends, well or badly."""
        match do.kind:
            case AttemptKind.EXECUTE:
                self.record(self.end_of_call(do, self.plan.step(do.step)))
            case AttemptKind.PROBE:
                self.record(self.end_of_probe(do.step, self.plan.step(do.step)))
            case _:
                self.record(self.end_of_undo(do))

    def land(self, do: Do, lands: bool) -> bool:
        """Whether its effect stands behind the attempt.

        An API that knows the key acts once, and the no of any API to a key is final: a webhook of
        it may come late, beside a later attempt.
        """
        api, step = self.apis[do.step], self.plan.step(do.step)
        if lands and not api.refused and not (step.idempotent and (api.made or api.answered)):
            api.made += 1
            api.stands = True
        return api.stands

    def end_of_call(self, do: Do, step: Step) -> e.Event:
        at, name, api = self.now, do.step, self.apis[do.step]
        if self.happens(0.2):
            self.land(do, self.dice.random() < 0.5)
            return e.StepInDoubt(at=at, step=name, reason="timeout")
        if self.happens(0.2):
            self.land(do, self.dice.random() < 0.3)
            return e.StepTransient(at=at, step=name, reason="429", may_come=True)
        if do.attempt > 1 and self.happens(0.2) and self.saga.steps[name].doubted:
            return e.StepInDoubt(at=at, step=name, reason="changed", changed=True)
        if self.happens(0.1):
            return e.StepTransient(at=at, step=name, reason="no connection")
        if self.happens(0.2) and step.kind in EXTERNAL_KINDS and (step.probed or step.hooked):
            api.refused = not self.land(do, self.dice.random() < 0.6)
            return e.StepPending(at=at, step=name, reason="3-D Secure")
        if self.happens(0.1) and step.hooked and step.compensatable and self.land(do, True):
            return self.untrue_no(e.StepRefused(at=at, step=name, reason="a page", said=True))
        if not self.faults and past_pivot(self.plan, self.saga):
            api.refused = False  # the cause of its no was mended
        if (api.refused or self.happens(0.1)) and not api.stands:
            api.refused = True
            return e.StepRefused(at=at, step=name, reason="declined", said=True)
        if self.land(do, True):
            return e.StepSucceeded(at=at, step=name, result=ONE)
        return e.StepRefused(at=at, step=name, reason="undone", said=True)

    def untrue_no(self, no: e.StepRefused | e.ProbeRefused) -> e.Event:
        """The no of a call that has landed: its API will tell by a webhook that it has."""
        self.owed.append(e.WebhookFound(at=self.now, step=no.step, result=ONE))
        return no

    def end_of_probe(self, name: str, step: Step) -> e.Event:
        at, api, known = self.now, self.apis[name], self.saga.steps[name]
        if self.happens(0.4):
            return e.ProbeFailed(at=at, step=name, reason="503")
        if known.pending_since is not None and self.happens(0.3):
            return e.ProbePending(at=at, step=name, reason="3-D Secure")
        if api.stands and step.hooked and step.compensatable and self.happens(0.4):
            return self.untrue_no(e.ProbeRefused(at=at, step=name, reason="a page"))
        if api.stands:
            return e.ProbeFound(at=at, step=name, result=ONE)
        if api.refused:
            return e.ProbeRefused(at=at, step=name, reason="declined")
        return e.ProbeNotThere(at=at, step=name)

    def end_of_undo(self, do: Do) -> e.Event:
        at, name = self.now, do.step
        if self.happens(0.2):
            return e.CompensationDelayed(at=at, step=name, reason="no connection", certain=True)
        if self.happens(0.05):
            return e.CompensationRefused(at=at, step=name, reason="no refunds")
        self.undo(do)
        if self.happens(0.2):
            return e.CompensationDelayed(at=at, step=name, reason="timeout")
        return e.CompensationSucceeded(at=at, step=name)

    def undo(self, do: Do) -> None:
        """It takes effect, unless the key is known there, or it lacks a result that is needed."""
        api, known = self.apis[do.step], self.saga.steps[do.step]
        if known.compensation_keys in api.answered:
            return
        api.answered.add(known.compensation_keys)
        if self.plan.step(do.step).probe_after_undo and known.result is None:
            api.in_vain = known.compensation_keys
        else:
            api.stands = False

    # --- the end ---

    @property
    def wrong(self) -> list[str]:
        """The objections of the world to the end of the saga."""
        found = [f"{name} was made twice" for name, api in self.apis.items() if api.made > 1]
        for step in self.plan.steps:
            stands = self.apis[step.name].stands
            if self.saga.state is SagaState.COMPLETED and not stands:
                found.append(f"{step.name} does not stand")
            undone = step.compensatable or step.pivot
            if self.saga.state is SagaState.COMPENSATED and stands and undone:
                found.append(f"{step.name} stands")
        return found


def waits_for_a_person(walk: Walk) -> bool:
    """True where the saga was parked at some time."""
    return any(isinstance(event, e.Parked | e.FailedToCompensate) for event in walk.journal)


def looked_behind_an_undo(walk: Walk) -> bool:
    """True where an effect was found that an undo had not undone."""
    return any(step.compensation_keys > 1 for step in walk.saga.steps.values())


def asked_around_a_pivot(walk: Walk) -> bool:
    """True where a request to compensate came while the pivot was under way."""
    pivot = next((step.name for step in walk.plan.steps if step.pivot), "")
    known = walk.saga.steps.get(pivot)
    return bool(walk.saga.requested_by and known is not None and known.phase is not Phase.STARTED)
