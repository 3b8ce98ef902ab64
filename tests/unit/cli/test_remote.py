"""The verbs that talk to a stage: what they send, what they print, and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest

from stage.wire.outcome import Outcome
from stage.wire.views import (
    JournalView,
    SagaPage,
    SagaView,
    StepView,
    SweepView,
    VerbsView,
    VerbView,
    encode_view,
)
from tests.kept_port import kept_port
from tests.unit.cli.programs import Neighbour, neighbour, stage

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAGA = SagaView(
    saga_id="s-1",
    stage="payment",
    state="compensating",
    outcome=Outcome.IN_PROGRESS,
    epoch=2,
    accepted_at="2026-11-23T02:29:58.120Z",
    updated_at="2026-11-23T02:29:59.120Z",
    trace_id=TRACE,
    next_action="compensate charge (attempt 2)",
    next_action_at="2999-01-01T00:00:00.000Z",
    stands=["charge"],
    steps=[
        StepView(name="reserve", kind="transaction", phase="succeeded", attempts=1, pivot=True),
        StepView(
            name="charge",
            kind="call",
            phase="compensation_waiting",
            attempts=1,
            compensation_attempts=1,
            last_error="answered 500\x1b[2J",
        ),
    ],
    reason="shipping refused",
)
ENTRIES = [
    {"seq": 1, "at": "2026-11-23T02:29:58.120Z", "event": "accepted"},
    {"seq": 2, "at": "2026-11-23T02:29:58.620Z", "event": "step_started", "step": "charge"},
]
VERBS = [
    VerbView(verb="erase", why_not="it is unfinished"),
    VerbView(verb="resolve", steps=["charge"]),
]


@pytest.fixture
def served() -> Iterator[Neighbour]:
    with neighbour() as served:
        yield served


def problem(status: int, outcome: Outcome, **more: object) -> bytes:
    body = {"title": "No", "status": status, "detail": "it is so", "outcome": outcome.value}
    return msgspec.json.encode({**body, "retryable": False, **more})


def test_send_posts_an_envelope_as_a_neighbour_would(served: Neighbour) -> None:
    """The payload under `data`, the id as key, the deadline as instant and as budget."""
    body = b'{"saga_id":"s-1","outcome":"executed","data":{}}'
    served.answer("POST /sagas", 200, body, Trace_Id=TRACE)
    done = stage("send", served.url + "/", '{"amount": 1}', "--id", "s-1", "--deadline", "5")
    assert done.status == 0
    assert done.out.splitlines() == [f"200 executed  saga s-1  trace {TRACE}", body.decode()]
    (asked,) = served.asked
    envelope = json.loads(asked.body)
    assert envelope["saga_id"] == "s-1" and envelope["data"] == {"amount": 1}
    assert envelope["protocol"] == 1 and envelope["deadline"].endswith("Z")
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["Idempotency-Key"] == "s-1"
    assert asked.headers["Saga-Budget-Ms"] == "5000"
    assert "Prefer" not in asked.headers


def test_send_reads_stdin_and_makes_an_id(served: Neighbour) -> None:
    """`-`, `--async` and no `--id`; accepted is not executed: status 1."""
    served.answer("POST /sagas", 202, b'{"outcome":"in_progress"}')
    done = stage("send", served.url, "-", "--async", stdin='{"amount": 2}')
    (asked,) = served.asked
    assert json.loads(asked.body)["data"] == {"amount": 2}
    assert asked.headers["Prefer"] == "respond-async"
    assert len(json.loads(asked.body)["saga_id"]) == 36
    assert (done.status, done.out.split("  ")[0]) == (1, "202 in_progress")


@pytest.mark.parametrize(
    "status,reported,outcome",
    [
        (409, Outcome.COMPENSATED, "409 compensated"),
        (422, Outcome.NOT_EXECUTED, "422 not_executed"),
        (503, Outcome.NOT_EXECUTED, "503 not_executed"),
        (500, Outcome.NOT_EXECUTED, "500 unknown"),
        (404, Outcome.NOT_EXECUTED, "404 unknown"),
    ],
)
def test_send_says_the_outcome_that_the_code_means(
    served: Neighbour, status: int, reported: Outcome, outcome: str
) -> None:
    """An answer that the table of the protocol does not name is unknown, with any text."""
    served.answer("POST /sagas", status, problem(status, reported, saga_id="s-1"))
    done = stage("send", served.url, "{}", "--id", "s-1")
    assert (done.status, done.out.split("  ")[0]) == (1, outcome)


def test_a_refusal_that_names_no_saga_is_unknown(served: Neighbour) -> None:
    """The party that refused it did not look at the saga (decision 0093)."""
    served.answer("POST /sagas", 422, problem(422, Outcome.NOT_EXECUTED))
    done = stage("send", served.url, "{}", "--id", "s-1")
    assert (done.status, done.out.split("  ")[0]) == (1, "422 unknown")


@pytest.mark.parametrize("payload", ['{"a":1,"a":2}', "[]", "NaN", "", "{"])
def test_send_sends_nothing_that_could_be_read_in_two_ways(served: Neighbour, payload: str) -> None:
    """It is reported before anything leaves."""
    done = stage("send", served.url, payload)
    assert done.status == 2 and done.err.startswith("stage: nothing was sent: ")
    assert served.asked == []


def test_a_lost_answer_is_unknown_and_names_the_id_to_ask_again_with(served: Neighbour) -> None:
    """Status 1: nobody knows."""
    served.answer("POST /sagas", 0, b"")
    done = stage("send", served.url, "{}", "--id", "s-9")
    assert done.status == 1 and "was lost" in done.err and done.err.rstrip().endswith("s-9")


@pytest.mark.parametrize(
    "arguments",
    [["send", "URL", "{}"], ["sagas", "--url", "URL"], ["show", "s-1", "--url", "URL"]],
)
def test_nobody_there_is_reported_with_the_fix(arguments: list[str]) -> None:
    """One line, status 2."""
    with kept_port() as port:
        url = f"http://127.0.0.1:{port}"
        done = stage(*[url if word == "URL" else word for word in arguments])
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"stage: {url} cannot be reached") and "stage serve" in line


def test_sagas_are_listed(served: Neighbour) -> None:
    """Filtered by the stage, shown as a table, with the way to the next page."""
    path = "GET /sagas?limit=2&state=active&state=completed&parked=true&after=s-0"
    served.answer(path, 200, encode_view(SagaPage(sagas=[SAGA], next="s-1")))
    words = "sagas --limit 2 --state active --state completed --parked --after s-0"
    done = stage(*words.split(), STAGE_URL=served.url)
    assert done.status == 0, done.err
    head, line, more = done.out.splitlines()
    assert head.split()[:3] == ["SAGA", "STATE", "OUTCOME"]
    assert line.split()[:3] == ["s-1", "compensating", "in_progress"]
    assert more == "more: --after s-1"


def test_a_saga_is_shown_whole(served: Neighbour) -> None:
    """Where it stopped, what stands, what is next and when, and how it came to that."""
    served.answer("GET /sagas/s-1", 200, encode_view(SAGA))
    journal = JournalView(saga_id="s-1", entries=ENTRIES)
    served.answer("GET /sagas/s-1?view=journal", 200, encode_view(journal))
    verbs = VerbsView(saga_id="s-1", state="compensating", verbs=VERBS)
    served.answer("GET /sagas/s-1?view=verbs", 200, encode_view(verbs))
    done = stage("show", "s-1", "--url", served.url)
    assert done.status == 0, done.err
    assert "may be done\n  resolve (--step charge): states that a person has undone" in done.out
    assert "\n  not erase: it is unfinished\n" in done.out
    assert "saga s-1 at payment: compensating (in_progress)" in done.out
    assert "├─ ✓ reserve (pivot)  transaction  succeeded  1 attempt" in done.out
    assert "1 attempt, 1 to compensate  last error: answered 500 [2J" in done.out
    assert "stands\n  charge\n" in done.out
    assert "next\n  compensate charge (attempt 2) at 2999-01-01T00:00:00.000Z (in " in done.out
    assert "└─    +0.500 s  charge: started" in done.out
    assert "\x1b" not in done.out

    reported = json.loads(stage("show", "s-1", "--url", served.url, "-o", "json").out)
    assert reported["state"] == "compensating" and reported["journal"] == ENTRIES
    assert ["erase", "resolve"] == [each["verb"] for each in reported["verbs"]]


def test_a_saga_never_seen_is_a_no(served: Neighbour) -> None:
    """The stage's words, status 1."""
    served.answer("GET /sagas/s-1", 404, problem(404, Outcome.NOT_EXECUTED, hint="check the id"))
    done = stage("show", "s-1", "--url", served.url)
    assert (1, "stage: it is so: check the id (404)\n") == (done.status, done.err)


