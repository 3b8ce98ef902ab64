"""All that can be known of a stage without serving it: its plan, and the slips that show already.

Each part is judged by the code that serves, so that what passes here starts there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Final

import msgspec

from stage.authoring.declaration import StageDeclaration
from stage.authoring.slips import slips_in
from stage.authoring.source import (
    blocking_in,
    dropped_in,
    request_beyond,
    statements_in,
    unawaited_in,
    waits_in,
)
from stage.authoring.steps import CallStep, DeclaredStep, ExternalStep, TransactionStep
from stage.bootstrap.binding import bind_configured
from stage.bootstrap.callers import callers_of, check_loopback, open_callers
from stage.bootstrap.credentials import credentials_of, webhooks_without_secret
from stage.bootstrap.database import is_there, migration_folders
from stage.bootstrap.database_files import Databases, open_all
from stage.bootstrap.encryption import codec_of
from stage.bootstrap.in_flight import misfits_in
from stage.bootstrap.listener import listener_tls
from stage.config import Config
from stage.core.errors import StageError
from stage.core.states import EXTERNAL_KINDS, LOCAL_KINDS
from stage.core.steps import Plan, Step, StepKind
from stage.store.migrate import OWNER, MigrationState, MigrationStatus
from stage.store.postgres.address import POSTGRESQL
from stage.store.sqlite.preparing import Preparing

_SYNTAX: Final = "syntax error"
_ELSEWHERE: Final = (
    ". In SQLite: where the stage is served on PostgreSQL, say so by --database, or by"
    " assert_no_slips(..., database='postgresql://')"
)


class Level(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """The stage would not start, or a saga of it would fail."""
    WARNING = "warning"
    NOTE = "note"


class About(StrEnum):
    """The part in which something was found."""

    PLAN = "plan"
    SOURCE = "source"
    SETTINGS = "settings"
    MIGRATIONS = "migrations"
    DATABASE = "database"
    SAGAS = "sagas"


class Finding(msgspec.Struct, frozen=True):
    """One thing that was found, with its fix."""

    level: Level
    about: About
    text: str


class StepChecked(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the plan, in words."""

    name: str
    kind: str
    to: str
    doubt: str
    """The way in which a call whose answer was lost is settled."""
    compensation: str
    """The compensation, or why there is none."""
    pivot: bool


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One stage, and what was found. `steps` is empty for a stage that could not be bound."""

    stage: str
    version: int = 1
    steps: list[StepChecked] = []
    statements: int = 0
    """Statements of transaction functions that were prepared on the tables of the migrations."""
    findings: list[Finding] = []

    @property
    def sound(self) -> bool:
        """True when nothing was found that would stop it."""
        return not any(finding.level is Level.ERROR for finding in self.findings)


def check_stage(stage: StageDeclaration[Any, Any], config: Config) -> Checked:
    """Judge a stage with its settings. The database is only read, and only where one is named."""
    findings = _Findings()
    plan = _plan(stage, config, findings)
    if plan is not None:
        _check_settings(stage, config, findings)
        _check_plan(stage, plan, config, findings)
    prepared = _check_source(stage, config, findings)
    if "database" in config.origins:
        with findings.of(About.DATABASE):
            _check_database(stage, config, findings, bound=plan is not None)
    return Checked(
        stage=stage.name,
        version=stage.lineage.version,
        steps=[] if plan is None else list(_steps(stage, plan)),
        statements=prepared,
        findings=findings.found,
    )


def refused(name: str, about: About, error: StageError) -> Checked:
    """All that is known of a stage whose module or whose settings were refused."""
    findings = _Findings()
    findings.refuse(about, error)
    return Checked(stage=name, findings=findings.found)


class _Findings:
    """Collects what is found."""

    def __init__(self) -> None:
        self.found: list[Finding] = []

    def add(self, level: Level, about: About, text: str) -> None:
        """Note one thing, once."""
        if (finding := Finding(level, about, text)) not in self.found:
            self.found.append(finding)

    def refuse(self, about: About, error: StageError) -> None:
        """Note a refusal: one finding for each of its lines."""
        for line in filter(None, map(str.strip, str(error).splitlines())):
            self.add(Level.ERROR, about, line)

    @contextmanager
    def of(self, about: About) -> Iterator[None]:
        """Note what is refused within, and go on behind it."""
        try:
            yield
        except StageError as error:
            self.refuse(about, error)


def _plan(stage: StageDeclaration[Any, Any], config: Config, findings: _Findings) -> Plan | None:
    try:
        return stage.bind(tuple(config.downstreams)).plan
    except StageError as error:
        findings.refuse(About.PLAN, error)
        return None


def _check_settings(stage: StageDeclaration[Any, Any], config: Config, findings: _Findings) -> None:
    """The settings as `stage serve` judges them, where any neighbour or API is configured."""
    if not _names_peers(config):
        text = "no peer is configured, so no setting of one was judged: give --config stage.toml"
        findings.add(Level.NOTE, About.SETTINGS, text)
        return
    for line in config.ignored:
        findings.add(Level.WARNING, About.SETTINGS, line)
    for line in webhooks_without_secret(stage, config):
        findings.add(Level.NOTE, About.SETTINGS, line)
    with findings.of(About.SETTINGS):
        check_loopback(config)
    with findings.of(About.SETTINGS):
        if (tls := listener_tls(config)) is not None:
            asyncio.run(tls.open())
    with findings.of(About.SETTINGS):
        asyncio.run(open_callers(callers_of(config)))
    with findings.of(About.SETTINGS):
        credentials = credentials_of(stage, config)
        asyncio.run(credentials.open())
        bind_configured(stage, config, credentials)


def _names_peers(config: Config) -> bool:
    return bool(config.upstreams or config.downstreams or config.externals)


def _check_plan(
    stage: StageDeclaration[Any, Any], plan: Plan, config: Config, findings: _Findings
) -> None:
    declared = {step.name: step for step in stage.steps}
    deadline, most = config.deadline_seconds_default, config.external_timeout_seconds_max
    for step in plan.steps:
        timeout = min(step.timeout_seconds, most or step.timeout_seconds)
        if step.kind in EXTERNAL_KINDS and timeout >= deadline:
            text = (
                f"{step.name} has a timeout of {timeout:g} s, and a saga without a deadline of its"
                f" own has {deadline:g} s (deadline_seconds_default): one attempt that hangs takes"
                " all of it. Give the time of one attempt, in seconds"
            )
            findings.add(Level.WARNING, About.PLAN, text)
        if step.kind in EXTERNAL_KINDS and not step.idempotent and not step.probed:
            lost = (
                "its answer is lost, or is 401 or 429"
                if step.kind is StepKind.CALL
                else ("it is not known how it ended")
            )
            text = (
                f"{step.name} says idempotent=False and has no probe: once {lost}, it waits for a"
                f" person. {_write_a_probe(declared.get(step.name))}"
            )
            findings.add(Level.WARNING, About.PLAN, text)
        elif step.pivot and not step.probed:
            text = (
                f"{step.name} is the pivot and has no probe: a saga whose deadline ends while"
                " nobody knows whether it has happened waits for a person."
                f" {_write_a_probe(declared.get(step.name))}"
            )
            findings.add(Level.WARNING, About.PLAN, text)


def _write_a_probe(step: DeclaredStep[Any, Any] | None) -> str:
    """The mend; a step that returns nothing has nothing that a probe could find."""
    if step is None:
        return "Write a probe"
    mend = f"rite a probe under @{step.name}.probe"
    if isinstance(step, ExternalStep) and step.may_return_none:
        return f"Let it return what it made, such as its id, and w{mend}"
    return f"W{mend}"


def _check_source(stage: StageDeclaration[Any, Any], config: Config, findings: _Findings) -> int:
    """Look for forgotten awaits, and prepare each statement on the tables of the migrations."""
    for step in stage.steps:
        _check_functions(step, findings)
    for slip in slips_in(stage):
        level = Level.ERROR if slip.certain else Level.WARNING
        findings.add(level, About.SOURCE, slip.text)
    if config.database.startswith(POSTGRESQL):
        return 0  # its words are not those of SQLite, and nothing is prepared on a server
    count = 0
    with findings.of(About.MIGRATIONS), Preparing(migration_folders(stage)) as tables:
        for step in stage.steps:
            if not isinstance(step, TransactionStep):
                continue
            for statement in (each for f in _functions(step) for each in statements_in(f)):
                if statement.parameters is None:
                    continue
                count += 1
                if why := tables.refused(statement.sql, statement.parameters):
                    text = f"{statement.place}: {why}{_ELSEWHERE if _SYNTAX in why else ''}"
                    findings.add(Level.ERROR, About.SOURCE, text)
    return count


def _check_functions(step: DeclaredStep[Any, Any], findings: _Findings) -> None:
    """The slips that the source of a step's functions shows."""
    local = isinstance(step, TransactionStep)
    for function in _functions(step):
        for text in (*unawaited_in(function), *dropped_in(function)):
            findings.add(Level.ERROR, About.SOURCE, f"{text}: write await before it")
        if not local:
            for text in blocking_in(function):
                why = "and every saga of this process waits with it: give it to asyncio.to_thread"
                findings.add(Level.WARNING, About.SOURCE, f"{text}, {why}")
            continue
        why = "and a transaction that does is stopped: move it to a call or an effect"
        for text in (*blocking_in(function), *waits_in(function)):
            findings.add(Level.ERROR, About.SOURCE, f"{text}, {why}")
    if isinstance(step, CallStep) and (text := request_beyond(step.function, step.requests)):
        why = f"of a call that declares requests={step.requests}, and would not be sent"
        mend = "make a step of each effect, or declare as many"
        findings.add(Level.ERROR, About.SOURCE, f"{text} {why}: {mend}")


