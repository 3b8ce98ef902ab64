"""Calls between the workers of one stage: values in frames on a Unix socket, many at a time.

The socket lies in a folder that only the user of the stage may enter, so that both ends are
processes of one release that one parent has started. Therefore frames are pickles: they carry the
values of `ports.engine` as they are, and nothing that a stranger has sent is read as one.

A frame is its length in four bytes and a tuple: a call (number, name, arguments, named arguments),
a call that nobody awaits any more (number, None), or an answer (number, whether it is a value, the
value or the error).
"""

from __future__ import annotations

import asyncio
import pickle
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final, cast

from stage.ports.engine import WorkerLost

CONNECT_SECONDS_MAX: Final = 5.0
ANSWER_SECONDS_MAX: Final = 90.0
"""Longer than the longest wait that a stage grants (60 s)."""
_LENGTH_BYTES: Final = 4

Answer = Callable[[str, tuple[Any, ...], dict[str, Any]], Awaitable[Any]]
"""Does what a call says."""


class _Frames(asyncio.Protocol, ABC):
    """One connection: splits what comes in into frames, and writes those of a turn at once."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._unsent: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        received = self._received
        received += data
        start = 0
        while len(received) - start >= _LENGTH_BYTES:
            body = start + _LENGTH_BYTES
            end = body + int.from_bytes(received[start:body], "big")
            if len(received) < end:
                break
            self.hear(pickle.loads(bytes(received[body:end])))  # noqa: S301 - of one of us
            start = end
        del received[:start]

    @abstractmethod
    def hear(self, frame: tuple[Any, ...]) -> None:
        """Take in one frame."""

    def send(self, *frame: Any) -> None:
        """Write one frame, together with the others of this turn of the event loop."""
        body = pickle.dumps(frame, pickle.HIGHEST_PROTOCOL)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._write)
        self._unsent += (len(body).to_bytes(_LENGTH_BYTES, "big"), body)

    def _write(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))

    def close(self) -> None:
        """Close the connection behind what was sent."""
        self._write()
        if self._transport is not None:
            self._transport.close()


class _Asking(_Frames):
    """The end that calls."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self._worker = worker
        self._numbers = count()
        self._awaited: dict[int, asyncio.Future[Any]] = {}
        self.lost = False

    def hear(self, frame: tuple[Any, ...]) -> None:
        """Hand an answer to its call."""
        number, is_value, found = frame
        future = self._awaited.pop(number, None)
        if future is None or future.done():
            return
        if is_value:
            future.set_result(found)
        else:
            future.set_exception(_error_of(*found))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. The calls that are awaited may have been done."""
        self.lost = True
        awaited, self._awaited = self._awaited, {}
        for future in awaited.values():
            if not future.done():
                future.set_exception(WorkerLost(f"worker {self._worker} ended while it was asked"))

    async def call(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The value that the other end answers. Raises what it raised, and WorkerLost."""
        number = next(self._numbers)
        future = self._awaited[number] = asyncio.get_running_loop().create_future()
        self.send(number, name, args, dict(kwargs))
        try:
            return await future
        except asyncio.CancelledError:
            if self._awaited.pop(number, None) is not None:
                self.send(number, None)
            raise


class WorkerLink:
    """The way to one other worker: connected when it is needed, and again when it was lost."""

    def __init__(self, worker: int, path: Path) -> None:
        self._worker = worker
        self._path = path
        self._asking: _Asking | None = None
        self._connecting = asyncio.Lock()

    async def call(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        seconds: float = ANSWER_SECONDS_MAX,
    ) -> Any:
        """The value that the other worker answers. Raises what it raised.

        Raises WorkerLost where it is not there, or ends, or answers too late: what was called may
        have been done.
        """
        try:
            async with asyncio.timeout(seconds):
                asking = self._asking
                if asking is None or asking.lost:
                    asking = await self._connected()
                return await asking.call(name, args, kwargs)
        except TimeoutError:
            raise WorkerLost(f"worker {self._worker} did not answer in {seconds:g} s") from None

    async def _connected(self) -> _Asking:
        async with self._connecting:
            if self._asking is not None and not self._asking.lost:
                return self._asking
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(CONNECT_SECONDS_MAX):
                    _, self._asking = await loop.create_unix_connection(
                        lambda: _Asking(self._worker), str(self._path)
                    )
            except OSError:  # TimeoutError is such a one
                raise WorkerLost(f"worker {self._worker} is starting, or has ended") from None
            return self._asking

    def close(self) -> None:
        """Ask nothing any more."""
        if self._asking is not None:
            self._asking.close()


class _Answering(_Frames):
    """The end that is called."""

    def __init__(self, answer: Answer, all_: set[_Answering]) -> None:
        super().__init__()
        self._answer = answer
        self._all = all_
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. The caller has gone, which stops nothing that is journaled."""
        self._all.discard(self)
        for task in self._tasks.values():
            task.cancel()

    def hear(self, frame: tuple[Any, ...]) -> None:
        """Begin with a call, or end one that nobody awaits."""
        number, name, *more = frame
        if name is None:
            if (task := self._tasks.pop(number, None)) is not None:
                task.cancel()
            return
        args, kwargs = more
        task = asyncio.get_running_loop().create_task(self._do(number, name, args, kwargs))
        self._tasks[number] = task

    async def _do(
        self, number: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        try:
            found = await self._answer(name, args, kwargs)
        except Exception as error:
            self.send(number, False, _parts_of(error))
        else:
            try:
                self.send(number, True, found)
            except Exception as error:  # a value that is no pickle: the caller waits for a word
                self.send(number, False, _parts_of(error))
        finally:
            self._tasks.pop(number, None)


class WorkerDoor:
    """Where the other workers come in. `open` it on a socket that is bound and private."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._open: set[_Answering] = set()

    async def open(self, path: Path, listen: Callable[[Path], Any]) -> None:
        """Let the others in. `listen` makes the socket. Raises OSError."""
        loop = asyncio.get_running_loop()
        opened = await asyncio.to_thread(listen, path)
        self._server = await loop.create_unix_server(
            lambda: _Answering(self._answer, self._open), sock=opened
        )

    async def close(self) -> None:
        """Let nobody in, and end what is there."""
        if self._server is not None:
            self._server.close()
        for each in tuple(self._open):
            each.close()
        await asyncio.sleep(0)  # the connections hear of it


def _parts_of(error: Exception) -> tuple[type[Exception], tuple[Any, ...], dict[str, Any]]:
    """An error that can be sent: most of ours are made of more than what they say."""
    parts = (type(error), error.args, error.__dict__)
    with suppress(Exception):
        pickle.dumps(parts, pickle.HIGHEST_PROTOCOL)
        return parts
    return (RuntimeError, (f"{type(error).__name__}: {error}",), {})


def _error_of(kind: type[Exception], args: tuple[Any, ...], members: dict[str, Any]) -> Exception:
    error: Exception = kind.__new__(kind, *args)
    error.__dict__.update(members)
    return error
