"""The language of the house: words that are not used, and sentences that do not begin so.

Prose is what people read: pages without their code, docstrings, comments. Names are what a module
defines, not what it uses of others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import cache
from typing import NamedTuple

from tests.house.names import docstrings
from tests.house.syntax import comments_of, syntax_of

# --- words that are not used: the glossary has the list, here stands where each may be --------


class Word(NamedTuple):
    """How one word of the glossary's list is judged: what is wrong, where it may stand, and why."""

    prose: str
    """A regular expression; empty where prose is not judged."""
    name: str
    """The same for the parts of a name, joined by `_`."""
    fine: str
    """A regular expression of lines that may have it."""
    files: tuple[str, ...]
    """Files that may have it."""
    reason: str


def _word(
    prose: str, name: str, *, fine: str = r"(?!)", files: tuple[str, ...] = (), reason: str = ""
) -> Word:
    return Word(prose, name, fine, files, reason)


_OF_A_SAGA = r"\b{0}\w*(?: \w+)? sagas?\b|\bsagas? (?:is|are|was|were|gets?|be) {0}\w*"
_ORCHESTRATORS = (
    "stage/orchestrators/*",
    "stage/engine/temporal/*",
    "stage/inbound/activity.py",
    "stage/inbound/step_functions.py",
    "stage/bootstrap/activity.py",
    "tests/scenario/test_activity.py",
    "stage/cli/temporal.py",
    "stage/cli/asl.py",
    "examples/temporal/*",
    "examples/step_functions/*",
    "tests/*/orchestrators/*",
    "docs/orchestrators.md",
    *("benchmarks/orchestrators.py", "benchmarks/peers/*"),
)
WORDS = {
    "rollback": _word(
        r"\broll(?:s|ed|ing)?[ -]?backs?\b",
        r"rollback|roll_back",
        fine=r"transaction|database|savepoint|SAVEPOINT|ROLLBACK|unit|statement|connection",
        files=("stage/store/*", "stage/simulation/*", "tests/unit/store/*", "stage/ports/store.py"),
        reason="a database transaction is rolled back",
    ),
    "commit": _word(
        _OF_A_SAGA.format("commit"),
        r"commit_saga|saga_commit",
        reason="a database and git commit; a saga never does",
    ),
    "abort": _word(
        r"\babort\w*\b",
        r"abort\w*",
        fine=r"click|transport|[Cc]onnection",
        reason="a connection is aborted",
    ),
    "cancel": _word(
        _OF_A_SAGA.format("cancel"),
        r"cancel_saga|saga_cancel\w*",
        reason="a task of asyncio is cancelled",
    ),
    "undo": _word(
        "",
        r"undo|undoes|undone|undoing",
        fine=r"probe_after_undo",
        files=(
            "stage/simulation/*",
            "stage/demo/*",
            "stage/store/*",
            "stage/testing/*",
            "tests/*",
            "*_stub/*",
        ),
        reason="an external API, the books of a test's world and a unit of a store undo;"
        " a saga compensates. probe_after_undo is an option of the author, about an API",
    ),
    "workflow": _word(
        r"\bworkflows?\b",
        r"workflows?",
        fine=r"Temporal|DBOS|Restate|systems",
        files=_ORCHESTRATORS,
        reason="what Temporal and its like call it",
    ),
    "activity": _word(
        r"\bactivit(?:y|ies)\b",
        r"activity|activities",
        fine=r"Temporal|Step Functions|^ACTIVITY ",
        files=(
            *("docs/metrics.md", "docs/tracing.md"),
            *("stage/config/settings.py", "stage/config/values.py"),  # the setting sfn_activity
            *_ORCHESTRATORS,
        ),
        reason="what Temporal calls it; and the label of metrics and spans that says which of"
        " execute, probe, compensate and tell an attempt is",
    ),
    "job": _word(
        r"\bjobs?\b",
        r"jobs?",
        fine=r"database",
        files=(
            "tests/integration/test_prometheus.py",
            "docs/deploy.md",
            "docs/decisions/0038-*.md",
        ),
        reason="what Prometheus calls a target, and Kubernetes a pod that ends",
    ),
    "manager": _word(
        r"\bmanagers?\b", r"managers?", fine=r"context manager", reason="Python's own term"
    ),
    "helper": _word(r"\bhelpers?\b", r"helpers?"),
    "util": _word(r"\butils?\b", r"utils?"),
    "handler": _word(
        r"(?:^|\ba |\bthe |\bits )(?<!signal )handlers?\b",
        r"^handler$",
        fine=r"hand-written|logging|standard library|aiohttp|web\.|people write|Handler\b",
        files=("docs/performance.md", "docs/figures.md", "docs/author.md", "CHANGELOG.md"),
        reason="aiohttp's and logging's own term; the hand-written handler of the benchmarks",
    ),
    "told": _word(
        "",
        r"told|tells|telling",
        fine=r"(?:told|tells|telling)_upstream",
        reason="a saga tells upstream; a line is logged, a metric recorded, a problem reported",
    ),
}
# Pages that speak about the words themselves.
ABOUT_WORDS = ("docs/glossary.md", "AGENTS.md", "CONTRIBUTING.md", "tests/house/*")


