"""Wires what `stage reconcile` needs: the store of a stopped stage, and its neighbours."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from stage.authoring.declaration import StageDeclaration
from stage.bootstrap.credentials import credentials_of
from stage.bootstrap.database import (
    database_server,
    make_store,
    migration_folders,
    open_database,
    open_server_database,
)
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.engine.clock import SystemClock
from stage.engine.live_reconcile import Reconciling
from stage.engine.reconcile import (
    Belongs,
    Reconciler,
    Reconciliation,
    all_belong,
    answers_of,
    check_names,
)
from stage.engine.saga.adoption import Adoption
from stage.engine.saga.interpreter import Interpreter
from stage.engine.saga.journal import Journal
from stage.engine.saga.versions import Versions
from stage.outbound.client import PeerClient
from stage.outbound.peers import http_peers
from stage.outbound.transport import Transport
from stage.ports.clock import Clock
from stage.ports.neighbour import Neighbours
from stage.ports.stage import Participant, family_of
from stage.ports.store import Store
from stage.store.postgres.address import POSTGRESQL
from stage.telemetry.null import NullObserver
from stage.wire.answers import render_ending

STOP_OR_ASK: Final = (
    "a saga that the database lacks may be on its way there. Stop it, or let it take the lost sagas"
    " over while it is up: /console/reconcile, or POST /reconcile"
)


# Many because it has the choices of a person beside the stage and its settings.
async def reconcile(
    stage: StageDeclaration[Any, Any],
    config: Config,
    *,
    since: float | None,
    without: Mapping[str, str],
    dry_run: bool,
    belongs: Belongs = all_belong,
    under_these_names: bool = False,
) -> Reconciliation:
    """Ask the neighbours, adopt what was lost, and remember who was asked.

    `without` names neighbours that are not asked, with the reason. `belongs` says whether a saga
    that the database lacks would be in it, and at no other shard. `under_these_names` is the word
    that lost sagas made their calls under the names of this release. Raises ConfigurationError.
    """
    peers = tuple(dict.fromkeys((*config.upstreams, *config.downstreams)))
    if not peers:
        raise ConfigurationError(
            "no neighbour is configured, so nobody would be asked: give every --upstream and"
            " --downstream of the stage"
        )
    if not dry_run and config.database.startswith(POSTGRESQL):
        await asyncio.to_thread(_refuse_beside_replicas, stage, config)
    found = await _ask(
        stage,
        config,
        peers,
        without,
        since=since,
        dry_run=dry_run,
        belongs=belongs,
        under_these_names=under_these_names,
    )
    if not dry_run:
        # A database on a server runs an event loop of its own.
        await asyncio.to_thread(_remember, stage, config, answers_of(found, without))
    return found


def _refuse_beside_replicas(stage: StageDeclaration[Any, Any], config: Config) -> None:
    """Raise ConfigurationError while a replica serves. A file has a lock for that."""
    server = database_server(stage, config)
    with open_server_database(server, migration_folders(stage), make=False) as database:
        database.refuse_beside_replicas(STOP_OR_ASK)


async def _refuse_company(store: Store) -> None:
    """Raise ConfigurationError where a replica has come while the neighbours were asked."""
    await store.ownership.renew()
    if store.ownership.share.replicas > 1:
        raise ConfigurationError(
            f"a replica began to serve from the database meanwhile: {STOP_OR_ASK}"
        )


def _remember(
    stage: StageDeclaration[Any, Any], config: Config, answers: Mapping[str, str]
) -> None:
    with open_database(stage, config) as database:
        database.reconciled(answers)


# Long and many because it wires the rooms that a question to neighbours needs, and closes them.
async def _ask(
    stage: StageDeclaration[Any, Any],
    config: Config,
    peers: Sequence[str],
    without: Mapping[str, str],
    *,
    since: float | None,
    dry_run: bool,
    belongs: Belongs,
    under_these_names: bool,
) -> Reconciliation:
    credentials = credentials_of(stage, config)
    clock, transport = SystemClock(), Transport()
    neighbours = http_peers(
        PeerClient(transport, clock=clock, observer=NullObserver()),
        externals={},
        downstreams=config.downstreams,
        upstreams=config.upstreams,
        credentials=credentials,
    ).neighbours
    store = make_store(stage, replace(config, database_must_exist=True))
    await credentials.open()
    await store.open(upgrade=not dry_run)
    try:
        await transport.open()
        adoption = _adoption(stage, config, store, clock, neighbours)
        names = tuple(dict.fromkeys(each.name for each in stage.family()))
        reconciler = Reconciler(names, store, neighbours, adoption, clock, belongs=belongs)
        as_of = store.identity.restored_as_of if since is None else since
        if as_of is None:
            raise ConfigurationError(
                "the database was not restored: give --since, the instant from which sagas are"
                " missing"
            )
        found = await reconciler.reconcile(peers, as_of, without)
        if not dry_run:
            if not under_these_names:
                check_names(found, "--under-these-names")
            await _refuse_company(store)
            await reconciler.adopt(found)
        return found
    finally:
        await transport.close()
        await store.close()


def reconciling_of(
    config: Config, participant: Participant, store: Store, neighbours: Neighbours, clock: Clock
) -> Reconciling:
    """The reconciliation of a stage that is up, in its own store."""
    peers = tuple(dict.fromkeys((*config.upstreams, *config.downstreams)))

    def adoption() -> Adoption:
        return adoption_in(participant, store, clock, neighbours, config.upstreams)

    names = tuple(dict.fromkeys(each.plan.stage for each in family_of(participant)))
    return Reconciling(names, store, neighbours, peers, clock, adoption)


def _adoption(
    stage: StageDeclaration[Any, Any],
    config: Config,
    store: Store,
    clock: Clock,
    neighbours: Neighbours,
) -> Adoption:
    participant = stage.bind(
        tuple(config.downstreams), patience_seconds=config.compensation_patience_seconds
    )
    return adoption_in(participant, store, clock, neighbours, config.upstreams)


def adoption_in(
    participant: Participant,
    store: Store,
    clock: Clock,
    neighbours: Neighbours,
    upstreams: Collection[str],
) -> Adoption:
    """The adoption of lost sagas into an open store. Nobody observes it: nothing of them runs."""
    observer = NullObserver()
    versions = Versions(participant)
    return Adoption(
        Interpreter(versions, observer, clock),
        Journal(versions, observer, render_ending),
        store.codec,
        store.identity,
        neighbours.name_of_today,
        next(iter(upstreams)) if len(upstreams) == 1 else "",
    )
