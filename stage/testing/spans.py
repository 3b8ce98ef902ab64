"""A collector of the spans of a stage, and matchers that say what must hold of them.

    spans = SpanCollector()
    app = build_app(payment, config, tracer_provider=spans.provider)
    ...
    await spans.until("saga payment")
    spans.one("step charge", attempt=2).links_to(spans.one("step charge", attempt=1))
    spans.one("compensate charge").below(spans.one("saga payment", outcome="compensated"))

It needs nothing but opentelemetry-sdk and works under any test runner: a matcher that does not
hold raises AssertionError, with the tree of all spans that were seen. `Spans.of` takes the spans
of an exporter of your own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from stage.telemetry import names
from stage.telemetry.id_generator import StageIdGenerator

NAMED: Final[Mapping[str, str]] = {
    "saga_id": names.SAGA_ID,
    "stage": names.STAGE,
    "step": names.STEP,
    "activity": names.ACTIVITY,
    "attempt": names.ATTEMPT,
    "peer": names.PEER,
    "outcome": names.OUTCOME,
    "reason": names.REASON,
    "status": names.HTTP_STATUS,
    "error": names.ERROR_TYPE,
}
"""The attributes that have a short name in `one`, `all` and `has`."""
UNTIL_SECONDS_MAX: Final = 5.0
POLL_SECONDS: Final = 0.005
_OWN: Final = frozenset({"name", "kind", "trace_id", "span_id", "parent_id", "service"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanSeen:
    """One span that was reported. Ids in hex, instants in nanoseconds since the epoch.

    Every matcher returns the span, so that they can be chained.
    """

    name: str
    kind: str
    """`server`, `client` or `internal`."""
    trace_id: str
    span_id: str
    parent_id: str = ""
    """Empty at the root of a trace."""
    links: tuple[tuple[str, str], ...] = ()
    """Trace id and span id of each span that it links to, in order."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    failed: bool = False
    """True when its status is ERROR."""
    began: int = 0
    ended: int = 0
    service: str = ""

    def __getitem__(self, word: str) -> Any:
        """An attribute, by its short name in NAMED or its whole one; None when it has none.

        `name`, `kind`, `trace_id`, `span_id`, `parent_id` and `service` are found here too.
        """
        if word in _OWN:
            return getattr(self, word)
        return self.attributes.get(NAMED.get(word, word))

    def below(self, parent: SpanSeen) -> Self:
        """It is a child of that span."""
        message = f"{self.name} stands below {self.parent_id or 'nothing'}, not {parent}"
        assert (parent.trace_id, parent.span_id) == (self.trace_id, self.parent_id), message
        return self

    def links_to(self, *spans: SpanSeen) -> Self:
        """It links to each of these, and may link to others."""
        for span in spans:
            message = f"{self.name} links to {self.links or 'nothing'}, not to {span}"
            assert (span.trace_id, span.span_id) in self.links, message
        return self

    def links_to_only(self, *spans: SpanSeen) -> Self:
        """It links to exactly these, in any order."""
        wanted = sorted((span.trace_id, span.span_id) for span in spans)
        message = f"{self.name} links to {sorted(self.links)}, not to {wanted}"
        assert wanted == sorted(self.links), message
        return self

    def has(self, **attributes: Any) -> Self:
        """It has these attributes, by their short names in NAMED."""
        seen = {word: self[word] for word in attributes}
        assert attributes == seen, f"{self.name} has {seen}, not {attributes}"
        return self

    def is_error(self) -> Self:
        """Its status is ERROR."""
        assert self.failed, f"{self.name} has not failed: {dict(self.attributes)}"
        return self

    def is_fine(self) -> Self:
        """Its status is not ERROR."""
        assert not self.failed, f"{self.name} has failed: {dict(self.attributes)}"
        return self

    def within(self, outer: SpanSeen) -> Self:
        """It began and ended while that span was under way."""
        message = f"{self} took {self.began}..{self.ended}, {outer} {outer.began}..{outer.ended}"
        assert outer.began <= self.began <= self.ended <= outer.ended, message
        return self

    def __str__(self) -> str:
        return f"{self.name!r} ({self.service + ' ' if self.service else ''}{self.span_id})"


