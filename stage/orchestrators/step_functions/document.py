"""State machines in Amazon States Language that drive a chain of stages.

A stage is reached by HTTP tasks, or it fetches its tasks from an activity (`activity_states`).

An HTTP task sees codes alone where they are errors, and a body where they are not. So a no is never
believed by its code: a stage that said one is asked to compensate too, and an end of that is read
from the view of the saga, where code and word agree (protocol 3.3, 3.4).

Queries are JSONata, which AWS advises for new state machines. Values that differ from one account
to the next are substitutions of CloudFormation unless they are given: `${PaymentUrl}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from stage.orchestrators.step_functions import activity_states
from stage.orchestrators.step_functions.activity_states import query as _query
from stage.wire.limits import DEFAULT_LIMITS

HTTP = "arn:aws:states:::http:invoke"
NO_CODES = (400, 409, 410, 413, 415, 422)
"""A no, or a gateway's: not repeated, compensated (protocol 3.3)."""
END_CODES = (409, 410)
"""Answers to compensate that may be the end of it."""
NOT_SHOWN, DROPPED = 404, 410
"""Answers to a look: the saga was never seen there, and it may have been dropped for its age."""
EXECUTED_LOOKS_MAX = 5
"""Looks that show the saga as executed before the stage counts as one that cannot compensate: a
gateway may have said that code, and the stage has not heard the request."""
DROPPED_LOOKS_MAX = 20
"""Looks that are answered 410 before the stage counts as one where something may stand, together an
hour: the route of a gateway is mended by then."""
DENIED_CODES = (401, 403)
"""A key that is wrong or was rotated, or the saga of another caller: repeated for a while."""
DENIED_MAX = 300
"""Such answers without another one between them before the stage counts as one where something may
stand: three days, as a stage has patience with its neighbours. The stages before it are not to wait
for ever."""
DENIED_PAUSE_SECONDS_MAX = 900
"""So that they cost some 3,000 events at a stage: a key may be wrong at each of them."""
ALL = "States.ALL"

QUICK_ATTEMPTS = 3
PAUSE_SECONDS_MAX = 30
BACK_PAUSE_SECONDS_MAX = 300
"""Each request takes three to nine of the 25,000 events that an execution may have. So they last
for ten days; a minute apart they would last for less than three."""
BACK_ATTEMPTS_MAX = 99_999_999
"""The most that the service takes: a stage is asked to compensate until it answers."""
WAIT_SECONDS = 20
"""How long a stage is asked to keep a request waiting."""
TASK_SECONDS = 30
"""The time-out of a task; the service itself ends an HTTP task after 60 s."""

REASON_CHARS_MAX = DEFAULT_LIMITS.reason_chars_max
"""A longer reason would be refused, and asked for without end."""

COMPENSATED = "Saga.Compensated"
FAILED_TO_COMPENSATE = "Saga.FailedToCompensate"
"""The errors with which an execution ends, beside its output with the outcome `executed`."""
WRONG_ID = "Saga.WrongId"
"""The error of one that began nothing: stages would refuse its id without end."""

SAGA_ID_CHARS_MAX = DEFAULT_LIMITS.saga_id_chars_max
NOT_IN_A_SAGA_ID = "[^A-Za-z0-9._~:-]"
"""Not asked for from end to end: the meaning of `$` differs between libraries of JSONata."""

