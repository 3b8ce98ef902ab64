"""The files of tokens that callers may show: what a rotation, a revocation and a slip do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stage.core.errors import ConfigurationError
from stage.inbound.accept_files import AcceptFile, TokenCallers
from stage.inbound.principal import Kind, Principal
from stage.inbound.request import HeaderPairs, Request
from stage.ports.file_marks import LOOK_SECONDS
from stage.wire.tokens import accept_line
from tests.unit.outbound.test_credentials import Seconds

OLD, NEW = "o" * 43, "n" * 43


class Callers:
    """The upstream `order`, with the file of its tokens."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "order.accept"
        self.warned: list[str] = []
        self.seconds = Seconds()
        principal = Principal(kind=Kind.UPSTREAM, name="order")
        self._file = AcceptFile(place="upstreams.order", path=str(self.path), principal=principal)
        self.tokens = self.made()

    def made(self) -> TokenCallers:
        """As a start makes them."""
        return TokenCallers((self._file,), warn=self.warned.append, monotonic=self.seconds)

    def write(self, *tokens: str) -> None:
        """Write the file in place, readable for its owner alone."""
        self.path.write_text("".join(f"{accept_line(token)}\n" for token in tokens))
        self.path.chmod(0o600)

    async def knows(self, token: str) -> bool:
        """Whether it is the token of a caller, a second later."""
        self.seconds.now += LOOK_SECONDS
        headers = HeaderPairs((("Authorization", f"Bearer {token}"),))
        request = Request(method="GET", path="/sagas/s", headers=headers)
        return (await self.tokens.identify(request)).name == "order"


@pytest.fixture
def callers(tmp_path: Path) -> Callers:
    return Callers(tmp_path)


@pytest.mark.blocking  # the test writes files
async def test_an_emptied_file_revokes_its_tokens_and_says_so(callers: Callers) -> None:
    """A full disk does that too. The next start is the same, and is not refused."""
    callers.write(OLD)
    await callers.tokens.open()
    assert await callers.knows(OLD)
    callers.write()
    assert [False] * 3 == [await callers.knows(OLD) for _ in range(3)]
    (line,) = callers.warned
    assert line.startswith(f"upstreams.order.accept_file {callers.path} holds no hash")
    callers.tokens = callers.made()
    await callers.tokens.open()
    assert 2 * [line] == callers.warned
    assert not await callers.knows(OLD)
    callers.write(NEW)
    assert await callers.knows(NEW)


@pytest.mark.blocking  # the test writes files
async def test_a_file_that_is_gone_or_half_written_revokes_nothing(callers: Callers) -> None:
    """It may be in the middle of being replaced. At a start it is refused."""
    callers.write(OLD)
    await callers.tokens.open()
    whole = callers.path.read_text()
    callers.path.write_text(whole[:20])
    assert await callers.knows(OLD)
    callers.path.unlink()
    assert await callers.knows(OLD)
    assert 2 == len(callers.warned)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await callers.made().open()


@pytest.mark.blocking  # the test writes files
async def test_a_file_of_another_system_holds_the_same_hashes(callers: Callers) -> None:
    """With a mark before its first byte, and other ends of lines; one of UTF-16 is refused."""
    line = accept_line(OLD)
    callers.path.write_bytes(f"\ufeff{line}\r\n".encode())
    await callers.tokens.open()
    assert await callers.knows(OLD)
    callers.path.write_bytes(f"{line}\r\n".encode("utf-16"))
    with pytest.raises(ConfigurationError, match="is not UTF-8: write it anew"):
        await callers.made().open()


@pytest.mark.blocking  # the test writes files
async def test_a_file_of_the_same_size_and_time_is_read_anew(callers: Callers) -> None:
    """Tokens are all as long, and a tool that unpacks files may give all of them one time."""
    callers.write(OLD)
    before = callers.path.stat()
    await callers.tokens.open()
    callers.write(NEW)
    os.utime(callers.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = callers.path.stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
    assert await callers.knows(NEW)
    assert not await callers.knows(OLD)
