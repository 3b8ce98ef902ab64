"""The traces after a trial: whether what a recovery continued and a compensation undid is linked.

A process that is killed takes with it the spans that have not left, so a span is asked for only
when it had ended before one that arrived, and that of a run only when the run was not killed. The
target of its link may be lost: a link is an id.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from stage.testing import SpanSeen
from tests.acceptance.collector import lost_spans
from tests.acceptance.kills.books import STAGES
from tests.acceptance.kills.strikes import INTENTS, Kill

EXPORT_DELAY_MS = 200
Entry = dict[str, Any]


@dataclass(slots=True)
class Traces:
    """The counts of the traces that were looked at, and their faults."""

    recovered: int = 0
    compensated: int = 0
    wrong: list[str] = field(default_factory=list)


def check(folder: Path, kills: Sequence[Kill], seen: Iterable[SpanSeen]) -> Traces:
    """Hold every saga that was recovered or compensated against the spans that arrived."""
    traces = Traces()
    seen = list(seen)
    of_saga: dict[tuple[str, str], list[SpanSeen]] = defaultdict(list)
    for span in seen:
        if span.kind == "internal":
            of_saga[span["stage"], span["saga_id"]].append(span)
    for stage in STAGES:
        struck = [kill.at for kill in kills if kill.process == stage]
        lost = lost_spans(seen, stage, struck)
        with closing(sqlite3.connect(folder / f"{stage}.db")) as books:
            for saga_id, trace, entries in _sagas(books):
                spans = of_saga[stage, saga_id]
                for what in _wrong(trace, entries, spans, lost, traces):
                    traces.wrong.append(f"{stage} {saga_id}: {what}")
    return traces


def _sagas(books: sqlite3.Connection) -> Iterator[tuple[str, str, list[Entry]]]:
    for saga_id, traceparent in books.execute("SELECT id, traceparent FROM saga"):
        found = books.execute(
            "SELECT event FROM journal WHERE saga_id = ? ORDER BY number", (saga_id,)
        )
        yield saga_id, traceparent[3:35], [json.loads(event) for (event,) in found]


def _wrong(
    trace: str,
    entries: Sequence[Entry],
    spans: Sequence[SpanSeen],
    lost: Sequence[tuple[float, float]],
    traces: Traces,
) -> Iterator[str]:
    if others := {span.trace_id for span in spans} - {trace}:
        yield f"spans in other traces: {others}"
    linked = {span_id for span in spans for _, span_id in span.links}
    executed: dict[str, str] = {}
    for before, entry in pairwise(entries):
        name, span = before["event"], before.get("span", "")
        if name in ("step_started", "step_succeeded") and span:
            executed[before["step"]] = span
        # The span of a recovery is that of its run, which ends with the saga at the latest.
        latest = entries[-1]["at"] if entry["event"] == "recovered" else entry["at"]
        if any(since <= latest and entry["at"] <= kill for since, kill in lost):
            continue
        if entry["event"] == "recovered" and name in INTENTS and span:
            traces.recovered += 1
            if span not in linked:
                yield f"the recovery does not link to {name} {before.get('step')}, {span}"
        if entry["event"] == "compensation_succeeded" and span:
            traces.compensated += 1
            undone = [each for each in spans if each.span_id == span]
            if not undone:
                yield f"no span for the compensation of {entry['step']}"
            elif (done := executed.get(entry["step"])) and done not in {
                span_id for each in undone for _, span_id in each.links
            }:
                yield f"the compensation of {entry['step']} does not link to {done}"
