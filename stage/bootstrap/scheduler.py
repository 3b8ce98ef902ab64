"""The scheduler that is configured: recovery in this process, or Temporal."""

from __future__ import annotations

from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.engine.embedded.recovery import Recovery
from stage.engine.embedded.scheduler import MakeScheduler
from stage.ports.store import Store
from stage.telemetry import logs

EMBEDDED = "embedded"
SDK_MISSING = "engine is temporal, which needs temporalio: pip install 'saga-stage[temporal]'"

OF_TEMPORAL = (
    *("temporal_address", "temporal_ca_file", "temporal_client_cert", "temporal_client_key"),
    "temporal_api_key_file",
)
"""Settings that mean nothing to the embedded engine."""


def scheduler_of(config: Config, store: Store, stage: str) -> MakeScheduler:
    """The function that makes it. Raises ConfigurationError."""
    if config.engine == EMBEDDED:
        for name in OF_TEMPORAL:
            if getattr(config, name):
                raise ConfigurationError(
                    f"{name} is set, and engine is embedded: add --engine temporal"
                )
        return Recovery
    if not config.temporal_address:
        raise ConfigurationError(
            "engine is temporal, and temporal_address is not set: add --temporal-address HOST:PORT"
        )
    try:
        from stage.engine.temporal.credentials import TemporalFiles
        from stage.engine.temporal.scheduler import TemporalSettings, temporal_scheduler
    except ModuleNotFoundError:
        raise ConfigurationError(SDK_MISSING) from None
    files = TemporalFiles(
        ca_file=config.temporal_ca_file,
        client_cert=config.temporal_client_cert,
        client_key=config.temporal_client_key,
        api_key_file=config.temporal_api_key_file,
    )
    files.check()
    settings = TemporalSettings(
        address=config.temporal_address,
        namespace=config.temporal_namespace,
        files=files,
        lease_seconds=config.lease_seconds,
    )
    return temporal_scheduler(settings, store, stage, _warn)


def _warn(detail: str) -> None:
    logs.default_logger().warning("temporal_away", detail=detail)
