"""The payment service on DBOS: a workflow of datasource transactions and steps.

Transactions go through a datasource, so that the author's write and the checkpoint are one commit.
"""

from __future__ import annotations

import asyncio
from typing import Any

from dbos import DBOS, AsyncSQLAlchemyDatasource, DBOSConfig, SetWorkflowID
from sqlalchemy import text

from benchmarks.peers.services.work import (
    TABLE,
    Envelope,
    Neighbours,
    Refused,
    answer_of,
    options,
    serve,
)

INSERT = text(
    "INSERT INTO payment VALUES (:saga_id, :order_id, :amount, :currency, 'pending', NULL)"
)
CHARGED = text("UPDATE payment SET state = 'charged', charge_id = :charge WHERE saga_id = :saga_id")
RELEASED = text("UPDATE payment SET state = 'released' WHERE saga_id = :saga_id")


async def main() -> None:
    """Serve until the process is ended."""
    # Long because DBOS takes the functions of a service by decorators, which need its objects.
    given = options("system", "database")
    config: DBOSConfig = {
        "name": "payment",
        "system_database_url": given.system,
        "log_level": "WARNING",
    }
    DBOS(config=config)
    source = await AsyncSQLAlchemyDatasource.create(given.database)
    async with source.engine.begin() as connection:
        await connection.execute(text(TABLE))
    neighbours = Neighbours(given.neighbours)

    @source.transaction()
    async def reserve(envelope: Envelope) -> None:
        data = envelope["data"]
        row = {name: data[name] for name in ("order_id", "amount", "currency")}
        await source.sql_session().execute(INSERT, {"saga_id": envelope["saga_id"], **row})

    @source.transaction()
    async def record(saga_id: str, charge: str) -> None:
        await source.sql_session().execute(CHARGED, {"saga_id": saga_id, "charge": charge})

    @source.transaction()
    async def release(saga_id: str) -> None:
        await source.sql_session().execute(RELEASED, {"saga_id": saga_id})

    @DBOS.step()
    async def charge(envelope: Envelope) -> str:
        return await neighbours.charge(envelope)

    @DBOS.step()
    async def refund(envelope: Envelope) -> None:
        await neighbours.refund(envelope)

    @DBOS.step()
    async def hand_on(envelope: Envelope, charge_id: str) -> dict[str, Any]:
        return await neighbours.hand_on(envelope, charge_id)

    @DBOS.workflow()
    async def payment(envelope: Envelope) -> dict[str, Any]:
        await reserve(envelope)
        try:
            charge_id = await charge(envelope)
            await record(envelope["saga_id"], charge_id)
            added = await hand_on(envelope, charge_id)
        except Refused:
            await refund(envelope)
            await release(envelope["saga_id"])
            raise
        return answer_of(envelope, charge_id, added)

    async def run(envelope: Envelope) -> dict[str, Any]:
        with SetWorkflowID(envelope["saga_id"]):
            return await payment(envelope)

    DBOS.launch()
    await serve(given.port, run)


if __name__ == "__main__":
    asyncio.run(main())
