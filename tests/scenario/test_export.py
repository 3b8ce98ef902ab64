"""`stage export`: every saga that was asked for, once, as a line of JSON, without its contents."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage.cli import export
from stage.cli.failure import NEGATIVE, Failure
from stage.cli.root import run
from stage.cli.sagas import saga_and_journal
from tests.scenario.chain import ORDER, Chain, running_chain
from tests.scenario.test_operator import stuck
from tests.scenario.test_overview import numbered

SECRET = "canary-of-a-customer"


class Exported:
    """The command line against one stage; the test's own loop serves that meanwhile."""

    def __init__(self, chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
        self._chain = chain
        self._capsys = capsys

    async def __call__(self, *arguments: str) -> tuple[int, list[dict[str, Any]], str]:
        """Status, the lines, and what was said of a failure."""
        status = await asyncio.to_thread(run, ["export", "--url", self._chain.stage, *arguments])
        said = self._capsys.readouterr()
        assert SECRET not in said.out
        return status, [msgspec.json.decode(line) for line in said.out.splitlines()], said.err


@pytest.fixture
def exported(chain: Chain, capsys: pytest.CaptureFixture[str]) -> Exported:
    """`stage export` of the chain's stage."""
    return Exported(chain, capsys)


async def test_every_saga_is_exported_once_page_by_page(
    chain: Chain, exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five sagas in pages of two, and from the middle on after a failure."""
    monkeypatch.setattr(export, "PAGE", 2)
    for number in range(5):
        await chain.send(f"s-{number}", {**ORDER, "customer": SECRET})
    status, lines, _ = await exported()
    assert (0, [f"s-{number}" for number in range(5)]) == (status, _ids(lines))
    assert {"completed"} == {line["state"] for line in lines}
    assert ["s-3", "s-4"] == _ids((await exported("--after", "s-2"))[1])


async def test_the_options_of_the_list_narrow_the_export(chain: Chain, exported: Exported) -> None:
    """By state, by cause, by time; nothing where nothing fits."""
    await stuck(chain)
    await chain.send("s-2")
    assert ["s-2"] == _ids((await exported("--state", "completed"))[1])
    assert ["s-1"] == _ids((await exported("--cause", "failed_to_compensate"))[1])
    assert ["s-1", "s-2"] == _ids((await exported("--changed-from", "2026-01-01T00:00:00Z"))[1])
    assert (0, []) == (await exported("--changed-before", "2026-01-01T00:00:00Z"))[:2]


async def test_the_journal_is_exported_without_payloads(chain: Chain, exported: Exported) -> None:
    """Steps with their keys, what stands, and each entry: what `stage show` says, for a program."""
    await stuck(chain)
    status, (line,), _ = await exported("s-1", "--journal")
    assert (0, ["charge"]) == (status, line["stands"])
    assert "charge" in [step["name"] for step in line["steps"]]
    events = [entry["event"] for entry in line["journal"]]
    assert ("accepted", "failed_to_compensate") == (events[0], events[-1])


async def test_an_export_that_cannot_go_on_fails_behind_whole_lines(
    chain: Chain, exported: Exported
) -> None:
    """An id that is not there, and two ways to say which."""
    await chain.send("s-1")
    status, lines, said = await exported("s-1", "s-2")
    assert (1, ["s-1"], True) == (status, _ids(lines), "s-2" in said)
    status, lines, said = await exported("s-1", "--parked")
    assert (2, [], True) == (status, lines, "in one way" in said)


async def test_sagas_of_a_business_number_are_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage indexes it."""
    async with running_chain(tmp_path, stage=numbered()) as chain:
        await chain.send("s-1", {**ORDER, "order_id": "o-77"})
        await chain.send("s-2", {**ORDER, "order_id": "o-78"})
        _, lines, _ = await Exported(chain, capsys)("--number", "order:o-78")
        assert ["s-2"] == _ids(lines)


def _ids(lines: list[dict[str, Any]]) -> list[str]:
    return [line["saga_id"] for line in lines]


@pytest.mark.parametrize("answered, ids", [(404, ["s-1", "s-2", "s-3"]), (503, ["s-1"])])
async def test_a_saga_that_is_dropped_behind_its_list_ends_no_export(
    chain: Chain,
    exported: Exported,
    monkeypatch: pytest.MonkeyPatch,
    answered: int,
    ids: list[str],
) -> None:
    """It has the line of the list, and no journal; a stage that is away does end the export."""
    for number in (1, 2, 3):
        await chain.send(f"s-{number}")

    def late(url: str, saga_id: str) -> Any:
        if saga_id == "s-2":
            raise Failure("the answer was a no", NEGATIVE, answered)
        return saga_and_journal(url, saga_id)

    monkeypatch.setattr(export, "saga_and_journal", late)
    status, lines, _ = await exported("--journal")
    assert (int(answered == 503), ids) == (status, _ids(lines))
    assert [each == "s-2" for each in ids] == [not line["journal"] for line in lines]
    assert {"completed"} == {line["state"] for line in lines}
