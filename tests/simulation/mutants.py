"""Planted defects: each breaks one rule, and the simulator has to find it (F4).

A mutant changes the rules while it is `planted`, and nothing before or after.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
from msgspec.structs import replace

from stage.authoring.participant import StageParticipant
from stage.core import events as e
from stage.core import machine, order, questions, retry, steps, verbs
from stage.core.commands import AttemptKind, Do, Record
from stage.core.states import Phase, SagaState
from stage.core.steps import StepKind
from stage.engine.embedded import commands, live_units
from stage.engine.embedded.elsewhere import Elsewhere
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.embedded.live_saga import LiveSaga
from stage.engine.embedded.live_sagas import LiveSagas
from stage.engine.embedded.live_units import LiveUnits
from stage.engine.embedded.recovery import Recovery
from stage.engine.saga import interpreter, opening, sender
from stage.engine.saga.interpreter import Interpreter
from stage.engine.saga.journal import Journal
from stage.engine.saga.opening import Opening
from stage.engine.saga.sender import Sender
from stage.inbound import compensate
from stage.inbound.request import json_answer
from stage.ports.engine import Reply
from stage.ports.stage import Failed
from stage.simulation import node
from stage.store import memory_database, memory_unit
from stage.wire.outcome import Outcome
from stage.wire.views import Standing

RESULT = msgspec.Raw(b'{"id":"planted"}')


class Patches:
    """Attributes that are replaced for a while."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute. Only a builtin that is shadowed may not have been there before."""
        if not hasattr(owner, name) and not hasattr(builtins, name):
            raise AttributeError(f"{owner} has no {name}: the planted defect would change nothing")
        self._before.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace an attribute by what `make` makes of it."""
        self.set(owner, name, make(getattr(owner, name)))

    def undo(self) -> None:
        """Put everything back."""
        while self._before:
            owner, name, value = self._before.pop()
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


_ABSENT = object()
Plant = Callable[[Patches], None]
MUTANTS: dict[str, Plant] = {}
"""The forty of F4; fifteen of them stand in `mutants_around`."""
FURTHER: dict[str, Plant] = {}
"""More of the same."""
ALWAYS: dict[str, frozenset[str]] = {}
"""The faults that the worlds always have in which a defect is looked for, where few have them."""
CHAINS: dict[str, tuple[str, ...]] = {}
"""The kinds of the stages in such worlds, where few worlds have one of them."""


def mutant(plant: Plant) -> Plant:
    """Register a planted defect under the name of its function."""
    MUTANTS[plant.__name__] = plant
    return plant


def mutant_under(*faults: str) -> Callable[[Plant], Plant]:
    """Register a planted defect that shows where these faults come together."""

    def register(plant: Plant) -> Plant:
        ALWAYS[plant.__name__] = frozenset(faults)
        return mutant(plant)

    return register


def further(plant: Plant) -> Plant:
    """Register one more."""
    FURTHER[plant.__name__] = plant
    return plant


def further_under(*faults: str) -> Callable[[Plant], Plant]:
    """Register one more that shows where these faults come together."""

    def register(plant: Plant) -> Plant:
        ALWAYS[plant.__name__] = frozenset(faults)
        return further(plant)

    return register


def further_in(*chain: str, under: tuple[str, ...] = ()) -> Callable[[Plant], Plant]:
    """Register one more that shows in stages of these kinds, where these faults come together."""

    def register(plant: Plant) -> Plant:
        CHAINS[plant.__name__] = chain
        ALWAYS[plant.__name__] = frozenset(under)
        return further(plant)

    return register


@contextmanager
def planted(name: str) -> Iterator[None]:
    """The defect is there within."""
    patches = Patches()
    plant = MUTANTS.get(name) or FURTHER[name]
    plant(patches)
    try:
        yield
    finally:
        patches.undo()


def _evolved(patches: Patches, change: Callable[[Any, Any, Any], Any]) -> None:
    """Change events before they are folded."""

    def make(original: Any) -> Any:
        return lambda plan, saga, event: original(plan, saga, change(plan, saga, event))

    patches.wrap(machine, "_evolve", make)


# --- keys, intents, bytes ------------------------------------------------------------------------


@mutant
def key_contains_the_attempt(patches: Patches) -> None:
    """Rule 2: a repeat has another key."""
    patches.wrap(
        Interpreter,
        "_key",
        lambda original: lambda self, done, what: f"{original(self, done, what)}:{what.do.attempt}",
    )


@mutant
def sent_before_the_intent_is_durable(patches: Patches) -> None:
    """Rule 1: act first, journal after."""

    class Looked(Exception):
        pass

    kept: list[asyncio.Task[None]] = []

    def make(original: Any) -> Any:
        async def persist(self: LiveUnits, work: Any, **options: Any) -> Any:
            seen: list[Any] = []

            async def look(unit: Any) -> None:
                seen.append(await work(unit))
                raise Looked

            try:
                await self._store.transact(look)
            except Looked:
                pass
            else:
                return None

            async def later() -> None:
                await original(self, work, **options)

            kept.append(asyncio.get_running_loop().create_task(later()))
            return seen[0]

        return persist

    patches.wrap(LiveUnits, "_persist", make)


@mutant
def a_repeat_sends_other_bytes(patches: Patches) -> None:
    """Rule 5: the bytes of a repeat are not those that were journaled."""

    def make(original: Any) -> Any:
        def stored(saga: Any, do: Any) -> Any:
            found = original(saga, do)
            if do.attempt == 1:
                return found
            return tuple(replace(request, body=request.body + b" ") for request in found)

        return stored

    patches.wrap(sender, "stored_requests", make)


@mutant_under("crash_after_commit")
def the_guard_row_is_written_with_the_call(patches: Patches) -> None:
    """Rule 1, as the usual barrier breaks it: a crash takes the record of the call away."""

    def make(original: Any) -> Any:
        def recover(plan: Any, saga: Any, event: Any) -> Any:
            kept = {
                name: step
                for name, step in saga.steps.items()
                if step.phase is not Phase.STARTED or plan.step(name).kind is not StepKind.CALL
            }
            return original(plan, replace(saga, steps=kept), event)

        return recover

    patches.wrap(machine, "_recover", make)


@mutant
def the_answer_is_given_before_the_commit(patches: Patches) -> None:
    """Rule 3: the caller is answered as soon as the answer is known, durable or not."""
    lives: dict[tuple[Any, str], LiveSaga] = {}

    def make_known(original: Any) -> Any:
        def known(self: Any, live: Any, *more: Any) -> Any:
            lives[self._journal, live.saga_id] = live
            return original(self, live, *more)

        return known

    def make(original: Any) -> Any:
        def row(self: Any, transition: Any, *more: Any, **options: Any) -> Any:
            made = original(self, transition, *more, **options)
            live = lives.get((self, made.id))  # the replay of I15 has other journals
            if live is not None and made.answered:
                live.row = made
                live.changed()
            return made

        return row

    patches.wrap(LiveUnits, "open", make_known)
    patches.wrap(LiveUnits, "advance", make_known)
    patches.wrap(LiveUnits, "end_attempt", make_known)
    patches.wrap(Journal, "row", make)
    patches.wrap(Journal, "_row_on_fast_path", make)


@mutant
def the_local_write_is_apart_from_its_record(patches: Patches) -> None:
    """Rule 3: the author's rows are committed before the journal says that they are there."""

    def make(original: Any) -> Any:
        async def attempt(self: Any, work: Any) -> Any:
            value = await original(self, work)
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN IMMEDIATE")
            return value

        return attempt

    patches.wrap(memory_unit.MemoryUnit, "attempt", make)


