"""An option whose value must not be empty."""

from __future__ import annotations

from typing import Any, Final

import click


class Given(click.ParamType[str]):
    """Text with something in it. `--step "$STEP"` with STEP unset would name every step."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text as it is. Fails where it is empty."""
        if not value:
            self.fail("it is empty: leave it out, or give a name", param, ctx)
        return str(value)


GIVEN: Final = Given()
