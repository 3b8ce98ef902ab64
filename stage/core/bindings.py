"""The plan that a journal binds: what the steps of a saga were when they began (rule 32).

Pure. A saga runs under the version of the stage that accepted it. Where no such version is declared
any more, or one of its steps is no longer what it was, the journal itself gives the plan: enough to
tell what was done, and not enough to run anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

import msgspec
from msgspec.structs import replace

from stage.core import events as e
from stage.core.events import Binding
from stage.core.ids import Direction, idempotency_key
from stage.core.order import waves
from stage.core.states import StepKind
from stage.core.steps import FORWARD_PREFIX, Plan, Step, forward_to

_BINDS: Final = (
    e.StepStarted, e.StepSucceeded, e.StepRefused, e.StepTransient, e.ApprovalAsked,
)  # fmt: skip
"""The first events of a step: a transaction is first heard of when it ends."""

MEND = (
    "declare the stage that accepted it as supersedes=, say renamed={former: new} or"
    " peers_renamed={former: new} where a thing only has another name, or end it by `stage resolve`"
    " or `stage abandon`"
)


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """A step as its journal names it. `binding` is None in the journal of an earlier release."""

    binding: Binding | None
    key: str = ""


def binding_of(step: Step) -> Binding:
    """The binding that the first event of a step holds."""
    return Binding(
        kind=step.kind, peer=step.peer, compensatable=step.compensatable, pivot=step.pivot
    )


def hash_of(plan: Plan) -> str:
    """The hash of all that a plan binds, in 16 hex digits: equal for plans that bind the same."""
    bound = [[(step.name, binding_of(step)) for step in wave] for wave in waves(plan)]
    return sha256(msgspec.json.encode([plan.stage, bound])).hexdigest()[:16]


def bound_steps(events: Iterable[e.Event]) -> dict[str, Bound]:
    """Every step that was started, by its journaled name, in the order of the starts."""
    found: dict[str, Bound] = {}
    for event in events:
        if isinstance(event, _BINDS) and event.step not in found:
            found[event.step] = Bound(binding=event.bound, key=getattr(event, "key", ""))
    return found


def difference(plan: Plan, saga_id: str, bound: Mapping[str, Bound]) -> str:
    """Why a saga with those steps does not fit the plan; empty where it does."""
    for name, each in bound.items():
        if said := _difference(plan, saga_id, name, each):
            return said + _renaming(plan, bound, name)
    return ""


def _renaming(plan: Plan, bound: Mapping[str, Bound], name: str) -> str:
    """How to say what a step that is gone is called now, where only one can be meant."""
    before = bound[name].binding
    if before is None or plan.renamed.get(name, name) in plan.by_name:
        return ""
    known = {plan.renamed.get(each, each) for each in bound}
    peer = plan.peers_renamed.get(before.peer, before.peer)
    alike = [
        step.name
        for step in plan.steps
        if step.name not in known
        and (step.kind, step.peer, step.pivot) == (before.kind, peer, before.pivot)
    ]
    if len(alike) != 1 or name.startswith(FORWARD_PREFIX):
        return ""
    return f" (if it is called {alike[0]!r} now, say renamed={{{name!r}: {alike[0]!r}}})"


def _difference(plan: Plan, saga_id: str, name: str, bound: Bound) -> str:
    today = plan.renamed.get(name, name)
    if today not in plan.by_name and name.startswith(FORWARD_PREFIX):
        peer = name.removeprefix(FORWARD_PREFIX)
        return f"it was handed on to {peer!r}, which is no downstream here: configure that again"
    if today not in plan.by_name:
        return f"there is no step {name!r}"
    step, before = plan.step(today), bound.binding
    if bound.key and bound.key != idempotency_key(saga_id, plan.stage, name, Direction.EXECUTE):
        return f"step {name!r} has the key {bound.key!r}, which this stage would not have given it"
    if before is None:
        return ""
    peer = plan.peers_renamed.get(before.peer, before.peer)
    if (before.kind, peer) != (step.kind, step.peer):
        return (
            f"step {name!r} was {_words(before.kind, before.peer)},"
            f" and is {_words(step.kind, step.peer)} now"
        )
    if before.compensatable and not step.compensatable:
        return f"step {name!r} had a compensation, and has none now"
    if before.pivot != step.pivot:
        return f"step {name!r} was {'' if before.pivot else 'not '}the pivot"
    return ""


def _words(kind: StepKind, peer: str) -> str:
    article = "an" if kind.value[0] in "ae" else "a"
    return f"{article} {kind.value} to {peer!r}" if peer else f"{article} {kind.value}"


def journaled_plan(newest: Plan, version: int, bound: Mapping[str, Bound], why: str) -> Plan:
    """The plan that the journal binds, under which nothing can be run; `why` is the reason.

    Only the name is known of a step that an earlier release did not bind: it counts as a step that
    would have to be undone.
    """
    steps = tuple(_step(newest, name, each) for name, each in bound.items())
    pivots = [index for index, step in enumerate(steps) if step.pivot]
    return replace(
        newest,
        steps=steps,
        waves=tuple((step,) for step in steps),
        by_name={step.name: step for step in steps},
        pivot=pivots[0] if pivots else None,
        version=version,
        misfit=why,
        newer=version > newest.version,
        renamed={},
        peers_renamed={},
    )


def _step(newest: Plan, name: str, bound: Bound) -> Step:
    before = bound.binding
    if before is not None:
        return Step(
            name=name,
            kind=before.kind,
            peer=before.peer,
            compensatable=before.compensatable,
            pivot=before.pivot,
        )
    if name in newest.by_name:
        return newest.step(name)
    if name.startswith(FORWARD_PREFIX):
        return forward_to(name.removeprefix(FORWARD_PREFIX))
    return Step(name=name, kind=StepKind.CALL, compensatable=True)
