"""Members of the payload that an author lets operators see, and nobody else (rule 38)."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stage import Http, Saga, Stage
from stage.core.errors import DeclarationError, NewerJournal
from stage.store.codec import PlainCodec
from stage.store.sealed import new_key_line
from stage.wire.envelope import Envelope
from tests.acceptance.test_erasure import beside
from tests.scenario.attacks.names import named_chain, shown_by
from tests.scenario.chain import Chain, running_chain
from tests.scenario.test_console import see
from tests.scenario.test_operator import do, stuck

CARD = "4111111111111111"
SHOWS = {"amount": "amount", "who": "customer.name", "card": "customer.card", "all": "customer"}
ORDER = {
    "order_id": "o-1",
    "amount": 1250,
    "customer": {"name": "Kim <b>", "card": CARD, "secret": "s3cret"},
}
SHOWN = {"amount": 1250, "who": "Kim <b>", "card": "[card]"}


class Order(msgspec.Struct):
    """An order with a person in it."""

    order_id: str
    amount: int
    customer: dict[str, str]


def showing(
    shows: dict[str, str] | None = None, supersedes: Stage[Order, Any] | None = None
) -> Stage[Order, Any]:
    """A stage that shows the amount and the person, and never all of the person."""
    stage: Stage[Order, Any] = Stage(
        "payment",
        accepts=Order,
        version=1 if supersedes is None else 2,
        supersedes=supersedes,
        shows=SHOWS if shows is None else shows,
        redact=lambda text: text.replace(CARD, "[card]"),
    )

    @stage.call(to="psp", timeout=1.0)
    async def charge(http: Http, saga: Saga[Order]) -> None:
        await http.post("/charges", json={"amount": saga.input.amount})

    @charge.compensation
    async def refund(http: Http, saga: Saga[Order], charged: None) -> None:
        (await http.post(f"/charges/{saga.id}/refund", json={})).json()

    return stage


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    async with running_chain(tmp_path, stage=showing()) as running:
        yield running


async def test_a_payload_that_another_release_reads_hides_no_other(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one under a key that this replica lacks: it is listed, and nothing of it is shown."""
    for number in (1, 2):
        await chain.send(f"s-{number}", ORDER)
    decode = PlainCodec.decode_envelope

    def unread(codec: PlainCodec, saga_id: str, encoded: bytes) -> Envelope:
        if saga_id == "s-1":
            raise NewerJournal("it goes on there")
        return decode(codec, saga_id, encoded)

    monkeypatch.setattr(PlainCodec, "decode_envelope", unread)
    listed = (await chain.get(f"{chain.stage}/sagas"))["sagas"]
    assert [None, SHOWN] == [each.get("shows") or None for each in listed]


async def test_operators_see_it_in_lists_in_a_saga_and_on_pages(chain: Chain) -> None:
    """Scalars at their paths, through `redact`; an object is none, and its rest stays here."""
    await chain.send("s-1", ORDER)
    assert SHOWN == (await chain.view("s-1"))["shows"]
    listed = (await chain.get(f"{chain.stage}/sagas"))["sagas"]
    assert [SHOWN] == [each["shows"] for each in listed]
    for path in ("/sagas/s-1", "/parked?state=completed"):
        _, page = await see(chain, path)
        assert "1250" in page and "Kim &lt;b&gt;" in page and "[card]" in page
        assert CARD not in page and "s3cret" not in page


async def test_it_is_gone_with_the_payload(chain: Chain) -> None:
    """It lies nowhere else: after `forget` and after `erase` there is nothing to show."""
    for verb in ("forget", "erase"):
        await chain.send(f"s-{verb}", ORDER)
        assert SHOWN == (await chain.view(f"s-{verb}"))["shows"]
        assert 200 == (await do(chain, f"s-{verb}", verb))[0]
        assert {} == (await chain.view(f"s-{verb}"))["shows"]
    assert [{}, {}] == [
        each["shows"] for each in (await chain.get(f"{chain.stage}/sagas"))["sagas"]
    ]


async def test_no_neighbour_gets_it(tmp_path: Path) -> None:
    """The one that sent the payload neither: what is shown is for those who operate the stage."""
    async with named_chain(tmp_path, stage=showing()) as chain:
        await chain.send("s-1", ORDER, Authorization=shown_by("order"))
        for name, shown in (("order", {}), ("shipping", {}), ("vera", SHOWN)):
            url = f"{chain.stage}/sagas/s-1"
            _, _, body = await chain.request("GET", url, Authorization=shown_by(name))
            assert shown == msgspec.json.decode(body)["shows"], name
        _, _, body = await chain.request(
            "GET", f"{chain.stage}/sagas/s-1?view=chain", Authorization=shown_by("order")
        )
        assert b"1250" not in body and b"Kim" not in body


