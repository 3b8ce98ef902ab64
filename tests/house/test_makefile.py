"""The words of the Makefile hand their variables on, however a caller names them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MAKE = shutil.which("make")
PROGRAM = '#!/bin/sh\necho "called with: $*"\nenv\n'
"""Stands where python and stage do: prints what it was called with, and under which variables."""
WORDS = ("demo", "quick", "test", "prove", "sim", "mutants", "mutation", "kills", "bench", "fuzz")
VARIABLES = {
    "SEED": "7",
    "SEEDS": "11",
    "FIRST": "13",
    "SAGAS": "17",
    "SAMPLE": "31",
    "KILLS": "19",
    "WORKERS": "23",
    "EXAMPLES": "29",
    "DATABASE": "postgres",
}
USED = {
    "demo": "--database postgres",
    "test": "-n 23",
    "sim": "--first 13 --seeds 11 --sagas 17",
    "mutation": "--sample 31 --seed 7",
    "kills": "--kills 19 --sagas 17 --seed 7",
}
"""The use of the variables by each word; the programs of other words read them themselves."""
DEFAULTS = {
    "demo": "--database sqlite",
    "test": "-n 6",
    "sim": "--first 0 --seeds 20000 --sagas 50",
    "mutation": "--sample 600 --seed 1",
    "kills": "--kills 1800 --sagas 250000 --seed 1",
}

pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")


def said(root: Path, venv: Path, word: str, *given: str, **environment: str) -> str:
    """The output of a word that starts no program of ours."""
    assert MAKE is not None
    programs = venv / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("python", "stage"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    usual = {"PATH": os.environ["PATH"]}
    ready = (f"{venv}/.ready", ".venv-fuzz/.ready")  # taken as made, also where they are not
    command = [MAKE, *(part for each in ready for part in ("-o", each)), f"VENV={venv}", word]
    done = subprocess.run(
        [*command, *given], cwd=root, env={**usual, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize("word", WORDS)
def test_a_variable_counts_in_the_environment_as_on_the_command_line(
    root: Path, tmp_path: Path, word: str
) -> None:
    """`SEED=7 make fuzz` is `make fuzz SEED=7`: a seed that is lost proves something else."""
    given = [f"{name}={value}" for name, value in VARIABLES.items()]
    for printed in (
        said(root, tmp_path, word, *given),
        said(root, tmp_path, word, **VARIABLES),
    ):
        assert set(given) <= set(printed.splitlines())
        assert USED.get(word, "called with: ") in printed


@pytest.mark.parametrize("word", sorted(DEFAULTS))
def test_without_a_variable_a_word_has_its_default(root: Path, tmp_path: Path, word: str) -> None:
    assert DEFAULTS[word] in said(root, tmp_path, word)


def test_every_variable_that_help_names_is_tried(root: Path) -> None:
    help_ = re.findall(r"## (.*)", (root / "Makefile").read_text(encoding="utf-8"))

    assert set(re.findall(r"\b([A-Z]+)=", " ".join(help_))) <= VARIABLES.keys()
