"""The configuration: which origin holds, what is refused, and all problems reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from stage.config import (
    OTHER_VARIABLES,
    SETTINGS,
    Config,
    check_url,
    describe,
    load,
    local_socket,
    redacted,
)
from stage.core.errors import ConfigurationError
from stage.core.retry import PATIENCE_SECONDS
from stage.wire.limits import DEFAULT_LIMITS

GIVE = "give http://host:8080"
USE = "use sqlite:///FILE, postgresql://HOST/NAME, or sqlite:///:memory: to keep nothing"


def problems(
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(options or {}, environ or {}, file)
    return str(caught.value).splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stage.toml"


def test_the_table_and_the_fields_are_the_same() -> None:
    """Every field can be set; the words of the file, options and variables agree."""
    names = [field.name for field in fields(Config) if field.name not in ("origins", "ignored")]
    assert [setting.name for setting in SETTINGS] == names
    by_name = {setting.name: setting for setting in SETTINGS}
    assert by_name["downstreams"].option == "--downstream"
    assert by_name["downstreams"].variable == "STAGE_DOWNSTREAM"
    assert by_name["drain_seconds"].option == "--drain-seconds"
    assert by_name["drain_seconds"].variable == "STAGE_DRAIN_SECONDS"


def test_every_default_is_a_value_that_may_be_set() -> None:
    """The bounds hold for our own numbers too."""
    for setting in SETTINGS:
        default = getattr(Config(), setting.name)
        if default not in (None, "") and not setting.peers:
            assert setting.read(default) == default
            assert setting.read(str(default)) == default


def test_the_addition_of_a_stage_has_the_limit_of_the_protocol() -> None:
    """The table imports nothing that starts slowly, so the number stands twice."""
    assert DEFAULT_LIMITS.adds_bytes_max == Config().adds_bytes_max


def test_nothing_set_gives_the_defaults() -> None:
    """And a Config cannot be changed."""
    config = load({}, {"HOME": "x", "STAGE_URL": "http://other"}, None)
    assert config == Config()
    with pytest.raises(FrozenInstanceError):
        config.port = 1  # type: ignore[misc]


def test_options_hold_over_the_environment_and_that_over_the_file(file: Path) -> None:
    """Neighbours are merged by name."""
    file.write_text(
        'port = 1\nhost = "a"\nlog_level = "debug"\n'
        '[downstreams]\na = "http://file/a"\nb = "http://file/b"\nc = "http://file/c"\n'
    )
    config = load(
        {"port": "3", "downstreams": ("c=http://option/c",), "host": None},
        {"STAGE_PORT": "2", "STAGE_HOST": "b", "STAGE_DOWNSTREAM": "b=http://env/b, c=http://env"},
        file,
    )
    assert (config.port, config.host, config.log_level) == (3, "b", "debug")
    expected = {"a": "http://file/a", "b": "http://env/b", "c": "http://option/c"}
    assert expected == dict(config.downstreams)
    origins = {line.name: line.origin for line in describe(config)}
    assert origins["port"] == "option --port"
    assert origins["host"] == "environment STAGE_HOST"
    assert origins["log_level"] == "stage.toml line 3 log_level"
    assert origins["downstreams.a"] == "stage.toml line 5 downstreams.a"
    assert origins["downstreams.b"] == "environment STAGE_DOWNSTREAM"
    assert origins["downstreams.c"] == "option --downstream"
    assert origins["database"] == "default"


def test_a_file_of_another_system_is_understood(file: Path) -> None:
    """With a mark before its first byte, and other ends of lines."""
    file.write_bytes("\ufeffport = 9000\r\nlog_level = 'debug'\r\n".encode())
    config = load({}, {}, file)
    assert (9000, "debug") == (config.port, config.log_level)


def test_the_environment_may_name_the_file(file: Path) -> None:
    """An option holds over it; a variable set to nothing is not set."""
    file.write_text("port = 1\n")
    assert load({}, {"STAGE_CONFIG": str(file)}).port == 1
    assert load({}, {"STAGE_CONFIG": "", "STAGE_PORT": ""}).port == Config().port
    assert "nowhere.toml: cannot be read" in problems({}, {"STAGE_CONFIG": "nowhere.toml"})[0]


def test_all_problems_are_reported_at_once_each_with_origin_and_fix(file: Path) -> None:
    """One run shows everything that has to be mended."""
    file.write_text('prot = 1\nhost = 7\n[downstreams]\na = "ftp://a"\n')
    reported = problems(
        {"port": "99999", "upstreams": ("nameless",), "database": "mysql://u:secret@h/x"},
        {"STAGE_DRAIN_SECONDS": "soon", "STAGE_PROT": "1", "STAGE_EXTERNAL": "psp=http://u:pw@h"},
        file,
    )
    assert reported == [
        "stage.toml line 1 prot: is not known: did you mean port?",
        "stage.toml line 2 host: 7 is not a host: give an address or a name, such as 0.0.0.0",
        "stage.toml line 4 downstreams.a: 'ftp://a' is not an absolute http or https URL: " + GIVE,
        "environment STAGE_DRAIN_SECONDS: 'soon' is not a number: give 0 to 3600 seconds",
        "environment STAGE_EXTERNAL: 'http://***@h' holds credentials: take them out of the URL",
        "environment STAGE_PROT: is not known: did you mean STAGE_PORT?",
        "option --port: '99999' is out of range: give 0 to 65535",
        "option --upstream: 'nameless' is not NAME=URL: give for example shipping=http://host:8080",
        "option --database: the database URL 'mysql://***@h/x' is not known: " + USE,
    ]
    assert not any("secret" in line or "pw" in line for line in reported)


def test_an_unknown_name_is_refused_with_the_nearest_one(file: Path) -> None:
    """In the file, in the environment, and where a program calls `load`."""
    file.write_text('downstream = "x"\n')
    assert problems({}, {}, file) == [
        "stage.toml line 1 downstream: is not known: did you mean downstreams?"
    ]
    assert problems({}, {"STAGE_DOWNSTREAMS": "x"}) == [
        "environment STAGE_DOWNSTREAMS: is not known: did you mean STAGE_DOWNSTREAM?"
    ]
    assert problems({"prot": 1}) == ["option prot: is not known: did you mean port?"]
    assert load({}, dict.fromkeys(OTHER_VARIABLES - {"STAGE_CONFIG"}, "x")) == Config()


@pytest.mark.parametrize(
    "variable, value",
    [
        ("STAGE_NAME", "Deploy (production)"),
        ("STAGE_ENV", "prod"),
        ("STAGE_HOSTNAME", "node-7"),
        ("STAGE_QQQQQQ", ""),
        ("STAGE_", "x"),
        ("STAGE_PORT", "tcp://10.0.0.1:80"),
        ("STAGE_SERVICE_HOST", "10.0.0.1"),
        ("STAGE_SERVICE_PORT_HTTP", "80"),
        ("STAGE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("STAGE_DATABASE_PORT", "tcp://10.0.0.1:80"),
        ("STAGE_DATABASE_SERVICE_HOST", "10.0.0.1"),
        ("STAGE_DATABASE_PORT_80_UDP", "udp://10.0.0.1:80"),
    ],
)
def test_a_variable_of_others_stops_nothing(variable: str, value: str) -> None:
    """Those of a CI server, of a deployment, and of Kubernetes for a service named stage."""
    config = load({}, {variable: value, "STAGE_HOST": "0.0.0.0"})
    assert Config(host="0.0.0.0") == config
    (line,) = config.ignored
    assert line.startswith(f"environment {variable}: is ignored, ")


@pytest.mark.parametrize(
    "variable, meant",
    [
        ("STAGE_DATBASE", "STAGE_DATABASE"),
        ("STAGE_DATABASE_URL", "STAGE_DATABASE"),
        ("STAGE_PROT", "STAGE_PORT"),
        ("STAGE_UPSTREAMS", "STAGE_UPSTREAM"),
        ("STAGE_LOGLEVEL", "STAGE_LOG_LEVEL"),
        ("STAGE_CONFG", "STAGE_CONFIG"),
        ("STAGE_SERVICE_NAMES", "STAGE_SERVICE_NAME"),
    ],
)
def test_a_variable_that_is_nearly_a_setting_is_a_slip(variable: str, meant: str) -> None:
    """Ignored, it would leave the operator with the default: another database, say."""
    expected = f"environment {variable}: is not known: did you mean {meant}?"
    assert [expected] == problems({}, {variable: "x"})


def test_a_port_of_ours_is_judged_as_one() -> None:
    """Only the URL that Kubernetes writes is not ours."""
    assert 9 == load({}, {"STAGE_PORT": "9"}).port
    (problem,) = problems({}, {"STAGE_PORT": "http://10.0.0.1:80"})
    assert "is not a whole number" in problem


@pytest.mark.parametrize(
    "text,fix",
    [
        ("port = ", "mend the file"),
        ("port = true", "is not a whole number"),
        ("port = 1.5", "is not a whole number"),
        ("drain_seconds = true", "is not a number"),
        ("drain_seconds = nan", "is not a number"),
        ("drain_seconds = -1", "out of range"),
        ("requests_max = 0", "give 1 or more"),
        ("downstreams = 1", "write [downstreams]"),
        ('[downstreams]\nUPPER = "http://h"', "is not a name"),
        ("[downstreams]\na = 1", "is not a URL"),
        ('log_format = "xml"', "use auto, json, console"),
        ("[port]\nx = 1", "is not a whole number"),
    ],
)
def test_a_wrong_file_is_reported_with_its_place(file: Path, text: str, fix: str) -> None:
    """Never a traceback, always a line that can be mended."""
    file.write_text(text)
    (problem,) = problems({}, {}, file)
    assert problem.startswith("stage.toml") and fix in problem


def test_a_file_that_is_not_there_or_not_text_is_reported(tmp_path: Path) -> None:
    """A folder, nothing, and bytes that are no UTF-8."""
    assert "cannot be read" in problems({}, {}, tmp_path)[0]
    assert "cannot be read" in problems({}, {}, tmp_path / "none.toml")[0]
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe4"')
    assert "not TOML in UTF-8" in problems({}, {}, tmp_path / "latin.toml")[0]


@pytest.mark.parametrize(
    "url,expected",
    [
        ("http://h", "http://h"),
        ("http://h/", "http://h"),
        ("https://h:8443/mounted/here/", "https://h:8443/mounted/here"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_a_url_is_kept_without_its_trailing_slash(url: str, expected: str) -> None:
    """A path is where the application is mounted."""
    assert check_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h:8080",
        "//h",
        "/path",
        "ftp://h",
        "http://",
        "http://:80",
        "http://h:99999",
        "http://h:0",
        "http://h:x",
        "http://u@h",
        "http://u:p@h",
        "http://h?",
        "http://h/?q=1",
        "http://h#f",
        "http://h /",
        "http://h\n",
        "http://h\\x",
        "http://h/v1/../v2",
        "http://h/.",
        "http://h/v1/%2e%2E",
        "http://h\u00e4",
        "http://[::1",
        7,
    ],
)
def test_a_url_that_could_mean_something_else_is_refused(url: object) -> None:
    """Only absolute http and https, without credentials, query or fragment."""
    with pytest.raises(ValueError, match=r"is not|holds|has"):
        check_url(url)


@pytest.mark.parametrize("url", ["sqlite:///x.db", "sqlite:////var/x.db", "sqlite:///:memory:"])
def test_a_database_is_a_sqlite_file_or_memory(url: str) -> None:
    """Relative, absolute, or none."""
    assert load({"database": url}, {}).database == url


@pytest.mark.parametrize(
    "url", ["", "x.db", "sqlite://x.db", "sqlite:///", "sqlite:///x/", "sqlite:///x?mode=ro"]
)
def test_another_database_url_is_refused_with_the_fix(url: str) -> None:
    """The message says what to write."""
    assert "use sqlite:///FILE" in problems({"database": url})[0]


def test_a_blank_behind_a_database_url_makes_no_other_file() -> None:
    """As a list of variables for a container keeps it, and a Secret that was made of a file."""
    for url in ("sqlite:///payment.db ", "sqlite:///:memory: ", "postgresql://u:secret@h/d\n"):
        (problem,) = problems({}, {"STAGE_DATABASE": url})
        assert "begins or ends with a blank or a line break: take it out" in problem
        assert "secret" not in problem


def test_a_name_stands_for_one_neighbour() -> None:
    """Twice in one source, or on both sides, is refused."""
    assert "given twice" in problems({"externals": ("a=http://h", "a=http://i")})[0]
    (both,) = problems({"upstreams": ("a=http://h",)}, {"STAGE_DOWNSTREAM": "a=http://i"})
    assert both.startswith("option --upstream and environment STAGE_DOWNSTREAM: 'a' is both")


def test_neighbours_may_be_a_mapping() -> None:
    """For programs that call `load`."""
    config = load({"upstreams": {"a": "http://h/"}, "port": 0}, {})
    assert dict(config.upstreams) == {"a": "http://h"} and config.port == 0


def test_credentials_are_never_shown() -> None:
    """Not even those in a Config that a program made by hand."""
    config = Config(database="sqlite:///x", downstreams={"a": "http://user:secret@h/p"})
    shown = {line.name: line for line in describe(config)}
    assert shown["downstreams.a"].value == "http://***@h/p"
    assert shown["downstreams.a"].origin == "program"
    assert shown["upstreams"].value == "" and shown["upstreams"].origin == "default"
    assert redacted("see http://a:b@c and http://d:e@f") == "see http://***@c and http://***@f"


@pytest.mark.parametrize("keys", ["tenant,", "", "ten ant", "a=b", "é"])
def test_baggage_keys_are_tokens(keys: str) -> None:
    """A text that could never be the key of a member is refused, not ignored."""
    with pytest.raises(ConfigurationError, match="give for example tenant,region"):
        load({"baggage_keys": keys}, {})
    assert "tenant,region" == load({"baggage_keys": " tenant , region"}, {}).baggage_keys


def test_the_patience_of_an_operator_is_by_default_that_of_the_core() -> None:
    """The number stands twice: the table of settings may import nothing that starts slowly."""
    assert PATIENCE_SECONDS == Config().compensation_patience_seconds


def test_only_a_database_file_has_a_socket_beside_it() -> None:
    """The URL of a server holds a password, which would stand in a path and in a log line."""
    assert local_socket("sqlite:////srv/payment.db") == Path("/srv/payment.db.sock")
    assert local_socket("sqlite:///:memory:") is None
    assert local_socket("postgresql://stage:secret@db.internal/payment") is None
