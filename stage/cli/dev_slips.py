"""Findings of `stage check` in the code: `stage dev` prints them at its start and after changes."""

from __future__ import annotations

import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from stage.cli.failure import NEGATIVE, one_line

if TYPE_CHECKING:
    from stage.bootstrap.check import Checked

OF_THE_CODE: Final = frozenset({"plan", "source", "migrations"})
"""The parts of a stage that are looked at. Settings and database belong to `stage dev` itself."""


class DevSlips:
    """Looks at the code as it is now, in a process of its own: this one has that of its start."""

    def __init__(self, target: str) -> None:
        self._command = (sys.executable, "-m", "stage", "check", target, "-o", "json")
        self._found = False

    async def say(self) -> None:
        """Print what is found; one line where nothing is left of what was found before.

        Nothing is said of a stage that cannot be imported: it says so itself when it is started.
        """
        if (checked := await self._checked()) is None:
            return
        lines = slips_of(checked)
        if lines:
            click.echo("`stage check` finds:")
        elif self._found:
            click.echo("`stage check` finds nothing more")
        for line in lines:
            click.echo(f"  {line}")
        self._found = bool(lines)

    async def _checked(self) -> Checked | None:
        import asyncio

        import msgspec

        from stage.bootstrap.check import Checked

        process = await asyncio.create_subprocess_exec(*self._command, stdout=PIPE, stderr=DEVNULL)
        try:
            said, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode not in (0, NEGATIVE):
            return None
        return msgspec.json.decode(said, type=Checked)


def slips_of(checked: Checked) -> Sequence[str]:
    """A line for each error and each warning of the code; none for a plan that is refused."""
    if not checked.steps:
        return []
    return [
        f"{each.level}: {each.about}: {one_line(each.text)}"
        for each in checked.findings
        if each.about in OF_THE_CODE and each.level != "note"
    ]
