"""The states of a stage that fetches its tasks itself: `stage serve --sfn-activity`.

A task of an activity fails with a named error, so its end is known from that: the worker has read
code and word together. It is kept alive by heartbeats, and answers once the journal has the end.
"""

from __future__ import annotations

from typing import Any

from stage.inbound.activity import COMPENSATED, FAILED_TO_COMPENSATE, NOT_EXECUTED

DATA_BYTES_MAX = 240_000
"""The limit of the data that is handed on. Step Functions takes 262,144 bytes, with all that stands
beside it, and ends an execution at that limit without a way back."""
TOO_LARGE = "States.DataLimitExceeded"
"""Its error for what is larger where it is sent or answered, which `States.ALL` does not match."""
HEARTBEAT_SECONDS = 20
"""The worker beats every five seconds."""
TASK_SECONDS_MIN = 30
"""A time-out is longer than the time between heartbeats. The stage keeps the deadline itself."""
REPEATS_MAX = 3
"""How often a task that timed out is repeated; each repeat joins the saga."""

State = dict[str, Any]


def query(text: str) -> str:
    """An expression in JSONata."""
    return f"{{% {text} %}}"


def merged(answer: str) -> str:
    """The query for the data with what a stage has added to it.

    The first to write a member holds (protocol 3.1), so that an answer rewrites nothing.
    """
    return f"$exists({answer}.data) ? $merge([{answer}.data, $data]) : $data"


def fits(answer: str) -> str:
    """The query whether that can be handed on. A character beyond ASCII has up to four bytes."""
    return (
        f"($text := $string({merged(answer)});"
        " $length($text) + 3 * $length($replace($text, /[ -~]+/, ''))"
        f" <= {DATA_BYTES_MAX})"
    )


def too_large(stage: str, back: str) -> State:
    """The rest of a rule for data that cannot be handed on."""
    reason = f"{stage}: the data is larger than Step Functions takes: hand on references"
    return {"Assign": {"reason": reason, "tries": 0}, "Next": back}


def execution(
    name: str, judge: str, activity: str, *, after: str, back: str, stage: str
) -> dict[str, State]:
    """The task that runs a stage; whatever it fails with, the stage is asked to compensate."""
    left = "$ceil(($toMillis($deadline) - $millis()) / 1000)"
    handed_on = {
        "Condition": query(fits("$answer")),
        "Assign": {"data": query(merged("$answer"))},
        "Next": after,
    }
    otherwise = {"Condition": query("true"), **too_large(stage, back)}
    return {
        name: _task(activity, {"data": query("$data"), "deadline": query("$deadline")})
        | {
            "TimeoutSeconds": query(f"$max([{TASK_SECONDS_MIN}, {left}])"),
            "Assign": {"answer": query("$states.result")},
            "Retry": [
                {
                    "ErrorEquals": ["States.Timeout", "States.HeartbeatTimeout"],
                    "IntervalSeconds": 1,
                    "MaxAttempts": REPEATS_MAX,
                }
            ],
            "Catch": [
                {
                    "ErrorEquals": names,
                    "Assign": {"reason": query(f"'{stage}: ' & $states.errorOutput.Error")},
                    "Next": back,
                }
                for names in ([TOO_LARGE], ["States.ALL"])
            ],
            "Next": judge,
        },
        judge: {"Type": "Choice", "Choices": [handed_on, otherwise], "Default": back},
    }


def compensation(name: str, activity: str, *, before: str, patient: State, stage: str) -> State:
    """The task that has a stage compensate; `patient` retries all that is no end."""
    ends = [COMPENSATED, NOT_EXECUTED]
    return {
        name: _task(activity, {})
        | {
            "Arguments": query("$merge([{'saga_id': $saga_id, 'compensate': $reason}, $sent])"),
            "Retry": [{"ErrorEquals": [*ends, FAILED_TO_COMPENSATE], "MaxAttempts": 0}, patient],
            "Catch": [
                {"ErrorEquals": ends, "Next": before},
                {
                    "ErrorEquals": [FAILED_TO_COMPENSATE],
                    "Assign": {"stands": query(f"$append($stands, ['{stage}'])")},
                    "Next": before,
                },
            ],
            "Next": before,
        }
    }


def _task(activity: str, given: State) -> State:
    return {
        "Type": "Task",
        "Resource": activity,
        "Arguments": {"saga_id": query("$saga_id"), **given},
        "HeartbeatSeconds": HEARTBEAT_SECONDS,
    }
