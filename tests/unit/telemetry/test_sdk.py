"""The SDK: set up once, by us alone, and never in the way of the exit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from stage.core.errors import ConfigurationError
from stage.telemetry import sdk

HEAVY = "opentelemetry.sdk.trace.export"


@pytest.mark.parametrize(
    "environ,endpoint,expected",
    [
        ({}, None, False),
        ({}, "", False),
        ({}, "http://c:4318", True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, None, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, None, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None, False),
        ({"OTEL_SDK_DISABLED": "True"}, "http://c:4318", False),
        ({"OTEL_TRACES_EXPORTER": "none"}, "http://c:4318", False),
        ({"OTEL_TRACES_EXPORTER": "console"}, "http://c:4318", False),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, "http://c:4318", True),
        ({"OTEL_TRACES_EXPORTER": ""}, "http://c:4318", True),
    ],
)
def test_when_spans_are_sent(environ: dict[str, str], endpoint: str | None, expected: bool) -> None:
    """Only where a collector is configured, and nothing switches it off."""
    assert sdk.wanted(environ, endpoint) is expected


@pytest.mark.parametrize(
    "environ,endpoint,expected",
    [
        ({}, "http://c:4318", False),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, None, False),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, "http://c:4318", True),
        ({"OTEL_METRICS_EXPORTER": "none"}, "http://c:4318", False),
        ({"OTEL_METRICS_EXPORTER": "OTLP", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, None, True),
        (
            {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c"},
            None,
            True,
        ),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, "http://c:4318", False),
    ],
)
def test_when_metrics_are_sent(
    environ: dict[str, str], endpoint: str | None, expected: bool
) -> None:
    """Only where they are asked for: `/metrics` has them anyway."""
    assert sdk.metrics_wanted(environ, endpoint) is expected


def run(program: str, **environ: str) -> object:
    """The JSON that a program prints last, in a process of its own: what it sets stays set."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**inherited, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: object = json.loads(done.stdout.splitlines()[-1])
    return result


def test_without_a_collector_the_sdk_is_not_loaded() -> None:
    """It costs start time, and would do nothing."""
    result = run(
        "import json, sys\n"
        "from stage.telemetry import sdk\n"
        "from stage.telemetry.compose import default_observer\n"
        "default_observer()\n"
        f"print(json.dumps([sdk.setup('x'), sdk.shutdown(), {HEAVY!r} in sys.modules]))"
    )
    assert result == [False, True, False]


def test_a_provider_that_somebody_set_is_left_alone() -> None:
    """The host's tracing is the host's."""
    result = run(
        "import json\n"
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "theirs = TracerProvider()\n"
        "trace.set_tracer_provider(theirs)\n"
        "from stage.telemetry import sdk\n"
        "made = sdk.setup('x', endpoint='http://127.0.0.1:1')\n"
        "print(json.dumps([made, trace.get_tracer_provider() is theirs]))"
    )
    assert result == [False, True]


@pytest.fixture
def hanging() -> Iterator[str]:
    """A collector that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            with suppress(OSError):
                while True:
                    held.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in held:
            connection.close()


def test_a_collector_that_hangs_holds_the_exit_for_two_seconds_at_most(hanging: str) -> None:
    """The spans are lost, the process ends, and an observer made before `setup` does trace."""
    result = run(
        "import json, time\n"
        "from stage.telemetry import sdk\n"
        "from stage.telemetry.spans import OtelObserver\n"
        "observer = OtelObserver()\n"
        f"made = sdk.setup('payment', endpoint={hanging!r})\n"
        "span = observer.request('POST', '/sagas', [], 's-1')\n"
        "span.end('200')\n"
        "began = time.monotonic()\n"
        "sent = sdk.shutdown(0.3)\n"
        "took = time.monotonic() - began\n"
        "print(json.dumps([made, bool(span.span_id), sent, took < sdk.SHUTDOWN_SECONDS_MAX]))"
    )
    assert result == [True, True, False, True]


def test_metrics_reach_a_collector_before_the_exit() -> None:
    """By OTLP over HTTP, under the name of the service, with what happened last."""
    result = run(
        "import json, threading\n"
        "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (\n"
        "    ExportMetricsServiceRequest)\n"
        "from stage.telemetry import metrics, names, sdk\n"
        "from stage.telemetry.meters import bridge\n"
        "seen = []\n"
        "class Handler(BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        seen.append((self.path, self.rfile.read(int(self.headers['Content-Length']))))\n"
        "        self.send_response(200); self.end_headers()\n"
        "    def log_message(self, *_): pass\n"
        "server = HTTPServer(('127.0.0.1', 0), Handler)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "class NoGauges:\n"
        "    def read(self, name): return {}\n"
        "made = sdk.setup_metrics('payment', f'http://127.0.0.1:{server.server_port}')\n"
        "counted = metrics.Metrics()\n"
        "bridge(counted, NoGauges(), None, 'payment')\n"
        "counted.committed(7, 0.002)\n"
        "sent = sdk.shutdown(5.0)\n"
        "path, body = seen[-1]\n"
        "(resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics\n"
        "held = {m.name: m for m in resource.scope_metrics[0].metrics}\n"
        "names_ = {a.key: a.value.string_value for a in resource.resource.attributes}\n"
        "batch = held[names.M_BATCH_UNITS].histogram.data_points[0].sum\n"
        "print(json.dumps([made, sent, path, names_['service.name'], batch]))",
        OTEL_METRICS_EXPORTER="otlp",
    )
    assert result == [True, True, "/v1/metrics", "payment", 7.0]


@pytest.mark.parametrize(
    "word,variable,value",
    [
        ("setup", "OTEL_BSP_SCHEDULE_DELAY", "0"),
        ("setup", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100000"),
        ("setup_metrics", "OTEL_METRIC_EXPORT_INTERVAL", "0"),
    ],
)
def test_a_variable_that_cannot_hold_is_the_operators_to_mend(
    monkeypatch: pytest.MonkeyPatch, word: str, variable: str, value: str
) -> None:
    """One line that says so at the start, as of any other setting, and no traceback."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match="OTEL_ variable"):
        getattr(sdk, word)("payment", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    "environ,sent",
    [
        ({}, 2_048),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "600"}, 300),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "1"}, 1),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ""}, 2_048),
        ({"OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "64"}, 64),
    ],
)
def test_so_many_spans_are_sent_at_once(environ: dict[str, str], sent: int) -> None:
    """At most half of what may wait: a batch leaves once it is there, and others come meanwhile."""
    program = (
        "import json\n"
        "from stage.telemetry import sdk\n"
        "made = sdk.setup('payment', 'http://127.0.0.1:1')\n"
        "processor = sdk._ours[0]._processors[0]._batch_processor\n"
        "print(json.dumps([made, processor._max_export_batch_size]))"
    )
    assert run(program, **environ) == [True, sent]


