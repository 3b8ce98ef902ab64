"""The table of settings, and the one frozen `Config` that they make.

The command line draws its options from SETTINGS, so this room imports nothing that starts slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stage.config.values import (
    activity_arn,
    baggage_keys,
    check_url,
    count,
    database,
    days_between,
    file_path,
    host,
    host_and_port,
    host_names,
    namespace,
    one_of,
    peer_name,
    seconds_between,
    switch,
    trace_url,
)
from stage.ports.connection import Connection
from stage.ports.operator import Operator
from stage.ports.policy import Policy

PREFIX = "STAGE_"
WORKERS_MAX = 64
FILE_VARIABLE = "STAGE_CONFIG"
OTHER_VARIABLES = frozenset(
    {
        FILE_VARIABLE,
        "STAGE_URL",
        "STAGE_TOKEN_FILE",
        "STAGE_CA_FILE",
        "STAGE_CLIENT_CERT",
        "STAGE_CLIENT_KEY",
        "STAGE_FAST_TELEMETRY",
    }
)
"""Variables of ours that are not part of the configuration of a stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Everything that can be set for one stage. Times in seconds. Made by `load`, or by hand.

    `origins` says where a value comes from, by the name of the field (`downstreams.shipping` for
    one neighbour); what is not named there is a default, or was set by a program. `ignored` has a
    line for each variable that has our prefix and is in no setting; the stage logs it at start.
    """

    service_name: str = ""
    """The `service.name` of traces and metrics; empty: the name of the stage."""
    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int | None = None
    auth: str = "tokens"
    allowed_hosts: str = ""
    trace_url: str = ""
    """Where the console links a trace, with {trace_id} in it; empty: nowhere."""
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    database: str = "sqlite:///stage.db"
    database_must_exist: bool = False
    payload_key_file: str = ""
    workers: int = 1
    """Processes that serve the stage. `serve` alone starts more than one."""
    lock_wait_seconds: float = 0.0
    lease_seconds: float = 10.0
    engine: str = "embedded"
    temporal_address: str = ""
    temporal_namespace: str = "default"
    temporal_ca_file: str = ""
    temporal_client_cert: str = ""
    temporal_client_key: str = ""
    temporal_api_key_file: str = ""
    sfn_activity: str = ""
    upstreams: Mapping[str, str | Connection] = field(default_factory=dict)
    downstreams: Mapping[str, str | Connection] = field(default_factory=dict)
    externals: Mapping[str, str | Connection] = field(default_factory=dict)
    operators: Mapping[str, Operator] = field(default_factory=dict)
    steps: Mapping[str, Policy] = field(default_factory=dict)
    wait_seconds_max: float = 25.0
    deadline_seconds_default: float = 60.0
    adds_bytes_max: int = 65_536
    drain_delay_seconds: float = 0.0
    drain_seconds: float = 20.0
    stuck_seconds: float = 5.0
    concurrency_max: int = 1_000
    no_fast_path: bool = False
    requests_max: int = 2_000
    connections_max: int = 4_000
    compensation_window_seconds: float = 604_800.0
    compensation_patience_seconds: float = 259_200.0
    answers_retention_days: float | None = None
    rows_retention_days: float | None = None
    audit_retention_days: float | None = None
    attempts_max: int | None = None
    compensation_attempts_max: int | None = None
    external_timeout_seconds_max: float | None = None
    forward_timeout_seconds: float = 30.0
    forward_attempts_max: int = 8
    log_format: str = "auto"
    log_level: str = "info"
    log_exception_text: bool = False
    otlp_endpoint: str = ""
    baggage_keys: str = ""
    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    ignored: tuple[str, ...] = field(default=(), compare=False, repr=False)


class Setting(NamedTuple):
    """One thing that can be set: `read` makes its value of what was given, or raises ValueError.

    `flag` is the option, the variable and the key at once: `--drain-seconds`,
    `STAGE_DRAIN_SECONDS`, `drain_seconds`. For peers it is in the singular, and the table of the
    file and the field of Config are in the plural (`name`); `config.peers` has their keys.
    """

    name: str
    read: Callable[[object], Any]
    metavar: str
    help: str
    peers: bool = False
    switch: bool = False
    """Given as an option it has no value: it is on."""

    @property
    def flag(self) -> str:
        """The name in the singular."""
        return self.name.removesuffix("s") if self.peers else self.name

    @property
    def option(self) -> str:
        """As it is given on the command line."""
        return "--" + self.flag.replace("_", "-")

    @property
    def variable(self) -> str:
        """As it stands in the environment."""
        return PREFIX + self.flag.upper()


DAY = 86_400.0
SETTINGS = (
    Setting("service_name", peer_name, "NAME", "Name in traces; by default that of the stage."),
    Setting("host", host, "HOST", "Address to listen on."),
    Setting("port", count(0, 65_535), "PORT", "Port to listen on; 0 takes a free one."),
    Setting(
        "admin_port",
        count(0, 65_535),
        "PORT",
        "Port of its own for health, metrics and operators; the other has the protocol alone.",
    ),
    Setting(
        "auth",
        one_of("tokens", "none"),
        "MODE",
        "tokens, or none: everybody is believed, on loopback only.",
    ),
    Setting(
        "allowed_hosts",
        host_names,
        "HOST,HOST",
        "Names in the Host header beside those of loopback and of --host.",
    ),
    Setting(
        "trace_url",
        trace_url,
        "URL",
        "Where the console links a trace: https://jaeger.example/trace/{trace_id}.",
    ),
    Setting(
        "tls_cert",
        file_path,
        "FILE",
        "PEM certificate with its chain: every port speaks TLS alone.",
    ),
    Setting("tls_key", file_path, "FILE", "Its key, where the certificate's file has none."),
    Setting(
        "tls_client_ca",
        file_path,
        "FILE",
        "PEM of the authorities whose certificates name callers.",
    ),
    Setting(
        "database",
        database,
        "URL",
        "sqlite:///FILE, postgresql://HOST/NAME, or sqlite:///:memory:.",
    ),
    Setting(
        "database_must_exist",
        switch,
        "",
        "Refuse to start where there is no database, instead of making one.",
        switch=True,
    ),
    Setting(
        "payload_key_file",
        file_path,
        "FILE",
        "Keys that encrypt the contents of sagas at rest (`stage keys payload`).",
    ),
    Setting(
        "workers",
        count(1, WORKERS_MAX),
        "N",
        "Processes that serve the stage: on SQLite each has the sagas of a file of its own.",
    ),
    Setting(
        "lock_wait_seconds",
        seconds_between(0, 3_600),
        "SECONDS",
        "How long to wait at start for the process that has the database.",
    ),
    Setting(
        "lease_seconds",
        seconds_between(1, 300),
        "SECONDS",
        "Replicas on PostgreSQL: after so long a silent one is taken for dead.",
    ),
    Setting(
        "engine",
        one_of("embedded", "temporal"),
        "NAME",
        "What says when and where a saga is run: this process, or workflows of Temporal.",
    ),
    Setting("temporal_address", host_and_port, "HOST:PORT", "Temporal, for --engine temporal."),
    Setting("temporal_namespace", namespace, "NAME", "The namespace there."),
    Setting("temporal_ca_file", file_path, "FILE", "PEM of the authorities of Temporal's server."),
    Setting("temporal_client_cert", file_path, "FILE", "PEM certificate shown to Temporal."),
    Setting("temporal_client_key", file_path, "FILE", "Its key."),
    Setting("temporal_api_key_file", file_path, "FILE", "An API key of Temporal Cloud."),
    Setting(
        "sfn_activity",
        activity_arn,
        "ARN",
        "An activity of AWS Step Functions whose tasks this stage does, beside HTTP.",
    ),
    Setting("upstreams", check_url, "NAME=URL", "A stage before this one.", peers=True),
    Setting("downstreams", check_url, "NAME=URL", "A stage after this one.", peers=True),
    Setting("externals", check_url, "NAME=URL", "An external API that is called.", peers=True),
    Setting(
        "operators",
        check_url,
        "NAME.KEY=VALUE",
        "A person or program with a role: accept_file and role.",
        peers=True,
    ),
    Setting(
        "steps",
        check_url,
        "NAME.KEY=VALUE",
        "A step: attempts_max, compensation_attempts_max, timeout_seconds, never_retry,"
        " key_lifetime_seconds.",
        peers=True,
    ),
    Setting(
        "wait_seconds_max",
        seconds_between(0, 60),
        "SECONDS",
        "How long POST /sagas waits before 202.",
    ),
    Setting(
        "deadline_seconds_default",
        seconds_between(0.1, 30 * DAY),
        "SECONDS",
        "Budget of a saga that comes with neither budget nor deadline.",
    ),
    Setting(
        "adds_bytes_max",
        count(1, 524_288),
        "BYTES",
        "What this stage may add to the context.",
    ),
    Setting(
        "drain_delay_seconds",
        seconds_between(0, 600),
        "SECONDS",
        "How long to serve on, not ready, after SIGTERM.",
    ),
    Setting(
        "drain_seconds",
        seconds_between(0, 3_600),
        "SECONDS",
        "How long running sagas may take to stop.",
    ),
    Setting(
        "stuck_seconds",
        seconds_between(0.5, 3_600),
        "SECONDS",
        "How long author code may keep all sagas waiting before it is reported.",
    ),
    Setting("concurrency_max", count(1), "N", "Sagas run at the same time."),
    Setting(
        "no_fast_path",
        switch,
        "",
        "Ask the rules at every step of a saga, also where it goes as it should.",
        switch=True,
    ),
    Setting("requests_max", count(1), "N", "Requests answered at the same time; then 503."),
    Setting("connections_max", count(8, 65_536), "N", "Connections open at the same time."),
    Setting(
        "compensation_window_seconds",
        seconds_between(0, 3_650 * DAY),
        "SECONDS",
        "How long a completed saga stays compensable.",
    ),
    Setting(
        "compensation_patience_seconds",
        seconds_between(1, 365 * DAY),
        "SECONDS",
        "How long an undo is tried before it waits for a person.",
    ),
    Setting(
        "answers_retention_days",
        days_between(7, 36_500),
        "DAYS",
        "How long the answer of a closed saga is kept; by default for ever.",
    ),
    Setting(
        "rows_retention_days",
        days_between(7, 36_500),
        "DAYS",
        "How long a closed saga with a UUIDv7 as its id is kept at all; by default for ever.",
    ),
    Setting(
        "audit_retention_days",
        days_between(30, 36_500),
        "DAYS",
        "How long the acts of operators are kept; by default for ever.",
    ),
    Setting("attempts_max", count(1, 1_000), "N", "Attempts of every step, whatever it declares."),
    Setting(
        "compensation_attempts_max",
        count(1, 10_000),
        "N",
        "Attempts of every compensation, whatever it declares.",
    ),
    Setting(
        "external_timeout_seconds_max",
        seconds_between(0.001, 3_600),
        "SECONDS",
        "Longest time-out of a call, whatever it declares.",
    ),
    Setting(
        "forward_timeout_seconds",
        seconds_between(0.001, 3_600),
        "SECONDS",
        "How long one attempt to hand on downstream may take.",
    ),
    Setting("forward_attempts_max", count(1, 1_000), "N", "Attempts to hand on downstream."),
    Setting("log_format", one_of("auto", "json", "console"), "FORMAT", "auto, json or console."),
    Setting(
        "log_level",
        one_of("debug", "info", "warning", "error"),
        "LEVEL",
        "debug, info, warning or error.",
    ),
    Setting(
        "log_exception_text",
        switch,
        "",
        "Log what exceptions say, and not only where they were raised: it may quote a payload.",
        switch=True,
    ),
    Setting("otlp_endpoint", check_url, "URL", "Base URL of an OTLP/HTTP collector for traces."),
    Setting(
        "baggage_keys",
        baggage_keys,
        "KEY,KEY",
        "Members of W3C baggage to pass on; by default none.",
    ),
)
"""All settings, in the order in which they are shown."""

BY_NAME = {setting.name: setting for setting in SETTINGS}
