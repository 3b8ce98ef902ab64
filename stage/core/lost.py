"""A saga that the database lost: the journal that says what its neighbours say (rule 33).

Pure. The neighbours remember a saga that a restored database does not have. Its local transactions
went with the journal, in the same database. Its effects elsewhere may stand: each call and each
hand-over is in doubt, whatever the neighbours say of their own part. Only one case is certain:
upstream has this stage's word that nothing stands here, and no downstream differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from stage.core import events as e
from stage.core.bindings import Bound, binding_of
from stage.core.ids import Direction, idempotency_key
from stage.core.questions import OVER, belongs_to
from stage.core.requester import Requester
from stage.core.saga import Saga
from stage.core.states import LOCAL_KINDS, ParkCause, Phase, SagaState, StepKind
from stage.core.steps import Plan

LOST = "lost with an older database: nobody knows whether it happened"
OPERATOR = "operator"
UNKNOWN_OPENER = "?"
"""No neighbour has such a name."""
_KEYED = frozenset({StepKind.CALL, StepKind.EFFECT})
"""Their effects are known by a key that holds the names of the stage and of the step."""
TURNED = "an older database was put back while it was under way"


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """The word of one neighbour on a saga. `nothing_stands` is its word on its own part."""

    neighbour: str
    from_upstream: bool
    said: str
    nothing_stands: bool


def nothing_stands(words: tuple[Word, ...]) -> Word | None:
    """The word of upstream that proves that nothing stands here; None where something may.

    The word of a downstream proves nothing about this stage: downstream is compensated first, and
    the saga may have been lost here before this stage had its turn.
    """
    if any(not word.nothing_stands for word in words):
        return None
    return next((word for word in words if word.from_upstream), None)


def claimants(words: tuple[Word, ...]) -> tuple[str, ...]:
    """The upstreams that say that they sent the saga here.

    An upstream that says that nothing stands may have had a no for an id that was used already:
    beside the word of another that says otherwise, its own says nothing of whose the saga is.
    """
    said = [word for word in words if word.from_upstream]
    standing = [word for word in said if not word.nothing_stands]
    return (*dict.fromkeys(word.neighbour for word in standing or said),)


def called_otherwise(plan: Plan, saga_id: str, bound: Mapping[str, Bound]) -> tuple[str, ...]:
    """The calls of a saga that this plan would not have made under their keys (rule 2).

    A saga that was lost may have made such calls as well, and its journal is gone: adopted under
    the plan it would be looked up, and undone, under keys that it never had.
    """
    found = []
    for name, each in bound.items():
        kind = StepKind.CALL if each.binding is None else each.binding.kind
        if kind not in _KEYED or (each.binding is None and not each.key):
            continue
        key = idempotency_key(saga_id, plan.stage, name, Direction.EXECUTE)
        if name not in plan.by_name or each.key not in ("", key):
            found.append(name)
    return tuple(found)


def may_ask(plan: Plan, upstream: str, name: str) -> bool:
    """Whether a request to compensate under that name is carried out for a lost saga (rule 36).

    Only the names are known of such a request. A saga whose `upstream` is unknown is no one's but
    the operators' and the downstreams': its opener can ask again, once it is adopted.
    """
    saga = Saga(id="", upstream=upstream or UNKNOWN_OPENER)
    return belongs_to(plan, saga, Requester.CLAIMED, name)


# Many because the words of all who know something of it come together here.
def journal_of(
    plan: Plan,
    words: tuple[Word, ...],
    *,
    upstream: str,
    asked: e.CompensationRequested | None,
    at: float,
    generation: int,
    strangers: tuple[str, ...] = (),
) -> list[e.Event]:
    """The first entries of a lost saga that is adopted.

    `asked` is a request to compensate that came while the saga was unknown: it is carried out.
    Without one the saga waits for a person, who reads which `strangers` have asked. Its deadline is
    over, so that it never goes forward.
    """
    said = "; ".join(f"{word.neighbour} says {word.said}" for word in words)
    said = said or "no neighbour lists it"
    for name in strangers:
        said += f"; {name} asks to compensate it, and nothing proves that it is its own"
    if not upstream and (claimed := claimants(words)):
        said += "".join(f"; {name} claims it" for name in claimed) + ": nothing proves whose it is"
    proof = nothing_stands(words)
    if proof is not None and asked is None:
        return [e.Tombstoned(at=at, requested_by=proof.neighbour, reason=f"lost here; {said}")]
    accepted = e.Accepted(
        at=at,
        deadline=OVER,
        upstream=upstream,
        deferred=True,
        version=plan.version,
        generation=generation,
    )
    lost: list[e.Event] = [accepted, *_doubts(plan, Saga(id=""), at)]
    if asked is not None:
        return [*lost, asked]
    for former, name in plan.renamed.items():
        said += f"; {name} was {former} before: look under that name too, its release is not known"
    reason = f"lost with an older database; {said}"
    return [*lost, e.Parked(at=at, cause=ParkCause.LOST, reason=reason)]


def events_after_restore(plan: Plan, saga: Saga, generation: int, at: float) -> list[e.Event]:
    """The events of a saga of the backup that was on its way forward, when it is taken over.

    It may have started each step that its journal does not know to be done, and it may have been
    compensated since: neighbours may have the word of this stage that nothing of it stands. So it
    does not go forward, and is undone (decision 0050). The events are journaled once in a
    generation of the database, whatever the clocks say (rule 34), by a release that knows the steps
    of the saga. A release that does not may have kept a request to compensate before, and no more.
    """
    if plan.misfit or saga.generation >= generation:
        return []
    if saga.state is SagaState.COMPENSATING and saga.asked_in > saga.generation:
        return _doubts(plan, saga, at)
    if saga.state is not SagaState.ACTIVE:
        return []
    turned = e.CompensationRequested(
        at=at,
        requested_by=OPERATOR,
        requester=Requester.OPERATOR,
        reason=TURNED,
        generation=generation,
    )
    return [*_doubts(plan, saga, at), turned]


def unasked(neighbours: Iterable[str], answers: Mapping[str, str]) -> list[str]:
    """The neighbours without an answer. An empty answer means that the name could not be asked."""
    answered = {neighbour for neighbour, answer in answers.items() if answer}
    return sorted({*neighbours, *answers} - answered)


def _doubts(plan: Plan, saga: Saga, at: float) -> list[e.Event]:
    """A doubt for each step that leaves the process and is not known to have been started."""
    doubts: list[e.Event] = []
    for step in plan.steps:
        known = saga.steps.get(step.name)
        unknown = known is None or known.phase is Phase.WAITING
        if unknown and step.kind not in LOCAL_KINDS:
            attempt = 1 if known is None else known.attempts + 1
            bound = binding_of(step) if known is None else None
            doubts.append(e.StepStarted(at=at, step=step.name, attempt=attempt, bound=bound))
            doubts.append(e.StepInDoubt(at=at, step=step.name, reason=LOST))
    return doubts
