"""A copy of the database shows no payload: a chain under encryption, its bytes read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from stage.bootstrap import make_store, open_database
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.demo.payment import payment
from stage.store.sealed import new_key_line
from tests.scenario.chain import ORDER, Chain, running_chain

CANARY = "canary-order-5f31"
DATA = {**ORDER, "customer": {"card": CANARY}}
"""The card is in no table of the author: what those hold is the author's to encrypt."""


def key_file(folder: Path) -> str:
    path = folder / "payload.keys"
    path.write_text(new_key_line() + "\n")
    path.chmod(0o600)
    return str(path)


def stored(folder: Path) -> bytes:
    """Every byte of the database, of its log, and of what stands beside them."""
    return b"".join(path.read_bytes() for path in folder.glob("payment.db*") if path.is_file())


async def story(chain: Chain) -> None:
    """A saga that is executed, replayed, and undone."""
    status, _, first = await chain.send("s-1", DATA)
    assert 200 == status
    assert (200, first) == (await chain.send("s-1", DATA))[::2]
    assert 422 == (await chain.send("s-1", {**DATA, "amount": 101}))[0]
    assert 200 == (await chain.compensate("s-1"))[0]
    assert (1, 0) == await chain.charges()


async def test_no_payload_request_result_or_answer_lies_in_the_clear(tmp_path: Path) -> None:
    """The same story without a key shows that the canary would have been found."""
    plain, sealed = tmp_path / "plain", tmp_path / "sealed"
    plain.mkdir()
    sealed.mkdir()
    async with running_chain(plain, database=f"sqlite:///{plain}/payment.db") as chain:
        await story(chain)
        assert CANARY.encode() in stored(plain)
    database, key = f"sqlite:///{sealed}/payment.db", key_file(sealed)
    async with running_chain(sealed, database=database, payload_key_file=key) as chain:
        await story(chain)
        assert CANARY.encode() not in stored(sealed)
    assert CANARY.encode() not in stored(sealed)


async def test_a_start_with_another_key_is_refused_and_the_right_one_finds_all(
    tmp_path: Path,
) -> None:
    """Nothing is lost by the wrong start: the answer is replayed byte for byte after it."""
    database, right = f"sqlite:///{tmp_path}/payment.db", key_file(tmp_path)
    async with running_chain(tmp_path, database=database, payload_key_file=right) as chain:
        _, _, first = await chain.send("s-1", DATA)
    (tmp_path / "other").mkdir()
    for wrong in ("", key_file(tmp_path / "other")):
        config = Config(auth="none", database=database, payload_key_file=wrong)
        with pytest.raises(ConfigurationError, match="payload_key_file"):
            await make_store(payment, config).open()
    async with running_chain(tmp_path, database=database, payload_key_file=right) as chain:
        assert (200, first) == (await chain.send("s-1", DATA))[::2]


async def test_clear_contents_are_encrypted_while_the_stage_serves(tmp_path: Path) -> None:
    """A stage gets its first key: sagas go on, and the clear bytes are overwritten."""
    database, key = f"sqlite:///{tmp_path}/payment.db", key_file(tmp_path)
    async with running_chain(tmp_path, database=database) as chain:
        _, _, first = await chain.send("s-1", DATA)
    assert CANARY.encode() in stored(tmp_path)

    def exchange() -> tuple[str, ...]:
        with open_database(payment, Config(database=database)) as opened:
            return opened.reencrypt(key).ended

    async with running_chain(tmp_path, database=database, payload_key_file=key) as chain:
        exchanged = asyncio.create_task(asyncio.to_thread(exchange))
        for number in range(20):
            assert 200 == (await chain.send(f"s-beside-{number}", DATA))[0]
        assert ("plain",) == await exchanged
        assert (200, first) == (await chain.send("s-1", DATA))[::2]
        assert 200 == (await chain.compensate("s-beside-0"))[0]
    assert CANARY.encode() not in stored(tmp_path)
