"""Pauses: which are in force, what they hold, and that a pause of new sagas holds no peer."""

from __future__ import annotations

import pytest

from stage.core.pause import INTAKE, Pause, Way, held_peers, in_force, intake

BOTH = frozenset(Way)


def pause(target: str, way: Way | None = None, until: float = 10.0) -> Pause:
    """A pause that ends at that instant."""
    return Pause(target=target, way=way, at=1.0, until=until, actor="kim", reason="maintenance")


@pytest.mark.parametrize("now, holds", [(5.0, True), (9.9, True), (10.0, False), (11.0, False)])
def test_a_pause_ends_by_itself(now: float, holds: bool) -> None:
    one, other = pause("externals.psp"), pause("externals.bank", until=20.0)
    assert ((one, other) if holds else (other,)) == in_force((one, other), now)


def test_the_pauses_of_one_peer_add_up() -> None:
    """Without a way both are held; a pause of new sagas holds no peer."""
    pauses = (
        pause("externals.psp", Way.FORWARD),
        pause(INTAKE),
        pause("externals.psp", Way.BACKWARD),
        pause("externals.bank", Way.BACKWARD),
        pause("downstreams.shipping"),
    )
    assert {
        "externals.psp": BOTH,
        "externals.bank": frozenset({Way.BACKWARD}),
        "downstreams.shipping": BOTH,
    } == held_peers(pauses)


def test_new_sagas_are_paused_by_their_own_target_alone() -> None:
    of_intake = pause(INTAKE)
    assert of_intake is intake((pause("externals.psp"), of_intake))
    assert intake((pause("externals.psp"),)) is None
