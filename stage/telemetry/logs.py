"""One log line an event of the journal, under the saga's ids and never with its payload.

As a library we configure nothing: lines go through structlog when the host has configured it, and
otherwise to the logger `stage` of the standard library, whose handlers and levels are the host's.
Only our own entry point calls `configure`. Lines go to stderr: stdout belongs to the
output of commands.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, BinaryIO, Final, Literal, TextIO, cast

import msgspec
import structlog

from stage.core.commands import AttemptKind
from stage.core.errors import StageError
from stage.core.event_table import EVENTS, level_of
from stage.core.events import Event, name_of
from stage.ports.author_code import StuckCode
from stage.ports.observer import Attempt, DroppedKind, TraceContext
from stage.telemetry import names, visible
from stage.telemetry.log_context import add_ids
from stage.telemetry.streams import NonBlockingStream, finish_streams
from stage.wire.envelope import format_instant

Format = Literal["json", "console", "auto"]
Fields = MutableMapping[str, Any]

TEXT_CHARS_MAX: Final = 300
STACK_LINES_MAX: Final = 12
"""For a defect: the innermost calls."""
CAUSES_MAX: Final = 4
REPORT_SECONDS_MAX: Final = 0.4
"""How long the last line of a process that is ended by force waits for its reader."""
SAGAS_REMEMBERED_MAX: Final = 10_000
"""Unfinished sagas whose attempts are remembered, for the lines of the events that end them."""

_METHODS: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
}


class LogListener:
    """telemetry.compose.Listener that writes a line an event."""

    def __init__(self, logger: Any = None, *, exception_text: bool = False) -> None:
        """`exception_text`: the lines of defects hold what their exceptions say (rule 38)."""
        self._exception_text = exception_text
        self._log = logger if logger is not None else default_logger()
        self._leveled = _leveled(self._log)
        self._fixed = _fixed(self._log)
        if self._fixed:
            self._log = self._log.bind()  # the same each time, and found without a search
        self._attempts: dict[str, dict[tuple[AttemptKind, str], tuple[int, str]]] = {}

    def attempted(self, attempt: Attempt, span_id: str) -> None:
        """Remember the attempt: the event that ends it names neither number nor span."""
        saga_id, kind = attempt.saga_id, attempt.kind
        known = self._attempts.get(saga_id)
        if known is None:
            if len(self._attempts) >= SAGAS_REMEMBERED_MAX:
                # Another thread may write too, and drops the oldest itself.
                with suppress(RuntimeError, StopIteration):
                    self._attempts.pop(next(iter(self._attempts)), None)
            known = self._attempts.setdefault(saga_id, {})
        step = "" if kind is AttemptKind.TELL else attempt.step
        known[kind, step] = (attempt.number, span_id)

    def wants(self, kind: type[Event]) -> bool:
        """False below a level that never changes, unless the event ends what is remembered."""
        if not self._fixed or EVENTS[kind].final:
            return True
        return bool(self._log.is_enabled_for(visible.LOG_EVENTS[str(kind.__struct_config__.tag)]))

    def happened(
        self,
        saga_id: str,
        stage: str,
        event: Event,
        trace: TraceContext,
        accepted_at: float | None = None,
    ) -> None:
        """Write the line."""
        name = name_of(event)
        level, row = visible.LEVELS[level_of(event)], EVENTS[type(event)]
        if self._leveled and not self._log.is_enabled_for(level):
            if row.final:
                self._attempts.pop(saga_id, None)
            return
        attempt, span_id = self._attempt_of(saga_id, row.starts or row.ends, event)
        fields: dict[str, Any] = {
            "timestamp": format_instant(event.at),
            "saga_id": saga_id,
            "stage": stage,
        }
        for member, default in _members(type(event)):
            value = getattr(event, member)
            if value != default and value != "":
                fields[member] = _printable(value)
        if attempt is not None:
            fields.setdefault("attempt", attempt)
        fields["trace_id"] = trace.trace_id
        fields["span_id"] = span_id or trace.span_id
        # By the method of the level: a host's wrapper may have no other.
        getattr(self._log, _METHODS[level])(name, **fields)
        if row.final:
            self._attempts.pop(saga_id, None)

    def defect(self, where: str, saga_id: str, trace: TraceContext, error: BaseException) -> None:
        """Write where it was raised; its text where that is all ours, which says the fix.

        A foreign text, which may quote a payload, and those of causes only where asked to.

        Neighbours get its type and the trace id, under which this line is found.
        """
        stack = [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)[-STACK_LINES_MAX:]
        ]
        fields: dict[str, Any] = {"where": where, "error": type(error).__name__, "stack": stack}
        if self._exception_text:
            fields["text"] = [_printable(text) for text in _texts(error)]
        elif isinstance(error, StageError) and error.shown:
            fields["text"] = [_printable(f"{type(error).__name__}: {error}")]
        if saga_id:
            fields["saga_id"] = _printable(saga_id)
        if trace.traceparent:
            fields["trace_id"] = trace.trace_id
        self._log.error(names.LOG_DEFECT, **fields)

    def dropped(self, kind: DroppedKind, count: int) -> None:
        """Write how many were dropped for their age, or a warning about one that was not kept."""
        if kind is DroppedKind.LOST_REQUEST:
            self._log.warning(names.LOG_NO_ROOM)
            return
        self._log.info(names.LOG_DROPPED, kind=kind.value, count=count)

    def contradicted(self, saga_id: str, step: str, trace: TraceContext) -> None:
        """Write which call the API contradicts itself about."""
        self._log.warning(
            names.LOG_CONTRADICTED,
            saga_id=_printable(saga_id),
            step=_printable(step),
            trace_id=trace.trace_id,
        )

    def _attempt_of(
        self, saga_id: str, kind: AttemptKind | None, event: Event
    ) -> tuple[int | None, str]:
        known = self._attempts.get(saga_id)
        of_event: str = getattr(event, "span", "")
        if kind is None or known is None:
            return None, of_event
        attempt, span_id = known.get((kind, getattr(event, "step", "")), (None, ""))
        return attempt, of_event or span_id


def _texts(error: BaseException) -> list[str]:
    """The texts of the exception, and of those that it came from."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(texts) < CAUSES_MAX:
        try:
            said = str(cause)
        except Exception as unsaid:
            said = f"str() raised {type(unsaid).__name__}"
        texts.append(f"{type(cause).__name__}: {said}")
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return texts


