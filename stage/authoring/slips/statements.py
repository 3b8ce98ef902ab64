"""The SQL of transaction functions: values in a text, rows of other sagas, and lost updates."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Final

from stage.authoring.slips.step_function import Rule, Slip, StepFunction
from stage.authoring.source import RUNS_SQL
from stage.ports.stage_tables import is_stage_table, refusal
from stage.ports.store import Tx

_EVERY_ROW: Final = re.compile(r"\s*(UPDATE|DELETE\s+FROM)\s+(\w+)(?!.*\bWHERE\b)", re.I | re.S)
_READ: Final = re.compile(
    r"\s*SELECT\b(?!.*\bFOR\s+(?:NO\s+KEY\s+)?UPDATE\b).*\bFROM\s+(\w+)", re.I | re.S
)
_WRITES: Final = re.compile(
    r"\s*(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|UPDATE|DELETE\s+FROM|REPLACE\s+INTO)\s+(?:stage\.)?(\w+)",
    re.I,
)
_CONDITIONAL: Final = re.compile(
    r"\s*UPDATE\b.*\bWHERE\b.*(?:>=|<=|(?<![<-])>|<(?!>))", re.I | re.S
)
"""An UPDATE whose condition compares; `<>` asks for a state, and `->` for a member of JSON."""
_ENDS: Final = frozenset({"begin", "commit", "rollback", "savepoint", "transaction"})
"""Methods by which other drivers begin and end a transaction."""
_WRITTEN: Final = re.compile(r"\s*UPDATE\s+(\w+)\s+SET\s+\w+\s*=\s*(?:\$\d+|\?)", re.I | re.S)


def _statements(function: StepFunction) -> Iterator[tuple[ast.Call, ast.expr]]:
    if function.is_transaction:
        for call in function.source.calls(RUNS_SQL):
            if call.args:
                yield call, call.args[0]


def words_of_other_drivers(function: StepFunction) -> Iterator[Slip]:
    """`tx.commit()`, `tx.fetch(...)`: a method that `tx` does not have."""
    if not function.is_transaction:
        return
    for name, call in function.source.methods():
        if hasattr(Tx, name):
            continue
        why = (
            "the stage commits with the journal entry that says so, and rolls back when the"
            " function raises: leave it out"
            if name in _ENDS
            else f"it has {', '.join(sorted(RUNS_SQL))}"
        )
        yield function.certain(call, f"{function.source.parameters[0]} has no {name}(): {why}")


def values_in_the_text(function: StepFunction) -> Iterator[Slip]:
    """A statement that is put together from what a caller sent."""
    sent = ("data", "id", "input")
    for call, sql in _statements(function):
        if any(function.of_saga(part, *sent) for part in function.source.text_of(sql)):
            yield function.certain(
                call,
                "the statement holds a value of the saga in its text, and whoever sends it writes"
                " SQL: give it as a parameter, tx.execute('... WHERE id = $1', value)",
            )


def parameters_as_one(function: StepFunction) -> Iterator[Slip]:
    """All parameters in one tuple, as other drivers take them."""
    for call, _ in _statements(function):
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        for given in call.args[1:] if method != "executemany" else ():
            if isinstance(given, ast.Tuple):
                yield function.certain(
                    given, "the parameters stand in a tuple: give each by itself, (sql, a, b)"
                )


def rows_of_every_saga(function: StepFunction) -> Iterator[Slip]:
    """An UPDATE or a DELETE without a WHERE."""
    for call, sql in _statements(function):
        if isinstance(sql, ast.Constant) and (found := _EVERY_ROW.match(str(sql.value))):
            yield function.warning(
                call,
                f"{found[1].split()[0].upper()} changes every row of {found[2]}, those of other"
                f" sagas too: add WHERE saga_id = $1, with {function.saga}.id",
            )


def read_and_written_back(function: StepFunction) -> Iterator[Slip]:
    """A value that was read and is written back: between replicas another one may write first."""
    read: set[str] = set()
    for call, sql in _statements(function):
        text = str(sql.value) if isinstance(sql, ast.Constant) else ""
        if found := _READ.match(text):
            read.add(found[1].lower())
        elif (found := _WRITTEN.match(text)) and found[1].lower() in read:
            yield function.warning(
                call,
                f"a value of {found[1]} is read and then written back, and on PostgreSQL another"
                " replica may write in between: let one UPDATE decide (SET free = free - $1 ... AND"
                " free >= $1), or read it FOR UPDATE",
            )


def conditions_nobody_reads(function: StepFunction) -> Iterator[Slip]:
    """An UPDATE that changes a row where there is enough, of which nobody asks whether it did."""
    if function.compensates:
        return
    for call, sql in _statements(function):
        text = str(sql.value) if isinstance(sql, ast.Constant) else ""
        awaited = function.source.parent(call)
        dropped = awaited is not None and isinstance(function.source.parent(awaited), ast.Expr)
        if dropped and _CONDITIONAL.match(text):
            yield function.warning(
                call,
                "the UPDATE changes no row where its condition does not hold, and the step succeeds"
                " all the same: if await tx.execute(...) == 0: raise Refused(...)",
            )


def tables_of_the_stage(function: StepFunction) -> Iterator[Slip]:
    """A write to the journal, or to another table that is not the author's."""
    for call, sql in _statements(function):
        text = str(sql.value) if isinstance(sql, ast.Constant) else ""
        found = _WRITES.match(text)
        table = found[1].lower() if found else ""
        if is_stage_table(table):
            yield function.certain(call, refusal(table))


STATEMENTS: Final[tuple[Rule, ...]] = (
    words_of_other_drivers,
    values_in_the_text,
    parameters_as_one,
    rows_of_every_saga,
    read_and_written_back,
    conditions_nobody_reads,
    tables_of_the_stage,
)