def test_a_server_that_is_no_stage_is_reported(served: Neighbour) -> None:
    """Even if it answers 200."""
    served.answer("GET /sagas?limit=50", 200, b"<html>hello</html>")
    done = stage("sagas", "--url", served.url)
    assert done.status == 2 and "does not answer like a stage" in done.err
    done = stage("show", "s-1", "--url", served.url)
    assert done.status == 2 and "answered 404, and not like a stage" in done.err


@pytest.mark.parametrize("url", ["localhost", "ftp://h", "http://u:secret@h"])
def test_a_url_of_a_stage_is_judged_like_any_other(url: str) -> None:
    """And its credentials are not repeated."""
    done = stage("sagas", "--url", url)
    assert done.status == 2 and done.err.startswith("stage: option --url: ")
    assert "secret" not in done.err


@pytest.mark.parametrize("saga_id", ["..", "a/b", "x" * 129])
def test_an_id_that_is_none_is_not_asked_for(served: Neighbour, saga_id: str) -> None:
    """It would name another place."""
    done = stage("show", saga_id, "--url", served.url)
    assert done.status == 2 and served.asked == []


@pytest.mark.parametrize(
    "status,outcome,expected,words",
    [
        (200, "compensated", 0, "200 compensated: nothing of saga s-1 stands"),
        (410, "compensated", 0, "410 compensated: nothing of saga s-1 stands"),
        (410, "unknown", 1, "410 given up by an operator of that stage: not undone"),
        (202, "in_progress", 0, "202 accepted: see `stage show s-1"),
        (409, "unknown", 1, "409 cannot: it is so\nstands: charge"),
    ],
)
def test_compensate_asks_as_an_operator(
    served: Neighbour, status: int, outcome: str, expected: int, words: str
) -> None:
    """With the reason; what cannot be undone is listed."""
    path = "POST /sagas/s-1/compensate"
    served.answer(path, status, problem(status, Outcome(outcome), stands=["charge"]))
    order = ("--reason", "double order", "--actor", "kim")
    done = stage("compensate", "s-1", *order, "--url", served.url)
    assert (done.status, done.out.startswith(words)) == (expected, True), done
    assert json.loads(served.asked[0].body) == {
        "requested_by": "operator kim",
        "reason": "double order",
    }


