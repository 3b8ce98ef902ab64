"""Peers as tables: a URL alone or several keys, from the file, the environment and options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stage.authoring.declaration import StageDeclaration
from stage.bootstrap import wiring
from stage.config import describe, load
from stage.config.peers import PEER_KEYS
from stage.core.errors import ConfigurationError
from stage.outbound.client import PeerClient
from stage.outbound.peers import http_peers as real_peers
from stage.ports.connection import Connection
from stage.ports.peers import PeerLimits, Peers
from stage.ports.policy import Policy

PSP = "https://psp.example"


def problems(
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    text: str = "",
    folder: Path | None = None,
) -> list[str]:
    file = None
    if folder is not None:
        file = folder / "stage.toml"
        file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(options or {}, environ or {}, file)
    return str(caught.value).splitlines()


def test_every_field_of_a_connection_is_a_key() -> None:
    """No field is left out of the settings, and none is set that is not there."""
    fields = [field.name for field in dataclasses.fields(Connection)]
    assert [key.name for key in PEER_KEYS] == fields


def test_a_plain_string_stays_a_url_and_a_table_has_keys(tmp_path: Path) -> None:
    """Paths in the file are relative to the folder of the file, not to where we were started."""
    file = tmp_path / "stage.toml"
    file.write_text(
        '[downstreams]\nbilling = "http://billing:1"\n'
        f'[externals.psp]\nurl = "{PSP}"\nbearer_file = "keys/psp"\n'
        '[downstreams.shipping]\nurl = "http://shipping:1"\ntoken_file = "/keys/shipping"\n'
    )
    config = load({}, {}, file)
    assert config.downstreams == {
        "billing": "http://billing:1",
        "shipping": Connection(url="http://shipping:1", token_file="/keys/shipping"),
    }
    expected = Connection(url=PSP, bearer_file=str(tmp_path / "keys" / "psp"))
    assert expected == config.externals["psp"]
    origins = {line.name: line.origin for line in describe(config)}
    assert origins["externals.psp"] == "stage.toml line 4 externals.psp.url"
    assert origins["externals.psp.bearer_file"] == "stage.toml line 5 externals.psp.bearer_file"


def test_the_environment_and_options_give_keys_too(tmp_path: Path) -> None:
    """Merged by key: a later origin changes one key and leaves the others."""
    file = tmp_path / "stage.toml"
    file.write_text(f'[externals.psp]\nurl = "{PSP}"\nbearer_file = "/file/psp"\n')
    environ = {"STAGE_EXTERNAL": "psp.bearer_file=/env/psp,bank=http://bank:1"}
    config = load({"externals": ("psp.ca_file=/ca.pem",)}, environ, file)
    expected = Connection(url=PSP, bearer_file="/env/psp", ca_file="/ca.pem")
    assert expected == config.externals["psp"]
    assert config.externals["bank"] == "http://bank:1"
    given = {"psp": {"url": PSP, "basic_file": "/keys/psp"}}
    assert load({"externals": given}, {}).externals == {
        "psp": Connection(url=PSP, basic_file="/keys/psp")
    }


@pytest.mark.parametrize(
    "text, problem",
    [
        ("bearer = 1", "'bearer' is not known: did you mean bearer_file?"),
        ('token_file = "x"', "'token_file' is not known: remove it"),
        ("bearer_file = 7", "7 is not a path: give the path of a file"),
        ('bearer_file = "a"\nbasic_file = "b"', "has bearer_file and basic_file"),
        ("concurrency_max = 0", "0 is out of range: give 1 to 100000"),
        ("rate_per_second = 0", "0 is out of range: give 0.01 to 100000 a second"),
        ('rate_per_second = "fast"', "'fast' is not a number: give 0.01 to 100000 a second"),
        ('client_key = "a"', "has client_key without client_cert: add client_cert"),
    ],
)
def test_a_wrong_table_is_refused_with_the_fix(tmp_path: Path, text: str, problem: str) -> None:
    """A key that does nothing would be believed to do something."""
    table = f'[externals.psp]\nurl = "{PSP}"\n{text}\n'
    (found,) = problems({}, {}, table, tmp_path)
    assert found.startswith("stage.toml line ") and problem in found


def test_each_peer_has_the_limits_that_are_set_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By kind and name, as the gates look them up; the usual ones where nothing is set."""
    file = tmp_path / "stage.toml"
    file.write_text(
        f'[externals.psp]\nurl = "{PSP}"\nconcurrency_max = 7\nrate_per_second = 2.5\n'
        '[downstreams]\nshipping = "http://shipping:1"\n'
        '[upstreams.order]\nurl = "http://order:1"\nrate_per_second = 30\n'
    )
    options = {"downstreams": ("shipping.concurrency_max=3",), "auth": "none"}
    config = load(options, {}, file)
    wired: dict[str, Any] = {}

    def http_peers(client: PeerClient, **options: Any) -> Peers:
        wired.update(options)
        return real_peers(client, **options)

    monkeypatch.setattr(wiring, "http_peers", http_peers)
    wiring.wire(StageDeclaration("bank", accepts=dict[str, Any]), config)
    assert wired["limits"] == {
        "externals.psp": PeerLimits(concurrency_max=7, rate_per_second=2.5),
        "downstreams.shipping": PeerLimits(concurrency_max=3),
        "upstreams.order": PeerLimits(rate_per_second=30.0),
    }
    shown = {line.name: line.value for line in describe(config)}
    assert "2.5" == shown["externals.psp.rate_per_second"]
    assert "7" == shown["externals.psp.concurrency_max"]


