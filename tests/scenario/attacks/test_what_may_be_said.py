"""The words of others and the texts of exceptions: kept and shown where the author and the operator
say so (rule 38)."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage import Http, Refused, Saga, Stage
from tests.scenario.attacks.world import running_world

CARD = "4111111111111111"


class Order(msgspec.Struct):
    card: str
    fails: str = ""


def hide_cards(text: str) -> str:
    """The words without a number that looks like a card's."""
    return re.sub(r"\d{13,19}", "[card]", text)


def payment(redact: Any) -> Stage[Order, Any]:
    stage: Stage[Order, Any] = Stage("payment", accepts=Order, redact=redact)

    @stage.call(to="psp", timeout=2.0)
    async def charge(http: Http, saga: Saga[Order]) -> dict[str, Any]:
        if saga.input.fails == "raise":
            raise LookupError(f"no such card {saga.input.card}") from OSError("vault is sealed")
        if saga.input.fails == "refuse":
            raise Refused(f"card {saga.input.card} is blocked")
        found: dict[str, Any] = (await http.post("/do/charge", json={})).json()
        return found

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], found: dict[str, Any] | None) -> None:
        await http.post("/undo/charge", json={})

    return stage


async def seen(folder: Path, log: io.StringIO, redact: Any, fails: str, **options: Any) -> str:
    """All that a neighbour and an operator see of a saga that goes wrong, and its lines."""
    stage = payment(redact)
    usual: dict[str, Any] = {"downstreams": {}, "attempts_max": 1, "drain_seconds": 0.1}
    async with running_world(folder, stage, **{**usual, **options}) as (chain, _):
        answer = await chain.send("s-1", {"card": CARD, "fails": fails}, Prefer="wait=2")
        undone = await chain.compensate("s-1", reason=f"wrong card {CARD}")
        views = [
            (await chain.request("GET", f"{chain.stage}/sagas/s-1{view}"))[2].decode()
            for view in ("", "?view=journal", "?view=plan", "?view=chain")
        ]
    return "\n".join((answer[2].decode(), undone[2].decode(), *views))


def files_of(folder: Path) -> list[Path]:
    """The database and what lies beside it."""
    return sorted(folder.glob("payment.db*"))


async def test_redact_reaches_every_word_that_is_kept(tmp_path: Path, log: io.StringIO) -> None:
    """Those of `Refused` and of the request to compensate: in answer, views, journal and lines."""
    shown = await seen(tmp_path, log, hide_cards, "refuse")

    assert "card [card] is blocked" in shown
    assert CARD not in shown and CARD not in log.getvalue()
    database = b"".join(map(Path.read_bytes, files_of(tmp_path)))
    assert b"[card] is blocked" in database
    assert f"wrong card {CARD}".encode() not in database


@pytest.mark.parametrize("redact", [lambda text: text[10_000], lambda text: None])
async def test_a_text_that_cannot_be_redacted_is_withheld(
    tmp_path: Path, log: io.StringIO, redact: Any
) -> None:
    """A `redact` that raises, or returns no text, lets nothing out."""
    shown = await seen(tmp_path, log, redact, "refuse")

    assert "withheld: redact " in shown
    assert CARD not in shown and CARD not in log.getvalue()


@pytest.mark.parametrize("wanted", [False, True])
async def test_the_text_of_an_exception_is_logged_where_the_operator_says_so(
    tmp_path: Path, log: io.StringIO, wanted: bool
) -> None:
    """With its causes, under the trace id that the neighbour is told; nowhere else."""
    shown = await seen(tmp_path, log, None, "raise", log_exception_text=wanted)

    assert CARD not in shown.replace(f"wrong card {CARD}", "")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (defect,) = [line for line in lines if line["event"] == "defect"]
    assert ("LookupError", "s-1") == (defect["error"], defect["saga_id"])
    assert "charge" in defect["stack"][-1] and "test_what_may_be_said.py:" in defect["stack"][-1]
    assert defect["trace_id"] in shown
    text = [f"LookupError: no such card {CARD}", "OSError: vault is sealed"]
    assert (text if wanted else None) == defect.get("text")
