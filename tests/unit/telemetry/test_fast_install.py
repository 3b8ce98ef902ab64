"""The fast telemetry: its versions, its switch, and the line that says when it is off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.version import __version__ as sdk_version

from stage import config
from stage.telemetry import names
from stage.telemetry.fast import install as fast
from stage.telemetry.fast import otlp
from stage.telemetry.fast.install import Off, Pipeline, QueueLimits
from stage.telemetry.fast.spans import FastProvider

LIMITS = QueueLimits(capacity=64, delay_ms=None, batch_size=8)
SETUP = (
    "import json, sys\n"
    "from stage.telemetry import logs, sdk\n"
    "logs.configure('json', 'info', sys.stdout)\n"
    "from opentelemetry.exporter.otlp.proto.http import trace_exporter\n"
    "encoder = trace_exporter.encode_spans\n"
    "{before}"
    "assert sdk.setup('payment', 'http://127.0.0.1:1')\n"
    "from stage.telemetry.spans import OtelObserver\n"
    "span = OtelObserver().request('POST', '/sagas', [], 's-1')\n"
    "kinds = [type(span).__name__, type(sdk._ours[0]).__name__]\n"
    "kinds.append(trace_exporter.encode_spans is encoder)\n"
    "sdk.shutdown(0.0)\n"
    "print(json.dumps(kinds))\n"
)
ALL_FAST = ["FastSpan", "FastProvider", False]
ALL_BY_SDK = ["RecordedSpan", "TracerProvider", True]


@pytest.fixture(autouse=True)
def exporter_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder that `install` puts into the exporter's module is taken out again."""
    encoder = trace_exporter.encode_spans  # type: ignore[attr-defined]  # a name it imports
    monkeypatch.setattr(trace_exporter, "encode_spans", encoder)


def installed() -> tuple[Pipeline | None, list[Off]]:
    reported: list[Off] = []
    pipeline = fast.install(
        InMemorySpanExporter(),
        resource=Resource({}),
        limits=LIMITS,
        report=reported.append,
    )
    return pipeline, reported


def setup_in_a_process(before: str = "", **environ: str) -> tuple[list[dict[str, Any]], list[Any]]:
    """The lines that `sdk.setup` logs, and what it has set up."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    ran = subprocess.run(
        [sys.executable, "-c", SETUP.format(before=before)],
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    *lines, kinds = map(json.loads, ran.stdout.splitlines())
    return [line for line in lines if line["event"] == names.LOG_FAST_OFF], kinds


def test_all_of_it_is_installed_and_nothing_is_logged() -> None:
    """With the versions that these tests run with."""
    assert ([], ALL_FAST) == setup_in_a_process()


@pytest.mark.parametrize("word", ["off", "OFF ", "0", "false", "no"])
def test_one_variable_turns_all_of_it_off(word: str) -> None:
    """The SDK makes the spans, queues and encodes them; one line at start says so."""
    (line,), kinds = setup_in_a_process(STAGE_FAST_TELEMETRY=word)
    assert ALL_BY_SDK == kinds
    assert ("info", f"{names.FAST_VARIABLE} switches it off") == (line["level"], line["reason"])


@pytest.mark.parametrize("word", ["", "on", "1"])
def test_any_other_word_leaves_it_on(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on without being asked for."""
    monkeypatch.setenv(names.FAST_VARIABLE, word)
    pipeline, reported = installed()
    assert pipeline is not None and [] == reported
    pipeline.provider.shutdown()


def test_the_settings_know_the_variable() -> None:
    """It is read by `install` alone, and still no typing error for the configuration."""
    assert names.FAST_VARIABLE in config.OTHER_VARIABLES


@pytest.mark.parametrize("name", ["sdk_version", "exporter_version"])
@pytest.mark.parametrize("version", ["1.41.1", "1.46.0", "2.0.0", "1.46.0.dev0", "unknown", ""])
def test_another_version_is_left_alone_and_said_to_be(
    name: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's or its exporter's: nobody has tried whether the internals are the same."""
    encoder = trace_exporter.encode_spans  # type: ignore[attr-defined]  # a name it imports
    monkeypatch.setattr(fast, name, version)
    pipeline, (off,) = installed()
    assert pipeline is None
    assert trace_exporter.encode_spans is encoder  # type: ignore[attr-defined]  # see above
    assert not off.deliberate
    assert f" is {version}, and it was written for 1.42 to 1.45" in off.reason


def test_an_unknown_version_is_a_warning_at_start() -> None:
    """The operator did not ask for it, and pays for it in throughput."""
    before = "from stage.telemetry.fast import install\ninstall.sdk_version = '1.46.0'\n"
    (line,), kinds = setup_in_a_process(before)
    assert ALL_BY_SDK == kinds
    assert "warning" == line["level"] and "opentelemetry-sdk is 1.46.0" in line["reason"]


@pytest.mark.parametrize("version", ["1.42.0", "1.43.1", "1.45.2", "1.45.99"])
def test_the_versions_it_was_written_for(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch release changes no internals."""
    monkeypatch.setattr(fast, "sdk_version", version)
    pipeline, reported = installed()
    assert pipeline is not None and [] == reported
    pipeline.provider.shutdown()


def test_these_tests_run_with_the_last_version_it_was_written_for() -> None:
    """An update of the SDK is an update of the range, once this folder was read again."""
    major, minor, *_ = sdk_version.split(".")
    assert fast.SDK_LAST == (int(major), int(minor))


@pytest.mark.parametrize(
    "variable,value,reason",
    [
        ("OTEL_TRACES_SAMPLER", "always_on", "the sampler AlwaysOnSampler looks at more"),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", "3", "OTEL_SPAN_LINK_COUNT_LIMIT is set"),
        ("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true", "INTERNAL_METRICS_ENABLED is set"),
    ],
)
def test_settings_that_need_spans_of_the_sdk_are_named(
    variable: str, value: str, reason: str
) -> None:
    """The encoding stays ours: it takes any span."""
    (line,), kinds = setup_in_a_process(**{variable: value})
    assert ["RecordedSpan", "FastProvider", False] == kinds
    assert "info" == line["level"] and reason in line["reason"]


def test_a_processor_that_is_added_later_is_reported_then() -> None:
    """Once: from there on the SDK makes all spans."""
    pipeline, reported = installed()
    assert pipeline is not None and isinstance(pipeline.provider, FastProvider)
    assert [] == reported
    for _ in range(2):
        pipeline.provider.add_span_processor(SpanProcessor())
    (off,) = reported
    assert off.deliberate and "another span processor was added" in off.reason
    pipeline.provider.shutdown()


def test_the_encoder_is_that_of_the_exporter() -> None:
    """The one name of it that is replaced."""
    pipeline, _ = installed()
    assert pipeline is not None
    assert vars(trace_exporter)["encode_spans"].func is otlp.encode
    pipeline.provider.shutdown()
