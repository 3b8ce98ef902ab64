"""A test sees no colours, width or proxy of the machine that it runs on."""

from __future__ import annotations

import os

import pytest

from tests import surroundings


def test_loopback_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the company is kept for all other hosts, and so are its exceptions."""
    monkeypatch.setenv("NO_PROXY", "shop.example,127.0.0.1")
    monkeypatch.delenv("no_proxy", raising=False)
    surroundings.settle()
    assert "shop.example,127.0.0.1,::1,localhost" == os.environ["NO_PROXY"]
    assert "127.0.0.1,::1,localhost" == os.environ["no_proxy"]


def test_programs_print_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """And as wide as each of them does by itself."""
    for name in surroundings.CHANGES_WORDS:
        monkeypatch.setenv(name, "1")
    surroundings.settle()
    assert not surroundings.CHANGES_WORDS & os.environ.keys()
