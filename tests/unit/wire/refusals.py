"""Calls a decoder and gives the refusal as a value, so that a test can say what it must be."""

from __future__ import annotations

from collections.abc import Callable

from stage.wire.problem import WireError


def refusal_of(decode: Callable[[bytes], object], body: bytes) -> WireError | None:
    """The WireError with which a body is refused, or None when it is taken. All else is raised."""
    try:
        decode(body)
    except WireError as error:
        return error
    return None
