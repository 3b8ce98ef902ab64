"""Models of external APIs, and what is made up for a stage without any."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from types import SimpleNamespace
from typing import Literal

import msgspec
import pytest

from stage import Stage
from stage.core.errors import ConfigurationError
from stage.demo.model import Psp
from stage.demo.payment import payment
from stage.simulation import ApiModel, ApiRequest, UnkeyedApi
from stage.simulation.api import DENIALS, PendingApi
from stage.simulation.author import payload_of, scenario_of
from stage.simulation.books import Books
from stage.simulation.faults import KINDS, SELDOM, Faults, draw
from stage.simulation.loop import VirtualLoop
from stage.simulation.transcript import Transcript

DO, UNDO = "s-1:payment:charge:do", "s-1:payment:charge:undo"


World = tuple[Books, Faults]


@pytest.fixture
def world() -> Iterator[World]:
    """Books, and faults that never strike."""
    loop = VirtualLoop()
    yield Books(loop, Transcript()), Faults(rates={}, random=Random(0))
    loop.close()


def ask(model: ApiModel, method: str, path: str, key: str, body: bytes = b"") -> int:
    """The code of one answer."""
    return model.answer(ApiRequest(method=method, path=path, key=key, body=body)).status


def test_an_api_makes_an_effect_once_a_key_and_closes_what_is_undone(world: World) -> None:
    """Repeated: still one. Undone: none, and no late request makes another."""
    books, faults = world
    model = ApiModel("psp", books, faults)
    assert [404, 200, 200, 200] == [
        ask(model, "GET", "/", DO), ask(model, "POST", "/", DO),
        ask(model, "POST", "/", DO), ask(model, "GET", "/", DO),
    ]  # fmt: skip
    assert 1 == books.effects[DO].standing
    assert [200, 410] == [ask(model, "POST", "/undo", UNDO), ask(model, "POST", "/", DO)]
    assert (1, 0) == (books.effects[DO].made, books.effects[DO].standing)


class LooksUpElsewhere(ApiModel):
    look_up_path = "/look-ups"


def test_a_look_up_at_a_path_of_its_own_finds_nothing(world: World) -> None:
    """The engine's key is in each request, and no real API looks at it whatever the path is."""
    books, faults = world
    model = ApiModel("psp", books, faults)
    assert 200 == ask(model, "POST", "/charges", DO)
    paths = ("/charges", "/charges/by-key/1", "/charges?key=1", "/charge", "/", "/charges-of")
    assert [200, 200, 200, 404, 404, 404] == [ask(model, "GET", path, DO) for path in paths]
    other = LooksUpElsewhere("psp", books, faults)
    assert [404, 200] == [ask(other, "GET", path, DO) for path in ("/charges", "/look-ups/1")]


def test_a_pending_call_is_not_found_at_a_path_of_its_own_either(world: World) -> None:
    """A probe that asks there would settle a call in every simulated world, and none in ours."""
    books, faults = world
    model = PendingApi("psp", books, faults)
    assert ask(model, "POST", "/charges", DO) in (200, 202)
    assert [404, 404] == [ask(model, "GET", path, DO) for path in ("/charge", "/")]
    assert not model._looks
    assert ask(model, "GET", "/charges/1", DO) in (200, 202) and model._looks


@pytest.mark.parametrize("saga, end, standing", [("s-4", 200, 0), ("s-1", 409, 1)])
def test_an_undo_that_is_taken_on_ends_at_a_later_look(
    world: World, saga: str, end: int, standing: int
) -> None:
    """202 until its time is over, at the undo itself and below the path that it names."""
    books, _ = world
    do, undo = f"{saga}:payment:charge:do", f"{saga}:payment:charge:undo"
    faults = Faults(rates={"undo_accepted": 1.0}, random=Random(0))
    model, now = ApiModel("psp", books, faults), [0.0]
    model.clock = lambda: now[0]
    assert [404, 200] == [ask(model, "GET", "/undos/none", do), ask(model, "POST", "/", do)]
    assert [202, 202] == [ask(model, method, "/undo", undo) for method in ("POST", "POST")]
    look = f"/undos/{undo.replace(':', '%3A')}"
    assert 202 == ask(model, "GET", look, f"{undo}:2")
    assert 1 == books.effects[do].standing
    now[0] = 60.0
    assert [end, standing] == [ask(model, "GET", look, f"{undo}:2"), books.effects[do].standing]
    assert end == ask(model, "POST", "/undo", undo)


