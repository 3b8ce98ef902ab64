"""Deploys with sagas in flight: each keeps the plan that accepted it (rule 32).

The world outlives the releases: what was charged and refunded is read from its own books.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from stage import Http, Saga, Stage
from stage.bootstrap import open_database
from stage.bootstrap.check import About, Level, check_stage
from stage.config import Config, load
from stage.core.errors import ConfigurationError
from stage.demo.payment import Order
from stage.ports.connection import Connection
from stage.wire.envelope import parse_instant
from tests.scenario.attacks.names import accept_file, shown_by, token_of, write_accepted
from tests.scenario.chain import HOST, Chain
from tests.scenario.releases import World, payment, world_around
from tests.waits import until

VERBS: dict[str, dict[str, Any]] = {
    "retry": {},
    "settle": {"step": "charge", "landed": False},
    "resolve": {},
    "abandon": {},
    "forget": {},
}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """The world around the stage."""
    async with world_around(tmp_path) as made:
        yield made


async def do(chain: Chain, saga_id: str, verb: str, **order: Any) -> tuple[int, dict[str, Any]]:
    """A verb of an operator."""
    body = msgspec.json.encode({"actor": "kim", "reason": "ticket 17", **order})
    status, _, answer = await chain.request("POST", f"{chain.stage}/sagas/{saga_id}/{verb}", body)
    return status, msgspec.json.decode(answer)


async def in_doubt(world: World, stage: Any, **options: Any) -> None:
    """A saga of that release whose charge has landed, without an answer, when it goes."""
    async with world.release(stage, **options) as chain:
        await chain.script(chain.psp, script="effect-then-hang")
        assert 202 == (await chain.send("s-1", Prefer="wait=0"))[0]
        await chain.until_charged()
    await chain.script(chain.psp, script="ok")


async def steps_of_the_journal(chain: Chain) -> set[str | None]:
    """The steps that the journal of the saga names."""
    journal = await chain.get(f"{chain.stage}/sagas/s-1?view=journal")
    return {entry.get("step") for entry in journal["entries"]}


def restored(folder: Path, stage: Any) -> None:
    """The database was put back, its neighbours were asked, and it is released."""
    config = Config(
        auth="none",
        service_name="payment",
        database=f"sqlite:///{folder / 'payment.db'}",
        upstreams={"order": f"http://{HOST}"},
        downstreams={"shipping": f"http://{HOST}"},
    )
    with open_database(stage, config) as database:
        database.restored(parse_instant("2026-11-29T02:00:00Z"))
    with open_database(stage, config) as database:
        database.reconciled(dict.fromkeys(("order", "shipping"), "0 sagas"))
    with open_database(stage, config) as database:
        database.released(("order", "shipping"))


def unrepeatable(to: str, step: str = "charge", **lineage: Any) -> Stage[Order, None]:
    """A stage whose API has neither keys nor a probe: a doubt waits for a person."""
    stage: Stage[Order, None] = Stage("payment", accepts=Order, **lineage)

    async def charge(http: Http, saga: Saga[Order]) -> None:
        await http.post("/charges", json={"amount": saga.input.amount})

    charge.__name__ = step
    options: dict[str, Any] = {"compensation": None, "reason": "no test undoes it"}
    stage.call(to=to, timeout=5.0, idempotent=False, **options)(charge)
    return stage


async def completed(world: World, stage: Any) -> None:
    """A saga of that release that has completed."""
    async with world.release(stage) as chain:
        assert 200 == (await chain.send("s-1"))[0]
    assert (1, 1) == await world.standing("psp")


async def unknown(chain: Chain, *stands: str) -> None:
    """A request to compensate is answered with what stands, kept, and shown (protocol 3.4)."""
    status, _, body = await chain.compensate("s-1")
    problem = msgspec.json.decode(body)
    assert (409, "unknown") == (status, problem["outcome"])
    assert list(stands) == [*problem["stands"], *problem.get("may_stand", [])]
    view = await chain.view("s-1")
    assert (True, "misfit", "unknown") == (
        view["parked"], view["parked_cause"], view["standing"],
    )  # fmt: skip
    assert list(stands) == [*view["stands"], *view["may_stand"]]
    plan = await chain.get(f"{chain.stage}/sagas/s-1?view=plan")
    assert "unknown" == plan["standing"]
    assert set(stands) <= {line["step"] for line in plan["steps"]}
    assert {"cannot"} == {line["prospect"] for line in plan["steps"]}
    assert 1 == (await chain.events("s-1")).count("compensation_requested")


async def test_a_saga_goes_on_under_the_version_that_accepted_it(world: World) -> None:
    """In doubt at a deploy: settled where it was made. New sagas run under the new version."""
    before = payment()
    await in_doubt(world, before)
    after = payment(version=2, to="psp2", step="collect", supersedes=before)
    async with world.release(after) as chain:
        view = await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert 1 == view["version"]
        assert ["reserve", "charge", "forward:shipping"] == [step["name"] for step in view["steps"]]
        assert 200 == (await chain.send("s-2"))[0]
        assert 2 == (await chain.view("s-2"))["version"]
    assert ((1, 1), (1, 1)) == (await world.standing("psp"), await world.standing("psp2"))


async def test_a_start_says_that_the_sagas_of_before_fit_it_no_more(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A deploy has lost a downstream: new sagas would complete without it, and nothing else say."""
    await completed(world, payment())
    async with world.release(payment()):
        assert "sagas_do_not_fit" not in caplog.text
    async with world.release(payment(), downstreams={}):
        pass

    (line,) = [each for each in caplog.messages if "sagas_do_not_fit" in each]
    assert "handed on to 'shipping', which is no downstream here: configure that again" in line


