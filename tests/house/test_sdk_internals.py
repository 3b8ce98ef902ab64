"""Internals of the OpenTelemetry SDK are touched in one folder, which has a switch and a guard."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAST = ROOT / "stage" / "telemetry" / "fast"
LIBRARY = "opentelemetry"
OF_NAMED_TUPLES = frozenset({"_replace", "_asdict", "_fields", "_make"})
"""They have an underscore and are public."""


def touched(source: str) -> Iterator[str]:
    """The private names that a module takes of the library, and its changes to it."""
    if LIBRARY not in source:
        return  # before it is parsed: it imports nothing of the library
    tree = ast.parse(source)
    of_library: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if _is_ours(module):
                of_library.update(alias.asname or alias.name for alias in names)
                parts = [*module.split("."), *(alias.name for alias in names)]
                yield from (f"{module}: {part}" for part in parts if _private(part))
            case ast.Import(names=names):
                for alias in names:
                    if _is_ours(alias.name):
                        of_library.add(alias.asname or LIBRARY)
                        yield from (alias.name for part in alias.name.split(".") if _private(part))
    if not of_library:
        return
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), ctx=ast.Load() | ast.Store()):
                pass
            case ast.Attribute(attr=attr) if _private(attr):
                yield f"line {node.lineno}: {attr}"
            case ast.Attribute(value=ast.Name(id=name), attr=attr, ctx=ast.Store()):
                if name in of_library:
                    yield f"line {node.lineno}: {name}.{attr} is set"
            case ast.Call(func=ast.Name(id="setattr"), args=[ast.Name(id=name), *_]):
                if name in of_library:
                    yield f"line {node.lineno}: setattr of {name}"


def _is_ours(module: str) -> bool:
    return module == LIBRARY or module.startswith(LIBRARY + ".")


def _private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in OF_NAMED_TUPLES


def test_nothing_but_the_fast_folder_touches_internals_of_the_sdk() -> None:
    """A later version may change them; then one switch turns off all that depends on them."""
    found = {
        str(path.relative_to(ROOT)): names
        for path in sorted((ROOT / "stage").rglob("*.py"))
        if FAST not in path.parents and (names := list(touched(path.read_text("utf-8"))))
    }
    assert {} == found


def test_the_fast_folder_does_touch_them() -> None:
    """So the look above can find something."""
    assert any(list(touched(path.read_text("utf-8"))) for path in FAST.glob("*.py"))


@pytest.mark.parametrize(
    "source",
    [
        "from opentelemetry.sdk._logs import LoggerProvider",
        "from opentelemetry.sdk.trace import _Span",
        "import opentelemetry.sdk._logs",
        "from opentelemetry.sdk.trace import Tracer\nscope = tracer._instrumentation_scope",
        "from opentelemetry.exporter.otlp.proto.http import trace_exporter as t\nt.encode = f",
        "from opentelemetry.sdk import trace\nsetattr(trace, 'Span', f)",
    ],
)
def test_each_way_in_is_seen(source: str) -> None:
    """An import, an attribute of an object, and a name that is replaced."""
    assert list(touched(source))


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio\nasyncio.events._get_running_loop()",
        "from opentelemetry import trace\nclass A:\n    def f(self):\n        self._span = trace.x",
    ],
)
def test_a_module_outside_of_the_sdk_is_let_through(source: str) -> None:
    """Private names of other libraries, and our own."""
    assert [] == list(touched(source))
