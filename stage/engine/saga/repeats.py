"""Orders that come a second time under one key: found, and answered as the first was."""

from __future__ import annotations

from stage.core import events as e
from stage.core.act_key import ActKey, KeptAct
from stage.ports.engine import ActRepeated, KeyReused
from stage.ports.store import Unit


def refuse_kept(key: ActKey, kept: KeptAct | None) -> None:
    """Raise ActRepeated where the order is kept under its key, KeyReused where another one is."""
    if kept is None:
        return
    if kept.digest != key.digest:
        raise KeyReused
    raise ActRepeated(kept)


async def refuse_repeat(unit: Unit, key: ActKey | None) -> None:
    """Raise ActRepeated, or KeyReused, within the unit that is to do the order."""
    if key is not None:
        refuse_kept(key, await unit.act_under(key))


def act_key_of(event: e.Event | None) -> ActKey | None:
    """The key under which a person ordered the event; None for any other event."""
    return event.act_key if isinstance(event, e.Verb) else None