async def test_refunds_of_earlier_sagas_go_to_the_api_that_charged_them(world: World) -> None:
    """`to="psp"` became `psp2`: the charge of before is refunded at psp."""
    before = payment()
    await completed(world, before)
    async with world.release(payment(version=2, to="psp2", supersedes=before)) as chain:
        assert 200 == (await chain.compensate("s-1"))[0]
    assert ((1, 0), (0, 0)) == (await world.standing("psp"), await world.standing("psp2"))


async def test_an_api_that_changed_unsaid_is_not_asked_for_the_refund(world: World) -> None:
    """It never charged: parked, and done by the release that knows whom to ask."""
    await completed(world, payment())
    async with world.release(payment(to="psp2")) as chain:
        await unknown(chain, "reserve", "charge", "forward:shipping")
        assert (
            "was a call to 'psp', and is a call to 'psp2' now"
            in (await chain.view("s-1"))["parked_reason"]
        )
    assert ((1, 1), (0, 0)) == (await world.standing("psp"), await world.standing("psp2"))
    async with world.release(payment(to="psp2", peers_renamed={"psp": "psp2"}),
                             externals={"psp2": world.chain.psp}) as chain:  # fmt: skip
        assert 200 == (await do(chain, "s-1", "retry"))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert (1, 0) == await world.standing("psp")


@pytest.mark.parametrize("auth", ["tokens", "none"])
async def test_a_late_failure_of_a_renamed_downstream_is_taken(
    world: World, tmp_path: Path, auth: Literal["tokens", "none"]
) -> None:
    """Under the name that it had when the saga was handed to it, and without holding it up."""
    await completed(world, payment())
    write_accepted(tmp_path, "parcels", token_of("parcels"))
    accepted = str(accept_file(tmp_path, "parcels"))
    url = world.chain.shipping
    options: dict[str, Any] = {"downstreams": {"parcels": url}}
    if auth == "tokens":
        parcels = Connection(url=url, accept_file=accepted, formerly=("shipping",))
        options = {"auth": auth, "upstreams": {}, "downstreams": {"parcels": parcels}}
    async with world.release(payment(peers_renamed={"shipping": "parcels"}), **options) as chain:
        shown = shown_by("parcels") if auth == "tokens" else ""
        status, _, _ = await chain.compensate("s-1", by="shipping", Authorization=shown)
        assert 202 == status

        async def is_refunded() -> bool:
            return (1, 0) == await world.standing("psp")

        await until(is_refunded)


async def test_sagas_of_a_former_name_are_found_by_the_name_of_today(world: World) -> None:
    """A saga keeps the name of its upstream; a list, a count and a sweep by today's miss none."""
    away = "http://127.0.0.1:1"
    await completed(world, payment())
    async with world.release(payment(), upstreams={"order": away}) as chain:
        assert 202 == (await chain.compensate("s-1", by="shipping"))[0]
        await chain.until("s-1", lambda saga: saga["peer"] == "upstreams.order")
    shop = {"shop": Connection(url=away, formerly=("order",))}
    async with world.release(payment(), upstreams=shop) as chain:
        for name in ("shop", "order"):
            listed = await chain.get(f"{chain.stage}/sagas?peer=upstreams.{name}")
            assert [("s-1", "upstreams.shop")] == [
                (saga["saga_id"], saga["peer"]) for saga in listed["sagas"]
            ]
        groups = (await chain.get(f"{chain.stage}/groups"))["groups"]
        assert [("upstreams.shop", 1)] == [(group["peer"], group["sagas"]) for group in groups]
        where = {"where": {"peer": "upstreams.shop"}, "dry_run": True}
        order = msgspec.json.encode({"verb": "retry", "reason": "back", "actor": "kim", **where})
        status, _, body = await chain.request("POST", f"{chain.stage}/sweeps", order)
        assert (200, ["s-1"]) == (status, msgspec.json.decode(body)["first"])


