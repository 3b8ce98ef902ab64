"""How much each fault kit does, tier by tier: the one table of sizes.

`TIER=prove` in the environment chooses level G of every kit (`make prove`); without it a small
helping of each is taken (`make test`). A variable named like a size changes that size for one run:
`CUTS=2000 .venv/bin/python -m pytest tests/acceptance/test_power_loss.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

SAGAS_PER_WORLD = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The sizes of one run. A *stride* of n takes every n-th case of an enumeration."""

    worlds: int
    """F1: simulated worlds of SAGAS_PER_WORLD sagas."""
    worlds_each: int
    """F1: worlds under each choice of faults that seldom come together, at least."""
    fault_stride: int
    """F2: of the first faults, each of which is paired with every later one."""
    schedule_stride: int
    """F3: of the pairs of operations that begin a schedule, without and with a stage behind."""
    order_stride: int
    """F3: of the six orders in which the three other operations follow."""
    defect_stride: int
    """F4: of the further planted defects; the forty are always looked for."""
    kills: int
    """F5: kills of real processes, chosen at random."""
    sagas: int
    """F5: sagas placed while they are killed."""
    rate: float
    """F5: sagas offered a second."""
    seconds: float
    """F5: when nothing more is offered or killed, whatever is missing."""
    points: int
    """F6: kills at an exact call, for each kind of call that makes so many."""
    cuts: int
    """F7: losses of power."""
    cycles: int
    """F8: times that the disk is full and freed, in each of two ways."""
    times: int
    """F14: SIGTERM under load."""
    traced_kills: int
    """F16: kills while all spans are collected."""
    traced_sagas: int
    """F16: sagas placed while they are collected."""
    mutated: int
    """F10: mutated messages."""
    stalled: int
    """F12: connections that stall, of each of three kinds."""
    overload_seconds: float
    """F13: how long five times the load is offered."""
    canaries: int
    """F19: requests that carry canaries."""
    gateway_sagas: int
    """F20: sagas placed with nginx between all neighbours."""
    replays: int
    """F17: times that a recorded request is sent again, by its owner and by a stranger in turn."""
    outage_seconds: float
    """F21: the longest outage, of a peer that is to undo something."""
    undos: int
    """F21: undos that wait for one API."""
    deploy_stride: int
    """F22: of the pairs of versions."""
    jump_stride: int
    """F24: of the jumps of a clock, by message."""
    restore_stride: int
    """F23: of the commits of a saga after which the database is a copy from then."""
    zombies: int
    """F9: replicas that are stopped past their lease, with sagas in their hands."""
    replica_strikes: int
    """F25: strikes at one of three replicas."""
    replica_sagas: int
    """F25: sagas placed meanwhile."""
    failovers: int
    """F26: losses of the primary under load, of each of two kinds."""
    rollings: int
    """F27: rolling updates, forward and back."""
    story_stride: int
    """F29: of the stories under each caller, in turn."""
    driven_sagas: int
    """F29: sagas under Temporal, where it drives the chain and again where it drives a stage."""
    driven_kills: int
    """F29: kills of its worker and of a stage meanwhile, each time."""
    incidents: int
    """F30: incidents under a real Prometheus."""
    scrape_seconds: int
    """F30: how often it looks."""
    erasures: int
    """F31: sagas that are erased on SQLite; a tenth of them again on PostgreSQL."""
    stuck: int
    """F32: sagas that are stuck behind one peer, and swept from the console."""
    parked: int
    """F32: sagas that are parked, and swept from the pages of the console with keys alone."""
    seed: int = 1
    """Of all kits that throw dice, except where a kit names its own."""


TIERS = {
    "test": Sizes(
        worlds=16,
        worlds_each=8,
        fault_stride=12,
        schedule_stride=20,
        order_stride=3,
        defect_stride=3,
        kills=8,
        sagas=500,
        rate=150.0,
        seconds=60.0,
        points=4,
        cuts=20,
        cycles=1,
        times=2,
        traced_kills=3,
        traced_sagas=120,
        mutated=500,
        stalled=100,
        overload_seconds=2.0,
        canaries=200,
        gateway_sagas=80,
        replays=100,
        outage_seconds=50_000.0,
        undos=100,
        deploy_stride=7,
        jump_stride=4,
        restore_stride=2,
        zombies=2,
        replica_strikes=3,
        replica_sagas=250,
        failovers=1,
        rollings=1,
        story_stride=2,
        driven_sagas=20,
        driven_kills=2,
        incidents=4,
        scrape_seconds=1,
        erasures=20,
        stuck=24,
        parked=2_000,
    ),
    "prove": Sizes(
        worlds=4_000,
        worlds_each=150,
        fault_stride=1,
        schedule_stride=1,
        order_stride=1,
        defect_stride=1,
        kills=150,
        sagas=20_000,
        rate=185.0,
        seconds=900.0,
        points=100,
        cuts=200,
        cycles=5,
        times=20,
        traced_kills=14,
        traced_sagas=1_000,
        mutated=5_000,
        stalled=400,
        overload_seconds=60.0,
        canaries=20_000,
        gateway_sagas=500,
        replays=10_000,
        outage_seconds=250_000.0,
        undos=500,
        deploy_stride=1,
        jump_stride=1,
        restore_stride=1,
        zombies=30,
        replica_strikes=150,
        replica_sagas=20_000,
        failovers=3,
        rollings=1,
        story_stride=1,
        driven_sagas=200,
        driven_kills=20,
        incidents=21,
        scrape_seconds=5,
        erasures=1_000,
        stuck=5_000,
        parked=10_000,
    ),
}
"""`prove` is level G of the figures: a size here may grow, and never shrink."""


