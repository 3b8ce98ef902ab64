"""The world's own books: what really happened, kept by the world and not by our journal.

Three things are counted. *Effects* at external APIs, by key, when they take place. *Local work*,
when the unit that held it has become durable. *What was made durable*, when the store said so: the
books compare every message with it at the moment at which the message leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from stage.core import events as e
from stage.core.age import GAP_SECONDS_MAX
from stage.core.commands import AttemptKind
from stage.core.event_table import EVENTS
from stage.core.lost import LOST
from stage.core.order import wave_of
from stage.core.questions import OVER
from stage.core.states import ENDED, EXTERNAL_KINDS, SagaState
from stage.core.steps import FORWARD_PREFIX, Plan, Step, StepKind
from stage.outbound.transport import ANSWER_BYTES_MAX
from stage.ports.store import SagaRow
from stage.simulation.facts import (
    Copied,
    Effect,
    Intent,
    Known,
    Local,
    Violation,
    Worked,
    Written,
    copied_facts,
    read_key,
    settle_what_is_said,
)
from stage.simulation.faults import CLOSED, DROPPED, EMPTIED
from stage.simulation.loop import VirtualLoop
from stage.simulation.transcript import VIOLATION, Transcript


class Books:
    """The books of one simulated world."""

    # Long because each fact that is kept is explained where it is made.
    def __init__(self, loop: VirtualLoop, transcript: Transcript) -> None:
        self._loop = loop
        self.transcript = transcript
        self.violations: list[Violation] = []
        self.effects: dict[str, Effect] = {}
        self._by_step: dict[tuple[str, str, str], list[Effect]] = {}
        self.local: dict[tuple[str, str, str], Local] = {}
        self.known: dict[tuple[str, str], Known] = {}
        self.plans: dict[str, Plan] = {}
        """The plan of the newest version of each stage."""
        self.earlier_plans: dict[tuple[str, int], Plan] = {}
        """The plans of the versions before, by stage and version."""
        self.keeping: set[str] = set()
        """External APIs of which the author says that what they make may stand."""
        self.parts: dict[str, int] = {}
        """How many effects make a call whole, by API, where that is known."""
        self.attempts: dict[tuple[str, str, str], int] = {}
        """Attempts to undo that were begun, by stage, saga and step: also one that never left."""
        self._sent: dict[tuple[str, str], bytes] = {}
        self._answers: dict[tuple[str, str, int], bytes] = {}
        self.said_yes: set[tuple[str, str]] = set()
        """Stage, or tail, and saga of every answer 200."""
        self.early: dict[tuple[str, str], bytes] = {}
        """Answers 200 that were given before the end of the saga was durable."""
        self.ends_lost = 0
        """How often a run was lost between such an answer and the end."""
        self.ends_found = 0
        """How often such an end was found by looking downstream."""
        self._refused: dict[tuple[str, str], str] = {}
        self._closed: dict[tuple[str, str], float] = {}
        """Since when a stage says that nothing of a saga stands."""
        self._effects_made = 0
        self.dropped: dict[tuple[str, str], float] = {}
        """Stage and saga of all whose rows were dropped for their age, and since when."""
        self.emptied: set[tuple[str, str]] = set()
        """Stage and saga of all whose answers were dropped for their age."""
        self.restored: set[str] = set()
        """Stages of which an older copy of the database was put back."""
        self._rewound: set[tuple[str, str]] = set()
        """Stage and saga of all that were as they had been before."""
        self.said_yes_to: set[tuple[str, str, str]] = set()
        """Stage, saga and step of each approval to which a person has said yes."""
        self.cannot: set[str] = set()
        """Sagas of which the client has said that it cannot compensate, and since then nothing."""
        self.payloads: dict[str, bytes] = {}
        """The data of each saga as its client first sent it."""

    def plan_of(self, stage: str, saga: str) -> Plan:
        """The plan of the version that accepted a saga (rule 32)."""
        known = self.known.get((stage, saga))
        newest = self.plans[stage]
        return newest if known is None else self._plan(stage, known)

    def _plan(self, stage: str, known: Known) -> Plan:
        newest = self.plans[stage]
        return self.earlier_plans.get((stage, known.row.version), newest)

    # --- older copies of a database ---------------------------------------------------------------

    def copy_of(self, stage: str) -> Copied:
        """A copy of the facts about the database of a stage."""
        return Copied(
            known={
                saga: copied_facts(known)
                for (where, saga), known in self.known.items()
                if where == stage
            },
            local={
                (saga, step): (local.done, local.undone)
                for (where, saga, step), local in self.local.items()
                if where == stage
            },
        )

    def put_back(self, stage: str, copied: Copied) -> None:
        """An older copy took the place of the database of a stage.

        Each saga that has changed since is as it was then, and later answers about it do not bind:
        the stage knows nothing of them.
        """
        self.restored.add(stage)
        for saga in [saga for where, saga in self.known if where == stage]:
            then, now = copied.known.get(saga), self.known[stage, saga]
            if then is not None and then.row == now.row and then.row.state in ENDED:
                continue
            if then is None:
                del self.known[stage, saga]
            else:
                self.known[stage, saga] = copied_facts(then)
            self._rewound.add((stage, saga))
            self._unsaid(stage, saga)
        for where, saga, step in [key for key in self.local if key[0] == stage]:
            done, undone = copied.local.get((saga, step), (0, 0))
            self.local[where, saga, step] = Local(done=done, undone=undone)

    def _unsaid(self, stage: str, saga: str) -> None:
        """The earlier answers of a stage about a saga do not bind it any more."""
        self.early.pop((stage, saga), None)
        self._closed.pop((stage, saga), None)
        for status in (200, 409, 410):
            self._answers.pop((stage, saga, status), None)
        for key in [key for key in self._sent if key[0] == stage and key[1].startswith(f"{saga}:")]:
            del self._sent[key]

    # --- saying ----------------------------------------------------------------------------------

    def tell(self, saga: str, who: str, what: str | e.Event) -> None:
        """A line of the transcript."""
        self.transcript.tell(self._loop.time(), saga, who, what)

    def violate(self, invariant: str, saga: str, text: str) -> None:
        """An invariant does not hold."""
        self.tell(saga, VIOLATION, f"{invariant}: {text}")
        self.violations.append(
            Violation(invariant=invariant, saga=saga, text=text, at=self._loop.time())
        )

    # --- external APIs ---------------------------------------------------------------------------

    def effect(self, key: str, api: str) -> Effect:
        """The entry of a key, opened when there is none."""
        found = self.effects.get(key)
        if found is None:
            found = self.effects[key] = Effect(key=key, api=api)
            saga, stage, step, _ = read_key(key)
            self._by_step.setdefault((stage, saga, step), []).append(found)
        return found

    def make(self, effect: Effect, *, honours_keys: bool = True) -> None:
        """The effect takes place: once a key, where the API honours keys."""
        if effect.made and honours_keys:
            return
        self._effects_made += 1
        effect.made += 1
        effect.name = effect.name or f"fx_{self._effects_made:06d}"
        saga, stage, step, _ = read_key(effect.key)
        self.tell(saga, effect.api, f"EFFECT made for {stage}/{step}: {effect.name}")
        known = self.known.get((stage, saga))
        if known is None:
            return
        allowed = max(1, len(known.requests.get(f"{step}:do", ())))
        made = sum(one.made for one in self.effects_of(stage, saga, step))
        if made > allowed:
            self.violate("I3", saga, f"{stage}/{step} made {made} effects at {effect.api}")

    def unmake(self, effect: Effect) -> None:
        """The effect is undone; one never made is closed for ever."""
        saga, stage, step, _ = read_key(effect.key)
        if effect.standing:
            self.tell(saga, effect.api, f"EFFECT undone for {stage}/{step}: {effect.name}")
        elif not effect.closed:
            self.tell(saga, effect.api, f"closed for ever: {stage}/{step} was not there to undo")
        effect.closed = True
        effect.undone = effect.made

    def effects_of(self, stage: str, saga: str, step: str) -> Sequence[Effect]:
        """The entries of one step."""
        return self._by_step.get((stage, saga, step), ())

    def standing(self, stage: str, saga: str, step: Step) -> int:
        """How much of a step stands in the world now: effects outside, or local work.

        Of an approval the word of the person, who keeps it apart.
        """
        known = self.known.get((stage, saga))
        if step.kind is StepKind.TRANSACTION:
            local = self.local.get((stage, saga, step.name))
            return 0 if local is None else local.done - local.undone
        if step.kind is StepKind.APPROVAL:
            asked = known is not None and step.name in known.asked_for
            return int(not asked or (stage, saga, step.name) in self.said_yes_to)
        if step.kind in EXTERNAL_KINDS:
            return sum(one.standing for one in self.effects_of(stage, saga, step.name))
        return self._standing_behind(step.peer, saga)

    def _standing_behind(self, stage: str, saga: str) -> int:
        if stage not in self.plans:
            return self.local.get((stage, saga, ""), Local()).done - (
                self.local.get((stage, saga, ""), Local()).undone
            )
        known = self.known.get((stage, saga))
        if known is not None and (known.given_up or known.forgotten):
            return 0  # what stands there was reported, or given up: it is not ours to undo
        if (stage, saga) in self._rewound:
            return 0  # it may have said that nothing stands, before its older copy was put back
        steps = self.plan_of(stage, saga).steps
        return sum(self.standing(stage, saga, step) for step in steps if step.compensatable)

    def must_be_undone(self, step: Step) -> bool:
        """Whether nothing of the step may stand once its saga has turned back.

        A call that says compensation=None counts too: its author's word is that nothing is left,
        and the world has a word of its own.
        """
        makes = step.kind in EXTERNAL_KINDS and not step.pivot and step.peer not in self.keeping
        return step.compensatable or makes

    # --- the store -------------------------------------------------------------------------------

    def committed(
        self, stage: str, who: str, writes: Sequence[Written], works: Sequence[Worked]
    ) -> None:
        """A unit has become durable."""
        for work in works:
            self._count(stage, work)
        for write in writes:
            self._write(stage, who, write)

    def rows_of(self, stage: str) -> Iterator[SagaRow]:
        """The durable rows of a stage, but for those that were dropped."""
        for (where, saga), known in self.known.items():
            if where == stage and (stage, saga) not in self.dropped:
                yield known.row

    def left(self, stage: str, rows: Sequence[SagaRow], dropped: Sequence[str]) -> Counter[str]:
        """These rows are left of sagas that were closed or emptied, and of others none is.

        How often each of that was done by retention, and not by a person.
        """
        gone: Counter[str] = Counter()
        for row in rows:
            known = self.known[stage, row.id]
            before, known.row = known.row, row
            if before.closed_at is None and not known.forgotten:
                self._closing(stage, known, before)
                gone[CLOSED] += 1
            if before.answer_body and not row.answer_body:
                self.emptied.add((stage, row.id))
                gone[EMPTIED] += 1
        for saga in dropped:
            self.tell(saga, stage, "its row is dropped")
            self.dropped[stage, saga] = self._loop.time()
            gone[DROPPED] += 1
        return gone

    def has_dropped(self, stage: str) -> bool:
        """Whether a stage has dropped any row: it knows nothing of a saga that was sent before."""
        return any(where == stage for where, _ in self.dropped)

    def _closing(self, stage: str, known: Known, row: SagaRow) -> None:
        """Its undo data is dropped: nothing may be left to do, or to undo, of what turned back."""
        self.tell(row.id, stage, "is closed")
        if row.state not in (SagaState.COMPLETED, SagaState.COMPENSATED):
            self.violate("I7", row.id, f"{stage} is closed, and it is {row.state}")
        if row.due_at is not None or row.parked:
            self.violate("I5", row.id, f"{stage} is closed, and something is left to do")
        for step in self._plan(stage, known).steps if row.state is SagaState.COMPENSATED else ():
            undone = not self.must_be_undone(step) or step.name in known.given_up
            if not undone and self.standing(stage, row.id, step):
                self.violate("I7", row.id, f"{stage} is closed while {step.name} stands")

    def _count(self, stage: str, work: Worked) -> None:
        local = self.local.setdefault((stage, work.saga, work.step), Local())
        if work.undo:
            local.undone += 1
        else:
            local.done += 1
        if local.done > 1:
            self.violate("I2", work.saga, f"{stage}/{work.step} took local effect {local.done}x")
        if local.undone > 1 or local.undone > local.done:
            self.violate(
                "I7",
                work.saga,
                f"{stage}/{work.step} was compensated {local.undone}x and done {local.done}x",
            )
        if local.undone and not work.undo:
            self.violate("I6", work.saga, f"{stage}/{work.step} was done after it was compensated")

    def _write(self, stage: str, who: str, write: Written) -> None:
        row = write.row
        known = self.known.get((stage, row.id))
        if known is None:
            known = self.known[stage, row.id] = Known(row=row)
        elif write.epoch is None:
            self.violate("I2", row.id, f"{stage} accepted the saga twice")
        elif write.epoch != known.row.epoch:
            self.violate(
                "I8",
                row.id,
                f"{who} wrote with epoch {write.epoch}, {known.row.epoch} holds",
            )
        known.writer = who
        taken_over = any(isinstance(event, e.Recovered) for event in write.events)
        if taken_over and write.epoch is not None and row.epoch <= write.epoch:
            self.violate("I8", row.id, f"{who} took over and left the epoch at {row.epoch}")
        if row.answer_status is not None:
            known.answers.add(row.answer_body)
        both_said_yes = known.row.answer_status == 200 and row.answer_status == 200
        if both_said_yes and known.row.answer_body != row.answer_body:
            self.violate("I9", row.id, f"{stage} changed the stored answer")
        known.invented = {
            event.step
            for event in write.events
            if isinstance(event, e.StepInDoubt) and event.reason == LOST
        }
        for event in write.events:
            self._event(stage, who, known, event)
        if known.row.closed_at is not None and known.row.parked and not row.parked:
            known.forgotten = True  # its journal is dropped, and says nothing of it
        known.events.extend(write.events)
        known.row = row

    # Long because every kind of event that the books look at has its arm.
    def _event(self, stage: str, who: str, known: Known, event: e.Event) -> None:
        saga = known.row.id
        self.tell(saga, who, event)
        if known.pending_at is not None:
            lapse = event.at - known.pending_at
            known.waited += min(max(0.0, lapse), GAP_SECONDS_MAX)
            known.set_back += max(0.0, -lapse)
            if known.deadline is not None:
                known.deadline += max(0.0, lapse)
        known.pending_at = event.at if known.pending else None
        if EVENTS[type(event)].ends is AttemptKind.EXECUTE:
            step_name = getattr(event, "step", "")
            known.flying.discard(step_name)
            known.refused.discard(step_name)
        if isinstance(event, e.Verb):
            self._ordered(stage, known, event)
        match event:
            case e.Accepted():
                known.deadline, known.deferred = event.deadline, event.deferred
                known.generation = event.generation
            case e.AnswerDeferred() | e.Parked():
                known.deferred = True
            case e.Recovered():
                known.recovered += 1
                if event.generation > known.generation:
                    self._older(stage, known, event)
                early = self.early.get((stage, saga))
                if early is not None and early not in known.answers:
                    self.ends_lost += 1
                known.doubted |= known.flying
                known.flying.clear()
            case e.Tombstoned():
                known.turned = True
            case e.CompensationRequested():
                known.asked = True
            case e.TurnedBack():
                known.turned = True
                for name in known.asked_for:
                    known.pending.pop(name, None)
                self._turning_back(stage, known)
                self._giving_up(stage, known, event)
            case e.Forgotten():
                known.forgotten = True
            case e.Retried() | e.Resolved() | e.Settled():
                self._verb(known, event)
            case e.Approved() | e.Rejected():
                self._decision(stage, known, event)
            case _:
                self._forward_event(stage, known, event)
        settle_what_is_said(known)
        if not known.pending:
            known.pending_at = None  # the last one has ended: the deadline runs again from here

    def _sent_again(self, stage: str, known: Known, event: e.StepStarted) -> None:
        said = known.said.get(event.step)
        if event.step not in known.flying and isinstance(said, e.WebhookFound):
            text = f"{stage}/{event.step} was sent again, and its API had said that it landed"
            self.violate("I3", known.row.id, text)

    def acknowledged(self, stage: str, saga: str) -> None:
        """The stage said 200 to a webhook: what that said is durable, or is of no consequence."""
        known = self.known.get((stage, saga))
        if known is None or (stage, saga) in self._rewound:
            return
        waits = known.pending.keys() - known.said.keys() - known.flying
        if waits and not known.turned and not known.row.parked:
            text = f"{stage} acknowledged a webhook of {', '.join(sorted(waits))} and forgot it"
            self.violate("I2", saga, text)

    def _older(self, stage: str, known: Known, event: e.Recovered) -> None:
        """It was taken over from an older database: it does not go forward any more."""
        known.generation = event.generation
        active = known.row.state is SagaState.ACTIVE
        if active and not self._past_pivot(self._plan(stage, known), known):
            known.deadline = OVER

    def _ordered(self, stage: str, known: Known, event: e.Verb) -> None:
        """An operator ordered it: once under each key, however often that came."""
        if event.act_key is None:
            return
        if event.act_key.key in known.ordered:
            text = f"{stage}: {e.name_of(event)} was done again under {event.act_key.key}"
            self.violate("I17", known.row.id, text)
        known.ordered.add(event.act_key.key)

    def _decision(self, stage: str, known: Known, event: e.Approved | e.Rejected) -> None:
        """A person decided: once, and only what was asked for."""
        if event.step in known.decided or event.step not in known.pending:
            text = f"{stage}/{event.step}: {e.name_of(event)}, and nobody was asked any more"
            self.violate("I16", known.row.id, text)
        known.decided.add(event.step)
        known.pending.pop(event.step, None)
        (known.succeeded if isinstance(event, e.Approved) else known.refused).add(event.step)

    def rewound(self, stage: str, saga: str) -> bool:
        """Whether an older copy of the saga was put back: it knows no later order."""
        return (stage, saga) in self._rewound

    def heard_a_decision(self, stage: str, saga: str, step: str) -> None:
        """The stage said that a decision was taken: it is durable by now."""
        known = self.known.get((stage, saga))
        if known is None or (stage, saga) in self._rewound:
            return
        if step not in known.decided:
            self.violate("I16", saga, f"{stage} took a decision on {step} and forgot it")

    def _verb(self, known: Known, event: e.Retried | e.Resolved | e.Settled) -> None:
        """A person mended it: used attempts are forgiven."""
        match event:
            case e.Retried():
                known.mended = True
                known.given_up.clear()
                known.forgiven.update(known.attempts)
            case e.Resolved():
                known.mended = True
                known.given_up.discard(event.step)
            case e.Settled():
                known.doubted.discard(event.step)
                known.forgiven.update(known.attempts)
                if event.landed:
                    known.succeeded.add(event.step)

    def _forward_event(self, stage: str, known: Known, event: e.Event) -> None:
        saga, plan = known.row.id, self._plan(stage, known)
        match event:
            case e.StepStarted():
                self._attempted(stage, known, event)
            case e.StepTransient(may_stand=False) if (
                plan.step(event.step).kind is not StepKind.TRANSACTION
            ):
                known.forgiven[event.step] = known.forgiven.get(event.step, 0) + 1  # rule 28
                rules = plan.step(event.step)
                if event.may_come and (rules.pivot or not rules.idempotent):
                    known.doubted.add(event.step)
            case e.StepRefused():
                known.refused.add(event.step)
            case e.StepPending() if plan.step(event.step).kind is StepKind.FORWARD:
                known.attempts[event.step] -= 1  # downstream works on it: no attempt that failed
            case e.RequestPrepared():
                way = "undo" if event.compensation else "do"
                known.requests.setdefault(f"{event.step}:{way}", []).append(event.request)
            case e.StepSucceeded() | e.ProbeFound():
                if isinstance(event, e.ProbeFound) and (stage, saga) in self.early:
                    self.ends_found += plan.step(event.step).kind is StepKind.FORWARD
                if event.step in plan.by_name and (
                    plan.step(event.step).kind is StepKind.TRANSACTION
                ):
                    self._started(stage, known, plan.step(event.step), event.at)
                known.pending.pop(event.step, None)
                known.succeeded.add(event.step)
                known.doubted.discard(event.step)
            case e.ProbeStarted():
                known.intents.add(f"{event.step}:probe")
            case e.StepInDoubt():
                known.doubted.add(event.step)
                if event.denied and known.deadline is not None:  # protocol 3.3, as an outage
                    known.forgiven[event.step] = known.forgiven.get(event.step, 0) + 1
            case _:
                self._pending_event(known, plan, event)
                self._backward_event(stage, known, event)

    def _pending_event(self, known: Known, plan: Plan, event: e.Event) -> None:
        match event:
            case e.StepPending() | e.ProbePending():
                known.doubted.add(event.step)
                known.deferred = True
                self._pends(known, plan.step(event.step), event.at)
            case e.ProbeFailed() | e.ProbeNotThere() | e.StillPending() if (
                event.step in known.pending
            ):
                self._pends(known, plan.step(event.step), event.at)
            case e.ApprovalAsked():
                known.asked_for.add(event.step)
                known.deferred = True
                self._pends(known, plan.step(event.step), event.at)
            case e.ProbeRefused():
                known.doubted.discard(event.step)
                known.refused.add(event.step)
                known.pending.pop(event.step, None)
            case e.WebhookFound():
                known.said[event.step] = event
            case e.WebhookRefused() if not isinstance(known.said.get(event.step), e.WebhookFound):
                known.said[event.step] = event

    def _pends(self, known: Known, step: Step, at: float) -> None:
        """A call is under way at its API."""
        since = known.pending.setdefault(step.name, known.waited)
        lasted = known.waited - since
        known.waited_out = known.waited_out or lasted >= step.pending_seconds_max
        known.pending_at = at

    def _attempted(self, stage: str, known: Known, event: e.StepStarted) -> None:
        plan = self.plans[stage]
        step = plan.step(event.step)
        self._sent_again(stage, known, event)
        self._started(stage, known, step, event.at)
        known.attempts[step.name] = event.attempt
        known.flying.add(step.name)
        forgiven = known.forgiven.get(step.name, 0)
        most = step.execution.attempts_max
        if self._past_pivot(plan, known) and step.kind is not StepKind.TRANSACTION:
            most = None  # rule 28: patience alone ends it
        if most is not None and event.attempt - forgiven > most:
            self.violate("I14", known.row.id, f"{stage}/{step.name}: attempt {event.attempt}")
        known.intents.add(f"{event.step}:do")
        if event.request is not None:
            known.requests.setdefault(f"{event.step}:do", []).append(event.request)

    def _backward_event(self, stage: str, known: Known, event: e.Event) -> None:
        plan = self._plan(stage, known)
        match event:
            case e.CompensationStarted():
                known.turned = True
                self._undoing(stage, known, plan, event.step)
                counted = (stage, known.row.id, event.step)
                self.attempts[counted] = self.attempts.get(counted, 0) + 1
                known.intents.add(f"{event.step}:undo")
                if event.request is not None:
                    known.requests.setdefault(f"{event.step}:undo", []).append(event.request)
            case e.CompensationSucceeded():
                known.doubted.discard(event.step)
            case e.CompensationRefused():
                known.given_up.add(event.step)
                known.gave_up = True
            case e.TellStarted():
                known.intents.add(":tell")

    def _started(self, stage: str, known: Known, step: Step, at: float) -> None:
        saga = known.row.id
        known.starts.setdefault(step.name, len(known.starts))
        if step.name in known.invented:
            return
        for before in self._plan(stage, known).steps:
            if before.name == step.name:
                break
            if before.kind is StepKind.APPROVAL and not self.standing(stage, saga, before):
                text = f"{stage}/{step.name} was started, and nobody approved {before.name}"
                self.violate("I16", saga, text)
        if known.turned:
            self.violate("I6", saga, f"{stage}/{step.name} was started on the way back")
        if (
            known.deadline is not None
            and at >= known.deadline
            and not self._behind_pivot(stage, known)
        ):
            self.violate("I11", saga, f"{stage}/{step.name} was started after the deadline")

    def _turning_back(self, stage: str, known: Known) -> None:
        """A stage that said yes does not turn back while all behind it stands (decision 0011)."""
        saga = known.row.id
        if (stage, saga) not in self.early:
            return
        if any(isinstance(event, e.CompensationRequested | e.Settled) for event in known.events):
            return
        forwards = (
            step for step in self._plan(stage, known).steps if step.kind is StepKind.FORWARD
        )
        if all(self._done_at(step.peer, saga) for step in forwards):
            self.violate("I9", saga, f"{stage} said yes, and turned back though nobody asked")

    def _giving_up(self, stage: str, known: Known, event: e.TurnedBack) -> None:
        """A step is given up when it was refused, its deadline is over or its attempts are used up.

        A wait that costs time alone uses no attempt up (rule 28).
        """
        step = self._plan(stage, known).step(event.step) if event.step else None
        if step is None or step.kind is StepKind.TRANSACTION or step.name in known.refused:
            return
        if (
            known.mended
            or known.waited_out
            or (known.deadline is not None and event.at >= known.deadline - known.set_back)
        ):
            return
        counted = known.attempts.get(step.name, 0) - known.forgiven.get(step.name, 0)
        if not step.execution.exhausted(counted):
            text = f"{stage}/{step.name} was given up after {counted} attempts: {event.reason}"
            self.violate("I11", known.row.id, text)

    def _done_at(self, peer: str, saga: str) -> bool:
        """True while a downstream has done all of its part, and goes back on none of it."""
        if peer not in self.plans:
            local = self.local.get((peer, saga, ""), Local())
            return local.done > local.undone
        known = self.known.get((peer, saga))
        return known is not None and known.row.state is SagaState.COMPLETED

    def _behind_pivot(self, stage: str, known: Known) -> bool:
        """Behind the pivot the saga has to go forward, whatever the time is."""
        plan = self._plan(stage, known)
        if plan.pivot is None:
            return False
        name = plan.steps[plan.pivot].name
        return name in known.succeeded or name in known.starts

    def _past_pivot(self, plan: Plan, known: Known) -> bool:
        return plan.pivot is not None and plan.steps[plan.pivot].name in known.succeeded

    def _undoing(self, stage: str, known: Known, plan: Plan, name: str) -> None:
        saga = known.row.id
        if self._past_pivot(plan, known):
            self.violate("I6", saga, f"{stage}/{name} is compensated behind the pivot")
        mine = known.starts.get(name)
        if mine is None:
            return
        together = wave_of(plan, name)
        for other, order in known.starts.items():
            step = plan.step(other)
            if order <= mine or other in together or other in known.given_up:
                continue
            if step.pivot and not self._was_looked_for(stage, known, step):
                self.violate("I6", saga, f"{stage}/{name} is compensated, and {other} has happened")
            if step.compensatable and self.standing(stage, saga, step) > 0:
                self.violate(
                    "I7", saga, f"{stage}/{name} is compensated while {other}, later, stands"
                )

    def _was_looked_for(self, stage: str, known: Known, pivot: Step) -> bool:
        """Whether a pivot has not happened, as far as its API and people said when asked.

        No undo bars a copy of its request that comes after that.
        """
        if stage in self.restored or not self.standing(stage, known.row.id, pivot):
            return True
        return any(
            isinstance(event, e.ProbeNotThere | e.Settled) and event.step == pivot.name
            for event in known.events
        )

    # --- messages --------------------------------------------------------------------------------

    def probes(self, stage: str, intent: Intent) -> bool:
        """Whether a look under that key is a probe, and not a part of the call or its undo."""
        known = self.known.get((stage, intent.saga))
        if intent.undo or known is None:
            return False
        return intent.step not in known.flying and f"{intent.step}:probe" in known.intents

    def sending(self, stage: str, key: str, what: str, request: e.Request) -> None:
        """A stage sends; `what` is do, undo or probe. Its intent has to be durable by now."""
        saga, _, step, _ = read_key(key)
        known = self.known.get((stage, saga))
        if known is None or f"{step}:{what}" not in known.intents:
            self.violate("I3", saga, f"{stage}/{step} {what} was sent without a durable intent")
            return
        if what == "probe":
            return
        if self.plan_of(stage, saga).step(step).kind is StepKind.EFFECT:
            return  # its requests are not in the journal
        stored = known.requests.get(f"{step}:{what}", [])
        if not any(_same(request, one) for one in stored):
            self.violate("I3", saga, f"{stage}/{step} {what} was sent with bytes not journaled")
        self._same_bytes(stage, key, _bytes_of(request), saga)

    def handing_on(self, stage: str, who: str, peer: str, saga: str, body: bytes) -> None:
        """A process of a stage hands on downstream: all its own work has to be durable by now.

        A process that was frozen may hand on its work after another one has undone it: the other
        one has asked downstream to compensate, which runs the saga no more (I6).
        """
        name = FORWARD_PREFIX + peer
        known = self.known.get((stage, saga))
        if known is None or f"{name}:do" not in known.intents:
            self.violate("I3", saga, f"{stage} handed on to {peer} without a durable intent")
            return
        for step in self.plan_of(stage, saga).steps:
            if step.kind is not StepKind.FORWARD and step.name not in known.succeeded:
                self.violate("I4", saga, f"{stage} handed on before {step.name} was durable")
            if known.writer != who or step.kind is not StepKind.TRANSACTION:
                continue
            if self.standing(stage, saga, step) == 0:
                self.violate("I4", saga, f"{stage} handed on without the work of {step.name}")
        self._same_bytes(stage, f"{saga}:{name}", body, saga)

    def looking(self, stage: str, peer: str, saga: str) -> None:
        """A stage looks what became of a saga downstream."""
        known = self.known.get((stage, saga))
        if known is None or f"{FORWARD_PREFIX}{peer}:probe" not in known.intents:
            self.violate("I3", saga, f"{stage} looked at {peer} without a durable intent")

    def asking_to_compensate(self, stage: str, peer: str, saga: str) -> None:
        """A stage asks a neighbour to compensate."""
        known = self.known.get((stage, saga))
        name = FORWARD_PREFIX + peer
        intents = known.intents if known is not None else set()
        if f"{name}:undo" not in intents and ":tell" not in intents:
            self.violate("I3", saga, f"{stage} asked {peer} to compensate without an intent")

    def _same_bytes(self, stage: str, key: str, sent: bytes, saga: str) -> None:
        before = self._sent.setdefault((stage, key), sent)
        if before != sent:
            self.violate("I3", saga, f"{stage} sent other bytes under key {key}")

    # --- answers ---------------------------------------------------------------------------------

    def answered(
        self, stage: str, saga: str, status: int, body: bytes, outcome: str, *, asked_at: float
    ) -> None:
        """A stage answers `POST /sagas`; what it says has to be durable, true and the same.

        `asked_at` is when the request arrived: what was said meanwhile to others does not bind
        the answer, which may have been on its way already.
        """
        if status == 200 and len(body) > ANSWER_BYTES_MAX:
            self.violate("I14", saga, f"{stage} gave an answer of {len(body)} bytes")
        known = self.known.get((stage, saga))
        if (stage, saga) in self.dropped:
            if asked_at > self.dropped[stage, saga] and outcome != "unknown":
                said = f"{status} {outcome}"
                self.violate("I9", saga, f"{stage} answered {said} for a saga that was dropped")
            return
        if known is None and outcome == "unknown" and self.has_dropped(stage):
            return  # its id is no younger than that of a row which was dropped
        if (stage, saga) in self.emptied and known is not None and body not in known.answers:
            self._answered_emptied(stage, known, status, body, outcome)
            return
        if status in (200, 202, 409, 410) and known is None:
            self.violate("I1", saga, f"{stage} answered {status} for a saga that is not stored")
        if status in (200, 409, 410):
            if known is not None and body not in known.answers:
                if status == 200 and self._only_the_end_is_missing(stage, saga, known):
                    self.early[stage, saga] = body
                else:
                    self.violate("I1", saga, f"{stage} answered {status} before that was durable")
            if status == 200:
                self.said_yes.add((stage, saga))
            before = self._answers.setdefault((stage, saga, status), body)
            if before != body:
                self.violate("I9", saga, f"{stage} answered {status} with other bytes")
        if status == 200 and self._closed.get((stage, saga), asked_at) < asked_at:
            self.violate("I6", saga, f"{stage} answered 200 after it had said it is undone")
        if outcome == "not_executed" and status not in (403, 422, 429, 503):
            self._refused[stage, saga] = f"{status} not_executed"
        if status in (409, 410):
            self._closed.setdefault((stage, saga), self._loop.time())

    def _answered_emptied(
        self, stage: str, known: Known, status: int, body: bytes, outcome: str
    ) -> None:
        """A stage answers for a saga whose answer was dropped: with what its row still tells."""
        if status not in (200, 202, 409, 410):
            return
        saga, executed = known.row.id, known.row.state is SagaState.COMPLETED
        right = (status, outcome) == (410, "executed") if executed else outcome == "compensated"
        if not right:
            said = f"{status} {outcome}"
            self.violate("I9", saga, f"{stage} is {known.row.state}, and answered {said} for it")
        before = self._answers.setdefault((stage, saga, -status), body)
        if before != body:
            self.violate("I9", saga, f"{stage} answered {status} with other bytes")

    def _only_the_end_is_missing(self, stage: str, saga: str, known: Known) -> bool:
        """True when a crash loses nothing of an answer 200 but what downstream says once more."""
        return all(
            step.name in known.succeeded
            or (
                step.kind is StepKind.FORWARD
                and step.name in known.flying
                and (step.peer, saga) in self.said_yes
            )
            for step in self.plan_of(stage, saga).steps
        )

    def deferred(self, stage: str, saga: str) -> None:
        """A stage answered 202: that is durable, so that the end notifies upstream (0007)."""
        known = self.known.get((stage, saga))
        if known is not None and not known.deferred:
            self.violate("I1", saga, f"{stage} answered 202, and did not write that down")

    def said_undoing(self, stage: str, saga: str) -> None:
        """A stage answered 202 to a request to compensate: it has to be durable by now."""
        known = self.known.get((stage, saga))
        if known is None or not (known.turned or known.asked):
            self.violate("I1", saga, f"{stage} took on to compensate, and did not write it down")

    def said_undone(self, stage: str, saga: str) -> None:
        """A stage answered that nothing of the saga stands."""
        self._closed.setdefault((stage, saga), self._loop.time())
        known = self.known.get((stage, saga))
        undone = known is not None and known.row.state is SagaState.COMPENSATED
        if (stage, saga) in self.dropped and not undone:
            self.violate("I7", saga, f"{stage} said of a saga that was dropped that it is undone")
        if known is None:
            self.violate("I1", saga, f"{stage} said it is undone, and wrote no tombstone")
        for step in self.plan_of(stage, saga).steps:
            if self.must_be_undone(step) and self.standing(stage, saga, step):
                self.violate("I7", saga, f"{stage} said it is undone while {step.name} stands")

    def strangers_answer(self, stage: str, saga: str, path: str, status: int) -> None:
        """Another upstream was answered about a saga that it did not open; a tombstone is all's."""
        known = self.known.get((stage, saga))
        if (stage, saga) in self.dropped:
            return  # everybody hears that nothing is known
        if known is None or not isinstance(known.events[0], e.Tombstoned):
            self.violate("I9", saga, f"{stage} answered a stranger's POST {path}: {status}")

    def refused(self) -> Iterator[tuple[str, str, str]]:
        """Stage, saga and words of every answer that said not_executed for good."""
        return ((stage, saga, words) for (stage, saga), words in self._refused.items())


def _same(request: e.Request, stored: e.Request) -> bool:
    return _bytes_of(request) == _bytes_of(stored)


def _bytes_of(request: e.Request) -> bytes:
    return msgspec.msgpack.encode((request.method, request.path, request.headers, request.body))