async def test_a_parked_saga_and_a_pause_count_under_the_names_of_today(world: World) -> None:
    """Neither is written anew by the deploy: the one was not found, and the other held nothing."""
    async with world.release(unrepeatable("psp")) as chain:
        await chain.script(chain.psp, script="effect-then-drop")
        assert 202 == (await chain.send("s-1"))[0]
        view = await chain.until("s-1", lambda saga: saga["parked"])
        assert "externals.psp" == view["peer"]
        pause = {"target": "externals.psp", "seconds": 3600, "reason": "r", "actor": "kim"}
        body = msgspec.json.encode({**pause, "direction": "forward"})
        assert 200 == (await chain.request("POST", f"{chain.stage}/pauses", body))[0]
    renamed = {"peers_renamed": {"psp": "psp2"}, "renamed": {"charge": "pay"}}
    async with world.release(unrepeatable("psp2", "pay", **renamed),
                             externals={"psp2": world.chain.psp}) as chain:  # fmt: skip
        for name in ("peer=externals.psp", "peer=externals.psp2", "step=charge", "step=pay"):
            listed = await chain.get(f"{chain.stage}/sagas?{name}")
            assert [("s-1", "pay", "externals.psp2")] == [
                (saga["saga_id"], saga["step"], saga["peer"]) for saga in listed["sagas"]
            ]
        groups = (await chain.get(f"{chain.stage}/groups"))["groups"]
        assert [("pay", "externals.psp2", 1)] == [
            (group["step"], group["peer"], group["sagas"]) for group in groups
        ]
        peers = (await chain.get(f"{chain.stage}/peers"))["peers"]
        assert ["externals.psp2"] == [each["peer"] for each in peers if each["paused_until"]]
        assert 202 == (await chain.send("s-2", Prefer="wait=0"))[0]
        held = await chain.until("s-2", lambda saga: saga["paused_until"] is not None)
        assert ("pay", "externals.psp2") == (held["step"], held["peer"])
        assert (1, 1) == await world.standing("psp")


async def test_a_stage_renamed_while_a_charge_is_in_doubt_makes_one_charge(world: World) -> None:
    """The key is that of the journal; a rename that nobody declared does not even start."""
    before = payment()
    await in_doubt(world, before)
    with pytest.raises(ConfigurationError, match="supersedes= where it is this one's former name"):
        async with world.release(payment("payments")):
            raise AssertionError("started")
    async with world.release(payment("payments", version=2, supersedes=before)) as chain:
        view = await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert "s-1:payment:charge:do" == view["steps"][1]["key"]
        assert 200 == (await chain.compensate("s-1"))[0]
    assert (1, 0) == await world.standing("psp")


async def test_a_release_without_the_compensation_never_says_compensated(world: World) -> None:
    """Deployed again: 409 with what stands. The release that knows how undoes it after a retry."""
    await completed(world, payment())
    async with world.release(payment(undo=False)) as chain:
        await unknown(chain, "reserve", "charge", "forward:shipping")
        await unknown(chain, "reserve", "charge", "forward:shipping")  # asked again, kept once
    assert (1, 1) == await world.standing("psp")
    async with world.release(payment()) as chain:
        assert 200 == (await do(chain, "s-1", "retry"))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert (1, 0) == await world.standing("psp")


