"""`stage check`: what is known of a stage before it runs, and what that stops."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import msgspec
import pytest

from stage import Http, Saga, Stage, Tx
from stage.bootstrap.check import About, Checked, Level, check_stage
from stage.bootstrap.credentials import credentials_of
from stage.config import Config, load
from stage.core.errors import ConfigurationError
from stage.demo.payment import payment
from stage.telemetry import logs
from tests.unit.cli.programs import Done, stage

SOURCE = """
import msgspec
from stage import Stage

class Order(msgspec.Struct):
    amount: int

payment = Stage("payment", accepts=Order, migrations="sql")

@payment.transaction
async def reserve(tx, saga):
    await tx.execute("INSERT INTO payment (id, amout) VALUES (?, ?)", saga.id, saga.input.amount)

@reserve.compensation
async def release(tx, saga):
    await tx.execute("DELETE FROM payment WHERE id = ?", saga.id)
"""


class Order(msgspec.Struct):
    amount: int


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pay.py").write_text(SOURCE)
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "0001_payment.sql").write_text("CREATE TABLE payment (id TEXT);\n")
    return tmp_path


def check(folder: Path, *options: str) -> Done:
    return stage("check", "pay:payment", *options, cwd=folder)


def errors(checked: Checked, about: About) -> list[str]:
    return [
        finding.text
        for finding in checked.findings
        if finding.level is Level.ERROR and finding.about is about
    ]


def test_a_statement_that_no_table_fits_is_found_with_its_line(folder: Path) -> None:
    """A misspelt column: exit status 1, the line and the statement; mended, exit status 0."""
    found = check(folder)
    assert (1, "") == (found.status, found.err)
    assert "error: source: pay.py:12: table payment has no column named amout" in found.out
    (folder / "pay.py").write_text(SOURCE.replace("id, amout", "id, amount"))
    (folder / "sql" / "0001_payment.sql").write_text("CREATE TABLE payment (id TEXT, amount INT);")
    mended = check(folder)
    assert (0, "") == (mended.status, mended.err)
    assert mended.out.endswith("nothing was found that would stop it\n")
    assert not list(folder.glob("*.db")), "the check has made a database"


def test_a_program_reads_it_as_json(folder: Path) -> None:
    """The same findings, and the same exit status; a stage that is refused is one too."""
    found = check(folder, "-o", "json")
    report = msgspec.json.decode(found.out, type=Checked)
    assert (1, "payment", 2) == (found.status, report.stage, report.statements)
    assert [("reserve", "release")] == [(each.name, each.compensation) for each in report.steps]
    assert 1 == len(errors(report, About.SOURCE))
    (folder / "pay.py").write_text(SOURCE.split("@reserve.comp")[0])
    refused = check(folder, "-o", "json")
    (text,) = errors(msgspec.json.decode(refused.out, type=Checked), About.PLAN)
    assert 1 == refused.status and "has no compensation" in text


def test_a_module_that_is_not_there_could_not_be_checked(folder: Path) -> None:
    """Exit status 2: nothing is known of it."""
    done = stage("check", "paid:payment", cwd=folder)
    assert (2, "") == (done.status, done.out)
    assert "there is no module paid" in done.err


def test_a_forgotten_await_is_found_before_it_costs_anything() -> None:
    """The slip that makes a step succeed without a request; the ones that are awaited are not."""
    wrong: Stage[Order, None] = Stage("wrong", accepts=Order)

    @wrong.call(to="psp", compensation=None, reason="of a test")
    async def charge(http: Http, saga: Saga[Order]) -> None:
        http.post("/charges")  # type: ignore[unused-coroutine]  # the slip
        await http.get("/charges")

    (text,) = errors(check_stage(wrong, Config()), About.SOURCE)
    line = 1 + Path(__file__).read_text().split("# the slip")[0].count("\n")
    assert f"test_check.py:{line}: http.post(...) is not awaited: write await before it" == text


async def notify(who: str) -> None:
    """A function of the author's."""


