"""Planted defects of what lies around a saga: gateways, outages, strangers, processes that stop.

They are registered as those of `mutants` are; each breaks one rule of decisions 0015 to 0026.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from stage.authoring.conversation import FunctionConversation
from stage.core import age, machine, questions
from stage.core import events as e
from stage.core.commands import AttemptKind, Do, Record
from stage.core.errors import StoreUnavailable
from stage.core.failure import FailureKind
from stage.core.states import ENDED, EXTERNAL_KINDS, SagaState
from stage.core.steps import Step, StepKind
from stage.engine.embedded import commands
from stage.engine.embedded.engine import EmbeddedEngine
from stage.engine.reconcile import Reconciler
from stage.engine.saga import adoption, opening
from stage.engine.saga.context import PAYLOAD_HASH_CHARS
from stage.engine.saga.dropped import DroppedRows
from stage.engine.saga.sender import Sender
from stage.outbound.neighbours import chain_v1
from stage.ports.identity import Identity
from stage.simulation import primary
from stage.store import memory_unit
from stage.wire import replies
from stage.wire.ending import RenderedAnswer
from stage.wire.replies import CompensateReplyKind, ReplyKind
from tests.simulation.mutants import Patches, _evolved, further_under, mutant, mutant_under

GATEWAYS = ("gateway_answers", "gateway_gives_up", "gateway_replaces", "gateway_rewrites")
WRONG_CLOCKS = ("clock_jump", "crash", "late_compensation", "partition", "api_away")
UNDOS_MAX = 5
"""The attempts after which the broken undo gives up."""

# --- gateways: only the neighbour's own word counts (decision 0015) ------------------------------


def _read(patches: Patches, name: str, read: Callable[[int, bytes], Any]) -> None:
    """Let an answer mean what `read` makes of its code and body, where that is not None."""

    def make(original: Any) -> Any:
        def kind(status: int, body: bytes, saga_id: str) -> Any:
            found = read(status, body)
            return original(status, body, saga_id) if found is None else found

        return kind

    patches.wrap(chain_v1, name, make)


@mutant
def a_bare_no_is_believed(patches: Patches) -> None:
    """Protocol 3.3: a gateway's 400 or 409 counts as downstream's own no."""
    no = ReplyKind.REFUSED
    _read(patches, "kind_of_reply", lambda code, _: no if code in replies.IN_DOUBT_CODES else None)


@mutant
def a_no_in_doubt_leaves_no_doubt(patches: Patches) -> None:
    """Protocol 3.3: after a gateway's no downstream is not asked to compensate."""

    def change(plan: Any, saga: Any, event: Any) -> Any:
        return replace(event, may_stand=False) if isinstance(event, e.StepRefused) else event

    _evolved(patches, change)


@mutant_under(*GATEWAYS)
def a_gateways_504_is_too_late(patches: Patches) -> None:
    """Protocol 3.3: the time-out of a gateway says that downstream did nothing."""
    late = ReplyKind.TOO_LATE
    _read(patches, "kind_of_reply", lambda code, _: late if code == 504 else None)


@further_under("duplicate", "store_away")
def a_no_for_now_is_a_no_for_good(patches: Patches) -> None:
    """Decision 0083: downstream said 503, and a copy of the request comes when all is undone."""
    _certain(patches, lambda step: step.kind is StepKind.FORWARD)


@further_under("key_rotated", "gateway_replaces", "gateway_gives_up", "deadline")
def a_401_of_a_neighbour_is_certain(patches: Patches) -> None:
    """Decision 0093: a replica without the key said it, and another one has the saga."""

    def make(original: Any) -> Any:
        def read(answer: Any, saga_id: str) -> Any:
            reply = original(answer, saga_id)
            return replace(reply, not_now=False) if getattr(reply, "denied", False) else reply

        return read

    patches.wrap(chain_v1, "read_forward", make)


@further_under("gateway_replaces", "gateway_gives_up")
def a_no_that_names_no_saga_is_believed(patches: Patches) -> None:
    """Decision 0093: a replica could not read a mangled copy, and another one has the saga."""
    patches.set(replies, "names_saga", lambda body, saga_id: True)


