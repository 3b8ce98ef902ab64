"""Binds a stage to what its operator has set: the policy of each step, and the peers it needs."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from stage.authoring.declaration import StageDeclaration
from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.core.states import EXTERNAL_KINDS
from stage.core.steps import Plan, Step, StepKind
from stage.outbound.credentials import Credentials
from stage.ports.connection import connection_of
from stage.ports.policy import Policy
from stage.ports.stage import Participant, family_of


def bind_configured(
    stage: StageDeclaration[Any, Any], config: Config, credentials: Credentials
) -> Participant:
    """The stage with what the operator has set. Raises DeclarationError, ConfigurationError."""
    bound = stage.bind(
        tuple(config.downstreams),
        adjust=lambda step: _adjusted(step, config),
        patience_seconds=config.compensation_patience_seconds,
        adds_bytes_max=config.adds_bytes_max,
        operator_headers=credentials.names,
    )
    for version in family_of(bound):
        _check_externals(version.plan, config)
    _check_steps(bound, config)
    _check_retention(config)
    return bound


def _adjusted(step: Step, config: Config) -> Step:
    """The step with what the operator has set."""
    execution, compensation = step.execution, step.compensation
    timeout = step.timeout_seconds
    if step.kind is StepKind.FORWARD:
        execution = replace(execution, attempts_max=config.forward_attempts_max)
        timeout = config.forward_timeout_seconds
    else:
        if config.attempts_max is not None:
            execution = replace(execution, attempts_max=config.attempts_max)
        if config.compensation_attempts_max is not None:
            compensation = replace(compensation, attempts_max=config.compensation_attempts_max)
        if config.external_timeout_seconds_max is not None:
            timeout = min(timeout, config.external_timeout_seconds_max)
    step = replace(step, execution=execution, compensation=compensation, timeout_seconds=timeout)
    if step.kind in EXTERNAL_KINDS and step.peer in config.externals:
        step = _under(step, connection_of(config.externals[step.peer]).policy)
    return _under(step, config.steps.get(step.name, Policy()))


def _under(step: Step, policy: Policy) -> Step:
    """The step with what the operator has set for it, or for its API."""
    execution, compensation = step.execution, step.compensation
    if policy.attempts_max is not None:
        execution = replace(execution, attempts_max=policy.attempts_max)
    if policy.compensation_attempts_max is not None:
        compensation = replace(compensation, attempts_max=policy.compensation_attempts_max)
    lifetime = policy.key_lifetime_seconds
    return replace(
        step,
        execution=execution,
        compensation=compensation,
        timeout_seconds=policy.timeout_seconds or step.timeout_seconds,
        key_lifetime_seconds=step.key_lifetime_seconds if lifetime is None else lifetime,
        never_retry=step.never_retry | set(policy.never_retry),
    )


def _check_externals(plan: Plan, config: Config) -> None:
    wanted = {step.peer for step in plan.steps if step.kind is StepKind.CALL}
    reached = {name for name, given in config.externals.items() if connection_of(given).url}
    missing = sorted(wanted - reached)
    if missing:
        options = " ".join(f"--external {name}=URL" for name in missing)
        sections = " ".join(f"[externals.{name}]" for name in missing)
        raise ConfigurationError(
            f"stage {plan.stage!r} calls {', '.join(missing)}, which no setting names:"
            f" add {options}, or {sections} with its url to the file of --config"
        )


def _check_steps(newest: Participant, config: Config) -> None:
    """Refuse a policy of a step that no version has: it would be set and never hold."""
    there = {step.name for version in family_of(newest) for step in version.plan.steps}
    if unknown := sorted(set(config.steps) - there):
        raise ConfigurationError(
            f"steps.{unknown[0]} is set, and stage {newest.plan.stage!r} has no such step:"
            f" its steps are {', '.join(sorted(there)) or 'none'}"
        )


def _check_retention(config: Config) -> None:
    answers, rows = config.answers_retention_days, config.rows_retention_days
    if answers is not None and rows is not None and answers > rows:
        raise ConfigurationError(
            f"answers_retention_days is {answers:g}, and rows_retention_days {rows:g}: a row takes"
            " its answer along, so keep answers no longer than rows, or leave out the former"
        )
