"""Erasing a saga: all contents go, also from the bytes of the files; its outcome stays."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from operator import itemgetter
from pathlib import Path

import msgspec
import pytest

from stage.core.errors import StoreUnavailable
from stage.engine.embedded.commands import EmbeddedCommands
from stage.store.sqlite.store import SqliteStore
from tests.scenario.attacks.test_encrypted_canaries import key_file
from tests.scenario.chain import ORDER, Chain, running_chain
from tests.scenario.test_act_keys import order
from tests.scenario.test_operator import WHO, do, stuck
from tests.scenario.test_overview import indexed as indexed_chain
from tests.scenario.test_sweeps import acts_on, until_done

CANARY = "canary-3f9c1e7a"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PERSON = {**ORDER, "customer": CANARY}

indexed = indexed_chain


def files_with(folder: Path, canary: bytes = CANARY.encode()) -> list[str]:
    """The files of the database, and a backup that is made now, that hold the canary."""
    database, backup = folder / "payment.db", folder / "backup.db"
    backup.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as copy:
        source.backup(copy)
    files = [*sorted(folder.glob("payment.db*")), backup]
    return [file.name for file in files if canary in file.read_bytes()]


async def test_no_byte_of_an_erased_saga_is_left_in_the_files(chain: Chain, tmp_path: Path) -> None:
    """Database, write-ahead log and a backup made after it: all of them had it before."""
    await chain.send("s-1", PERSON, traceparent=TRACE, tracestate=f"v={CANARY}")
    assert {"backup.db", "payment.db-wal"} <= set(files_with(tmp_path))
    status, saga = await do(chain, "s-1", "erase")
    assert (200, "completed", "executed") == (status, saga["state"], saga["outcome"])
    assert [] == files_with(tmp_path)


async def test_no_ciphertext_of_an_erased_saga_is_left_in_the_files(tmp_path: Path) -> None:
    """The key may come to light later."""
    key = key_file(tmp_path)
    async with running_chain(tmp_path, payload_key_file=key) as chain:
        await chain.send("s-1", PERSON)
        await chain.get(f"{chain.stage}/sagas")  # behind its last entry
        with closing(sqlite3.connect(tmp_path / "payment.db")) as database:
            sealed = [
                *database.execute("SELECT envelope FROM saga UNION SELECT answer_body FROM saga"),
                *database.execute("SELECT event FROM journal"),
            ]
        assert len(sealed) > 5
        assert 200 == (await do(chain, "s-1", "erase"))[0]
        left = [cipher for (cipher,) in sealed if files_with(tmp_path, cipher)]
        assert [] == left


async def test_a_duplicate_of_an_erased_saga_is_answered_and_runs_nothing(chain: Chain) -> None:
    """Outcome and no data, to any payload of its opener: the hash of the payload is gone too."""
    await chain.send("s-1", PERSON)
    assert 200 == (await do(chain, "s-1", "erase"))[0]
    for data in (PERSON, ORDER):
        status, _, body = await chain.send("s-1", data)
        assert (200, {}) == (status, msgspec.json.decode(body)["data"])
    assert 403 == (await chain.send("s-1", PERSON, via="stranger"))[0]
    code, _, body = await chain.compensate("s-1")
    assert (409, "executed") == (code, msgspec.json.decode(body)["outcome"])
    assert (1, 1) == await chain.charges()


async def test_the_words_of_a_refusal_are_erased_and_its_outcome_stays(
    chain: Chain, tmp_path: Path
) -> None:
    """A refusal may name a person: type, code and outcome of the answer stay."""
    await chain.send("s-1")
    await chain.compensate("s-1", reason=f"{CANARY} has withdrawn")
    assert files_with(tmp_path)
    before = msgspec.json.decode((await chain.send("s-1"))[2])
    assert 200 == (await do(chain, "s-1", "erase"))[0]
    status, _, body = await chain.send("s-1")
    after = msgspec.json.decode(body)
    assert (410, CANARY in before["detail"]) == (status, True)
    assert {**before, "detail": before["title"]} == after
    assert [] == files_with(tmp_path)
    assert 200 == (await chain.compensate("s-1"))[0]


async def test_a_saga_that_is_not_over_is_not_erased_and_the_fix_is_said(
    chain: Chain, tmp_path: Path
) -> None:
    """Its journal tells what stands, and what a parked one waits for."""
    await stuck(chain)
    for dry_run in (True, False):
        status, problem = await do(chain, "s-1", "erase", dry_run=dry_run)
        assert (409, True) == (status, "resolve it" in problem["detail"]), problem
    assert "charge" in (await chain.view("s-1"))["stands"]
    assert 404 == (await do(chain, "s-2", "erase"))[0]
    assert 200 == (await do(chain, "s-1", "resolve", step="charge"))[0]
    status, saga = await do(chain, "s-1", "erase", dry_run=True)
    assert (200, True) == (status, bool(saga["steps"]))
    assert 200 == (await do(chain, "s-1", "erase"))[0]
    assert 200 == (await do(chain, "s-1", "erase"))[0]  # where bytes may be left it is asked again


async def test_an_erasure_is_in_the_audit_and_the_saga_is_found_by_its_id_alone(
    indexed: Chain,
) -> None:
    """The audit has who and why; the business number is gone."""
    await indexed.send("s-1", {**ORDER, "order_id": "o-77"})
    await do(indexed, "s-1", "erase")
    (act,) = (await indexed.get(f"{indexed.stage}/audit?target=s-1"))["acts"]
    assert ("erased", *WHO.values()) == (act["act"], act["actor"], act["reason"])
    assert [] == (await indexed.get(f"{indexed.stage}/sagas?number=order:o-77"))["sagas"]
    view = await indexed.view("s-1")
    assert ("completed", []) == (view["state"], view["steps"])


async def test_many_are_erased_by_a_sweep_and_the_file_is_scrubbed_once(
    chain: Chain, tmp_path: Path
) -> None:
    """One that is not over is refused with the fix, and the others are erased."""
    for number in range(3):
        await chain.send(f"s-{number}", PERSON)
    await chain.script(chain.psp, script="refund-fails")
    assert 409 == (await chain.compensate("s-0"))[0]
    order = {**WHO, "verb": "erase", "saga_ids": ["s-0", "s-1", "s-2"], "rate_per_second": 200}
    status, _, body = await chain.request(
        "POST", f"{chain.stage}/sweeps", msgspec.json.encode(order)
    )
    assert 200 == status, body
    swept = await until_done(chain, msgspec.json.decode(body)["number"])
    assert (2, 1) == (swept["done"], swept["refused"])
    assert "resolve it" in swept["first_refused"][0]["detail"]
    assert 200 == (await do(chain, "s-0", "resolve", step="charge"))[0]
    assert 200 == (await do(chain, "s-0", "erase"))[0]
    assert [] == files_with(tmp_path)


async def test_a_sweep_that_erases_by_a_number_keeps_no_value_of_it(
    indexed: Chain, tmp_path: Path
) -> None:
    """The sweep and the audit stay: they have the name of the number alone."""
    await indexed.send("s-1", {**ORDER, "order_id": CANARY})
    where = {"number": f"order:{CANARY}"}
    for verb in ("compensate", "erase"):
        order = {**WHO, "verb": verb, "where": where, "rate_per_second": 200}
        sent = msgspec.json.encode(order)
        status, _, body = await indexed.request("POST", f"{indexed.stage}/sweeps", sent)
        begun = msgspec.json.decode(body)
        assert (200, '{"number":"order:…"}') == (status, begun["where"])
        assert (1, 0) == itemgetter("done", "refused")(await until_done(indexed, begun["number"]))
    assert [] == files_with(tmp_path)
    acts = (await indexed.get(f"{indexed.stage}/audit"))["acts"]
    assert 2 == sum('{"number":"order:…"}' in act["after"] for act in acts)


async def test_no_digest_of_an_order_shows_an_erased_number(indexed: Chain, tmp_path: Path) -> None:
    """A number has few values, and each can be tried: a repeat is known by its key alone then."""
    await indexed.send("s-1", {**ORDER, "order_id": CANARY})
    where = {"number": f"order:{CANARY}"}
    found = []
    for verb in ("compensate", "erase"):
        members = {"verb": verb, "where": where, "rate_per_second": 200}
        _, _, begun = await order(indexed, "/sweeps", verb, **members)
        found += digests(tmp_path)
        assert "done" == (await until_done(indexed, begun["number"]))["state"]
    assert found and ["", ""] == digests(tmp_path)
    assert [] == [each for each in found if files_with(tmp_path, each.encode())]
    status, replayed, again = await order(indexed, "/sweeps", "erase", **members)
    assert (200, True, begun["number"]) == (status, replayed, again["number"])


def digests(folder: Path) -> list[str]:
    """The digests of the orders that are kept."""
    with closing(sqlite3.connect(folder / "payment.db")) as database:
        return [digest for (digest,) in database.execute("SELECT digest FROM stage_act_key")]


async def test_forget_drops_payload_and_journal_and_counts_no_more(chain: Chain) -> None:
    """Its answer stays and names what stood; no alert counts it any more."""
    await stuck(chain)
    assert 1 == (await chain.get(f"{chain.stage}/now"))["sagas"]["failed_to_compensate"]
    assert 200 == (await do(chain, "s-1", "forget"))[0]
    assert 0 == (await chain.get(f"{chain.stage}/now"))["sagas"]["failed_to_compensate"]
    assert [] == await chain.events("s-1")
    code, _, body = await chain.compensate("s-1")
    assert (410, ["charge"]) == (code, msgspec.json.decode(body)["stands"])
    assert 409 == (await do(chain, "s-1", "retry"))[0]
    assert 200 == (await do(chain, "s-1", "erase"))[0]
    code, _, body = await chain.compensate("s-1")
    assert (410, ["charge"]) == (code, msgspec.json.decode(body)["stands"])


async def test_a_forgotten_saga_whose_closing_was_cut_off_can_be_erased(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was lost between the verb and the closing: the row tells that it is given up."""
    await stuck(chain)
    with monkeypatch.context() as lost:
        lost.setattr(EmbeddedCommands, "_close", cut_off)
        assert 200 == (await do(chain, "s-1", "forget"))[0]
    assert "forgotten" in await chain.events("s-1")
    assert 200 == (await do(chain, "s-1", "erase"))[0]
    assert [] == await chain.events("s-1")
    assert 0 == (await chain.get(f"{chain.stage}/now"))["sagas"]["failed_to_compensate"]