class Kit(NamedTuple):
    """One fault kit: what it does, and how often it has to strike in this tier."""

    what: str
    asked: Mapping[str, int]
    """By unit. An enumeration names the number below which it has lost cases."""


def chosen(environ: Mapping[str, str]) -> tuple[str, Sizes]:
    """The tier that the environment names and its sizes. Raises ValueError for an unknown tier."""
    tier = environ.get("TIER", "test")
    if tier not in TIERS:
        raise ValueError(f"TIER={tier} is not a tier: use {' or '.join(TIERS)}")
    sizes = TIERS[tier]
    changed = {
        field.name: type(getattr(sizes, field.name))(environ[field.name.upper()])
        for field in fields(Sizes)
        if field.name.upper() in environ
    }
    return tier, replace(sizes, **changed)


# Long because it is a table.
def kits(sizes: Sizes) -> dict[str, Kit]:
    """Every kit, by the number of its figure, with how often it strikes at these sizes."""
    points = sum(min(sizes.points, calls) for calls in CALLS_MIN.values())
    return {
        "F1": Kit("simulated sagas", {"sagas": sizes.worlds * SAGAS_PER_WORLD}),
        "F2": Kit(
            "every fault at every point",
            {"single faults": 700, "pairs of faults": 8_000 // sizes.fault_stride},
        ),
        "F3": Kit(
            "every schedule with two preemptions",
            {"schedules": 16_000 // (sizes.schedule_stride * sizes.order_stride)},
        ),
        "F4": Kit("planted defects found", {"defects": DEFECTS}),
        "F5": Kit("random kills under load", {"kills": sizes.kills, "sagas": sizes.sagas}),
        "F6": Kit("kills at an exact call", {"kills": points}),
        "F7": Kit("losses of power", {"cuts": sizes.cuts, "recoveries": sizes.cuts // 10}),
        "F8": Kit("full disks", {"cycles": 2 * sizes.cycles}),
        "F9": Kit("zombies past their lease", {"zombies": sizes.zombies}),
        "F10": Kit("mutated messages", {"messages": sizes.mutated}),
        "F11": Kit("malformed HTTP and JSON", {"requests": 120}),
        "F12": Kit("stalled connections", {"connections": 3 * sizes.stalled}),
        "F13": Kit("five times the load", {"seconds": int(sizes.overload_seconds)}),
        "F14": Kit("SIGTERM under load", {"times": sizes.times}),
        "F15": Kit("W3C trace context", {"cases": 41}),
        "F16": Kit("whole traces under kills", {"kills": sizes.traced_kills}),
        "F17": Kit("wrong credentials at every route", {"refusals": 800, "replays": sizes.replays}),
        "F18": Kit("addresses of others", {"addresses": 60}),
        "F19": Kit("canaries", {"requests": sizes.canaries}),
        "F20": Kit("a real nginx between all", {"sagas": sizes.gateway_sagas}),
        "F21": Kit("outages of seconds to days", {"outages": 50, "undos": sizes.undos}),
        "F22": Kit("deploys in flight", {"deploys": 1_000 // sizes.deploy_stride}),
        "F23": Kit("databases restored or gone bad", {"faults": 20 // sizes.restore_stride}),
        "F24": Kit("clocks that jump, or differ", {"jumps": 480 // sizes.jump_stride, "skews": 9}),
        "F25": Kit(
            "three replicas on PostgreSQL",
            {"strikes": sizes.replica_strikes, "sagas": sizes.replica_sagas},
        ),
        "F26": Kit(
            "the primary is lost",
            {"synchronous": sizes.failovers, "asynchronous": sizes.failovers},
        ),
        "F27": Kit("rolling updates, and back", {"updates": 2 * sizes.rollings}),
        "F29": Kit(
            "stories under each caller",
            {
                "stories": STORIES
                if sizes.story_stride == 1
                else STORIES // sizes.story_stride - 2,
                "sagas": 2 * sizes.driven_sagas,
                "kills": 2 * sizes.driven_kills,
            },
        ),
        "F30": Kit("incidents that must be paged", {"incidents": sizes.incidents}),
        "F31": Kit(
            "erased sagas of which a byte may be left",
            {"sagas": sizes.erasures + max(10, sizes.erasures // 10)},
        ),
        "F32": Kit("stuck sagas swept from the console", {"sagas": sizes.stuck}),
    }


COMMITS_MIN = 3
"""F23: commits of a saga that completes, at least."""
CALLS_MIN = {"fdatasync": 20, "pwrite64": 100, "send": 20}
"""How many calls of each kind the scenario of F6 makes at least."""
STORIES = 4 * 14 - 4
"""F29: stories under four callers, but for processes that two of them do not have."""
DEFECTS = 40
"""The defects that F4 asks for; further ones are counted apart."""

TIER, SIZES = chosen(os.environ)
KITS = kits(SIZES)
