"""Stages to simulate when none is given: one of each kind that the rules speak of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from zlib import crc32

import msgspec

from stage import (
    Declined,
    Http,
    InDoubt,
    Landed,
    Pending,
    Refused,
    Saga,
    Stage,
    Transient,
    Tx,
    Webhook,
)
from stage.authoring.http import Response
from stage.ports.stage import Answer
from stage.simulation.api import DENIALS
from stage.simulation.vendor import ask


class Purchase(msgspec.Struct):
    """The payload of the simulated chain."""

    amount: int


class Receipt(msgspec.Struct):
    """The answer of an external API, and the part that a stage adds."""

    id: str


NOES = ("refused", "closed_key", "undo_refused")
UNKNOWN = "unknown_key"
"""The own words of the models. A gateway gives the same HTTP codes, and none of these."""
INSERT = "INSERT INTO ledger (saga_id, step, undone) VALUES (?, ?, ?)"


async def _ask(http: Http, path: str, amount: int) -> Receipt:
    return _received_by(await http.post(path, json={"amount": amount}))


def _received_by(answer: Response) -> Receipt:
    return _receipt(_read(answer))


def _read(answer: Response) -> dict[str, Any]:
    said: dict[str, Any] = answer.json()
    if answer.status in (402, 410) and said["code"] in NOES:
        raise Refused(f"answered {answer.status}")
    return said


def _receipt(said: dict[str, Any]) -> Receipt:
    """The receipt in what an API said; of some effects it is too long to be kept."""
    return Receipt(said["id"].ljust(said.get("length", 0)))


async def _look(http: Http, path: str) -> Receipt | None:
    answer = await http.get(path)
    if answer.status == 202:
        raise Pending("still under way")
    if answer.status == 404 and answer.json()["code"] == UNKNOWN:
        return None
    return _receipt(answer.json())


async def _undo(http: Http, path: str, receipt: Receipt | None) -> None:
    made = None if receipt is None else receipt.id
    answer = await http.post(path, json={"id": made})
    if answer.status == 202:
        answer = await http.get(answer.json()["look"])
    _read_undo(answer)


def _read_undo(answer: Response) -> None:
    if answer.status == 202:
        raise Pending("the undo is under way")
    if answer.status == 402 or (answer.status in DENIALS and _code(answer.body) in NOES):
        raise Refused("cannot be undone")
    if answer.status != 200 or "undone" not in answer.json():
        raise Transient(f"answered {answer.status}")


async def _undo_unread(http: Http, path: str, _receipt: Receipt | None) -> None:
    """An undo that takes 402 for done, which is the no of its call, and that its API says to it."""
    answer = await http.post(path, json={"id": None})
    if answer.status == 402:
        return
    if answer.status != 200 or "undone" not in answer.json():
        raise InDoubt(f"answered {answer.status}")


def _code(body: bytes) -> object:
    """The own word of an API in the body of an answer; None in a page of a gateway."""
    try:
        return msgspec.json.decode(body)["code"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return None


def _local(stage: Stage[Any, Any], name: str, *, undo: bool = True) -> None:
    """A transaction that writes to the ledger, and its compensation."""

    async def work(tx: Tx, saga: Saga[Purchase]) -> None:
        await tx.execute(INSERT, saga.id, name, 0)

    async def back(tx: Tx, saga: Saga[Purchase]) -> None:
        await tx.execute(INSERT, saga.id, name, 1)

    work.__name__ = name
    if undo:
        stage.transaction(work).compensation(back)
    else:
        stage.transaction(compensation=None, reason="the ledger keeps it")(work)


def _hear(hook: Webhook) -> Landed[Receipt] | Declined | None:
    hook.verify_hmac(hook.header("Api-Signature"))
    said = hook.json()
    if said["end"] == "undone":
        return None
    if said["end"] == "declined":
        return Declined(reason="declined", key=said["key"])
    return Landed(result=Receipt(said["id"]), key=said["key"])


def _call(
    stage: Stage[Any, Any],
    name: str,
    to: str,
    *,
    probe: bool,
    undo: Callable[..., Awaitable[None]] | None = _undo,
    hook: bool = False,
    **rules: Any,
) -> None:
    """A call with what belongs to it."""

    async def work(http: Http, saga: Saga[Purchase]) -> Receipt:
        return await _ask(http, f"/{name}", saga.input.amount)

    async def find(http: Http, saga: Saga[Purchase]) -> Receipt | None:
        return await _look(http, f"/{name}")

    async def back(http: Http, saga: Saga[Purchase], receipt: Receipt | None) -> None:
        assert undo is not None
        await undo(http, f"/{name}/undo", receipt)

    work.__name__ = name
    step = stage.call(to=to, timeout=1.0, **rules)(work)
    if probe:
        step.probe(find)
    if hook:
        step.webhook(_hear)
    if undo is not None:
        step.compensation(back)


def _pair(stage: Stage[Any, Any], name: str, to: str) -> None:
    """A call of two requests, the second of which names the effect of the first."""

    async def work(http: Http, saga: Saga[Purchase]) -> Receipt:
        held = _read(await http.post(f"/{name}/hold", json={"amount": saga.input.amount}))
        answer = await http.post(f"/{name}/take", json={"held": held["id"]})
        return _received_by(answer)

    async def find(http: Http, saga: Saga[Purchase]) -> Receipt | None:
        answer = await http.get(f"/{name}/take", params={"of": f"{saga.key}:2"})
        if answer.status == 404 and answer.json()["code"] == UNKNOWN:
            return None
        return _received_by(answer)

    async def back(http: Http, saga: Saga[Purchase], _receipt: Receipt | None) -> None:
        key = saga.key_of(step)
        for of in (f"{key}:2", key):
            _read_undo(await http.post(f"/{name}/undo", json={"of": of}))

    work.__name__ = name
    step = stage.call(to=to, timeout=2.0, requests=2)(work)
    step.probe(find)
    step.compensation(back)


def _stage(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """A stage that begins as its first version did, or with two more steps than that."""
    version = 1 if before is None else 2
    stage: Stage[Any, Any] = Stage(
        name,
        accepts=Purchase,
        adds=Receipt,
        migrations="migrations",
        version=version,
        supersedes=before,
    )
    if before is not None:
        _local(stage, "note")
        _call(stage, "announce", f"{name}-api", probe=True)

    @stage.output
    def added(saga: Saga[Purchase]) -> Receipt:
        return Receipt(saga.id)

    return stage


def plain(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """Reserve, charge, record: the usual stage."""
    stage = _stage(name, before)
    _local(stage, "reserve")
    _call(stage, "charge", f"{name}-api", probe=True)
    _local(stage, "record", undo=False)
    return stage


def bundle(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """Two calls at the same time, which can only be repeated."""
    stage = _stage(name, before)
    _local(stage, "open")
    _call(stage, "left", f"{name}-api", probe=False, together="both")
    _call(stage, "right", f"{name}-api", probe=True, together="both")
    _local(stage, "close")
    return stage


def sequence(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """Calls one after the other, with local work between them."""
    stage = _stage(name, before)
    _call(stage, "first", f"{name}-api", probe=False)
    _local(stage, "between")
    _call(stage, "second", f"{name}-api", probe=True)
    _call(stage, "third", f"{name}-api", probe=False)
    return stage


def unkeyed(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """A call to an API that ignores keys: it may be asked, never just repeated."""
    stage = _stage(name, before)
    _local(stage, "reserve")
    _call(stage, "transfer", f"{name}-unkeyed", probe=True, idempotent=False)
    return stage


def pending(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """A call that its API takes on, and that ends later or never."""
    stage = _stage(name, before)
    _local(stage, "reserve")
    rules: dict[str, Any] = {"pending_on": {202}, "pending_seconds_max": 300.0}
    _call(stage, "charge", f"{name}-pending", probe=True, **rules)
    _local(stage, "record", undo=False)
    return stage


def hooked(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """A call whose API tells by a webhook how it ended, in its own time or never."""
    stage = _stage(name, before)
    _local(stage, "reserve")
    rules: dict[str, Any] = {"pending_on": {202}, "pending_seconds_max": 300.0}
    _call(stage, "charge", f"{name}-hooking", probe=False, hook=True, **rules)
    _call(stage, "tip", f"{name}-api", probe=True)
    return stage


def _effect(stage: Stage[Any, Any], name: str, to: str, *, probe: bool) -> None:
    """An effect by a client of the author's, with what belongs to it."""

    async def work(saga: Saga[Purchase]) -> Receipt:
        answer = await ask(to, "POST", f"/{name}", key=saga.key, body={"by": "client"})
        return _received(answer)

    async def find(saga: Saga[Purchase]) -> Receipt | None:
        answer = await ask(to, "GET", f"/{name}", key=saga.key)
        if answer.status == 404 and msgspec.json.decode(answer.body)["code"] == UNKNOWN:
            return None
        return _received(answer)

    async def back(saga: Saga[Purchase], receipt: Receipt | None) -> None:
        made = None if receipt is None else receipt.id
        answer = await ask(to, "POST", f"/{name}/undo", key=saga.key, body={"id": made})
        if "undone" not in _said(answer):
            raise OSError(f"answered {answer.status}")

    work.__name__ = name
    step = stage.effect(to=to, timeout=1.0)(work)
    if probe:
        step.probe(find)
    step.compensation(back)