def _functions(step: DeclaredStep[Any, Any]) -> Iterator[Any]:
    probing = step.probing if isinstance(step, ExternalStep) else None
    yield from filter(None, (step.function, step.compensating, probing))


def _check_database(
    stage: StageDeclaration[Any, Any], config: Config, findings: _Findings, *, bound: bool
) -> None:
    """Compare migrations and sagas with the database, if it was made. Raises ConfigurationError.

    Sagas are compared where the stage could be `bound`.
    """
    if not config.database_must_exist and not is_there(stage, config):
        text = "there is no database yet: `stage serve` makes it, and so does `stage db init`"
        findings.add(Level.NOTE, About.DATABASE, text)
        return
    with open_all(stage, config) as databases:
        ours_pending = False
        for database in databases:
            where = f" in {database.path}" if len(databases) > 1 else ""
            lines = database.status()
            _check_migrations(lines, config, findings, where)
            ours_pending |= any(
                line.owner == OWNER and line.state is MigrationState.PENDING for line in lines
            )
        if ours_pending:
            text = "its sagas are compared with this stage once our migrations are applied"
            findings.add(Level.NOTE, About.DATABASE, text)
        elif bound:
            _check_sagas(stage, config, databases, findings)


def _check_migrations(
    lines: Sequence[MigrationStatus], config: Config, findings: _Findings, where: str
) -> None:
    served = Level.ERROR if config.database.startswith(POSTGRESQL) else Level.WARNING
    levels = {
        MigrationState.PENDING: (served, f"is pending{where}: run `stage db upgrade`"),
        MigrationState.CHANGED: (
            Level.ERROR,
            f"was applied{where}, and its file was changed since: take it back, write another file",
        ),
        MigrationState.UNKNOWN: (
            Level.ERROR,
            f"was applied{where}, and there is no such file: the database is of a later release",
        ),
    }
    for line in lines:
        if line.state in levels:
            level, text = levels[line.state]
            findings.add(level, About.MIGRATIONS, f"{line.owner}/{line.name} {text}")