@further
def accepted_before_it_is_durable(patches: Patches) -> None:
    """Invariant I1: 202 is said while the saga is still being written."""

    def make(original: Any) -> Any:
        async def accept(self: Any, envelope: Any, **options: Any) -> Any:
            work = original(self, envelope, **options)
            if not options["respond_async"]:
                return await work

            async def later() -> None:
                with suppress(Exception):
                    await work

            _ = self._sagas._spawn(later())
            return None

        return accept

    patches.wrap(EmbeddedEngine, "accept", make)


# --- doubt ---------------------------------------------------------------------------------------


@mutant
def the_step_in_doubt_is_not_compensated(patches: Patches) -> None:
    """Rule 6: only what certainly succeeded is undone."""
    patches.wrap(
        order,
        "needs_compensation",
        lambda original: lambda step, known: original(step, known) and known.result is not None,
    )


@mutant
def downstream_in_doubt_is_not_compensated(patches: Patches) -> None:
    """Rule 6 for forwards: a lost answer of downstream is taken for a no."""

    def make(original: Any) -> Any:
        def needs(step: Any, known: Any) -> bool:
            if step.kind is StepKind.FORWARD and known.result is None:
                return False
            return bool(original(step, known))

        return needs

    patches.wrap(order, "needs_compensation", make)


