"""The tokens that callers may show: hashes in files, read anew when a file changes.

A rotation needs no restart: the new line is believed within a second of being written, and at once
when a token comes that is not known yet.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable

import msgspec

from stage.core.errors import ConfigurationError
from stage.inbound.console_paths import is_console
from stage.inbound.principal import PLATFORM, STRANGER, Principal, local
from stage.inbound.request import Door, Request
from stage.ports.file_marks import LOOK_SECONDS, Mark, Warn, mark_of
from stage.wire.tokens import (
    AUTHORIZATION,
    basic_token_of,
    bearer_of,
    digest_of,
    is_among,
    parse_accept_lines,
)

FILE_BYTES_MAX = 65_536
LOOK_AGAIN_SECONDS = 0.05
"""As LOOK_SECONDS, where a token is not known: strangers cause at most so many looks."""


class AcceptFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file, and the principal that its hashes stand for. `place` is its setting."""

    place: str
    path: str
    principal: Principal


class TokenCallers:
    """`Callers` by their tokens. `open` reads the files first.

    While a file cannot be read or understood, what it held before counts on: a file is often
    replaced in two steps. An empty file revokes all of its tokens, at a start too, and a warning
    says so. Of others only the first read is refused.
    """

    def __init__(
        self,
        files: tuple[AcceptFile, ...],
        *,
        warn: Warn,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._warn = warn
        self._monotonic = monotonic
        self._marks: dict[str, Mark] = {}
        self._accepted: dict[str, tuple[bytes, ...]] = {}
        self._warned: dict[str, str] = {}
        self._said: list[str] = []
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    async def open(self) -> None:
        """Read the files. Raises ConfigurationError, a line for each that is wrong."""
        problems = await asyncio.to_thread(self._read)
        problems += self._twice()
        if problems:
            raise ConfigurationError("\n".join(problems))
        self._said = self._emptied()
        for line in (*self._said, *await asyncio.to_thread(_exposed, self._files)):
            self._warn(line)
        self._looked_at = self._monotonic()

    async def identify(self, request: Request) -> Principal:
        """See `Callers`."""
        if request.local_user:
            return local(request.local_user)
        stranger = PLATFORM if request.door is Door.ADMIN else STRANGER
        shown = request.headers.getall(AUTHORIZATION, ())
        token = bearer_of(shown)
        if token is None and is_console(request.path):
            token = basic_token_of(shown)  # nowhere else: a browser adds it to what any page sends
        if self._monotonic() - self._looked_at >= LOOK_SECONDS:
            await self._look(LOOK_SECONDS)
        if token is None:
            return stranger
        found = self._principal(token)
        if found is None:  # it may have been written just now
            await asyncio.sleep(self._looked_at + LOOK_AGAIN_SECONDS - self._monotonic())
            await self._look(LOOK_AGAIN_SECONDS)
            found = self._principal(token)
        return stranger if found is None else found

    def _principal(self, token: str) -> Principal | None:
        """The principal whose token it is. All are compared, whichever fits."""
        found, shown = None, digest_of(token)
        for file in self._files:
            if is_among(shown, self._accepted.get(file.place, ())):
                found = file.principal
        return found

    async def _look(self, seconds: float) -> None:
        """Read what has changed, unless another request did that within the last `seconds`."""
        async with self._looking:
            if self._monotonic() - self._looked_at < seconds:
                return
            self._looked_at = self._monotonic()
            for problem in await asyncio.to_thread(self._read):
                self._warn(f"{problem}; what it held before still counts")
            wrong = [*self._twice(), *self._emptied()]
            for problem in wrong:
                if problem not in self._said:
                    self._warn(problem)
            self._said = wrong

    def _read(self) -> list[str]:
        """Read each file that has changed; a line for each that is wrong, said once."""
        problems: list[str] = []
        for file in self._files:
            try:
                mark = mark_of(file.path)
                if mark != self._marks.get(file.place):
                    self._accepted[file.place] = parse_accept_lines(_text(file.path))
                    self._marks[file.place] = mark
                self._warned.pop(file.place, None)
            except OSError as error:
                self._add(problems, file, f"cannot be read ({error.strerror}): write it")
            except ValueError as error:
                self._add(problems, file, str(error))
        return problems

    def _add(self, problems: list[str], file: AcceptFile, text: str) -> None:
        problem = f"{file.place}.accept_file {file.path} {text}"
        if self._warned.get(file.place) != problem:
            self._warned[file.place] = problem
            problems.append(problem)

    def _emptied(self) -> list[str]:
        """A line for each file without a hash: its tokens were revoked, or a disk was full."""
        return [
            f"{file.place}.accept_file {file.path} holds no hash, so that no token of it counts:"
            " `stage keys new` writes one"
            for file in self._files
            if not self._accepted.get(file.place, (b"",))
        ]

    def _twice(self) -> list[str]:
        """A line for each hash that stands for two principals: a token has one name."""
        owner: dict[bytes, str] = {}
        problems = []
        for file in self._files:
            for digest in self._accepted.get(file.place, ()):
                other = owner.setdefault(digest, file.place)
                if other != file.place:
                    problems.append(
                        f"{other} and {file.place} accept the same token: give each its own"
                    )
        return problems


def _exposed(files: tuple[AcceptFile, ...]) -> list[str]:
    """A line for each file that others than its owner may write.

    To write a hash there gives a caller a name here. To read it gives nothing away.
    """
    found = []
    for file in files:
        mode = stat.S_IMODE(os.stat(file.path).st_mode)
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            found.append(
                f"{file.place}.accept_file {file.path} may be written by others: chmod 600 it"
            )
    return found


def _text(path: str) -> str:
    with open(path, "rb") as stream:
        body = stream.read(FILE_BYTES_MAX + 1)
    if len(body) > FILE_BYTES_MAX:
        raise ValueError(f"is larger than {FILE_BYTES_MAX} bytes: shorten it")
    try:
        return body.decode("utf-8-sig")  # some editors put a mark before the first byte
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8: write it anew") from None