def test_an_undo_is_denied_behind_an_effect_that_stands_alone(world: World) -> None:
    """An undo of what was never made closes the key, as at any other API."""
    books, _ = world
    faults = Faults(rates={"undo_denied": 1.0}, random=Random(0))
    model = ApiModel("psp", books, faults)
    assert [200, 410] == [ask(model, "POST", "/undo", UNDO), ask(model, "POST", "/", DO)]
    assert not books.effects[DO].undo_refused
    other, undo = "s-2:payment:charge:do", "s-2:payment:charge:undo"
    assert [200, True] == [ask(model, "POST", "/", other), ask(model, "POST", "/", undo) in DENIALS]
    assert books.effects[other].standing and books.effects[other].undo_refused


def test_an_api_that_ignores_keys_makes_an_effect_each_time(world: World) -> None:
    """Two requests, two effects; undone together."""
    books, faults = world
    model = UnkeyedApi("bank", books, faults)
    for _ in range(2):
        assert 200 == ask(model, "POST", "/", DO)
    assert 2 == books.effects[DO].standing


def test_the_provider_of_the_demo_refunds_by_the_key_in_the_body(world: World) -> None:
    """Not by what our key says: so a refund that names another charge undoes nothing."""
    books, faults = world
    psp = Psp("psp", books, faults)
    assert 201 == ask(psp, "POST", "/charges", DO)
    wrong = msgspec.json.encode({"key": "s-2:payment:charge:do", "charge_id": "fx_000001"})
    assert 404 == ask(psp, "POST", "/refunds", UNDO, wrong)
    assert 1 == books.effects[DO].standing
    right = msgspec.json.encode({"key": DO, "charge_id": None})
    assert 200 == ask(psp, "POST", "/refunds", UNDO, right)
    assert 0 == books.effects[DO].standing


class Item(msgspec.Struct):
    """A part of a payload."""

    sku: str
    pieces: int


class Order(msgspec.Struct):
    """A payload with most of what a schema can say."""

    kind: Literal["a", "b"]
    items: list[Item]
    note: str | None = None
    price: float = 1.0
    urgent: bool = False


def test_payloads_are_made_up_from_the_types() -> None:
    """Each payload is accepted, and they differ."""
    stage: Stage[Order, None] = Stage("orders", accepts=Order)
    payload, random = payload_of(stage), Random(1)
    made = [payload(random) for _ in range(50)]
    for data in made:
        stage.accepts.from_data(data)
    assert {"a", "b"} == {data["kind"] for data in made}
    assert any(data["items"] for data in made)


def test_a_model_that_does_not_fit_is_refused_with_the_fix() -> None:
    """An API that is never called, a model of another class, a payload that is not accepted."""
    for module, message in (
        (SimpleNamespace(apis={"bank": ApiModel}), "never calls; it calls: psp"),
        (SimpleNamespace(apis={"psp": dict}), "derived from stage.simulation.ApiModel"),
        (SimpleNamespace(payload=lambda random: {}), "does not accept"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            scenario_of(payment, module, sagas=1)


def test_a_swarm_leaves_the_dice_as_they_fall() -> None:
    """A fault kind taken away or added changes nothing else of the seed."""
    plain = draw(Random(7), Random(7))
    spared = draw(Random(7), Random(7), without=frozenset({"crash"}))
    forced = draw(Random(7), Random(7), always=frozenset(KINDS))
    assert {kind: rate for kind, rate in plain.rates.items() if kind != "crash"} == spared.rates
    assert KINDS.keys() == forced.rates.keys() - SELDOM.keys()
    assert plain.random.random() == spared.random.random() == forced.random.random()
