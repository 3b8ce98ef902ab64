"""The simulated network: messages are lost, delayed, repeated and cut off, as the seed says.

Stages speak through the real `outbound.client.PeerClient`; only its transport is ours. It
has the faults of a network under HTTP: a request that never arrives, an answer that never does, a
connection refused, a request that arrives long after its sender gave up, one that arrives twice,
and gateways that answer for others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from random import Random

import msgspec

from stage.core import events as e
from stage.core.steps import FORWARD_PREFIX
from stage.outbound.transport import ANSWER_BYTES_MAX, Transport, too_large
from stage.ports.stage import Answer, Lost
from stage.simulation import gateway
from stage.simulation.api import ApiModel, ApiRequest
from stage.simulation.books import Books
from stage.simulation.disk import SimulatedStore
from stage.simulation.facts import read_key
from stage.simulation.faults import Faults
from stage.simulation.loop import Process, VirtualClock, VirtualLoop
from stage.wire import headers as h
from stage.wire.http import SAFE_METHODS
from stage.wire.problem import CONTENT_TYPE

Headers = Sequence[tuple[str, str]]
Server = Callable[[str, str, Headers, bytes], Awaitable[Answer] | None]
"""Takes method, path, headers and body; None while nobody listens."""

SCHEME = "http://"
HOOK_SECONDS_MAX = 5.0
HOOK_PAUSE_SECONDS = (5.0, 60.0)
"""The first pause of an API before it sends a webhook again, and the longest."""
ACKNOWLEDGED = b"{}"
BELIEVED, REFUSED = "believed", "refused"
"""The two ends of a webhook at a stage."""
LATENCY_SECONDS = (0.001, 0.02)
DELAY_SECONDS = (0.05, 8.0)
DELAY_SECONDS_STRICT = 0.145
"""How long after its sender gave up a request may land at an API that ignores keys.

Two probes that do not find it are at least 0.15 s later: more than that nothing can protect.
"""
LATE_SECONDS = 0.1
"""How late a scripted delay or duplicate comes."""
NOT_NOW = frozenset({429, 503})
OUT_REFUSED, OUT_SILENT, OUT_PAGES = "refused", "silent", "pages"
"""The ways in which somebody is away: no connection, no sign, or the pages of a gateway."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A request of one to another, about the saga of that id; empty: about none."""

    source: str
    target: str
    method: str = "POST"
    path: str
    headers: Headers = (("Content-Type", h.CONTENT_JSON),)
    body: bytes
    saga: str


