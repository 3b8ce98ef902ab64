"""The file of a chain: read with its defaults, refused with the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from stage.core.errors import ConfigurationError
from stage.orchestrators.temporal.config import load

ONE = '[stages.payment]\nurl = "http://payment:8080"\n'


def test_a_stage_is_all_that_it_needs(tmp_path: Path) -> None:
    """The rest has the defaults of a dev server."""
    config = load(written(tmp_path, ONE))

    assert ["payment"] == list(config.stages)
    assert ("127.0.0.1:7233", "default", "sagas", "temporal") == (
        config.address,
        config.namespace,
        config.task_queue,
        config.name,
    )


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("", r"names no stage: add a table \[stages.NAME\] with its url"),
        (f'queue = "x"\n{ONE}', "queue is no setting: these are address, auth, "),
        (f"task_queue = 1\n{ONE}", "task_queue is 1: give a text"),
        ("[stages]\npayment = 1\n", "stages.payment is 1: give a URL, or a table with url"),
        (f"{ONE}password = 'x'\n", "stages.payment.password is no setting"),
        ("[stages.payment]\nurl = 'payment'\n", "stages.payment"),
        ("[stages", "is no TOML"),
        (f'listen = "8085"\n{ONE}', "listen is '8085': give HOST:PORT"),
        (f'auth = "all"\n{ONE}', "auth is 'all': it is tokens or none"),
        (f'listen = "0.0.0.0:8085"\nauth = "none"\n{ONE}', "auth is none and listen is 0.0.0.0"),
        (f'listen = "0.0.0.0:8085"\n{ONE}', "stages.payment has no accept_file, so it cannot"),
        (f'temporal_client_key = "a.key"\n{ONE}', "temporal_client_cert is not: add the certif"),
        (f'temporal_client_cert = "a.pem"\n{ONE}', "temporal_client_key is not: add its key"),
        (f'temporal_ca_file = "not/there"\n{ONE}', "temporal_ca_file not/there cannot be read"),
        (f'temporal_api_key_file = "not/there"\n{ONE}', "temporal_api_key_file not/there cannot"),
    ],
)
def test_a_wrong_file_is_refused_with_the_fix(tmp_path: Path, text: str, wrong: str) -> None:
    """Each by the name of the file and of the setting."""
    with pytest.raises(ConfigurationError, match=wrong):
        load(written(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The message is for whoever started the worker."""
    with pytest.raises(ConfigurationError, match=r"away\.toml cannot be read: No such file"):
        load(tmp_path / "away.toml")


def written(folder: Path, text: str) -> Path:
    """The text as a file."""
    path = folder / "chain.toml"
    path.write_text(text, encoding="utf-8")
    return path
