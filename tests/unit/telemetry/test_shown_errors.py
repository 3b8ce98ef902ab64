"""The text of our own errors is logged with a defect, and no payload is in it (rule 38)."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import stage
from stage.authoring.webhook import run_webhook
from stage.core.errors import DeclarationError, StageError
from stage.ports.observer import TraceContext
from stage.ports.webhook import WebhookRequest
from stage.telemetry import logs

ROOT = Path(stage.__path__[0])
CANARY = "4929-1111-2222-3333"
ROOMS = ("authoring", "core", "engine", "inbound", "outbound", "ports", "store", "wire")
"""Where a payload is at hand."""
AT_IMPORT = ("annotations.py", "payload.py", "declaration.py", "lineage.py")
"""Files whose errors are raised while a stage is declared, before there is any payload."""
QUOTED = frozenset({"said", "turn", "value", "result", "body", "data", "answer", "request", "raw"})
"""Names under which a payload is held."""


def classes() -> list[type[StageError]]:
    """Every class of our errors: each module that has one is imported."""
    for file in sorted(ROOT.rglob("*.py")):
        if "(StageError)" in file.read_text("utf-8"):
            inside = file.relative_to(ROOT.parent).with_suffix("")
            importlib.import_module(".".join(inside.parts))
    return [StageError, *_below(StageError)]


def _below(kind: type[StageError]) -> Iterator[type[StageError]]:
    for each in kind.__subclasses__():
        if each.__module__.startswith("stage."):
            yield each
            yield from _below(each)


KINDS = classes()


def logged(error: BaseException) -> list[str] | None:
    """The text in the line of such a defect."""
    with structlog.testing.capture_logs() as lines:
        logs.LogListener(structlog.get_logger()).defect("webhook", "s-1", TraceContext(), error)
    (line,) = lines
    return line.get("text")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_text_of_an_error_that_is_shown_is_logged_alone(kind: type[StageError]) -> None:
    """Without the option: what says the fix. Its cause, whose text is foreign, is not."""
    error = kind("say which key")
    error.__cause__ = ValueError(CANARY)
    assert ([f"{kind.__name__}: say which key"] if kind.shown else None) == logged(error)


def test_a_foreign_text_is_not_logged() -> None:
    """Nor is that of our own `ValueError`s, which an author's may look like."""
    assert logged(ValueError(CANARY)) is None


def raises() -> list[tuple[str, ast.Call]]:
    """Each place that raises an error which is shown."""
    names = {kind.__name__ for kind in KINDS if kind.shown}
    found = []
    for file in sorted(ROOT.rglob("*.py")):
        room = file.relative_to(ROOT).parts[0]
        if room not in ROOMS or file.name in AT_IMPORT:
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            match node:
                case ast.Raise(exc=ast.Call(func=ast.Name(id=name)) as call) if name in names:
                    found.append((f"{file.name}:{node.lineno}", call))
    return found


def quoted(call: ast.Call) -> list[str]:
    """The payloads that stand whole in the text of an error."""
    shown = (each.value for each in ast.walk(call) if isinstance(each, ast.FormattedValue))
    return [each.id for each in shown if isinstance(each, ast.Name) and each.id in QUOTED]


def test_no_error_that_is_shown_quotes_a_payload() -> None:
    """A type or a length of it may be said."""
    found = raises()
    assert 10 < len(found)
    assert {} == {where: names for where, call in found if (names := quoted(call))}
    (wrong,) = ast.parse('raise StageError(f"returned {said!r}, of {type(said)}")').body
    assert isinstance(wrong, ast.Raise) and isinstance(wrong.exc, ast.Call)
    assert ["said"] == quoted(wrong.exc)


def test_a_webhook_that_names_both_is_reported_without_its_words() -> None:
    """Its function returned a result of the payload, and a key and a number of it."""

    def both(hook: stage.Webhook) -> stage.Landed[str]:
        hook.vouch()
        return stage.Landed(result=CANARY, key=CANARY, number=("card", CANARY))

    came = WebhookRequest(external="psp", body=b"", headers={}, secrets=(), now=0.0)
    with pytest.raises(DeclarationError, match="both its key and its number") as raised:
        run_webhook("both", both, came)
    assert CANARY not in str(raised.value)
    assert logged(raised.value) is not None
