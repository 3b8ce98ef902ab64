"""The descriptors of the process, and how many of them connections that come in may take."""

from __future__ import annotations

import resource

from stage.config import Config
from stage.core.errors import ConfigurationError
from stage.ports.connection import connection_of
from stage.ports.peers import PeerLimits

DESCRIPTORS_WANTED = 65_536
DESCRIPTORS_OF_OURS = 64
"""The database, its log and its readers, the event loop, log files, name look-ups."""
RESERVE_SHARE_MAX = 0.5
CONNECTIONS_MIN = 8
DESCRIPTORS_MIN = 40
"""A stage that serves nobody yet has 28 files open. Where it may have fewer, its event loop fails,
and what that raises names neither the limit nor a fix."""


def check_descriptors() -> None:
    """Raise ConfigurationError where the process may open too few files to start."""
    if (allowed := _raise_limit()) < DESCRIPTORS_MIN:
        raise ConfigurationError(
            f"the process may open {allowed} files, which is too few: let it open more (ulimit -n,"
            " LimitNOFILE=), some hundred at least"
        )


def connections_max(config: Config) -> int:
    """The connections that may come in: what is set, or less where descriptors are few.

    The descriptors that requests to peers need are kept back, so that no caller can take them. The
    soft limit of the process is raised first, as far as the hard one allows.
    """
    descriptors = _raise_limit()
    reserve = min(DESCRIPTORS_OF_OURS + _to_peers(config), int(descriptors * RESERVE_SHARE_MAX))
    return max(CONNECTIONS_MIN, min(config.connections_max, descriptors - reserve))


def _raise_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return DESCRIPTORS_WANTED if soft == resource.RLIM_INFINITY else soft


def _to_peers(config: Config) -> int:
    """Requests that may be under way to all peers at the same time (rule 29)."""
    peers = (config.externals, config.downstreams, config.upstreams)
    places = [connection_of(given).concurrency_max for kind in peers for given in kind.values()]
    usual = PeerLimits().concurrency_max
    return sum(usual if each is None else each for each in places)
