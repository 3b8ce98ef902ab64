"""The callers of a stage, as the operator has configured them (rule 36)."""

from __future__ import annotations

from collections.abc import Iterator

from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.inbound.accept_files import AcceptFile, TokenCallers
from stage.inbound.caller import Callers, Claims
from stage.inbound.certificate_callers import CertificateCallers
from stage.inbound.client_certificate import names_expected
from stage.inbound.principal import Kind, Principal
from stage.ports.connection import Connection, connection_of
from stage.telemetry import logs

NONE = "none"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def callers_of(config: Config) -> TokenCallers | CertificateCallers | Claims:
    """Finds the principal of each request; `open_callers` it before the first comes in.

    Raises ConfigurationError for a neighbour that has no way to show its name.
    """
    if config.auth == NONE:
        return Claims()
    _check_neighbours(config)
    tokens = TokenCallers(tuple(_accept_files(config)), warn=_warn)
    return CertificateCallers(_certified(config), tokens) if config.tls_client_ca else tokens


async def open_callers(callers: Callers) -> None:
    """Read the files. Raises ConfigurationError."""
    if isinstance(callers, TokenCallers | CertificateCallers):
        await callers.open()
    else:
        _warn(
            "auth is none: everybody on this machine who reaches the port may start, compensate,"
            " settle and forget every saga, under any name"
        )


def check_loopback(config: Config) -> None:
    """Raises ConfigurationError for a stage that believes everybody, at a shared address."""
    if config.auth == NONE and config.host not in LOOPBACK:
        raise ConfigurationError(
            f"auth is none and host is {config.host}: listen on 127.0.0.1, or give each neighbour"
            " a token (`stage keys new NAME`)"
        )


def _check_neighbours(config: Config) -> None:
    """An upstream must be able to show its name here; a downstream is shown ours, at least."""
    problems = []
    for name, given in config.upstreams.items():
        if not (connection_of(given).accept_file or config.tls_client_ca):
            problems.append(f"upstream {name} has no accept_file, so it cannot start a saga")
    for name, given in config.downstreams.items():
        found = connection_of(given)
        if not (found.accept_file or found.token_file or found.client_cert or config.tls_client_ca):
            problems.append(f"downstream {name} has neither token_file nor accept_file")
    if problems:
        raise ConfigurationError(
            "\n".join(
                f"{problem}: let `stage keys new {problem.split()[1]}` write one, or on this"
                " machine alone give --auth none"
                for problem in problems
            )
        )


def _accept_files(config: Config) -> Iterator[AcceptFile]:
    neighbours = (
        ("upstreams", Kind.UPSTREAM, config.upstreams),
        ("downstreams", Kind.DOWNSTREAM, config.downstreams),
    )
    for setting, kind, peers in neighbours:
        for name, given in peers.items():
            if path := connection_of(given).accept_file:
                principal = _neighbour(kind, name, given)
                yield AcceptFile(place=f"{setting}.{name}", path=path, principal=principal)
    for name, operator in config.operators.items():
        if not operator.accept_file:
            continue
        principal = Principal(kind=Kind.OPERATOR, name=name, role=operator.role)
        yield AcceptFile(place=f"operators.{name}", path=operator.accept_file, principal=principal)


def _certified(config: Config) -> dict[str, Principal]:
    """The principal of each name in a certificate. An operator has to be given one.

    Raises ConfigurationError for a name that would stand for two.
    """
    found: dict[str, Principal] = {}
    for place, principal, names in _names(config):
        for each in names:
            other = found.setdefault(each, principal)
            if other != principal:
                raise ConfigurationError(
                    f"{place} has the name of {other.kind.value} {other.name!r} in its certificate:"
                    " give each an accept_san of its own"
                )
    return found


def _names(config: Config) -> Iterator[tuple[str, Principal, frozenset[str]]]:
    """Each caller with the names that its certificate may have, and its setting."""
    neighbours = (
        ("upstreams", Kind.UPSTREAM, config.upstreams),
        ("downstreams", Kind.DOWNSTREAM, config.downstreams),
    )
    for setting, kind, peers in neighbours:
        for name, given in peers.items():
            connection = connection_of(given)
            names = names_expected(name, connection.accept_san)
            if not connection.accept_san:  # otherwise another service may have a former name now
                names = names.union(*(names_expected(old, "") for old in connection.formerly))
            yield f"{setting}.{name}", _neighbour(kind, name, given), names
    for name, operator in config.operators.items():
        if operator.accept_san:
            principal = Principal(kind=Kind.OPERATOR, name=name, role=operator.role)
            yield f"operators.{name}", principal, names_expected(name, operator.accept_san)


def _neighbour(kind: Kind, name: str, given: str | Connection) -> Principal:
    return Principal(kind=kind, name=name, formerly=connection_of(given).formerly)


def _warn(detail: str) -> None:
    logs.default_logger().warning("callers", detail=detail)
