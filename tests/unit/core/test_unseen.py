"""The proof in a request about a saga that is not in the database (protocol 3.4)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from stage.core.unseen import (
    Unseen,
    first_id_at,
    judge_unseen,
    may_be_dropped,
    proves_age,
    sent_at_of,
)
from stage.demo.payment import payment

PLAN = payment.bind(("shipping",)).plan
ID7 = "0193f0c4-7d1e-7c3a-9a55-0d6a3c1f2b10"
AT7 = 0x0193F0C47D1E / 1000.0
BORN = 1_800_000_000.0
ALWAYS, NEVER = float("inf"), float("-inf")


@pytest.mark.parametrize(
    "saga_id, by, sent, lost_before, unseen",
    [
        ("o-1", "order", None, BORN, Unseen.NEW),
        ("o-1", "order", BORN + 1, BORN, Unseen.NEW),
        ("o-1", "order", BORN - 1, BORN, Unseen.MAY_BE_LOST),
        (ID7, "order", None, BORN, Unseen.MAY_BE_LOST),
        (ID7.upper(), "order", None, BORN, Unseen.MAY_BE_LOST),
        (ID7, "order", None, AT7, Unseen.NEW),
        (ID7, "order", BORN + 1, BORN, Unseen.NEW),
        ("o-1", "order", None, ALWAYS, Unseen.MAY_BE_LOST),
        ("o-1", "order", BORN - 1, NEVER, Unseen.NEW),
        ("o-1", "shipping", None, NEVER, Unseen.LOST),
        ("o-1", "shipping", BORN + 1, BORN, Unseen.LOST),
        ("o-1", "psp", None, BORN, Unseen.NEW),
    ],
)
def test_the_proof_in_a_request(
    saga_id: str, by: str, sent: float | None, lost_before: float, unseen: Unseen
) -> None:
    """Its own word on the time goes before that of the id; a downstream needs none."""
    found = judge_unseen(
        PLAN, saga_id, requested_by=by, first_sent_at=sent, lost_before=lost_before
    )
    assert unseen is found


def test_a_downstream_that_was_renamed_has_its_saga_from_here_too() -> None:
    """Its sagas of then are named after it."""
    plan = replace(PLAN, peers_renamed={"parcels": "shipping"})
    found = judge_unseen(plan, "o-1", requested_by="parcels", first_sent_at=None, lost_before=NEVER)
    assert Unseen.LOST is found


def test_only_version_7_holds_a_time() -> None:
    """RFC 9562: the version and the variant are looked at."""
    assert AT7 == sent_at_of(ID7)
    for other in ("o-1", ID7.replace("-7c", "-4c"), ID7.replace("-9a", "-1a"), ID7 + "0"):
        assert sent_at_of(other) is None


@pytest.mark.parametrize(
    "saga_id, until, may",
    [
        (ID7, AT7, True),
        (ID7, AT7 - 0.001, False),
        (ID7.upper(), AT7, True),
        (ID7, NEVER, False),
        ("o-1", ALWAYS, False),
    ],
)
def test_only_an_id_with_an_instant_may_be_of_a_dropped_row(
    saga_id: str, until: float, may: bool
) -> None:
    """Rows are dropped of no other sagas."""
    assert may is may_be_dropped(saga_id, until)


@pytest.mark.parametrize(
    "saga_id, closed_at, proves",
    [
        (ID7, AT7 + 0.001, True),
        (ID7, AT7, False),
        (ID7, AT7 - 1, False),
        (ID7.upper(), AT7 + 1, False),
        ("o-1", ALWAYS, False),
        ("00000000-0000-0000-0000-000000000000", AT7, False),
    ],
)
def test_an_id_proves_the_age_of_its_saga(saga_id: str, closed_at: float, proves: bool) -> None:
    """One in lower case, with an instant before that at which the saga was closed."""
    closed_at = min(closed_at, 1e12)
    assert proves is proves_age(saga_id, closed_at)


@pytest.mark.parametrize(
    "at, first",
    [
        (0.0, "00000000-0000-7"),
        (-5.0, "00000000-0000-7"),
        (AT7, ID7[:15]),
        (AT7 + 0.0005, ID7[:15]),
        (1e300, "ffffffff-ffff-7"),
    ],
)
def test_the_first_id_of_an_instant_sorts_before_all_others_of_it(at: float, first: str) -> None:
    """An instant that no id can name is as the first or the last that one can."""
    assert first == first_id_at(at)
    assert first_id_at(AT7) <= ID7 < first_id_at(AT7 + 0.001)
