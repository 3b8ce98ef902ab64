"""Slips of an author. Behind each line stand the words of mypy and of pyright for it."""

from __future__ import annotations

import msgspec

from stage import Http, Saga, Stage, Tx


class Order(msgspec.Struct):
    amount: int


class Charge(msgspec.Struct):
    id: str


class Refund(msgspec.Struct):
    number: int


payment = Stage("payment", accepts=Order, adds=Charge)


# a request that nobody awaits
@payment.call(to="psp", compensation=None, reason="it is wrong anyway")
async def forgetful(http: Http, saga: Saga[Order]) -> None:
    http.post("/charges", json={})  # mypy unused-coroutine; pyright reportUnusedCoroutine


# an answer that was never awaited
@payment.call(to="psp", compensation=None, reason="it is wrong anyway")
async def hasty(http: Http, saga: Saga[Order]) -> int:
    return http.post("/charges", json={}).status  # mypy attr-defined no-any-return; pyright reportAttributeAccessIssue reportUnknownMemberType reportUnknownVariableType


# a call and what belongs to it
@payment.call(to="psp")
async def charge(http: Http, saga: Saga[Order]) -> Charge:
    return Charge("c")


@charge.compensation  # mypy arg-type; pyright reportArgumentType
async def refund_another(http: Http, saga: Saga[Order], made: Refund | None) -> None: ...


@charge.compensation  # mypy arg-type; pyright reportArgumentType
async def refund_the_known(http: Http, saga: Saga[Order], made: Charge) -> None: ...


@charge.compensation  # mypy arg-type; pyright reportArgumentType
async def refund_without(http: Http, saga: Saga[Order]) -> None: ...


@charge.compensation  # mypy arg-type; pyright reportArgumentType
async def refund_in_the_database(tx: Tx, saga: Saga[Order], made: Charge | None) -> None: ...


@charge.compensation  # mypy arg-type; pyright reportArgumentType
async def refund_of_another_stage(http: Http, saga: Saga[Refund], made: Charge | None) -> None: ...


@charge.compensation  # mypy arg-type; pyright reportArgumentType
def refund_at_once(http: Http, saga: Saga[Order], made: Charge | None) -> None: ...


@charge.compensation  # mypy arg-type; pyright reportArgumentType
async def refund_and_say(http: Http, saga: Saga[Order], made: Charge | None) -> bool:
    return False


@charge.probe  # mypy arg-type; pyright reportArgumentType
async def find_another(http: Http, saga: Saga[Order]) -> Refund | None:
    return None


# a call that returns nothing cannot be found
@payment.call(to="mail", compensation=None, reason="a mail cannot be called back")
async def mail(http: Http, saga: Saga[Order]) -> None:
    await http.post("/mails", json={})


@mail.probe  # mypy attr-defined untyped-decorator; pyright reportAttributeAccessIssue reportUnknownMemberType reportUntypedFunctionDecorator
async def find_mail(http: Http, saga: Saga[Order]) -> None: ...


# an effect and what belongs to it
@payment.effect(to="s3")
async def upload(saga: Saga[Order]) -> Charge:
    return Charge("c")


@upload.compensation  # mypy arg-type; pyright reportArgumentType
async def remove_another(saga: Saga[Order], made: Refund | None) -> None: ...


@upload.compensation  # mypy arg-type; pyright reportArgumentType
async def remove_by_http(http: Http, saga: Saga[Order], made: Charge | None) -> None: ...


@upload.probe  # mypy arg-type; pyright reportArgumentType
async def find_another_object(saga: Saga[Order]) -> Refund | None:
    return None


@payment.effect(to="s3", compensation=None, reason="it is wrong anyway")  # mypy arg-type; pyright reportArgumentType reportCallIssue reportUntypedFunctionDecorator
async def upload_by_http(http: Http, saga: Saga[Order]) -> Charge:
    return Charge("c")


@payment.approval("risk")  # mypy arg-type; pyright reportArgumentType
def risk_of_another_stage(saga: Saga[Refund]) -> dict[str, str]:
    return {}


@payment.approval("limit")
def limit(saga: Saga[Order]) -> dict[str, int] | None:
    return None


# nobody may have been asked
@payment.transaction(compensation=None, reason="it is wrong anyway")
async def sign(tx: Tx, saga: Saga[Order]) -> str:
    return saga.result(limit).by  # mypy union-attr; pyright reportOptionalMemberAccess


# a transaction has no probe, and is undone in the database
@payment.transaction
async def reserve(tx: Tx, saga: Saga[Order]) -> int:
    return 1


@reserve.compensation  # mypy arg-type; pyright reportArgumentType
async def release_by_http(http: Http, saga: Saga[Order]) -> None: ...


@reserve.probe  # mypy attr-defined untyped-decorator; pyright reportAttributeAccessIssue reportUnknownMemberType reportUntypedFunctionDecorator
async def find_row(tx: Tx, saga: Saga[Order]) -> int | None: ...


# declarations
@payment.call  # mypy arg-type; pyright reportArgumentType
async def bare(http: Http, saga: Saga[Order]) -> None: ...


@payment.call(to="psp", compensation=refund_another)  # mypy arg-type; pyright reportArgumentType
async def above(http: Http, saga: Saga[Order]) -> None: ...


@payment.transaction  # mypy arg-type; pyright reportCallIssue reportArgumentType reportUntypedFunctionDecorator
def at_once(tx: Tx, saga: Saga[Order]) -> None: ...


# results
def results(saga: Saga[Order]) -> None:
    saga.result(charge).number  # mypy attr-defined; pyright reportAttributeAccessIssue reportUnknownMemberType
    saga.result(refund_the_known)  # mypy arg-type; pyright reportArgumentType
    saga.input.currency  # mypy attr-defined; pyright reportAttributeAccessIssue reportUnknownMemberType


@payment.output  # mypy arg-type; pyright reportArgumentType
def charged(saga: Saga[Order]) -> Refund:
    return Refund(1)
