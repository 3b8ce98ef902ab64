"""The findings of `stage check` that `stage dev` prints: at its start, and after each change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stage.bootstrap.check import check_stage
from stage.cli.dev_slips import DevSlips, slips_of
from stage.cli.project import write_project
from stage.config import Config
from stage.demo.payment import payment

pytestmark = pytest.mark.timeout(60)


class Source:
    """The file with the steps of a new project."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.right = path.read_text(encoding="utf-8")

    def write(self, text: str) -> None:
        self._path.write_text(text, encoding="utf-8")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """That of a project in the working directory."""
    write_project(tmp_path, "booking")
    monkeypatch.chdir(tmp_path)
    return Source(tmp_path / "booking" / "stage.py")


async def test_a_slip_is_printed_until_it_is_mended(
    source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each look is at the code of that moment, and a stage without a slip is not spoken of."""
    slips = DevSlips("booking.stage:booking")
    await slips.say()
    assert "" == capsys.readouterr().out

    wrong = source.right.replace(
        'await tx.execute(\n        "UPDATE', 'tx.execute(\n        "UPDATE'
    )
    assert wrong != source.right
    source.write(wrong)
    await slips.say()
    said = capsys.readouterr().out
    assert said.startswith("`stage check` finds:\n  error: source: stage.py:")
    assert "tx.execute(...) is not awaited: write await before it" in said

    source.write("a slip of another kind(")
    await slips.say()
    assert "" == capsys.readouterr().out  # the stage says so itself, when it is started

    source.write(source.right + "\n")
    await slips.say()
    await slips.say()
    assert "`stage check` finds nothing more\n" == capsys.readouterr().out


async def test_a_look_that_is_stopped_leaves_no_process(source: Source) -> None:
    """The next change comes before it has ended."""
    slips = DevSlips("booking.stage:booking")
    looking = asyncio.create_task(slips.say())
    await asyncio.sleep(0)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking


def test_settings_and_a_refused_plan_are_not_among_it() -> None:
    """Those of `stage dev` are its own, and a plan that is refused ends the start by itself."""
    checked = check_stage(payment, Config(externals={"other": "http://127.0.0.1:1"}))
    assert [] != [each for each in checked.findings if each.about == "settings"]
    assert [] == slips_of(checked)
