"""The proof in a request about a saga that is not in the database (protocol 3.4)."""

from __future__ import annotations

import pytest

from stage.core.unseen import Unseen, judge_unseen, sent_at_of
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


def test_only_version_7_holds_a_time() -> None:
    """RFC 9562: the version and the variant are looked at."""
    assert AT7 == sent_at_of(ID7)
    for other in ("o-1", ID7.replace("-7c", "-4c"), ID7.replace("-9a", "-1a"), ID7 + "0"):
        assert sent_at_of(other) is None