def line_of(mark: str) -> int:
    return 1 + Path(__file__).read_text().split(f"# {mark}")[0].count("\n")


def test_a_wait_in_a_transaction_is_found() -> None:
    """It would be stopped when it runs; the line and the way out are known before."""
    wrong: Stage[Order, None] = Stage("wrong", accepts=Order)

    @wrong.transaction(compensation=None, reason="of a test")
    async def reserve(tx: Tx, saga: Saga[Order]) -> None:
        time.sleep(saga.input.amount)  # noqa: ASYNC251 - a sleep
        await asyncio.sleep(1)  # a wait
        await notify("a function that may use tx is left to the run")

    sleep, wait = errors(check_stage(wrong, Config()), About.SOURCE)
    line = line_of("noqa: ASYNC251 - a sleep")
    assert f"test_check.py:{line}: time.sleep(...) blocks, and a transaction" in sleep
    assert f"test_check.py:{line_of('a wait')}: await asyncio.sleep(...) waits for no" in wait
    assert "move it to a call or an effect" in sleep and "move it to a call or an effect" in wait


def test_a_call_that_blocks_outside_of_a_transaction_is_a_warning() -> None:
    """It runs, and holds the event loop of all sagas."""
    odd: Stage[Order, None] = Stage("odd", accepts=Order)

    @odd.effect(to="printer", compensation=None, reason="of a test")
    async def label(saga: Saga[Order]) -> None:
        time.sleep(saga.input.amount)  # noqa: ASYNC251 - the slip that is looked for
        await asyncio.sleep(1)

    checked = check_stage(odd, Config())
    (warning,) = (each for each in checked.findings if each.level is Level.WARNING)
    assert checked.sound and "give it to asyncio.to_thread" in warning.text


def test_a_coroutine_that_is_dropped_in_an_effect_is_found() -> None:
    """The step would succeed, and nothing of it would run."""
    wrong: Stage[Order, None] = Stage("wrong", accepts=Order)

    @wrong.effect(to="mail", compensation=None, reason="of a test")
    async def mail(saga: Saga[Order]) -> None:
        notify(saga.id)  # type: ignore[unused-coroutine]  # dropped
        await notify(saga.id)

    (text,) = errors(check_stage(wrong, Config()), About.SOURCE)
    assert f"test_check.py:{line_of('dropped')}: notify(...) is not awaited: write await" in text


def test_a_second_request_that_is_not_declared_is_found() -> None:
    """Where it is made in any case: one in a branch, or behind a return, is left to the run."""
    wrong: Stage[Order, None] = Stage("wrong", accepts=Order)

    @wrong.call(to="psp", compensation=None, reason="of a test")
    async def charge(http: Http, saga: Saga[Order]) -> None:
        await http.post("/charges")
        await http.post("/tips")  # the second

    @wrong.call(to="psp", compensation=None, reason="of a test", requests=2)
    async def both(http: Http, saga: Saga[Order]) -> None:
        await http.post("/charges")
        await http.post("/tips")

    @wrong.call(to="psp", compensation=None, reason="of a test")
    async def either(http: Http, saga: Saga[Order]) -> None:
        if saga.input.amount:
            await http.post("/charges")
            return
        await http.post("/tips")

    (text,) = errors(check_stage(wrong, Config()), About.SOURCE)
    assert f"test_check.py:{line_of('the second')}: http.post(...) is request 2 of a call" in text
    assert "make a step of each effect, or declare as many" in text


