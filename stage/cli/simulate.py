"""`stage simulate`: thousands of sagas of a stage in a simulated world that goes wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from stage.cli.failure import NEGATIVE, Failure, one_line

if TYPE_CHECKING:
    from stage.simulation.summary import Summary
    from stage.simulation.world import Result, Scenario

WORDS = {
    "I1": "lost",
    "I2": "doubled",
    "I3": "doubled",
    "I5": "stuck",
    "I7": "stands",
}
"""The author's word for a broken invariant; any other is a broken rule."""
RULE = "rule broken"
WAYS_OUT = {
    "doubled": "name each thing by saga.key, and build requests from saga alone",
    "stands": (
        "undo by saga.key_of(step), which is known when the answer is lost, and believe the API's"
        " own word alone"
    ),
    "stuck": (
        "look at the last attempts above. A compensation that the API refuses for good has to raise"
        " Refused, so that a person is asked"
    ),
}
"""By the author's word, the usual mend."""


@click.command()
@click.argument("target", metavar="MODULE:ATTRIBUTE")
@click.option("--seeds", metavar="N", default=200, type=click.IntRange(1), help="Worlds.  [200]")
@click.option(
    "--sagas", metavar="M", default=20, type=click.IntRange(1), help="Sagas in each.  [20]"
)
@click.option(
    "--seed",
    metavar="S",
    type=int,
    help="Only this world: what happens, and what goes wrong in it.",
)
@click.option("--first", metavar="S", default=0, type=int, help="The first seed.  [0]")
@click.option(
    "--without", metavar="FAULT", multiple=True, help="Never let this fault strike. Repeatable."
)
@click.option(
    "--only", metavar="FAULT", multiple=True, help="Let no other fault strike. Repeatable."
)
@click.option("--model", metavar="MODULE", help="The model of what is around the stage.")
def simulate(
    target: str,
    seeds: int,
    sagas: int,
    seed: int | None,
    first: int,
    without: tuple[str, ...],
    only: tuple[str, ...],
    model: str | None,
) -> int:
    """Run a stage in simulated worlds that go wrong.

    Crashes, lost and late messages, full disks, refusals, late failures, and many more. The stage's
    functions and SQL are the real ones; its external APIs are models that keep books.

    Exit status 1 when something was lost or doubled, still stands, or is stuck; the shortest
    history in which that happens is printed, with the line that replays it. Also when no saga
    completed or every webhook was refused, for that shows nothing.
    """
    from msgspec.structs import replace

    from stage.cli.target import find_model, find_stage
    from stage.simulation.author import scenario_of
    from stage.simulation.world import simulate_world

    spared = _spared(without, only)
    stage = find_stage(target)
    module = find_model(target, model)
    scenario = scenario_of(stage, module, sagas=sagas)
    scenario = replace(scenario, without=spared, always=frozenset(only))
    named = f"stage simulate {target}" + (f" --model {model}" if model else "")
    if seed is not None:
        return _print_world(simulate_world(seed, scenario), named, scenario)
    about = "" if module is None else f", the world of {module.__name__}"
    click.echo(f"{target}: {seeds} worlds of {sagas} sagas{about}")
    return _simulate_worlds(range(first, first + seeds), scenario, named)


def _simulate_worlds(seeds: range, scenario: Scenario, named: str) -> int:
    from stage.simulation.shrink import shortest
    from stage.simulation.summary import simulate_many

    failed: list[Result] = []

    def keep_failed(result: Result) -> None:
        if result.violations:
            failed.append(result)

    summary = simulate_many(seeds, scenario, files_every=0, each=keep_failed)
    click.echo(_draw(summary, failed))
    nothing_shown = not summary.states["completed"]
    if nothing_shown:
        click.echo(
            "no saga completed, so nothing is shown: check the payloads and the model"
            " (docs/simulate.md), and the log of one world with --seed"
        )
    unbelieved = bool(summary.webhooks["refused"]) and not summary.webhooks["believed"]
    if unbelieved:
        click.echo(
            "the stage refused every webhook, so none is tried: sign it in the model with"
            " WEBHOOK_SECRET, and take its time from now() of the model (docs/simulate.md)"
        )
    if not failed:
        if nothing_shown or unbelieved:
            return NEGATIVE
        click.echo("everything holds")
        return 0
    best, how = shortest(failed[0], scenario)
    click.echo("")
    return _print_world(best, named, how)


