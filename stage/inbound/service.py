"""Everything that the endpoints of one stage depend on, in one value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from stage.inbound.admission import Admission
from stage.inbound.caller import Callers, Claims
from stage.inbound.front_door import Hosts
from stage.inbound.lookups import Lookups
from stage.inbound.newest_tasks import NewestTasks
from stage.inbound.request import Answer, Request
from stage.ports.clock import Clock
from stage.ports.engine import Engine
from stage.ports.figures import Figures, Lately
from stage.ports.neighbour import Neighbours
from stage.ports.observer import Observer
from stage.ports.reconcile import Reconciles
from stage.ports.stage import Participant
from stage.wire.descriptor import Descriptor
from stage.wire.limits import Limits


def steady() -> float:
    """No jitter: a run with one seed stays the same."""
    return 0.0


def uncounted(method: str, route: str, code: int) -> None:
    """Count no answer: the metrics are off."""


async def no_secrets(_external: str) -> tuple[bytes, ...]:
    """No webhook can be verified by a secret."""
    return ()


def no_figures() -> Figures:
    """No figures: nothing is counted."""
    return Figures(lately=Lately(seconds=0.0))


Show = Callable[[str, "Service", Request], Awaitable[Answer]]
"""Answers a request for the page of the console that is named."""
Write = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Writes the metrics in the format that an `Accept` header names: text and content type."""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the endpoints need, given once at start. Times in seconds."""

    engine: Engine
    participant: Participant
    observer: Observer
    clock: Clock
    descriptor: Descriptor
    limits: Limits
    neighbours: Neighbours
    metrics: Write
    lookups: Lookups
    admission: Admission = msgspec.field(default_factory=Admission)
    jitter: Callable[[], float] = steady
    """From 0 to 1: spreads `Retry-After`, so that those who were refused come back apart."""
    breakers: Callable[[], Mapping[str, bool]] = dict
    """Whether the breaker of each peer waits, by its name."""
    answered: Callable[[str, str, int], None] = uncounted
    """Is notified of each answer: the method, the template of the path, the code."""
    figures: Callable[[], Figures] = no_figures
    """The last hour of this process, its limits, and how many share its database."""
    webhook_secrets: Callable[[str], Awaitable[tuple[bytes, ...]]] = no_secrets
    """The secrets that webhooks of an external API are verified with, by its name."""
    wait_seconds_max: float = 25.0
    body_seconds_max: float = 10.0
    callers: Callers = msgspec.field(default_factory=Claims)
    hosts: Hosts = msgspec.field(default_factory=Hosts)
    reconcile: Reconciles | None = None
    """Asks the neighbours for what the database lost; None where nobody wired it."""
    newest_tasks: NewestTasks | None = None
    """None where no activity of Step Functions can be polled."""
    console: Show | None = None
    """None where the extra `console` is not installed."""
