"""Credentials of peers: headers and TLS, added when a request leaves (rule 30).

They come from files that are read anew when they change, and from an author's function. Nothing
of them is in a journal, a log, a span, an error or a `repr`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping

from stage.core.errors import ConfigurationError
from stage.outbound.secret_files import PARTS, Shown, check_header, exposed, marks_of
from stage.ports.certificates import FileState
from stage.ports.connection import Connection
from stage.ports.credentials import CredentialsFunction, OutgoingRequest
from stage.ports.file_marks import LOOK_SECONDS, Mark, Warn

Headers = tuple[tuple[str, str], ...]


class NotShown(Exception):
    """There are no credentials now: nothing left. The message holds no secret."""


class PeerCredentials:
    """The credentials of one peer. `open` reads them first; `place` names it in messages.

    While a file cannot be read or understood, what it held before goes on being shown: a file is
    often replaced in two steps. Headers, certificates and secrets of webhooks are each renewed by
    themselves. Only the first read is refused.
    """

    def __init__(
        self,
        place: str,
        connection: Connection,
        function: CredentialsFunction | None = None,
        *,
        warn: Warn,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._connection = connection
        self._function = function
        self._warn = warn
        self._monotonic = monotonic
        self._marks: dict[tuple[str, ...], dict[str, Mark]] = {}
        """By part: the marks of its files when they were read."""
        self._shown = Shown()
        self._look_at = 0.0
        self._looking = asyncio.Lock()
        self._problems: list[str] = []
        """The problems of the last look."""

    @property
    def names(self) -> frozenset[str]:
        """The names of the headers that the files give, in lower case."""
        return frozenset(name.lower() for name, _ in self._shown.headers)

    @property
    def state(self) -> FileState | None:
        """The state of its files; None without any."""
        if not any(self._marks.values()):
            return None
        return FileState(self._place, bool(self._problems), self._shown.expires_at)

    async def open(self) -> None:
        """Read the files. Raises ConfigurationError with the fix; warns of one that others see."""
        if problems := await self._renew():
            raise ConfigurationError("\n".join(f"{self._place}.{each}" for each in problems))
        self._look_at = self._monotonic() + LOOK_SECONDS

    async def show(self, request: OutgoingRequest) -> Shown:
        """The credentials for that request. Raises NotShown."""
        if self._monotonic() >= self._look_at:
            await self._look()
        if self._function is None:
            return self._shown
        headers = (*self._shown.headers, *await _ask(self._function, request))
        return self._shown._replace(headers=headers)

    async def webhook_secrets(self) -> tuple[bytes, ...]:
        """The secrets that webhooks of the peer are verified with, read anew when they change."""
        if self._monotonic() >= self._look_at:
            await self._look()
        return self._shown.webhook_secrets

    async def _look(self) -> None:
        async with self._looking:
            if self._monotonic() < self._look_at:
                return  # another request has just looked
            before, self._problems = self._problems, await self._renew()
            for problem in self._problems:
                if problem not in before:
                    self._warn(f"{self._place}.{problem}; what it held before is still used")
            self._look_at = self._monotonic() + LOOK_SECONDS

    async def _renew(self) -> list[str]:
        """Take up what has changed; what is wrong, each with its fix."""
        lines, problems = await asyncio.to_thread(self._read)
        for line in lines:
            self._warn(f"{self._place}: {line}")
        return problems

    def _read(self) -> tuple[list[str], list[str]]:
        """Read each part that has changed; the lines of what is too open, and what is wrong."""
        lines: list[str] = []
        problems: list[str] = []
        for keys, read in PARTS:
            try:
                marks = marks_of(self._connection, keys)
                if marks == self._marks.get(keys):
                    continue
                self._shown = read(self._shown, self._connection)
            except ValueError as error:
                problems.append(str(error))
            else:
                self._marks[keys] = marks  # of before: a change since then is seen at the next look
                lines += exposed(self._connection, marks)
        return lines, problems


class Credentials:
    """The credentials of all peers of a stage; one that is shown nothing has none."""

    def __init__(
        self,
        externals: Mapping[str, PeerCredentials],
        neighbours: Mapping[str, PeerCredentials],
    ) -> None:
        self.externals = externals
        self.neighbours = neighbours

    async def open(self) -> None:
        """Read all files. Raises ConfigurationError, one line a problem."""
        problems = []
        for each in (*self.externals.values(), *self.neighbours.values()):
            try:
                await each.open()
            except ConfigurationError as error:
                problems.append(str(error))
        if problems:
            raise ConfigurationError("\n".join(problems))

    async def webhook_secrets(self, external: str) -> tuple[bytes, ...]:
        """The secrets that webhooks of an external API are verified with."""
        found = self.externals.get(external)
        return () if found is None else await found.webhook_secrets()

    def states(self) -> Iterator[FileState]:
        """The states of the files of all peers."""
        for each in (*self.externals.values(), *self.neighbours.values()):
            if (state := each.state) is not None:
                yield state

    def names(self, external: str) -> frozenset[str]:
        """The headers that the operator sets for an external API, in lower case."""
        found = self.externals.get(external)
        return frozenset() if found is None else found.names


async def _ask(function: CredentialsFunction, request: OutgoingRequest) -> Headers:
    """The headers of an author's function. The text of what it raises may hold a secret."""
    try:
        given = await function(request)
    except Exception as error:
        raise NotShown(f"its credentials function raised {_where(error)}") from None
    if not isinstance(given, Mapping):
        raise NotShown("its credentials function must return a mapping of headers")
    try:
        return tuple(check_header(name, value) for name, value in given.items())
    except ValueError as error:
        raise NotShown(f"its credentials function returned a wrong header: {error}") from None


def _where(error: Exception) -> str:
    """The type of the exception and the line that raised it, without its text."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    line = "" if frame is None else f" at line {frame.tb_lineno} of {frame.tb_frame.f_code.co_name}"
    return f"{type(error).__name__}{line}"