def report_stuck(code: StuckCode) -> None:
    """Write which code is stuck, and where: of a stack the places alone, never its values."""
    default_logger().error(
        names.LOG_STUCK,
        thread=code.thread.value,
        saga_id=_printable(code.saga_id),
        step=_printable(code.step),
        seconds=code.seconds,
        stack=list(code.stack),
    )


def report_turned_away(connections: int) -> None:
    """Write how many connections were refused since the last such line."""
    default_logger().warning(names.LOG_TURNED_AWAY, connections=connections)


def report_handshakes_failed(connections: int, reason: str) -> None:
    """Write how many TLS handshakes failed since the last such line, and why the last one did."""
    default_logger().warning(names.LOG_HANDSHAKES_FAILED, connections=connections, reason=reason)


def report_forced_exit(stacks: Mapping[str, Sequence[str]]) -> None:
    """Write which threads could not be stopped, and where they are."""
    default_logger().error(names.LOG_EXIT_FORCED, stacks=dict(stacks))
    sys.stderr.flush()
    finish_streams(REPORT_SECONDS_MAX)


def _leveled(log: Any) -> bool:
    """Whether the logger has levels to ask for: a host's wrapper may take the call for a line."""
    return hasattr(type(log.bind()), "is_enabled_for")


def _fixed(log: Any) -> bool:
    """Whether the level never changes: structlog caches the logger, and its class has the level.

    So it is with our own `configure`. A host's logger is asked anew for each line.
    """
    bound = log.bind()
    return bound is log.bind() and type(bound) in _FILTERING


_FILTERING: Final = frozenset(structlog.make_filtering_bound_logger(level) for level in _METHODS)


def _members(kind: type[Any]) -> tuple[tuple[str, Any], ...]:
    """The members of an event that may stand in a line, each with the default that is left out."""
    members = _MEMBERS.get(kind)
    if members is None:
        shown = visible.log_members(kind)
        members = _MEMBERS[kind] = tuple(
            (member.name, member.default)
            for member in msgspec.structs.fields(kind)
            if member.name in shown
        )
    return members


_MEMBERS: dict[type[Any], tuple[tuple[str, Any], ...]] = {}


def _printable(value: Any) -> Any:
    """A value as it may stand in a line: text is cut, and holds no control characters."""
    if isinstance(value, str):
        return value if value.isprintable() and len(value) <= TEXT_CHARS_MAX else _plain(value)
    if isinstance(value, tuple):
        return [_printable(item) for item in value]
    return value


