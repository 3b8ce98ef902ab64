"""An older release meets events that only a newer one knows, and leaves their saga alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Union, get_args

import msgspec
import pytest

from stage.core import events as e
from stage.core.errors import NewerJournal
from stage.store.codec import PLAIN_KEY, PlainCodec
from stage.store.sealed import SealedCodec, new_key_line
from tests.scenario.chain import running_chain
from tests.scenario.test_sweeps import post, until_done
from tests.scenario.test_webhook import hook, landed, stage_of, verified


@contextmanager
def older_release(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The events of the release before webhooks."""
    kinds = tuple(kind for kind in get_args(e.Event) if kind not in get_args(e.Webhook))
    known: Any = Union[kinds]  # noqa: UP007 - of types that are computed
    with monkeypatch.context() as patch:
        patch.setattr(e, "_decoder", msgspec.json.Decoder(known))
        yield


def test_an_event_that_is_not_known_is_of_a_newer_release() -> None:
    """Its tag, or what it holds; bytes that are no event are damaged."""
    for body in (b'{"event":"of_tomorrow","at":1}', b'{"event":"step_started","at":1,"step":2}'):
        with pytest.raises(NewerJournal, match="the release that wrote it goes on"):
            e.decode_event(body)
    for body in (b"[1]", b"{"):
        with pytest.raises(msgspec.DecodeError):
            e.decode_event(body)


async def test_an_older_release_gives_back_what_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It parks nothing, says 503 to whoever asks, and the newer one ends the saga."""
    usual: dict[str, Any] = {"stage": stage_of(), "connect": verified(tmp_path)}
    async with running_chain(tmp_path, drain_seconds=0.1, **usual) as chain:
        await chain.script(chain.shipping, script="hang")
        assert 202 == (await chain.send("s-1", Prefer="wait=10"))[0]
        assert 200 == await hook(chain, **landed("s-1"))
    with older_release(monkeypatch):
        async with running_chain(tmp_path, **usual) as chain:
            assert 503 == (await chain.send("s-1"))[0]
            assert 503 == (await chain.compensate("s-1"))[0]
            assert 503 == await hook(chain, **landed("s-1"))  # it would be acknowledged and lost
            view = await chain.view("s-1")
            assert not view.get("parked")
            assert view["next_action"].startswith("nothing here")
            allowed = await chain.get(f"{chain.stage}/sagas/s-1?view=verbs")
            assert {view["next_action"]} == {verb["why_not"] for verb in allowed["verbs"]}
            assert 202 == (await chain.send("s-2", Prefer="wait=10"))[0]
            ids = ["s-1", "s-2"]
            _, sweep = await post(chain, "/sweeps", verb="compensate", saga_ids=ids)
            done = await until_done(chain, sweep["number"])
            assert (1, 1) == (done["refused"], done["done"])  # it holds up no other saga
    async with running_chain(tmp_path, **usual) as chain:
        await chain.until("s-1", lambda view: view["state"] == "completed")


async def test_a_replica_that_is_still_without_a_key_gives_back_what_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first key comes with a rolling update: a repeat of what a new pod had done met an old one.

    It was answered 400 `not_executed` for a saga that stood.
    """
    keys = tmp_path / "payload.keys"
    keys.write_text(f"{new_key_line()}\n")
    keyed: dict[str, Any] = {"payload_key_file": str(keys)}
    async with running_chain(tmp_path, drain_seconds=0.1) as chain:
        assert 200 == (await chain.send("s-0"))[0]
    async with running_chain(tmp_path, drain_seconds=0.1, **keyed) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        await chain.script(chain.shipping, script="hang")
        assert 202 == (await chain.send("s-2", Prefer="wait=1"))[0]
    with monkeypatch.context() as patch:  # it began before there was a key
        patch.setattr(PlainCodec, "admit", lambda *_: PLAIN_KEY)
        async with running_chain(tmp_path) as chain:
            for saga_id in ("s-1", "s-2"):
                status, _, body = await chain.send(saga_id)
                assert (503, "unknown") == (status, msgspec.json.decode(body)["outcome"])
                assert 503 == (await chain.compensate(saga_id))[0]
            assert 200 == (await chain.send("s-0"))[0]
            listed = await chain.get(f"{chain.stage}/sagas")
            assert ["s-0", "s-1", "s-2"] == [each["saga_id"] for each in listed["sagas"]]
    async with running_chain(tmp_path, **keyed) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        view = await chain.until("s-2", lambda view: view["state"] == "completed")
        assert not view.get("parked")


async def test_a_replica_without_the_new_key_gives_back_what_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one was let use a key before all of them had it. Nothing is parked for that."""
    keys = tmp_path / "payload.keys"
    old, new = new_key_line(), new_key_line()
    usual: dict[str, Any] = {"payload_key_file": str(keys)}
    keys.write_text(f"{old}\n")
    async with running_chain(tmp_path, drain_seconds=0.1, **usual) as chain:
        assert 200 == (await chain.send("s-0"))[0]
    keys.write_text(f"{new}\n{old}\n")
    async with running_chain(tmp_path, drain_seconds=0.1, **usual) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        await chain.script(chain.shipping, script="hang")
        assert 202 == (await chain.send("s-2", Prefer="wait=1"))[0]
    keys.write_text(f"{old}\n")
    with monkeypatch.context() as patch:  # it began before there was the new key
        patch.setattr(SealedCodec, "admit", lambda codec, _: codec._current.hex())
        async with running_chain(tmp_path, **usual) as chain:
            for saga_id in ("s-1", "s-2"):
                status, _, body = await chain.send(saga_id)
                assert (503, "unknown") == (status, msgspec.json.decode(body)["outcome"])
                assert 503 == (await chain.compensate(saga_id))[0]
            assert 200 == (await chain.send("s-0"))[0]
            assert 200 == (await chain.send("s-3"))[0]
            listed = await chain.get(f"{chain.stage}/sagas")  # one ends no list
            assert ["s-0", "s-1", "s-2", "s-3"] == [each["saga_id"] for each in listed["sagas"]]
    keys.write_text(f"{new}\n{old}\n")
    async with running_chain(tmp_path, **usual) as chain:
        assert 200 == (await chain.send("s-1"))[0]
        view = await chain.until("s-2", lambda view: view["state"] == "completed")
        assert not view.get("parked")
