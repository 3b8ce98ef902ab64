"""Finds the stage that MODULE:ATTRIBUTE names."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

from stage.cli.failure import Failure
from stage.core.errors import StageError

if TYPE_CHECKING:
    from stage.authoring.declaration import StageDeclaration

DEFAULT_ATTRIBUTE = "stage"
MODEL = "model"
"""The name of the module with the model of a stage, beside the module of the stage."""


def find_stage(target: str) -> StageDeclaration[Any, Any]:
    """Import MODULE, from the working directory too, and give its stage.

    Without ATTRIBUTE it is `stage`, or the only stage there. Raises Failure, and DeclarationError
    for a stage that is declared wrongly.
    """
    module_name, _, attribute = target.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        name = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise Failure(f"{module_name!r} is a path: give the module, {name}:{attribute or 'stage'}")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise Failure(
            f"{target!r} names no module: give MODULE:ATTRIBUTE, such as payment.stage:payment"
        )
    module = _import(module_name)

    from stage.authoring.declaration import StageDeclaration

    there = [name for name, value in vars(module).items() if isinstance(value, StageDeclaration)]
    if not attribute:
        attribute = there[0] if len(there) == 1 else DEFAULT_ATTRIBUTE
    if not hasattr(module, attribute):
        raise Failure(f"module {module_name} has no {attribute!r}: {_fix(module_name, there)}")
    found = getattr(module, attribute)
    if not isinstance(found, StageDeclaration):
        raise Failure(
            f"{module_name}:{attribute} is a {type(found).__name__} and not a Stage:"
            f" {_fix(module_name, there)}"
        )
    found.check_migrations()
    return found


def find_model(target: str, named: str | None) -> Any:
    """The module of the model: the one named, or the one beside the stage's; None without one."""
    module = target.partition(":")[0]
    package = module.rpartition(".")[0]
    beside = f"{package}.{MODEL}" if package else f"{module}_{MODEL}"
    if named is None and importlib.util.find_spec(beside) is None:
        return None
    try:
        return importlib.import_module(named or beside)
    except ImportError as error:
        raise Failure(f"the model {named or beside} cannot be imported: {error}") from error


def _import(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # last: a file there never stands in for the standard library
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise Failure(
                f"module {name} needs {error.name}, which is not installed: install it"
            ) from error
        near = difflib.get_close_matches(name, _modules_here(here), n=1)
        fix = f"did you mean {near[0]}?" if near else "give its name as Python imports it"
        raise Failure(f"there is no module {name} in {here} or on sys.path: {fix}") from error
    except StageError:
        raise
    except Exception as error:
        raise Failure(
            f"module {name} cannot be imported: {type(error).__name__}: {error}"
            f" ({_where(error)}): mend it"
        ) from error


def _modules_here(folder: str) -> list[str]:
    return [name.removesuffix(".py") for name in os.listdir(folder) if name.endswith(".py")]


def _where(error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}, line {last.lineno}"


def _fix(module: str, there: list[str]) -> str:
    if there:
        return "it has " + ", ".join(f"{module}:{name}" for name in there)
    is_package = hasattr(sys.modules[module], "__path__")
    if is_package and importlib.util.find_spec(f"{module}.stage") is not None:
        return f"did you mean {module}.stage, as in a project of `stage new`?"
    return "declare one there, such as payment = Stage('payment', accepts=Order)"
