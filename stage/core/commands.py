"""The commands of the machine, in the imperative."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from stage.core.events import Event


class AttemptKind(StrEnum):
    """The kinds of attempt: three for a step, and `tell` for the saga."""

    EXECUTE = "execute"
    PROBE = "probe"
    COMPENSATE = "compensate"
    TELL = "tell"


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Journal this decision; nothing has to be done for it."""

    event: Event


class Do(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Make an attempt of this kind at the step now. `attempt` counts those of the kind, from 1."""

    kind: AttemptKind
    step: str = ""
    attempt: int = 1


class Rest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Nothing to do until something happens, or until the instant `until`."""

    until: float | None = None


Command = Record | Do | Rest