@mutant
def in_doubt_is_taken_for_failed(patches: Patches) -> None:
    """Rule 4: a time-out is a failure."""

    def change(plan: Any, saga: Any, event: Any) -> Any:
        if isinstance(event, e.StepInDoubt):
            return e.StepRefused(at=event.at, step=event.step, reason=event.reason)
        return event

    _evolved(patches, change)


@further
def in_doubt_is_taken_for_success(patches: Patches) -> None:
    """Rule 4: a time-out is a success."""

    def change(plan: Any, saga: Any, event: Any) -> Any:
        if isinstance(event, e.StepInDoubt) and plan.step(event.step).kind is StepKind.CALL:
            return e.StepSucceeded(at=event.at, step=event.step, result=RESULT)
        return event

    _evolved(patches, change)


@mutant_under("delay", "duplicate")
def not_there_is_believed_once(patches: Patches) -> None:
    """Rule 5: one probe that does not find it is enough."""
    patches.set(questions, "PROBES_NOT_THERE_MIN", 1)


@further
def a_crash_counts_as_success(patches: Patches) -> None:
    """Rule 5: what was in flight at a crash is taken for done."""

    def make(original: Any) -> Any:
        def recover(plan: Any, saga: Any, event: Any) -> Any:
            after = original(plan, saga, event)
            done = {
                name: replace(step, phase=Phase.SUCCEEDED, result=RESULT, doubted=False)
                if saga.steps[name].phase is Phase.STARTED and plan.step(name).kind is StepKind.CALL
                else step
                for name, step in after.steps.items()
            }
            return replace(after, steps=done)

        return recover

    patches.wrap(machine, "_recover", make)


@mutant
def a_transient_answer_settles_the_doubt(patches: Patches) -> None:
    """Rule 6: a later attempt that certainly did not happen makes the first one forgotten."""

    def make(original: Any) -> Any:
        def fail(plan: Any, saga: Any, event: Any) -> Any:
            after = original(plan, saga, event)
            step = replace(after.steps[event.step], doubted=False)
            return replace(after, steps={**after.steps, event.step: step})

        return fail

    patches.wrap(machine, "_fail_for_certain", make)


# --- order and duplicates ------------------------------------------------------------------------


@mutant
def the_tombstone_is_forgotten(patches: Patches) -> None:
    """Rule 9: execute after compensate runs."""

    def make(original: Any) -> Any:
        async def take_over(self: Any, unit: Any, request: Any) -> Any:
            row = await unit.load(request.saga_id)
            if row is not None and not row.envelope and request.offer is not None:
                inner = unit._unit
                del inner._sagas[request.saga_id], inner._journal[request.saga_id]
            return await original(self, unit, request)

        return take_over

    patches.wrap(Opening, "first", make)


@mutant
def compensation_runs_beside_execution(patches: Patches) -> None:
    """Rule 10: it does not wait for what is in flight."""

    def make(original: Any) -> Any:
        def go_back(plan: Any, saga: Any, now: float) -> Any:
            seen = {
                name: replace(step, phase=Phase.WAITING, doubted=True)
                if step.phase in (Phase.STARTED, Phase.PROBING)
                else step
                for name, step in saga.steps.items()
            }
            return original(plan, replace(saga, steps=seen), now)

        return go_back

    patches.wrap(machine, "_go_back", make)


@mutant
def compensation_in_the_order_of_completion(patches: Patches) -> None:
    """Rule 7: what was done first is undone first."""
    patches.set(order, "reversed", lambda waves: waves)


@mutant
def a_duplicate_is_not_joined(patches: Patches) -> None:
    """Rule 11: a second request opens a second run."""

    def make(original: Any) -> Any:
        async def accept(self: Any, envelope: Any, **options: Any) -> Any:
            self._sagas._live.pop(envelope.saga_id, None)
            return await original(self, envelope, **options)

        return accept

    patches.wrap(EmbeddedEngine, "accept", make)