def test_compensate_dry_shows_the_plan_and_asks_for_nothing(served: Neighbour) -> None:
    """Only the plan is fetched."""
    undo = {"step": "charge", "kind": "call", "peer": "psp", "prospect": "compensate"}
    undo["standing"] = "may_stand"
    reported = {"saga_id": "s-1", "stage": "payment", "state": "completed", "steps": [undo]}
    served.answer("GET /sagas/s-1?view=plan", 200, json.dumps(reported).encode())
    done = stage("compensate", "s-1", "--reason", "x", "--dry-run", "--url", served.url)
    assert (0, True) == (done.status, "charge  call  psp   may stand  compensated" in done.out), (
        done
    )
    assert ["GET"] == [one.method for one in served.asked]


def test_compensate_that_is_refused_for_now_is_a_no(served: Neighbour) -> None:
    """503: the stage's words, status 1."""
    served.answer("POST /sagas/s-1/compensate", 503, problem(503, Outcome.NOT_EXECUTED))
    done = stage("compensate", "s-1", "--reason", "x", "--url", served.url)
    assert (1, "stage: it is so (503)\n") == (done.status, done.err)


@pytest.mark.parametrize("which", [[], ["s-1", "--number", "customer:c-7"]])
def test_an_erasure_names_one_saga_or_which_of_many(served: Neighbour, which: list[str]) -> None:
    """Never all of them by leaving out which."""
    done = stage("erase", *which, "--reason", "ticket", "--url", served.url)
    assert (2, []) == (done.status, served.asked)
    assert "say which" in done.err


