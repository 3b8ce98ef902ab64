"""A small interpreter of Amazon States Language, as far as `stage asl` uses it.

No emulator that can be had runs HTTP tasks: one says that they are not implemented, another refuses
the document. So this is written from the documentation of AWS, and stricter than that: a field, a
type of state or a resource that it does not know is refused. JSONata is evaluated by a library.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from jsonata import Jsonata

QUERY = ("{%", "%}")
DATA_BYTES_MAX = 262_144
TOO_LARGE = "States.DataLimitExceeded"
HTTP = "arn:aws:states:::http:invoke"
HTTP_SECONDS_MAX = 60.0
TRANSITIONS_MAX = 2_000
FIELDS = {
    "Pass": {"Type", "Assign", "Next"},
    "Task": {
        *("Type", "Resource", "Arguments", "Assign", "Retry", "Catch", "Next", "TimeoutSeconds")
    },
    "Choice": {"Type", "Choices", "Default"},
    "Wait": {"Type", "Seconds", "Assign", "Next"},
    "Succeed": {"Type", "Output"},
    "Fail": {"Type", "Error", "Cause"},
}
RETRIER = {"ErrorEquals", "IntervalSeconds", "BackoffRate", "MaxDelaySeconds", "MaxAttempts"}
ARGUMENTS = {"ApiEndpoint", "Method", "InvocationConfig", "Headers", "RequestBody"}


class TaskFailed(Exception):
    """A task ended with an error of that name."""

    def __init__(self, error: str, cause: str = "") -> None:
        super().__init__(f"{error}: {cause}")
        self.error = error
        self.cause = cause


@dataclass
class End:
    """The end of an execution: its output, or the error and cause of a Fail state."""

    output: Any = None
    error: str = ""
    cause: str = ""


@dataclass
class Execution:
    """One execution of a document. `speed` makes waits shorter."""

    document: dict[str, Any]
    name: str
    given: dict[str, Any]
    session: aiohttp.ClientSession
    speed: float = 10.0
    variables: dict[str, Any] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)

    async def run(self) -> End:
        """Run it to its end."""
        assert self.document["QueryLanguage"] == "JSONata"
        name = self.document["StartAt"]
        while len(self.passed) < TRANSITIONS_MAX:
            self.passed.append(name)
            state = self.document["States"][name]
            kind = state["Type"]
            assert set(state) - FIELDS[kind] - {"JitterStrategy"} == set(), f"{name}: {set(state)}"
            match kind:
                case "Succeed":
                    return End(output=self._value(state["Output"]))
                case "Fail":
                    return End(error=self._value(state["Error"]), cause=self._value(state["Cause"]))
                case "Choice":
                    name = self._choose(state)
                case "Wait":
                    await asyncio.sleep(self._value(state["Seconds"]) / self.speed)
                    name = self._leave(state)
                case "Task":
                    name = await self._task(state)
                case _:
                    name = self._leave(state)
        raise AssertionError(f"{self.name} does not end: {self.passed[-20:]}")

    def _leave(self, state: dict[str, Any], **states: Any) -> str:
        """Assign, all values being read before any is set, and go on."""
        assigned = self._value(state.get("Assign", {}), **states)
        for value in assigned.values():
            _limited(value)
        self.variables |= assigned
        return str(state["Next"])

    def _choose(self, state: dict[str, Any]) -> str:
        for rule in state["Choices"]:
            held = self._value(rule["Condition"])
            assert isinstance(held, bool), f"{rule['Condition']} is {held!r}"
            if held:
                return self._leave(rule)
        return str(state["Default"])

    async def _task(self, state: dict[str, Any]) -> str:
        assert state["Resource"] == HTTP
        attempts: dict[int, int] = {}
        while True:
            try:
                seconds = self._value(state["TimeoutSeconds"])
                assert isinstance(seconds, int), seconds
                arguments = _limited(self._value(state["Arguments"]))
                result = _limited(await self._invoke(arguments, seconds))
            except TaskFailed as failed:
                pause = _retry(state, failed.error, attempts)
                if pause is None:
                    return self._catch(state, failed)
                await asyncio.sleep(random.uniform(0, pause) / self.speed)
                continue
            return self._leave(state, result=result)

    def _catch(self, state: dict[str, Any], failed: TaskFailed) -> str:
        for catcher in state.get("Catch", ()):
            if _matches(catcher, failed.error):
                output = {"Error": failed.error, "Cause": failed.cause}
                return self._leave(catcher, errorOutput=output)
        raise failed

    async def _invoke(self, arguments: dict[str, Any], seconds: int) -> dict[str, Any]:
        """An HTTP task: 2xx is a result, whatever else an error by its code."""
        assert set(arguments) <= ARGUMENTS, arguments
        assert arguments["InvocationConfig"]["ConnectionArn"]
        body = arguments.get("RequestBody")
        try:
            async with self.session.request(
                arguments["Method"],
                arguments["ApiEndpoint"],
                data=None if body is None else json.dumps(body),
                headers=arguments["Headers"],
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=min(seconds, HTTP_SECONDS_MAX)),
            ) as response:
                text = await response.text()
                if not 200 <= response.status < 300:
                    raise TaskFailed(f"States.Http.StatusCode.{response.status}", text)
                is_json = response.content_type == "application/json"
                return {
                    "StatusCode": response.status,
                    "StatusText": response.reason,
                    "Headers": {key: [value] for key, value in response.headers.items()},
                    "ResponseBody": json.loads(text) if is_json else text,
                }
        except TimeoutError:
            raise TaskFailed("States.Timeout") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TaskFailed("States.Http.Socket", type(error).__name__) from None

    def _value(self, given: Any, **states: Any) -> Any:
        """The value with its queries answered. An answer of nothing is an error, as it is there."""
        if isinstance(given, dict):
            return {key: self._value(each, **states) for key, each in given.items()}
        if isinstance(given, list):
            return [self._value(each, **states) for each in given]
        if not isinstance(given, str) or not given.startswith(QUERY[0]):
            return given
        assert given.endswith(QUERY[1])
        query = Jsonata(given[2:-2])
        context = {"Execution": {"Name": self.name, "Input": self.given}}
        frame = query.create_frame()
        frame.bind("states", {"input": self.given, "context": context, **states})
        for name, value in self.variables.items():
            frame.bind(name, value)
        found = query.evaluate({}, frame)
        if found is None:
            raise TaskFailed("States.QueryEvaluationError", given)
        return found


def _limited(value: Any) -> Any:
    """The value, which has to fit; raises what `States.ALL` does not match, as it is there."""
    if len(json.dumps(value, ensure_ascii=False).encode()) > DATA_BYTES_MAX:
        raise TaskFailed(TOO_LARGE)
    return value


def _matches(rule: dict[str, Any], error: str) -> bool:
    named, every = rule["ErrorEquals"], ["States.ALL"]
    return error in named or (named == every and error != TOO_LARGE)


def _retry(state: dict[str, Any], error: str, attempts: dict[int, int]) -> float | None:
    """The seconds until the next attempt; None when the first retrier that fits has none left."""
    for number, retrier in enumerate(state.get("Retry", ())):
        assert set(retrier) <= RETRIER | {"JitterStrategy"}
        if _matches(retrier, error):
            done = attempts.get(number, 0)
            attempts[number] = done + 1
            if done >= retrier.get("MaxAttempts", 3):
                return None
            pause = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2.0) ** done
            return float(min(pause, retrier.get("MaxDelaySeconds", pause)))
    return None