@mutant
def another_payload_is_accepted(patches: Patches) -> None:
    """Rule 11: the payloads are not compared."""
    patches.set(commands, "same_payload", lambda known, asked: True)


@further
def the_answer_differs_on_replay(patches: Patches) -> None:
    """Protocol 3.3: a duplicate gets other bytes."""

    def make(original: Any) -> Any:
        async def accept(self: Any, envelope: Any, **options: Any) -> Any:
            reply = await original(self, envelope, **options)
            if isinstance(reply, Reply) and reply.replayed:
                return replace(reply, body=reply.body + b" ")
            return reply

        return accept

    patches.wrap(EmbeddedEngine, "accept", make)


@further
def a_copy_of_an_order_is_done_again(patches: Patches) -> None:
    """Rule 14: nobody asks whether an order was given under its key before."""

    async def refuse_repeat(unit: Any, key: Any) -> None:
        """Refuse nothing."""

    async def known(self: Any, act_key: Any) -> None:
        """Know nothing."""

    patches.set(opening, "refuse_repeat", refuse_repeat)
    patches.set(live_units, "refuse_repeat", refuse_repeat)
    patches.set(EmbeddedEngine, "refuse_repeat", known)


# --- several processes over one database ---------------------------------------------------------


@further
def every_process_takes_what_it_is_asked_for(patches: Patches) -> None:
    """Rule 4 of ports.ownership: `take` does not ask whether a live other process owns it."""
    patches.set(memory_database.MemoryReplica, "held_elsewhere", lambda self, saga_id: False)


@further
def the_writer_does_not_become_the_owner(patches: Patches) -> None:
    """Rule 2 of ports.ownership: nobody owns what was just accepted."""
    patches.set(memory_unit.MemoryUnit, "_own", lambda self, saga_id, owner: None)


@further
def a_request_leaves_after_the_lease(patches: Patches) -> None:
    """Decision 0013: nobody looks at the lease before a request leaves."""

    async def assured(self: Any) -> None:
        return None

    patches.set(memory_database.MemoryReplica, "assured", assured)


@further_under("replicas", "store_away", "zombie")
def the_dead_renew_their_lease(patches: Patches) -> None:
    """Rule 3 of ports.ownership: a process that was declared dead goes on as if nothing was."""

    async def renew(self: Any) -> bool:
        self._database.leases[self.me] = self._now() + self._lease_seconds
        return True

    patches.set(memory_database.MemoryReplica, "renew", renew)


@further_under("replicas", "store_away", "zombie")
def what_was_lost_goes_on(patches: Patches) -> None:
    """Decision 0013: a process that was declared dead keeps its sagas under its new name."""
    patches.set(LiveSagas, "lose_all", lambda self: None)


@further
def mail_counts_as_journaled(patches: Patches) -> None:
    """Rule 5 of ports.ownership: it is answered for as soon as the mail is sent."""

    def make(original: Any) -> Any:
        async def journaled(
            self: Any, saga_id: str, event: Any, needless: Any, until: float
        ) -> bool:
            if await self._store.ownership.post(saga_id, event):
                return True
            return bool(await original(self, saga_id, event, needless, until))

        return journaled

    patches.wrap(Elsewhere, "journaled", make)


@further_under("replicas", "skew", "partition", "api_away", "drain")
def every_machine_goes_by_its_own_clock(patches: Patches) -> None:
    """Rule 34: a process whose clock is ahead hurries the waits of the others."""
    patches.set(node, "wall_of", lambda shared, machine: machine())


@further_under("replicas")
def a_claim_takes_from_the_living(patches: Patches) -> None:
    """Rule 1 of ports.ownership: what needs a run is claimed, whoever owns it."""

    async def claim(self: Any, now: float, limit: int, version: int) -> dict[str, int]:
        owners = self._database.owners
        found = self._database.needing_a_run(lambda row, at: row.version <= version, limit)
        owners.update(dict.fromkeys(found, self.me))
        return {saga_id: self._database.sagas[saga_id].length for saga_id in found}

    patches.set(memory_database.MemoryReplica, "claim", claim)


@further_under("replicas", "zombie")
def a_lease_never_ends_for_its_owner(patches: Patches) -> None:
    """Decision 0013: a process that was frozen counts on what it owned, and on its own word."""

    async def assured(self: Any) -> None:
        return None

    patches.set(memory_database.MemoryReplica, "sure", True)
    patches.set(memory_database.MemoryReplica, "assured", assured)


