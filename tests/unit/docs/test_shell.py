"""The commands on the pages are there, with each option that they name."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator

import click
import pytest

from stage.cli.root import cli
from tests.unit.docs.blocks import ROOT, Block, blocks, spans

PROMPT = "$ "
PROGRAMS = ("stage", ".venv/bin/stage", "/opt/stage/bin/stage")
MODULE = re.compile(r"python -m ([\w.]+)")
PLACE = re.compile(r"(?<![\w/])(?:deploy|examples)/[\w./@-]+")
WORD_OF_MAKE = re.compile(r"^(?:make|word) ([a-z]+)", re.MULTILINE)
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
OURS = ("stage", "benchmarks", "upstream_stub", "downstream_stub", "tests")


def lines_of(block: Block) -> Iterator[str]:
    """Its commands, those that go on in the next line joined; with prompts, what stands behind."""
    lines = block.text.replace("\\\n", " ").splitlines()
    prompted = any(line.startswith(PROMPT) for line in lines)
    for line in lines:
        if not prompted or line.startswith(PROMPT):
            yield line.removeprefix(PROMPT).partition(" #")[0].strip()


def ours(line: str) -> list[str] | None:
    """The arguments of `stage` in a line that runs it; None of any other."""
    if "stage" not in line:
        return None  # before it is split, as nearly every line of the pages
    try:
        words = shlex.split(line)
    except ValueError:
        return None
    wrapped = words[:1] in (["runuser"], ["env"])
    for place, word in enumerate(words):
        if word in PROGRAMS:
            return words[place + 1 :]
        if "=" not in word and not wrapped:
            return None
    return None


def wrong_with(arguments: list[str]) -> list[str]:
    """The command or the options that the command line would not take."""
    command: click.Command = cli
    names = [word for word in arguments if word not in ("…", "...")]
    while isinstance(command, click.Group) and names and not names[0].startswith("-"):
        found = command.commands.get(names.pop(0))
        if found is None:
            return [f"no command {arguments}"]
        command = found
    there = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    there |= {"-h", "--help", "--version"}
    given = {word.partition("=")[0] for word in names if re.match(r"--?[a-z]", word)}
    return sorted(given - there)


COMMANDS = [
    (str(block), arguments)
    for block in blocks("")
    for line in lines_of(block)
    if (arguments := ours(line))
]
IN_PROSE = [(str(span), arguments) for span in spans() if (arguments := ours(span.text))]


@pytest.mark.parametrize("place, arguments", COMMANDS)
def test_a_command_is_there(place: str, arguments: list[str]) -> None:
    """With all of its options."""
    assert [] == wrong_with(arguments), place


def test_the_commands_in_prose_are_there() -> None:
    """As `stage db init`, in a sentence; `a|b` stands for both."""
    wrong = {
        place: found
        for place, arguments in IN_PROSE
        for word in arguments[0].split("|")
        if (found := wrong_with([word, *arguments[1:]]))
    }
    assert {} == wrong


def missing_in(arguments: list[str]) -> list[str]:
    """The options that a command needs and is not given: pasted, it would be refused.

    A command without an argument is spoken of, and not meant to be pasted.
    """
    command: click.Command = cli
    names = list(arguments)
    while isinstance(command, click.Group) and names:
        command = command.commands[names.pop(0)]
    given = {word.partition("=")[0] for word in names}
    needed = [each for each in command.params if each.required] if names else []
    return [
        each.opts[0]
        for each in needed
        if isinstance(each, click.Option) and not given & {*each.opts, *each.secondary_opts}
    ]


def test_a_command_of_the_run_book_can_be_pasted() -> None:
    """At night nobody looks up which options a verb needs."""
    wrong = {
        place: found
        for place, arguments in IN_PROSE
        if place.startswith("docs/runbook/") and (found := missing_in(arguments))
    }
    assert {} == wrong
    assert ["--reason"] == missing_in(["retry", "ID"])
    assert ["--landed"] == missing_in(["settle", "ID", "--step", "x", "--reason", "y"])


@pytest.mark.parametrize("block", blocks(""), ids=str)
def test_names_in_a_block_are_there(block: Block) -> None:
    """Words of make, modules of ours, and files of the repository."""
    words = {found[1] for found in WORD_OF_MAKE.finditer(block.text)}
    assert set() == {word for word in words if word not in TARGETS}
    for found in MODULE.finditer(block.text):
        if found[1].partition(".")[0] in OURS:
            assert importlib.util.find_spec(found[1]) is not None, found[1]
    for place in PLACE.findall(block.text):
        assert (ROOT / place.rstrip("./")).exists(), place


def test_a_wrong_command_and_a_wrong_option_are_seen() -> None:
    """The judge can fail."""
    assert [] == wrong_with(["db", "init", "payment.stage:payment"])
    assert wrong_with(["bd", "init"])
    assert ["--external-urls"] == wrong_with(["serve", "a:b", "--external-urls", "x"])
    assert ["serve", "a:b"] == ours("STAGE_PORT=1 stage serve a:b")
    assert None is ours("docker run stage")
