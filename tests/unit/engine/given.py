"""A clock, an owner and an observer to test with: each shows what a test says, or notes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stage.core.events import Event
from stage.ports.author_code import Suspicion
from stage.ports.observer import Attempt, DroppedKind, TraceContext
from stage.telemetry.null import NullObserver, PassthroughSpan

NOW = 1_795_401_000.0
TRACE = TraceContext(
    traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="v=1", baggage="tenant=7"
)


class At:
    """A clock that stands still until a test sets it."""

    def __init__(self, now: float = NOW) -> None:
        self.shown = now

    def now(self) -> float:
        """See ports.clock.Clock."""
        return self.shown

    async def sleep(self, seconds: float) -> None:
        """Nobody waits by it."""
        raise NotImplementedError


class Owner:
    """The ownership of a replica whose lease may be over."""

    def __init__(self) -> None:
        self.sure = True
        self.assurances = 0

    async def assured(self) -> None:
        """See ports.ownership.Ownership."""
        self.assurances += 1


class Code:
    """The record of the author's functions, of which processes may have died."""

    stuck = False

    def __init__(self) -> None:
        self.suspicions: dict[str, Suspicion] = {}
        self.acquitted: set[str] = set()

    def entered(self, saga_id: str, step: str) -> None:
        """See ports.author_code.AuthorCode."""

    def left(self, saga_id: str, step: str, *, ended: bool) -> None:
        """See ports.author_code.AuthorCode."""

    def suspicion(self, saga_id: str) -> Suspicion | None:
        """See ports.author_code.AuthorCode."""
        return self.suspicions.get(saga_id)

    def innocent(self, saga_id: str) -> bool:
        """See ports.author_code.AuthorCode."""
        return saga_id in self.acquitted


class NotedSpan(PassthroughSpan):
    """A span that notes how it was ended, and how often it was made current."""

    def __init__(self, span_id: str) -> None:
        super().__init__(TraceContext(traceparent=f"00-{'a' * 32}-{span_id}-01"))
        self.span_id = span_id
        self.ends: list[tuple[str, str, float | None]] = []
        self.entered = 0

    @contextmanager
    def current(self) -> Iterator[None]:
        """See ports.observer.Span."""
        self.entered += 1
        yield

    def end(self, outcome: str, error: str = "", at: float | None = None) -> None:
        """See ports.observer.Span."""
        self.ends.append((outcome, error, at))


class Noting(NullObserver):
    """Notes all that it is given; each attempt has a span of its own."""

    def __init__(self) -> None:
        self.attempts: list[tuple[Attempt, NotedSpan]] = []
        self.runs: list[tuple[str, str, TraceContext, tuple[str, ...]]] = []
        self.bound: list[tuple[str, TraceContext]] = []
        self.lost: list[tuple[Attempt, str, float, float]] = []
        self.events: list[tuple[str, str, Event, TraceContext, float | None]] = []
        self.dropped_kinds: list[DroppedKind] = []

    def dropped(self, kind: DroppedKind, count: int) -> None:
        """See ports.observer.Observer."""
        self.dropped_kinds += [kind] * count

    def run(
        self, saga_id: str, stage: str, parent: TraceContext, links: Sequence[str]
    ) -> PassthroughSpan:
        """See ports.observer.Observer."""
        self.runs.append((saga_id, stage, parent, tuple(links)))
        return NotedSpan(f"{0xF000 + len(self.runs):016x}")

    def attempt(self, attempt: Attempt) -> PassthroughSpan:
        """See ports.observer.Observer."""
        span = NotedSpan(f"{len(self.attempts) + 1:016x}")
        self.attempts.append((attempt, span))
        return span

    def cut_off(self, attempt: Attempt, *, span_id: str, began: float, ended: float) -> None:
        """See ports.observer.Observer."""
        self.lost.append((attempt, span_id, began, ended))

    def bind(self, saga_id: str, trace: TraceContext) -> None:
        """See ports.observer.Observer."""
        self.bound.append((saga_id, trace))

    def happened(
        self,
        saga_id: str,
        stage: str,
        event: Event,
        trace: TraceContext,
        accepted_at: float | None = None,
    ) -> None:
        """See ports.observer.Observer."""
        self.events.append((saga_id, stage, event, trace, accepted_at))
