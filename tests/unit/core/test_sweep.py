"""A sweep asks the same of each of its sagas, and its entries say which sweep it was."""

from __future__ import annotations

import pytest

from stage.core import events as e
from stage.core.act_key import ActKey
from stage.core.sweep import Sweep, verb_of
from stage.core.sweep_verbs import SweepVerb

WHY = "the bank was down (sweep 7)"
KEY = ActKey(key="sweep 7 1.0 s-1", digest=WHY)


def sweep(verb: SweepVerb) -> Sweep:
    """The seventh sweep, of six sagas."""
    return Sweep(
        number=7, at=1.0, actor="kim", verb=verb, reason="the bank was down", step="charge",
        rate_per_second=5.0, pending=3, done=2, refused=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    "verb, event",
    [
        (SweepVerb.RETRY, e.Retried(at=9.0, actor="kim", why=WHY, act_key=KEY)),
        (SweepVerb.RESOLVE, e.Resolved(at=9.0, actor="kim", why=WHY, act_key=KEY, step="charge")),
        (SweepVerb.ABANDON, e.Abandoned(at=9.0, actor="kim", why=WHY, act_key=KEY, step="charge")),
        (SweepVerb.FORGET, e.Forgotten(at=9.0, actor="kim", why=WHY, act_key=KEY)),
        (SweepVerb.COMPENSATE, None),
        (SweepVerb.ERASE, None),
        (SweepVerb.PURGE, None),
    ],
)
def test_the_entry_that_a_sweep_leaves_in_each_saga(verb: SweepVerb, event: e.Verb | None) -> None:
    """Under the name of its operator, with the reason, and the number that finds the others.

    Its key is of the sweep and the saga, so that it is done once; no client can give the same.
    """
    assert event == verb_of(sweep(verb), "s-1", 9.0)


def test_every_saga_of_a_sweep_is_counted_once() -> None:
    assert 6 == sweep(SweepVerb.RETRY).sagas
