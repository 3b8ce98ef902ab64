"""The watch over author code: its thread, its page beside the database, and its reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stage.engine.watchdog import Watchdog
from stage.ports.author_code import StuckCode
from stage.store.suspects import SuspectsPage
from stage.telemetry import logs, names
from stage.telemetry.metrics import Metrics


class AuthorCodeWatch:
    """Opened while the database is open: its lock guards the page too."""

    def __init__(self, page: SuspectsPage, metrics: Metrics, *, stuck_seconds: float) -> None:
        self._page = page
        self._metrics = metrics
        self.code = Watchdog(page, self._report, stuck_seconds=stuck_seconds)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Watch while the context lasts."""
        try:
            try:
                await asyncio.to_thread(self._page.open)
            except OSError as error:  # to serve without it is better than not to serve
                detail = f"the page of suspects cannot be mapped: {error}"
                logs.default_logger().warning(names.LOG_SUSPECTS_OFF, detail=detail)
            self.code.start()
            yield
        finally:
            self.code.stop()
            self._page.close()

    def _report(self, stuck: StuckCode) -> None:
        self._metrics.stuck(stuck)
        logs.report_stuck(stuck)
