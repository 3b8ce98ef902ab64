"""The place where a saga waits: its step and its peer, so that many can be counted by them.

A saga that goes on as it should waits nowhere. A repeat that is in flight keeps the place of its
step: the peer has yet to answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from stage.core.questions import steps_in_flight
from stage.core.saga import Saga, StepState
from stage.core.states import Phase, SagaState, StepKind, Tell
from stage.core.steps import Plan

TELL_STEP = "tell_upstream"
"""In place of a step: the message of a late failure."""

PEER_KINDS = {
    StepKind.CALL: "externals",
    StepKind.EFFECT: "externals",
    StepKind.FORWARD: "downstreams",
}
"""The kind of the peer of a step, as the settings of peers name it."""
UPSTREAMS = "upstreams"

_WAITING = frozenset(
    {Phase.WAITING, Phase.IN_DOUBT, Phase.PROBING, Phase.AWAITING_APPROVAL,
     Phase.COMPENSATION_WAITING, Phase.COMPENSATION_FAILED}
)  # fmt: skip


class Place(NamedTuple):
    """A step and its peer by kind and name, `externals.psp`; empty when the saga waits nowhere.

    A transaction has no peer, nor has an approval.
    """

    step: str = ""
    peer: str = ""


NOWHERE = Place()


def place_of(plan: Plan, saga: Saga) -> Place:
    """Where the saga waits, or is parked: the first of its steps that does."""
    if saga.forgotten:
        return NOWHERE
    if saga.ended and saga.state is not SagaState.FAILED_TO_COMPENSATE:
        return _notifying(saga)
    waiting = [
        (step.order, name)
        for name, step in saga.steps.items()
        if step.phase is not Phase.SUCCEEDED and _waits(saga, step)  # asked at every transition
    ]
    return _of_step(plan, min(waiting)[1]) if waiting else _notifying(saga)


def former_peers(plans: Iterable[Plan]) -> dict[str, str]:
    """By the former name of each peer of steps, by kind and name, that which it has today.

    `plans` are those of all versions of a stage. A name that one of them still uses is no former
    one: its sagas wait for that peer.
    """
    today: dict[str, str] = {}
    used: set[str] = set()
    for plan in plans:
        for step in plan.steps:
            if (kind := PEER_KINDS.get(step.kind)) is None:
                continue
            used.add(f"{kind}.{step.peer}")
            former = (each for each, name in plan.peers_renamed.items() if name == step.peer)
            today.update({f"{kind}.{each}": f"{kind}.{step.peer}" for each in former})
    return {each: name for each, name in today.items() if each not in used}


def former_steps(plans: Iterable[Plan]) -> dict[str, str]:
    """By the former name of each step that which it has today; see `former_peers`."""
    today: dict[str, str] = {}
    used: set[str] = set()
    for plan in plans:
        used.update(plan.by_name)
        today.update(plan.renamed)
    return {each: name for each, name in today.items() if each not in used}


def peer_of_today(peer: str, name_of_today: Callable[[str], str], former: Mapping[str, str]) -> str:
    """A peer by kind and name, under the name that it has today: it is one peer.

    `name_of_today` says that of an upstream, `former` those of the peers of steps.
    """
    kind, _, name = peer.partition(".")
    return f"{kind}.{name_of_today(name)}" if kind == UPSTREAMS else former.get(peer, peer)


def _notifying(saga: Saga) -> Place:
    waits = saga.tell_error != "" and saga.tell in (Tell.DUE, Tell.REFUSED, Tell.IN_FLIGHT)
    return Place(TELL_STEP, f"{UPSTREAMS}.{saga.upstream}") if waits else NOWHERE


def _waits(saga: Saga, step: StepState) -> bool:
    if step.phase in _WAITING:
        return True
    if step.phase is Phase.STARTED:
        return step.attempts > 1
    if step.phase is Phase.COMPENSATING:
        return step.compensation_attempts > 1
    return step.phase is Phase.REFUSED and bool(saga.parked) and saga.state is SagaState.ACTIVE


def peers_in_flight(plan: Plan, saga: Saga) -> Iterator[Place]:
    """Each step with an attempt in flight, and its peer."""
    for name in steps_in_flight(saga):
        yield _of_step(plan, name)
    if saga.tell is Tell.IN_FLIGHT:
        yield Place(TELL_STEP, f"{UPSTREAMS}.{saga.upstream}")


def _of_step(plan: Plan, name: str) -> Place:
    step = plan.by_name.get(name)
    kind = None if step is None else PEER_KINDS.get(step.kind)
    return Place(name, f"{kind}.{step.peer}" if step is not None and kind else "")
