"""Whether a simulated world is at rest, and what keeps it from that (I5)."""

from __future__ import annotations

from collections.abc import Sequence

from stage.simulation.books import Books
from stage.simulation.neighbours import Client, Tail
from stage.simulation.network import Network
from stage.simulation.node import Node
from stage.simulation.restores import Restores


class Rest:
    """The rest of a world: nothing is due, and nobody waits for anything but a person."""

    def __init__(
        self,
        nodes: Sequence[Node],
        client: Client,
        tail: Tail | None,
        network: Network,
        books: Books,
        restores: Restores,
    ) -> None:
        self._restores = restores
        self._nodes = nodes
        self._client = client
        self._tail = tail
        self._network = network
        self._books = books

    def reached(self, *, silent: bool) -> bool:
        """Every process is back, no message is under way, and nothing is due.

        A saga that waits for a person is asked for ever by its neighbours, and where several do,
        no instant is `silent`; it still tells upstream.
        """
        spoken_of = self._network.spoken_of()
        return (
            not self._network.out
            and not self._restores.busy
            and all(node.whole for node in self._nodes)
            and not (spoken_of if silent else [one for one in spoken_of if not self.waits(one)])
            and all(order.done or self.waits(order.saga) for order in self._client.orders.values())
            and all(not order.is_turning for order in self._client.orders.values())
            and all(
                known.row.due_at is None or (self.waits(saga) and not known.row.parked)
                for (_, saga), known in self._books.known.items()
            )
            and (
                self._tail is None
                or (
                    not self._tail.failing
                    and all(
                        over or self.waits(saga) for saga, over in self._tail.late_failures.items()
                    )
                )
            )
        )

    def waits(self, saga: str) -> bool:
        """A saga next to a parked one retries indefinitely."""
        return any(
            known is not None and known.row.parked
            for known in (self._books.known.get((node.name, saga)) for node in self._nodes)
        )

    def report(self) -> None:
        """Say which of them is not at rest, as a violation of I5."""
        for (stage, saga), known in self._books.known.items():
            if known.row.due_at is not None and (known.row.parked or not self.waits(saga)):
                self._books.violate("I5", saga, f"{stage} is {known.row.state} and never rests")
                return
        for order in self._client.orders.values():
            if not order.done and not self.waits(order.saga):
                self._books.violate("I5", order.saga, f"the client waits for ever: {order.verdict}")
                return
        for saga, over in self._tail.late_failures.items() if self._tail is not None else ():
            if not over and not self.waits(saga):
                self._books.violate("I5", saga, "the tail's late failure is never taken over")
                return
        down = [node.name for node in self._nodes if not node.whole]
        if down:
            self._books.violate("I5", "", f"{', '.join(down)} never comes back")
            return
        spoken_of = [saga for saga in self._network.spoken_of() if not self.waits(saga)]
        self._books.violate("I5", "", f"messages of {spoken_of} are on their way for ever")
