"""The documents of `stage asl`, state by state: what leads where, and what is retried."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from click.testing import CliRunner

from examples.step_functions.interpreter import Execution, TaskFailed
from stage.cli.root import cli
from stage.inbound.activity import (
    BEAT_SECONDS,
    COMPENSATED,
    FAILED_TO_COMPENSATE,
    NOT_EXECUTED,
)
from stage.orchestrators.step_functions.activity_states import TASK_SECONDS_MIN
from stage.orchestrators.step_functions.document import (
    DENIED_MAX,
    DROPPED_LOOKS_MAX,
    EXECUTED_LOOKS_MAX,
    Chain,
    backward,
    forward,
)
from stage.wire.envelope import SAGA_ID_RE
from stage.wire.replies import decode_compensate

EXAMPLE = Path(__file__).parents[3] / "examples" / "step_functions"
STAGES = ("order", "payment", "shipping")
CHAIN = Chain(stages=STAGES)
FETCHING = Chain(stages=STAGES, activities={"payment": "", "shipping": "arn:shipping"})
DOCUMENTS = {"forward": forward(CHAIN), "backward": backward(CHAIN)}
ALL_DOCUMENTS = {
    **DOCUMENTS,
    "forward, by activities": forward(FETCHING),
    "backward, by activities": backward(FETCHING),
}


def leads_to(state: dict[str, Any]) -> Iterator[str]:
    """The states that may come next."""
    for rule in (state, *state.get("Choices", ()), *state.get("Catch", ())):
        yield from (rule[word] for word in ("Next", "Default") if word in rule)


@pytest.mark.parametrize("name", ALL_DOCUMENTS)
def test_every_state_is_reached_and_leads_somewhere(name: str) -> None:
    """From the first one, to one of its ends."""
    document = ALL_DOCUMENTS[name]
    states, reached, open_ = document["States"], set(), [document["StartAt"]]
    while open_:
        here = open_.pop()
        if here not in reached:
            reached.add(here)
            open_ += leads_to(states[here])

    assert set(states) == reached
    ends = {here for here, state in states.items() if state["Type"] in ("Succeed", "Fail")}
    assert {"compensated", "failed to compensate", "no saga id"} <= ends
    assert ends == {here for here, state in states.items() if not list(leads_to(state))}


def test_a_saga_goes_forward_in_order_and_back_in_reverse() -> None:
    """A no leads to the stage that said it: a gateway may have said it in its place."""
    states = DOCUMENTS["forward"]["States"]

    ways = {stage: states[f"judge {stage}"]["Choices"][0]["Next"] for stage in STAGES}
    assert {
        "order": "execute payment",
        "payment": "execute shipping",
        "shipping": "executed",
    } == ways
    back = {stage: states[f"undone {stage}"]["Choices"][0]["Next"] for stage in STAGES}
    assert {
        "shipping": "compensate payment",
        "payment": "compensate order",
        "order": "end",
    } == back
    for stage in STAGES:
        assert f"compensate {stage}" == states[f"execute {stage}"]["Catch"][0]["Next"]


def test_a_stage_that_fetches_its_tasks_is_judged_by_the_names_of_its_errors() -> None:
    """A time-out is repeated, all else leads back; what stands is noted on the way."""
    states = ALL_DOCUMENTS["forward, by activities"]["States"]
    pay, undo = states["execute payment"], states["compensate payment"]
    assert "${PaymentActivity}" == pay["Resource"] == undo["Resource"]
    assert "arn:shipping" == states["execute shipping"]["Resource"]
    assert "judge payment" == pay["Next"]
    handed_on, too_large = states["judge payment"]["Choices"]
    assert ("execute shipping", "compensate payment") == (handed_on["Next"], too_large["Next"])
    # As for a stage that is asked by HTTP, which the interpreter runs.
    by_http = DOCUMENTS["forward"]["States"]["judge payment"]["Choices"][0]
    assert by_http["Condition"].endswith(handed_on["Condition"].removeprefix("{% "))
    assert by_http["Assign"]["data"] == handed_on["Assign"]["data"]
    assert ["States.Timeout", "States.HeartbeatTimeout"] == pay["Retry"][0]["ErrorEquals"]
    assert [["States.DataLimitExceeded"], ["States.ALL"]] == [
        each["ErrorEquals"] for each in pay["Catch"]
    ]
    assert {"compensate payment"} == {each["Next"] for each in pay["Catch"]}
    assert "'saga_id': $saga_id, 'compensate': $reason}, $sent" in undo["Arguments"]
    assert 99_999_999 == undo["Retry"][-1]["MaxAttempts"]
    over, stands = undo["Catch"]
    assert [COMPENSATED, NOT_EXECUTED] == over["ErrorEquals"]
    assert [FAILED_TO_COMPENSATE] == stands["ErrorEquals"]
    assert {"compensate order"} == {over["Next"], stands["Next"], undo["Next"]}
    assert 3 * BEAT_SECONDS <= pay["HeartbeatSeconds"] < TASK_SECONDS_MIN


class Adding(Execution):
    """An execution whose stages add so many characters each; `undone` are asked to compensate."""

    def __init__(self, added: str, given: str = "") -> None:
        super().__init__(forward(CHAIN), "s-1", {"data": {"note": given}}, cast(Any, None))
        self.added = added
        self.undone: list[str] = []

    async def _invoke(self, arguments: dict[str, Any], seconds: int) -> dict[str, Any]:
        stage = arguments["ApiEndpoint"].partition("Url}")[0].removeprefix("${").lower()
        answer: dict[str, Any] = {"saga_id": self.name, "outcome": "executed"}
        if arguments["ApiEndpoint"].endswith("/compensate"):
            self.undone.append(stage)
            return {"ResponseBody": {**answer, "outcome": "compensated"}}
        return {"ResponseBody": {**answer, "data": {stage: self.added}}}


@pytest.mark.parametrize("letter, least, most", [("x", 1, 1), ("\n", 2, 2), ("\uac00", 4, 6)])
async def test_data_that_is_too_large_turns_a_saga_back(letter: str, least: int, most: int) -> None:
    """Step Functions ends an execution at its limit, and `States.ALL` does not catch that.

    A letter counts for so many bytes, more where the library writes it as an escape.
    """
    whole = Adding(letter * (70_000 // most))
    end = await whole.run()
    assert ("executed", []) == (end.output["outcome"], whole.undone)

    large = Adding(letter * (130_000 // least))
    end = await large.run()
    assert "Saga.Compensated" == end.error
    assert end.cause.startswith("payment: the data is larger than Step Functions takes")
    assert ["payment", "order"] == large.undone


class Echoing(Adding):
    """An execution whose stages answer with all that they were sent, and each changes it."""

    async def _invoke(self, arguments: dict[str, Any], seconds: int) -> dict[str, Any]:
        answer = await super()._invoke(arguments, seconds)
        sent = arguments["RequestBody"].get("data", {})
        rewritten = dict.fromkeys(sent, "rewritten")
        added = answer["ResponseBody"].get("data", {})
        return {"ResponseBody": {**answer["ResponseBody"], "data": {**rewritten, **added}}}


async def test_a_stage_rewrites_no_data() -> None:
    """Protocol 3.1: the first to write a member holds."""
    end = await Echoing("added", "given").run()
    stages = dict.fromkeys(CHAIN.stages, "added")
    assert {"note": "given", **stages} == end.output["data"]


async def test_data_that_is_too_large_to_be_sent_turns_a_saga_back() -> None:
    """An input that just fits does not fit beside the rest of a request."""
    large = Adding("", "x" * 262_000)
    end = await large.run()
    assert ("Saga.Compensated", ["order"]) == (end.error, large.undone)


def test_the_command_prints_activities() -> None:
    """With an ARN as it is, without one as a substitution."""
    given = [
        "asl",
        "--stages",
        "order,payment",
        "--activity",
        "order=arn:o",
        "--activity",
        "payment",
    ]
    printed = CliRunner().invoke(cli, given)
    assert 0 == printed.exit_code, printed.output
    assert json.loads(printed.output) == forward(
        Chain(stages=("order", "payment"), activities={"order": "arn:o", "payment": ""})
    )


@pytest.mark.parametrize("name", DOCUMENTS)
def test_an_undo_is_asked_for_until_it_is_answered(name: str) -> None:
    """Its retries have no end, and no error leaves it but the codes that may be an end.

    Those of a look lead back to the request to compensate.
    """
    states = DOCUMENTS[name]["States"]
    for here, state in states.items():
        if not here.startswith(("compensate ", "look at ")):
            continue
        assert 99_999_999 == state["Retry"][-1]["MaxAttempts"]
        assert ["States.ALL"] == state["Retry"][-1]["ErrorEquals"]
        caught = [name for catcher in state["Catch"] for name in catcher["ErrorEquals"]]
        codes = ((409, 410) if here.startswith("compensate ") else (404, 410)) + (401, 403)
        assert [f"States.Http.StatusCode.{code}" for code in codes] == caught
        assert caught == state["Retry"][0]["ErrorEquals"]
        assert 0 == state["Retry"][0]["MaxAttempts"]
    for stage in STAGES:
        not_shown, dropped, denied = states[f"look at {stage}"]["Catch"]
        assert denied == states[f"compensate {stage}"]["Catch"][-1]
        again = states[dropped["Next"]]["Default"]
        assert (again, f"compensate {stage}") == (not_shown["Next"], states[again]["Next"])


class Answering(Execution):
    """An execution of `backward` whose stages answer by script; the last answer is for ever."""

    def __init__(self, scripts: dict[str, list[Any]]) -> None:
        super().__init__(backward(CHAIN), "s-1", {"saga_id": "s-1"}, cast(Any, None), speed=1e9)
        self.scripts = scripts
        self.asked: list[str] = []
        self.body_sent: dict[str, Any] = {}

    async def _invoke(self, arguments: dict[str, Any], seconds: int) -> dict[str, Any]:
        self.body_sent = arguments.get("RequestBody", self.body_sent)
        stage = arguments["ApiEndpoint"].partition("Url}")[0].removeprefix("${").lower()
        asked = f"{arguments['Method']} {stage}"
        self.asked.append(asked)
        script = self.scripts.get(asked, ["compensated"])
        said = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(said, int):
            raise TaskFailed(f"States.Http.StatusCode.{said}")
        return {"ResponseBody": {"saga_id": self.given["saga_id"], "outcome": said}}


IDS = [
    *(
        "s-1",
        "a",
        "x" * 128,
        "A-Z.0~9:_",
        ".a",
        "...",
        "a..",
        "0193f0c4-7d1e-7c3a-9a55-0d6a3c1f2b10",
    ),
    *("", "x" * 129, ".", "..", "order(1)", "a@b", "a b", "a/b", "s-1\n", "\uc8fc\ubb38"),
]


@pytest.mark.parametrize("saga_id", IDS)
async def test_an_id_that_is_none_ends_an_execution_at_once(saga_id: str) -> None:
    """Stages would refuse it for ten days, and the name of an execution takes more than an id."""
    ahead, back = Adding("x"), Answering({})
    ahead.name = back.given["saga_id"] = saga_id
    ends = await ahead.run(), await back.run()
    if SAGA_ID_RE.fullmatch(saga_id):
        assert ("", "Saga.Compensated") == (ends[0].error, ends[1].error)
    else:
        assert ["Saga.WrongId"] * 2 == [end.error for end in ends]
        assert f"{saga_id} is no id of a saga" in ends[0].cause
        assert ([], []) == (ahead.undone, back.asked)


async def test_an_id_that_is_no_text_is_none() -> None:
    """Nor is it made one: a number has more than one spelling."""
    execution = Answering({})
    execution.given["saga_id"] = 30
    end = await execution.run()
    assert ("Saga.WrongId", []) == (end.error, execution.asked)
    assert end.cause.startswith("30 is no id")


class Sending(Adding):
    """An execution whose last stage refuses; `sent` are the bodies of requests to compensate."""

    def __init__(self) -> None:
        super().__init__("")
        self.sent: list[dict[str, Any]] = []

    async def _invoke(self, arguments: dict[str, Any], seconds: int) -> dict[str, Any]:
        url = arguments["ApiEndpoint"]
        if url.endswith("/compensate"):
            self.sent.append(arguments["RequestBody"])
        elif url.startswith("${ShippingUrl}"):
            raise TaskFailed("States.Http.StatusCode.409")
        return await super()._invoke(arguments, seconds)


async def test_a_request_to_compensate_says_when_the_saga_was_sent() -> None:
    """A stage whose database was made anew since then does not say that nothing stands."""
    execution, before = Sending(), time.time()
    await execution.run()
    assert 3 == len(execution.sent)
    for body in execution.sent:
        asked = decode_compensate(json.dumps(body).encode())
        assert "step_functions" == asked.requested_by
        assert asked.first_sent_at is not None
        assert before - 0.001 <= asked.first_sent_at <= time.time()


@pytest.mark.parametrize(
    "given, sent",
    [(None, None), ("2026-11-23T19:28:00.209+09:00", "2026-11-23T10:28:00.209Z")],
)
async def test_a_compensation_alone_says_it_where_it_was_given(
    given: str | None, sent: str | None
) -> None:
    """Its own beginning would be too late."""
    execution = Answering({})
    if given is not None:
        execution.given["first_sent_at"] = given
    await execution.run()
    assert sent == execution.body_sent.get("first_sent_at")


async def test_an_instant_that_is_none_ends_a_compensation_at_once() -> None:
    """Stages would refuse it without end."""
    execution = Answering({})
    execution.given["first_sent_at"] = "yesterday"
    with pytest.raises(ValueError, match="yesterday"):
        await execution.run()
    assert [] == execution.asked


@pytest.mark.parametrize("code", [409, 410])
@pytest.mark.parametrize("shown", [404, "executed"])
async def test_a_code_of_a_gateway_ends_no_compensation(code: int, shown: str | int) -> None:
    """The stage has not heard the request: it shows the saga as before, or has never seen it."""
    execution = Answering({"POST shipping": [code, "compensated"], "GET shipping": [shown]})
    end = await execution.run()
    assert "Saga.Compensated" == end.error
    asked = ["POST shipping", "GET shipping", "POST shipping", "POST payment", "POST order"]
    assert asked == execution.asked


@pytest.mark.parametrize(
    "shown, looks", [("unknown", 1), ("executed", EXECUTED_LOOKS_MAX), (410, DROPPED_LOOKS_MAX)]
)
async def test_a_stage_that_cannot_compensate_is_noted_in_the_end(
    shown: str | int, looks: int
) -> None:
    """An undo that failed, a pivot, and a saga that was dropped for its age; the others go on."""
    stages = ("shipping", "payment")
    script: dict[str, list[Any]] = {f"POST {stage}": [409] for stage in stages}
    execution = Answering({**script, **{f"GET {stage}": [shown] for stage in stages}})
    end = await execution.run()
    assert "Saga.FailedToCompensate" == end.error
    assert end.cause.endswith("(stands: shipping, payment)")
    assert "POST order" == execution.asked[-1]
    assert [looks, looks] == [execution.asked.count(f"GET {stage}") for stage in stages]


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize("verb", ["POST", "GET"])
async def test_a_locked_door_is_noted_when_patience_is_over(code: int, verb: str) -> None:
    """A rotated key, or the saga of another caller: the stages before it are reached."""
    script: dict[str, list[Any]] = {"POST shipping": [code if verb == "POST" else 409]}
    execution = Answering({**script, "GET shipping": [code]})
    end = await execution.run()
    assert "Saga.FailedToCompensate" == end.error
    assert end.cause.endswith("(stands: shipping)")
    assert DENIED_MAX == execution.asked.count(f"{verb} shipping")
    assert ["POST payment", "POST order"] == execution.asked[-2:]


async def test_a_key_that_is_mended_in_time_costs_nothing() -> None:
    """Any other answer begins the count anew, and so does the next stage."""
    nearly: list[Any] = [403] * (DENIED_MAX - 1)
    script = {"POST shipping": [*nearly, "in_progress", 401, "compensated"]}
    execution = Answering({**script, "POST payment": [*nearly, "compensated"]})
    end = await execution.run()
    assert "Saga.Compensated" == end.error
    assert execution.variables["denials"] == 0


@pytest.mark.parametrize(
    "reason, sent",
    [("x" * 5_000, "x" * 1_000), ({"Error": "E"}, '{"Error":"E"}'), (None, "null"), ("no", "no")],
    ids=["long", "an object", "null", "text"],
)
async def test_any_reason_is_one_that_a_stage_takes(reason: Any, sent: str) -> None:
    """The stage refuses one of more than 1,000 characters, or that is no text."""
    execution = Answering({})
    execution.given["reason"] = reason
    end = await execution.run()
    assert ("Saga.Compensated", sent) == (end.error, execution.body_sent["reason"])


def test_a_no_is_never_repeated() -> None:
    """Its codes stand in a retrier of their own, before that of all errors."""
    for stage in STAGES:
        no, rest = DOCUMENTS["forward"]["States"][f"execute {stage}"]["Retry"]
        assert (0, 6) == (no["MaxAttempts"], len(no["ErrorEquals"]))
        assert ["States.ALL"] == rest["ErrorEquals"]


def test_a_repeat_carries_the_same_key_and_body() -> None:
    """All of it is assigned once, before the first request."""
    arguments = DOCUMENTS["forward"]["States"]["execute payment"]["Arguments"]

    assert "{% $saga_id %}" == arguments["Headers"]["Idempotency-Key"]
    assert [
        {"stage": "order", "at": "{% $began %}"},
        {"stage": "step_functions", "at": "{% $began %}"},
    ] == arguments["RequestBody"]["trail"]


def test_the_command_prints_them() -> None:
    """Without addresses as substitutions, with them as they are."""
    given = ["asl", "--stages", "order,payment", "--url", "order=https://order.example/"]
    printed = CliRunner().invoke(cli, given)

    assert 0 == printed.exit_code, printed.output
    states = json.loads(printed.output)["States"]
    assert "https://order.example/sagas" == states["execute order"]["Arguments"]["ApiEndpoint"]
    payment = states["execute payment"]["Arguments"]
    assert "${PaymentUrl}/sagas" == payment["ApiEndpoint"]
    assert "${PaymentConnection}" == payment["InvocationConfig"]["ConnectionArn"]
    back = CliRunner().invoke(cli, [*given, "--backward"])
    assert "execute order" not in json.loads(back.output)["States"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_example_is_as_the_command_prints_it(name: str) -> None:
    """Its template gives each substitution that the document has."""
    given = ["asl", "--stages", "payment,shipping", *(["--backward"] * (name == "backward"))]
    printed = CliRunner().invoke(cli, given).output
    template = yaml.safe_load((EXAMPLE / "template.yaml").read_text("utf-8"))
    machine = template["Resources"][name.capitalize()]["Properties"]

    assert (EXAMPLE / machine["DefinitionUri"]).read_text("utf-8") == printed
    assert set(re.findall(r"\$\{(\w+)\}", printed)) == set(machine["DefinitionSubstitutions"])


@pytest.mark.parametrize(
    "given, wrong",
    [
        (["--stages", "order,Payment"], "'Payment' is no name of a stage"),
        (["--stages", "order,order"], "each stage stands once"),
        (["--stages", "order", "--name", "order"], "each stage stands once"),
        (["--stages", "order", "--activity", "psp"], "--activity psp: give STAGE="),
        (["--stages", "order", "--name", "aws", "--activity", "order"], "give no --name"),
        (["--stages", "order", "--url", "psp=https://psp"], "--url psp=https://psp: give STAGE="),
    ],
)
def test_a_chain_that_cannot_be_is_refused(given: list[str], wrong: str) -> None:
    """In one line, before anything is printed."""
    refused = CliRunner().invoke(cli, ["asl", *given])

    assert wrong in str(refused.exception)
