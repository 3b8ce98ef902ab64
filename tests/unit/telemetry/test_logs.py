"""Log lines: one an event, under the ids of its saga, without anything that was not allowed."""

from __future__ import annotations

import contextvars
import errno
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog

from stage.core import events as e
from stage.core.commands import AttemptKind
from stage.core.states import ParkCause
from stage.ports.observer import DroppedKind, TraceContext
from stage.telemetry import logs, names
from stage.telemetry.compose import compose, default_observer
from stage.telemetry.log_context import IdsFilter, bind
from stage.telemetry.logs import LogListener
from stage.telemetry.metrics import Metrics
from stage.telemetry.null import NullObserver
from tests.unit.telemetry.given import an_attempt

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CONTEXT = TraceContext(traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
SECRET = "4111-1111-1111-1111"
AT = 1_795_400_000.5
IN_DOUBT = ParkCause.IN_DOUBT


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    """Undo the changes that `configure` makes in this process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


class Lines:
    """A stream as stderr is one, and the lines that were written to it."""

    def __init__(self) -> None:
        self.raw = io.BytesIO()
        self.stream = io.TextIOWrapper(self.raw, encoding="utf-8", write_through=True)

    def __call__(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.raw.getvalue().splitlines()]


@pytest.fixture
def lines() -> Lines:
    lines = Lines()
    logs.configure("json", "debug", lines.stream)
    return lines


class Odd(io.RawIOBase):
    """A file that takes some bytes at a time, and none once its disk is full."""

    def __init__(self) -> None:
        self.taken = b""
        self.full = False

    def writable(self) -> bool:
        return True

    def write(self, line: Any) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.taken += bytes(line[:7])
        return min(7, len(line))


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_line_that_cannot_be_written_stops_nothing(form: logs.Format) -> None:
    """It is dropped, and the next one is whole."""
    raw = Odd()
    out = io.TextIOWrapper(io.BufferedWriter(raw), write_through=True)
    logs.configure(form, "info", out)
    log = logs.default_logger()
    raw.full = True
    for _ in range(3):
        log.error("worker_ended", worker=1)
    raw.full = False
    log.warning("database_back", path="/srv/payment.db")
    assert b"database_back" in raw.taken and raw.taken.endswith(b"\n")
    if form == "json":
        assert "/srv/payment.db" == json.loads(raw.taken)["path"]
    out.close()
    log.warning("stopped")


def test_a_line_holds_the_ids_of_its_saga(lines: Lines) -> None:
    """Saga, stage, step, attempt, trace and span; the time is that of the event."""
    event = e.StepStarted(at=AT, step="charge", attempt=2, key="k", span="a" * 16)
    default_observer().happened("s-1", "payment", event, CONTEXT)
    assert lines() == [
        {
            "timestamp": "2026-11-23T02:13:20.500Z",
            "level": "info",
            "event": "step_started",
            "saga_id": "s-1",
            "stage": "payment",
            "step": "charge",
            "attempt": 2,
            "key": "k",
            "trace_id": TRACE,
            "span_id": "a" * 16,
        }
    ]


def test_an_end_names_its_attempt(lines: Lines) -> None:
    """Events that end an attempt have neither its number nor its span; the line has both."""
    observer = compose(NullObserver(), listener := logs.LogListener())
    listener.attempted(an_attempt(number=3), "b" * 16)
    listener.attempted(an_attempt(kind=AttemptKind.COMPENSATE), "c" * 16)
    notifying = an_attempt(step="tell_upstream", kind=AttemptKind.TELL, number=2)
    listener.attempted(notifying, "d" * 16)
    observer.happened("s-1", "payment", e.StepInDoubt(at=AT, step="charge"), CONTEXT)
    observer.happened("s-1", "payment", e.CompensationSucceeded(at=AT, step="charge"), CONTEXT)
    observer.happened("s-1", "payment", e.CompensationRequested(at=AT), CONTEXT)
    observer.happened("s-1", "payment", e.TellDelivered(at=AT), CONTEXT)
    observer.happened("s-1", "payment", e.StepSucceeded(at=AT, step="charge"), CONTEXT)
    ids = [(line.get("attempt"), line["span_id"]) for line in lines()]
    own = "00f067aa0ba902b7"
    assert [(3, "b" * 16), (1, "c" * 16), (None, own), (2, "d" * 16), (None, own)] == ids
    assert [line["level"] for line in lines()][:2] == ["warning", "info"]


def test_payload_never_reaches_a_line(lines: Lines) -> None:
    """Results and requests are left out, whatever they hold."""
    request = e.Request(
        method="POST",
        path=f"/cards/{SECRET}",
        headers=(("Authorization", SECRET),),
        body=SECRET.encode(),
    )
    result = msgspec.Raw(msgspec.json.encode({"card": SECRET}))
    observer = default_observer()
    for event in (
        e.StepStarted(at=AT, step="charge", attempt=1, request=request),
        e.RequestPrepared(at=AT, step="charge", ordinal=2, request=request),
        e.StepSucceeded(at=AT, step="charge", result=result),
        e.ProbeFound(at=AT, step="charge", result=result),
        e.CompensationStarted(at=AT, step="charge", attempt=1, request=request),
    ):
        observer.happened("s-1", "payment", event, CONTEXT)
    assert len(lines()) == 5
    assert SECRET.encode() not in lines_raw(lines)


def test_defaults_are_left_out_and_answers_are_not(lines: Lines) -> None:
    """`landed: false` was said by a person; `deferred: false` by nobody."""
    settled = e.Settled(at=AT, step="charge", landed=False, actor="kim", why="asked the bank")
    default_observer().happened("s-1", "payment", settled, CONTEXT)
    default_observer().happened("s-1", "payment", e.Accepted(at=AT), CONTEXT)
    verb, accepted = lines()
    assert (verb["landed"], verb["actor"], verb["level"]) == (False, "kim", "warning")
    assert {"deferred", "deadline", "upstream"}.isdisjoint(accepted)


def lines_raw(lines: Lines) -> bytes:
    return lines.raw.getvalue()


def test_foreign_text_is_cut_and_drives_no_terminal(lines: Lines) -> None:
    """A reason may come from anywhere."""
    reason = "\x1b[31mred\nsecond line" + "x" * 1_000
    event = e.FailedToCompensate(at=AT, stands=("charge\x1b",))
    default_observer().happened("s-1", "p", e.TurnedBack(at=AT, reason=reason), CONTEXT)
    default_observer().happened("s-1", "p", event, CONTEXT)
    turned, failed = lines()
    assert turned["reason"].startswith(" [31mred second line")
    assert len(turned["reason"]) <= logs.TEXT_CHARS_MAX + 3
    assert failed["stands"] == ["charge "] and failed["level"] == "error"


def test_a_line_that_has_no_utf8_is_written_all_the_same(lines: Lines) -> None:
    """Half of a surrogate pair is escaped."""
    structlog.get_logger().warning("odd", value="\ud800", thing=object)
    assert lines()[0]["value"] == "\ud800"


def test_lines_of_other_libraries_have_the_same_form(lines: Lines) -> None:
    """From WARNING up, with their logger's name."""
    logging.getLogger("other").info("left out")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("other").exception("it failed: %s", "why")
    (line,) = lines()
    assert (line["event"], line["level"], line["logger"]) == ("it failed: why", "error", "other")
    assert "ValueError: broken" in line["exception"]


def test_the_level_holds() -> None:
    """At `warning` the usual course of a saga logs nothing."""
    lines = Lines()
    logs.configure("json", "warning", lines.stream)
    observer = default_observer()
    observer.happened("s-1", "payment", e.Completed(at=AT), CONTEXT)
    observer.happened("s-1", "payment", e.Parked(at=AT, cause=IN_DOUBT, reason="look"), CONTEXT)
    assert [line["event"] for line in lines()] == ["parked"]


def test_the_console_is_for_people() -> None:
    """Not JSON; no colours where there is no terminal."""
    lines = Lines()
    logs.configure("console", "info", lines.stream)
    default_observer().happened(
        "s-1", "payment", e.Parked(at=AT, cause=IN_DOUBT, reason="look"), CONTEXT
    )
    text = lines_raw(lines).decode()
    assert "parked" in text and "saga_id=s-1" in text and "\x1b" not in text


def test_auto_is_json_where_there_is_no_terminal() -> None:
    """A pipe is read by programs."""
    lines = Lines()
    logs.configure("auto", "info", lines.stream)
    default_observer().happened("s-1", "payment", e.Completed(at=AT), CONTEXT)
    assert lines()[0]["event"] == "completed"


async def test_as_a_library_nothing_is_configured(caplog: pytest.LogCaptureFixture) -> None:
    """Lines go to the host's logging, at the host's level, also out of the event loop."""
    observer = default_observer()
    assert not structlog.is_configured()
    with caplog.at_level(logging.WARNING, logger="stage"):
        observer.happened("s-1", "payment", e.Completed(at=AT), CONTEXT)
        observer.happened(
            "s-1",
            "payment",
            e.Parked(at=AT, cause=IN_DOUBT, reason="look at it"),
            CONTEXT,
        )
    assert not structlog.is_configured()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("event=parked saga_id=s-1 stage=payment")


def test_a_listener_that_fails_fails_nobody() -> None:
    """A full disk stops no saga."""

    class Broken:
        def attempted(self, *_: object) -> None:
            raise OSError("full")

        def happened(self, *_: object) -> None:
            raise OSError("full")

    observer = compose(NullObserver(), Broken())
    observer.happened("s-1", "payment", e.Completed(at=AT), CONTEXT)
    span = observer.attempt(an_attempt(parent=CONTEXT))
    assert span.context == CONTEXT


def test_drops_of_retention_are_logged_and_counted(lines: Lines) -> None:
    """By kind, once a batch; spans have nothing to do with it."""
    metrics = Metrics()
    observer = compose(NullObserver(), LogListener(), metrics)
    for count in (3, 2):
        observer.dropped(DroppedKind.ROW, count)
    assert [("retention_dropped", "row", 3), ("retention_dropped", "row", 2)] == [
        (line["event"], line["kind"], line["count"]) for line in lines()
    ]
    counted = metrics.counters[names.M_DROPPED]
    assert {("answer",): 0, ("row",): 5, ("act",): 0, ("lost_request",): 0} == counted


def test_a_request_about_a_lost_saga_that_is_not_kept_is_a_warning(lines: Lines) -> None:
    """It is no retention that drops it, and a release waits for a person's word on it."""
    compose(NullObserver(), LogListener()).dropped(DroppedKind.LOST_REQUEST, 1)
    assert [("lost_request_not_kept", "warning")] == [
        (line["event"], line["level"]) for line in lines()
    ]


def test_the_attempts_that_are_remembered_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sagas that end are forgotten, and beyond the limit the oldest are."""
    monkeypatch.setattr(logs, "SAGAS_REMEMBERED_MAX", 3)
    listener = logs.LogListener(structlog.wrap_logger(None, processors=[_drop]))
    for number in range(10):
        listener.attempted(an_attempt(f"s-{number}"), "")
    assert list(listener._attempts) == ["s-7", "s-8", "s-9"]
    listener.happened("s-8", "payment", e.Completed(at=AT), CONTEXT)
    assert list(listener._attempts) == ["s-7", "s-9"]


def _drop(_logger: object, _method: str, _fields: Any) -> Any:
    raise structlog.DropEvent


def test_lines_of_others_carry_the_ids_of_the_saga_that_they_work_for(lines: Lines) -> None:
    """In our own entry point; a line that has ids keeps them, one outside of a saga has none."""

    def work() -> None:
        bind("s-9", CONTEXT)
        logging.getLogger("other").warning("slow")
        structlog.get_logger().warning("mine", saga_id="s-1")

    contextvars.copy_context().run(work)
    logging.getLogger("other").warning("outside")
    ids = [(line["event"], line.get("saga_id"), line.get("trace_id")) for line in lines()]
    assert [("slow", "s-9", TRACE), ("mine", "s-1", TRACE), ("outside", None, None)] == ids


def test_a_filter_adds_the_ids_to_records_of_the_standard_library() -> None:
    """Every record passes, and has both, so that a format may name them."""
    record = logging.LogRecord("host", logging.INFO, "", 0, "x", None, None)

    def work() -> bool:
        bind("s-9", CONTEXT)
        return IdsFilter().filter(record)

    assert contextvars.copy_context().run(work)
    assert ("s-9", TRACE) == (getattr(record, "saga_id", None), getattr(record, "trace_id", None))
    outside = logging.LogRecord("host", logging.INFO, "", 0, "x", None, None)
    assert IdsFilter().filter(outside)
    assert logging.Formatter("%(saga_id)s %(trace_id)s").format(outside) == "- -"


def test_a_defect_reaches_the_listeners_that_want_it(lines: Lines) -> None:
    """The place and the kind, never the message; a listener need not listen for it."""
    try:
        raise ValueError(SECRET)
    except ValueError as raised:
        compose(NullObserver(), Deaf(), logs.LogListener()).defect("send", "s-1", CONTEXT, raised)
    (line,) = lines()
    assert ("defect", "error", "send") == (line["event"], line["level"], line["where"])
    assert ("ValueError", "s-1", TRACE) == (line["error"], line["saga_id"], line["trace_id"])
    assert SECRET.encode() not in lines_raw(lines) and "test_a_defect" in line["stack"][-1]


class Deaf:
    """A listener for attempts and events alone."""

    def attempted(self, *_: object) -> None:
        """Nothing."""

    def happened(self, *_: object) -> None:
        """Nothing."""


def test_a_wrapper_that_has_no_levels_gets_every_line() -> None:
    """structlog's plain BoundLogger cannot say what is enabled: that must not silence us."""
    seen: list[tuple[str, str]] = []

    def keep(_logger: object, method: str, fields: Any) -> Any:
        seen.append((method, fields["event"]))
        raise structlog.DropEvent

    structlog.configure(wrapper_class=structlog.BoundLogger, processors=[keep])
    default_observer().happened("s-1", "payment", e.Completed(at=AT), CONTEXT)
    default_observer().happened(
        "s-1", "payment", e.Parked(at=AT, cause=IN_DOUBT, reason="look"), CONTEXT
    )
    assert [("info", "completed"), ("error", "parked")] == seen


def test_events_below_a_level_that_never_changes_are_not_wanted() -> None:
    """By our own `configure`; it wants the end of a saga all the same, to forget the saga."""
    logs.configure("json", "warning", Lines().stream)
    listener = logs.LogListener()
    assert not listener.wants(e.StepSucceeded) and not listener.wants(e.RequestPrepared)
    assert listener.wants(e.StepInDoubt) and listener.wants(e.Parked)
    assert all(listener.wants(kind) for kind in (e.Completed, e.Compensated, e.TellDelivered))


@pytest.mark.parametrize("with_structlog", [True, False])
async def test_a_level_of_the_host_may_change_between_two_lines(
    caplog: pytest.LogCaptureFixture, with_structlog: bool
) -> None:
    """Also where structlog keeps its loggers: theirs may ask the standard library each time."""
    if with_structlog:
        structlog.configure(
            processors=[structlog.processors.LogfmtRenderer(key_order=["event"])],
            wrapper_class=structlog.stdlib.BoundLogger,
            logger_factory=structlog.stdlib.LoggerFactory(),
            cache_logger_on_first_use=True,
        )
    observer = default_observer()
    for level in (logging.WARNING, logging.INFO, logging.WARNING):
        with caplog.at_level(level, logger="stage"):
            observer.happened(f"s-{level}", "payment", e.Accepted(at=AT), CONTEXT)
    assert ["s-20"] == [re.findall(r"saga_id=(\S+)", line)[0] for line in caplog.messages]


def test_a_wrapper_of_the_host_may_get_another_level(lines: Lines) -> None:
    """Where structlog does not keep the logger it is configured anew at any time."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=False,
    )
    observer = default_observer()
    observer.happened("s-1", "payment", e.Accepted(at=AT), CONTEXT)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    observer.happened("s-2", "payment", e.Accepted(at=AT), CONTEXT)
    assert ["s-2"] == [line["saga_id"] for line in lines()]


def test_a_listener_that_fails_keeps_nothing_from_the_others(lines: Lines) -> None:
    """The listener behind one that raises is notified of attempts and events as ever."""

    class Broken(Deaf):
        def attempted(self, *_: object) -> None:
            raise OSError("full")

        def happened(self, *_: object) -> None:
            raise OSError("full")

    observer = compose(NullObserver(), Broken(), logs.LogListener())
    observer.attempt(an_attempt(number=2, parent=CONTEXT))
    observer.happened("s-1", "p", e.StepInDoubt(at=AT, step="charge"), CONTEXT)
    assert [2] == [line["attempt"] for line in lines()]
