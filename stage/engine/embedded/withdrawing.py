"""Takes back what has not left, where that alone keeps a verb from being done (decision 0061).

An attempt that waits at the gate of its peer counts as in flight, and a pause may hold it for days.
Only the replica that runs the saga knows whether an attempt waits or has left.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial, reduce

from msgspec.structs import replace

from stage.core import events as e
from stage.core.machine import evolve
from stage.core.pause import Way, held_peers
from stage.core.place import TELL_STEP, peers_in_flight
from stage.core.questions import is_in_flight
from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.core.steps import Plan
from stage.engine.embedded.live_saga import LiveSaga
from stage.engine.embedded.pauses import Pauses
from stage.engine.saga.attempts import in_flight, withdrawn
from stage.engine.saga.opening import Opening
from stage.engine.saga.sender import Sender
from stage.ports.clock import Clock


class Withdrawing:
    """Judges a verb as if the attempts that have not left were taken back, and takes them back."""

    def __init__(
        self, plan: Plan, opening: Opening, sender: Sender, pauses: Pauses, clock: Clock
    ) -> None:
        self._plan = plan
        self._opening = opening
        self._sender = sender
        self._pauses = pauses
        self._clock = clock

    def has(self, saga_id: str) -> bool:
        """Whether an attempt of a saga that runs here waits for its turn."""
        return bool(self._sender.withdrawable(saga_id))

    async def make_way(self, live: LiveSaga, verb: e.Verb, until: float) -> None:
        """Take back the attempts that have not left, where they alone keep a verb from being done.

        Raises NotAllowed where the verb would be refused without them too.
        """
        if live.saga is None or not self.has(live.saga_id):
            return
        self._opening.check(self.without_waiting(live.saga), verb)
        self._sender.withdraw(live.saga_id)
        await live.watch(until, lambda live: live.saga is None or not is_in_flight(live.saga))

    def without_waiting(self, saga: Saga) -> Saga:
        """A saga that runs here as it were without its attempts that wait for their turn."""
        return self._after(saga, self._sender.withdrawable(saga.id))

    def without_held(self, saga: Saga) -> Saga:
        """A saga that runs elsewhere as it were without its attempts that a pause holds."""
        today = self._sender.peer_of_today
        pauses = [replace(each, target=today(each.target)) for each in self._pauses.active]
        held = held_peers(pauses)
        now = self._clock.now()
        places = peers_in_flight(saga.under(self._plan), saga)
        return self._after(
            saga,
            (
                withdrawn(do, now)
                for do, place in zip(in_flight(saga), places, strict=True)
                if _way(saga, place.step) in held.get(today(place.peer), ())
            ),
        )

    def without_any(self, saga: Saga) -> Saga:
        """A saga that runs elsewhere as it were if none of its attempts had left."""
        now = self._clock.now()
        return self._after(saga, (withdrawn(do, now) for do in in_flight(saga)))

    def _after(self, saga: Saga, ends: Iterable[e.AttemptEnd]) -> Saga:
        return reduce(partial(evolve, saga.under(self._plan)), ends, saga)


def _way(saga: Saga, step: str) -> Way:
    forward = saga.state is SagaState.ACTIVE and step != TELL_STEP
    return Way.FORWARD if forward else Way.BACKWARD
