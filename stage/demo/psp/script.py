"""The scripts of the payment provider: how it misbehaves, for which keys, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import msgspec


class ScriptName(StrEnum):
    """How the provider behaves."""

    OK = "ok"
    REFUSE = "refuse"
    """Charging is answered 402, without an effect."""
    ERROR = "error"
    """Charging is answered 500, without an effect."""
    HANG = "hang"
    """Charging is never answered and has no effect."""
    EFFECT_THEN_HANG = "effect-then-hang"
    """The charge is made and never answered."""
    EFFECT_THEN_DROP = "effect-then-drop"
    """The charge is made, and the connection is broken before the answer."""
    PENDING = "pending"
    """Charging is answered 202: the card is charged once `confirm` is asked for."""
    REFUND_FAILS = "refund-fails"
    """Refunding is answered 402, without an effect."""


CHARGE_SCRIPTS = frozenset(ScriptName) - {ScriptName.OK, ScriptName.REFUND_FAILS}
REFUND_SCRIPTS = frozenset({ScriptName.REFUND_FAILS})
ONCE = frozenset({ScriptName.EFFECT_THEN_HANG, ScriptName.EFFECT_THEN_DROP})
"""Scripts that affect one request, unless `times` says otherwise."""


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `PUT /script`. It stands until replaced by one of the same `match`."""

    script: ScriptName
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many requests are affected. None: all of them, or one if the script is in ONCE."""
    match: str = ""
    """Only keys that contain this. Of several scripts the one with the longest match holds."""


class Scripts:
    """The scripts that stand, one for each `match`."""

    def __init__(self) -> None:
        self._by_match: dict[str, Script] = {}

    def put(self, script: Script) -> None:
        """Let a script stand for the keys it matches."""
        if script.times is None and script.script in ONCE:
            script = msgspec.structs.replace(script, times=1)
        self._by_match[script.match] = script

    def strike(self, key: str, affecting: frozenset[ScriptName]) -> ScriptName:
        """The script of `affecting` that holds for this request; one of its `times` is used up."""
        matching = [match for match in self._by_match if match in key]
        if not matching:
            return ScriptName.OK
        script = self._by_match[max(matching, key=len)]
        if script.script not in affecting or script.times == 0:
            return ScriptName.OK
        if script.times is not None:
            left = msgspec.structs.replace(script, times=script.times - 1)
            self._by_match[script.match] = left
        return script.script

    def __iter__(self) -> Iterator[Script]:
        return iter(self._by_match.values())
