"""Every error of a request as the problem document that reports it."""

from __future__ import annotations

from math import ceil

from msgspec.structs import replace

from stage.core.errors import CommitInDoubt, JournalMismatch, NewerJournal, StoreUnavailable
from stage.inbound.admission import NotSaid
from stage.inbound.console_paths import is_console
from stage.inbound.request import PROBLEM_JSON, Answer, Request
from stage.ports.engine import (
    Busy,
    DeadlineOver,
    KeyReused,
    LeftToNewer,
    NotYours,
    PastRetention,
    PayloadDiffers,
    SagaLost,
    Stopping,
    Unsettled,
    WorkerLost,
)
from stage.wire import headers as h
from stage.wire.outcome import Outcome
from stage.wire.problem import Problem, ProblemType, WireError

CHALLENGE = ("WWW-Authenticate", "Bearer")
BROWSER_CHALLENGE = ("WWW-Authenticate", 'Basic realm="stage console: a token", charset="UTF-8"')
RETRY_SPREAD = 2.0
"""Up to so many times the usual pause is added."""
HINTS = {
    404: "GET /openapi.json lists the endpoints",
    405: "see the Allow header",
    413: "send less; GET /.well-known/stage shows the limits",
}


def problem_answer(request: Request, problem: Problem, *headers: tuple[str, str]) -> Answer:
    """The problem as an answer, with the ids of the request where it has none."""
    if problem.trace_id is None and request.about.span.trace_id:
        problem = replace(problem, trace_id=request.about.span.trace_id)
    if problem.saga_id is None and request.about.saga_id:
        problem = replace(problem, saga_id=request.about.saga_id)
    return Answer(status=problem.status, headers=(PROBLEM_JSON, *headers), body=problem.encode())


def answer_of_error(request: Request, error: Exception, jitter: float = 0.0) -> Answer | None:
    """The answer for an error that the ports and the protocol name; None for any other.

    `jitter` (0 to 1) spreads the `Retry-After` of what is not taken on now.
    """
    match error:
        case WireError():
            challenge = (_challenge(request),) if error.status == 401 else ()
            answer = problem_answer(request, error.problem(), *challenge)
            # The rest of a body that is late may never come.
            return replace(answer, close=True) if error.status == 408 else answer
        case PayloadDiffers() | DeadlineOver() | NotYours():
            return problem_answer(request, refusal(error).problem())
        case KeyReused():
            return problem_answer(request, _key_reused(error))
        case LeftToNewer() | Stopping() | NewerJournal() | WorkerLost():
            problem = unknown("Not known here now", str(error))
            problem = replace(problem, status=503, type=ProblemType.NOT_NOW)
            return problem_answer(request, problem, (h.RETRY_AFTER, "1"))
        case Unsettled() | CommitInDoubt():
            detail = str(error) if isinstance(error, Unsettled) else "a commit is in doubt here"
            return problem_answer(request, unknown("Not known", detail), (h.RETRY_AFTER, "1"))
        case PastRetention():
            return problem_answer(request, _dropped(error, request.path))
        case SagaLost():
            return problem_answer(request, _lost(error), (h.RETRY_AFTER, "30"))
        case Busy() | StoreUnavailable():
            return problem_answer(request, _not_now(error), _retry_after(error, jitter))
        case NotSaid():
            return problem_answer(request, _not_said(error), _retry_after(error, jitter))
        case JournalMismatch():
            return problem_answer(request, defect(str(error)))
        case _:
            return None


def answer_of_order(request: Request, error: Exception, jitter: float) -> Answer:
    """503 for an order of a person that may have been done, or not: the database is away."""
    problem = Problem(
        status=503,
        title="Not known",
        detail="the database is away: the order may have been done before that, or not",
        outcome=Outcome.UNKNOWN,
        retryable=True,
        hint="give the same order again under the same Idempotency-Key, which is done once, after"
        " Retry-After seconds",
    )
    return problem_answer(request, problem, _retry_after(error, jitter))


def _challenge(request: Request) -> tuple[str, str]:
    """The question to a caller without a name: on a page, one that opens the browser's dialog."""
    return BROWSER_CHALLENGE if is_console(request.path) else CHALLENGE


