"""A chain in which every caller has a name: hashes in files, and tokens to show."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stage.neighbours.shared.tokens import Keys
from stage.ports.connection import Connection
from stage.ports.operator import Operator, Role
from stage.wire.tokens import accept_line, digest_of
from tests.scenario.chain import Chain, running_chain

UPSTREAMS = ("order", "web")
"""Two, so that there is a foreign one. `web` is an orchestrator: it has no address."""
OPERATORS = {"vera": Role.VIEWER, "olga": Role.OPERATOR, "ada": Role.ADMIN}
STAGE = "payment"


def token_of(name: str) -> str:
    """The token of a caller, as long as a real one."""
    return f"{name}-".ljust(43, "t")


def bearer(token: str) -> str:
    """The header that shows a token."""
    return f"Bearer {token}"


def shown_by(name: str) -> str:
    """The header that a caller of that name shows."""
    return bearer(token_of(name))


def accept_file(folder: Path, name: str) -> Path:
    """The file with the hashes of a caller."""
    return folder / f"{name}.accept"


def write_accepted(folder: Path, name: str, *tokens: str) -> None:
    """Let a caller show those tokens."""
    lines = "".join(f"{accept_line(token)}\n" for token in tokens)
    accept_file(folder, name).write_text(lines)


@asynccontextmanager
async def named_chain(
    folder: Path, *, formerly: Mapping[str, tuple[str, ...]] = MappingProxyType({}), **options: Any
) -> AsyncIterator[Chain]:
    """`running_chain` with tokens on every link; `formerly` has former names of neighbours."""
    for name in (*UPSTREAMS, "shipping", *OPERATORS):
        write_accepted(folder, name, token_of(name))
    (folder / "payment.token").write_text(token_of(STAGE))

    def connect(name: str, url: str) -> Connection:
        if name == "psp":
            return Connection(url=url)
        return Connection(
            url=url,
            accept_file=str(accept_file(folder, name)),
            token_file=str(folder / "payment.token"),
            formerly=formerly.get(name, ()),
        )

    accepted = (digest_of(token_of(STAGE)),)
    async with running_chain(
        folder,
        auth="tokens",
        connect=connect,
        orchestrators={"web": Connection(accept_file=str(accept_file(folder, "web")))},
        keys={
            name: Keys(token=token_of(name), accepted=accepted) for name in ("order", "shipping")
        },
        operators={
            name: Operator(accept_file=str(accept_file(folder, name)), role=role)
            for name, role in OPERATORS.items()
        },
        **options,
    ) as chain:
        yield chain
