"""Retry by exception and code, the life of a key, and what the operator sets for one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stage import Http, Saga, Stage
from stage.bootstrap import build_app
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.demo.payment import Order
from stage.ports.connection import Connection
from stage.ports.policy import Policy
from tests.scenario.chain import Chain, running_chain


class Unreadable(Exception):
    """Raised by an author for an answer that no repeat mends."""


def stage_of(**rules: Any) -> Stage[Order, Any]:
    stage: Stage[Order, Any] = Stage("payment", accepts=Order)

    @stage.call(to="psp", timeout=0.5, **rules)
    async def charge(http: Http, saga: Saga[Order]) -> str:
        answer = await http.post("/charges", json={"amount": saga.input.amount})
        if saga.input.amount == 13:
            raise Unreadable
        return str(answer.json()["id"])

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
        await http.post("/refunds", json={"key": saga.key_of(charge), "charge_id": None})

    return stage


async def attempts(chain: Chain) -> int:
    return (await chain.events("s-1")).count("step_started")


async def test_a_code_that_is_never_retried_ends_the_call(tmp_path: Path) -> None:
    """The API answered 500, which may have been anything: it is undone, and was asked once."""
    async with running_chain(tmp_path, stage=stage_of(never_retry={500})) as chain:
        await chain.script(chain.psp, script="error")
        assert 409 == (await chain.send("s-1"))[0]
        assert (1, (0, 0)) == (await attempts(chain), await chain.charges())


async def test_an_exception_that_is_never_retried_ends_the_call(tmp_path: Path) -> None:
    """And another one is retried."""
    stage = stage_of(never_retry={Unreadable, 404})
    async with running_chain(tmp_path, stage=stage) as chain:
        order = {"order_id": "o-1", "amount": 13, "currency": "KRW"}
        assert 409 == (await chain.send("s-1", order))[0]
        assert (1, (1, 0)) == (await attempts(chain), await chain.charges())


@pytest.mark.parametrize(
    "options",
    [
        {"steps": {"charge": Policy(attempts_max=2)}},
        {"externals": Policy(attempts_max=2)},
        {"externals": Policy(attempts_max=9), "steps": {"charge": Policy(attempts_max=2)}},
        {"attempts_max": 2},
    ],
)
async def test_an_operator_sets_the_attempts(tmp_path: Path, options: dict[str, Any]) -> None:
    """Of one step, of the calls of one API, of all; the nearest word holds."""
    given = options.pop("externals", Policy())

    def connect(name: str, url: str) -> str | Connection:
        return Connection(url=url, attempts_max=given.attempts_max) if name == "psp" else url

    async with running_chain(tmp_path, stage=stage_of(), connect=connect, **options) as chain:
        await chain.script(chain.psp, script="error", times=9)
        assert 409 == (await chain.send("s-1"))[0]
        assert 2 == await attempts(chain)


async def test_an_operator_adds_a_code_that_is_never_retried(tmp_path: Path) -> None:
    """One for a step."""
    steps = {"charge": Policy(never_retry=(500,))}
    async with running_chain(tmp_path, stage=stage_of(), steps=steps) as chain:
        await chain.script(chain.psp, script="error")
        assert 409 == (await chain.send("s-1"))[0]
        assert 1 == await attempts(chain)


def test_a_policy_of_a_step_that_is_not_there_is_refused() -> None:
    """It would be set and never hold."""
    config = Config(
        auth="none",
        database="sqlite:///:memory:",
        externals={"psp": "http://127.0.0.1:9"},
        steps={"chrge": Policy(attempts_max=1)},
    )
    with pytest.raises(ConfigurationError, match="has no such step: its steps are charge"):
        build_app(stage_of(), config)