RENAMED = {
    "module": {"rounds", "runs", "look", "patient", "chosen", "endings", "lean", "silent", "bound"}
    | {"keys", "edge"},
    "class": {"Runs", "Edge", "Letter", "Adopted", "Advanced", "Ridden", "Impossible"},
    "function": {"look", "patient", "chosen", "bound", "recognise", "rides", "keeps_no_stone"},
}
"""Names that needed their file to be understood, and have gone."""

# --- sentences ------------------------------------------------------------------------------------

_START = r"(?:^|(?<=[.!?:;] )|(?<=\n\n)|(?<=[-*] )|(?<=\| ))(?:\*\*)?"
FREE_RELATIVE = re.compile(
    _START
    + r"(?:(?:Who|Whoever|Whatever|What|Of the|Of these|Of a|Of what|Else)\b[^.?!|]*)(?=[.!:]|\Z)",
    re.MULTILINE,
)
NO_NOUN = re.compile(
    _START
    + r"(?:Those(?! are)|That of|One (?:that|whose|which|without|with|for|in)|One of (?:which|whom)"
    + r"|The same(?=[.:;,]| (?:of|as|with|while|where|by|for|in|to|at|again|is|it)\b))\b[^.?!|]*",
    re.MULTILINE,
)
"""Sentences whose subject is a pronoun: the reader has to find its noun somewhere else."""
CLAUSE_FIRST = re.compile(r"test_(?:who|whoever|what|whatever)_")
OUTCOME_OF_AN_ATTEMPT = re.compile(
    r"\boutcomes? of (?:an|the|each|every|its|one|that) attempts?\b|\battempt's outcome\b"
    r"|\bhow an attempt ended: one of|\bfour outcomes\b",
    re.IGNORECASE,
)


def words_listed(glossary: str) -> list[str]:
    """The words in the first column of the glossary's table of words that are not used."""
    _, _, section = glossary.partition("\n## Not used\n")
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", section, flags=re.MULTILINE)
    return [word for row in rows for word in re.split(r"\*\*, \*\*", row)]


_SQL_COMMENT = re.compile(r"^-- name: \w+\n((?:--.*\n)+)", re.MULTILINE)


@cache  # several checks read the same files
def prose(name: str, text: str) -> tuple[tuple[int, str], ...]:
    """Passages that people read, each with its first line: no code, links or heads of tables."""
    return tuple(_passages(name, text))


