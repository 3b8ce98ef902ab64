"""The generations of a database, on a server or in a file: a restore begins one (rule 33)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct
from msgspec.structs import replace

from stage.core.errors import ConfigurationError
from stage.core.sweep import SweepState
from stage.core.unseen import may_be_dropped
from stage.ports.identity import Identity
from stage.ports.store import UNKEPT, Act, Row
from stage.store import rows

Change = Callable[[Identity, float], Identity]
"""Makes the next identity out of the present one and the instant, in epoch seconds."""

ACTOR: Final = "stage db restored"
PUT_BACK: Final = "stopped: an older database was put back"
"""The actor and the reason of the acts by which the sweeps of a backup are stopped."""
RELEASE: Final = "stage db released"
GIVEN_UP: Final = "lost_given_up"
"""The actor and the name of the act by which a person gives up a saga that was lost."""
RECONCILE: Final = (
    "`stage reconcile`, or by /console/reconcile while the stage is up (the one way where workers"
    " have a file each)"
)
AS_THE_LAST: Final = (
    f". {UNKEPT} stands for those of whose requests there was no room. Serve once the others are"
    " here, until nobody is answered 503 any more, take over again, and give it up as the last"
)
LISTED_MAX = 10
"""Sagas that a refusal names."""


class Accepted(Struct, frozen=True, kw_only=True):
    """A database that was accepted as restored, and the numbers of the sweeps that ran in it."""

    identity: Identity
    stopped_sweeps: tuple[int, ...]


class Execute(Protocol):
    """Runs a statement by its name in a transaction of its own, and gives its rows."""

    def __call__(self, name: str, *parameters: object) -> list[Row]: ...


def restored(as_of: float, latest: float | None, newest: Callable[[Identity], int]) -> Change:
    """Begin the generation behind the `newest`, with a backup of the age `as_of`.

    `latest` is when a saga in it changed last; None: it has none. Sagas may be missing from then
    on, whatever a person says: of a time that is too late, the release would say that they never
    were.
    """
    return lambda found, now: replace(
        found,
        generation=newest(found) + 1,
        restored_as_of=min(as_of, found.born_at if latest is None else latest),
        restored_at=now,
        released_at=None,
    )


def stop_sweeps(execute: Execute, now: float) -> tuple[int, ...]:
    """Stop every sweep that runs in a backup; their numbers.

    A person may have stopped it since, or have done its work by hand: it goes on when a person
    says so. The act is written first, so that a stop between the two leaves no sweep
    without one. No row is read as a value: its verb may be one of a newer release.
    """
    ((there,),) = execute("has_sweeps")
    running = execute("running_sweeps") if there else []
    for number, verb, where, sagas in running:
        act = Act(
            at=now,
            actor=ACTOR,
            act=f"sweep_{verb}",
            target=f"sweep {number}",
            reason=PUT_BACK,
            before=SweepState.RUNNING.value,
            after=f"{SweepState.STOPPED.value}, {sagas} sagas: {where}",
        )
        execute("keep_act", *rows.act_values(act))
        execute("set_sweep", number, SweepState.STOPPED.value)
    return tuple(number for number, *_ in running)


def unadopted(execute: Execute) -> list[Row]:
    """Saga id, neighbour and reason of each request to compensate whose saga is still not here.

    It is the only proof of that saga. Of one that was dropped for its age before the backup no
    release says that nothing stands (decision 0080): that one holds up none.
    """
    return _by_age(execute)[0]


def _by_age(execute: Execute) -> tuple[list[Row], list[Row]]:
    """The requests about sagas that are not here: of those that may be lost, and the others.

    The others are about sagas that may have been dropped for their age.
    """
    found = execute("unadopted")
    if not found:
        return [], []
    until = rows.dropped(execute("get_dropped")[0]).ids_until
    lost = [row for row in found if not may_be_dropped(row[0], until)]
    return lost, [row for row in found if may_be_dropped(row[0], until)]


def give_up(execute: Execute, now: float, reasons: Mapping[str, str]) -> None:
    """Drop the requests about these sagas, each with the reason of the person who gives it up.

    The act is written first, so that a stop between the two leaves no saga without one. Requests
    about sagas that may have been dropped for their age go too: an older release kept them, and
    they would take a place for good.
    """
    lost, too_old = _by_age(execute)
    for saga_id in {row[0] for row in too_old}:
        execute("give_up_lost", saga_id)
    asked: dict[str, list[str]] = {}
    for saga_id, requested_by, _ in lost:
        asked.setdefault(saga_id, []).append(requested_by)
    for saga_id in asked.keys() & reasons.keys():
        act = Act(
            at=now,
            actor=RELEASE,
            act=GIVEN_UP,
            target=saga_id,
            reason=reasons[saga_id],
            before=f"not here, asked for by {', '.join(asked[saga_id])}",
            after="a release says that it was never here",
        )
        execute("keep_act", *rows.act_values(act))
        execute("give_up_lost", saga_id)


def released(unasked: Sequence[str], lost: Collection[str]) -> Change:
    """Release the present generation.

    Raises ConfigurationError for neighbours still `unasked`, and for sagas that are `lost`.
    """
    if unasked:
        were = "was" if len(unasked) == 1 else "were"
        raise ConfigurationError(
            f"{', '.join(unasked)} {were} not asked for the sagas since the backup: ask by"
            f" {RECONCILE}"
        )
    if lost:
        more = ", ..." if len(lost) > LISTED_MAX else ""
        others = "" if UNKEPT not in lost else AS_THE_LAST
        raise ConfigurationError(
            f"{len(lost)} sagas that are not here were asked to be compensated, and a release would"
            f" say that nothing of them stands: {', '.join(sorted(lost)[:LISTED_MAX])}{more}. Take"
            f" over those of this database by {RECONCILE}. Give up with --give-up ID=REASON each"
            f" that another shard or file has, and each whose effects were looked for{others}"
        )
    return lambda found, now: replace(found, released_at=now)
