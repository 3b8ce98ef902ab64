"""How a simulated operator brings a restored stage back."""

from __future__ import annotations

from random import Random
from typing import Any, cast

import pytest

from stage.engine.reconcile import Reconciliation
from stage.simulation.loop import VirtualLoop
from stage.simulation.restores import Restores

pytestmark = pytest.mark.blocking  # a loop of its own, which never waits for anything real

OUT_SECONDS = 42_000.0


class Unanswered:
    """A stage with a neighbour that is out for half a day."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.tries = 0

    def come_up(self) -> None:
        """It serves."""

    def go_down(self) -> None:
        """It is stopped."""

    async def reconcile(self, since: float) -> Reconciliation:
        """The neighbour answers once it is back."""
        self.tries += 1
        found = Reconciliation()
        if self._loop.time() < OUT_SECONDS:
            found.unanswered["order"] = "connection refused"
        return found


def test_a_stage_is_not_stopped_thousands_of_times_for_a_neighbour_that_is_out() -> None:
    """Each restart costs an entry of every live saga: seed 604 of level L took half an hour."""
    loop = VirtualLoop()
    loop.still = True
    node = Unanswered(loop)
    restores = Restores([], loop, Random(1), cast(Any, None), cast(Any, None))

    loop.run_until_complete(restores._reconciled(cast(Any, node), 0.0))
    loop.close()

    assert 10 < node.tries < 100
