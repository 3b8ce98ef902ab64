"""Names that identify one effect. A key depends on what is done, never on when or how often."""

from __future__ import annotations

from enum import StrEnum


class Direction(StrEnum):
    """Whether a key belongs to the execution of a step or to its compensation."""

    EXECUTE = "do"
    COMPENSATE = "undo"


def compensation_key(key: str, number: int = 1) -> str:
    """The key of the compensation of an effect that was made under `key` (rule 32).

    `number` counts the keys that an operator has ordered for it: `undo`, then `undo.2`.
    """
    made = f"{key.removesuffix(f':{Direction.EXECUTE}')}:{Direction.COMPENSATE}"
    return made if number == 1 else f"{made}.{number}"


def step_of_key(key: str, saga_id: str, stage: str) -> str:
    """The name of the step that an execution key was made for."""
    return key.removeprefix(f"{saga_id}:{stage}:").removesuffix(f":{Direction.EXECUTE}")


def idempotency_key(
    saga_id: str, stage: str, step: str, direction: Direction, ordinal: int = 1, number: int = 1
) -> str:
    """The idempotency key of one effect: at most 251 characters (rule 2).

    Stage and step names hold no colon, so the key reads back from the right without doubt.
    `ordinal` counts the requests that one function sends, `number` the keys that an operator has
    ordered for a compensation: `undo`, then `undo.2`.
    """
    key = f"{saga_id}:{stage}:{step}:{direction}"
    if number > 1:
        key = f"{key}.{number}"
    return key if ordinal == 1 else f"{key}:{ordinal}"
