"""Tokens of callers: one way to show one, and a hash in place of each that is known."""

from __future__ import annotations

import base64

import pytest

from stage.wire.tokens import (
    ACCEPTED_MAX,
    TOKEN_CHARS_MAX,
    accept_line,
    basic_token_of,
    bearer_of,
    digest_of,
    is_accepted,
    is_among,
    parse_accept_lines,
)

LONGEST = "t" * (TOKEN_CHARS_MAX - len("Bearer "))


def basic(pair: str) -> str:
    """The header of a browser's dialog for a name and a password."""
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.mark.parametrize(
    "values, token",
    [
        (["Bearer abc"], "abc"),
        (["bearer   abc "], "abc"),
        ([f"Bearer {LONGEST}"], LONGEST),
        ([f"Bearer {LONGEST}t"], None),
        ([], None),
        (["Bearer abc", "Bearer abc"], None),
        (["Bearer"], None),
        (["Bearer a b"], None),
        (["Basic abc"], None),
        (["abc"], None),
    ],
)
def test_a_token_is_shown_in_one_way(values: list[str], token: str | None) -> None:
    """One header, one token, of printable characters, within its limit."""
    assert token == bearer_of(values)


@pytest.mark.parametrize(
    "values, token",
    [
        ([basic("kim:abc")], "abc"),
        ([basic(":abc")], "abc"),
        ([basic("kim:a:c")], "a:c"),
        ([basic("kim:" + "t" * TOKEN_CHARS_MAX)], "t" * TOKEN_CHARS_MAX),
        ([basic("kim:" + "t" * (TOKEN_CHARS_MAX + 1))], None),
        ([basic("k" * 200 + ":" + "t" * TOKEN_CHARS_MAX)], "t" * TOKEN_CHARS_MAX),
        ([basic("k" * 400 + ":" + "t" * TOKEN_CHARS_MAX)], None),
        ([basic("kim")], None),
        ([basic("kim:")], None),
        ([basic("kim:a b")], None),
        ([basic("kim:é")], None),
        ([], None),
        ([basic("kim:abc")] * 2, None),
        (["Basic !!"], None),
        (["Basic a"], None),
        (["Bearer abc"], None),
    ],
)
def test_a_browser_shows_the_token_as_its_password(values: list[str], token: str | None) -> None:
    """The name counts for nothing, and what is no token is none."""
    assert token == basic_token_of(values)


def test_a_token_is_recognised_by_its_hash() -> None:
    """Any of the digests will do, wherever it stands; another token is none of them."""
    digests = parse_accept_lines(f"# of today\n\n  {accept_line('new')}  \n{accept_line('old')}\n")

    assert (digest_of("new"), digest_of("old")) == digests
    assert all(is_accepted(token, digests) for token in ("new", "old"))
    assert all(is_among(digest_of(token), digests) for token in ("new", "old"))
    assert not is_accepted("another", digests)
    assert not is_accepted("new", ())


@pytest.mark.parametrize(
    "text, said",
    [
        ("sha256:abc", "line 1 is no hash"),
        (f"\n{accept_line('a')}\na-token-as-it-is", "line 3 is no hash"),
        (accept_line("a").upper(), "line 1 is no hash"),
        ("\n".join([accept_line("a")] * (ACCEPTED_MAX + 1)), f"has {ACCEPTED_MAX + 1} hashes"),
    ],
)
def test_a_line_that_is_no_hash_is_named_and_not_quoted(text: str, said: str) -> None:
    """The line may be a token that somebody pasted: the error goes into a log."""
    with pytest.raises(ValueError, match=said) as caught:
        parse_accept_lines(text)

    assert "a-token-as-it-is" not in str(caught.value)