def _check_sagas(
    stage: StageDeclaration[Any, Any], config: Config, databases: Databases, findings: _Findings
) -> None:
    """Name the sagas that this release could not go on with. A deploy shows them too late."""
    if not _names_peers(config):
        text = "its sagas were not compared with this stage, whose peers are not configured"
        findings.add(Level.NOTE, About.SAGAS, text)
        return
    newest = stage.bind(tuple(config.downstreams))
    misfits = misfits_in(databases, newest, codec_of(config))
    for line in misfits.unfinished:
        findings.add(Level.ERROR, About.SAGAS, line)
    for line in (*misfits.completed, *misfits.newer):
        findings.add(Level.WARNING, About.SAGAS, line)


def _steps(stage: StageDeclaration[Any, Any], plan: Plan) -> Iterator[StepChecked]:
    declared = {step.name: step for step in stage.steps}
    for step in plan.steps:
        yield StepChecked(
            name=step.name,
            kind=step.kind.value,
            to=step.peer,
            doubt=_doubt(step, declared.get(step.name)),
            compensation=_compensation(step, declared.get(step.name)),
            pivot=step.pivot,
        )


def _doubt(step: Step, declared: DeclaredStep[Any, Any] | None) -> str:
    """The first thing that is done about a lost answer (rule 5)."""
    if step.kind in LOCAL_KINDS:
        return ""
    if isinstance(declared, ExternalStep) and declared.probing is not None:
        return f"{declared.probing.__name__} looks it up"
    return "it is repeated under its key" if step.idempotent else "a person is asked"


def _compensation(step: Step, declared: DeclaredStep[Any, Any] | None) -> str:
    if declared is None:
        return "its own compensation"
    if declared.compensating is not None:
        return declared.compensating.__name__
    return f"nothing: {declared.reason}" if declared.reason else "nothing: behind the pivot"
