"""A declaration stands by itself: it neither loads nor names what serves it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import pytest

import stage.authoring
from stage.authoring.declaration import StageDeclaration
from stage.core.errors import DeclarationError

DECLARED = """
import sys
import msgspec
from stage import Stage

class Order(msgspec.Struct):
    amount: int

payment = Stage("payment", accepts=Order)

@payment.transaction(compensation=None, reason="it does nothing")
async def reserve(tx, saga) -> None: ...

assert ["reserve", "forward:shipping"] == [s.name for s in payment.bind(("shipping",)).plan.steps]
rooms = ("bootstrap", "config", "engine", "inbound", "outbound", "store", "telemetry")
print(*(name for name in (*(f"stage.{room}" for room in rooms), "aiohttp") if name in sys.modules))
"""


def test_a_stage_is_declared_and_bound_without_the_rooms_that_serve_it() -> None:
    """They are loaded by `app` alone. Importing a module of stages costs its author little."""
    done = subprocess.run(
        [sys.executable, "-c", DECLARED], capture_output=True, text=True, timeout=60, check=False
    )
    assert (0, "") == (done.returncode, done.stdout.strip()), done.stderr


def test_no_import_is_hidden_from_the_linter() -> None:
    """A module that is named in a string would pass the import rule unseen."""
    for file in Path(stage.authoring.__path__[0]).glob("*.py"):
        text = file.read_text()
        assert not [word for word in ("__import__", "import_module", "sys.modules") if word in text]


class Nested(msgspec.Struct):
    payment: str
    amount: int


class Renamed(msgspec.Struct, rename={"taken": "payment"}):
    taken: str


@pytest.mark.parametrize("accepts", [Nested, Renamed])
def test_accepts_may_not_name_the_stages_own_member(accepts: type[msgspec.Struct]) -> None:
    """A saga with that member is refused when it comes, so the stage would never run."""
    with pytest.raises(DeclarationError, match="rename the member, or the stage"):
        StageDeclaration("payment", accepts=accepts)
    StageDeclaration("billing", accepts=accepts)


class Paid(msgspec.Struct):
    ref: str


class Row(TypedDict):
    ref: str


def as_dict(saga: Any) -> dict[str, str]:
    return {"reference": saga.id}


def as_maybe(saga: Any) -> Paid | None:
    return None


def as_row(saga: Any) -> Row:
    return {"ref": saga.id}


def as_it_comes(saga):  # type: ignore[no-untyped-def]
    return as_row(saga)


def as_unseen(saga: Any) -> Unseen:  # type: ignore[name-defined]  # noqa: F821
    return as_row(saga)


@pytest.mark.parametrize("output, other", [(as_dict, "dict"), (as_maybe, "None")])
def test_an_output_of_another_type_than_adds_says_is_refused(
    output: Callable[[Any], Any], other: str
) -> None:
    """The schema of a stage would promise a member that nobody gets."""
    declared: StageDeclaration[Any, Any] = StageDeclaration("pay", accepts=dict, adds=Paid)
    with pytest.raises(DeclarationError, match=f"returns {other}.*, and adds= says Paid"):
        declared.output(output)


@pytest.mark.parametrize("adds", [Row, dict, dict[str, str], Any])
@pytest.mark.parametrize("output", [as_row, as_dict, as_it_comes, as_unseen])
def test_an_output_is_taken_where_its_type_may_be_what_adds_says(
    output: Callable[[Any], Any], adds: Any
) -> None:
    """Only what is certain is refused: each value is judged as it comes."""
    declared: StageDeclaration[Any, Any] = StageDeclaration("pay", accepts=dict, adds=adds)
    assert output is declared.output(output)


@pytest.mark.parametrize("option", ["renamed", "peers_renamed"])
def test_a_renaming_the_wrong_way_round_is_refused_with_the_right_one(option: str) -> None:
    """To leave it out, as the refusal said before, would have parked the sagas in flight."""
    names = {"withdraw": "debit"} if option == "renamed" else {"psp2": "psp"}
    declared: StageDeclaration[Any, Any] = StageDeclaration(
        "pay",
        accepts=dict,
        **{option: names},  # type: ignore[arg-type]
    )

    @declared.call(to="psp2", timeout=1.0, compensation=None, reason="no test undoes it")
    async def withdraw(http: Any, saga: Any) -> None: ...

    ((new, former),) = names.items()
    fix = f"reads {{former: new}}: write {option}={{{former!r}: {new!r}}}"
    with pytest.raises(DeclarationError, match=re.escape(fix)):
        declared.bind()
