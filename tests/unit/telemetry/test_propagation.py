"""W3C Trace Context, case by case: what is read, what starts a new trace, what is passed on."""

from __future__ import annotations

import pytest

from stage.ports.observer import TraceContext
from stage.telemetry import propagation

TRACE = "12345678901234567890123456789012"
SPAN = "1234567890123456"
PARENT = f"00-{TRACE}-{SPAN}-01"

VALID = {
    "plain": PARENT,
    "not sampled": f"00-{TRACE}-{SPAN}-00",
    "space before": f" {PARENT}",
    "space behind": f"{PARENT} ",
    "tab before": f"\t{PARENT}",
    "tab behind": f"{PARENT}\t",
    "a later version": f"cc-{TRACE}-{SPAN}-01",
    "a later version with more": f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
}
INVALID = {
    "empty": "",
    "a word": "trace",
    "version 00 with more": f"{PARENT}-what-the-future-will-be-like",
    "version 00 with a dot": f"{PARENT}.",
    "a later version with a dot": f"cc-{TRACE}-{SPAN}-01.what-the-future-will-be-like",
    "version ff": f"ff-{TRACE}-{SPAN}-01",
    "version with a sign": f".0-{TRACE}-{SPAN}-01",
    "version too long": f"000-{TRACE}-{SPAN}-01",
    "version too short": f"0-{TRACE}-{SPAN}-01",
    "trace id of zeros": f"00-{'0' * 32}-{SPAN}-01",
    "trace id with a sign": f"00-.{TRACE[1:]}-{SPAN}-01",
    "trace id in upper case": f"00-{'A' * 32}-{SPAN}-01",
    "trace id too long": f"00-1{TRACE}-{SPAN}-01",
    "trace id too short": f"00-{TRACE[1:]}-{SPAN}-01",
    "span id of zeros": f"00-{TRACE}-{'0' * 16}-01",
    "span id with a sign": f"00-{TRACE}-.{SPAN[1:]}-01",
    "span id too long": f"00-{TRACE}-1{SPAN}-01",
    "span id too short": f"00-{TRACE}-{SPAN[1:]}-01",
    "flags with a sign": f"00-{TRACE}-{SPAN}-.0",
    "flags too long": f"00-{TRACE}-{SPAN}-001",
    "flags too short": f"00-{TRACE}-{SPAN}-1",
    "other digits": f"00-{TRACE[:-1]}\u0663-{SPAN}-01",
    "a line break": f"{PARENT}\n",
}


def read(*headers: tuple[str, str]) -> TraceContext:
    return propagation.read([("Host", "stage"), *headers])


def state(*values: str) -> str:
    return read(("traceparent", PARENT), *(("tracestate", value) for value in values)).tracestate


@pytest.mark.parametrize("value", VALID.values(), ids=VALID.keys())
def test_a_valid_traceparent_is_joined(value: str) -> None:
    """The ids are kept, and what is stored is in version 00."""
    flags = "00" if value.endswith("-00") else "01"
    assert f"00-{TRACE}-{SPAN}-{flags}" == read(("traceparent", value)).traceparent


@pytest.mark.parametrize("value", INVALID.values(), ids=INVALID.keys())
def test_an_invalid_traceparent_is_no_trace(value: str) -> None:
    """It is never an error, and tracestate does not count beside it."""
    assert propagation.NOTHING == read(("traceparent", value), ("tracestate", "foo=1"))


def test_a_traceparent_sent_twice_is_no_trace() -> None:
    """Nobody can say which of two holds, even when they are equal."""
    assert propagation.NOTHING == read(("traceparent", PARENT), ("Traceparent", PARENT))


@pytest.mark.parametrize("name", ["traceparent", "TraceParent", "TRACEPARENT", "tRaCePaReNt"])
def test_names_of_headers_have_no_case(name: str) -> None:
    """As all names of headers."""
    assert PARENT == read((name, PARENT)).traceparent


@pytest.mark.parametrize("name", ["trace-parent", "trace.parent", "trace_parent"])
def test_other_names_are_other_headers(name: str) -> None:
    """They name no trace."""
    assert propagation.NOTHING == read((name, PARENT))


def test_unknown_flags_are_not_passed_on() -> None:
    """Sampled and random are kept, the others are set to zero."""
    context = read(("traceparent", f"00-{TRACE}-{SPAN}-ff"))
    assert f"00-{TRACE}-{SPAN}-03" == context.traceparent


def test_a_tracestate_without_a_traceparent_is_dropped() -> None:
    """It belongs to a trace that nobody named."""
    assert propagation.NOTHING == read(("tracestate", "foo=1"))


