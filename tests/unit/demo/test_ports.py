"""Ports for servers that are started a moment later."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from stage.demo import chain
from stage.demo.chain import LOOPBACK, PORTS, ChainError, free_ports
from stage.demo.postgres_server import Server, wheel


def test_no_port_is_given_twice_before_its_server_has_opened_it() -> None:
    """Two parts of a test ask before either starts."""
    given = [*free_ports(3), *free_ports(2), *free_ports(1)]
    assert 6 == len(set(given))


def test_a_port_that_is_taken_is_not_given() -> None:
    [taken, *_] = free_ports(1)
    with socket.create_server((LOOPBACK, taken)):
        given = {port for _ in range(3) for port in free_ports(len(PORTS) // 2)}
    assert taken not in given and len(given) > len(PORTS) // 2


def test_processes_that_are_started_together_look_in_different_places() -> None:
    first = [next(chain._in_turn(pid)) for pid in range(4_000_000, 4_000_050)]
    assert 50 == len(set(first))


def test_where_too_few_are_free_it_says_so() -> None:
    with pytest.raises(ChainError, match="ports from 20000 to 31000 are free"):
        free_ports(len(PORTS) + 1)


def test_the_port_of_a_server_is_its_own_before_it_is_up(tmp_path: Path) -> None:
    """Its cluster takes seconds to make, and another process found the same port free meanwhile."""
    server = Server(wheel(), tmp_path)
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind((LOOPBACK, server.port))