async def test_a_renamed_step_is_shown_as_it_stands_and_no_verb_fails(world: World) -> None:
    """`show`, `plan` and `compensate` tell what the journal binds; every verb is answered."""
    await completed(world, payment())
    async with world.release(payment(step="collect")) as chain:
        await unknown(chain, "reserve", "charge", "forward:shipping")
        for verb, order in VERBS.items():
            status, answer = await do(chain, "s-1", verb, dry_run=True, **order)
            assert status == (409 if verb in ("retry", "settle") else 200), answer
        shown = await chain.get(f"{chain.stage}/sagas/s-1?view=verbs")
        (why_not,) = (e["why_not"] for e in shown["verbs"] if e["verb"] == "compensate")
        assert why_not.endswith("deploy the one that does; allowed now: resolve, abandon, forget")
        assert 200 == (await do(chain, "s-1", "resolve", step="charge"))[0]
        await unknown(chain, "reserve", "forward:shipping")


async def test_a_step_with_another_name_keeps_the_key_of_its_journal(world: World) -> None:
    """`renamed=` says that it is the same thing: one charge, refunded under its own key."""
    await in_doubt(world, payment())
    async with world.release(payment(step="collect", renamed={"charge": "collect"})) as chain:
        view = await chain.until("s-1", lambda saga: saga["state"] == "completed")
        assert ("collect", "s-1:payment:charge:do") == (
            view["steps"][1]["name"], view["steps"][1]["key"],
        )  # fmt: skip
        assert 200 == (await chain.compensate("s-1"))[0]
    assert (1, 0) == await world.standing("psp")


async def test_a_saga_whose_version_is_declared_nowhere_is_ended_by_abandon(world: World) -> None:
    """Parked at once; what stands is reported here, and upstream is notified."""
    await in_doubt(world, payment())
    async with world.release(payment(version=2)) as chain:
        view = await chain.until("s-1", lambda saga: saga["parked"])
        assert (
            "version 1 of stage 'payment' accepted it, not declared here" in view["parked_reason"]
        )
        assert ["charge"] == view["may_stand"]
        assert 200 == (await do(chain, "s-1", "abandon"))[0]
        view = await chain.until("s-1", lambda saga: saga["told_upstream"] == "delivered")
        assert ("failed_to_compensate", ["charge"]) == (view["state"], view["may_stand"])
    assert (1, 1) == await world.standing("psp")


async def test_a_saga_that_fits_no_version_ends_when_it_was_undone_by_hand(world: World) -> None:
    """`resolve` counts all of it as undone, and upstream hears that nothing stands."""
    await in_doubt(world, payment())
    async with world.release(payment(version=2)) as chain:
        await chain.until("s-1", lambda saga: saga["parked"])
        assert 200 == (await do(chain, "s-1", "resolve"))[0]
        view = await chain.until("s-1", lambda saga: saga["told_upstream"] == "delivered")
        assert ("compensated", "nothing") == (view["state"], view["standing"])


async def test_an_older_release_leaves_the_sagas_of_a_newer_one_alone(world: World) -> None:
    """Not due for it, counted, shown, and no verb; a request to compensate is kept for later."""
    before = payment()
    newer = payment(version=2, step="collect", supersedes=before)
    await in_doubt(world, newer)
    async with world.release(before) as chain:
        journal = await chain.events("s-1")
        assert 200 == (await chain.send("s-2"))[0]
        status, _, body = await chain.send("s-1")
        assert (503, "unknown") == (status, msgspec.json.decode(body)["outcome"])
        for verb, order in VERBS.items():
            assert 409 == (await do(chain, "s-1", verb, **order))[0], verb
        assert journal == await chain.events("s-1")
        view = await chain.view("s-1")
        assert (False, "unknown", 2) == (view["parked"], view["standing"], view["version"])
        _, _, metrics = await chain.request("GET", f"{chain.stage}/metrics")
        assert b"stage_newer_sagas 1.0" in metrics
        assert 202 == (await chain.compensate("s-1"))[0]
        assert 202 == (await chain.compensate("s-1"))[0]
        assert [*journal, "compensation_requested"] == await chain.events("s-1")
    async with world.release(newer) as chain:
        await chain.until("s-1", lambda saga: saga["state"] == "compensated")
    assert (2, 1) == await world.standing("psp")


@pytest.mark.blocking
async def test_a_request_that_an_older_release_keeps_hides_no_doubt_of_a_restore(
    world: World, tmp_path: Path
) -> None:
    """The newer release takes over what turned back meanwhile, and doubts what may be lost."""
    before = payment()
    newer = payment(version=2, step="collect", supersedes=before)
    await in_doubt(world, newer)
    restored(tmp_path, newer)
    async with world.release(before) as chain:
        journal = await chain.events("s-1")
        assert 202 == (await chain.compensate("s-1"))[0]
        assert [*journal, "compensation_requested"] == await chain.events("s-1")
    async with world.release(newer) as chain:
        await chain.until("s-1", lambda saga: saga["state"] == "compensated")
        assert "forward:shipping" in await steps_of_the_journal(chain)
    assert (1, 0) == await world.standing("psp")


