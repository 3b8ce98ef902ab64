"""The states of a stage that fetches its tasks itself: `stage serve --sfn-activity`.

A task of an activity fails with a named error, so its end is known from that: the worker has read
code and word together. It is kept alive by heartbeats, and answers once the journal has the end.
"""

from __future__ import annotations

from typing import Any

from stage.inbound.activity import COMPENSATED, FAILED_TO_COMPENSATE, NOT_EXECUTED

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


def execution(name: str, activity: str, *, after: str, back: str, stage: str) -> State:
    """The task that runs a stage; whatever it fails with, the stage is asked to compensate."""
    left = "$ceil(($toMillis($deadline) - $millis()) / 1000)"
    added = "$exists($states.result.data) ? $merge([$data, $states.result.data]) : $data"
    return {
        name: _task(activity, {"data": query("$data"), "deadline": query("$deadline")})
        | {
            "TimeoutSeconds": query(f"$max([{TASK_SECONDS_MIN}, {left}])"),
            "Assign": {"data": query(added)},
            "Retry": [
                {
                    "ErrorEquals": ["States.Timeout", "States.HeartbeatTimeout"],
                    "IntervalSeconds": 1,
                    "MaxAttempts": REPEATS_MAX,
                }
            ],
            "Catch": [
                {
                    "ErrorEquals": ["States.ALL"],
                    "Assign": {"reason": query(f"'{stage}: ' & $states.errorOutput.Error")},
                    "Next": back,
                }
            ],
            "Next": after,
        }
    }


def compensation(name: str, activity: str, *, before: str, patient: State, stage: str) -> State:
    """The task that has a stage compensate; `patient` retries all that is no end."""
    ends = [COMPENSATED, NOT_EXECUTED]
    return {
        name: _task(activity, {"compensate": query("$reason")})
        | {
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
