"""`Stage` as authors import it: a declaration that can also be served.

A declaration does not know how it is served. This class stands above `bootstrap` and joins the two.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Generic

from stage.authoring.declaration import A, P, StageDeclaration

if TYPE_CHECKING:
    from aiohttp import web
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from stage.config import Config
    from stage.inbound.asgi import AsgiApplication


class Stage(StageDeclaration[P, A], Generic[P, A]):
    __doc__ = StageDeclaration.__doc__

    async def app(
        self,
        config: Config | None = None,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> web.Application:
        """The aiohttp application. Without a `config` the environment configures it.

        Spans are made by the `tracer_provider` and metrics by the `meter_provider`, otherwise by
        those of the process.

        A factory: with `app = payment.app` in the module, gunicorn takes `module:app` and
        `web.run_app` takes `app()`; `add_subapp` takes what awaiting it gives.

        Raises DeclarationError and ConfigurationError with the fix in the message.
        """
        from stage.bootstrap import build_app  # loads every room, so only where a stage is served
        from stage.config import load

        return build_app(
            self,
            load({}, os.environ) if config is None else config,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
        )

    def asgi(
        self,
        config: Config | None = None,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> AsgiApplication:
        """The ASGI application: `app = payment.asgi()` for uvicorn, or to mount in FastAPI.

        Without a `config` the environment is read when its lifespan begins, which also opens the
        database. Where it is mounted, the outer application has to run its `lifespan`.
        """
        from stage.bootstrap import build_asgi
        from stage.config import load

        return build_asgi(
            self,
            lambda: load({}, os.environ) if config is None else config,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
        )
