"""Orders of the command line: under a key, and given again where their answer is lost."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import nullcontext

import msgspec
import pytest
from msgspec.structs import replace

from stage.cli import remote
from stage.cli.failure import Failure
from stage.cli.operate import PAGE, UNFINISHED, operate
from stage.cli.orders import TRIES
from stage.engine.workers import engine as workers
from stage.wire.outcome import Outcome
from stage.wire.views import PeersView, PeerView, SagaPage, SweepView, encode_view
from tests.unit.cli.programs import Neighbour, neighbour, stage
from tests.unit.cli.test_remote import SAGA, problem

NO_SWEEP = SweepView(
    at="2026-11-30T10:00:00Z", actor="kim", verb="retry", reason="r", where="{}",
    rate_per_second=10.0, state="dry_run", sagas=0, pending=0, done=0, refused=0,
)  # fmt: skip
"""A dry run for which there is nothing."""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
RETRY = "POST /sagas/s-1/retry"


@pytest.fixture
def served() -> Iterator[Neighbour]:
    """A server in place of a stage."""
    with neighbour() as served:
        yield served


def test_each_order_has_a_key_of_its_own(served: Neighbour) -> None:
    """Verbs, pauses and sweeps."""
    served.answer(RETRY, 200, encode_view(SAGA))
    served.answer("POST /pauses", 200, b'{"pauses":[]}')
    refused = problem(409, Outcome.NOT_EXECUTED)
    served.answer("POST /sweeps", 409, refused)
    served.answer("POST /sweeps/3/stop", 409, refused)
    where = ("--url", served.url, "--reason", "r")
    for words in (
        ("retry", "s-1"),
        ("retry", "s-1"),
        ("pause", "intake", "--for", "1h"),
        ("sweep", "retry", "--id", "s-1"),
        ("sweeps", "3", "--stop"),
    ):
        stage(*words, *where)
    keys = [asked.headers["Idempotency-Key"] for asked in served.asked]
    assert 5 == len(set(keys)) and all(UUID.fullmatch(key) for key in keys)


def test_a_lost_answer_is_asked_for_again_under_the_same_key(served: Neighbour) -> None:
    """In the end the person is told the key, because nobody knows."""
    served.answer(RETRY, 0, b"")
    done = stage("retry", "s-1", "--url", served.url, "--reason", "r")
    keys = {asked.headers["Idempotency-Key"] for asked in served.asked}
    assert (1, 1, 3) == (done.status, len(keys), len(served.asked))
    assert f"--key {keys.pop()}" in done.err


def test_an_answer_that_nobody_knows_is_asked_for_again_under_the_same_key(
    served: Neighbour,
) -> None:
    """The database went away behind the order, perhaps."""
    served.answer(RETRY, 503, problem(503, Outcome.UNKNOWN))
    done = stage("retry", "s-1", "--url", served.url, "--reason", "r")
    keys = {asked.headers["Idempotency-Key"] for asked in served.asked}
    assert (1, 1, 3) == (done.status, len(keys), len(served.asked))
    assert f"--key {keys.pop()}" in done.err


def test_a_key_is_given_as_it_is(served: Neighbour) -> None:
    """As it is; of many sagas none can be meant."""
    served.answer(RETRY, 200, encode_view(SAGA))
    where = ("--url", served.url, "--reason", "r", "--key", "k-1")
    assert 0 == stage("retry", "s-1", *where).status
    (asked,) = served.asked
    assert "k-1" == asked.headers["Idempotency-Key"]
    assert "key" not in json.loads(asked.body)
    done = stage("retry", "--all", "--peer", "psp", *where)
    assert 2 == done.status and "--key belongs to one order" in done.err


def test_a_refusal_is_not_asked_for_again(served: Neighbour) -> None:
    """An answer is an answer."""
    served.answer(RETRY, 409, msgspec.json.encode({}))
    assert 0 != stage("retry", "s-1", "--url", served.url, "--reason", "r").status
    assert 1 == len(served.asked)


def test_a_dry_run_says_which_steps_would_change_and_what_the_verb_states(
    served: Neighbour,
) -> None:
    """A person reads that it is a claim before it is made, and that nothing was done yet."""
    charge = replace(SAGA.steps[1], peer="psp", phase="compensation_failed")
    failed = replace(SAGA, steps=[SAGA.steps[0], charge])
    undone = replace(charge, phase="compensated")
    resolved = replace(SAGA, state="compensated", steps=[SAGA.steps[0], undone], next_action=None)
    served.answer("GET /sagas/s-1", 200, encode_view(failed))
    served.answer("POST /sagas/s-1/resolve", 200, encode_view(resolved))
    where = ("--url", served.url, "--reason", "r")
    assert [
        "resolve: saga s-1 would be compensated; next: nothing, it is over",
        "  charge at psp is compensation_failed, and would be compensated",
        (
            "nothing was changed: resolve states that a person has undone what still stands: undo"
            " it there first"
        ),
    ] == stage("resolve", "s-1", *where, "--dry-run").out.splitlines()
    assert 1 == len(stage("resolve", "s-1", *where).out.splitlines())


@pytest.mark.parametrize(
    "peer, waits", [("psp", 1), ("externals.psp", 1), ("downstreams.psp", 0), ("externals.x", 0)]
)
def test_a_peer_is_named_as_the_groups_name_it(served: Neighbour, peer: str, waits: int) -> None:
    """`externals.psp` from `stage groups` means the saga that waits for psp."""
    steps = [replace(each, peer="psp" if each.kind == "call" else None) for each in SAGA.steps]
    saga = replace(SAGA, steps=steps)
    query = "&".join(f"state={state}" for state in UNFINISHED)
    page = encode_view(SagaPage(sagas=[saga], next=None))
    served.answer(f"GET /sagas?limit={PAGE}&after=&{query}", 200, page)
    served.answer("GET /sagas/s-1", 200, encode_view(saga))
    served.answer(RETRY, 200, encode_view(saga))
    done = stage("retry", "--all", "--peer", peer, "--url", served.url, "--reason", "r")
    assert f"{waits} sagas waited for {peer}, {waits} are tried again" in done.out
    shown = stage(
        "retry", "--all", "--peer", peer, "--url", served.url, "--reason", "r", "--dry-run"
    )
    assert f"{waits} sagas wait for {peer}, {waits} would be tried again" in shown.out


@pytest.mark.parametrize(
    "words",
    [
        ("sweep", "compensate", "--step", ""),
        ("sweep", "compensate", "--peer", "", "--state", "completed"),
        ("sweep", "resolve", "--state", "failed_to_compensate", "--of-step", ""),
        ("erase", "--number", ""),
        ("retry", "s-1", "--anew", "--step", ""),
        ("retry", "--all", "--peer", ""),
        ("resolve", "s-1", "--step", ""),
        ("abandon", "s-1", "--step", ""),
    ],
)
def test_an_option_that_is_given_empty_is_refused(
    served: Neighbour, words: tuple[str, ...]
) -> None:
    """`--step "$STEP"` with STEP unset narrows to nothing, and would be for every saga or step."""
    done = stage(*words, "--url", served.url, "--reason", "r")
    assert 2 == done.status and "is empty: leave it out, or give a name" in done.err
    assert [] == served.asked


def test_an_order_for_all_steps_names_none(served: Neighbour) -> None:
    """Without the option no step is sent."""
    served.answer("POST /sagas/s-1/resolve", 200, encode_view(SAGA))
    assert 0 == stage("resolve", "s-1", "--url", served.url, "--reason", "r").status
    assert "step" not in json.loads(served.asked[0].body)


def test_an_erasure_is_waited_for_as_long_as_the_database_is_written_anew(
    served: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 70 s it was ordered again, and the stage wrote the whole database once more."""
    assert workers.LONG_SECONDS_MAX == remote.LONG_SECONDS_MAX
    monkeypatch.setattr(remote, "ANSWER_SECONDS_MAX", 0.2)
    served.seconds = 0.5
    for verb, tries in (("erase", 1), ("retry", TRIES)):
        served.answer(f"POST /sagas/s-1/{verb}", 200, encode_view(SAGA))
        served.asked.clear()
        with nullcontext() if tries == 1 else pytest.raises(Failure, match="was lost"):
            operate(served.url, "s-1", verb, {"actor": "kim", "reason": "r", "dry_run": False})
        assert tries == len(served.asked)