def _spared(without: tuple[str, ...], only: tuple[str, ...]) -> frozenset[str]:
    """The faults that may not strike. Raises Failure for a fault that there is not."""
    from stage.simulation.faults import KINDS

    for kind in (*without, *only):
        if kind not in KINDS:
            raise Failure(f"there is no fault {kind!r}: {', '.join(KINDS)}")
    return frozenset(KINDS) - frozenset(only) if only else frozenset(without)


def _draw(summary: Summary, failed: list[Result]) -> str:
    """The faults, the ends and the worlds that failed: a line each."""
    hours = summary.virtual_seconds / 3600
    lines = [
        f"simulated  {summary.sagas} sagas in {summary.seeds} worlds, {hours:.1f} hours",
        "faults     " + _counted(summary.faults, spaces=False),
        "ended      " + _counted(summary.states),
    ]
    if heard := summary.webhooks:
        lines.append(f"webhooks   {heard['believed']} believed, {heard['refused']} refused")
    wrong = dict.fromkeys((*dict.fromkeys(WORDS.values()), RULE), 0)
    for result in failed:
        wrong[WORDS.get(result.violations[0].invariant, RULE)] += 1
    lines.append("worlds     " + ", ".join(f"{word} {count}" for word, count in wrong.items()))
    return "\n".join(lines)


def _draw_world(result: Result) -> str:
    """The sagas, faults and ends of a world in which everything holds: a line each."""
    lines = [
        f"seed {result.seed}    {result.sagas} sagas, {result.seconds:.0f} s",
        "faults     " + _counted(+result.struck, spaces=False),
        "ended      " + _counted(result.states),
        "believed   " + _counted(result.verdicts) + " (by the caller)",
    ]
    if heard := result.webhooks:
        lines.append(f"webhooks   {heard['believed']} believed, {heard['refused']} refused")
    return "\n".join([*lines, f"everything holds for {result.sagas} sagas"])


def _counted(counts: Any, *, spaces: bool = True) -> str:
    """Counts in words, the largest first; without `spaces` as the options take them."""
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    words = {name: name.replace("_", " ") if spaces else name for name, _ in found}
    return ", ".join(f"{words[name]} {count}" for name, count in found) or "none"


def _print_world(result: Result, named: str, scenario: Scenario) -> int:
    """The history of the saga that went wrong, what is wrong with it, and how to see it again."""
    if not result.violations:
        click.echo(_draw_world(result))
        return 0
    from stage.simulation.summary import failure_of

    failure = failure_of(result)
    word = WORDS.get(failure.violation.invariant, RULE)
    saga = failure.violation.saga or "all of them"
    struck = ", ".join(sorted(result.rates)) or "none"
    click.echo(f"The shortest history found (saga {saga}; faults: {struck}), seconds first:")
    click.echo("")
    for line in failure.history:
        click.echo(f"  {one_line(line)}")
    click.echo("")
    click.echo(f"{word.upper()}: {failure.violation.text}")
    if word in WAYS_OUT:
        click.echo(f"way out: {WAYS_OUT[word]}")
    replay = f"{named} --seed {result.seed} --sagas {scenario.sagas}"
    if scenario.always:
        replay += "".join(f" --only {kind}" for kind in sorted(scenario.always))
    else:
        replay += "".join(f" --without {kind}" for kind in sorted(scenario.without))
    click.echo(f"replay: {replay}")
    return NEGATIVE
