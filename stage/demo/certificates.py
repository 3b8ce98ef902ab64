"""The certificates of the demo: an authority of its own for each run, in its temporary folder.

The key of the authority is written nowhere: nothing can be signed once the demo has started.
`cryptography` makes them. A stage needs it for no TLS, so the demo asks for it and goes without.
"""

from __future__ import annotations

import datetime
import importlib.util
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

ADDRESS = "127.0.0.1"
VALID = datetime.timedelta(days=7)
"""Longer than somebody leaves the chain of `--keep` running."""
EARLIER = datetime.timedelta(hours=1)
"""A clock that is set back a little while the demo runs does no harm."""


def can_be_made() -> bool:
    """Whether the library is there."""
    return importlib.util.find_spec("cryptography") is not None


class Certificates:
    """One certificate for each service: NAME.pem and NAME.key, signed by the one in ca.pem."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._folder = folder
        self._names = names
        self.ca_file = folder / "ca.pem"

    def write(self) -> None:
        """Write all files; the keys are for their owner alone."""
        from cryptography.hazmat.primitives import serialization as form
        from cryptography.hazmat.primitives.asymmetric import ec

        authority, pem = ec.generate_private_key(ec.SECP256R1()), form.Encoding.PEM
        self.ca_file.write_bytes(_signed("the demo", authority, authority).public_bytes(pem))
        for name in self._names:
            key = ec.generate_private_key(ec.SECP256R1())
            self._file(name, "pem").write_bytes(_signed(name, key, authority).public_bytes(pem))
            self._file(name, "key").touch(mode=0o600)
            self._file(name, "key").write_bytes(
                key.private_bytes(pem, form.PrivateFormat.PKCS8, form.NoEncryption())
            )

    def of_listener(self, name: str) -> list[str]:
        """Options of whatever listens."""
        return [
            *("--tls-cert", str(self._file(name, "pem"))),
            *("--tls-key", str(self._file(name, "key"))),
        ]

    def of_stub(self, name: str) -> list[str]:
        """Options of a service that listens, and calls another one."""
        return [*self.of_listener(name), "--ca-file", str(self.ca_file)]

    def of_stage(self) -> list[str]:
        """Options of the stage: its own certificate, and its belief in those of its peers."""
        peers = (("--upstream", "order"), ("--downstream", "shipping"), ("--external", "psp"))
        options = self.of_listener("payment")
        for option, name in peers:
            options += [option, f"{name}.ca_file={self.ca_file}"]
        return options

    def _file(self, name: str, end: str) -> Path:
        return self._folder / f"{name}.{end}"


def _signed(
    name: str, key: EllipticCurvePrivateKey, authority: EllipticCurvePrivateKey
) -> x509.Certificate:
    """The certificate of a key: of the authority itself, or of a service at ADDRESS."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    own = key is authority
    address = x509.IPAddress(ipaddress.ip_address(ADDRESS))
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named("the demo"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=own, path_length=None), critical=True)
    )
    if not own:
        sans = x509.SubjectAlternativeName([x509.DNSName(name), address])
        builder = builder.add_extension(sans, critical=False)
    return builder.sign(authority, hashes.SHA256())
