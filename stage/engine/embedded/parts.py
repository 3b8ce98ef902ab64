"""The parts that commands and queries of the embedded engine share, wired by the engine."""

from __future__ import annotations

import msgspec

from stage.engine.embedded.elsewhere import Elsewhere
from stage.engine.embedded.limits import EngineLimits
from stage.engine.embedded.live_sagas import LiveSagas
from stage.engine.embedded.live_units import LiveUnits
from stage.engine.embedded.pauses import Pauses
from stage.engine.embedded.withdrawing import Withdrawing
from stage.engine.saga.dropped import DroppedRows
from stage.engine.saga.opening import Opening
from stage.engine.saga.sender import Sender
from stage.engine.saga.words import Redact
from stage.ports.clock import Clock
from stage.ports.stage import Participant
from stage.ports.store import Store


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one engine."""

    participant: Participant
    plan_hash: str
    opening: Opening
    sagas: LiveSagas
    sender: Sender
    pauses: Pauses
    units: LiveUnits
    dropped: DroppedRows
    elsewhere: Elsewhere
    withdrawing: Withdrawing
    store: Store
    clock: Clock
    limits: EngineLimits
    redact: Redact