async def test_no_line_of_the_log_has_it(
    tmp_path: Path,
    log: io.StringIO,
) -> None:
    """Nor does the audit, whose reasons are people's own."""
    async with running_chain(tmp_path, stage=showing()) as chain:
        await chain.send("s-1", ORDER)
        await chain.compensate("s-1")
        assert SHOWN == (await chain.view("s-1"))["shows"]
        assert b"1250" not in (await chain.request("GET", f"{chain.stage}/metrics"))[2]
        assert "1250" not in str((await chain.get(f"{chain.stage}/audit"))["acts"])
    assert "s-1" in log.getvalue()
    assert "1250" not in log.getvalue() and "Kim" not in log.getvalue()


async def test_it_is_read_from_an_encrypted_payload(tmp_path: Path) -> None:
    """The file holds it nowhere in the clear."""
    keys = tmp_path / "payload.keys"
    keys.write_text(new_key_line())
    keys.chmod(0o600)
    async with running_chain(tmp_path, stage=showing(), payload_key_file=str(keys)) as chain:
        await chain.send("s-1", ORDER)
        assert SHOWN == (await chain.view("s-1"))["shows"]
        assert not any(b"Kim" in file.read_bytes() for file in beside(tmp_path / "payment.db"))


async def test_one_unreadable_payload_takes_nothing_else_away(chain: Chain, tmp_path: Path) -> None:
    """The list, the page and the saga itself are answered: without its members."""
    for saga_id in ("s-1", "s-2"):
        await chain.send(saga_id, ORDER)
    assert SHOWN == (await chain.view("s-1"))["shows"]
    with closing(sqlite3.connect(tmp_path / "payment.db")) as database:
        database.execute("UPDATE saga SET envelope = x'7b' WHERE id = 's-1'")
        database.commit()
    listed = (await chain.get(f"{chain.stage}/sagas"))["sagas"]
    assert [{}, SHOWN] == [each["shows"] for each in listed]
    assert {} == (await chain.view("s-1"))["shows"]


async def test_a_newer_version_shows_nothing_of_the_sagas_before_it(tmp_path: Path) -> None:
    """Their author declared none of the members at its paths."""
    before = showing({})
    async with running_chain(tmp_path, stage=before) as chain:
        await chain.send("s-1", ORDER)
        await chain.get(f"{chain.stage}/sagas")
    async with running_chain(tmp_path, stage=showing(supersedes=before)) as chain:
        await chain.send("s-2", ORDER)
        listed = (await chain.get(f"{chain.stage}/sagas"))["sagas"]
        assert [{}, SHOWN] == [each["shows"] for each in listed]


async def test_the_list_shows_the_members_of_an_older_version(tmp_path: Path) -> None:
    """The newest version may declare none: the column is there for a saga that shows something."""
    before = showing()
    async with running_chain(tmp_path, stage=before) as chain:
        await chain.send("s-1", ORDER)
        await chain.get(f"{chain.stage}/sagas")
    async with running_chain(tmp_path, stage=showing({}, supersedes=before)) as chain:
        page = (await see(chain, "/parked?state=completed"))[1]
        assert "s-1" in page and ">Shown</th>" in page, page
        assert ">Shown</th>" not in (await see(chain, "/parked?state=active"))[1]


async def test_a_payload_that_is_too_large_shows_nothing(chain: Chain) -> None:
    """A list reads many of them."""
    notes = {f"note{number}": "x" * 8_000 for number in range(9)}
    assert 200 == (await chain.send("s-1", {**ORDER, **notes}))[0]
    assert {} == (await chain.view("s-1"))["shows"]


@pytest.mark.parametrize(
    "shows, says",
    [
        ({"total": "total.amount"}, "no member 'total'"),
        ({"the total": "amount"}, "letters, digits and underscores"),
        ({f"a{number}": "amount" for number in range(9)}, "keep at most 8"),
    ],
)
def test_a_member_that_no_payload_has_is_refused(shows: dict[str, str], says: str) -> None:
    """Where the stage is declared, with the fix."""
    with pytest.raises(DeclarationError, match=says):
        showing(shows)


async def test_a_stuck_saga_shows_its_key_in_the_list(tmp_path: Path) -> None:
    """The operator asks the provider by it."""
    async with running_chain(tmp_path) as chain:
        await stuck(chain)
        key = next(step["key"] for step in (await chain.view("s-1"))["steps"] if step["key"])
        assert key in (await see(chain, "/parked"))[1]