@further_under("gateway_replaces", "gateway_gives_up", "duplicate", "api_busy")
def a_429_of_an_api_is_certain(patches: Patches) -> None:
    """Decision 0087: a gateway said it when the API had acted, and nothing is undone there."""
    _certain(patches, lambda step: step.kind in EXTERNAL_KINDS and step.idempotent)


@further_under("gateway_replaces", "gateway_gives_up", "api_busy")
def an_api_without_keys_is_asked_again_after_a_429(patches: Patches) -> None:
    """Decision 0087: the API had acted, and acts again."""
    _certain(patches, lambda step: not step.idempotent)


@further_under("gateway_replaces", "late_compensation", "api_away")
def a_pivot_is_given_up_at_a_429(patches: Patches) -> None:
    """Decision 0087: what was before the pivot is undone, and the pivot has happened."""
    for room in (machine, questions):
        patches.set(room, "pivot_may_come", lambda _step, _known: False)


def _certain(patches: Patches, of: Callable[[Step], bool]) -> None:
    """A no for now of such a step is believed for good."""

    def change(original: Any) -> Any:
        def fail(plan: Any, saga: Any, event: Any) -> Any:
            may_come = event.may_come and not of(plan.step(event.step))
            return original(plan, saga, replace(event, may_come=may_come))

        return fail

    patches.wrap(machine, "_fail_for_certain", change)


@mutant_under(*GATEWAYS)
def a_page_is_a_yes(patches: Patches) -> None:
    """Protocol 3.3: a maintenance page says 200, and the saga completes."""
    _read(patches, "kind_of_reply", lambda code, _: ReplyKind.EXECUTED if code == 200 else None)
    patches.wrap(
        chain_v1,
        "decode_executed",
        lambda original: lambda body, *more: original(body, *more) if b"executed" in body else {},
    )


@mutant_under(*GATEWAYS, "late_compensation")
def a_login_page_undoes(patches: Patches) -> None:
    """Protocol 3.4: any 200 says that nothing of the saga stands there."""
    done = CompensateReplyKind.COMPENSATED
    _read(patches, "kind_of_compensate_reply", lambda code, _: done if code == 200 else None)


@mutant_under(*GATEWAYS, "late_compensation")
def a_bare_410_undoes(patches: Patches) -> None:
    """Protocol 3.4: gone is gone, whoever says it."""
    done = CompensateReplyKind.COMPENSATED
    _read(patches, "kind_of_compensate_reply", lambda code, _: done if code == 410 else None)


@mutant_under(*GATEWAYS, "late_compensation")
def a_word_on_another_saga_is_believed(patches: Patches) -> None:
    """Protocol 3.3: the saga that an answer speaks of is not looked at."""

    def make(original: Any) -> Any:
        def word(body: bytes, saga_id: str) -> Any:
            return original(body.replace(f"{saga_id}-other".encode(), saga_id.encode()), saga_id)

        return word

    patches.wrap(replies, "own_word", make)


@mutant_under(*GATEWAYS, "tail_fails_late")
def a_gateway_hears_of_the_late_failure(patches: Patches) -> None:
    """Rule 22: upstream counts as told when anything at all was answered."""

    def make(original: Any) -> Any:
        async def tell(self: Any, saga: Any, outgoing: Any) -> Any:
            event = await original(self, saga, outgoing)
            if isinstance(event, e.TellDelayed) and event.not_understood:
                return e.TellDelivered(at=event.at)
            return event

        return tell

    patches.wrap(Sender, "_tell", make)


# --- outages and defects: what costs time, and what is in doubt (rules 4 and 28) -----------------


@mutant
def an_attempt_that_never_happened_is_counted(patches: Patches) -> None:
    """Rule 28: an outage uses attempts up."""

    def make(original: Any) -> Any:
        def fail(plan: Any, saga: Any, event: Any) -> Any:
            after, before = original(plan, saga, event), saga.steps.get(event.step)
            forgiven = 0 if before is None else before.forgiven
            step = replace(after.steps[event.step], forgiven=forgiven)
            return replace(after, steps={**after.steps, event.step: step})

        return fail

    patches.wrap(machine, "_fail_for_certain", make)