async def cut_off(self: EmbeddedCommands, saga_id: str) -> None:
    """In place of the closing."""


async def test_a_stopped_sweep_leaves_no_byte_of_what_it_erased(
    chain: Chain, tmp_path: Path
) -> None:
    """The audit tells that it is so; until then bytes may be left."""
    await chain.send("s-0", PERSON)
    ids = ["s-0", *(f"t-{number:02}" for number in range(60))]  # a minute at this rate
    order = {**WHO, "verb": "erase", "saga_ids": ids, "rate_per_second": 1}
    url = f"{chain.stage}/sweeps"
    _, _, body = await chain.request("POST", url, msgspec.json.encode(order))
    path = f"{url}/{msgspec.json.decode(body)['number']}"
    async with asyncio.timeout(60.0):
        while not (await chain.get(path))["done"]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
        await chain.request("POST", f"{path}/stop", msgspec.json.encode(WHO))
        while "scrubbed" not in await acts_on(chain, "sweep%201"):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
    assert [] == files_with(tmp_path)


async def test_a_copy_of_an_order_to_erase_awaits_the_scrub_of_the_first(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ordered the copy of the whole database once more, while all writers waited."""
    asked, go_on, scrub = 0, asyncio.Event(), SqliteStore.scrub

    async def slow(store: SqliteStore, clean: set[str] | None = None) -> None:
        nonlocal asked
        asked += 1
        await go_on.wait()
        if asked == 1:
            raise StoreUnavailable("the table journal is in use")
        await scrub(store, clean)

    await chain.send("s-1", PERSON)
    monkeypatch.setattr(SqliteStore, "scrub", slow)
    copies = [asyncio.ensure_future(keyed(chain)) for _ in range(3)]
    await asyncio.sleep(0.5)
    copies.append(asyncio.ensure_future(keyed(chain)))
    await asyncio.sleep(0.2)
    assert 1 == asked
    go_on.set()
    assert [500] * 4 == await asyncio.gather(*copies)  # bytes may be left
    assert (200, 200, 2) == (await keyed(chain), await keyed(chain), asked)


async def keyed(chain: Chain) -> int:
    """Give the one order to erase; the code of its answer."""
    url = f"{chain.stage}/sagas/s-1/erase"
    async with chain.session.post(url, json=WHO, headers={"Idempotency-Key": "k"}) as answer:
        return answer.status
