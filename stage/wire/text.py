"""Makes foreign text fit to be stored and sent: capped, and without what UTF-8 cannot hold."""

from __future__ import annotations

REASON_CHARS_MAX = 500


def sendable(text: str, chars_max: int = REASON_CHARS_MAX) -> str:
    """The text, cut to so many characters, its lone surrogates replaced."""
    return text[:chars_max].encode("utf-8", "replace").decode("utf-8")
