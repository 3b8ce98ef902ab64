"""A module is read as `ast` and `tokenize` read it, only faster."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

import pytest

from tests.house.syntax import by_type, comments_of


@pytest.mark.parametrize(
    "source",
    [
        "x = 1  # one\n",
        "# one\n\n    # two\n#\n",
        'x = "# no"  # one\n',
        "x = '# no' # \"one\" isn't text\n",
        'x = "\\"# no"  # one\n',
        'x = r"\\# no"  # one\n',
        'x = """\n# no\n"\n""# no\n"""  # one\n',
        "x = '''\n# no\n'# no\\'''\n'''  # one\n",
        "x = f\"{y!r} # no {z}\" f'# no'  # one\n",
        'x = ("a"  # one\n     "b"  # two\n)\n',
        'x = ""  # one\ny = ""\n',
        'x = "\\\n# no"  # one\n',
        "x = 1  # one",
    ],
)
def test_comments_are_those_of_the_tokenizer(source: str) -> None:
    """In text of each kind a `#` is no comment, and in a comment a quote begins no text."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)

    comments = [
        (token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT
    ]
    assert comments == list(comments_of(source))


def test_no_node_is_passed_over() -> None:
    """Each node of a tree is found once, under its own type."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))

    found = by_type(tree)

    assert Counter(map(id, ast.walk(tree))) == Counter(
        id(each) for nodes in found.values() for each in nodes
    )
    assert all(type(each) is kind for kind, nodes in found.items() for each in nodes)
