"""Stand-ins for what a step is given: scripted answers, and a record of what it asked for.

http = FakeHttp(reply(201, {"id": "c-1"}))
assert Charge("c-1") == await charge.function(http, fake_saga(payment, {"amount": 5}))
assert ["/charges"] == [request.path for request in http.requests]
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from stage.authoring.declaration import StageDeclaration
from stage.authoring.http import Exchange, Http, Response
from stage.authoring.saga import Saga
from stage.authoring.steps import DeclaredStep
from stage.authoring.webhook import Webhook
from stage.core.events import Request
from stage.core.ids import Direction, idempotency_key
from stage.ports.stage import Answer, RunView, Send
from stage.ports.store import Row
from stage.ports.webhook import WebhookRequest
from stage.store.errors import StatementNotAwaited

P = TypeVar("P")

SAGA_ID: Final = "s-1"


WEBHOOK_SECRET: Final = b"of a test"
"""The secret of a fake webhook, unless the test gives its own."""


def fake_webhook(
    body: bytes,
    headers: Mapping[str, str] = {},
    *,
    secret: bytes = WEBHOOK_SECRET,
    now: float = 0.0,
) -> Webhook:
    """A webhook as its function gets it, which came at `now`, in seconds since the epoch.

    No secret is configured for `b""`.
    """
    request = WebhookRequest(
        external="a test",
        body=body,
        headers={name.lower(): value for name, value in headers.items()},
        secrets=(secret,) if secret else (),
        now=now,
    )
    return Webhook(request)


class ScriptOver(AssertionError):
    """A step asked for more than its script has."""


def reply(status: int = 200, json: object = None, *, headers: Mapping[str, str] = {}) -> Answer:
    """An answer of an external API; `json` is its body."""
    body = b"" if json is None else msgspec.json.encode(json)
    return Answer(status=status, headers=tuple(headers.items()), body=body)


class FakeHttp(Http):
    """An `Http` that gives the answers of its script, in order, and keeps the requests.

    A path that is none, or a header that a step may not set, is refused as by the real one. An
    answer that a step never sees, such as a 503, stands in no script: the engine takes it. Both
    `requests` and `check_awaited` fail for a request that the step forgot to await.
    """

    def __init__(self, *answers: Answer, peer: str = "") -> None:
        super().__init__(peer)
        self._sent: list[Request] = []
        self._answers = list(answers)

    @property
    def requests(self) -> list[Request]:
        """The requests that were sent. Raises NotAwaited for one that the step did not await."""
        self.check_awaited()
        return self._sent

    def exchange_of(self, send: Send) -> Exchange:
        """See Http."""
        return _Answered(self, send)

    def answer(self, request: Request) -> Response:
        """The next answer of the script. Raises ScriptOver."""
        self._sent.append(request)
        if not self._answers:
            raise ScriptOver(
                f"{request.method} {request.path} is request {len(self._sent)}, and the script"
                f" has {len(self._sent) - 1}: give FakeHttp one more reply"
            )
        return Response(self._answers.pop(0))


class _Answered(Exchange):
    """A request that its fake answers at once."""

    def __init__(self, fake: FakeHttp, send: Send) -> None:
        super().__init__(send, "")
        self._fake = fake

    def __await__(self) -> Generator[Send, Answer, Response]:
        self.awaited = True
        yield from ()
        return self._fake.answer(self.intent.request)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement that a transaction ran."""

    sql: str
    parameters: tuple[Any, ...]


class FakeTx:
    """A `Tx` that gives the results of its script, in order, and keeps the statements.

    A result is what the method returns: rows for `fetchall`, a number for `execute`. When the
    script is over, `execute` changes one row and the others find nothing.
    """

    def __init__(self, *results: Any) -> None:
        self._ran: list[Statement] = []
        self._results = list(results)
        self._waiting: list[str] = []
        """Statements that were described and not awaited yet."""

    @property
    def statements(self) -> list[Statement]:
        """The statements that were run. Raises StatementNotAwaited for one that was not awaited."""
        self.check_awaited()
        return self._ran

    def check_awaited(self) -> None:
        """See Tx."""
        if self._waiting:
            raise StatementNotAwaited(
                f"a statement was not awaited, so it did not run: {self._waiting[0]}"
            )

    def execute(self, sql: str, *parameters: Any) -> Coroutine[Any, Any, int]:
        """See Tx."""
        return self._described(sql, [parameters], 1)

    def executemany(self, sql: str, rows: Iterable[Iterable[Any]]) -> Coroutine[Any, Any, None]:
        """See Tx."""
        return self._described(sql, [tuple(row) for row in rows], None)

    def fetchone(self, sql: str, *parameters: Any) -> Coroutine[Any, Any, Row | None]:
        """See Tx."""
        return self._described(sql, [parameters], None)

    def fetchval(self, sql: str, *parameters: Any) -> Coroutine[Any, Any, Any]:
        """See Tx."""
        return self._described(sql, [parameters], None)

    def fetchall(self, sql: str, *parameters: Any) -> Coroutine[Any, Any, list[Row]]:
        """See Tx."""
        return self._described(sql, [parameters], [])

    def _described(
        self, sql: str, rows: Sequence[tuple[Any, ...]], otherwise: Any
    ) -> Coroutine[Any, Any, Any]:
        self._waiting.append(sql)
        return self._run(sql, rows, otherwise)

    async def _run(self, sql: str, rows: Sequence[tuple[Any, ...]], otherwise: Any) -> Any:
        self._waiting.remove(sql)
        found = otherwise
        for row in rows:
            found = self._next(sql, row, otherwise)
        return found

    def _next(self, sql: str, parameters: tuple[Any, ...], otherwise: Any) -> Any:
        self._ran.append(Statement(sql, parameters))
        return self._results.pop(0) if self._results else otherwise


def data_of(given: object) -> Mapping[str, Any]:
    """The data of a context: as it is, or that of a value which the stage accepts."""
    if isinstance(given, Mapping):
        return given
    if hasattr(given, "model_dump"):  # pydantic's
        given = given.model_dump(mode="json")
    return msgspec.convert(msgspec.to_builtins(given), dict[str, Any])


def fake_saga(
    stage: StageDeclaration[P, Any],
    data: Mapping[str, Any] | P,
    *,
    step: str = "",
    results: Sequence[tuple[DeclaredStep[Any, Any], Any]] = (),
    saga_id: str = SAGA_ID,
) -> Saga[P]:
    """A saga as a step sees it, with that data, or with a value of what the stage accepts.

    `results` are those of the steps before, `step` gives it its key. Raises WireError for data that
    the stage does not accept, and TypeError for a result that its step could not have returned.
    """
    context = data_of(data)
    stage.accepts.from_data(context)
    view = RunView(
        id=saga_id,
        stage=stage.name,
        data=context,
        trail=(),
        results={each.name: msgspec.Raw(each.encode_result(value)) for each, value in results},
        keys={},
        deadline=None,
        budget=None,
        key=idempotency_key(saga_id, stage.name, step, Direction.EXECUTE),
        attempt=1,
        now=0.0,
    )
    return Saga(view, stage.accepts)
