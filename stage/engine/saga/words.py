"""Words of others that are kept as reasons, as the author lets them be read (rule 38)."""

from __future__ import annotations

from collections.abc import Callable

from stage.wire.text import sendable

Redact = Callable[[str], str]


def as_they_are(text: str) -> str:
    """The words of a stage that redacts nothing."""
    return text


def readable(redact: Redact, text: str) -> str:
    """The text behind the author's `redact`; what that cannot redact is withheld."""
    try:
        shown: object = redact(text)
    except Exception as error:
        return f"withheld: redact raised {type(error).__name__}"
    if not isinstance(shown, str):
        return f"withheld: redact returned {type(shown).__name__}"
    return sendable(shown)