def _passages(name: str, text: str) -> Iterator[tuple[int, str]]:
    if name.endswith(".md"):
        bare = re.sub(
            r"^```\w*\n.*?^```", lambda m: "\n" * m[0].count("\n"), text, flags=re.M | re.S
        )
        bare = re.sub(r"^(?:#.*|\|.*\|\n(?=\|[ :|-]+\|\n))", "", bare, flags=re.MULTILINE)
        for number, line in enumerate(bare.splitlines(), start=1):
            yield number, re.sub(r"\[[^\]]*\]\([^)]*\)|`[^`]*`", "`…`", line)
        return
    if name.endswith(".sql"):
        for found in _SQL_COMMENT.finditer(text):
            yield text.count("\n", 0, found.start(1)) + 1, re.sub(r"(?m)^-- ?", "", found[1])
        return
    for number, passage in docstrings(text):
        yield number, re.sub(r"`[^`]*`", "`…`", passage)
    yield from _comments(text)


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Comments, those on lines below each other as one."""
    first, last, words = 0, 0, ""
    for line, comment in comments_of(source):
        if words and line == last + 1:
            words += "\n" + comment.lstrip("# ")
        else:
            if words:
                yield first, words
            first, words = line, comment.lstrip("# ")
        last = line
    if words:
        yield first, words


def defined(source: str) -> Sequence[tuple[int, str, str]]:
    """Every name that a module defines: line, kind, name."""
    return syntax_of(source).definitions


def _parts(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).strip("_").lower()


def words_not_used(name: str, text: str) -> list[str]:
    """Words of the glossary's list in prose and names of one file."""
    if any(fnmatch(name, page) for page in ABOUT_WORDS):
        return []
    wrong = []
    lines, code = text.splitlines(), name.endswith(".py")
    passages = prose(name, text)
    names = [(line, own, _parts(own)) for line, _, own in defined(text)] if code else []
    for word, rule in WORDS.items():
        if any(fnmatch(name, file) for file in rule.files):
            continue
        if rule.prose:
            for first, passage in passages:
                for match in re.finditer(rule.prose, passage, flags=re.IGNORECASE):
                    line = first + passage.count("\n", 0, match.start())
                    around = passage.splitlines()[passage.count("\n", 0, match.start())]
                    if not re.search(rule.fine, around):
                        wrong.append(f"{line}: {word}")
        if rule.name:
            named = re.compile(rf"(?:^|_)(?:{rule.name})(?:_|$)")
            for line, own, parts in names:
                if named.search(parts) and not re.search(rule.fine, f"{own} {lines[line - 1]}"):
                    wrong.append(f"{line}: {own}")
    return wrong


def names_renamed(name: str, text: str) -> list[str]:
    """Names that have gone and came back: of modules, classes and functions of `stage`."""
    if not name.startswith("stage/") or not name.endswith(".py"):
        return []
    stem = name.rpartition("/")[2].removesuffix(".py")
    wrong = [f"1: {stem}"] if stem in RENAMED["module"] else []
    return wrong + [
        f"{line}: {own}" for line, kind, own in defined(text) if own in RENAMED.get(kind, set())
    ]


def free_relatives(name: str, text: str) -> list[str]:
    """Sentences, the names of tests among them, that begin with a clause instead of a noun."""
    tests = defined(text) if name.endswith(".py") else ()
    named = [f"{line}: {own}" for line, _, own in tests if CLAUSE_FIRST.match(own)]
    return named + [
        f"{first + passage.count(chr(10), 0, match.start())}: {match[0][:50]!r}"
        for first, passage in prose(name, text)
        for match in FREE_RELATIVE.finditer(passage)
    ]


def subjects_without_a_noun(name: str, text: str) -> list[str]:
    """Sentences that begin with *those*, *that of*, *one that* or *the same* without a noun."""
    if name.startswith("tests/"):
        return []  # a docstring there goes on from the name of its test
    return [
        f"{first + passage.count(chr(10), 0, match.start())}: {match[0][:50]!r}"
        for first, passage in prose(name, text)
        for match in NO_NOUN.finditer(passage)
    ]


def outcomes_of_attempts(name: str, text: str) -> list[str]:
    """Places that give an attempt an outcome: a saga has one, an attempt has an end."""
    if fnmatch(name, "tests/house/*"):
        return []
    return [
        f"{first + passage.count(chr(10), 0, match.start())}: {match[0]!r}"
        for first, passage in prose(name, text)
        for match in OUTCOME_OF_AN_ATTEMPT.finditer(passage)
    ]


CHECKS = {
    "words not used": words_not_used,
    "names that have gone": names_renamed,
    "free relatives": free_relatives,
    "outcomes of attempts": outcomes_of_attempts,
    "subjects without a noun": subjects_without_a_noun,
}