def test_the_service_is_named_unless_the_environment_names_it() -> None:
    """OTEL_ variables are respected."""
    program = (
        "import json\n"
        "from stage.telemetry import sdk\n"
        "print(json.dumps(sdk._resource('payment').attributes['service.name']))"
    )
    assert run(program) == "payment"
    assert run(program, OTEL_SERVICE_NAME="other") == "other"
    assert run(program, OTEL_RESOURCE_ATTRIBUTES="service.name=third,a=b") == "third"


def test_the_sampler_of_the_environment_holds(hanging: str) -> None:
    """OTEL_TRACES_SAMPLER decides for requests that come without a trace; who came sampled stays.

    The decision goes out in the context, so that recovery and undo follow it.
    """
    result = run(
        "import json\n"
        "from stage.telemetry import sdk\n"
        "from stage.telemetry.spans import OtelObserver\n"
        f"sdk.setup('payment', endpoint={hanging!r})\n"
        "observer = OtelObserver()\n"
        "sampled = [('traceparent', '00-' + 'a' * 32 + '-' + 'b' * 16 + '-01')]\n"
        "flags = [observer.request('POST', '/sagas', came, '').context.traceparent[-2:]\n"
        "         for came in ([], sampled)]\n"
        "sdk.shutdown(0.1)\n"
        "print(json.dumps([int(each, 16) & 1 for each in flags]))",
        OTEL_TRACES_SAMPLER="parentbased_always_off",
    )
    assert result == [0, 1]


def test_as_a_library_nothing_is_set_up(hanging: str) -> None:
    """The factory makes spans with the host's provider, or with the one that it is given.

    Only `stage serve` sets one up, whatever the environment says.
    """
    result = run(
        "import asyncio, json\n"
        "from opentelemetry import trace\n"
        "from stage.demo.payment import payment\n"
        "from stage.inbound.aiohttp import SERVICE\n"
        "from stage.testing import SpanCollector\n"
        "asyncio.run(payment.app())\n"
        "untouched = isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)\n"
        "spans = SpanCollector()\n"
        "app = asyncio.run(payment.app(tracer_provider=spans.provider))\n"
        "app[SERVICE].observer.request('POST', '/sagas', [], 's-1').end('200')\n"
        "print(json.dumps([untouched, spans.names]))",
        STAGE_EXTERNAL="psp=http://127.0.0.1:9",
        STAGE_DATABASE="sqlite:///:memory:",
        OTEL_EXPORTER_OTLP_ENDPOINT=hanging,
    )
    assert result == [True, ["POST /sagas"]]


def test_spans_leave_by_the_exporter_of_the_sdk_and_in_our_encoding() -> None:
    """With the headers and the compression of the variables, and the bytes that the SDK sends."""
    result = run(
        "import gzip, json, threading\n"
        "from http.server import BaseHTTPRequestHandler, HTTPServer\n"
        "from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (\n"
        "    ExportTraceServiceRequest)\n"
        "from stage.telemetry import sdk\n"
        "from stage.telemetry.fast import otlp\n"
        "from stage.telemetry.spans import OtelObserver\n"
        "seen, ours = [], []\n"
        "class Handler(BaseHTTPRequestHandler):\n"
        "    def do_POST(self):\n"
        "        body = self.rfile.read(int(self.headers['Content-Length']))\n"
        "        seen.append((self.path, self.headers['X-Key'], gzip.decompress(body)))\n"
        "        self.send_response(200); self.end_headers()\n"
        "    def log_message(self, *_): pass\n"
        "server = HTTPServer(('127.0.0.1', 0), Handler)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()\n"
        "fast = otlp._fast\n"
        "otlp._fast = lambda span: ours.append(fast(span)) or ours[-1]\n"
        "sdk.setup('payment', f'http://127.0.0.1:{server.server_port}')\n"
        "observer = OtelObserver()\n"
        "for number in range(3):\n"
        "    observer.request('POST', '/sagas', [], f's-{number}').end('200')\n"
        "sent = sdk.shutdown(5.0)\n"
        "((path, key, body),) = seen\n"
        "(resource,) = ExportTraceServiceRequest.FromString(body).resource_spans\n"
        "names = [span.name for span in resource.scope_spans[0].spans]\n"
        "print(json.dumps([sent, path, key, names, ours[-1] in body]))",
        OTEL_EXPORTER_OTLP_HEADERS="x-key=abc",
        OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="gzip",
    )
    assert result == [True, "/v1/traces", "abc", ["POST /sagas"] * 3, True]
