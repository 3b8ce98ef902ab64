"""The certificate that a caller has shown, verified by the listener: its names and its end."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import msgspec

DNS, URI = "DNS", "URI"


class ClientCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """The members of it that count here. `names` are its subject alternative names: `DNS:order`.

    `expires_at` is a time of the wall clock: a connection may outlive its certificate.
    """

    names: frozenset[str]
    expires_at: float


def certificate_of(found: Mapping[str, Any] | None) -> ClientCertificate | None:
    """The certificate from the dictionary of `ssl`; None without one. A common name is no name."""
    if not found:
        return None
    return ClientCertificate(
        names=frozenset(
            name_of(kind, value)
            for kind, value in found.get("subjectAltName", ())
            if kind in (DNS, URI)
        ),
        expires_at=float(ssl.cert_time_to_seconds(found["notAfter"])),
    )


def name_of(kind: str, value: str) -> str:
    """One name as it is compared: a host in any case, an address of a workload as it stands."""
    return f"{kind}:{value.lower() if kind == DNS else value}"


def names_expected(name: str, accept_san: str) -> frozenset[str]:
    """The names by which a caller is known: `accept_san` where it is set, or its own."""
    if not accept_san:
        return frozenset((name_of(DNS, name), name_of(URI, name)))
    return frozenset((name_of(URI if ":" in accept_san else DNS, accept_san),))