def test_a_settlement_says_what_was_found_at_the_api(served: Neighbour) -> None:
    """Neither claim is proposed alone, and one that contradicts itself is not sent."""
    where = ("settle", "s-1", "--step", "charge", "--reason", "r", "--url", served.url)
    silent = stage(*where)
    assert silent.status and "'--landed' with --result JSON, or '--not-landed'" in silent.err
    both = stage(*where, "--not-landed", "--result", "{}")
    assert both.status and "leave out --result" in both.err
    assert [] == served.asked


@pytest.mark.parametrize(
    "words",
    [
        ("retry", "--all", "--reason", "r"),
        ("retry", "--all", "--reason", "r", "--dry-run"),
        ("sagas",),
        ("sweep", "retry", "--reason", "r", "--dry-run"),
    ],
)
@pytest.mark.parametrize(
    "peer, found", [("externals.bnk", False), ("externals.bank", True), ("upstreams.x", True)]
)
def test_a_peer_that_is_none_is_said_where_nothing_waits_for_it(
    served: Neighbour, words: tuple[str, ...], peer: str, found: bool
) -> None:
    """A slip in its name looked as if all were well."""
    states = "&".join(f"state={state}" for state in UNFINISHED)
    empty = encode_view(SagaPage(sagas=[], next=None))
    served.answer(f"GET /sagas?limit={PAGE}&after=&{states}", 200, empty)
    served.answer(f"GET /sagas?limit=50&peer={peer}", 200, empty)
    served.answer("POST /sweeps", 200, encode_view(NO_SWEEP))
    peers = PeersView(peers=[PeerView(peer="externals.bank")])
    served.answer("GET /peers", 200, encode_view(peers))
    done = stage(*words, "--peer", peer, "--url", served.url)
    said = "there is no peer 'externals.bnk' at this stage: its peers are externals.bank"
    assert found is (said not in done.err) and found is (0 == done.status)