@mutant
def an_undo_gives_up_in_an_outage(patches: Patches) -> None:
    """Rule 28: an undo that cannot be made now is given up after a few attempts."""

    def make(original: Any) -> Any:
        def compensate(plan: Any, saga: Any, step: Any, now: float) -> Any:
            move = original(plan, saga, step, now)
            again = isinstance(move, Do) and move.kind is AttemptKind.COMPENSATE
            if again and move.attempt > UNDOS_MAX:
                refused = e.CompensationRefused(at=now, step=step.name, reason="away", certain=True)
                return Record(event=refused)
            return move

        return compensate

    patches.wrap(machine, "_compensate", make)


@mutant
def a_defect_behind_the_request_is_certain(patches: Patches) -> None:
    """Rule 4: a function that fails on its answer has had no effect."""

    def make(original: Any) -> Any:
        def defect(self: Any, reason: str, error: BaseException) -> Any:
            failed = original(self, reason, error)
            return replace(failed, kind=FailureKind.DEFECT)

        return defect

    patches.wrap(FunctionConversation, "_defect", make)


@further_under(*WRONG_CLOCKS)
def patience_goes_by_the_wall_clock(patches: Patches) -> None:
    """Rule 34: a clock that is wrong by days uses up the patience for an undo."""
    patches.set(age, "GAP_SECONDS_MAX", math.inf)


@further_under(*WRONG_CLOCKS)
def an_instant_of_a_wrong_clock_is_waited_for(patches: Patches) -> None:
    """Rule 34: a pause that was journaled days ahead lasts for days."""
    patches.set(age, "WAIT_SECONDS_MAX", math.inf)


# --- who asks (decisions 0023 and 0026, protocol 3.4) --------------------------------------------


@mutant
def a_strangers_compensate_is_obeyed(patches: Patches) -> None:
    """Decision 0023: whoever names the id may have the saga compensated."""
    patches.set(opening, "belongs_to", lambda *who: True)


@mutant
def another_upstream_gets_the_answer(patches: Patches) -> None:
    """Decision 0023: a saga is replayed to whoever sends its id and data."""

    def make(original: Any) -> Any:
        def check(context: Any, *more: Any) -> None:
            payload = context.fingerprint[:PAYLOAD_HASH_CHARS]
            original(replace(context, trail=(), fingerprint=payload), *more)

        return check

    patches.wrap(commands, "_check_same", make)
    patches.set(commands, "same_opener", lambda known, asked: True)


@further_under("stranger", "operator")
def nobody_remembers_who_opened_a_closed_saga(patches: Patches) -> None:
    """Rule 36: once its contents were dropped, any upstream gets the answer of the first."""
    patches.set(commands, "same_opener", lambda known, asked: True)


@mutant
def an_asker_without_its_word_is_believed(patches: Patches) -> None:
    """Protocol 3.4: a downstream that asks has compensated itself, whether it says so or not."""

    def make(original: Any) -> Any:
        return lambda plan, saga, event: original(plan, saga, replace(event, compensated=True))

    patches.wrap(machine, "_request_compensation", make)


# --- processes that stop (decision 0025) ---------------------------------------------------------


@mutant
def a_process_that_stops_says_202_to_all(patches: Patches) -> None:
    """Decision 0007: its callers ask the next process anyway, so nothing is written down."""

    def make(original: Any) -> Any:
        async def accept(self: Any, envelope: Any, **options: Any) -> Any:
            if self._sagas.draining and envelope.saga_id in self._sagas:
                return None
            return await original(self, envelope, **options)

        return accept

    patches.wrap(EmbeddedEngine, "accept", make)


# --- databases that are put back (rule 33, decisions 0030 and 0050) -------------------------------


@further_under("restore")
def the_backup_is_the_whole_truth(patches: Patches) -> None:
    """Decision 0030: a saga under way in the backup went no further than its journal says."""

    def make(original: Any) -> Any:
        return lambda *found: original(*found)[-1:]

    patches.wrap(opening, "events_after_restore", make)


@further_under("restore", "early_compensation", "late_compensation")
def a_saga_of_the_backup_goes_on(patches: Patches) -> None:
    """Decision 0050: it runs on, although upstream may know it compensated."""

    def make(original: Any) -> Any:
        return lambda *found: original(*found)[:-1]

    def change(plan: Any, saga: Any, event: Any) -> Any:
        return replace(event, generation=1) if isinstance(event, e.Recovered) else event

    patches.wrap(opening, "events_after_restore", make)
    _evolved(patches, change)