SLIPS = {
    "no compensation": """
@payment.call(to="psp")
async def charge(http, saga): ...  # here
""",
    "a type that is not there": """
@payment.call(to="psp", compensation=None, reason="r")
async def charge(http, saga) -> "Missing": ...
""",
    "a probe on nothing": """
@payment.call(to="psp", compensation=None, reason="r")
async def charge(http, saga) -> None: ...

@charge.probe
async def find(http, saga) -> None: ...
""",
    "an undo of another type": """
@payment.call(to="psp")
async def charge(http, saga) -> str: ...

@charge.compensation
async def refund(http, saga, made: int | None) -> None: ...
""",
    "together apart": """
@payment.call(to="psp", together="x", compensation=None, reason="r")
async def one(http, saga): ...

@payment.transaction(compensation=None, reason="r")
async def between(tx, saga): ...

@payment.call(to="psp", together="x", compensation=None, reason="r")
async def other(http, saga): ...
""",
    "a call without an API": """
@payment.call
async def charge(http, saga): ...
""",
    "an effect without a system": """
@payment.effect
async def upload(saga): ...
""",
    "an approval without a name": """
@payment.approval
def risk(saga): ...
""",
}
FIXES = {
    "no compensation": r"pay\.py:\d+: .*write one under @charge\.compensation",
    "a type that is not there": r"pay\.py:\d+: .*import it outside of",
    "a probe on nothing": r"pay\.py:\d+: .*let the call return what was made",
    "an undo of another type": r"pay\.py:\d+: .*annotate it made: str \| None",
    "together apart": r"declare them one after the other, or give one another word",
    "a call without an API": r"pay\.py:\d+: .*write @payment\.call\(to=",
    "an effect without a system": r"pay\.py:\d+: .*write @payment\.effect\(to=",
    "an approval without a name": r"pay\.py:\d+: .*write @payment\.approval\('name'\)",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_of_a_declaration_is_a_finding_with_its_fix(folder: Path, slip: str) -> None:
    """The words of the start, before anything is served."""
    (folder / "pay.py").write_text(SOURCE.replace("id, amout", "id, id") + SLIPS[slip])
    done = check(folder)
    assert (1, "") == (done.status, done.err)
    assert re.search(FIXES[slip], done.out), done.out


def test_too_few_parameters_are_found() -> None:
    """Only where their number is certain: a starred one is left to the run."""
    wrong: Stage[Order, None] = Stage("wrong", accepts=Order)

    @wrong.transaction(compensation=None, reason="of a test")
    async def look(tx: Tx, saga: Saga[Order]) -> None:
        await tx.fetchone("SELECT ?, ?", saga.id)
        await tx.fetchone("SELECT ?, ?", *(saga.id,))

    checked = check_stage(wrong, Config())
    (text,) = errors(checked, About.SOURCE)
    assert 1 == checked.statements and "uses 2, and there are 1 supplied" in text


def test_a_call_that_only_a_person_can_settle_is_a_warning() -> None:
    """It stops nothing, for the author may know better."""
    odd: Stage[Order, None] = Stage("odd", accepts=Order)

    @odd.call(to="psp", idempotent=False, compensation=None, reason="of a test")
    async def charge(http: Http, saga: Saga[Order]) -> None:
        (await http.post("/charges")).json()

    checked = check_stage(odd, Config())
    (warning,) = (each for each in checked.findings if each.level is Level.WARNING)
    mend = "waits for a person. Let it return what it made, such as its id, and write a probe under"
    assert checked.sound and f"{mend} @charge.probe" in warning.text


def test_a_webhook_without_its_secret_is_a_note_and_a_warning_at_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every webhook of that API would be refused; with its file nothing is said."""
    text = "charge_ended has no secret to verify a webhook of psp with"
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    externals = ["psp=http://psp"]
    for wanting in (True, False):
        config = load({"auth": "none", "externals": externals}, {})
        notes = [each for each in check_stage(payment, config).findings if text in each.text]
        assert [Level.NOTE] * wanting == [each.level for each in notes]
        log = mock.Mock()
        monkeypatch.setattr(logs, "default_logger", lambda log=log: log)
        credentials_of(payment, config, warns=True)
        assert [mock.call("webhook_without_secret", detail=each.text) for each in notes] == (
            log.warning.call_args_list
        )
        externals.append(f"psp.webhook_secret_file={secret}")


@pytest.mark.parametrize(
    "days, fix",
    [
        ({"rows_retention_days": "1"}, "give 7 to 36500 days"),
        ({"audit_retention_days": "7"}, "give 30 to 36500 days"),
    ],
)
def test_a_retention_has_a_least(days: dict[str, str], fix: str) -> None:
    """A repeat is on its way for days."""
    with pytest.raises(ConfigurationError, match=fix):
        load(days, {})


def test_answers_are_kept_no_longer_than_rows() -> None:
    """The row takes its answer along, so that the setting would never hold."""
    days = {"answers_retention_days": "90", "rows_retention_days": "30"}
    config = load({"auth": "none", "externals": ["psp=http://psp"], **days}, {})
    (found,) = errors(check_stage(payment, config), About.SETTINGS)
    assert "keep answers no longer than rows" in found


def test_settings_are_judged_as_the_stage_would_at_start(tmp_path: Path) -> None:
    """Where a peer is configured: its API, the tokens of neighbours, the steps that are set."""
    options = {
        "downstreams": ["shipping=http://shipping:8080"],
        "steps": ["chrage.attempts_max=2"],
    }
    found = errors(check_stage(payment, load(options, {})), About.SETTINGS)
    assert found[0].startswith("downstream shipping has neither token_file nor accept_file")
    assert found[1].startswith("stage 'payment' calls psp, which no setting names")
    assert "--external psp=URL, or [externals.psp] with its url" in found[1]
    assert 2 == len(found)
    missing = tmp_path / "psp"
    options["externals"] = ["psp=http://psp", f"psp.bearer_file={missing}"]
    found = errors(check_stage(payment, load({**options, "auth": "none"}, {})), About.SETTINGS)
    assert 1 == len(found) and str(missing) in found[0]


def test_a_setting_that_cannot_be_read_is_a_finding(folder: Path) -> None:
    """One for each line that `stage serve` would refuse to start with."""
    done = check(folder, "--port", "many", "--drain-seconds", "-1")
    assert (1, "") == (done.status, done.err)
    assert 2 == done.out.count("error: settings: option --")


@pytest.fixture
def database(tmp_path: Path) -> Callable[[], Checked]:
    """Checks the demo's stage with a database file, of which there is none yet."""
    url = f"sqlite:///{tmp_path / 'p.db'}"
    return lambda: check_stage(payment, load({"database": url}, {}))


def test_a_database_that_is_not_there_is_not_made(
    tmp_path: Path, database: Callable[[], Checked]
) -> None:
    """It is said, and stops nothing."""
    checked = database()
    assert checked.sound and not list(tmp_path.iterdir())
    assert any("there is no database yet" in each.text for each in checked.findings)


def test_a_file_that_is_no_database_of_the_stage_is_found(
    tmp_path: Path, database: Callable[[], Checked]
) -> None:
    """It belongs to something else, and is left as it is."""
    with sqlite3.connect(tmp_path / "p.db") as other:
        other.execute("CREATE TABLE theirs (id TEXT)")
    other.close()
    assert 1 == len(errors(database(), About.DATABASE))


def test_migrations_are_compared_with_the_database(folder: Path) -> None:
    """A pending file is a warning on SQLite, where a start applies it; a changed one stops."""
    (folder / "pay.py").write_text(SOURCE.replace("id, amout", "id, id"))
    at = ("--database", "sqlite:///p.db")
    assert 0 == stage("db", "init", "pay:payment", *at, cwd=folder).status
    (folder / "sql" / "0002_more.sql").write_text("CREATE TABLE refund (id TEXT);\n")
    pending = check(folder, *at)
    assert 0 == pending.status, pending.out
    assert "warning: migrations: sql/0002_more is pending" in pending.out
    (folder / "sql" / "0001_payment.sql").write_text("CREATE TABLE payment (id INT);\n")
    changed = check(folder, *at)
    assert 1 == changed.status
    assert (
        "error: migrations: sql/0001_payment was applied, and its file was changed" in changed.out
    )