@pytest.mark.parametrize(
    "values,expected",
    [
        (["foo=1"], "foo=1"),
        (["foo=1,bar=2"], "foo=1,bar=2"),
        (["foo=1", "bar=2"], "foo=1,bar=2"),
        (["foo=1", "", "bar=2"], "foo=1,bar=2"),
        ([""], ""),
        (["foo=1 \t , \t bar=2, \t baz=3"], "foo=1,bar=2,baz=3"),
        (["foo=1,,,bar=2"], "foo=1,bar=2"),
        (["foo=1,foo=2"], "foo=1"),
        (["foo=1", "foo=2"], "foo=1"),
        (["foo= leading"], "foo= leading"),
        (["fw529a3039@dt=FfD,0@v=1"], "fw529a3039@dt=FfD,0@v=1"),
        (["abcdefghijklmnopqrstuvwxyz0123456789_-*/=1"],) * 2,
        (["z" * 256 + "=1"], "z" * 256 + "=1"),
        (["t" * 241 + "@" + "v" * 14 + "=1"], "t" * 241 + "@" + "v" * 14 + "=1"),
    ],
)
def test_a_valid_tracestate_is_passed_on(values: list[str], expected: str | list[str]) -> None:
    """In order, combined from all headers, without the space around members."""
    assert (expected if isinstance(expected, str) else expected[0]) == state(*values)


@pytest.mark.parametrize(
    "value",
    [
        "foo",
        "foo=",
        "=1",
        "foo =1",
        "FOO=1",
        "foo.bar=1",
        "0foo=1",
        "foo@=1,bar=2",
        "@foo=1,bar=2",
        "foo@@bar=1,bar=2",
        "foo@bar@baz=1,bar=2",
        "foo=bar=baz",
        "foo=,bar=3",
        "foo=\u00e4",
        "z" * 257 + "=1",
        "t" * 242 + "@v=1",
        "t@" + "v" * 15 + "=1",
        "foo=" + "1" * 257,
    ],
)
def test_one_invalid_member_drops_the_tracestate(value: str) -> None:
    """The trace itself is still joined."""
    context = read(("traceparent", PARENT), ("tracestate", value))
    assert TraceContext(traceparent=PARENT) == context


def test_a_tracestate_has_at_most_32_members() -> None:
    """32 are passed on, 33 are none."""
    members = [f"bar{number:02}={number:02}" for number in range(33)]
    assert ",".join(members[:32]) == state(",".join(members[:32]))
    assert state(",".join(members)) == ""


def test_a_long_tracestate_is_cut_at_whole_members() -> None:
    """Long members go first, then the last ones; 512 characters are always passed on."""
    long = "long=" + "x" * 200
    short = [f"k{number:02}={'y' * 40}" for number in range(12)]
    kept = state(",".join([long, *short]))
    assert len(kept) <= propagation.TRACESTATE_CHARS_MAX
    assert kept == ",".join(short[: len(kept.split(","))])
    assert len(kept) > propagation.TRACESTATE_CHARS_MAX - 50
    exact = ",".join(["a=" + "x" * 126, "b=" + "x" * 126, "c=" + "x" * 126, "d=" + "x" * 123])
    assert len(exact) == 512 and state(exact) == exact


def test_a_trace_of_our_own_is_valid_and_sampled() -> None:
    """And different every time."""
    traces = {propagation.new_trace().traceparent for _ in range(50)}
    assert len(traces) == 50
    for traceparent in traces:
        ids = propagation.parse(traceparent)
        assert ids is not None and ids.flags == propagation.SAMPLED


# --- baggage -------------------------------------------------------------------------------------


def baggage(*values: str, keys: tuple[str, ...] = ("tenant", "region")) -> str:
    return propagation.read_baggage([("Baggage", value) for value in values], keys)


@pytest.mark.parametrize(
    "values,expected",
    [
        (["tenant=a"], "tenant=a"),
        (["tenant=a,user=kim,region=eu"], "tenant=a,region=eu"),
        (["user=kim", " tenant=a ,\tregion=eu;ttl=1 "], "tenant=a,region=eu;ttl=1"),
        (["tenant = a"], "tenant = a"),
        (["tenant=,region=eu"], "tenant=,region=eu"),
        (['tenant="a",region=eu'], "region=eu"),
        (["tenant=a b,region=e\\u"], ""),
        (["TENANT=a,ten ant=b,tenant"], ""),
        ([""], ""),
        ([], ""),
    ],
)
def test_only_allowed_and_valid_members_of_baggage_are_kept(
    values: list[str], expected: str
) -> None:
    """Member by member, from all headers; keys differ by case."""
    assert expected == baggage(*values)


def test_without_keys_no_baggage_is_kept() -> None:
    """The default."""
    assert baggage("tenant=a", keys=()) == ""


def test_baggage_has_limits() -> None:
    """Whole members, as many as the recommendation has everybody pass on."""
    assert 64 == len(baggage(",".join(["tenant=a"] * 100)).split(","))
    long = f"tenant={'x' * 4_000}"
    assert f"{long},{long}" == baggage(f"{long},{long},{long}")
    exact = f"tenant={'x' * (8_192 - 7)}"
    assert exact == baggage(exact) and baggage(f"{exact}x") == ""
