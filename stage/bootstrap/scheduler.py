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


def scheduler_of(config: Config, store: Store, stage: str) -> MakeScheduler:
    """The function that makes it. Raises ConfigurationError."""
    if config.engine == EMBEDDED:
        if config.temporal_address:
            raise ConfigurationError(
                "temporal_address is set, and engine is embedded: add --engine temporal"
            )
        return Recovery
    if not config.temporal_address:
        raise ConfigurationError(
            "engine is temporal, and temporal_address is not set: add --temporal-address HOST:PORT"
        )
    if config.lane:
        raise ConfigurationError(
            "lane is set, and engine is temporal, which runs every saga itself: leave one of them"
        )
    try:
        from stage.engine.temporal.scheduler import TemporalSettings, temporal_scheduler
    except ModuleNotFoundError:
        raise ConfigurationError(SDK_MISSING) from None
    settings = TemporalSettings(
        address=config.temporal_address,
        namespace=config.temporal_namespace,
        lease_seconds=config.lease_seconds,
    )
    return temporal_scheduler(settings, store, stage, _warn)


def _warn(detail: str) -> None:
    logs.default_logger().warning("temporal_away", detail=detail)