def test_a_purge_is_a_sweep_of_all_that_ended_before(served: Neighbour) -> None:
    """Those that ended well, and no others; a time has to be given."""
    begun = SweepView(
        number=7, at="2026-11-23T02:29:58.120Z", actor="kim", verb="purge", reason="x", where="",
        rate_per_second=50.0, state="running", sagas=5, pending=5, done=0, refused=0,
    )  # fmt: skip
    served.answer("POST /sweeps", 200, msgspec.json.encode(begun))
    since = ["--ended-before", "2026-01-01T00:00:00Z"]
    done = stage("purge", *since, "--reason", "x", "--url", served.url)
    assert (0, "purge" in done.out) == (done.status, True), done
    order = json.loads(served.asked[0].body)
    ended = {"state": ["completed", "compensated"], "changed_before": ["2026-01-01T00:00:00Z"]}
    assert ("purge", ended) == (order["verb"], order["where"])
    later = ["--ended-from", "2025-01-01T00:00:00Z"]
    assert 0 == stage("purge", *since, *later, "--reason", "x", "--url", served.url).status
    ended["changed_from"] = ["2025-01-01T00:00:00Z"]
    assert ended == json.loads(served.asked[1].body)["where"]
    assert 2 == stage("purge", "--reason", "x", "--url", served.url).status
    assert 2 == len(served.asked)


@pytest.mark.parametrize(
    "url, said",
    [
        ("http://127.0.0.1:9/sagas", "without /sagas: give http://127.0.0.1:9"),
        ("http://127.0.0.1:9/pay/sagas/", "without /sagas: give http://127.0.0.1:9/pay"),
        ("127.0.0.1:9", "stage: URL: '127.0.0.1:9' is not an absolute"),
    ],
)
def test_send_wants_the_address_of_the_stage(url: str, said: str) -> None:
    """That of the route, which a client in another language uses, was answered 405 `unknown`."""
    done = stage("send", url, "{}")
    assert 2 == done.status and said in done.err


def test_a_token_that_is_missing_is_asked_for_by_its_option(served: Neighbour) -> None:
    """The words of the stage name a header, which nobody writes here."""
    body = b'{"type":"about:blank","title":"t","status":401,"detail":"nobody said who asks",'
    served.answer("GET /sagas?limit=50", 401, body + b'"hint":"send Authorization: Bearer TOKEN"}')
    done = stage("sagas", "--url", served.url)
    assert "nobody said who asks: give --token-file" in done.err and "Bearer" not in done.err


@pytest.mark.parametrize("option", ["--ended-before", "--ended-from"])
def test_a_date_of_a_purge_is_asked_for_by_its_option(served: Neighbour, option: str) -> None:
    """The stage would name a parameter that the command does not have."""
    times = {"--ended-before": "2026-12-01T00:00:00Z", option: "2026-12-01"}
    words = [word for pair in times.items() for word in pair]
    done = stage("purge", *words, "--reason", "r", "--url", served.url)
    assert 2 == done.status and f"{option} is not an RFC 3339 date" in done.err
    assert [] == served.asked