class Network:
    """Carries every message of one simulated world, whose time, dice and books it shares."""

    def __init__(self, loop: VirtualLoop, random: Random, faults: Faults, books: Books) -> None:
        self.loop = loop
        self.random = random
        self.faults = faults
        self.books = books
        self._servers: dict[str, Server] = {}
        self._apis: dict[str, ApiModel] = {}
        self._hooks: dict[asyncio.Task[None], None] = {}
        self.cut: set[frozenset[str]] = set()
        """Pairs of names that do not hear each other."""
        self.down: set[str] = set()
        """Names that take no connection: nothing sent to them arrives, for certain."""
        self.out: dict[str, str] = {}
        """Names that are away for long, and what is heard of them: OUT_REFUSED, ..."""
        self.rotating: set[str] = set()
        """Stages of which some replicas lack a key."""
        self._about: Counter[str] = Counter()
        self._numbers: dict[tuple[str, str, str], int] = {}
        self._sent = 0
        self.webhooks: Counter[str] = Counter()
        """How many were believed, and how many refused: each time that one was sent counts."""

    def number(self) -> int:
        """The next number of a message, in the order in which they leave."""
        self._sent += 1
        return self._sent

    def arrived(self, way: tuple[str, str, str], number: int) -> None:
        """Note that a message has been overtaken by a later one of its saga."""
        if self._numbers.get(way, 0) > number:
            self.faults.struck["reordered"] += 1
        else:
            self._numbers[way] = number

    def about(self, saga: str) -> int:
        """Messages of a saga that are on their way, or may still be."""
        return self._about[saga]

    def spoken_of(self) -> list[str]:
        """The sagas of which messages are on their way, or may still be."""
        return [saga for saga, count in self._about.items() if count]

    def off(self, saga: str) -> None:
        """A message sets off."""
        self._about[saga] += 1

    def there(self, saga: str) -> None:
        """It has arrived, or is answered."""
        self._about[saga] -= 1

    def serve(self, name: str, server: Server) -> None:
        """Let a name be spoken to."""
        self._servers[name] = server

    def serve_api(self, model: ApiModel) -> None:
        """Let an external API be spoken to."""
        self._apis[model.name] = model
        model.clock = VirtualClock(self.loop).now

    @property
    def names(self) -> list[str]:
        """Everybody who can be spoken to."""
        return [*self._servers, *self._apis]

    def later(self, seconds: float, act: Callable[..., None], *arguments: object) -> None:
        """Let something happen that belongs to no process."""
        self.loop.call_later(seconds, act, *arguments, context=self.loop.outside)

    def hook(
        self, api: str, stage: str, saga: str, headers: Headers, body: bytes, after: float
    ) -> None:
        """An API sends a webhook to a stage, again and again until that acknowledges it."""
        self.off(saga)

        def begin() -> None:
            sending = self.loop.create_task(self._hook(api, stage, saga, headers, body))
            self._hooks[sending] = None
            sending.add_done_callback(lambda done: self._hooks.pop(done, None))

        self.later(after, begin)

    async def _hook(self, api: str, stage: str, saga: str, headers: Headers, body: bytes) -> None:
        """No page of a gateway acknowledges it: no author can help that."""
        self.there(saga)
        pause, longest = HOOK_PAUSE_SECONDS
        message = Message(
            source=api,
            target=stage,
            path=f"/webhooks/{api}",
            headers=headers,
            body=body,
            saga=saga,
        )
        while True:
            answer = await self.carry(message, HOOK_SECONDS_MAX)
            heard = answer.reason if isinstance(answer, Lost) else str(answer.status)
            self.books.tell(saga, api, f"webhook to {stage} -> {heard}")
            if isinstance(answer, Answer) and (answer.status, answer.body) == (200, ACKNOWLEDGED):
                self.webhooks[BELIEVED] += 1
                return
            if isinstance(answer, Answer) and _is_refusal(answer):
                self.webhooks[REFUSED] += 1
            await asyncio.sleep(pause)
            pause = min(2.0 * pause, longest)

    async def carry(
        self, message: Message, timeout: float, fault: str | None = None
    ) -> Answer | Lost:
        """Send one request and wait for what becomes of it, at most that many seconds.

        `fault` is what a script lets strike; None when it has not been asked yet.
        """
        if fault is None:
            way = f"{message.source} -> {message.target}{message.path}"
            fault = self.faults.point("request", way)
        answer: asyncio.Future[Answer | Lost] = self.loop.create_future()
        passage = _Passage(self, message, answer)
        gone = Lost(reason="no answer in time")
        timer = self.loop.call_later(timeout, passage.settle, gone, context=self.loop.outside)
        passage.leave(timeout, fault)
        try:
            return await answer
        finally:
            timer.cancel()