class Spans:
    """Spans that were seen, in the order in which they began."""

    def __init__(self, seen: Iterable[SpanSeen] = ()) -> None:
        self._seen = tuple(seen)

    @classmethod
    def of(cls, spans: Iterable[ReadableSpan]) -> Spans:
        """The spans of any exporter of the SDK, such as InMemorySpanExporter."""
        return Spans(seen_of(span) for span in spans)

    def _now(self) -> tuple[SpanSeen, ...]:
        return self._seen

    def __iter__(self) -> Iterator[SpanSeen]:
        return iter(sorted(self._now(), key=lambda span: span.began))

    def __len__(self) -> int:
        return len(self._now())

    def all(self, name: str = "", **attributes: Any) -> list[SpanSeen]:
        """The spans of that name that have these attributes, by their short names in NAMED."""
        return [
            span
            for span in self
            if name in ("", span.name)
            and all(span[word] == value for word, value in attributes.items())
        ]

    def one(self, name: str, **attributes: Any) -> SpanSeen:
        """The only span of that name that has these attributes."""
        found = self.all(name, **attributes)
        message = f"{len(found)} spans are {name!r} {attributes or ''}, not one:\n{self.tree()}"
        assert len(found) == 1, message
        return found[0]

    def none(self, name: str, **attributes: Any) -> None:
        """No span of that name has these attributes."""
        found = self.all(name, **attributes)
        assert not found, f"there is {name!r} {attributes or ''}:\n{self.tree()}"

    def where(self, holds: Callable[[SpanSeen], bool]) -> Spans:
        """The spans of which that holds."""
        return Spans(span for span in self if holds(span))

    @property
    def names(self) -> list[str]:
        """Their names, in the order in which they began."""
        return [span.name for span in self]

    @property
    def trace_ids(self) -> set[str]:
        """The traces that they belong to."""
        return {span.trace_id for span in self}

    def is_one_trace(self) -> Self:
        """There are spans, all belong to one trace, and none was reported twice."""
        message = f"{len(self.trace_ids)} traces:\n{self.tree()}"
        assert len(self.trace_ids) == 1, message
        ids = [span.span_id for span in self]
        assert len(ids) == len(set(ids)), f"a span was reported twice:\n{self.tree()}"
        return self

    def strays(self) -> list[SpanSeen]:
        """The spans whose parent was not seen; the root of a trace is not one of them."""
        known = {(span.trace_id, span.span_id) for span in self}
        return [s for s in self if s.parent_id and (s.trace_id, s.parent_id) not in known]

    def tree(self, *, times: bool = True) -> str:
        """All of them as a waterfall in text: the parent of each, and how it ended.

        Without times it is the same for every run of the same story, and can be compared.

        ```
        POST /orders                     order        0 ms      41 ms  200
        └─ POST /sagas                   order        1 ms      39 ms  200
        ```
        """
        return "\n".join(line.rstrip() for line in _lines(list(self), times))


class SpanCollector(Spans):
    """Collects the spans of an application that is made with its `provider`."""

    def __init__(self, sampler: Sampler | None = None, *, service: str = "") -> None:
        super().__init__()
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(
            sampler=sampler,
            resource=Resource({"service.name": service} if service else {}),
            shutdown_on_exit=False,
            id_generator=StageIdGenerator(),
        )
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def _now(self) -> tuple[SpanSeen, ...]:
        return tuple(seen_of(span) for span in self.exporter.get_finished_spans())

    async def until(
        self, name: str, *, seconds: float = UNTIL_SECONDS_MAX, **attributes: Any
    ) -> SpanSeen:
        """The only span of that name, once it has ended; a run ends a moment after its answer.

        Raises AssertionError with the tree of all spans when none has ended within `seconds`.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self.all(name, **attributes):  # noqa: ASYNC110 - any thread ends spans
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            pass  # `one` shows the spans that there are
        return self.one(name, **attributes)

    def clear(self) -> None:
        """Forget the spans that were seen."""
        self.exporter.clear()


def seen_of(span: ReadableSpan) -> SpanSeen:
    """A span of the SDK."""
    context = span.get_span_context()
    assert context is not None
    return SpanSeen(
        name=span.name,
        kind=span.kind.name.lower(),
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_id="" if span.parent is None else f"{span.parent.span_id:016x}",
        links=tuple(
            (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") for link in span.links
        ),
        attributes=dict(span.attributes or {}),
        failed=not span.status.is_ok and not span.status.is_unset,
        began=span.start_time or 0,
        ended=span.end_time or 0,
        service=str(span.resource.attributes.get("service.name", "")),
    )


def _lines(spans: list[SpanSeen], times: bool) -> Iterator[str]:
    if not spans:
        yield "(no spans)"
        return
    known = {span.span_id for span in spans}
    children: dict[str, list[SpanSeen]] = {}
    for span in spans:
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    first = min(span.began for span in spans) if times else None
    rows = list(_rows(children, "", "", first))
    width = max(len(tree) for tree, _ in rows) + 2
    for tree, rest in rows:
        yield f"{tree:<{width}}{rest}"


def _rows(
    children: Mapping[str, list[SpanSeen]], parent: str, indent: str, first: int | None
) -> Iterator[tuple[str, str]]:
    below = children.get(parent, [])
    for number, span in enumerate(below):
        last = number == len(below) - 1
        branch = "" if not parent else "└─ " if last else "├─ "
        deeper = "" if not parent else "   " if last else "│  "
        yield indent + branch + span.name, _rest(span, first)
        yield from _rows(children, span.span_id, indent + deeper, first)


def _rest(span: SpanSeen, first: int | None) -> str:
    outcome = span["outcome"] or span["status"] or span["error"] or ""
    if first is None:
        return f"{span.service:<9} {outcome}"
    after, took = (span.began - first) / 1e6, (span.ended - span.began) / 1e6
    links = f"  → {len(span.links)} linked" if span.links else ""
    return f"{span.service:<9} {after:7.0f} ms {took:7.0f} ms  {outcome}{links}"