def test_a_peer_without_a_url_and_tls_without_https_are_refused() -> None:
    """Each names what is missing."""
    assert problems({"externals": ("psp.bearer_file=x",)}) == [
        'option --external: externals.psp has no url: add it, for example url = "http://host:8080"'
    ]
    (found,) = problems({"externals": ("psp=http://psp", "psp.ca_file=x")})
    assert "externals.psp has ca_file, which only TLS uses: give an https URL" in found


@pytest.mark.parametrize(
    "given, said",
    [
        (("psp=http://psp", "psp.proxy=http://p:3128"), "give an https URL, or remove it"),
        (("psp=https://psp", "psp.proxy_basic_file=x"), "has proxy_basic_file without proxy"),
        (("psp=https://psp", "psp.proxy=https://p:3128"), "give http://HOST:PORT"),
        (("psp=https://psp", "psp.proxy=http://p"), "give http://HOST:PORT"),
        (("psp=https://psp", "psp.proxy=http://p:3128/x"), "give http://HOST:PORT"),
        (("psp=https://psp", "psp.proxy=socks5://p:1080"), "give http://host:8080"),
        (("psp=https://psp", "psp.proxy=http://kim:pw@p:1"), "into proxy_basic_file"),
    ],
)
def test_a_proxy_that_is_none_is_refused(given: tuple[str, ...], said: str) -> None:
    """With the fix, and without a password that stands in it."""
    (found,) = problems({"externals": given})
    assert said in found and "pw" not in found


def test_a_peer_is_reached_by_a_proxy() -> None:
    """Of any sort; its place is shown, and so is that of its password."""
    proxy = ("shipping.proxy=http://p:3128/", "shipping.proxy_basic_file=/keys/proxy")
    config = load({"downstreams": ("shipping=https://s", *proxy), "auth": "none"}, {})
    expected = Connection(url="https://s", proxy="http://p:3128", proxy_basic_file="/keys/proxy")
    assert expected == config.downstreams["shipping"]
    shown = {line.name: line.value for line in describe(config)}
    assert "http://p:3128" == shown["downstreams.shipping.proxy"]


def test_a_neighbour_has_the_names_that_it_had_before() -> None:
    """As text or as a list; a name stands for one neighbour, so that a token has one owner."""
    shop = ("order=http://o", "order.formerly=shop store")
    config = load({"upstreams": shop, "auth": "none"}, {})
    given = config.upstreams["order"]
    assert isinstance(given, Connection)
    assert ("shop", "store") == given.formerly
    for other in ({"upstreams": ("shop=http://s",)}, {"downstreams": ("shop=http://s",)}):
        taken = (
            {"upstreams": shop} | other
            if "downstreams" in other
            else {"upstreams": (*shop, *other["upstreams"])}
        )
        (found,) = problems(taken)
        assert "was 'shop' before" in found and "a name stands for one neighbour" in found
    (found,) = problems({"upstreams": ("order=http://o", "order.formerly=The Shop")})
    assert "'The'" in found
    (found,) = problems({"upstreams": ("order=http://o", "order.formerly=")})
    assert "give such as order shop" in found


def test_keys_as_other_programs_write_them_are_not_ignored() -> None:
    """The variable may name a credential: what it says must not be dropped with a warning."""
    (found,) = problems({}, {"STAGE_EXTERNALS__PSP__BEARER_FILE": "keys/psp"})
    assert "STAGE_EXTERNAL=NAME=URL,NAME.KEY=VALUE" in found


def test_a_step_and_an_api_have_a_policy() -> None:
    """Whole numbers, seconds and codes; from a table as from the environment."""
    config = load(
        {"auth": "none"},
        {
            "STAGE_STEP": "charge.attempts_max=2,charge.never_retry=500 503",
            "STAGE_EXTERNAL": "psp=http://psp:1,psp.key_lifetime_seconds=86400",
        },
    )
    assert {"charge": Policy(attempts_max=2, never_retry=(500, 503))} == config.steps
    psp = config.externals["psp"]
    assert isinstance(psp, Connection)
    assert Policy(key_lifetime_seconds=86_400.0) == psp.policy


@pytest.mark.parametrize("codes", ["", "5oo", "99", "500 600"])
def test_codes_that_are_none_are_refused(codes: str) -> None:
    """With what to give."""
    with pytest.raises(ConfigurationError, match="give "):
        load({"steps": {"charge.never_retry": codes}}, {})