class _Passage:
    """One request on its way, and its answer back."""

    __slots__ = ("_answer", "_fault", "_message", "_network", "_number", "_saga", "_target")

    def __init__(
        self, network: Network, message: Message, answer: asyncio.Future[Answer | Lost]
    ) -> None:
        self._network = network
        self._message = message
        self._target = message.target
        self._saga = message.saga
        self._answer = answer
        self._number = network.number()

    @property
    def _strict(self) -> bool:
        """An API that ignores keys cannot be protected from what lands very late."""
        api = self._network._apis.get(self._target)
        return api is not None and not api.honours_keys

    def settle(self, answer: Answer | Lost) -> None:
        """The sender hears this, if nothing else before."""
        if not self._answer.done():
            if isinstance(answer, Lost):
                self._tell(f"{answer.reason}")
            self._answer.set_result(answer)

    def _tell(self, what: str) -> None:
        message = self._message
        where = f"{message.method} {message.target}{message.path}"
        self._network.books.tell(self._saga, message.source, f"{where[:90]} -> {what}"[:200])

    def _unrouted(self) -> bool:
        api = self._network._apis.get(self._target)
        return api is not None and api.unrouted

    def _away(self) -> bool:
        network = self._network
        if frozenset({self._message.source, self._target}) in network.cut:
            return True
        api = network._apis.get(self._target)
        return api is not None and api.away

    # Long because the fates of a request stand in the order in which they may meet it.
    def leave(self, timeout: float, fault: str) -> None:
        """Decide what becomes of the request."""
        network = self._network
        faults, random, later = network.faults, network.random, network.later
        travel = random.uniform(*LATENCY_SECONDS)
        self._fault = fault
        if fault == "error":
            later(travel, self.settle, Lost(reason="connection refused", certain=True))
            return
        if fault == "delay":
            travel = timeout + LATE_SECONDS
        out = network.out.get(self._target)
        if out == OUT_SILENT:
            return
        if out == OUT_PAGES:
            later(travel, self.settle, gateway.away(random))
            return
        if self._target in network.down or out == OUT_REFUSED:
            later(travel, self.settle, Lost(reason="connection refused", certain=True))
            return
        if self._away():
            if random.random() < 0.5:
                later(travel, self.settle, Lost(reason="connection refused", certain=True))
            return  # else it is never heard of again
        if self._unrouted():
            self._tell("(a gateway has no route: 404)")
            later(travel, self.settle, gateway.without_route(random))
            return
        if faults.happens("connection_refused"):
            later(travel, self.settle, Lost(reason="connection refused", certain=True))
            return
        if faults.happens("request_lost"):
            self._tell("(the request is lost)")
            if random.random() < 0.5:
                later(travel, self.settle, Lost(reason="connection broken"))
            return
        if faults.happens("gateway_answers"):
            later(travel, self.settle, self._page())
            return
        given_up = faults.happens("gateway_gives_up")
        if given_up:
            later(random.uniform(travel, timeout), self._give_up)
        if not (given_up and self._strict) and faults.happens("delay"):
            if self._strict:
                travel = timeout + random.uniform(0.0, DELAY_SECONDS_STRICT)
            else:
                travel = random.uniform(*DELAY_SECONDS)
            self._tell(f"(the request takes {travel:.1f} s)")
        network.off(self._saga)
        later(travel, self._arrive, True)

    def _page(self) -> Answer:
        """The answer of a gateway in place of the target."""
        if self._target in self._network._apis:
            answer = gateway.page_of_api(self._network.random)
        elif self._target in self._network.rotating:
            answer = gateway.without_key(self._network.random)
        else:
            answer = gateway.page(self._network.random, self._saga)
        self._tell(f"(a gateway says {answer.status})")
        return answer

    def _rewritable(self, answer: Answer) -> bool:
        """A "not now" under the code of a no is a lie that nobody could see."""
        return self._target not in self._network._apis and answer.status not in NOT_NOW

    def _give_up(self) -> None:
        """A gateway's time is over while the target works, or before it has begun."""
        if not self._answer.done():
            self.settle(self._page())

    def _arrive(self, first: bool) -> None:
        network = self._network
        network.there(self._saga)
        message = self._message
        network.arrived((message.source, self._target, self._saga), self._number)
        if self._strict and self._answer.cancelled():
            return  # its sender died: nothing would protect an API that ignores keys
        if not first:
            self._tell("(arrives once more)")
        api = network._apis.get(self._target)
        if api is not None:
            key = next((value for name, value in message.headers if name == h.IDEMPOTENCY_KEY), "")
            request = ApiRequest(
                method=message.method, path=message.path, key=key, body=message.body
            )
            self._back(api.answer(request), first)
            return
        server = network._servers[self._target]
        work = server(message.method, message.path, message.headers, message.body)
        if work is None:
            if first:
                self.settle(Lost(reason="connection refused", certain=True))
            return
        network.off(self._saga)
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda done: self._answered(done, first))

    def _answered(self, task: asyncio.Future[Answer], first: bool) -> None:
        self._network.there(self._saga)
        if task.cancelled() or task.exception() is not None:
            if not task.cancelled():
                text = f"{self._target} raised {task.exception()!r}"
                self._network.books.violate("defect", self._saga, text)
            if first:
                self.settle(Lost(reason="connection broken"))
            return
        self._back(task.result(), first)

    def _back(self, answer: Answer, first: bool) -> None:
        """The answer leaves the target."""
        if not first:
            return
        network = self._network
        faults, random, later = network.faults, network.random, network.later
        if not self._strict and faults.happens("duplicate"):
            network.off(self._saga)
            later(random.uniform(0.0, DELAY_SECONDS[1]), self._arrive, False)
        if self._fault == "duplicate":
            network.off(self._saga)
            later(LATE_SECONDS, self._arrive, False)
        travel = random.uniform(*LATENCY_SECONDS)
        if self._fault == "answer_lost" or faults.happens("answer_lost") or self._away():
            self._tell(f"(the answer {answer.status} is lost)")
            if random.random() < 0.5:
                later(travel, self.settle, Lost(reason="connection broken"))
            return
        if faults.happens("gateway_replaces"):
            answer = self._page()
        elif self._rewritable(answer) and faults.happens("gateway_rewrites"):
            answer = gateway.rewritten(random, answer)
            self._tell(f"(a gateway puts {answer.status} over it)")
        later(travel, self.settle, answer)