@pytest.mark.blocking
async def test_a_release_that_fits_no_saga_leaves_the_doubts_of_a_restore_to_the_next(
    world: World, tmp_path: Path
) -> None:
    """It knows the steps of the journal alone: those that may be lost are doubted by who fits."""
    fits, misfits = payment(), payment(step="collect")
    await in_doubt(world, fits)
    restored(tmp_path, fits)
    async with world.release(misfits) as chain:
        await chain.until("s-1", lambda saga: saga["parked_cause"] == "misfit")
        status, _, body = await chain.compensate("s-1")
        assert (409, "unknown") == (status, msgspec.json.decode(body)["outcome"])
    async with world.release(fits) as chain:
        assert 200 == (await do(chain, "s-1", "retry"))[0]
        await chain.until("s-1", lambda saga: saga["state"] == "compensated")
        assert "forward:shipping" in await steps_of_the_journal(chain)
    assert (1, 0) == await world.standing("psp")


async def test_a_downstream_that_is_gone_for_good_is_given_up_and_the_rest_undone(
    world: World,
) -> None:
    """`abandon --step`: the charge is refunded, and the end reports what stands downstream."""
    await completed(world, payment())
    async with world.release(payment(), downstreams={"shipping": "http://127.0.0.1:9"}) as chain:
        assert 202 == (await chain.compensate("s-1", Prefer="wait=1"))[0]
        forward = "forward:shipping"
        for _ in range(50):
            status, answer = await do(chain, "s-1", "abandon", step=forward)
            if status == 200:
                break  # refused while an attempt is in flight
        assert 200 == status, answer
        view = await chain.until("s-1", lambda saga: saga["state"] == "failed_to_compensate")
        assert [forward] == [*view["stands"], *view["may_stand"]]
        status, _, body = await chain.compensate("s-1")
        assert (409, "unknown") == (status, msgspec.json.decode(body)["outcome"])
    assert (1, 0) == await world.standing("psp")


async def found(database: str, stage: Any) -> list[tuple[Level, str]]:
    """The findings of `stage check` about sagas in flight, before that release is deployed."""
    options = {
        "auth": "none",
        "database": database,
        "downstreams": [f"shipping=http://{HOST}"],
        "externals": [f"{name}=http://{HOST}" for name in ("psp", "psp2")],
    }
    checked = await asyncio.to_thread(check_stage, stage, load(options, {}))
    return [(each.level, each.text) for each in checked.findings if each.about is About.SAGAS]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A file, and a database on a server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'payment.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.mark.blocking  # a command on a server reads migrations in a loop of its own
async def test_sagas_that_a_release_does_not_fit_are_named_before_its_deploy(
    world: World, database: str
) -> None:
    """By version and reason, with the ways out; a release that fits all is not warned of."""
    before = payment()
    await in_doubt(world, before, database=database)
    assert [] == await found(database, before)
    fits = payment(version=2, to="psp2", step="collect", supersedes=before)
    assert [] == await found(database, fits)
    ((level, text),) = await found(database, payment(version=2))
    assert Level.ERROR is level
    assert text.startswith("1 saga of version 1 is in flight, and would be parked")
    assert "supersedes=" in text and "stage resolve" in text
    ((level, text),) = await found(database, payment(to="psp2"))
    assert (Level.ERROR, True) == (level, "was a call to 'psp', and is a call to 'psp2'" in text)


async def test_a_way_back_is_said_before_it_is_gone(world: World, tmp_path: Path) -> None:
    """Sagas of the newer release would wait, and a completed one could not be undone."""
    database = f"sqlite:///{tmp_path / 'payment.db'}"
    before = payment()
    await in_doubt(world, payment(version=2, step="collect", supersedes=before))
    ((level, text),) = await found(database, before)
    assert Level.WARNING is level
    assert text.startswith("1 saga of version 2 is in flight, and would be left alone")
    async with world.release(payment(version=2, step="collect", supersedes=before)) as chain:
        await chain.until("s-1", lambda saga: saga["state"] == "completed")
    ((level, text),) = await found(database, payment(version=2))
    assert Level.WARNING is level
    assert text.startswith("1 saga of version 2 is completed, and could not be compensated")
    assert "there is no step 'collect'" in text