State = dict[str, Any]
ANEW: State = {"tries": 0, "looks": 0, "denials": 0}
"""The counts of a stage on the way back, before it was asked."""


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A chain, its stages in order. `name` is what they call the orchestrator: their upstream.

    `urls` and `connections` (ARNs of EventBridge) are by stage; those that are missing become
    substitutions. An execution without a deadline gets one after `budget_seconds`.
    """

    stages: Sequence[str]
    name: str = "step_functions"
    urls: Mapping[str, str] = {}
    connections: Mapping[str, str] = {}
    activities: Mapping[str, str] = {}
    """The stages that fetch their tasks, each with its ARN; an empty one is a substitution."""
    budget_seconds: int = 3600

    def url(self, stage: str) -> str:
        """The base URL of a stage."""
        return self.urls.get(stage, f"${{{_pascal(stage)}Url}}").rstrip("/")

    def connection(self, stage: str) -> str:
        """The connection that holds the credentials for a stage."""
        return self.connections.get(stage, f"${{{_pascal(stage)}Connection}}")

    def activity(self, stage: str) -> str:
        """The ARN of the activity from which a stage fetches its tasks."""
        return self.activities[stage] or f"${{{_pascal(stage)}Activity}}"


def forward(chain: Chain) -> State:
    """Drives a saga: its id is the name of the execution; the input has `data`, and `deadline`."""
    deadline = f"$fromMillis($millis() + {chain.budget_seconds * 1000})"
    begin = {
        "Type": "Pass",
        "Assign": {
            "saga_id": _query("$states.context.Execution.Name"),
            "data": _query("$states.input.data"),
            "deadline": _query(
                f"$exists($states.input.deadline) ? $states.input.deadline : {deadline}"
            ),
            "began": _query("$now()"),
            "sent": _query("{'first_sent_at': $now()}"),
            "reason": "unknown",
            "stands": [],
            **ANEW,
        },
        "Next": "check",
    }
    states: State = {"begin": begin, **_check(_execute_name(chain.stages[0]))}
    after = [*map(_execute_name, chain.stages[1:]), "executed"]
    for number, then in enumerate(after):
        states |= _execution(chain, number, then)
    states["executed"] = {
        "Type": "Succeed",
        "Output": {"outcome": "executed", "data": _query("$data")},
    }
    states |= _way_back(chain)
    return _document(chain, "Runs a saga over its stages, and compensates in reverse.", states)


def backward(chain: Chain) -> State:
    """Compensates a saga, whatever became of it.

    The input has `saga_id`, and may have `reason`, and `first_sent_at`: when its execution began.
    An instant there that is none ends the execution at once, for stages would refuse it for ever.
    """
    given = "$states.input.first_sent_at"
    sent = f"$exists({given}) ? {{'first_sent_at': $fromMillis($toMillis({given}))}} : {{}}"
    begin = {
        "Type": "Pass",
        "Assign": {
            "saga_id": _query("$states.input.saga_id"),
            "reason": _query(
                "$exists($states.input.reason)"
                f" ? $substring($string($states.input.reason), 0, {REASON_CHARS_MAX}) : 'asked to'"
            ),
            "sent": _query(sent),
            "stands": [],
            **ANEW,
        },
        "Next": "check",
    }
    states = {"begin": begin, **_check(_compensate_name(chain.stages[-1])), **_way_back(chain)}
    return _document(chain, "Compensates a saga at all stages, in reverse.", states)


def _check(then: str) -> State:
    """Look at the id before anything is asked: the name of an execution may be no saga id."""
    is_one = (
        f"$type($saga_id) = 'string' and $length($string($saga_id)) in [1..{SAGA_ID_CHARS_MAX}]"
        f" and $not($contains($string($saga_id), /{NOT_IN_A_SAGA_ID}/))"
        " and $not($saga_id in ['.', '..'])"
    )
    cause = (
        f"$substring($string($saga_id), 0, 200) & ' is no id of a saga: 1 to"
        f" {SAGA_ID_CHARS_MAX} characters of A-Z a-z 0-9 . _ ~ : -"
        " (not . or ..), which also the name of an execution has to be'"
    )
    return {
        "check": {
            "Type": "Choice",
            "Choices": [{"Condition": _query(is_one), "Next": then}],
            "Default": "no saga id",
        },
        "no saga id": {"Type": "Fail", "Error": WRONG_ID, "Cause": _query(cause)},
    }


def _document(chain: Chain, comment: str, states: State) -> State:
    return {
        "Comment": f"{comment} Stages: {', '.join(chain.stages)}. Written by `stage asl`.",
        "QueryLanguage": "JSONata",
        "StartAt": "begin",
        "States": states,
    }


def _execution(chain: Chain, number: int, after: str) -> State:
    """One stage on the way forward: asked until it is executed, a no, or too late."""
    stage = chain.stages[number]
    if stage in chain.activities:
        names, back = (_execute_name(stage), _judge_name(stage)), _compensate_name(stage)
        return activity_states.execution(
            *names, chain.activity(stage), after=after, back=back, stage=stage
        )
    pause = f"wait for {stage}"
    too_late = {
        "Condition": _query("$toMillis($deadline) <= $millis()"),
        "Assign": {"reason": f"{stage}: the deadline is over", "tries": 0},
        "Next": _compensate_name(stage),
    }
    executed = {
        "Condition": _is("executed", also=activity_states.fits("$answer")),
        "Assign": {"data": _query(activity_states.merged("$answer")), "tries": 0},
        "Next": after,
    }
    too_large = {
        "Condition": _is("executed"),
        **activity_states.too_large(stage, _compensate_name(stage)),
    }
    return {
        _execute_name(stage): _execute(chain, number),
        _judge_name(stage): {
            "Type": "Choice",
            "Choices": [executed, too_large, too_late],
            "Default": pause,
        },
        pause: _pause(PAUSE_SECONDS_MAX, _execute_name(stage)),
    }


def _execute(chain: Chain, number: int) -> State:
    """The request that runs a stage. A no leads back, all other errors to be judged."""
    stage = chain.stages[number]
    passed = [*chain.stages[:number], chain.name]
    body = {
        "saga_id": _query("$saga_id"),
        "data": _query("$data"),
        "deadline": _query("$deadline"),
        "trail": [{"stage": name, "at": _query("$began")} for name in passed],
    }
    task = _http(chain, stage, "POST", f"{chain.url(stage)}/sagas", body)
    task["Arguments"]["Headers"] |= {
        "Idempotency-Key": _query("$saga_id"),
        "Prefer": f"wait={WAIT_SECONDS}",
    }
    left = "$ceil(($toMillis($deadline) - $millis()) / 1000)"
    turned = {"reason": _query(f"'{stage}: ' & $states.errorOutput.Error")}
    refused = {
        "ErrorEquals": [*_errors(NO_CODES), activity_states.TOO_LARGE],
        "Assign": turned,
        "Next": _compensate_name(stage),
    }
    unknown = {
        "ErrorEquals": [ALL],
        "Assign": {"answer": {}, **turned},
        "Next": _judge_name(stage),
    }
    return task | {
        "TimeoutSeconds": _query(f"$max([1, $min([{TASK_SECONDS}, {left}])])"),
        "Retry": [_never(NO_CODES), _again(QUICK_ATTEMPTS, PAUSE_SECONDS_MAX)],
        "Catch": [refused, unknown],
        "Next": _judge_name(stage),
    }


def _way_back(chain: Chain) -> State:
    """The compensations, each leading to the stage before, and the two ends."""
    states: State = {}
    for number, stage in reversed(list(enumerate(chain.stages))):
        before = _compensate_name(chain.stages[number - 1]) if number else "end"
        states |= _compensation(chain, stage, before)
    cause = "$reason & ' (stands: ' & $join($stands, ', ') & ')'"
    return states | {
        "end": {
            "Type": "Choice",
            "Choices": [{"Condition": _query("$count($stands) = 0"), "Next": "compensated"}],
            "Default": "failed to compensate",
        },
        "compensated": {"Type": "Fail", "Error": COMPENSATED, "Cause": _query("$reason")},
        "failed to compensate": {
            "Type": "Fail",
            "Error": FAILED_TO_COMPENSATE,
            "Cause": _query(cause),
        },
    }


def _compensation(chain: Chain, stage: str, before: str) -> State:
    """One stage on the way back: asked until it says, in its own word, what stands.

    A door that stays locked is noted in the end, so that the stages before it are reached.
    """
    compensate, judge, pause = _compensate_name(stage), f"undone {stage}", f"pause {stage}"
    locked = f"locked {stage}"
    patient = _again(BACK_ATTEMPTS_MAX, BACK_PAUSE_SECONDS_MAX)
    if stage in chain.activities:
        return activity_states.compensation(
            compensate, chain.activity(stage), before=before, patient=patient, stage=stage
        )
    saga = f"'{chain.url(stage)}/sagas/' & $saga_id"
    ask = _query(f"$merge([{{'requested_by': '{chain.name}', 'reason': $reason}}, $sent])")
    over = {"Condition": _is("compensated", "not_executed"), "Assign": ANEW, "Next": before}
    noted = _noted(stage, before)
    denied = {
        "ErrorEquals": _errors(DENIED_CODES),
        "Assign": {"denials": _query("$denials + 1")},
        "Next": locked,
    }
    too_often = {"Condition": _query(f"$denials >= {DENIED_MAX}"), **noted}
    asked = _http(chain, stage, "POST", _query(f"{saga} & '/compensate'"), ask)
    look = _http(chain, stage, "GET", _query(saga)) | {"Catch": [denied]}
    return {
        compensate: asked
        | {
            "Assign": asked["Assign"] | {"denials": 0},
            "Retry": [_never((*END_CODES, *DENIED_CODES)), patient],
            "Catch": [{"ErrorEquals": _errors(END_CODES), "Next": _look_name(stage)}, denied],
            "Next": judge,
        },
        judge: {"Type": "Choice", "Choices": [over], "Default": pause},
        **_look(look, stage, over, noted, again=pause),
        pause: _pause(BACK_PAUSE_SECONDS_MAX, compensate),
        locked: {"Type": "Choice", "Choices": [too_often], "Default": f"wait at {stage}"},
        f"wait at {stage}": _pause(DENIED_PAUSE_SECONDS_MAX, compensate),
    }


def _noted(stage: str, before: str) -> State:
    """The rest of a rule for a stage where something may stand."""
    noted = _query(f"$append($stands, ['{stage}'])")
    return {"Assign": {"stands": noted, **ANEW}, "Next": before}


def _look(look: State, stage: str, over: State, noted: State, *, again: str) -> State:
    """The look behind a no to a request to compensate, and what follows from it.

    Where it shows no end, the stage is asked `again`: a gateway may have said that no. `noted` is
    the rest of a rule for one where something may stand.
    """
    seen, dropped = f"seen {stage}", f"dropped {stage}"
    looked = {"looks": _query("$looks + 1")}
    ends = (_is("unknown"), _is("executed", also=f"$looks >= {EXECUTED_LOOKS_MAX}"))
    gone = _query(f"$looks >= {DROPPED_LOOKS_MAX}")
    return {
        _look_name(stage): look
        | {
            "Assign": look["Assign"] | looked,
            "Retry": [
                _never((NOT_SHOWN, DROPPED, *DENIED_CODES)),
                _again(BACK_ATTEMPTS_MAX, BACK_PAUSE_SECONDS_MAX),
            ],
            "Catch": [
                {"ErrorEquals": _errors((NOT_SHOWN,)), "Next": again},
                {"ErrorEquals": _errors((DROPPED,)), "Assign": looked, "Next": dropped},
                *look["Catch"],
            ],
            "Next": seen,
        },
        seen: {
            "Type": "Choice",
            "Choices": [over, *({"Condition": each, **noted} for each in ends)],
            "Default": again,
        },
        dropped: {
            "Type": "Choice",
            "Choices": [{"Condition": gone, **noted}],
            "Default": again,
        },
    }


def _http(
    chain: Chain, stage: str, method: str, url: str, body: State | str | None = None
) -> State:
    """An HTTP task whose answer is assigned, an empty one where there is no body."""
    arguments: State = {
        "ApiEndpoint": url,
        "Method": method,
        "InvocationConfig": {"ConnectionArn": chain.connection(stage)},
        "Headers": {"Content-Type": "application/json"},
    }
    if body is not None:
        arguments["RequestBody"] = body
    answer = "$states.result.ResponseBody"
    return {
        "Type": "Task",
        "Resource": HTTP,
        "TimeoutSeconds": TASK_SECONDS,
        "Arguments": arguments,
        "Assign": {"answer": _query(f"$type({answer}) = 'object' ? {answer} : {{}}")},
    }


def _pause(seconds_max: int, after: str) -> State:
    return {
        "Type": "Wait",
        "Seconds": _query(f"$min([{seconds_max}, $power(2, $min([$tries, 10]))])"),
        "Assign": {"tries": _query("$tries + 1")},
        "Next": after,
    }


def _never(codes: Sequence[int]) -> State:
    return {"ErrorEquals": _errors(codes), "MaxAttempts": 0}


def _again(attempts: int, seconds_max: int) -> State:
    return {
        "ErrorEquals": [ALL],
        "IntervalSeconds": 1,
        "BackoffRate": 2,
        "MaxDelaySeconds": seconds_max,
        "MaxAttempts": attempts,
        "JitterStrategy": "FULL",
    }


def _errors(codes: Sequence[int]) -> list[str]:
    return [f"States.Http.StatusCode.{code}" for code in codes]


def _is(*outcomes: str, also: str = "true") -> str:
    """The answer is the stage's own word about this saga: one of these outcomes.

    `also` is a query that has to hold besides.
    """
    words = ", ".join(f"'{each}'" for each in outcomes)
    mine = "($not($exists($answer.saga_id)) or $answer.saga_id = $saga_id)"
    held = f"$answer.outcome in [{words}] and {mine}"
    return _query(held if also == "true" else f"{held} and {also}")


def _execute_name(stage: str) -> str:
    return f"execute {stage}"


def _judge_name(stage: str) -> str:
    return f"judge {stage}"


def _compensate_name(stage: str) -> str:
    return f"compensate {stage}"


def _look_name(stage: str) -> str:
    return f"look at {stage}"


def _pascal(stage: str) -> str:
    """The name in substitutions, which have letters and digits alone."""
    return "".join(part.capitalize() for part in stage.replace("-", "_").split("_"))
