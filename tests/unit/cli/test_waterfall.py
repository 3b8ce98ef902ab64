"""The picture that `stage trace` draws, from what the stages tell."""

from __future__ import annotations

from stage.cli.waterfall import draw_chain
from stage.wire.chain import ChainEvent, ChainView, StageStory, unknown


def at(milliseconds: int, event: str, **more: object) -> ChainEvent:
    return ChainEvent(at=f"2026-11-23T02:30:00.{milliseconds:03d}Z", event=event, **more)  # type: ignore[arg-type]


PAYMENT = StageStory(
    stage="payment",
    state="compensated",
    trace_id="a" * 32,
    events=[
        at(0, "accepted"),
        at(1, "step_succeeded", step="reserve"),
        at(1, "step_started", step="charge", attempt=1),
        at(201, "step_in_doubt", step="charge", reason="no answer"),
        at(250, "probe_started", step="charge"),
        at(500, "recovered", epoch=2),
        at(510, "probe_started", step="charge"),
        at(520, "probe_found", step="charge"),
        at(700, "compensation_requested", by="order", reason="changed\x1b[31m my mind"),
        at(710, "compensation_started", step="charge", attempt=2),
    ],
)


def picture(*stories: StageStory) -> list[str]:
    return draw_chain(ChainView(saga_id="s-1", stages=list(stories))).splitlines()


GOLDEN = """
saga s-1   payment
trace {trace}

payment       0 · accepted                               │
payment       1 ▶ reserve                                █                                    +0 ms
payment       1 ▶ charge                                 █████████                          +200 ms  in doubt: no answer
payment     250 ▶ probe charge                                     ███████████              +250 ms  cut off: the process died
payment     500 · recovered, as run 2                                         │
payment     510 ▶ probe charge                                                 █             +10 ms  found
payment     700 · asked to compensate                                                  │             by order: changed [31m my mind
payment     710 ◀ compensate charge #2                                                  ░

payment: compensated
"""


def test_the_picture_of_doubt_crash_and_undo() -> None:
    """Golden: what began and ended is one bar, a crash cuts bars off, what is open is shaded."""
    assert GOLDEN.format(trace="a" * 32).strip() == "\n".join(
        line.rstrip() for line in picture(PAYMENT)
    )


def test_a_no_in_doubt_is_no_refusal() -> None:
    """A gateway's 409 is not the word of the stage behind it (protocol 3.3)."""
    ends = [
        at(201, "step_refused", step="forward:shipping", reason="answered 409", may_stand=True),
        at(301, "step_refused", step="forward:shipping", reason="no stock"),
    ]
    starts = [at(n, "step_started", step="forward:shipping", attempt=1) for n in (1, 202)]
    story = StageStory(
        stage="payment", state="compensated", events=[starts[0], ends[0], starts[1], ends[1]]
    )

    doubt, refusal = (line for line in picture(story) if "forward:shipping" in line)

    assert "a no in doubt: answered 409" in doubt
    assert "refused: no stock" in refusal


def test_stages_are_merged_by_time() -> None:
    """Down the chain, and up again."""
    head = StageStory(stage="order", state="completed", events=[at(0, "a"), at(900, "d")])
    tail = StageStory(stage="shipping", state="completed", events=[at(300, "b"), at(600, "c")])
    rows = picture(head, tail)[2:6]
    assert ["order", "shipping", "shipping", "order"] == [row.split()[0] for row in rows]


def test_a_stage_that_did_not_answer_is_named_below() -> None:
    """Nothing of it is drawn; the reason is given."""
    assert (
        "shipping: unknown (no answer in time)"
        == picture(PAYMENT, unknown("shipping", "no answer in time"))[-1]
    )


def test_foreign_words_drive_no_terminal() -> None:
    """The words of a neighbour are text: no control characters, cut to a length."""
    bad = StageStory(stage="x", state="a\x1b]0;b\x07", events=[at(0, "e\x1b[2J" * 100)])
    drawn = "\n".join(picture(bad))
    assert "\x1b" not in drawn
    assert "\x07" not in drawn


def test_nothing_known_is_no_picture() -> None:
    """Only the summary is left."""
    assert ["saga s-1   shipping", "", "shipping: unknown (away)"] == picture(
        unknown("shipping", "away")
    )
