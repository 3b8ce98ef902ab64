"""The saga as the author's functions see it: read-only."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from msgspec import UNSET, Raw, UnsetType

from stage.authoring.habits import OF_A_SAGA, no_member
from stage.authoring.payload import Codec
from stage.core.errors import AuthorDefect
from stage.core.ids import Direction, idempotency_key
from stage.ports.stage import RunView

P = TypeVar("P")
R_co = TypeVar("R_co", covariant=True)
R = TypeVar("R")


class NoResult(AuthorDefect, LookupError):
    """A function asked for the result of a step that has none, or has none yet."""


class HasResult(Protocol[R_co]):
    """A step whose result can be asked for."""

    name: str

    def decode_result(self, body: bytes | Raw, /) -> R_co:
        """The result from its JSON."""
        ...


class Saga(Generic[P]):
    """One saga: its input, its context, and the results of earlier steps."""

    def __init__(self, view: RunView, codec: Codec[P]) -> None:
        self._view = view
        self._codec = codec
        self._input: P | UnsetType = UNSET

    @property
    def id(self) -> str:
        """The saga id, its one name everywhere."""
        return self._view.id

    @property
    def input(self) -> P:
        """The payload, decoded as the type that the stage accepts."""
        known = self._input  # `cached_property` of Python 3.11 takes a lock each time
        if known is UNSET:
            known = self._input = self._codec.from_data(self._view.data)
        return known

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """The whole context, with what the stages before added. A copy: it changes nothing."""
        return deepcopy(dict(self._view.data))

    @property
    def trail(self) -> tuple[str, ...]:
        """Names of the stages passed, in order."""
        return self._view.trail

    @property
    def deadline(self) -> float | None:
        """The instant, in seconds since the epoch, after which nothing new starts."""
        return self._view.deadline

    @property
    def budget(self) -> float | None:
        """Seconds that were left when this function was called; None without a deadline."""
        return self._view.budget

    @property
    def key(self) -> str:
        """The idempotency key of the running step: the same at every attempt."""
        return self._view.key

    def key_of(self, step: HasResult[Any]) -> str:
        """The idempotency key under which that step was done; a compensation refunds by it."""
        name = _name_of(step)
        key = self._view.keys.get(name)
        return key or idempotency_key(self._view.id, self._view.stage, name, Direction.EXECUTE)

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1."""
        return self._view.attempt

    def result(self, step: HasResult[R]) -> R:
        """The result of that step. Raises NoResult, a LookupError, when it has none (yet)."""
        name = _name_of(step)
        body = self._view.results.get(name)
        if body is None:
            raise NoResult(
                f"step {name!r} has no result here: only steps that ran before this one have one."
                " A compensation gets that of its own step as its last parameter, None where the"
                " answer was lost; then undo by saga.key_of(step)"
            )
        return step.decode_result(body)

    if not TYPE_CHECKING:  # a type checker would take any member for one that is there

        def __getattr__(self, name: str) -> Any:
            """Raise NoMember, which says the mend; asked only where nothing was found."""
            raise no_member("a saga", name, OF_A_SAGA, Saga)


def _name_of(step: HasResult[Any]) -> str:
    """The name of a step. Raises TypeError for the function of a probe or a compensation."""
    if not hasattr(step, "decode_result"):
        raise TypeError(
            f"{getattr(step, '__name__', step)!r} is no step: give the function under"
            " @stage.call or @stage.transaction"
        )
    return step.name
