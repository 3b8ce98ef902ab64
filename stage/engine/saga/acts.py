"""The acts of operators on sagas, as the audit keeps them beside the journal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stage.core import events as e
from stage.core.act_key import ActKey
from stage.core.events import name_of
from stage.core.requester import Requester
from stage.core.sweep import Sweep
from stage.ports.store import Act, SagaRow

_ACTS = frozenset(
    {
        e.Retried, e.Settled, e.Resolved, e.Abandoned, e.Forgotten, e.Approved, e.Rejected,
        e.CompensationRequested,
    }
)  # fmt: skip


Keyed = tuple[Act, ActKey | None]
"""An act, and the key under which it was ordered, where it has one."""


def acts_in(events: list[e.Event], before: SagaRow | None, after: SagaRow) -> Iterable[Keyed]:
    """The acts among the events of one transition, each between the same two states."""
    if _ACTS.isdisjoint(map(type, events)):  # most transitions: nobody acted
        return ()
    return _acts(events, before, after)


def _acts(events: list[e.Event], before: SagaRow | None, after: SagaRow) -> Iterator[Keyed]:
    for event in events:
        key: ActKey | None = None
        match event:
            case (
                e.Retried() | e.Settled() | e.Resolved() | e.Abandoned() | e.Forgotten()
                | e.Approved() | e.Rejected()
            ):  # fmt: skip
                actor, reason, key = event.actor, event.why, event.act_key
            case e.CompensationRequested(requester=Requester.OPERATOR):
                actor, reason = event.requested_by, event.reason
            case _:
                continue
        act = Act(
            at=event.at,
            actor=actor,
            act=name_of(event),
            target=after.id,
            reason=reason,
            before="" if before is None else how_it_stands(before),
            after=how_it_stands(after),
        )
        yield act, key


def how_it_stands(row: SagaRow) -> str:
    """The state of a saga in a few words."""
    words = [row.state.value]
    if row.parked_cause is not None:
        words.append(f"parked: {row.parked_cause.value}")
    if row.step:
        words.append(f"waits at {row.step}")
    return ", ".join(words)


def sweep_act(sweep: Sweep, actor: str, reason: str, at: float, *, before: str = "") -> Act:
    """The act of beginning a sweep, of stopping it, or of letting it go on."""
    return Act(
        at=at,
        actor=actor,
        act=f"sweep_{sweep.verb.value}",
        target=f"sweep {sweep.number}",
        reason=reason,
        before=before,
        after=f"{sweep.state.value}, {sweep.sagas} sagas: {sweep.where}",
    )