class SimulatedTransport(Transport):
    """The transport below the PeerClient of a process. Every message is held against the books."""

    def __init__(
        self,
        network: Network,
        books: Books,
        stage: str,
        process: Process,
        crash: Callable[[Process], None],
        store: SimulatedStore,
    ) -> None:
        super().__init__()
        self._crash = crash
        self._store = store
        self._faults = network.faults
        self._network = network
        self._books = books
        self._stage = stage
        self._process = process
        self._in_flight: dict[str, list[str]] = {}
        """Messages of this process under way, by saga: `do`, `undo`, `probe`."""
        self._doing: dict[str, list[tuple[str, str]]] = {}

    # Long because the faults and checks of a message follow it from its process to its end.
    # Many because the transport in whose place it stands has as many.
    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        timeout: float,
        tls: object = None,
        proxy: object = None,
        fresh: bool = False,
    ) -> Answer | Lost:
        """See outbound.transport.Transport."""
        was_paused = self._process.held
        if was_paused:
            await self._process.gate()
        target, _, path = url.removeprefix(SCHEME).partition("/")
        path = f"/{path}"
        sent = list(headers)
        fault = ""
        if self._faults.scripted:
            where = f"{self._process.name} -> {target}{path}"
            await self._faults.pause(where)
            if self._process.held:
                was_paused = True
                await self._process.gate()
            fault = self._faults.point("message", where)
            if fault == "crash_before":
                self._crash(self._process)
                await self._process.nothing()
        saga, what = self._check(target, method, path, sent, body)
        under_way = self._in_flight.setdefault(saga, [])
        if what == "undo" and "do" in under_way:
            self._books.violate(
                "I6", saga, f"{self._stage} compensates at {target} while execution is in flight"
            )
        if what == "do" and (target, path) in self._doing.setdefault(saga, []):
            self._books.violate("I2", saga, f"{self._stage} runs twice at the same time")
        registration = self._store.leaves(saga, was_paused=was_paused)
        under_way.append(what)
        self._doing.setdefault(saga, []).append((target, path))
        try:
            message = Message(
                source=self._stage,
                target=target,
                method=method,
                path=path,
                headers=sent,
                body=body,
                saga=saga,
            )
            answer = await self._network.carry(message, timeout, fault)
            if fault == "crash_after":
                self._crash(self._process)
            if self._process.held:
                await self._process.gate()
            if isinstance(answer, Answer) and len(answer.body) > ANSWER_BYTES_MAX:
                return too_large(answer.status)
            return answer
        finally:
            self._store.ends(saga, registration)
            under_way.remove(what)
            self._doing[saga].remove((target, path))

    def _check(
        self, target: str, method: str, path: str, headers: Headers, body: bytes
    ) -> tuple[str, str]:
        """Hold the message against the books; its saga, and whether it does or undoes."""
        if path == "/sagas":
            key = next(value for name, value in headers if name == h.IDEMPOTENCY_KEY)
            self._books.handing_on(self._stage, self._process.name, target, key, body)
            return key, "do"
        if path.startswith("/sagas?"):  # a list for `stage reconcile`, of no saga
            return "", "list"
        if path.startswith("/sagas/") and path.endswith("/compensate"):
            saga = path.removeprefix("/sagas/").removesuffix("/compensate")
            self._books.asking_to_compensate(self._stage, target, saga)
            known = self._books.known.get((self._stage, saga))
            forward = FORWARD_PREFIX + target
            down = known is not None and forward in self._books.plans[self._stage].by_name
            return saga, "undo" if down else "tell"
        if path.startswith("/sagas/") and method == "GET":
            saga = path.removeprefix("/sagas/")
            self._books.looking(self._stage, target, saga)
            return saga, "probe"
        key = next(value for name, value in headers if name == h.IDEMPOTENCY_KEY)
        intent = read_key(key)
        what = "undo" if intent.undo else "do"
        if method in SAFE_METHODS and self._books.probes(self._stage, intent):
            what = "probe"
        own = tuple(
            (name, value)
            for name, value in headers
            if name not in (h.IDEMPOTENCY_KEY, h.SAGA_BUDGET_MS, h.TRACEPARENT, h.TRACESTATE)
        )
        request = e.Request(method=method, path=path, headers=own, body=body)
        self._books.sending(self._stage, key, what, request)
        return intent.saga, what


def _is_refusal(answer: Answer) -> bool:
    """Whether the stage itself did not believe a webhook: a gateway knows no problem details."""
    return answer.status == 401 and dict(answer.headers).get("Content-Type") == CONTENT_TYPE
