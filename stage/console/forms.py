"""Reads the forms of the pages: a field has one value, apart from those that may be repeated."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from stage.console.asks import Reader
from stage.inbound.read import read_any
from stage.inbound.request import Request
from stage.wire.problem import WireError

FIELDS_MAX = 1_000
ACT = "act"
"""The value of the button that acts. Any other only shows what would happen."""


class Form:
    """The fields of a form. A field that was left empty is not there."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """The value of a field without blanks around it; empty without one."""
        return self._fields.get(name, [""])[0].strip()

    def texts(self, name: str) -> list[str]:
        """All values of a field that may be repeated."""
        return self._fields.get(name, [])

    def rest(self, *without: str) -> list[tuple[str, str]]:
        """All fields with their values, to be sent once more."""
        return [
            (name, value)
            for name, values in self._fields.items()
            if name not in without
            for value in values
        ]

    @property
    def key(self) -> str:
        """The idempotency key that the page gave the form: sent twice, it is done once."""
        return self.text("key")

    @property
    def acts(self) -> bool:
        """Whether the person has seen what would happen, and said so."""
        return self.text("press") == ACT


async def read_form(request: Request) -> Form:
    """The form in the body. Raises WireError 400, 408 or 413."""
    body = await read_any(request)
    try:
        return Form(parse_qs(body.decode("ascii"), errors="strict", max_num_fields=FIELDS_MAX))
    except ValueError:
        raise WireError(
            400,
            "Form not understood",
            f"it is no form of ours, or has more than {FIELDS_MAX} fields",
            hint="go back, load the page again, and choose fewer",
        ) from None


def signed(reader: Reader, form: Form, **order: Any) -> dict[str, Any]:
    """An order with its reason, and its actor where the reader has no name."""
    given = {"reason": form.text("reason"), **order}
    return given if reader.request.about.principal.name else {**given, "actor": form.text("actor")}