def refusal(error: PayloadDiffers | DeadlineOver | NotYours) -> WireError:
    """The problem of a saga that was not accepted (protocol 3.3)."""
    if isinstance(error, PayloadDiffers):
        return WireError(
            422,
            "Saga id reused with another payload",
            str(error),
            hint="the outcome is that of the saga which has this id: a retry sends the same data,"
            " a new saga has a new id; compensate here before yourself",
            outcome=error.outcome,
            type=ProblemType.ID_REUSED,
        )
    if isinstance(error, NotYours):
        return WireError(
            403,
            "Not your saga",
            str(error),
            hint="nothing was done for you; use a saga id of your own, and ask to compensate under"
            " the name that you have in its trail, or that this stage has configured for you",
            type=ProblemType.NOT_YOURS,
        )
    return WireError(
        504,
        "Deadline over",
        str(error),
        hint="compensate yourself; nothing was executed here",
    )


def _key_reused(error: KeyReused) -> Problem:
    return Problem(
        status=422,
        title="Idempotency key reused",
        detail=str(error),
        outcome=Outcome.NOT_EXECUTED,
        retryable=False,
        hint="give each order a key of its own; a repeat has the same body, actor and path",
    )


def of_status(status: int, title: str, detail: str = "") -> Problem:
    """The problem for a status that HTTP itself gives: no such path, no such method."""
    return Problem(
        status=status,
        title=title,
        detail=detail or f"{status}: {title}",
        outcome=Outcome.NOT_EXECUTED,
        retryable=False,
        hint=HINTS.get(status),
    )


def unknown(title: str, detail: str) -> Problem:
    """500: whether anything was executed is not known."""
    return Problem(
        status=500,
        title=title,
        detail=detail,
        outcome=Outcome.UNKNOWN,
        retryable=True,
        hint="retry under the same saga id; the log has the trace id",
    )


def defect(detail: str) -> Problem:
    """500: a mistake of ours; whether anything was executed is not known."""
    return replace(unknown("Defect", detail), type=ProblemType.DEFECT)


def _lost(error: SagaLost) -> Problem:
    """409 for a saga that this stage handed on, otherwise 503: nothing is known of it here."""
    return Problem(
        type=ProblemType.SAGA_LOST,
        status=409 if error.certain else 503,
        title="Saga lost" if error.certain else "Saga not known",
        detail=str(error),
        outcome=Outcome.UNKNOWN,
        retryable=not error.certain,
        hint="an operator of this stage was alerted, and has to reconcile it with its neighbours",
    )


def _dropped(error: PastRetention, path: str) -> Problem:
    """410: it is over for good, in a way that nobody knows. To `compensate` 409: it cannot.

    There 410 would say that an operator of this stage has taken over what may stand.
    """
    return Problem(
        type=ProblemType.PAST_RETENTION,
        status=409 if path.endswith("/compensate") else 410,
        title="Past retention",
        detail=str(error),
        outcome=Outcome.UNKNOWN,
        retryable=False,
        hint="do not send it under another id: let a person find out whether it was executed;"
        " GET /.well-known/stage shows how long rows are kept",
    )


def _retry_after(error: Exception, jitter: float) -> tuple[str, str]:
    seconds = getattr(error, "retry_after", 1.0) * (1.0 + RETRY_SPREAD * jitter)
    return h.RETRY_AFTER, str(max(1, ceil(seconds)))


def _not_said(error: NotSaid) -> Problem:
    """503 that says nothing of the saga: `not_executed` may not be true of it (I10)."""
    return Problem(
        status=503,
        title=error.title,
        detail=str(error),
        outcome=Outcome.UNKNOWN,
        retryable=True,
        hint="retry under the same saga id after Retry-After seconds, or GET the saga",
    )


def _not_now(error: Exception) -> Problem:
    return Problem(
        status=503,
        title="Not now",
        detail=str(error) if isinstance(error, Busy) else "the database is away",
        outcome=Outcome.NOT_EXECUTED,
        retryable=True,
        hint="retry under the same saga id after Retry-After seconds",
    )