@further_under("replicas")
def the_dead_keep_what_they_own(patches: Patches) -> None:
    """Rule 3 of ports.ownership: the sagas of a process that was killed are nobody's to take."""

    def live_owner(self: Any, saga_id: str, now: float) -> int | None:
        owner: int | None = self.owners.get(saga_id)
        return owner

    patches.set(memory_database.MemoryDatabase, "live_owner", live_owner)


# --- the endpoints -------------------------------------------------------------------------------


@further
def what_cannot_be_undone_is_answered_202(patches: Patches) -> None:
    """Protocol 3.4: behind the pivot the endpoint says that it is being undone, for ever."""

    def make(original: Any) -> Any:
        def why_not(plan: Any, saga: Any, *, closed: bool) -> Any:
            return "" if questions.past_pivot(plan, saga) else original(plan, saga, closed=closed)

        return why_not

    patches.wrap(compensate, "why_not_compensated", make)


@further
def a_compensation_under_way_is_answered_200(patches: Patches) -> None:
    """Protocol 3.4: the endpoint says `compensated` of a saga that is still being undone."""

    def accepted(request: Any, *headers: Any) -> Any:
        saga_id = request.parameters["saga_id"]
        return json_answer(Standing(saga_id=saga_id, outcome=Outcome.COMPENSATED))

    patches.set(compensate, "accepted", accepted)


# --- failing compensation ------------------------------------------------------------------------


@mutant
def compensation_stops_at_the_first_failure(patches: Patches) -> None:
    """Rule 12: one that fails for good leaves the others undone."""

    def make(original: Any) -> Any:
        def go_back(plan: Any, saga: Any, now: float) -> Any:
            failed = [
                name for name, step in saga.steps.items() if step.phase is Phase.COMPENSATION_FAILED
            ]
            if failed:
                return [Record(event=e.FailedToCompensate(at=now, stands=tuple(failed)))]
            return original(plan, saga, now)

        return go_back

    patches.wrap(machine, "_go_back", make)


@mutant
def a_failed_compensation_is_called_done(patches: Patches) -> None:
    """Rule 12: success is reported after half an undo."""
    patches.set(machine, "what_stands", lambda plan, saga: ())


@mutant
def attempts_are_unbounded(patches: Patches) -> None:
    """Rule 5: an attempt is repeated for ever."""
    patches.set(retry.RetryPolicy, "exhausted", lambda self, attempts: False)


# --- crash, restart, epochs ----------------------------------------------------------------------


@mutant
def a_stale_epoch_is_accepted(patches: Patches) -> None:
    """Rule 17: whoever writes last wins."""

    async def save(self: Any, row: Any, events: Any, **_: Any) -> None:
        held = self._sagas[row.id]
        self._write(replace(row, length=held.length + len(events)), events)

    patches.set(memory_unit.MemoryUnit, "save", save)


@mutant_under("crash_after_commit")
def a_recovered_saga_is_not_taken_up(patches: Patches) -> None:
    """Rule 16: what was under way at a crash is left lying."""
    patches.set(Recovery, "_open_some", lambda self: self._backlog.clear())


@further
def the_epoch_is_not_raised(patches: Patches) -> None:
    """Rule 17: who takes over writes under the epoch of the one before."""

    def change(plan: Any, saga: Any, event: Any) -> Any:
        return replace(event, epoch=saga.epoch) if isinstance(event, e.Recovered) else event

    _evolved(patches, change)


# --- the chain -----------------------------------------------------------------------------------


@mutant
def handed_on_before_the_result_is_durable(patches: Patches) -> None:
    """Rule 3: downstream gets the context while the last call is still under way."""

    def make(original: Any) -> Any:
        def waves(every: Any) -> Any:
            ordered = original(every)
            if len(ordered) > 1 and ordered[-1][0].kind is StepKind.FORWARD:
                return (*ordered[:-2], ordered[-2] + ordered[-1])
            return ordered

        return waves

    patches.wrap(steps, "_waves", make)
    patches.wrap(
        StageParticipant,
        "output",
        lambda original: lambda self, view: RESULT if self._adds.output is not None else None,
    )


