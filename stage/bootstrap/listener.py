"""The listener's TLS, as the operator has configured it."""

from __future__ import annotations

from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.inbound.tls import ListenerFiles, ListenerTls
from stage.telemetry import logs

_SETTINGS = ("tls_cert", "tls_key", "tls_client_ca")


def listener_tls(config: Config) -> ListenerTls | None:
    """The TLS of every port; None for plain HTTP. Raises ConfigurationError with the fix."""
    if not config.tls_cert:
        if given := _given(config):
            raise ConfigurationError(
                f"{given} is set without tls_cert: give the certificate too, or remove it"
            )
        return None
    files = ListenerFiles(cert=config.tls_cert, key=config.tls_key, client_ca=config.tls_client_ca)
    return ListenerTls(files, warn=_warn)


def check_not_ours(config: Config) -> None:
    """Raises ConfigurationError for a setting that a server which is not ours would leave out."""
    if config.admin_port is not None:
        raise ConfigurationError(
            "admin_port is set, and `stage serve` alone opens it: remove the setting; operators and"
            " what reads /metrics show tokens at the port of the server that serves this"
            " application"
        )
    if given := _given(config):
        raise ConfigurationError(
            f"{given} is set, and `stage serve` alone listens with it: give the certificate to the"
            " server that serves this application, and remove the setting"
        )


def _given(config: Config) -> str:
    return next((name for name in _SETTINGS if getattr(config, name)), "")


def _warn(detail: str) -> None:
    logs.default_logger().warning("certificate_file", detail=detail)
