"""TLS of a small service: the certificate that it shows, and the authorities that it believes.

Read once, at the start.
"""

from __future__ import annotations

import argparse
import ssl

import aiohttp


def add_listener_options(parser: argparse.ArgumentParser) -> None:
    """The options of a service that is reached by https."""
    parser.add_argument(
        "--tls-cert", default="", metavar="FILE", help="its certificate (PEM): serve https"
    )
    parser.add_argument(
        "--tls-key", default="", metavar="FILE", help="the key, where --tls-cert has none"
    )


def add_ca_option(parser: argparse.ArgumentParser) -> None:
    """The option of a service that calls others by https."""
    parser.add_argument(
        "--ca-file", default="", metavar="FILE", help="believe these authorities alone (PEM)"
    )


def listener_context(options: argparse.Namespace) -> ssl.SSLContext | None:
    """The TLS of the listener, None for plain http. Raises ValueError that names the file."""
    if not options.tls_cert:
        if options.tls_key:
            raise ValueError("--tls-key without --tls-cert: add the certificate, or remove it")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key or None)
    except OSError as error:
        files = " and ".join(file for file in (options.tls_cert, options.tls_key) if file)
        raise ValueError(f"{files}: {error}") from None
    return context


def caller_context(ca_file: str) -> ssl.SSLContext | None:
    """The TLS of requests; None is the usual one. Raises ValueError that names the file."""
    if not ca_file:
        return None
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ValueError(f"{ca_file}: {error}") from None


def connector(context: ssl.SSLContext | None) -> aiohttp.TCPConnector:
    """The connections of a client session. Certificates are verified in any case."""
    return aiohttp.TCPConnector(ssl=context or True)