@further
def an_output_is_kept_for_all_sagas(patches: Patches) -> None:
    """Decision 0027: a saga is answered with the output of another one."""
    kept: dict[Any, Any] = {}

    def make(original: Any) -> Any:
        return lambda self, done, *more: kept.setdefault(self, original(self, done, *more))

    patches.wrap(Interpreter, "_output", make)


@mutant
def the_deadline_is_not_checked(patches: Patches) -> None:
    """Rule 19: steps are started after it."""
    patches.wrap(
        interpreter,
        "decide",
        lambda original: lambda plan, saga, now: original(plan, replace(saga, deadline=None), now),
    )


@further
def a_yes_that_may_have_been_given_is_not_looked_for(patches: Patches) -> None:
    """Decision 0011: after the deadline what was in flight downstream is compensated unseen."""
    patches.set(machine, "must_be_looked_for", lambda step, known: False)


@further
def the_deadline_cuts_compensation(patches: Patches) -> None:
    """Rule 19: what is not undone by the deadline is given up."""

    def make(original: Any) -> Any:
        def go_back(plan: Any, saga: Any, now: float) -> Any:
            moves = original(plan, saga, now)
            if saga.deadline is None or now < saga.deadline:
                return moves
            for move in moves:
                if isinstance(move, Do) and move.kind is AttemptKind.COMPENSATE:
                    late = e.CompensationRefused(at=now, step=move.step, reason="too late")
                    return [Record(event=late)]
            return moves

        return go_back

    patches.wrap(machine, "_go_back", make)


@mutant
def a_late_failure_is_not_told_upstream(patches: Patches) -> None:
    """Rule 22: it stays here."""
    patches.set(machine, "_tell_if_due", lambda saga: saga)


@further
def a_message_counts_as_delivered_without_an_answer(patches: Patches) -> None:
    """Rule 22: upstream is asked once, and believed to have heard it."""

    def make(original: Any) -> Any:
        async def tell(self: Any, saga: Any, outgoing: Any) -> Any:
            event = await original(self, saga, outgoing)
            if isinstance(event, e.TellDelayed):
                return e.TellDelivered(at=event.at)
            return event

        return tell

    patches.wrap(Sender, "_tell", make)


@further
def a_completed_saga_cannot_be_undone(patches: Patches) -> None:
    """Rule 21: once it is completed, a request to compensate is lost."""

    def make(original: Any) -> Any:
        def request(plan: Any, saga: Any, event: Any) -> Any:
            return saga if saga.state is SagaState.COMPLETED else original(plan, saga, event)

        return request

    patches.wrap(machine, "_request_compensation", make)


@mutant
def the_pivot_is_ignored(patches: Patches) -> None:
    """Rule 20: it goes back from behind the pivot."""
    patches.set(machine, "past_pivot", lambda plan, saga: False)
    patches.set(machine, "pivot_undecided", lambda plan, saga: False)


@further
def a_lost_compensation_counts_as_done(patches: Patches) -> None:
    """Rule 13: an undo without an answer is not repeated."""

    def make(original: Any) -> Any:
        def end(do: Any, turn: Any, at: float, *more: Any) -> Any:
            if do.kind is AttemptKind.COMPENSATE and isinstance(turn, Failed):
                return e.CompensationSucceeded(at=at, step=do.step)
            return original(do, turn, at, *more)

        return end

    patches.wrap(sender, "end_event", make)


# --- what was tried and is mended ----------------------------------------------------------------


@further
def a_call_in_doubt_is_retried_under_a_new_key(patches: Patches) -> None:
    """Rules 2 and 31: an operator's retry gives a call another key, as an undo may have one."""

    def make(original: Any) -> Any:
        def key(self: Any, done: Any, what: Any) -> str:
            known = done.saga.steps.get(what.do.step)
            forward = what.do.kind is AttemptKind.EXECUTE
            again = forward and known is not None and known.forgiven > 0
            return f"{original(self, done, what)}.2" if again else str(original(self, done, what))

        return key

    patches.wrap(Interpreter, "_key", make)


@further
def a_call_in_doubt_is_made_anew(patches: Patches) -> None:
    """Rule 31: after an operator's retry today's code makes a request that may have landed."""

    def make(original: Any) -> Any:
        def forgive(step: Any, *more: Any) -> Any:
            other = tuple(replace(each, body=each.body + b" ") for each in step.requests)
            return replace(original(step, *more), requests=other)

        return forgive

    patches.wrap(verbs, "_forgive", make)
