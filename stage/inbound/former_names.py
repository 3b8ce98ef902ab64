"""A neighbour that was renamed: a saga knows it by the name that it had when it began (rule 32)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from stage.ports.engine import NotYours

T = TypeVar("T")


async def under_its_name(names: Iterable[str], act: Callable[[str], Awaitable[T]]) -> T:
    """Act under the first of its names that the saga belongs to.

    A request that a saga is not the caller's has no effect, so that it is made under the next one.
    Raises the NotYours of the first name where the saga belongs to none of them.
    """
    refused: NotYours | None = None
    for name in dict.fromkeys(names):
        try:
            return await act(name)
        except NotYours as error:
            refused = refused or error
    assert refused is not None, "a neighbour has at least one name"
    raise refused
