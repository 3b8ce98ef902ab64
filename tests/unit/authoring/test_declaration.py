"""A declaration stands by itself: it neither loads nor names what serves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
