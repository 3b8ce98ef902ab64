"""The chain of the demo with nginx in front of order, payment and shipping."""

from __future__ import annotations

from pathlib import Path

from stage.demo.chain import Chain, free_ports, url
from tests.acceptance.gateway.nginx import Nginx


class ChainBehindNginx(Chain):
    """Every request between neighbours passes nginx; the external API is reached directly."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        order, payment, shipping = free_ports(3)
        self.nginx = Nginx(
            folder,
            {
                order: self.order.port,
                payment: self.payment.port,
                shipping: self.shipping.port,
            },
        )
        self.order = self._service(
            "order",
            self.order.port,
            *("stage.neighbours.upstream", "--name", "order", "--stage", url(payment)),
            *self.keys.of_stub("order"),
        )
        self.shipping = self._service(
            "shipping",
            self.shipping.port,
            *("stage.neighbours.downstream", "--name", "shipping", "--upstream", url(payment)),
            *self.keys.of_stub("shipping"),
        )
        self.payment = self._service(
            "payment",
            self.payment.port,
            *("stage", "serve", "stage.demo.payment:payment"),
            *("--database", f"sqlite:///{folder / 'payment.db'}"),
            *("--upstream", f"order={url(order)}"),
            *("--downstream", f"shipping={url(shipping)}"),
            *("--external", f"psp={url(self.psp.port)}"),
            *self.keys.of_stage(),
        )

    async def start(self) -> None:
        """Start nginx and the services."""
        await self.nginx.start()
        await super().start()

    async def stop(self) -> None:
        """Stop all of them."""
        await super().stop()
        await self.nginx.stop()