@further_under("restore")
def what_was_lost_is_not_adopted(patches: Patches) -> None:
    """Decision 0030: the database is released, and what neighbours have is not written down."""

    async def adopt(self: Any, found: Any) -> int:
        return len(found.lost)

    patches.set(Reconciler, "adopt", adopt)


@further_under("restore", "late_compensation")
def an_older_database_knows_every_saga(patches: Patches) -> None:
    """Decision 0020: what is not in it was never here, so nothing of it stands."""
    patches.set(Identity, "lost_before", -math.inf)


@further_under("restore", "clock_jump", "operator")
def a_lost_saga_has_a_deadline_by_the_wall_clock(patches: Patches) -> None:
    """Rule 34: it is over at the instant of a clock that was days ahead."""

    def make(original: Any) -> Any:
        def journal(*found: Any, at: float, **rest: Any) -> Any:
            first, *others = original(*found, at=at, **rest)
            if isinstance(first, e.Accepted):
                first = replace(first, deadline=at)
            return [first, *others]

        return journal

    patches.wrap(adoption, "journal_of", make)


# --- what is over is closed and dropped (rule 21, decision 0080) ----------------------------------


@further_under("retention", "late_compensation")
def a_closed_saga_forgets_that_it_stands(patches: Patches) -> None:
    """Rule 21: once its journal is gone, compensate is answered as if nothing of it stood."""

    def make(original: Any) -> Any:
        return lambda row: replace(original(row), state=SagaState.COMPENSATED)

    patches.wrap(opening, "bare_saga", make)


@further_under("retention", "undo_refused", "late_compensation")
def a_saga_is_closed_of_which_something_stands(patches: Patches) -> None:
    """Rule 14: what could not be undone is remembered until a person settles it."""

    def closable(row: Any, before: float) -> bool:
        return row.state in ENDED and row.closed_at is None and row.updated_at < before

    patches.set(memory_unit, "_closable", closable)


@further_under("retention", "repeat")
def a_row_goes_whose_id_proves_nothing(patches: Patches) -> None:
    """Decision 0080: a repeat of it cannot be told from a new saga, and runs."""
    patches.wrap(memory_unit, "_droppable", lambda _: memory_unit._kept_closed)


@further_under("retention", "repeat")
def nobody_looks_for_what_was_dropped(patches: Patches) -> None:
    """Decision 0080: a saga that is not there was never seen, and a late repeat of it runs."""

    async def look(self: Any, unit: Any, saga_id: str) -> None:
        pass

    patches.set(DroppedRows, "refuse_in", look)


@further_under("retention", "repeat")
def an_answer_is_given_without_its_data(patches: Patches) -> None:
    """Decision 0080: a repeat hears 200 once the data was dropped, and goes on without it."""

    def answer(row: Any) -> Any:
        return RenderedAnswer(status=row.answer_status, body=b'{"outcome":"executed"}')

    patches.set(commands, "answer_past_retention", answer)


# --- databases that fail over (rule 8, decision 0059) ---------------------------------------------


@further_under("failover", "replicas")
def a_commit_in_doubt_is_taken_for_done(patches: Patches) -> None:
    """Rule 8: the primary was lost in a COMMIT, and nobody looks whether the standby has it."""

    def make(original: Any) -> Any:
        async def settled(self: Any, process: str, *, landed: bool) -> bool:
            await original(self, process, landed=landed)
            return True

        return settled

    patches.wrap(primary.Primary, "settled", make)


@further_under("failover", "replicas")
def a_server_that_only_reads_is_kept(patches: Patches) -> None:
    """SQLSTATE 25006 is no reason to connect anew: the old primary stays that of the process."""
    kept: dict[int, set[str]] = {}

    def make(original: Any) -> Any:
        def check(self: Any, process: str) -> None:
            held = kept.setdefault(id(self), set())
            if process in held:
                raise StoreUnavailable("the server only reads")
            try:
                original(self, process)
            except StoreUnavailable:
                held.add(process)
                raise

        return check

    patches.wrap(primary.Primary, "check", make)


@further_under("failover_lossy", "replicas")
def a_lease_is_trusted_over_a_failover(patches: Patches) -> None:
    """Decision 0059: a process that wrote no batch goes on, whatever became of its renewals."""

    def lacks(self: Any, process: str) -> bool:
        return bool(self._batches[process] > self._copied[0][process])

    patches.set(primary.Primary, "lacks", lacks)