def _received(answer: Answer) -> Receipt:
    """The receipt in an answer of the vendor."""
    return _receipt(_said(answer))


def _said(answer: Answer) -> dict[str, Any]:
    """The reading of a vendor's client, which knows nothing of the stage."""
    if answer.status == 429:
        raise Transient("busy")
    said: dict[str, Any] = msgspec.json.decode(answer.body)
    if answer.status in (402, *DENIALS) and said["code"] in NOES:
        raise Refused(f"answered {answer.status}")
    if answer.status != 200:
        raise OSError(f"answered {answer.status}")
    return said


def effective(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """Effects by a client of the author's: one that can be looked up, and one that cannot."""
    stage = _stage(name, before)
    _local(stage, "reserve")
    _effect(stage, "upload", f"{name}-api", probe=True)
    _effect(stage, "publish", f"{name}-api", probe=False)
    _local(stage, "record", undo=False)
    return stage


def approved(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """A call that a person has to approve; of small amounts nobody is asked."""
    stage = _stage(name, before)
    _local(stage, "reserve")

    @stage.approval("risk", timeout=300.0)
    def risk(saga: Saga[Purchase]) -> dict[str, int] | None:
        return {"amount": saga.input.amount} if crc32(saga.id.encode()) % 5 else None

    _call(stage, "charge", f"{name}-api", probe=True)
    return stage


def pivotal(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """A call that cannot be undone; after it the stage only goes forward."""
    stage = _stage(name, before)
    _local(stage, "reserve")
    _call(stage, "check", f"{name}-api", probe=True)
    _call(stage, "settle", f"{name}-api", probe=True, undo=None, pivot=True, attempts_max=50)
    _local(stage, "record", undo=False)
    return stage


def unconfirmed(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """Undos that are given up: one that is never confirmed, and one that does not read its no."""
    stage = _stage(name, before)
    _local(stage, "reserve")
    _call(stage, "charge", f"{name}-silent", probe=True, compensation_attempts_max=6)
    rules: dict[str, Any] = {"refused_on": {402}, "compensation_attempts_max": 6}
    _call(stage, "tip", f"{name}-api", probe=True, undo=_undo_unread, **rules)
    return stage


def paired(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """A call that consists of two requests, each with an effect of its own."""
    stage = _stage(name, before)
    _local(stage, "reserve")
    _pair(stage, "book", f"{name}-parts")
    _call(stage, "tip", f"{name}-api", probe=True)
    return stage


def looked(name: str, before: Stage[Any, Any] | None = None) -> Stage[Any, Any]:
    """A call that is looked for once it was undone without a result: its API needs the id."""
    stage = _stage(name, before)
    _local(stage, "reserve")
    _call(stage, "charge", f"{name}-blind", probe=True, probe_after_undo=True)
    _call(stage, "tip", f"{name}-api", probe=True)
    return stage


KINDS: dict[str, Callable[..., Stage[Any, Any]]] = {
    "plain": plain,
    "bundle": bundle,
    "sequence": sequence,
    "unkeyed": unkeyed,
    "pending": pending,
    "hooked": hooked,
    "pivotal": pivotal,
    "effective": effective,
    "approved": approved,
    "unconfirmed": unconfirmed,
    "paired": paired,
    "looked": looked,
}
SELDOM_KINDS = ("unconfirmed", "paired", "looked")
"""Kinds of which few worlds have one; the others that are in no world are asked for by name."""
NAMES = ("order", "payment", "shipping")