def _plain(text: str) -> str:
    cut = text[:TEXT_CHARS_MAX] + ("..." if len(text) > TEXT_CHARS_MAX else "")
    return "".join(sign if sign.isprintable() else " " for sign in cut)


def default_logger() -> Any:
    """The logger of the host: structlog's where it is configured, or the standard library's."""
    if structlog.is_configured():
        return structlog.get_logger(names.SCOPE)
    return structlog.wrap_logger(
        logging.getLogger(names.SCOPE),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.LogfmtRenderer(key_order=["event", "saga_id", "stage"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def configure(
    format: Format = "auto",  # noqa: A002 - the word of the option
    level: str = "info",
    stream: Any = None,
) -> None:
    """Configure structlog and the root logger of this process; for our own entry point only.

    `auto` is console on a terminal and JSON otherwise. `stream` is a text stream, by default
    stderr. Lines of other libraries are written in the same form, from WARNING up.
    """
    out = sys.stderr if stream is None else stream
    threshold = logging.getLevelNamesMapping()[level.upper()]
    console = format == "console" or (format == "auto" and out.isatty())
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        add_ids,
        structlog.processors.add_log_level,
        _stamp,
    ]
    if not console:  # the console draws exceptions itself
        before.append(structlog.processors.format_exc_info)
    render: Any = structlog.dev.ConsoleRenderer(colors=out.isatty()) if console else render_json
    binary = _binary_of(out, render)
    factory: Callable[..., Any]
    if console or binary is None:
        factory = structlog.WriteLoggerFactory(file=cast(TextIO, _Text(out)))
        last = [render] if console else [render, _decoded]
    else:
        # Bytes straight to the file: no encoding, and one write a line.
        lines = _Lines(binary)
        factory, last = structlog.BytesLoggerFactory(file=cast(BinaryIO, lines)), [render]
    structlog.configure(
        processors=[*before, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [_foreign(out, before, [render] if console else [render, _decoded])]
    root.setLevel(max(threshold, logging.WARNING))


def _binary_of(out: Any, render: Callable[..., Any]) -> BinaryIO | None:
    """The file below a text stream. It says in our form how many lines it could not write."""
    binary = getattr(out, "buffer", None)
    if isinstance(binary, NonBlockingStream):
        binary.missing = partial(_missing, render)
    return cast(BinaryIO | None, binary)


def _missing(render: Callable[..., Any], lines: int) -> bytes:
    """The line that stands for so many that could not be written."""
    fields = {"event": names.LOG_LINES_DROPPED, "level": "warning", "lines": lines}
    line = render(None, "warning", _stamp(None, "warning", fields))
    return (line if isinstance(line, bytes) else line.encode()) + b"\n"


class _Lines:
    """A file to which each line is written at once, or dropped: a log stops nothing.

    Its disk may be full, and the process that read it may be gone.
    """

    def __init__(self, binary: BinaryIO) -> None:
        self._raw: Any = getattr(binary, "raw", binary)  # nothing is to be held back

    def write(self, line: bytes) -> None:
        """Write the line."""
        try:
            while line:
                taken = self._raw.write(line)
                if not taken:
                    return  # it would have to be waited for
                line = line[taken:]
        except (OSError, ValueError):  # the latter of a file that was closed
            pass

    def flush(self) -> None:
        """Nothing is held back."""


class _Text:
    """As `_Lines`, for text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write the text."""
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Hold nothing back."""
        with suppress(OSError, ValueError):
            self._stream.flush()


def _foreign(out: Any, before: list[Any], last: list[Any]) -> logging.Handler:
    """Writes the records of other libraries in the form of our lines."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *before],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    return handler


def render_json(_logger: Any, _method: str, fields: Fields) -> bytes:
    """The line as JSON, `timestamp`, `level` and `event` first. Never fails."""
    line = {name: fields[name] for name in ("timestamp", "level", "event") if name in fields}
    line.update(fields)
    try:
        return _encoder.encode(line)
    except (ValueError, TypeError):  # a lone surrogate, or a key that is no text
        return json.dumps(line, default=repr, skipkeys=True).encode()


_encoder: Final = msgspec.json.Encoder(enc_hook=repr)


def _decoded(_logger: Any, _method: str, line: bytes) -> str:
    return line.decode()


def _stamp(_logger: Any, _method: str, fields: Fields) -> Fields:
    """An event has the time at which it happened; any other line the time of its writing."""
    if "timestamp" not in fields:
        fields["timestamp"] = format_instant(_now())
    return fields


def _now() -> float:
    import time

    return time.time()
