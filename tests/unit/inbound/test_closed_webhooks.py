"""The key of a call whose saga is closed: the journal that bound it is gone (decision 0101)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from stage.core import events as e
from stage.core.saga import Saga
from stage.core.states import SagaState
from stage.core.steps import Plan, Step, StepKind, plan_of
from stage.inbound.webhooks import _is_key_of_closed, _speaker
from stage.ports.engine import LeftToNewer, Snapshot
from stage.ports.store import SagaRow, Term
from stage.ports.webhook import Heard


def plan(step: str, version: int, **renamed: str) -> Plan:
    """A plan of one call."""
    call = Step(name=step, kind=StepKind.CALL, peer="psp", compensatable=True, hooked=True)
    return replace(plan_of("payment", (call,)), version=version, renamed=renamed)


def is_key(key: str, *, step: str = "charge", version: int = 2, **heard: Any) -> bool:
    """Whether it is that of a saga which the version accepted; two are declared."""
    first = SimpleNamespace(plan=plan("pay", 1), supersedes=None)
    newest = SimpleNamespace(plan=plan("charge", 2, wire="charge"), supersedes=first)
    service: Any = SimpleNamespace(participant=newest)
    row = SagaRow(
        id="s-1",
        state=SagaState.COMPENSATED,
        epoch=1,
        length=3,
        accepted_at=0.0,
        updated_at=0.0,
        version=version,
        closed_at=9.0,
    )
    found = Snapshot(row=row, saga=Saga(id="s-1"), readable=False)
    event = e.WebhookFound(at=9.0, step=step, result=Raw(b"null"))
    return _is_key_of_closed(service, found, Heard(event=event, key=key, **heard))


@pytest.mark.parametrize(
    "key, version, step",
    [
        ("s-1:payment:charge:do", 2, "charge"),
        ("s-1:payment:charge:do:2", 2, "charge"),  # the second request of its function
        ("s-1:payment:wire:do", 2, "charge"),  # the step had another name when it began
        ("s-1:payment:pay:do", 1, "pay"),
    ],
)
def test_a_key_of_ours_is_known_without_the_journal(key: str, version: int, step: str) -> None:
    assert is_key(key, version=version, step=step)


@pytest.mark.parametrize(
    "key", ["s-2:payment:charge:do", "s-1:billing:charge:do", "s-1:payment:charge:undo", ""]
)
def test_any_other_key_is_none(key: str) -> None:
    """Of another saga or stage, or of an undo; nor does a number say as much."""
    assert not is_key(key)
    assert not is_key("s-1:payment:charge:do", number=Term("order", "o-1"))


def test_a_saga_of_a_newer_release_is_left_to_it() -> None:
    """It is answered 503, and the API says it again."""
    with pytest.raises(LeftToNewer):
        is_key("s-1:payment:charge:do", version=3)


@pytest.mark.parametrize("accepted_by, speaks", [(1, 1), (2, 2), (3, 2)])
def test_a_version_speaks_for_its_own_sagas(accepted_by: int, speaks: int) -> None:
    """The newest also for those of a version that is declared no more, or not yet."""
    first = SimpleNamespace(plan=plan("pay", 1), supersedes=None)
    service: Any = SimpleNamespace(
        participant=SimpleNamespace(plan=plan("charge", 2), supersedes=first)
    )
    assert speaks == _speaker(service, accepted_by)
