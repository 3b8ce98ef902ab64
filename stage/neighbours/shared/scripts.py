"""Scripts that make a neighbour misbehave, each for all sagas or for those with one prefix."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from stage.wire.problem import WireError


class Matching(Protocol):
    """A script that names the sagas it holds for."""

    @property
    def match(self) -> str:
        """The prefix of the saga ids; the empty one matches all."""
        ...


S = TypeVar("S", bound=Matching)


class Scripts(Generic[S]):
    """The scripts that stand, one for each `match`. `default` holds where no other matches."""

    def __init__(self, default: S, *others: S) -> None:
        assert default.match == "", "the default holds for every saga"
        self._by_match = {script.match: script for script in (default, *others)}

    def put(self, script: S) -> None:
        """Let a script stand for the sagas it matches, those that run included."""
        self._by_match[script.match] = script

    def script_for(self, saga_id: str) -> S:
        """The script with the longest match."""
        matching = (match for match in self._by_match if saga_id.startswith(match))
        return self._by_match[max(matching, key=len)]

    def __iter__(self) -> Iterator[S]:
        return iter(self._by_match.values())

    def as_json(self) -> dict[str, Any]:
        """The body of `GET /script`."""
        return {"scripts": [msgspec.to_builtins(script) for script in self]}


def decode_script(body: bytes, kind: type[S], names: type[StrEnum]) -> S:
    """The body of `PUT /script`. Raises WireError 400 with the names that there are."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(
            400, "Not a script", str(error), hint=f"give a script of {', '.join(names)}"
        ) from None
