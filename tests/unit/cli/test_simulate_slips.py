"""`stage simulate` says how a stage is mended that it finds wanting."""

from __future__ import annotations

import msgspec
from click.testing import CliRunner

from stage import Http, Saga, Stage, Transient
from stage.cli.simulate import simulate


class Order(msgspec.Struct):
    """The order to be paid."""

    amount: int


endless: Stage[Order, None] = Stage("endless", accepts=Order)


@endless.call(to="psp", timeout=1.0)
async def charge(http: Http, saga: Saga[Order]) -> str:
    """It stands, and the approval behind it is refused by its time-out."""
    return str((await http.post("/charges", json={"amount": saga.input.amount})).json()["id"])


@charge.compensation
async def refund(http: Http, saga: Saga[Order], made: str | None) -> None:
    """The slip: a no for good is taken for one for now."""
    answer = await http.post("/refunds", json={"key": saga.key_of(charge)})
    if "undone" not in answer.json():
        raise Transient("not undone")


@endless.approval("risk", timeout=600.0)
def risk(saga: Saga[Order]) -> dict[str, int]:
    """A person is asked about each."""
    return {"amount": saga.input.amount}


def test_an_undo_that_never_gives_up_is_shown_with_its_mend() -> None:
    """The last lines are its attempts, and no verb that is pressed again and again."""
    one = ("--seed", "45", "--sagas", "1", "--only", "undo_refused")
    done = CliRunner().invoke(simulate, [f"{__name__}:endless", *one], standalone_mode=False)
    assert 1 == done.return_value, done.output
    history, _, end = done.output.partition("STUCK: ")
    assert "way out: look at the last attempts" in end and "has to raise Refused" in end
    assert "compensate charge: again later (not undone)" in "".join(history.splitlines()[-6:])
    assert history.count("no approval is asked for") < 5
