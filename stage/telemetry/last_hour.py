"""Counts what ended and what turned back in the last hour, minute by minute, in this process."""

from __future__ import annotations

from collections import Counter
from typing import Final

from stage.core import events as e
from stage.core.event_table import EVENTS
from stage.core.states import SagaState
from stage.ports.figures import Lately, Refusal
from stage.ports.observer import Attempt, TraceContext

MINUTE: Final = 60.0
MINUTES: Final = 60
REASONS_MAX: Final = 100
"""Different reasons of one minute; a payload within a reason makes no more of them."""
REASON_CHARS_MAX: Final = 120
ASKED: Final = Refusal("", "asked to compensate")
"""The words of the request are its sender's, each of its own."""
REST: Final = Refusal("", "other reasons")


class LastHour:
    """telemetry.compose.Listener that counts in windows of a minute. Any thread may read.

    It begins with the process: right after a start the hour is shorter.
    """

    def __init__(self) -> None:
        self._ended: dict[int, Counter[SagaState]] = {}
        self._refused: dict[int, Counter[Refusal]] = {}

    def attempted(self, attempt: Attempt, span_id: str) -> None:
        """Attempts are not counted here."""

    def wants(self, kind: type[e.Event]) -> bool:
        """Ends of sagas, and the events that turn one back."""
        return kind is e.TurnedBack or EVENTS[kind].outcome is not None

    def happened(
        self,
        saga_id: str,
        stage: str,
        event: e.Event,
        trace: TraceContext,
        accepted_at: float | None = None,
    ) -> None:
        """Count it in its minute, and drop the minutes that are over for an hour."""
        minute = int(event.at // MINUTE)
        if minute not in self._ended:
            self._begin(minute)
        if minute not in self._ended:
            return  # its clock was wrong: it is older than the whole hour
        if isinstance(event, e.TurnedBack):
            refused = self._refused[minute]
            why = Refusal(event.step, event.reason[:REASON_CHARS_MAX]) if event.step else ASKED
            refused[why if why in refused or len(refused) < REASONS_MAX else REST] += 1
        elif (outcome := EVENTS[type(event)].outcome) is not None:
            self._ended[minute][outcome] += 1

    def read(self, now: float) -> Lately:
        """The counts of the sixty minutes until then; the one that runs is not whole."""
        first = int(now // MINUTE) - MINUTES + 1
        ended: Counter[SagaState] = Counter()
        refused: Counter[Refusal] = Counter()
        for minute, counts in list(self._ended.items()):
            if minute >= first:
                ended.update(counts)
        for minute, reasons in list(self._refused.items()):
            if minute >= first:
                refused.update(reasons)
        return Lately(seconds=MINUTE * MINUTES, ended=dict(ended), refused=dict(refused))

    def _begin(self, minute: int) -> None:
        self._refused[minute], self._ended[minute] = Counter(), Counter()
        while len(self._ended) > MINUTES:
            oldest = min(self._ended)
            self._ended.pop(oldest, None)
            self._refused.pop(oldest, None)
